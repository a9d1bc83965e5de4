"""What a screen shows beside the picture, the fingers that hold it, and the colour that a camera leaves in."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from training.data.simulate import camera, compose, hand, overlay
from training.data.simulate.draws import Draws, Value
from training.data.simulate.optics import grid
from training.data.simulate.scene import FACE_HALF

SIZE = 200
#: Tile units that the canvas of these tests reaches to each side: the screen below and something round it.
REACH = 3.0 * FACE_HALF
PX = torch.full((1, 1, 1, 1), SIZE / 2 / REACH)
PLANE = grid(SIZE, SIZE)[None] * REACH
GREY = torch.full((1, 3, SIZE, SIZE), 0.5)
ROOM = torch.full((1, 3, SIZE, SIZE), 0.8)
UPRIGHT = {"edge_width": 1.5, "edge_height": 2.5, "edge_x": 0.0, "edge_y": 0.0}


def sample_with(**values: Value) -> list[Draws]:
    d = Draws(1, 2)
    d.values |= UPRIGHT | values
    return [d]


def changed(**values: Value) -> tuple[Tensor, Tensor]:
    """Picture with an interface (3, S, S), and where it differs from the one without, in face halves (n, 2)."""
    out = overlay.interface(GREY, PLANE, sample_with(**values), PX, ROOM)[0]
    where = (out != GREY[0]).any(0)
    return out, PLANE[0][where] / FACE_HALF


def test_without_an_interface_the_picture_is_the_same_one() -> None:
    assert overlay.interface(GREY, PLANE, sample_with(), PX, ROOM) is GREY


def test_a_status_bar_lies_along_the_upper_edge_with_marks_in_both_corners() -> None:
    shown, where = changed(status_bar=1.0, status_bar_height=0.1, status_bar_tone=0.0, status_bar_marks=0.4)
    # A tenth of a longer side of 5 face halves; half a pixel of it is soft.
    assert float(where[:, 1].max()) == pytest.approx(-2.0, abs=0.04)
    marks = PLANE[0][shown[0] > 0.8] / FACE_HALF
    assert -1.5 < float(marks[:, 0].min()) < -1.2
    assert 1.2 < float(marks[:, 0].max()) < 1.5
    assert not ((marks[:, 0].abs() < 0.25) & (marks[:, 1] > -2.5)).any()


@pytest.mark.parametrize(("width", "height", "axis"), [(1.5, 2.5, 1), (2.5, 1.5, 0)])
def test_a_notch_is_black_in_the_middle_of_a_shorter_edge(width: float, height: float, axis: int) -> None:
    shown, where = changed(notch=0.4, notch_height=0.04, edge_width=width, edge_height=height)
    middle = where.mean(0)
    assert float(middle[1 - axis]) == pytest.approx(0.0, abs=0.03)
    assert float(where[:, axis].max()) < -2.2
    # Two fifths of a shorter side of three face halves.
    assert float(where[:, 1 - axis].max() - where[:, 1 - axis].min()) == pytest.approx(1.2, abs=0.05)
    assert float(shown.min()) == 0.0


def test_a_pointer_points_at_its_place_and_is_white_with_a_dark_outline() -> None:
    shown, where = changed(pointer=0.2, pointer_x=0.4, pointer_y=-0.3)
    assert float(where[:, 0].min()) == pytest.approx(0.4, abs=0.05)
    assert float(where[:, 1].min()) == pytest.approx(-0.3, abs=0.08)
    assert float(where[:, 1].max()) < -0.3 + 0.2 * 1.4 + 0.05
    assert float(shown.max()) > 0.95
    assert float(shown.min()) < 0.35


def test_a_call_has_a_red_button_in_the_middle_of_the_lower_edge() -> None:
    shown, where = changed(call=1.0, call_size=0.08, call_height=0.1)
    red = PLANE[0][(shown[0] > 0.7) & (shown[1] < 0.3)] / FACE_HALF
    # A tenth of the height above the lower edge.
    assert float(red[:, 0].mean()) == pytest.approx(0.0, abs=0.03)
    assert float(red[:, 1].mean()) == pytest.approx(2.0, abs=0.05)
    assert float(where[:, 0].max() - where[:, 0].min()) == pytest.approx(0.24 * (2 * 3.2 + 2), abs=0.06)


@pytest.mark.parametrize("corner", ["upper_left", "upper_right", "lower_left", "lower_right"])
def test_an_inset_shows_the_room_in_its_corner(corner: str) -> None:
    shown, where = changed(inset=0.3, inset_level=0.5, inset_corner=corner)
    assert shown[:, shown[0] < 0.41].mean() == pytest.approx(0.4)
    assert (shown[0] < 0.41).sum() > 500
    assert (where[:, 0] * (1 if corner.endswith("right") else -1) > 0.4).all()
    assert (where[:, 1] * (1 if corner.startswith("lower") else -1) > 0.9).all()


def test_no_inset_is_drawn_over_the_face() -> None:
    wanted, drawn = 0, 0
    for index in range(3000):
        d = Draws(3, index)
        compose.draw_surroundings(d, ("phone", "tablet", "laptop", "monitor")[index % 4], (0.0, 0.1))
        overlay.draw_interface(d, "phone")
        wanted += d.values["inset_wanted"] != 0
        if not d.values["inset"]:
            continue
        drawn += 1
        shown = overlay.interface(GREY[..., ::4, ::4], PLANE[:, ::4, ::4], [only_inset(d)], PX / 4, ROOM[..., ::4, ::4])
        face = (PLANE[0, ::4, ::4].abs() < 0.95 * FACE_HALF).all(-1)
        assert torch.equal(shown[..., face], GREY[..., ::4, ::4][..., face])
    assert 0.2 < drawn / wanted < 0.95


def only_inset(d: Draws) -> Draws:
    d.values |= dict.fromkeys(("status_bar", "notch", "pointer", "call"), 0.0)
    return d


def test_fingers_lie_side_by_side_and_are_darker_towards_their_sides() -> None:
    half = tuple(torch.full((1, 1, 1, 1), v * FACE_HALF) for v in (1.5, 2.5))
    values: dict[str, Value] = {
        "finger": 0.2,
        "finger_place": -0.5,
        "finger_reach": 0.4,
        "finger_side": "left",
        "finger_uneven": 0.0,
        "finger_fan": 0.0,
    }
    cover, shade = hand.finger(
        PLANE, (half[0], half[1]), torch.zeros(1, 2), sample_with(**values, finger_count=3, finger_light=0.0), PX
    )
    # Just within the left edge: three pieces of skin, each about 0.4 face halves wide, less a sixteenth of the way in.
    column = cover[0, 0, :, round(SIZE / 2 * (1 - 1.4 / 3))] > 0.5
    starts = (column[1:] & ~column[:-1]).sum()
    assert int(starts) == 3
    assert int(column.sum()) * 6 / SIZE == pytest.approx(3 * 0.4, abs=0.1)
    lit = shade[0, 0, :, round(SIZE / 2 * (1 - 1.4 / 3))][column]
    assert float(lit.max()) > 0.98
    assert float(lit.min()) < 0.6
    assert not cover[0, 0, :, SIZE // 2 :].any()


def test_a_camera_leaves_part_of_the_colour_of_a_bulb() -> None:
    scene = torch.full((1, 3, 32, 32), 0.2)

    def red_over_blue(kelvin: float, residue: float) -> float:
        seen = camera.expose(scene, sample_with(light_kelvin=kelvin, awb_residue=residue))
        return float(seen[0, 0].mean() / seen[0, 2].mean())

    assert red_over_blue(2800, 0.0) == pytest.approx(1.0)
    assert red_over_blue(2800, 0.3) > red_over_blue(4000, 0.3) > red_over_blue(6500, 0.3) == pytest.approx(1.0)
    assert red_over_blue(8000, 0.3) < 1


def test_no_screen_is_exposed_beyond_what_a_camera_lets_go() -> None:
    scene = torch.full((1, 3, 32, 32), 0.2)
    seen = [
        float(camera.expose(scene, sample_with(exposure_target=0.4, display_metering=m)).mean()) for m in (1.2, 2.4)
    ]
    assert seen == [pytest.approx(0.48), pytest.approx(camera.BRIGHTEST)]
