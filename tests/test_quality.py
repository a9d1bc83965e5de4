"""Quality gates: each spoilt picture breaks its own limit, good pictures break none."""

from __future__ import annotations

import csv
import math
import os
from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from fasedge.errors import InputError
from fasedge.quality import DEFAULT_LIMITS, QualityLimits, assess, face_grey, measure
from fasedge.testing import synthetic_face, synthetic_frame
from fasedge.types import Box, Face, Frame, Reason

_FACE = synthetic_face((160, 120), 100)
_FRAME = synthetic_frame()


def _reasons(frame, face=_FACE, limits=DEFAULT_LIMITS):
    return assess(frame, face, limits).reasons


def _at(box):
    return Face(box)


def test_a_good_face_breaks_no_limit():
    report = assess(_FRAME, _FACE)
    assert report.reasons == ()
    assert report.is_usable


def test_a_small_face_is_too_small_by_its_shorter_side():
    frame = synthetic_frame(faces=(synthetic_face((160, 120), 200),))
    assert Reason.FACE_TOO_SMALL in _reasons(frame, _at(Box(100, 80, 163, 180)))
    assert Reason.FACE_TOO_SMALL not in _reasons(frame, _at(Box(100, 80, 164, 180)))


def test_a_blurred_face_is_blurred_and_nothing_else():
    blurred = Frame(rgb=cv2.GaussianBlur(_FRAME.rgb, (0, 0), 3.0))
    assert _reasons(blurred) == (Reason.FACE_BLURRED,)


def test_a_dark_face_is_too_dark():
    dark = Frame(rgb=(_FRAME.rgb // 6).astype(np.uint8))
    assert Reason.FACE_TOO_DARK in _reasons(dark)


def test_a_bright_face_is_over_exposed_by_its_mean():
    rgb = np.full((200, 200, 3), 235, np.uint8)
    rgb[::2, ::2] = 215  # keeps it sharp, nothing is clipped
    assert _reasons(Frame(rgb=rgb), synthetic_face((100, 100), 128)) == (Reason.FACE_OVER_EXPOSED,)


def test_a_half_clipped_face_is_over_exposed_at_a_medium_mean():
    rgb = np.full((200, 200, 3), 90, np.uint8)
    rgb[:, :100] = 255
    report = assess(Frame(rgb=rgb), synthetic_face((100, 100), 128))
    assert report.measures.clipped_fraction == pytest.approx(0.5)
    assert report.measures.brightness == pytest.approx((90 + 255) / 2)
    assert report.reasons == (Reason.FACE_OVER_EXPOSED,)


def test_a_face_across_the_edge_is_cut_by_the_frame():
    cut = synthetic_face((38, 120), 100)  # 12 of 100 px are outside
    report = assess(synthetic_frame(faces=(cut,)), cut)
    assert report.measures.visible_fraction == pytest.approx(0.88)
    assert report.reasons == (Reason.FACE_CUT_BY_FRAME,)


@pytest.mark.parametrize("box", [Box(-300, -300, -100, -100), Box(320, 0, 420, 100), Box(1e6, 1e6, 2e6, 2e6)])
def test_a_face_outside_the_frame_is_cut_whatever_the_limits(box):
    lenient = QualityLimits(min_visible_fraction=0.0)
    report = assess(_FRAME, _at(box), lenient)
    assert report.reasons == (Reason.FACE_CUT_BY_FRAME,)
    assert report.measures.sharpness is None


def test_a_face_turned_away_is_an_extreme_pose():
    points = np.array(_FACE.key_points)
    points[2, 0] = points[5, 0] + 40  # the nose tip stands far beyond the ear, as in a profile
    assert _reasons(_FRAME, Face(_FACE.box, 0.9, points)) == (Reason.EXTREME_POSE,)


def test_a_leaning_face_is_an_extreme_pose_beyond_the_limit_only():
    def leaning(degrees):
        a = math.radians(degrees)
        turn = np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
        centre = np.array([160, 120])
        return Face(_FACE.box, 0.9, ((np.array(_FACE.key_points) - centre) @ turn.T + centre).astype(np.float32))

    assert _reasons(_FRAME, leaning(DEFAULT_LIMITS.max_roll_deg + 1)) == (Reason.EXTREME_POSE,)
    assert _reasons(_FRAME, leaning(-DEFAULT_LIMITS.max_roll_deg - 1)) == (Reason.EXTREME_POSE,)
    assert _reasons(_FRAME, leaning(DEFAULT_LIMITS.max_roll_deg - 1)) == ()


def test_pose_is_not_judged_without_key_points():
    strict = replace(DEFAULT_LIMITS, max_yaw_deg=0.0, max_pitch_deg=0.0, max_roll_deg=0.0)
    report = assess(_FRAME, _at(_FACE.box), strict)
    assert report.reasons == ()
    assert report.measures.yaw_deg is None
    assert "yaw_deg" not in report.measures.as_dict()


def test_several_broken_limits_are_all_named():
    black = Frame(rgb=np.zeros((60, 60, 3), np.uint8))
    assert _reasons(black, _at(Box(-30, 0, 30, 60))) == (
        Reason.FACE_TOO_SMALL,
        Reason.FACE_BLURRED,
        Reason.FACE_TOO_DARK,
        Reason.FACE_CUT_BY_FRAME,
    )


def test_sharpness_equals_a_hand_made_laplacian_variance():
    face = Face(Box(50, 40, 178, 168))  # 128 px: no resizing
    grey = face_grey(_FRAME.rgb, face.box).astype(np.int64)
    assert np.abs(grey - _FRAME.rgb[40:168, 50:178] @ np.array([0.299, 0.587, 0.114])).max() <= 1
    padded = np.pad(grey, 1, mode="reflect")
    laplacian = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * grey
    assert measure(_FRAME, face).sharpness == pytest.approx(laplacian.var(), rel=1e-4)


def test_sharpness_hardly_depends_on_the_resolution_of_the_same_picture():
    smooth = cv2.GaussianBlur(_FRAME.rgb, (0, 0), 1.0)
    big = cv2.resize(smooth, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    box = Box(96, 56, 224, 184)
    large_box = Box(*(4 * v for v in box.xyxy))
    small, large = measure(Frame(rgb=smooth), Face(box)).sharpness, measure(Frame(rgb=big), Face(large_box)).sharpness
    assert small is not None
    assert large == pytest.approx(small, rel=0.25)


def test_the_rest_of_the_frame_does_not_matter():
    rgb = np.array(_FRAME.rgb)
    before = measure(_FRAME, _FACE)
    rgb[:, :100] = 0
    rgb[:60] = 255
    assert measure(Frame(rgb=rgb), _FACE) == before


@pytest.mark.parametrize("name", [f.name for f in fields(QualityLimits)])
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_an_impossible_limit_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=name):
        QualityLimits(**{name: value})


def test_limits_that_no_face_can_meet_are_refused():
    with pytest.raises(InputError, match="max_clipped_fraction"):
        QualityLimits(max_clipped_fraction=1.5)
    with pytest.raises(InputError, match="must not exceed"):
        QualityLimits(min_brightness=200.0, max_brightness=100.0)


def test_the_default_limits_refuse_less_than_one_percent_of_good_pictures():
    root = os.environ.get("FASEDGE_DATA")
    if not root:
        pytest.skip("FASEDGE_DATA is not set: no bona fide pictures")
    refused = total = 0
    with (Path(root) / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    for row in rows:
        x, y, w, h = (float(row[f"face_{k}"]) for k in "xywh")
        names = ("reye", "leye", "nose", "mouth", "rear", "lear")
        points = np.array([[float(row[f"{n}_{axis}"]) for axis in "xy"] for n in names], np.float32)
        bgr = cv2.imread(str(Path(root) / row["path"]))
        report = assess(Frame.from_bgr(bgr), Face(Box(x, y, x + w, y + h), 1.0, points))
        total += 1
        refused += bool(report.reasons)
        # The manifest was made by another program with its own measure of the same name.
        assert report.measures.brightness == pytest.approx(float(row["luma"]), abs=12)
    assert refused / total < 0.01
