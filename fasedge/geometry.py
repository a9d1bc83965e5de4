"""Boxes, key points and crops. Pure NumPy."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fasedge.errors import InputError
from fasedge.types import Box, FloatArray

_EPSILON_PX = 1e-6


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


#: Nose tip between the eye line (0) and the mouth (1) on a level face.
_LEVEL_NOSE_PLACE = 0.525
#: Half the distance between the ears over the nose tip's distance in front of them.
_EARS_PER_NOSE = 0.51
#: Distance from the eye line to the mouth over the nose tip's distance in front of them.
_MOUTH_PER_NOSE = 0.65


def head_pose_deg(key_points: FloatArray) -> tuple[float, float, float]:
    """Rough head pose from six BlazeFace key points, weak perspective.

    Seen from far away, a head turned by ``yaw`` shows its half width ``w`` as ``w * cos(yaw)`` and its nose tip, which
    stands ``p`` before the axis of the ears, ``p * sin(yaw)`` beside the middle of the ears; so
    ``tan(yaw) = w / p * (a - b) / (a + b)`` with the nose tip's distances ``a`` and ``b`` to the two ears along the
    eye line. Pitch follows in the same way from the nose tip's place between the eye line and the mouth, roll is the
    slope of the eye line.

    The three constants were fitted by least absolute error on 1,126 bona fide pictures (the training split of the
    bona fide picture set; ``benchmarks/quality_limits.py`` repeats the fit) against the pose of a 478-point face
    mesh: half of the faces lie within 1.3 / 2.3 / 1.3 degrees of it, 90 % within 3.5 / 6.3 / 3.5, 99 % within
    7.1 / 11.4 / 6.6 (yaw / pitch / roll). The reference is itself rough and goes to 42 degrees of yaw: enough for a
    gate, no more.

    Args:
        key_points: float32 (6, 2) in pixels, order of :data:`fasedge.types.KEY_POINT_NAMES`.

    Returns:
        ``(yaw, pitch, roll)`` in degrees, yaw and pitch in [-90, 90], roll in [-180, 180]. Yaw > 0: the nose points to
        the picture's right. Pitch > 0: looking down; 0 is a level face. Roll > 0: the head leans clockwise in the
        picture. Coinciding eyes give a yaw of 90, a mouth that is not below the eyes a pitch of 90: no such face is
        frontal.

    Source: own derivation, above.
    """
    right_eye, left_eye, nose, mouth, right_ear, left_ear = np.asarray(key_points, np.float64)
    axis = left_eye - right_eye
    eye_distance = float(np.hypot(*axis))
    if eye_distance < _EPSILON_PX:
        return (90.0, 0.0, 0.0)
    roll = math.degrees(math.atan2(axis[1], axis[0]))
    x_axis = axis / eye_distance
    y_axis = np.array([-x_axis[1], x_axis[0]])
    past_right_ear = float(np.dot(nose - right_ear, x_axis))
    before_left_ear = float(np.dot(left_ear - nose, x_axis))
    across = max(past_right_ear + before_left_ear, _EPSILON_PX)
    yaw = math.degrees(math.atan2(_EARS_PER_NOSE * (past_right_ear - before_left_ear), across))
    eyes = (right_eye + left_eye) / 2
    eye_to_mouth = float(np.dot(mouth - eyes, y_axis))
    if eye_to_mouth < _EPSILON_PX:
        return (yaw, 90.0, roll)
    place = float(np.dot(nose - eyes, y_axis)) / eye_to_mouth
    pitch = math.degrees(math.atan2(place - _LEVEL_NOSE_PLACE, _MOUTH_PER_NOSE))
    return (yaw, pitch, roll)


def box_from_xywh(x: float, y: float, w: float, h: float) -> Box:
    """Make a box from its upper left corner and size in pixels.

    Raises:
        InputError: A side is not positive or a value is not finite.
    """
    return Box(x, y, x + w, y + h)


def scale_points(points: NDArray[np.floating], factor_x: float, factor_y: float) -> FloatArray:
    """Scale points (..., 2) about the origin."""
    return (np.asarray(points, np.float32) * np.array([factor_x, factor_y], np.float32)).astype(np.float32)
