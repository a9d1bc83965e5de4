"""Hair, beards and glasses in depth: how far they stand out, where they are not, and who has them."""

from __future__ import annotations

import pytest
import torch

from tests.training.test_depth import SIZE, parameters
from training.data.simulate import depth, figure, glasses, hair
from training.data.simulate.compose import view_matrices
from training.data.simulate.draws import Draws
from training.data.simulate.optics import apply, grid
from training.data.simulate.surface import UNIT_M, Surface
from training.data.simulate.wearing import Worn

#: Rows of the tile's grid on the plain face, whose mouth is at 0.161 of the tile below its middle and chin at 0.37.
MOUTH, CHIN, BELOW, FOREHEAD = 93, 106, 114, 60
MIDDLE = 80


def built(**changes: float | int | str) -> tuple[figure.Figure, list[Draws]]:
    d = parameters("bona_fide", "bona_fide", depth_relief=1.0, **changes)
    return figure.figure(None, [d]), [d]


def seen(subtype: str = "bona_fide", worn: Worn | None = None, **changes: float | int | str) -> Surface:
    d, canvas = parameters("bona_fide" if worn is None else "mask", subtype, **changes), grid(SIZE, SIZE)
    return depth.person(canvas, apply(view_matrices([d]), canvas), None, worn, [d])


def plate(person: figure.Figure) -> Worn:
    """Something flat over the whole face, as high as the nose."""
    nothing, face = torch.zeros(1, 3, 1, 1), figure.crop(person.face)
    level = (person.height * person.face).amax() + person.middle
    return Worn(nothing, nothing, nothing, nothing, level.expand_as(face).clone(), face)


def test_a_beard_stands_out_by_its_length_and_only_where_beards_grow() -> None:
    person, draws = built(depth_beard_m=0.02, depth_beard="full", depth_beard_hang=1.0)
    added = (hair.beard(person, draws).on(person.height, person.face) - person.height)[0, 0] * UNIT_M
    # Curls are a fifth of the length, one standard deviation.
    assert float(added[CHIN - 4, MIDDLE - 6 : MIDDLE + 7].mean()) == pytest.approx(0.02, rel=0.25)
    assert float(added[MOUTH, MIDDLE - 2 : MIDDLE + 3].abs().max()) == 0
    assert float(added[: FOREHEAD + 1].abs().max()) == 0


def test_a_beard_hangs_below_the_chin_as_near_as_the_chin() -> None:
    person, draws = built(depth_beard_m=0.02, depth_beard="full", depth_beard_hang=2.0)
    grown = hair.beard(person, draws).on(person.height, person.face)[0, 0] * UNIT_M
    bare = person.height[0, 0] * UNIT_M
    chin, below = grown[CHIN - 4, MIDDLE], grown[BELOW, MIDDLE]
    assert float(chin - bare[BELOW, MIDDLE]) > 0.03
    assert abs(float(below - chin)) < 0.03


@pytest.mark.parametrize("kind", ["chin", "moustache"])
def test_other_beards_leave_the_cheeks_free(kind: str) -> None:
    person, draws = built(depth_beard_m=0.02, depth_beard=kind, depth_beard_hang=1.0)
    where = hair.beard(person, draws).where[0, 0]
    assert where.any()
    x = figure.outline(person.landmarks)[0][0, 0]
    assert not where[x.abs() > 0.55].any()


def test_solid_masks_have_a_beard_and_paper_lies_on_one() -> None:
    person, _ = built()
    here = slice(SIZE // 2 + 14, SIZE // 2 + 20), slice(SIZE // 2 - 6, SIZE // 2 + 6)
    beard = {"depth_beard_m": 0.004, "depth_beard": "full", "depth_relief": 1.0}
    for subtype, expected in (("rigid_mask", True), ("paper_mask", False)):
        with_beard, without = (
            seen(subtype, plate(person), **{**beard, "depth_beard_m": m}).depth_m[0, 0][here] for m in (0.004, 0.0)
        )
        nearer = float((without - with_beard).mean())
        # The plate stands as far out as the nose, before any beard of 4 mm.
        assert nearer == pytest.approx(0.004, rel=0.4) if expected else nearer == pytest.approx(0, abs=1e-6)


def test_hair_makes_heads_larger_and_falls_beside_the_face() -> None:
    hairy = {"depth_hair_m": 0.03, "depth_hair_fall": 1.5}
    areas, beside = [], []
    for style in ("bald", "short", "long"):
        person, draws = built(depth_hair_style=style, **hairy)
        grown = hair.head_hair(person, draws)
        areas.append(float(grown.there.sum()))
        x, y, _ = figure.outline(person.landmarks)
        strands = (grown.hair > 0) & (x.abs() > 1) & (y > 0.5)
        beside.append(int(strands.sum()))
    assert areas[0] < areas[1] < areas[2]
    assert beside[0] == beside[1] == 0
    assert beside[2] > 50


def test_the_bald_return_light_as_skin_does() -> None:
    person, draws = built(depth_hair_style="bald")
    assert person.hair.any()
    assert not hair.head_hair(person, draws).hair.any()


def test_frames_stand_before_the_eyes_and_lenses_stay_free() -> None:
    person, draws = built(depth_glasses=1, depth_lens_gap=0.014, depth_lens_lost=1.0, depth_frame=0.004)
    worn = glasses.glasses(person.height, person.landmarks, draws)
    eye = person.landmarks[0, 33, :2]
    column, row = (round(float((v + 1) * MIDDLE - 0.5)) for v in eye)
    assert worn.frame[0, 0, row, column] == 0
    assert float(worn.mirror[0, 0, row - 3 : row + 4, column - 6 : column + 7].max()) > 0
    assert 100 < int(worn.frame.sum()) < 1500
    before = (worn.height - person.height)[0, 0, row, column] * UNIT_M
    # The gap, less what the frame bends back by over half the distance of the eyes: 0.3 x², x about 0.13.
    assert float(before) == pytest.approx(0.014 - 0.3 * 0.13**2 * UNIT_M, abs=1e-3)


def test_nobody_has_glasses_over_printed_eyes() -> None:
    person, _ = built()
    strip = plate(person)
    there = {"depth_glasses": 1, "depth_lens_lost": 1.0, "depth_eyes_lost": 1.0}
    for subtype, expected in (("printed_eyes", False), ("printed_mouth", True)):
        bare, with_glasses = (seen(subtype, strip, **{**there, "depth_glasses": k}) for k in (0, 1))
        assert bool((bare.reflectivity != with_glasses.reflectivity).any()) is expected
        assert float(with_glasses.mirror.max()) == 0


def test_what_was_drawn_before_people_had_hair_is_drawn_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = {"species": "replay", "subtype": "tablet", "edge_aspect": 1.4, "edge_size": 1.5, "edge_form": "0"}
    for living in (0, 1):
        now, before = Draws(3, 7, depth.PURPOSE), Draws(3, 7, depth.PURPOSE)
        depth.draw_depth(now, {**picture, "bona_fide": living})
        with monkeypatch.context() as patch:
            for module, name in ((hair, "draw_hair"), (glasses, "draw_glasses"), (depth, "draw_driver")):
                patch.setattr(module, name, lambda _: None)
            depth.draw_depth(before, {**picture, "bona_fide": living})
        assert before.values.items() < now.values.items()
        assert {"depth_bearded", "depth_glasses", "depth_smoothed"} <= now.values.keys() - before.values.keys()
