"""The simulator as a whole: what is drawn, what a seed fixes, what must not tell the classes apart."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from training.data.manifest import read_manifest
from training.data.simulate import BONA_FIDE, SPECIES, Sample, Simulator, camera, compose, light
from training.data.simulate.draws import Draws, Value, column
from training.data.simulate.scene import TILE_SCALE, build_tiles, read_backgrounds
from training.data.work import make_simulator
from training.errors import DataError

SEED, N_DRAWN = 5, 4000
#: Range of every number that may be drawn, written down by hand; numbers of media further below.
COMMON = {
    "bona_fide": (0, 1), "picture": (0, 7), "background": (0, 2),
    "light_angle": (-3.1416, 3.1416), "light_gradient": (0, 0.7), "light_offset": (-0.6, 0.6),
    "light_kelvin": (2800, 8000), "light_mix": (0, 0.6), "light_mix_kelvin": (2600, 9500),
    "exposure_target": (0.04, 0.42), "awb_strength": (0, 0.35), "awb_red": (0.82, 1.18), "awb_blue": (0.82, 1.18),
    "awb_residue": (0, 0.3),
    "flare_red": (0.9, 1.11), "flare_blue": (0.9, 1.11),
    "surrounding_light": (0.4, 5), "flare": (0, 0.55), "flare_angle": (-3.1416, 3.1416), "flare_slope": (0, 0.8),
    "vignette": (0, 0.3), "aberration": (-0.006, 0.006), "lens_blur": (0.2, 1.6), "defocus": (0, 1.2),
    "native_ratio": (1, 12), "native_lens": (0.2, 0.6),
    "motion": (0, 11), "motion_angle": (0, 3.1416), "shot_noise": (1e-5, 1e-2), "read_noise": (1e-4, 2e-2),
    "denoise": (0, 1.5), "chroma_denoise": (0, 1.8), "camera_saturation": (0.4, 1.4), "tone_gamma": (0.7, 1.3),
    "auto_black": (0, 1), "auto_white": (0, 0.8), "tone_contrast": (-0.2, 0.6),
    "sharpen": (0, 1.3), "small": (0, 3.6), "jpeg_quality": (25, 97),
    "jpeg_twice": (0, 1), "jpeg_second_quality": (40, 97), "h264": (0, 1), "h264_qp": (18, 40),
    "cut": (0, 1), "cut_tight": (0, 1),
    "cut_left": (0, 0.31), "cut_top": (0, 0.27), "cut_right": (0, 0.31), "cut_bottom": (0, 0.27),
    "view_roll": (-0.3, 0.3), "view_zoom": (0.9, 1.12), "view_x": (-0.05, 0.05), "view_y": (-0.05, 0.05),
    "view_tilt_x": (-0.33, 0.33), "view_tilt_y": (-0.33, 0.33), "view_mirror": (0, 1),
}  # fmt: skip
LIVE = {
    "clutter": (0, 0.9), "clutter_x": (0.85, 1.7), "clutter_y": (-1.6, 1.6), "clutter_width": (0.08, 0.9),
    "clutter_height": (0.3, 3), "clutter_left": (0, 1), "clutter_soft": (1, 8),
    "frame_soft": (1, 6), "lens_softness": (0, 1.3),
    "frame": (0, 1), "frame_x": (0.85, 1.5), "frame_y": (-1.2, 1.2), "frame_width": (0.3, 1.2),
    "frame_aspect": (0.56, 1.5), "frame_rim": (0.02, 0.2), "frame_rim_level": (0.006, 0.7), "frame_left": (0, 1),
    "room_level": (0.06, 1.6), "room_zoom": (0.4, 1), "room_x": (-0.5, 0.5), "room_y": (-0.5, 0.5),
    "room_blur": (0, 3),
}  # fmt: skip
MEDIUM = {
    "capture_blur": (0, 1.6), "capture_gamma": (0.85, 1.2), "capture_saturation": (0.8, 1.3),
    "capture_small": (0, 3.5), "capture_contrast": (0, 1), "capture_sharpen": (0, 0.9), "capture_quality": (25, 95),
    "capture_h264": (0, 1), "capture_qp": (20, 41),
    "edge_visible": (0, 1), "edge_hidden": (0, 1), "edge_size": (1, 5), "edge_aspect": (0.45, 2.2),
    "edge_close": (3, 3.1), "edge_place_x": (-0.7, 0.7), "edge_place_y": (-0.7, 0.7), "edge_width": (1, 5),
    "edge_height": (1.05, 4.5), "edge_x": (-2.8, 2.8), "edge_y": (-2.45, 2.45), "rim": (0, 0.35),
    "room_level": (0.06, 1.6), "room_zoom": (0.4, 1), "room_x": (-0.5, 0.5),
    "room_y": (-0.5, 0.5), "room_blur": (0, 3), "finger": (0, 0.28), "finger_place": (-0.8, 0.8),
    "finger_reach": (0.05, 0.45), "finger_tone": (0.08, 0.6), "finger_count": (1, 4),
    "finger_fan": (-0.3, 0.3), "finger_uneven": (0.2, 0.9),
    "finger_light": (-0.8, 0.8), "controls": (0, 0.9), "controls_height": (0.04, 0.14),
    "glare": (0, 0.25), "glare_x": (-1.1, 1.1), "glare_y": (-1.1, 1.1), "glare_size": (0.12, 1.2),
    "glare_stretch": (0.4, 2.5), "room_reflection": (0, 0.12),
    "lamp": (0, 4), "lamp_x": (-0.8, 0.8), "lamp_y": (-0.8, 0.8), "lamp_size": (0.02, 0.12),
}  # fmt: skip
REPLAY = {
    "display_gamma": (0.9, 1.6), "display_saturation": (0.85, 1.5), "display_kelvin": (4300, 10500),
    "display_adaptation": (0, 1), "display_metering": (0.4, 2.5), "play_button": (0, 0.9), "play_x": (-0.8, 0.8),
    "play_y": (-0.6, 1.2), "play_radius": (0.12, 0.4), "play_tone": (0.15, 1),
    "status_bar": (0, 1), "status_bar_height": (0.025, 0.08), "status_bar_tone": (0, 1),
    "status_bar_marks": (0.1, 0.45), "notch": (0, 0.5), "notch_height": (0.02, 0.045), "pointer": (0, 0.22),
    "pointer_x": (-1.4, 1.4), "pointer_y": (-1.4, 1.4), "call": (0, 1), "call_size": (0.045, 0.09),
    "call_height": (0.08, 0.2), "inset": (0, 0.36), "inset_wanted": (0, 0.36), "inset_level": (0.25, 1),
    "display_black": (0.0003, 0.015), "display_over": (0, 1.2), "display_face_px": (160, 1200),
    "display_fill": (0.55, 0.95), "display_phase": (0, 6.2832), "display_banding": (0, 0.1),
    "screen_gradient": (0, 0.6),
    "display_band_period": (0.15, 1.5), "display_band_phase": (0, 6.2832),
}  # fmt: skip
#: Without meshes there are no holes.
PRINT = {
    "print_floor": (0.002, 0.045), "print_white": (0.45, 0.95), "print_saturation": (0.5, 1.4),
    "print_gamma": (0.9, 1.55), "print_lines": (35, 1200), "print_screen": (0.2, 0.9), "print_phase": (0, 6.2832),
    "print_dots": (150, 3000), "print_grain": (0.2, 0.9),
    "print_grey": (0, 1), "print_red": (0.92, 1.15), "print_blue": (0.85, 1.12), "paper_noise": (0.003, 0.04),
    "print_banding": (0, 0.08), "print_band_period": (0.02, 0.2), "bend": (-0.9, 0.9), "bend_angle": (-0.5, 0.5),
    "contour": (0, 0.25), "contour_hair": (0.1, 0.5), "contour_neck": (0, 0.6), "contour_waves": (0.004, 0.025),
    "contour_paper": (0, 0.08), "holes": (0, 0), "holes_height": (0.5, 1.1), "holes_mouth": (0, 1.2),
    "holes_rim": (0, 0.012), "holes_shadow": (0.15, 0.65), "holder_x": (-0.02, 0.02), "holder_y": (-0.02, 0.02),
    "holder_roll": (-0.09, 0.09), "holder_zoom": (0.93, 1.07),
    "crease": (-0.25, 0.25), "crease_place": (-0.9, 0.9),
}  # fmt: skip
#: What only dots in lines have, and what only scattered ones have.
LINES, SCATTER = {"print_lines", "print_screen", "print_phase"}, {"print_dots", "print_grain"}
WORDS = {
    "species": {"replay", "print"}, "source": {"studio", "office"}, "sensor_px": {"192", "240"},
    "camera": {"webcam_480p", "webcam_1080p", "phone_front", "phone_back", "kiosk", "low_light"},
    "subtype": {name for species in SPECIES.values() for name in species.subtypes},
    "display_layout": {"stripe", "pentile"}, "bezel": {"black", "dark", "white", "silver"},
    "inset_corner": {"upper_left", "upper_right", "lower_left", "lower_right"},
    "finger_side": {"left", "right", "bottom"}, "edge_form": {"0", "1"}, "print_halftone": {"am", "fm"},
}  # fmt: skip


@pytest.fixture(scope="module")
def simulator(face_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Simulator:
    return make_simulator(face_pack, tmp_path_factory.mktemp("tiles"), "train", SEED)


@pytest.fixture(scope="module")
def drawn(simulator: Simulator) -> list[dict[str, Value]]:
    return [simulator.draw(i).values for i in range(N_DRAWN)]


@pytest.fixture(scope="module")
def batch(simulator: Simulator) -> list[Sample]:
    return simulator.samples(range(15))


def species_of(values: dict[str, Value]) -> str:
    return BONA_FIDE if values["bona_fide"] else str(values["species"])


def same(a: Sample, b: Sample) -> bool:
    return np.array_equal(a.picture, b.picture) and a.box_xyxy == b.box_xyxy and a.params == b.params


def test_a_sample_is_the_same_alone_in_another_batch_in_another_order_and_from_another_simulator(
    simulator: Simulator, batch: list[Sample], face_pack: Path, tmp_path: Path
) -> None:
    """The batch has every species on every sensor; alone and in fours the groups that are computed together differ."""
    assert len({(s.species, s.params["sensor_px"]) for s in batch}) == 6
    again = make_simulator(face_pack, tmp_path, "train", SEED)
    for i in (0, 1, 2, 4, 6, 14):  # one of each
        assert same(again.samples([i])[0], batch[i]), i
    order = list(range(14, -1, -1))
    for start in range(0, 15, 4):
        for i, sample in zip(order[start : start + 4], simulator.samples(order[start : start + 4]), strict=True):
            assert same(sample, batch[i]), i


def test_pictures_are_computed_on_one_thread_whatever_torch_is_set_to(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sum of a lone picture is split among threads, so that its last bit depends on their number."""
    seen = []
    capture = camera.capture
    monkeypatch.setattr(camera, "capture", lambda *a: (seen.append(torch.get_num_threads()), capture(*a))[1])
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        simulator.samples([0])
        assert (seen, torch.get_num_threads()) == ([1], 3)
    finally:
        torch.set_num_threads(before)


def test_another_seed_gives_another_picture(batch: list[Sample], face_pack: Path, tmp_path: Path) -> None:
    other = make_simulator(face_pack, tmp_path, "train", SEED + 1).samples([0])[0]
    assert other.params != batch[0].params
    assert not np.array_equal(other.picture, batch[0].picture)


def test_a_sample_says_what_it_is(simulator: Simulator, batch: list[Sample]) -> None:
    for sample in batch:
        assert (sample.picture.dtype, sample.picture.shape) == (np.uint8, (192, 192, 3))
        assert sample.label == int(sample.species == BONA_FIDE) == sample.params["bona_fide"]
        assert sample.subtype in (SPECIES[sample.species].subtypes if sample.label == 0 else (BONA_FIDE,))
        assert simulator.pictures[sample.source].source == sample.params["source"]
        x1, y1, x2, y2 = sample.box_xyxy
        assert x2 - x1 == pytest.approx(y2 - y1)
        assert 0 < x1 < x2 < 192
        assert 0 < y1 < y2 < 192


def test_everything_drawn_lies_in_its_range_and_nothing_is_drawn_that_has_none(drawn: list[dict[str, Value]]) -> None:
    ranges = {
        BONA_FIDE: COMMON | LIVE,
        "replay": COMMON | MEDIUM | REPLAY,
        "print": COMMON | MEDIUM | PRINT,
    }
    for values in drawn:
        allowed = ranges[species_of(values)]
        numbers = {name: value for name, value in values.items() if name not in WORDS}
        absent = {"am": SCATTER, "fm": LINES}.get(str(values.get("print_halftone")), set())
        assert numbers.keys() == allowed.keys() - absent
        for name, value in numbers.items():
            low, high = allowed[name]
            assert low - 1e-9 <= float(value) <= high + 1e-9, (name, value)
        assert all(value in WORDS[name] for name, value in values.items() if name in WORDS)


def test_ranges_are_used_to_their_ends(drawn: list[dict[str, Value]]) -> None:
    """A range that is half as wide as written down would pass the test of the bounds."""
    for name, (low, high) in (COMMON | LIVE | MEDIUM | REPLAY | PRINT).items():
        values = [float(v[name]) for v in drawn if name in v]
        width = 0.15 * (high - low)
        # Normal, or the product of several draws: the ends are rare.
        if name not in {"view_roll", "view_tilt_x", "view_tilt_y", "edge_x", "edge_y"}:
            assert min(values) <= low + width, name
            assert max(values) >= high - width, name


def test_species_and_sources_are_drawn_as_often_as_intended(drawn: list[dict[str, Value]]) -> None:
    count = Counter(species_of(values) for values in drawn)
    for name, share in ((BONA_FIDE, 0.5), ("replay", 0.25), ("print", 0.25)):
        # Four standard deviations of a binomial.
        assert abs(count[name] - share * N_DRAWN) < 4 * math.sqrt(N_DRAWN * share * (1 - share))
    kinds = {(species_of(v), v.get("subtype")) for v in drawn}
    assert len(kinds) == 9


def test_the_camera_the_light_and_the_frame_are_drawn_alike_for_both_classes(drawn: list[dict[str, Value]]) -> None:
    """Kolmogorov-Smirnov on every shared number; only the tilt is meant to differ, as media are held askew."""
    d = Draws(0, 0)
    camera.draw_camera(d)
    light.draw_room_light(d)
    compose.draw_truncation(d)
    live = [v for v in drawn if v["bona_fide"]]
    attacks = [v for v in drawn if not v["bona_fide"]]
    shared = set(COMMON) - {"bona_fide", "view_tilt_x", "view_tilt_y"}
    assert set(d.values) <= shared | {"camera"}
    for name in sorted(shared):
        found = stats.ks_2samp([float(v[name]) for v in live], [float(v[name]) for v in attacks])
        assert found.pvalue > 0.001 / len(shared), name
    for name in ("source", "sensor_px", "camera"):
        table = [Counter(v[name] for v in group) for group in (live, attacks)]
        words = sorted(table[0])
        assert stats.chi2_contingency([[row[w] for w in words] for row in table]).pvalue > 1e-4, name
    # The test can fail: it sees the difference that is there.
    tilts = [[abs(float(v["view_tilt_x"])) for v in group] for group in (live, attacks)]
    assert stats.ks_2samp(*tilts).pvalue < 1e-10


#: Half widths and heights of media in halves of the face box, by kind, written down by hand: each form a
#: (width low, width high, height over width low, height over width high). Lying media are 1.05 high at least.
MEDIA = {
    "phone": ((1.0, 1.9, 1.6, 2.2), (2.0, 4.0, 0.45, 0.5625)),
    "tablet": ((1.1, 2.5, 1.33, 1.33), (1.4, 2.5, 0.75, 0.75)),
    "laptop": ((1.8, 4.5, 10 / 16, 10 / 16),), "monitor": ((2.0, 5.0, 9 / 16, 9 / 16),),
    "laser": ((1.1, 2.2, 1.41, 1.41), (1.0, 1.3, 1.05, 1.41)),
    "inkjet": ((1.1, 2.2, 1.41, 1.41), (1.0, 1.3, 1.05, 1.41)),
    "photo_paper": ((1.2, 2.5, 1.5, 1.5), (1.57, 2.5, 0.667, 0.667)), "newsprint": ((1.2, 3.0, 1.0, 1.5),),
}  # fmt: skip


def test_media_have_the_sizes_of_their_kind_or_fill_the_picture(drawn: list[dict[str, Value]]) -> None:
    attacks = [v for v in drawn if not v["bona_fide"]]
    for v in attacks:
        width, height = float(v["edge_width"]), float(v["edge_height"])
        if v["edge_hidden"]:
            assert 3.0 <= width == height <= 3.1
        else:
            forms = MEDIA[str(v["subtype"])]
            inside = [a - 1e-6 <= width <= b + 1e-6 and c - 1e-6 <= height / width <= d + 1e-6 for a, b, c, d in forms]
            assert any(inside), (v["subtype"], width, height)
            assert height >= 1.05 - 1e-6
    hidden = sum(int(v["edge_hidden"]) for v in attacks)
    assert abs(hidden - 0.3 * len(attacks)) < 4 * math.sqrt(len(attacks) * 0.3 * 0.7)


def test_the_face_lies_on_the_medium_and_edges_near_it_are_on_record(drawn: list[dict[str, Value]]) -> None:
    """Brute force: points round the medium's edge, and whether one lies in the square of 1.8 face boxes."""
    t = np.linspace(-1, 1, 401)
    one = np.ones_like(t)
    outline = np.concatenate([np.stack(p, 1) for p in ((t, one), (t, -one), (one, t), (-one, t))])
    seen = set()
    for v in (v for v in drawn if not v["bona_fide"]):
        half, centre = (np.array([float(v[f"edge_{a}"]) for a in names]) for names in (("width", "height"), "xy"))
        assert (np.abs(centre) + 1 <= half + 1e-6).all()
        near = bool((np.abs(outline * half + centre) < 1.8).all(1).any())
        near |= float(v.get("contour", 0)) > 0
        assert int(near) == v["edge_visible"]
        assert near or not v["finger"]
        seen.add(near)
    assert seen == {True, False}


def test_the_native_sensor_changes_attacks_with_fine_patterns_and_no_living_person(simulator: Simulator) -> None:
    for bona_fide in (True, False):
        index = next(
            i for i in range(100) if species_of(simulator.draw(i).values) == (BONA_FIDE if bona_fide else "replay")
        )
        pictures = []
        for ratio in (2.0, 3.0):
            d = simulator.draw(index)
            d.values |= {"native_ratio": ratio, "native_lens": 0.3, "lens_blur": 0.3, "defocus": 0.0, "motion": 0.0}
            d.values |= {} if bona_fide else {"display_face_px": 120.0}
            pictures.append(simulator.render([d])[0].picture)
        assert np.array_equal(*pictures) == bona_fide


def test_some_living_people_have_a_room_in_a_frame_beside_them(
    simulator: Simulator, drawn: list[dict[str, Value]]
) -> None:
    live = [v for v in drawn if v["bona_fide"]]
    framed = sum(int(v["frame"]) for v in live)
    assert abs(framed - 0.15 * len(live)) < 4 * math.sqrt(len(live) * 0.15 * 0.85)
    index = next(i for i in range(100) if simulator.draw(i).values["bona_fide"])
    pictures = []
    for background in (0, 1, 2):
        d = simulator.draw(index)
        d.values |= {"frame": 1, "frame_left": 0, "background": background, "frame_width": 1.2, "frame_x": 1.0}
        # Nothing else that depends on the whole picture, and no cut that repeats the frame.
        d.values |= {"view_roll": 0.0, "view_mirror": 0, "small": 0.0, "flare": 0.0, "cut_right": 0.0, "cut_left": 0.0}
        d.values |= {"view_x": 0.0, "view_y": 0.0, "frame_y": 0.0}
        pictures.append(simulator.render([d])[0].picture.astype(int))
    for other in pictures[1:]:
        changed = np.abs(other - pictures[0]).mean((0, 2))
        assert changed[160:].mean() > 8
        assert changed[:96].max() < 3  # the half of the picture without the frame


class Watched(dict[str, Value]):
    """Parameters that remember which of them were looked at."""

    def __init__(self, values: dict[str, Value]) -> None:
        super().__init__(values)
        self.read: set[str] = set()

    def get(self, name: str, default: object = None) -> object:  # type: ignore[override]
        self.read.add(name)
        return super().get(name, default)

    def __getitem__(self, name: str) -> Value:
        self.read.add(name)
        return super().__getitem__(name)


def test_every_parameter_that_is_drawn_is_used_and_every_one_that_is_used_is_drawn(simulator: Simulator) -> None:
    """A misspelt name would silently give the default for ever."""
    all_drawn: set[str] = set()
    all_read: set[str] = set()
    framed = next(i for i in range(100) if simulator.draw(i).values.get("frame"))
    for i in (*range(8), framed):
        d = simulator.draw(i)
        watched = d.values = Watched(d.values)
        simulator.render([d])
        # Chances that only steer later draws, and the names of things.
        steering = {
            "cut",
            "cut_tight",
            "camera",
            "source",
            "subtype",
            "edge_visible",
            "edge_hidden",
            "edge_form",
            "edge_size",
            "edge_aspect",
        }
        steering |= {"edge_close", "edge_place_x", "edge_place_y"}
        # A place and a size that only a button has; the camera of both classes has the others, but nothing fine enough
        # stands before a living person's.
        steering |= set() if d.values.get("play_button") else {name for name in watched if name.startswith("play_")}
        # What is not there has no place and no size either.
        parts = ("glare", "lamp", "flare", "clutter", "controls", "finger", "crease", "contour", "holes")
        for part in (*parts, "status_bar", "notch", "pointer", "call", "inset"):
            steering |= set() if d.values.get(part) else {name for name in watched if name.startswith(f"{part}_")}
        steering |= set() if d.values.get("holes") else {name for name in watched if name.startswith("holder_")}
        steering |= {"inset_wanted"}
        if d.values["bona_fide"]:
            steering |= {"native_ratio", "native_lens"}
            hung = {"background"} | {name for name in watched if name.startswith(("frame_", "room_"))}
            steering |= set() if d.values["frame"] else hung
        # A frame of a video is no JPEG, and a JPEG no frame of a video.
        steering |= {"jpeg_quality"} if d.values["h264"] else {"h264_qp"}
        steering |= set() if d.values.get("capture_h264") else {"capture_qp"}
        assert set(watched) - watched.read <= steering | {"background", "jpeg_second_quality"}, species_of(d.values)
        all_drawn |= set(watched)
        all_read |= watched.read
    # Recorded where it is not the default.
    assert all_read <= all_drawn | {"species", "canvas_scale"}


def test_a_parameter_cannot_be_drawn_twice() -> None:
    d = Draws(1, 2)
    d.uniform("zoom", 0, 1)
    with pytest.raises(ValueError, match="'zoom' drawn twice"):
        d.chance("zoom", 0.5)


def test_draws_follow_their_names() -> None:
    values: dict[str, list[float]] = {"log": [], "some": [], "normal": [], "whole": []}
    for i in range(2000):
        d = Draws(3, i)
        values["log"].append(d.loguniform("log", 0.01, 100))
        values["some"].append(d.sometimes("some", 0.3, 2, 4))
        values["normal"].append(d.normal("normal", 5, 2))
        values["whole"].append(d.integer("whole", 2, 5))
        assert list(d.values.values()) == [v[-1] for v in values.values()]
    assert stats.kstest(np.log10(values["log"]), stats.uniform(-2, 4).cdf).pvalue > 1e-3
    on = [v for v in values["some"] if v]
    assert abs(len(on) / 2000 - 0.3) < 0.05
    assert (min(on) >= 2, max(on) <= 4) == (True, True)
    assert np.mean(values["normal"]) == pytest.approx(5, abs=0.2)
    assert np.std(values["normal"]) == pytest.approx(2, abs=0.15)
    assert max(abs(v - 5) for v in values["normal"]) <= 6
    assert set(values["whole"]) == {2, 3, 4}


def test_a_column_has_the_default_where_nothing_was_drawn() -> None:
    one, two = Draws(0, 0), Draws(0, 1)
    value = one.uniform("bend", 1, 2)
    np.testing.assert_allclose(column([one, two], "bend", 0.5).flatten().numpy(), [value, 0.5], rtol=1e-6)


def test_the_camera_meters_both_classes_to_the_same_target(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brightness cannot tell the classes apart by construction: seen on the middle half, before noise and tone."""
    found: list[tuple[float, float, bool]] = []
    image = camera.image

    def spy(exposed: torch.Tensor, draws: list[Draws]) -> torch.Tensor:
        quarter = exposed.shape[-1] // 4
        middle = exposed.numpy()[:, :, quarter:-quarter, quarter:-quarter].astype(np.float64).mean((2, 3))
        for rgb, d in zip(middle, draws, strict=True):
            level = 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2]
            found.append((level, float(d.values["exposure_target"]), bool(d.values["bona_fide"])))
        return image(exposed, draws)

    monkeypatch.setattr(camera, "image", spy)
    draws = [simulator.draw(i) for i in range(3)]
    for d in draws:
        d.values |= {"vignette": 0.0, "flare": 0.0, "display_metering": 1.0}
    simulator.render(draws)
    assert len({bona_fide for _, _, bona_fide in found}) == 2
    np.testing.assert_allclose([level for level, _, _ in found], [target for _, target, _ in found], rtol=1e-4)


def test_a_simulator_with_nothing_to_draw_from_is_refused(face_pack: Path, tmp_path: Path) -> None:
    pictures = read_manifest(face_pack, ["dev"])
    tiles = build_tiles(pictures, tmp_path / "tiles.npy")
    rooms = read_backgrounds(face_pack)
    for arguments in (([], tiles[:0], rooms), (pictures[1:], tiles, rooms), (pictures, tiles, rooms[:0])):
        with pytest.raises(DataError, match="a tile per picture and a background"):
            Simulator(*arguments, seed=0)


def test_tiles_show_the_face_in_the_middle_and_are_cut_again_when_pictures_change(
    face_pack: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "tiles.npy"
    train, dev = read_manifest(face_pack, ["train"]), read_manifest(face_pack, ["dev"])
    first = np.array(build_tiles(train, cache, tile_px=56))
    assert (first.dtype, first.shape) == (np.uint8, (len(train), 56, 56, 3))
    # The nose tip is drawn at the middle of the box; the tile is centred there.
    picture = train[0]
    rgb, (x, y) = picture.read(), picture.box.center
    half = round(picture.box.width / 56 * TILE_SCALE)
    around = rgb[round(y) - half : round(y) + half, round(x) - half : round(x) + half].reshape(-1, 3).mean(0)
    np.testing.assert_allclose(first[0, 27:29, 27:29].reshape(-1, 3).mean(0), around, atol=12)
    stamp = cache.stat().st_mtime_ns
    build_tiles(train, cache, tile_px=56)
    assert cache.stat().st_mtime_ns == stamp
    assert len(train) == len(dev)
    assert not np.array_equal(build_tiles(dev, cache, tile_px=56), first)


def test_a_pack_without_rooms_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pictures"):
        read_backgrounds(tmp_path)
    (tmp_path / "backgrounds").mkdir()
    (tmp_path / "backgrounds" / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"a\.jpg: not a picture"):
        read_backgrounds(tmp_path)
