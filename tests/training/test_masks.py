"""Masks and partial attacks on drawn faces whose meshes are made from a formula: no real face, no landmark model."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fasedge.types import Box
from training.data.manifest import FacePicture
from training.data.simulate import SPECIES, Simulator, colour, facefit, mask, partial, wearing
from training.data.simulate.casting import Cast, head_turn
from training.data.simulate.draws import Draws, Value
from training.data.simulate.facefit import EYES, GRID_PX, MOUTH, NOSE, OVAL, TEMPLES, WINDOW
from training.data.simulate.mesh import FaceMeshes
from training.data.simulate.optics import grid
from training.errors import DataError

TILE = 160
#: Half width and half height of the drawn faces in tile units, their middle.
HALF_X, HALF_Y, MIDDLE_Y = 0.32, 0.4, -0.02
KINDS = (*SPECIES["mask"].subtypes, *SPECIES["partial"].subtypes)
#: Ranges of the parameters of masks, written down by hand.
RANGES = {
    "mask_x": (-0.018, 0.018), "mask_y": (-0.018, 0.018), "mask_roll": (-0.075, 0.075), "mask_zoom": (0.97, 1.06),
    "mask_shadow": (0.15, 0.7), "mask_stand_off": (0.006, 0.035), "mask_light_x": (-0.9, 0.9),
    "mask_light_y": (-0.9, 0.5), "mask_level": (0.8, 1.25), "mask_edge": (0.1, 0.9), "mask_edge_width": (0.001, 0.006),
    "mask_size": (0.9, 1.3), "mask_waves": (0, 0.03), "mask_eye_width": (0, 1.4), "mask_eye_height": (0.4, 0.9),
    "mask_mouth_hole": (0, 1.25), "mask_nose_hole": (0, 1.3), "mask_flat": (0.2, 0.9), "mask_curve": (0.2, 1.0),
    "mask_crease": (0, 0.3), "mask_crumple": (0, 0.006), "mask_gloss": (0.02, 0.8), "mask_polish": (4, 90),
    "mask_smooth": (0.4, 1), "mask_paint": (0, 0.97), "mask_albedo": (0.16, 0.6), "mask_modelling": (0.5, 1.3),
    "mask_relief": (0.3, 1), "mask_exaggeration": (1, 1.8), "mask_rim": (0.003, 0.04), "mask_rim_width": (0.008, 0.03),
    "mask_translucency": (0.1, 0.7), "mask_wrinkles": (0, 0.003), "mask_feather": (0.004, 0.02),
    "mask_reach": (1.3, 1.9), "patch_power": (2, 12), "patch_width": (1.1, 2.2), "patch_height": (0.25, 1.1),
    "patch_curve": (0.3, 1.6), "glasses_width": (1.15, 1.6), "glasses_height": (0.62, 0.95),
    "glasses_frame": (0.007, 0.03), "glasses_gloss": (0.02, 0.4), "glasses_bridge": (-0.3, 0.3),
    **{f"mask_fold_{i}": (-0.3, 0.3) for i in range(3)}, **{f"mask_fold_place_{i}": (-0.28, 0.28) for i in range(3)},
    **{f"mask_fold_angle_{i}": (-1.5708, 1.5708) for i in range(3)},
}  # fmt: skip


def landmarks() -> np.ndarray:
    """(478, 3): the ones that are used on an ellipse, the rest in its middle."""
    marks = np.zeros((478, 3), np.float32)
    marks[:, 1] = MIDDLE_Y
    for i, number in enumerate(OVAL):
        angle = 2 * math.pi * i / len(OVAL)
        marks[number, :2] = HALF_X * math.sin(angle), MIDDLE_Y - HALF_Y * math.cos(angle)
    places = {EYES[0]: (-0.13, -0.1, 0.06, 0.025), EYES[1]: (0.13, -0.1, 0.06, 0.025), MOUTH: (0, 0.2, 0.1, 0.04)}
    places[NOSE] = (0, 0.02, 0.06, 0.1)
    for (left, right, top, bottom), (x, y, w, h) in places.items():
        marks[left, :2], marks[right, :2] = (x - w, y), (x + w, y)
        marks[top, :2], marks[bottom, :2] = (x, y - h), (x, y + h)
    for number, side in zip(TEMPLES, (-1, 1), strict=True):
        marks[number, :2] = side * HALF_X, -0.1
    marks[1, :2] = 0, 0.08
    return marks


def meshes(n: int) -> FaceMeshes:
    """Ellipsoids: canonical coordinates are proportional to the place in the tile."""
    points = grid(160, 160).numpy()
    u, v = points[..., 0] / 0.5, (points[..., 1] - MIDDLE_Y) / 0.5
    radius2 = (points[..., 0] / HALF_X) ** 2 + ((points[..., 1] - MIDDLE_Y) / HALF_Y) ** 2
    outside = radius2 > 1
    relief = 0.25 * np.sqrt(1 - radius2.clip(0, 1))
    relief[outside] = np.nan
    uv = np.stack([u, v], -1)
    uv[outside] = np.nan
    canonical = grid(96, 96).numpy()
    position = canonical * 0.5 + np.array([0, MIDDLE_Y])
    position[(canonical[..., 0] * 0.5 / HALF_X) ** 2 + (canonical[..., 1] * 0.5 / HALF_Y) ** 2 > 1.02] = np.nan
    marks = landmarks()

    def repeat(values: np.ndarray, kind: type) -> np.ndarray:
        return np.repeat(values[None].astype(kind), n, 0)

    return FaceMeshes(
        landmarks=repeat(marks, np.float32),
        relief=repeat(relief, np.float16),
        uv=repeat(uv, np.float16),
        position=repeat(position, np.float16),
        canonical=np.zeros((468, 2), np.float32),
        triangles=np.zeros((0, 3), np.int32),
    )


def face_tile(tone: tuple[int, int, int], eyes: tuple[int, int, int]) -> np.ndarray:
    """uint8 (T, T, 3): a plain face with plain eyes before a grey wall."""
    points = grid(TILE, TILE).numpy()
    tile = np.full((TILE, TILE, 3), 128, np.uint8)
    tile[(points[..., 0] / HALF_X) ** 2 + ((points[..., 1] - MIDDLE_Y) / HALF_Y) ** 2 <= 1] = tone
    for x in (-0.13, 0.13):
        tile[((points[..., 0] - x) / 0.06) ** 2 + ((points[..., 1] + 0.1) / 0.025) ** 2 <= 1] = eyes
    return tile


WEARER = face_tile((190, 120, 100), (20, 200, 20))
VICTIM = face_tile((120, 150, 210), (200, 20, 200))


def as_tensor(tile: np.ndarray) -> Tensor:
    return torch.from_numpy(tile).permute(2, 0, 1)[None].contiguous()


def parameters(kind: str, **values: Value) -> Draws:
    """Drawn parameters of a kind, sitting straight; then the given ones."""
    d = Draws(3, 0)
    d.derive("subtype", kind)
    if kind in SPECIES["mask"].subtypes:
        mask.draw_mask(d, kind)
    else:
        partial.draw_partial(d, kind)
    d.values |= {"mask_x": 0.0, "mask_y": 0.0, "mask_roll": 0.0, "mask_zoom": 1.0, "mask_waves": 0.0}
    d.values |= values
    return d


def worn(kind: str, *, victim: np.ndarray = VICTIM, **values: Value) -> wearing.Worn:
    mesh = meshes(1)[[0]]
    return mask.wear(as_tensor(WEARER), as_tensor(victim), mesh, mesh, [parameters(kind, **values)])


def bare() -> Tensor:
    return colour.bytes_to_linear(as_tensor(WEARER))


def at(light: Tensor, x: float, y: float) -> Tensor:
    """Value of a tile at a place in tile units, (C,)."""
    size = light.shape[-1]
    return light[0, :, int((y + 1) / 2 * size), int((x + 1) / 2 * size)]


HOLES: dict[str, Value] = {"mask_eye_width": 1.3, "mask_eye_height": 0.6, "mask_shadow": 0.0}


@pytest.mark.parametrize("kind", ["paper_mask", "rigid_mask", "flexible_mask"])
def test_eye_holes_show_the_wearers_eyes_and_without_holes_the_victims_are_there(kind: str) -> None:
    for x in (-0.13, 0.13):
        open_, closed = (worn(kind, mask_eye_width=w, **{k: v for k, v in HOLES.items() if k != "mask_eye_width"}).light
                         for w in (1.3, 0.0))  # fmt: skip
        np.testing.assert_allclose(at(open_, x, -0.1), at(bare(), x, -0.1), atol=1e-5)
        # Violet eyes of the victim, green ones of the wearer.
        red, green, blue = at(closed, x, -0.1).tolist()
        assert green < min(red, blue) * 1.05
        assert not torch.allclose(at(open_, x, -0.1), at(closed, x, -0.1), atol=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_far_from_the_face_nothing_changes(kind: str) -> None:
    found = (worn(kind).light - bare()).abs().amax(1)[0]
    points = grid(TILE, TILE)
    away = ((points[..., 0] / HALF_X) ** 2 + ((points[..., 1] - MIDDLE_Y) / HALF_Y) ** 2).sqrt()
    assert found[away > 2.0].max() == 0
    assert found[away < 0.95].max() > 0.02


def test_partial_attacks_leave_the_rest_of_the_face_alone() -> None:
    free = {"printed_eyes": (0.0, 0.25), "printed_glasses": (0.0, 0.25), "printed_mouth": (0.1, -0.25)}
    touched = {"printed_eyes": (0.13, -0.1), "printed_glasses": (0.13, -0.1), "printed_mouth": (0.05, 0.2)}
    for kind, place in free.items():
        light = worn(kind, mask_shadow=0.0).light
        assert torch.equal(at(light, *place), at(bare(), *place)), kind
        assert (at(light, *touched[kind]) - at(bare(), *touched[kind])).abs().max() > 0.01, kind


@pytest.mark.parametrize("kind", ["paper_mask", "rigid_mask", "flexible_mask", "printed_eyes"])
def test_the_contour_is_where_it_was_cut(kind: str) -> None:
    """Along the row of the chin's middle: the mask ends at its scale times the ellipse's half width."""
    size = 1.1
    values: dict[str, Value] = {"mask_size": size, "mask_shadow": 0.0, "mask_feather": 0.004}
    values |= {"patch_width": 1.5, "patch_height": 0.5, "patch_power": 8.0}
    cover = worn(kind, **values).cover[0, 0]
    row = cover[int(((-0.1 if kind == "printed_eyes" else MIDDLE_Y) / WINDOW + 1) / 2 * GRID_PX)]
    inside = facefit.window_points()[0, :, 0][row > 0.5]
    expected = 1.5 * 0.19 if kind == "printed_eyes" else size * HALF_X
    assert inside.max() == pytest.approx(expected, abs=0.02)
    assert inside.min() == pytest.approx(-expected, abs=0.02)


def test_paper_shows_a_bright_cut_and_casts_a_shadow_on_the_skin_beside_it() -> None:
    """A patch over the eyes; the light comes from above, so that the shadow falls below."""
    values: dict[str, Value] = {"patch_width": 1.3, "patch_height": 0.4, "patch_power": 12.0, "mask_stand_off": 0.03}
    values |= {"mask_light_x": 0.0, "mask_light_y": -0.9, "paper_noise": 0.0, "print_banding": 0.0}
    plain = worn("printed_eyes", mask_shadow=0.0, mask_edge=0.0, **values).light
    edged = worn("printed_eyes", mask_shadow=0.0, mask_edge=0.9, mask_edge_width=0.006, **values).light
    shaded = worn("printed_eyes", mask_shadow=0.7, mask_edge=0.0, **values).light
    change = (edged - plain).mean(1)[0]
    rows = change.abs().amax(1).nonzero().flatten()
    assert change.sum() > 0
    assert len(rows)
    below, above = -0.1 + 0.4 * 0.19 + 0.03, -0.1 - 0.4 * 0.19 - 0.03
    dark_below = float((at(plain, 0.0, below) - at(shaded, 0.0, below)).mean() / at(plain, 0.0, below).mean())
    dark_above = float((at(plain, 0.0, above) - at(shaded, 0.0, above)).mean() / at(plain, 0.0, above).mean())
    assert dark_below > 0.15
    assert dark_below > 1.5 * dark_above


@pytest.mark.parametrize("kind", ["rigid_mask", "flexible_mask", "mannequin"])
def test_gloss_adds_light_only_and_raises_the_highlights_more_than_the_mean(kind: str) -> None:
    dull, shiny = (worn(kind, mask_gloss=g, mask_polish=30.0).light for g in (0.0, 0.5))
    added = (shiny - dull)[0].mean(0)
    assert added.min() >= -1e-6
    face = added[TILE // 2 - 40 : TILE // 2 + 40, TILE // 2 - 30 : TILE // 2 + 30]
    assert face.max() > 0.1
    assert face.max() > 3 * face.median()


def test_a_mask_shows_the_victim_and_not_the_wearer() -> None:
    other = face_tile((60, 160, 60), (200, 20, 200))
    for kind in ("paper_mask", "rigid_mask", "flexible_mask"):
        blue, green = (
            at(worn(kind, victim=v, mask_paint=0.0, print_grey=0, mask_eye_width=0.0).light, 0.15, 0.1)
            for v in (VICTIM, other)
        )
        assert blue[2] > blue[1], kind
        assert green[1] > green[2], kind


def test_prints_are_on_record_where_the_paper_is_and_solids_have_none() -> None:
    for kind in KINDS:
        result = worn(kind)
        has_print = kind.startswith("p")
        assert bool(result.paper.any()) == has_print, kind
        assert bool(result.printed.any()) == has_print, kind


def test_a_batch_of_all_kinds_gives_each_what_it_gets_alone() -> None:
    n = len(KINDS)
    many = mask.wear(
        as_tensor(WEARER).repeat(n, 1, 1, 1), as_tensor(VICTIM).repeat(n, 1, 1, 1), meshes(n)[range(n)],
        meshes(n)[range(n)], [parameters(kind) for kind in KINDS],
    )  # fmt: skip
    for i, kind in enumerate(KINDS):
        alone = worn(kind)
        assert torch.equal(many.light[i], alone.light[0]), kind
        assert torch.equal(many.height[i], alone.height[0]), kind


def test_everything_drawn_for_masks_lies_in_its_range() -> None:
    found: dict[str, list[float]] = {}
    for kind in KINDS:
        for number in range(300):
            d = Draws(7, number)
            if kind in SPECIES["mask"].subtypes:
                mask.draw_mask(d, kind)
            else:
                partial.draw_partial(d, kind)
            for name, value in d.values.items():
                if name.startswith(("mask_", "patch_", "glasses_")) and not isinstance(value, str):
                    found.setdefault(name, []).append(float(value))
    assert found.keys() == RANGES.keys()
    for name, values in found.items():
        low, high = RANGES[name]
        assert low - 1e-9 <= min(values), name
        assert max(values) <= high + 1e-9, name
        if name != "mask_roll":
            assert max(values) - min(values) > 0.7 * (high - low), name


# --- geometry -------------------------------------------------------------------------------------------------------


def test_a_plane_with_a_hole_is_continued_exactly_and_other_values_stay() -> None:
    points = facefit.window_points()
    plane = (0.3 + 2 * points[..., 0] - 0.7 * points[..., 1])[None, None]
    known = plane.clone()
    known[..., points.norm(dim=2) > 0.3] = math.nan
    np.testing.assert_allclose(facefit.extend(known), plane, atol=2e-3)
    bumpy = known + torch.sin(20 * points[..., 0])
    inside = bumpy.isfinite()
    np.testing.assert_allclose(facefit.extend(bumpy)[inside], bumpy[inside], atol=1e-5)
    assert facefit.extend(bumpy).isfinite().all()


def test_normals_of_a_slope_are_those_of_trigonometry() -> None:
    points = facefit.window_points()
    surface = facefit.normals((math.tan(math.radians(30)) * points[..., 0])[None, None])
    expected = (-math.sin(math.radians(30)), 0, math.cos(math.radians(30)))
    np.testing.assert_allclose(surface[0, :, 50, 50], expected, atol=1e-4)


def test_the_light_of_a_shaded_ellipsoid_is_found_again() -> None:
    """Lambert's cosine from a known direction; the fit must point the same way, and dividing by it must flatten."""
    mesh = meshes(1)[[0]]
    relief = facefit.crop(mesh.relief)
    face = relief.isfinite().float()
    surface = facefit.normals(torch.nan_to_num(relief))
    towards = torch.tensor([0.5, -0.4, 1.0]).view(1, 3, 1, 1)
    luma = 0.2 * (0.4 + (surface * towards).sum(1, keepdim=True) / towards.norm()).clamp_min(0)
    core = face * (torch.nan_to_num(relief) > 0.1)
    found = facefit.light_of(luma, surface, core)
    assert found.slope[0, 0] > 0 > found.slope[0, 1]
    left = luma / (found.level * found.shade(surface))
    spread = [float(v[core > 0].std() / v[core > 0].mean()) for v in (luma, left)]
    assert spread[1] < 0.5 * spread[0]


# --- casting --------------------------------------------------------------------------------------------------------


def people(n: int) -> list[FacePicture]:
    return [
        FacePicture(Path("x"), f"{i}", ("studio", "office")[i % 2], "CC0", f"person{i // 2}", "train", Box(0, 0, 9, 9),
                    np.zeros((6, 2), np.float32), "0")
        for i in range(n)
    ]  # fmt: skip


def simulator(n: int = 8, mesh: FaceMeshes | None = None, **options: object) -> Simulator:
    tiles = np.stack([WEARER if i % 2 else VICTIM for i in range(n)])
    rooms = np.full((2, 64, 64, 3), 90, np.uint8)
    return Simulator(people(n), tiles, rooms, seed=2, meshes=mesh, picture_px=64, sensors_px={"64": 1.0}, **options)  # type: ignore[arg-type]


def test_victims_are_other_people_and_attacks_have_their_weights() -> None:
    sim, n = simulator(mesh=meshes(8), bona_fide_share=0.0), 2000
    drawn = [sim.draw(i).values for i in range(n)]
    count = Counter(str(v["species"]) for v in drawn)
    for name, share in (("replay", 0.35), ("print", 0.35), ("mask", 0.2), ("partial", 0.1)):
        assert abs(count[name] - share * n) < 4 * math.sqrt(share * (1 - share) * n)
    worn_ = [v for v in drawn if "victim" in v]
    assert len(worn_) > 300
    for v in worn_:
        assert int(v["victim"]) // 2 != int(v["picture"]) // 2
        assert sim.pictures[int(v["victim"])].source == v["victim_source"]


def test_without_meshes_only_replays_and_prints_are_drawn() -> None:
    for sim in (simulator(bona_fide_share=0.0), simulator(mesh=without(meshes(8), range(8)), bona_fide_share=0.0)):
        assert {sim.draw(i).values["species"] for i in range(60)} == {"replay", "print"}
    with pytest.raises(DataError, match="a mesh per picture"):
        simulator(mesh=meshes(7))


def without(mesh: FaceMeshes, numbers: range) -> FaceMeshes:
    marks = mesh.landmarks.copy()
    marks[numbers] = np.nan
    return dataclasses.replace(mesh, landmarks=marks)


def test_pictures_without_a_mesh_and_turned_heads_neither_wear_nor_are_shown() -> None:
    mesh = without(meshes(8), range(2))
    mesh.landmarks[2, 1, 0] = 0.9 * HALF_X
    cast = Cast(people(8), mesh)
    assert sorted(i for found in cast.wearers.values() for i in found) == [3, 4, 5, 6, 7]
    assert sorted(i for found in cast.victims.values() for i in found) == [3, 4, 5, 6, 7]
    assert sorted(i for found in cast.presented.values() for i in found) == list(range(8))


def test_a_heads_turn_is_the_sine_of_its_angle() -> None:
    """A nose and two sides on a circle, turned by hand."""
    marks = np.zeros((1, 478, 3))
    for degrees in (0.0, 20.0, -40.0):
        turn = math.radians(degrees)
        # Without perspective the nose moves by the sine, the sides by the cosine to both sides of the middle.
        marks[0, 1, 0] = math.sin(turn) * math.cos(turn)
        marks[0, 234, 0], marks[0, 454, 0] = -math.cos(turn), math.cos(turn)
        assert head_turn(marks)[0] == pytest.approx(abs(math.sin(turn)))


def test_whole_samples_are_the_same_alone_and_together_and_every_parameter_is_used() -> None:
    sim = simulator(mesh=meshes(8), bona_fide_share=0.0)
    first: dict[str, int] = {}
    for i in range(400):
        values = sim.draw(i).values
        if values["species"] in ("mask", "partial"):
            first.setdefault(str(values["subtype"]), i)
    assert sorted(first) == sorted(KINDS)
    together = sim.samples(list(first.values()))
    for (kind, index), sample in zip(first.items(), together, strict=True):
        assert (sample.label, sample.subtype) == (0, kind)
        alone = sim.samples([index])[0]
        assert np.array_equal(sample.picture, alone.picture), kind
        # What is not a frame of a video has no quantiser either.
        unused = _unused(sim, index) - (set() if sample.params.get("capture_h264") else {"capture_qp"})
        assert not {n for n in unused if n.startswith(("mask_", "patch_", "glasses_", "print_", "capture_"))}, kind


def _unused(sim: Simulator, index: int) -> set[str]:
    class Watched(dict[str, Value]):
        read: set[str]

        def get(self, name: str, default: object = None) -> object:  # type: ignore[override]
            self.read.add(name)
            return super().get(name, default)

        def __getitem__(self, name: str) -> Value:
            self.read.add(name)
            return super().__getitem__(name)

    d = sim.draw(index)
    watched = Watched(d.values)
    watched.read = set()
    d.values = watched
    sim.render([d])
    return set(watched) - watched.read - {"mask_print"}
