"""Pictures of other sides and wider canvases: the same scene, seen more finely or with more round the face."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fasedge.preprocess import InputSpec
from fasedge.types import UInt8Array
from tests.training.test_simulate_physics import parameters
from tests.training.test_training_cli import CONFIG, run
from training.data.making import make_set
from training.data.manifest import read_manifest
from training.data.samples import SampleSet
from training.data.shard_reader import read_shards
from training.data.shards import make_shards
from training.data.simulate import Simulator, camera, compose
from training.data.simulate.draws import Value
from training.data.simulate.operators import switch_off
from training.data.simulate.simulator import sensors_for
from training.data.stream import SimulatedStream
from training.data.table import SIMULATOR_VERSION
from training.data.work import Recipe, make_simulator, tile_px_for
from training.errors import DataError

SEED, SPLIT = 6, "dev"
#: Sides and canvases, and the sensors and tile that belong to each side, worked out by hand.
SIZES = {128: ({"128", "160"}, 214), 192: ({"192", "240"}, 320), 256: ({"256", "320"}, 426), 512: ({"512", "640"}, 640)}
CANVASES = (2.0, 2.3, 2.6)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiles")


def without_view(values: dict[str, Value], *names: str) -> dict[str, Value]:
    return {name: value for name, value in values.items() if name not in {"sensor_px", "canvas_scale", *names}}


@pytest.mark.parametrize("picture_px", SIZES)
def test_sensors_and_tiles_grow_with_the_picture(picture_px: int) -> None:
    sensors, tile_px = SIZES[picture_px]
    assert sensors_for(picture_px) == {min(sensors, key=int): 0.7, max(sensors, key=int): 0.3}
    assert tile_px_for(picture_px) == tile_px


def test_any_side_has_even_sensors_and_tiles() -> None:
    for picture_px in range(128, 513):
        one, more = (int(px) for px in sensors_for(picture_px))
        assert one % 2 == more % 2 == tile_px_for(picture_px) % 2 == 0
        assert abs(one - picture_px) <= 1
        assert abs(more - 1.25 * picture_px) <= 1


def test_tiles_of_every_side_have_a_file_of_their_own(face_pack: Path, tmp_path: Path) -> None:
    for picture_px in (192, 256):
        make_simulator(face_pack, tmp_path, SPLIT, SEED, picture_px=picture_px)
    shapes = {path.name: np.load(path, mmap_mode="r").shape[1] for path in tmp_path.glob("tiles_*.npy")}
    assert shapes == {"tiles_dev.npy": 320, "tiles_dev_426.npy": 426}


def test_the_same_parameters_are_drawn_for_every_side_and_canvas(face_pack: Path, cache: Path) -> None:
    """Sensors scale; of media only what says which edges a wider canvas shows, and how close hides them, follows."""
    plain = make_simulator(face_pack, cache, SPLIT, SEED, depth=True)
    large = make_simulator(face_pack, cache, SPLIT, SEED, depth=True, picture_px=256)
    wide = make_simulator(face_pack, cache, SPLIT, SEED, depth=True, canvas_scale=2.6)
    follows = ("edge_visible", "edge_width", "edge_height", "edge_x", "edge_y", "finger")
    for i in range(60):
        values = plain.draw(i).values
        assert "canvas_scale" not in values
        assert without_view(large.draw(i).values) == without_view(values)
        assert int(large.draw(i).values["sensor_px"]) * 3 == int(values["sensor_px"]) * 4
        seen = wide.draw(i).values
        assert seen["canvas_scale"] == 2.6
        assert without_view(seen, *follows) == without_view(values, *follows)
        if values.get("edge_hidden"):
            assert float(seen["edge_width"]) == pytest.approx(1.3 * float(values["edge_width"]))
        elif "edge_width" in values:
            assert (seen["edge_width"], seen["edge_x"]) == (values["edge_width"], values["edge_x"])


@pytest.mark.parametrize("canvas", CANVASES)
@pytest.mark.parametrize("picture_px", [128, 192, 256])
def test_the_face_box_is_the_share_of_the_picture_that_the_canvas_says(
    face_pack: Path, cache: Path, picture_px: int, canvas: float
) -> None:
    """A level, unmoved face of nominal size: 1/canvas of the side, in the middle; noise-free zoom z: z times less."""
    simulator = make_simulator(face_pack, cache, SPLIT, SEED, picture_px=picture_px, canvas_scale=canvas)
    for zoom in (1.0, 1.1):
        d = simulator.draw(next(i for i in range(40) if simulator.draw(i).values["bona_fide"]))
        d.values |= dict.fromkeys(("view_roll", "view_x", "view_y", "view_tilt_x", "view_tilt_y"), 0.0)
        d.values["view_zoom"] = zoom
        (sample,) = simulator.render([d])
        assert sample.picture.shape == (picture_px, picture_px, 3)
        half = picture_px / canvas / zoom / 2
        middle = picture_px / 2
        assert sample.box_xyxy == pytest.approx((middle - half,) * 2 + (middle + half,) * 2, abs=1e-3)


@pytest.mark.parametrize(("picture_px", "canvas"), [(192, 2.0), (256, 2.0), (192, 2.6), (160, 2.3)])
def test_what_lies_at_the_corners_of_the_face_box_is_seen_there(
    face_pack: Path, picture_px: int, canvas: float
) -> None:
    """A tile that is white in the face box and black round it; how wide the white is, counted in the picture."""
    pictures = read_manifest(face_pack, [SPLIT])
    tile = np.zeros((320, 320, 3), np.uint8)
    reach = round(160 / 2.8)
    tile[160 - reach : 160 + reach, 160 - reach : 160 + reach] = 255
    tiles = np.repeat(tile[None], len(pictures), 0)
    rooms = np.full((1, 32, 32, 3), 90, np.uint8)
    simulator = Simulator(pictures, tiles, rooms, seed=SEED, bona_fide_share=1.0, picture_px=picture_px,
                          canvas_scale=canvas)  # fmt: skip
    d = switch_off(simulator.draw(3), "tilt", "clutter", "frame", "truncation", "motion", "noise", "flare",
                   "light_gradient", "vignette")  # fmt: skip
    d.values |= {"view_roll": 0.0, "view_x": 0.03}
    (sample,) = simulator.render([d])
    grey = sample.picture.mean(2)
    x1, y1, x2, y2 = sample.box_xyxy
    white = grey > (grey.max() + grey.min()) / 2
    columns, rows = np.flatnonzero(white.any(0)), np.flatnonzero(white.any(1))
    found = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    assert found == pytest.approx((x1, y1, x2, y2), abs=2.0)


def test_cuts_stay_at_their_place_on_the_face() -> None:
    """A cut 0.798 face boxes left of the middle: 52.5 of 520 pixels where they are 2 boxes, 100.4 where 2.6."""
    ramp = torch.arange(520).remainder(256).to(torch.uint8).view(1, 1, 520, 1).expand(1, 520, 520, 3).contiguous()
    cuts = {"cut_left": 0.101, "cut_top": 0.0, "cut_right": 0.0, "cut_bottom": 0.0}
    wide, plain = parameters(**cuts, canvas_scale=2.6), parameters(**cuts)
    for d, left in ((wide, 100), (plain, 52)):
        row = compose.truncate(ramp, [d])[0, 0, :, 0].tolist()
        assert row[: left + 1] == [left] * (left + 1)
        assert row[left:] == ramp[0, 0, left:, 0].tolist()


def test_exposure_is_metered_on_the_face_however_wide_the_canvas() -> None:
    """The middle face box of a canvas 2.6 wide is 200 of 520 pixels; what lies beyond it does not count."""
    light = torch.full((1, 3, 520, 520), 5.0)
    light[..., 160:360, 160:360] = 0.25
    quiet = {"exposure_target": 0.2, "vignette": 0.0, "flare": 0.0, "awb_strength": 0.0}
    wide = camera.expose(light, [parameters(**quiet, canvas_scale=2.6)])
    assert wide[0, 1, 260, 260].item() == pytest.approx(0.2, rel=1e-4)
    assert camera.expose(light, [parameters(**quiet)])[0, 1, 260, 260].item() < 0.1


def test_a_switched_off_edge_stays_out_of_a_wide_canvas(face_pack: Path, cache: Path) -> None:
    simulator = make_simulator(face_pack, cache, SPLIT, SEED, canvas_scale=2.6)
    draws = [simulator.draw(i) for i in range(60)]
    attacks = [d for d in draws if not d.values["bona_fide"] and d.values["edge_visible"]]
    assert attacks
    for d in (switch_off(d, "visible_edge") for d in attacks):
        assert min(float(d.values["edge_width"]) - abs(float(d.values[f"edge_{a}"])) for a in "xy") > 2.6


def detailed_tile(side: int) -> UInt8Array:
    """Stripes of 100 periods over a tile, finer than a canvas of 192 px can show; drawn at any side."""
    x = (np.arange(side) + 0.5) / side
    wave = np.sin(2 * np.pi * 100 * x)[None] * np.sin(2 * np.pi * 100 * x)[:, None]
    return np.repeat((128 + 90 * wave)[..., None], 3, 2).astype(np.uint8)


def fine_energy(picture: UInt8Array) -> float:
    """Energy of a picture, brought to 512 px, from 30 to 70 cycles over its middle half: the stripes have about 36."""
    large = cv2.resize(picture, (512, 512), interpolation=cv2.INTER_CUBIC).astype(np.float64).mean(2)
    middle = large[128:384, 128:384]
    window = np.outer(np.hanning(256), np.hanning(256))
    spectrum = np.abs(np.fft.fft2((middle - middle.mean()) * window)) ** 2
    f = np.abs(np.fft.fftfreq(256) * 256)
    radius = np.hypot(f[:, None], f[None])
    return float(spectrum[(radius > 30) & (radius < 70)].sum())


def test_a_larger_picture_shows_finer_things(face_pack: Path) -> None:
    pictures = read_manifest(face_pack, [SPLIT])
    rooms = np.full((1, 32, 32, 3), 90, np.uint8)
    energy = {}
    for picture_px in (192, 256):
        tiles = np.repeat(detailed_tile(tile_px_for(picture_px))[None], len(pictures), 0)
        simulator = Simulator(pictures, tiles, rooms, seed=SEED, bona_fide_share=1.0, picture_px=picture_px)
        quiet = [switch_off(simulator.draw(i), "noise", "clutter", "frame", "truncation", "jpeg", "jpeg_twice", "small")
                 for i in range(8)]  # fmt: skip
        energy[picture_px] = sum(fine_energy(sample.picture) for sample in simulator.render(quiet))
    assert energy[256] > 1.5 * energy[192]


def test_the_program_makes_sets_of_a_side_and_a_canvas_that_train(
    face_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = ("--picture-px", 256, "--canvas", 2.4, "--seed", 3, "--data", face_pack, "--workers", 1, "-n", 12)
    for split in ("train", "dev"):
        assert run(monkeypatch, "simulate", tmp_path / split, "--split", split, *view) == 0
    info = SampleSet.load(tmp_path / "train").info
    assert (info.picture_px, info.canvas_scale) == (256, 2.4)
    config = tmp_path / "run.toml"
    config.write_text(CONFIG)
    sets = ("--train", tmp_path / "train", "--dev", tmp_path / "dev", "--device", "cpu")
    assert run(monkeypatch, "fit", config, "--out", tmp_path / "run", *sets) == 0
    assert (tmp_path / "run" / "best.safetensors").is_file()


@pytest.mark.parametrize(
    "arguments", [("--picture-px", 127), ("--picture-px", 513), ("--canvas", 1.9), ("--canvas", 3)]
)
def test_the_program_refuses_views_out_of_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...]
) -> None:
    assert run(monkeypatch, "simulate", tmp_path / "set", *arguments) == 2
    assert not (tmp_path / "set").exists()


@pytest.fixture(scope="module")
def large_set(face_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sets") / "large"
    list(make_set(face_pack, out, SPLIT, 8, seed=SEED, workers=1, depth=True, picture_px=256, canvas_scale=2.4))
    return out


def test_a_set_says_its_view_and_holds_pictures_of_it(large_set: Path) -> None:
    loaded = SampleSet.load(large_set)
    assert (loaded.info.picture_px, loaded.info.canvas_scale) == (256, 2.4)
    assert loaded.picture(0).shape == (256, 256, 3)
    assert loaded.depth_mm(0).shape == (256, 256)
    shares = [(row.box_xyxy[2] - row.box_xyxy[0]) / 256 for row in loaded.table]
    # The faces' own distance varies by a factor of 0.90 to 1.12, tilt adds a little.
    assert all(1 / 2.4 / 1.2 < share < 1 / 2.4 / 0.85 for share in shares)
    assert loaded.crops(range(8), InputSpec(size_px=224)).shape == (8, 224, 224, 3)


def test_depth_follows_the_canvas(face_pack: Path, cache: Path) -> None:
    """The middle of a wider canvas holds the depth of the narrower: shrunk by its share, most of it agrees."""
    plain, wide = (make_simulator(face_pack, cache, SPLIT, SEED, depth=True, canvas_scale=c) for c in (2.0, 2.5))
    index = next(i for i in range(40) if plain.draw(i).values["bona_fide"])
    maps = []
    for simulator in (plain, wide):
        d = switch_off(simulator.draw(index), "truncation")
        d.values |= {"depth_noise": 0.0, "depth_flying": 0.0, "depth_shift_x": 0.0, "depth_shift_y": 0.0}
        found = simulator.render([d])[0].depth_mm
        assert found is not None
        maps.append(found)
    margin = round(192 * (1 - 2 / 2.5) / 2)
    inner = cv2.resize(maps[1][margin:-margin, margin:-margin], (192, 192), interpolation=cv2.INTER_NEAREST)
    both = (maps[0] > 0) & (inner > 0)
    far = np.abs(maps[0].astype(int) - inner) > 0.02 * maps[0]
    assert both.mean() > 0.3
    assert far[both].mean() < 0.1


def test_clips_have_the_view_of_their_simulator(face_pack: Path, cache: Path) -> None:
    clips = [
        make_simulator(face_pack, cache, SPLIT, SEED, picture_px=px, canvas_scale=c).clip(2, 0.2, 10)
        for px, c in ((192, 2.0), (256, 2.5))
    ]
    plain, large = (clip.boxes_xyxy for clip in clips)
    assert clips[1].frames.shape == (2, 256, 256, 3)
    # From pixels of one to those of the other: about the middle, by the pixels of a face box.
    np.testing.assert_allclose(large - 128, (plain - 96) * (256 / 2.5) / (192 / 2.0), atol=1e-3)


def test_shards_and_streams_have_the_view_that_was_asked_for(face_pack: Path, tmp_path: Path, large_set: Path) -> None:
    stored = SampleSet.load(large_set)
    list(make_shards(face_pack, tmp_path / "tar", SPLIT, 3, seed=SEED, workers=1, depth=True, picture_px=256,
                     canvas_scale=2.4))  # fmt: skip
    for i, sample in enumerate(read_shards(tmp_path / "tar")):
        np.testing.assert_array_equal(sample.picture, stored.picture(i))
    with SimulatedStream(Recipe(face_pack, tmp_path, SPLIT, SEED, True, 256, 2.4), 2, workers=0) as stream:
        batch = next(stream)
    assert (batch.info.picture_px, batch.info.canvas_scale) == (256, 2.4)
    np.testing.assert_array_equal(batch.picture(1), stored.picture(1))


def test_a_set_that_says_nothing_of_its_canvas_is_loaded_and_goes_on(face_pack: Path, tmp_path: Path) -> None:
    """As sets were written before there was a choice."""
    list(make_set(face_pack, tmp_path / "set", SPLIT, 3, seed=SEED, workers=1))
    info = json.loads((tmp_path / "set" / "set.json").read_text())
    assert info.pop("canvas_scale") == 2.0
    assert info.pop("picture_px") == 192
    (tmp_path / "set" / "set.json").write_text(json.dumps(info))
    loaded = SampleSet.load(tmp_path / "set").info
    assert (loaded.version, loaded.picture_px, loaded.canvas_scale) == (SIMULATOR_VERSION, 192, 2.0)
    assert list(make_set(face_pack, tmp_path / "set", SPLIT, 3, seed=SEED, workers=1)) == []


@pytest.mark.parametrize(
    ("version", "origin", "known"), [(3, "", False), (99, "", False), (3, "door", True), (99, "door", False)]
)
def test_simulated_sets_of_another_simulator_are_refused_but_not_recordings(
    version: int, origin: str, known: bool, face_pack: Path, tmp_path: Path
) -> None:
    list(make_set(face_pack, tmp_path / "set", SPLIT, 3, seed=SEED, workers=1))
    info = json.loads((tmp_path / "set" / "set.json").read_text())
    (tmp_path / "set" / "set.json").write_text(json.dumps(info | {"version": version, "origin": origin}))
    with nullcontext() if known else pytest.raises(DataError, match=f"version {version}, this simulator's is"):
        assert len(SampleSet.load(tmp_path / "set")) == 3


@pytest.mark.parametrize("canvas", [1.0, 1.99, 2.61, float("nan")])
def test_a_canvas_that_tiles_cannot_fill_is_refused(face_pack: Path, tmp_path: Path, canvas: float) -> None:
    with pytest.raises(DataError, match=r"2\.0 to 2\.6 face boxes wide"):
        list(make_set(face_pack, tmp_path / "set", SPLIT, 3, seed=SEED, workers=1, canvas_scale=canvas))
    assert not (tmp_path / "set").exists()
