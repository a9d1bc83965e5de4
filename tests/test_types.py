"""Frames, faces and results keep what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fasedge.errors import FrameError, InputError
from fasedge.types import MAX_SIDE_PX, Box, Decision, Face, Frame, Intrinsics, Observation, PadResult


def _result(decision: Decision) -> PadResult:
    return PadResult(face=Face(Box(0, 0, 1, 1)), score=0.5, decision=decision, threshold=0.5)


@pytest.mark.parametrize(
    "rgb",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.broadcast_to(np.uint8(0), (1, MAX_SIDE_PX + 1, 3)),
        [[[0, 0, 0]]],
        None,
    ],
)
def test_a_frame_refuses_what_is_not_a_uint8_colour_picture(rgb):
    with pytest.raises(FrameError):
        Frame(rgb=rgb)


def test_the_message_of_a_refused_frame_names_what_came():
    with pytest.raises(FrameError, match=r"uint8 \(H, W, 3\), got float64 \(2, 2, 3\)"):
        Frame(rgb=np.zeros((2, 2, 3)))


@pytest.mark.parametrize(
    "depth", [np.zeros((4, 5), np.uint16), np.zeros((4, 4), np.float32), np.zeros((4, 4, 1), np.uint16), [0]]
)
def test_a_frame_refuses_depth_that_is_not_aligned_uint16(depth):
    with pytest.raises(FrameError, match="depth_mm"):
        Frame(rgb=np.zeros((4, 4, 3), np.uint8), depth_mm=depth)


def test_a_frame_cannot_be_written_to_while_the_callers_arrays_stay_writeable():
    rgb, depth = np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.uint16)
    frame = Frame(rgb=rgb, depth_mm=depth)
    with pytest.raises(ValueError, match="read-only"):
        frame.rgb[0, 0, 0] = 1
    assert frame.depth_mm is not None
    with pytest.raises(ValueError, match="read-only"):
        frame.depth_mm[0, 0] = 1
    rgb[0, 0, 0] = 7
    depth[0, 0] = 7
    assert (frame.width, frame.height) == (6, 4)


def test_from_bgr_turns_blue_first_into_red_first():
    bgr = np.array([[[1, 2, 3]]], np.uint8)
    assert Frame.from_bgr(bgr).rgb[0, 0].tolist() == [3, 2, 1]


def test_from_bgr_does_not_share_memory_with_the_picture():
    bgr = np.zeros((2, 2, 3), np.uint8)
    frame = Frame.from_bgr(bgr)
    bgr[:] = 9
    assert frame.rgb.max() == 0


def test_from_bgr_refuses_a_grey_picture_under_its_own_name():
    with pytest.raises(FrameError, match="from_bgr"):
        Frame.from_bgr(np.zeros((2, 2), np.uint8))


@pytest.mark.parametrize("xyxy", [(0, 0, 0, 1), (0, 1, 1, 0), (0, 0, math.nan, 1), (-math.inf, 0, 1, 1)])
def test_a_box_refuses_empty_and_infinite_areas(xyxy):
    with pytest.raises(InputError):
        Box(*xyxy)


def test_a_box_knows_its_sides_centre_and_area():
    box = Box(1, 2, 5, 10)
    assert (box.width, box.height, box.center, box.area) == (4, 8, (3, 6), 32)


@pytest.mark.parametrize("values", [(0, 1, 0, 0), (1, -1, 0, 0), (1, 1, math.nan, 0), (math.inf, 1, 0, 0)])
def test_intrinsics_refuse_impossible_cameras(values):
    with pytest.raises(InputError):
        Intrinsics(*values)


def test_a_face_copies_its_key_points_and_leaves_the_callers_array_alone():
    points = np.arange(12, dtype=np.float32).reshape(6, 2)
    face = Face(Box(0, 0, 1, 1), key_points=points)
    points[0, 0] = 99  # still writeable, and not seen by the face
    assert face.key_points is not None
    assert face.key_points[0, 0] == 0
    assert not face.key_points.flags.writeable


@pytest.mark.parametrize(
    "points", [np.zeros((5, 2), np.float32), np.zeros((6, 3), np.float32), np.full((6, 2), np.nan), [[0, 0]] * 6]
)
def test_a_face_refuses_key_points_that_are_malformed_or_not_finite(points):
    with pytest.raises(InputError, match="key_points"):
        Face(Box(0, 0, 1, 1), key_points=points)


@pytest.mark.parametrize(
    ("decisions", "expected"),
    [
        ([], Decision.NON_RESPONSE),
        ([Decision.BONA_FIDE], Decision.BONA_FIDE),
        ([Decision.BONA_FIDE, Decision.BONA_FIDE], Decision.BONA_FIDE),
        ([Decision.BONA_FIDE, Decision.NON_RESPONSE], Decision.NON_RESPONSE),
        ([Decision.BONA_FIDE, Decision.ATTACK], Decision.ATTACK),
        ([Decision.NON_RESPONSE, Decision.ATTACK], Decision.ATTACK),
        ([Decision.NON_RESPONSE], Decision.NON_RESPONSE),
    ],
)
def test_the_decision_about_a_frame_is_the_most_cautious_one(decisions, expected):
    assert Observation(results=tuple(_result(d) for d in decisions)).decision is expected


def test_only_a_positive_decision_is_bona_fide():
    assert [_result(d).is_bona_fide for d in (Decision.BONA_FIDE, Decision.ATTACK, Decision.NON_RESPONSE)] == [
        True,
        False,
        False,
    ]


def test_a_result_without_heads_has_an_empty_mapping_that_cannot_be_filled():
    heads = _result(Decision.ATTACK).heads
    assert dict(heads) == {}
    with pytest.raises(TypeError):
        heads["a"] = 1.0
