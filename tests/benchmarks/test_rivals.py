"""Rival ways of making attacks: each operator on drawn pictures, and the sets they are written to."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.rivals import colour_spaces, fas_aug, spoofing_clues, textures
from benchmarks.rivals.sets import Kind, Recipe, RivalMaker, canvas, face_masks, make_rival_set
from fasedge.types import UInt8Array
from tests.training.fixtures.face_pack import write_face_pack
from training.data.manifest import read_manifest
from training.data.samples import SampleSet
from training.data.simulate.draws import Draws
from training.data.simulate.scene import FACE_HALF
from training.errors import DataError

SIZE = 192


def flat(level: int) -> UInt8Array:
    return np.full((SIZE, SIZE, 3), level, np.uint8)


def noisy(seed: int = 0) -> UInt8Array:
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


ROOMS = np.full((2, 60, 90, 3), 200, np.uint8)
OPERATORS = fas_aug.operators(ROOMS)


def test_green_of_srgb_has_its_well_known_codes_in_adobe_rgb() -> None:
    green = np.array([[[0, 255, 0]]], np.uint8)
    assert colour_spaces.convert(green, "srgb", "adobe_1998").tolist() == [[[144, 255, 60]]]


@pytest.mark.parametrize("space", sorted(colour_spaces.RGB_SPACES))
def test_greys_stay_grey_and_white_stays_white_in_every_working_space(space: str) -> None:
    greys = np.repeat(np.arange(0, 256, 15, dtype=np.uint8)[None, :, None], 3, 2)
    found = colour_spaces.convert(greys, "srgb", space).astype(int)
    assert np.ptp(found, axis=2).max() <= 1
    assert found[0, -1].tolist() == [255, 255, 255]
    np.testing.assert_array_equal(colour_spaces.convert(noisy(), space, space), noisy())


def test_a_middle_grey_is_darker_in_codes_of_gamma_one_point_eight() -> None:
    # 128 / 255 is 0.21586 of the light; its 1.8th root is 0.42672, and 255 times that 108.8.
    assert colour_spaces.convert(flat(128), "srgb", "colormatch")[0, 0].tolist() == [109, 109, 109]


def test_a_solid_ink_reflects_what_its_lightness_says() -> None:
    ideal = colour_spaces.Press(*[(100.0, 0.0, 0.0)] * 2, (46.0, 72.0, -5.0), *[(50.0, 0.0, 0.0)] * 5, gain=0.2)
    inks = np.array([[0, 1, 0], [0, 0, 0]], np.float32)
    luminance = colour_spaces.printed_xyz(inks, ideal)[:, 1]
    assert luminance == pytest.approx([((46 + 16) / 116) ** 3, 1.0], abs=1e-5)


@pytest.mark.parametrize("press", sorted(colour_spaces.PRESSES))
def test_a_print_keeps_white_lifts_black_and_dulls_colours(press: str) -> None:
    colours = np.array([[[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    white, black, *primaries = colour_spaces.print_and_read(colours, press, "srgb")[0].astype(int)
    assert white.min() >= 254
    assert 35 < black.mean() < 100
    assert all(np.ptp(primary) < 230 for primary in primaries)


def test_a_screen_shows_its_pitch_as_a_peak_in_the_spectrum() -> None:
    # A screen pixel of 15 thirds is 5 pixels wide: 192 / 5 = 38.4 of them side by side.
    for seed in range(5):
        red = textures.screen(SIZE, "rgb", 15.0, np.random.default_rng(seed))[..., 0].astype(float)
        power = np.abs(np.fft.rfft(red - red.mean(), axis=1)).mean(0)
        assert abs(int(power.argmax()) - 38.4) < 5


def test_moire_adds_a_peak_that_stands_out_of_a_noisy_picture() -> None:
    def prominence(picture: UInt8Array) -> float:
        power = np.abs(np.fft.rfft2(picture[..., 1] - picture[..., 1].mean())) ** 2
        return float(power.max() / power.mean())

    picture = (0.2 * noisy() + 90).astype(np.uint8)
    before = prominence(picture)
    after = [prominence(fas_aug.moire_pattern(picture, 0.3, Draws(seed, 0), "op1")) for seed in range(12)]
    assert min(after) > 3 * before
    assert np.median(after) > 10 * before


@pytest.mark.parametrize("layout", sorted(textures.LAYOUTS))
def test_screens_of_every_layout_are_grey_on_average(layout: str) -> None:
    means = textures.screen(SIZE, layout, 13.0, np.random.default_rng(3)).mean((0, 1))
    assert means == pytest.approx([textures.MEAN_LEVEL] * 3, abs=8)


def test_a_halftone_has_two_levels_and_as_many_dots_as_the_cell_is_light() -> None:
    ramp = np.repeat(np.repeat(np.arange(64, dtype=np.float32), 3)[None], SIZE, 0)
    made = textures.halftone(ramp)
    assert set(np.unique(made)) == {0, 255}
    dots = (made.reshape(64, 3, 64, 3) > 0).sum((1, 3))
    assert (dots == [9 * level // 63 for level in range(64)]).all()


def test_blending_a_halftone_adds_just_two_shades_to_a_grey() -> None:
    picture = flat(100)
    picture[:, :3] = 0
    picture[:, 3:6] = 255
    made = fas_aug.sfc_halftone(picture, 0.2, Draws(0, 0), "op1")
    assert set(np.unique(made[:, 12:])) == {80, 131}


def test_blue_noise_has_every_level_equally_often_and_no_coarse_structure() -> None:
    noise = textures.blue_noise(1)
    assert (np.bincount(noise.ravel(), minlength=256) == 256).all()
    power = np.abs(np.fft.fft2(noise - noise.mean())) ** 2
    frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)[None])
    assert power[frequency < 0.1].mean() < 0.02 * power[frequency > 0.3].mean()


def test_trembling_spreads_a_point_over_a_line_of_the_given_length() -> None:
    point = flat(0)
    point[96, 96] = 240
    seen = set()
    for seed in range(20):
        d = Draws(seed, 0)
        ys, xs = np.nonzero(fas_aug.hand_trembling(point, 16, d, "op1")[..., 0])
        assert len(ys) == 12  # 16 of 256 pixels are 12 of 192
        slope = {"horizontal": (0, 1), "vertical": (1, 0), "falling": (1, 1), "rising": (1, -1)}
        direction = str(d.values["op1_direction"])
        order = np.lexsort((xs, ys))
        steps = {(int(y), int(x)) for y, x in zip(np.diff(ys[order]), np.diff(xs[order]), strict=True)}
        assert steps == {slope[direction]}
        seen.add(direction)
    assert len(seen) == 4


def test_the_lowest_resolution_leaves_a_quarter_of_the_columns() -> None:
    for seed in range(8):
        made = fas_aug.low_resolution(noisy(), 0.9, Draws(seed, 0), "op1")
        assert len(np.unique(made, axis=1)[0]) == SIZE // 4


def test_a_reflection_is_the_room_over_the_picture() -> None:
    made = OPERATORS["reflection"].apply(flat(100), 0.2, Draws(4, 0), "op1")
    np.testing.assert_array_equal(made, flat(120))


def test_policies_make_the_class_that_is_asked_for_and_use_every_operator() -> None:
    makes_attacks = {"color_distortion", "reflection", "bn_halftone", "moire_pattern", "sfc_halftone"}
    used: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for attack in (True, False):
        for index in range(200):
            policy = fas_aug.draw_policy(OPERATORS, Draws(1, index), attack=attack)
            active = {name for name, step in policy if step}
            assert bool(active & makes_attacks) == attack
            assert len(policy) == 2
            used[attack].update(active)
    assert set(used[True]) == set(OPERATORS)
    assert set(used[False]) == set(OPERATORS) - makes_attacks


def test_the_last_step_of_an_operator_has_its_published_magnitude() -> None:
    published = {"reflection": 0.2, "bn_halftone": 0.4, "moire_pattern": 0.3, "sfc_halftone": 0.2}
    published |= {"hand_trembling": 16, "low_resolution": 0.9}
    for name, high in published.items():
        assert OPERATORS[name].magnitude(9) == pytest.approx(high)
        assert OPERATORS[name].magnitude(0) == pytest.approx(1 if name == "hand_trembling" else 0.01)


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_an_operator_gives_the_same_picture_for_the_same_seed(name: str) -> None:
    operator, picture = OPERATORS[name], noisy()
    made = [operator.apply(picture, operator.magnitude(9), Draws(seed, 0), "op1") for seed in (2, 2, 3)]
    np.testing.assert_array_equal(made[0], made[1])
    np.testing.assert_array_equal(picture, noisy())
    assert made[0].dtype == np.uint8
    assert made[0].shape == picture.shape


def test_a_swirl_repeats_a_point_faintly_where_its_radius_has_turned_it_to() -> None:
    d = Draws(5, 0)
    picture = flat(0)
    picture[94:99, 134:139] = 255  # 40 px to the right of the middle
    made = spoofing_clues.moire(picture, d)[..., 0].astype(float)
    angle = -float(d.values["moire_degree"]) * 500 / SIZE * 40
    ghost = made[round(96 + 40 * np.sin(angle)), round(96 + 40 * np.cos(angle))]
    assert ghost == pytest.approx(51, abs=6)
    assert made[96, 136] >= 204


def test_a_self_blend_changes_the_face_and_nothing_far_from_it() -> None:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[64:128, 64:128] = 1
    far = np.ones((SIZE, SIZE), bool)
    far[44:148, 44:148] = False
    changed = 0
    for seed in range(12):
        d = Draws(seed, 0)
        made = spoofing_clues.self_blend(noisy(), mask, d)
        if d.values["blend_source"]:
            np.testing.assert_array_equal(made[far], noisy()[far])
            changed += int((made[80:112, 80:112] != noisy()[80:112, 80:112]).any())
    assert changed >= 3


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a drawn face pack."""
    return write_face_pack(tmp_path_factory.mktemp("rivals") / "pack")


def recipe(pack: Path, cache: Path, kind: Kind, *, seed: int = 5) -> Recipe:
    return Recipe(data=pack, cache=cache, split="dev", kind=kind, seed=seed)


def test_the_canvas_is_two_faces_wide_with_the_face_in_the_middle() -> None:
    tile = np.zeros((320, 320, 3), np.uint8)
    half = round(160 * FACE_HALF)
    tile[160 - half : 160 + half, 160 - half : 160 + half] = 255
    picture, face_px = canvas(tile)
    lit = np.flatnonzero(picture[96, :, 0] > 127)
    assert picture.shape == (SIZE, SIZE, 3)
    assert face_px == pytest.approx(SIZE / 2, abs=0.5)
    assert (lit[0], lit[-1] + 1) == pytest.approx(((SIZE - face_px) / 2, (SIZE + face_px) / 2), abs=1)


@pytest.mark.parametrize(("kind", "species"), [("fas-aug", {"fas_aug"}), ("spsc", {"spsc"})])
def test_bona_fide_pictures_are_untouched_and_attacks_are_not(
    pack: Path, tmp_path: Path, kind: Kind, species: set[str]
) -> None:
    maker = RivalMaker(recipe(pack, tmp_path, kind))
    tiles = np.load(tmp_path / "tiles_dev.npy")
    keys = [picture.key for picture in maker.pictures]
    found = set()
    for index in range(40):
        picture, row = maker.sample(index)
        plain, _ = canvas(tiles[keys.index(row.picture)])
        assert np.array_equal(picture, plain) == (row.label == 1)
        assert (row.species == "bona_fide") == (row.label == 1)
        found.add(row.species)
    assert found == species | {"bona_fide"}


def test_digital_clues_are_a_species_of_their_own(pack: Path, tmp_path: Path) -> None:
    maker = RivalMaker(recipe(pack, tmp_path, "spsc-sdsc"))
    rows = [maker.sample(index)[1] for index in range(40)]
    kinds = {(row.species, row.subtype) for row in rows}
    assert kinds == {("bona_fide", "bona_fide"), ("spsc", "moire_and_jitter"), ("sdsc", "self_blend")}


def test_published_treatment_of_bona_fide_pictures_changes_most_but_not_all(pack: Path, tmp_path: Path) -> None:
    words = Recipe(data=pack, cache=tmp_path, split="dev", kind="fas-aug", seed=5, bona_fide="published")
    rows = [row for _, row in map(RivalMaker(words).sample, range(80)) if row.label == 1]
    originals = sum(bool(row.params["original"]) for row in rows)
    assert 0 < originals < len(rows) / 2
    used = {row.params[slot] for row in rows if not row.params["original"] for slot in ("op1", "op2")}
    assert {"color_diversity", "hand_trembling", "low_resolution"} <= used


def test_face_masks_follow_the_mesh_where_there_is_one(pack: Path, tmp_path: Path) -> None:
    pictures = read_manifest(pack, ["dev"])
    folder = tmp_path / "landmarks"
    folder.mkdir()
    box = pictures[0].box
    corners = np.array([[box.x1, box.y1, 0], [box.x2, box.y1, 0], [box.x2, box.y2, 0], [box.x1, box.y2, 0]])
    np.savez(folder / "studio.npz", **{pictures[0].key: corners.astype(np.float16)})
    masks = face_masks(tmp_path, pictures)
    assert int(masks[0].sum()) == pytest.approx(96 * 96, rel=0.05)
    assert masks[0][50, 50] == masks[0][140, 140] == 1
    assert masks[1][96, 96] == 1
    assert masks[1][50, 50] == 0  # an ellipse


def test_a_set_is_what_its_maker_makes_and_can_be_loaded(pack: Path, tmp_path: Path) -> None:
    words = recipe(pack, tmp_path, "fas-aug")
    assert list(make_rival_set(words, tmp_path / "set", 70, workers=2)) == [(64, 70), (70, 70)]
    found, maker = SampleSet.load(tmp_path / "set"), RivalMaker(words)
    assert (found.info.split, found.info.seed, len(found)) == ("dev", 5, 70)
    for index in (0, 13, 69):
        picture, row = maker.sample(index)
        np.testing.assert_array_equal(found.picture(index), picture)
        assert found.table[index] == row
    with pytest.raises(DataError, match="there already"):
        next(make_rival_set(words, tmp_path / "set", 70))


@pytest.mark.parametrize("kind", ["fas-aug", "spsc", "spsc-sdsc"])
def test_pictures_can_be_larger(pack: Path, tmp_path: Path, kind: Kind) -> None:
    small, large = (
        RivalMaker(replace(recipe(pack, tmp_path, kind), bona_fide="untouched", picture_px=px)) for px in (192, 256)
    )
    for index in range(6):
        (small_picture, small_row), (picture, row) = small.sample(index), large.sample(index)
        assert picture.shape == (256, 256, 3)
        np.testing.assert_allclose(row.box_xyxy, np.array(small_row.box_xyxy) * 256 / 192, atol=0.01)
        assert (row.label, row.picture) == (small_row.label, small_row.picture)
        if row.label:
            np.testing.assert_allclose(picture.mean((0, 1)), small_picture.mean((0, 1)), atol=1.0)
    words = replace(recipe(pack, tmp_path, kind), picture_px=256)
    list(make_rival_set(words, tmp_path / "set", 3, workers=1))
    found = SampleSet.load(tmp_path / "set")
    assert (found.info.picture_px, found.picture(0).shape) == (256, (256, 256, 3))
    with pytest.raises(DataError, match="32 px or more"):
        next(make_rival_set(replace(words, picture_px=16), tmp_path / "other", 3))


def test_a_set_that_was_given_up_leaves_nothing_behind(pack: Path, tmp_path: Path) -> None:
    run = make_rival_set(recipe(pack, tmp_path, "spsc"), tmp_path / "set", 70, workers=1)
    next(run)
    run.close()  # type: ignore[attr-defined]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiles_dev.npy"]


def test_requests_that_cannot_be_met_are_refused_by_name(pack: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'halftone'"):
        RivalMaker(recipe(pack, tmp_path, "halftone"))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="n >= 1"):
        next(make_rival_set(recipe(pack, tmp_path, "spsc"), tmp_path / "set", 0))
    with pytest.raises(DataError, match="seed >= 0"):
        next(make_rival_set(recipe(pack, tmp_path, "spsc", seed=-1), tmp_path / "set", 8))
