"""Boxes, crops and head pose against rasters, hand-worked values and a head in three dimensions."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasedge.errors import InputError
from fasedge.geometry import box_from_xywh, crop_square, head_pose_deg, iou, scale_points, visible_fraction
from fasedge.types import Box

_SIDE = 24


@st.composite
def _pixel_boxes(draw, low=0, high=_SIDE):
    x1, y1 = draw(st.integers(low, high - 1)), draw(st.integers(low, high - 1))
    return Box(x1, y1, draw(st.integers(x1 + 1, high)), draw(st.integers(y1 + 1, high)))


def _raster(box, low=0, high=_SIDE):
    """Mark the pixels of a box with whole coordinates, pixel by pixel."""
    at = np.arange(low, high)
    return ((at >= box.y1) & (at < box.y2))[:, None] & ((at >= box.x1) & (at < box.x2))[None, :]


@given(_pixel_boxes(), _pixel_boxes())
def test_iou_equals_counting_pixels(a, b):
    ma, mb = _raster(a), _raster(b)
    assert iou(a, b) == pytest.approx((ma & mb).sum() / (ma | mb).sum())


@given(_pixel_boxes(), _pixel_boxes())
def test_iou_is_symmetric_and_one_for_the_same_box(a, b):
    assert iou(a, b) == iou(b, a)
    assert iou(a, a) == 1.0


@given(_pixel_boxes(-_SIDE, 2 * _SIDE))
def test_visible_fraction_equals_counting_pixels(box):
    low, high = -_SIDE, 2 * _SIDE
    mask = _raster(box, low, high)
    inside = mask[_SIDE : 2 * _SIDE, _SIDE : 2 * _SIDE]  # the frame starts at coordinate 0
    assert visible_fraction(box, _SIDE, _SIDE) == pytest.approx(inside.sum() / mask.sum())


def test_crop_square_of_a_portrait_box_has_the_geometric_mean_as_its_side():
    # 40 x 90: geometric mean 60, times 1.5 gives 90; centre (30, 55).
    assert crop_square(Box(10, 10, 50, 100), 1.5).xyxy == (-15, 10, 75, 100)


@given(
    st.floats(-1e6, 1e6),
    st.floats(-1e6, 1e6),
    st.floats(1, 1e4),
    st.floats(1, 1e4),
    st.floats(0.1, 10, exclude_min=True),
)
def test_crop_square_is_square_and_keeps_the_centre(x, y, width, height, scale):
    box = Box(x, y, x + width, y + height)
    square = crop_square(box, scale)
    assert square.width == pytest.approx(square.height, rel=1e-4)
    assert square.center == pytest.approx(box.center, abs=1e-3)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_crop_square_refuses_an_impossible_scale(scale):
    with pytest.raises(InputError, match="scale"):
        crop_square(Box(0, 0, 1, 1), scale)


def test_box_from_xywh_adds_the_size_to_the_corner():
    assert box_from_xywh(1, 2, 3, 4) == Box(1, 2, 4, 6)
    with pytest.raises(InputError):
        box_from_xywh(0, 0, -1, 1)


def test_scale_points_stretches_each_axis_by_its_own_factor():
    scaled = scale_points(np.array([[1, 2], [3, 4]]), 2, 10)
    assert scaled.tolist() == [[2, 20], [6, 40]]
    assert scaled.dtype == np.float32


# A plain adult head in millimetres, x to the picture's right, y down, z away from the camera; origin between the ears.
_HEAD = np.array(
    [(-32, -18, -98), (32, -18, -98), (0, 24, -140), (0, 62, -108), (-75, 0, 0), (75, 0, 0)],
    float,
)


def _project(yaw_deg=0.0, pitch_deg=0.0, roll_deg=0.0):
    """Turn the head and project it in parallel, as a camera far away sees it."""
    a, b, c = (math.radians(v) for v in (yaw_deg, pitch_deg, roll_deg))
    # yaw > 0: the nose (at z < 0) goes to x > 0; pitch > 0: the nose goes down, to y > 0; roll > 0: clockwise.
    turn = np.array([[math.cos(a), 0, -math.sin(a)], [0, 1, 0], [math.sin(a), 0, math.cos(a)]])
    nod = np.array([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
    lean = np.array([[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]])
    return ((lean @ turn @ nod @ _HEAD.T).T[:, :2] * 2 + 300).astype(np.float32)


@pytest.mark.parametrize("yaw", [-45, -30, -15, 0, 15, 30, 45])
def test_yaw_of_a_turned_head_is_found_within_six_degrees(yaw):
    assert head_pose_deg(_project(yaw_deg=yaw))[0] == pytest.approx(yaw, abs=6)


@pytest.mark.parametrize("pitch", [-30, -15, 0, 15, 30])
def test_pitch_of_a_nodding_head_is_found_within_ten_degrees(pitch):
    assert head_pose_deg(_project(pitch_deg=pitch))[1] == pytest.approx(pitch, abs=10)


@given(st.floats(-90, 90), st.floats(-25, 25))
def test_roll_is_the_lean_of_a_head_and_leaves_the_other_angles_alone(roll, yaw):
    upright, leaning = head_pose_deg(_project(yaw_deg=yaw)), head_pose_deg(_project(yaw_deg=yaw, roll_deg=roll))
    assert leaning[2] == pytest.approx(roll, abs=0.05)
    assert leaning[:2] == pytest.approx(upright[:2], abs=0.05)


def test_mirroring_a_picture_turns_yaw_and_roll_round():
    points = _project(yaw_deg=20, pitch_deg=10, roll_deg=5)
    mirrored = points[[1, 0, 2, 3, 5, 4]] * np.array([-1, 1], np.float32) + np.array([600, 0], np.float32)
    yaw, pitch, roll = head_pose_deg(points)
    assert head_pose_deg(mirrored) == pytest.approx((-yaw, pitch, -roll), abs=1e-3)


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=12, max_size=12))
def test_any_key_points_give_finite_angles_in_range(values):
    yaw, pitch, roll = head_pose_deg(np.array(values, np.float32).reshape(6, 2))
    assert abs(yaw) <= 90
    assert abs(pitch) <= 90
    assert abs(roll) <= 180


def test_coinciding_eyes_and_an_upside_down_mouth_are_extreme():
    points = _project()
    same = points.copy()
    same[1] = same[0]
    assert head_pose_deg(same)[0] == 90.0
    swapped = points.copy()
    swapped[3] = 2 * (points[0] + points[1]) / 2 - points[3]
    assert head_pose_deg(swapped)[1] == 90.0


def test_pose_agrees_with_a_face_mesh_on_pictures_that_the_fit_did_not_see():
    root = os.environ.get("FASEDGE_DATA")
    if not root:
        pytest.skip("FASEDGE_DATA is not set: no manifest with mesh poses")
    found, mesh = [], []
    with (Path(root) / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if row["split"] != "train":
                names = ("reye", "leye", "nose", "mouth", "rear", "lear")
                points = [[float(row[f"{n}_{axis}"]) for axis in "xy"] for n in names]
                found.append(head_pose_deg(np.array(points, np.float32)))
                # The manifest's README: a level face reads about +5 degrees of pitch.
                mesh.append((float(row["yaw"]), float(row["pitch"]) - 5, float(row["roll"])))
    error = np.abs(np.array(found) - np.array(mesh))
    assert (np.quantile(error, 0.9, axis=0) < (4, 7, 4)).all()
    assert np.corrcoef(np.array(found)[:, 0], np.array(mesh)[:, 0])[0, 1] > 0.95
