"""Depth as bytes: against a page worked by hand, against plain loops, and where there is none."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasedge.depth import FaceDepth, crop_depth, crop_faces_rgbd, depth_to_bytes, measure_face_depth
from fasedge.errors import FrameError, InputError
from fasedge.preprocess import InputSpec, crop_face
from fasedge.types import Box, Face, Frame

_RNG = np.random.default_rng(11)


def _by_loops(depth_mm, box):
    """The rule in plain Python, for a box with whole-numbered sides inside the picture."""
    x1, y1, x2, y2 = (int(v) for v in box.xyxy)
    seen = [int(depth_mm[y, x]) for y in range(y1, y2) for x in range(x1, x2) if depth_mm[y, x] > 1]
    median = statistics.median(seen)
    spread = max(statistics.median(abs(v - median) for v in seen), 1)
    out = np.zeros(depth_mm.shape, np.uint8)
    for place, v in np.ndenumerate(depth_mm):
        if v > 1:
            out[place] = int(min(max(255 * (int(v) - median + 3 * spread) / (6 * spread), 0), 255))
    return out


def _scene(seed=11, side=40):
    rng = np.random.default_rng(seed)
    depth = rng.integers(500, 900, (side, side)).astype(np.uint16)
    depth[rng.random((side, side)) < 0.2] = 0
    return depth


def test_a_page_worked_by_hand():
    # In the box, without the hole and the 1: 600, 610, 620, 630, 700 -> median 620; deviations 20, 10, 0, 10, 80 -> 10.
    depth = np.array([[600, 610, 620, 9000], [0, 630, 700, 9000], [1, 9000, 9000, 9000]], np.uint16)
    measured = measure_face_depth(depth, Box(0, 0, 3, 2))
    assert measured == FaceDepth(median_mm=620.0, spread_mm=10.0, valid_fraction=5 / 6)
    # 255 · (v − 620 + 30) / 60: 600 -> 42.5, 610 -> 85, 620 -> 127.5, 630 -> 170, 700 -> 467.5, cut
    expected = [[42, 85, 127, 255], [0, 170, 255, 255], [0, 255, 255, 255]]
    assert depth_to_bytes(depth, measured).tolist() == expected


@given(seed=st.integers(0, 10_000), x=st.integers(0, 20), y=st.integers(0, 20), w=st.integers(1, 20))
def test_bytes_equal_those_of_plain_loops(seed, x, y, w):
    depth, box = _scene(seed), Box(x, y, x + w, y + 20)
    measured = measure_face_depth(depth, box)
    assert measured is not None
    assert np.array_equal(depth_to_bytes(depth, measured), _by_loops(depth, box))


def test_only_the_face_box_sets_the_scale():
    depth = _scene()
    box = Box(10, 10, 30, 30)
    before = measure_face_depth(depth, box)
    changed = np.full_like(depth, 7000)
    changed[10:30, 10:30] = depth[10:30, 10:30]
    assert measure_face_depth(changed, box) == before


def test_what_is_outside_the_frame_is_not_counted():
    depth = _scene()
    assert measure_face_depth(depth, Box(-15, -15, 12, 12)) == measure_face_depth(depth, Box(0, 0, 12, 12))


def test_the_relief_of_a_face_is_the_same_at_any_distance():
    relief = _RNG.integers(0, 80, (24, 24)).astype(np.uint16)
    box = Box(4, 4, 20, 20)
    near, far = relief + np.uint16(400), relief + np.uint16(1900)
    assert np.array_equal(
        depth_to_bytes(near, measure_face_depth(near, box)), depth_to_bytes(far, measure_face_depth(far, box))
    )


def test_a_print_parallel_to_the_sensor_does_not_divide_by_zero():
    depth = np.full((20, 20), 600, np.uint16)
    depth[:4] = 602
    measured = measure_face_depth(depth, Box(0, 0, 20, 20))
    assert measured is not None
    assert measured.spread_mm == 1.0
    # 255 · 3 / 6 = 127.5 and 255 · 5 / 6 = 212.5
    assert set(depth_to_bytes(depth, measured).ravel().tolist()) == {127, 212}


def test_holes_stay_dark_even_where_the_formula_would_light_them():
    # 255 · (0 − 600 + 750) / 1500 = 25 by the formula.
    assert depth_to_bytes(np.array([0, 1, 600], np.uint16), FaceDepth(600.0, 250.0, 1.0)).tolist() == [0, 0, 127]


@pytest.mark.parametrize("box", [Box(0, 0, 10, 10), Box(-90, -90, -50, -50), Box(1e6, 0, 2e6, 10)])
def test_a_face_without_any_depth_has_no_measure(box):
    depth = _scene()
    depth[:12, :12] = 1
    assert measure_face_depth(depth, box) is None


@given(st.floats(-40, 60), st.floats(-40, 60), st.floats(2, 60), st.sampled_from([0.5, 1.0, 2.0]))
def test_a_crop_is_that_of_the_whole_picture_in_bytes(x, y, side, scale):
    depth, measured = _scene(), FaceDepth(700.0, 90.0, 1.0)
    box, spec = Box(x, y, x + side, y + side), InputSpec(size_px=16, crop_scale=scale)
    expected = crop_face(depth_to_bytes(depth, measured), box, spec)
    assert np.array_equal(crop_depth(depth, box, spec, measured), expected)


def test_colour_and_depth_of_several_faces_stand_side_by_side():
    depth = _scene()
    frame = Frame(_RNG.integers(0, 256, (40, 40, 3), np.uint8), depth_mm=depth)
    faces = [Face(Box(2, 2, 18, 18)), Face(Box(20, 18, 44, 42))]
    spec = InputSpec(size_px=8, crop_scale=1.0)
    out = crop_faces_rgbd(frame, faces, spec)
    assert (out.dtype, out.shape) == (np.uint8, (2, 8, 8, 4))
    for got, face in zip(out, faces, strict=True):
        assert np.array_equal(got[..., :3], crop_face(frame.rgb, face.box, spec))
    assert np.array_equal(out[0, ..., 3], crop_face(_by_loops(depth, faces[0].box), faces[0].box, spec))


def test_missing_depth_is_an_error_and_never_zeros():
    rgb, spec = np.zeros((40, 40, 3), np.uint8), InputSpec(size_px=8)
    with pytest.raises(FrameError, match="without"):
        crop_faces_rgbd(Frame(rgb), [Face(Box(0, 0, 9, 9))], spec)
    holes = Frame(rgb, depth_mm=np.zeros((40, 40), np.uint16))
    with pytest.raises(FrameError, match="all holes"):
        crop_faces_rgbd(holes, [Face(Box(0, 0, 9, 9))], spec)
    with pytest.raises(InputError, match="at least one face"):
        crop_faces_rgbd(holes, [], spec)


@pytest.mark.parametrize(
    "depth",
    [np.zeros((4, 4), np.float32), np.zeros((4, 4, 1), np.uint16), [[0, 0], [0, 0]]],
    ids=["float", "3d", "list"],
)
def test_depth_of_another_kind_is_refused(depth):
    with pytest.raises(FrameError, match=r"uint16 \(H, W\)"):
        measure_face_depth(depth, Box(0, 0, 2, 2))
    with pytest.raises(FrameError, match=r"uint16 \(H, W\)"):
        crop_depth(depth, Box(0, 0, 2, 2), InputSpec(size_px=8), FaceDepth(600.0, 10.0, 1.0))
