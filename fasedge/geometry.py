"""Boxes, key points and crops. Pure NumPy."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fasedge.errors import InputError
from fasedge.types import Box, FloatArray


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, in [0, 1]."""
    width = min(a.x2, b.x2) - max(a.x1, b.x1)
    height = min(a.y2, b.y2) - max(a.y1, b.y1)
    if width <= 0 or height <= 0:
        return 0.0
    inter = width * height
    return inter / (a.area + b.area - inter)


def crop_square(box: Box, scale: float) -> Box:
    """The square that is cut out round a face.

    Its centre is the box's, its side ``scale * sqrt(width * height)``: the geometric mean keeps the crop nearly the
    same for finders with square boxes (BlazeFace) and for those with portrait ones (YuNet, RetinaFace).

    Args:
        box: Face box in pixels.
        scale: Side of the crop over the side of the box, > 0.

    Raises:
        InputError: ``scale`` is not a positive number.
    """
    if not math.isfinite(scale) or scale <= 0:
        raise InputError(f"crop scale must be a positive number, got {scale}")
    half = scale * math.sqrt(box.width * box.height) / 2
    cx, cy = box.center
    return Box(cx - half, cy - half, cx + half, cy + half)


def visible_fraction(box: Box, width: int, height: int) -> float:
    """Share of the box's area that lies inside a ``width`` x ``height`` frame, in [0, 1]."""
    inside_w = max(0.0, min(box.x2, width) - max(box.x1, 0.0))
    inside_h = max(0.0, min(box.y2, height) - max(box.y1, 0.0))
    return inside_w * inside_h / box.area


def head_pose_deg(key_points: FloatArray) -> tuple[float, float, float]:
    """Rough head pose from six BlazeFace key points, weak perspective.

    Yaw compares the nose tip's distance to the two ears along the eye line; pitch places the nose tip between the
    eye line and the mouth; roll is the slope of the eye line. Good to about 10 degrees, enough for a gate.

    Args:
        key_points: float32 (6, 2) in pixels, order of :data:`fasedge.types.KEY_POINT_NAMES`.

    Returns:
        ``(yaw, pitch, roll)`` in degrees. Yaw > 0: the nose points to the picture's right. Pitch > 0: looking down.
        Roll > 0: the head leans clockwise in the picture.
    """
    right_eye, left_eye, nose, mouth, right_ear, left_ear = np.asarray(key_points, np.float64)
    axis = left_eye - right_eye
    eye_distance = float(np.hypot(*axis))
    if eye_distance < 1e-6:
        return (90.0, 0.0, 0.0)
    roll = math.degrees(math.atan2(axis[1], axis[0]))
    x_axis = axis / eye_distance
    y_axis = np.array([-x_axis[1], x_axis[0]])
    to_right = float(np.dot(nose - right_ear, x_axis))
    to_left = float(np.dot(left_ear - nose, x_axis))
    # On a head of radius r turned by yaw, the nose tip moves by about r*sin(yaw) against the middle of the ears.
    half_width = max((to_right + to_left) / 2, eye_distance / 2)
    yaw = math.degrees(math.asin(float(np.clip((to_right - to_left) / 2 / half_width, -1.0, 1.0))))
    eyes = (right_eye + left_eye) / 2
    eye_to_mouth = float(np.dot(mouth - eyes, y_axis))
    if eye_to_mouth < 1e-6:
        return (yaw, 90.0, roll)
    # A level face has its nose tip at about 0.62 of the way from the eye line to the mouth (median of 1,126 faces).
    place = float(np.dot(nose - eyes, y_axis)) / eye_to_mouth
    pitch = math.degrees(math.atan2(place - _LEVEL_NOSE_PLACE, 0.5))
    return (yaw, pitch, roll)


_LEVEL_NOSE_PLACE = 0.62


def box_from_xywh(x: float, y: float, w: float, h: float) -> Box:
    """Make a box from its upper left corner and size in pixels.

    Raises:
        InputError: A side is not positive or a value is not finite.
    """
    return Box(x, y, x + w, y + h)


def scale_points(points: NDArray[np.floating], factor_x: float, factor_y: float) -> FloatArray:
    """Scale points (..., 2) about the origin."""
    return (np.asarray(points, np.float32) * np.array([factor_x, factor_y], np.float32)).astype(np.float32)
