"""Quality gates: is this face fit to be judged at all?

A network answers every picture, also one it cannot know anything about. The gates turn a face that is too small,
blurred, dark, bleached, cut off or turned away into reasons, so that the decision can be *not checked* in place of a
guess. They look at the face only (cropped first), never at the whole frame.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType

import cv2
import numpy as np

from fasedge.errors import InputError
from fasedge.geometry import head_pose_deg, visible_fraction
from fasedge.preprocess import InputSpec, crop_face
from fasedge.types import Box, Face, Frame, Reason, UInt8Array

#: Side to which the face is resized before light and sharpness are measured, in pixels.
MEASURE_SIDE_PX = 128
#: Grey value from which a pixel counts as clipped; below 255 because JPEG and scaling soften clipped regions.
CLIPPED_FROM = 250
_BARE_FACE = InputSpec(name="quality", size_px=MEASURE_SIDE_PX, crop_scale=1.0)


@dataclass(frozen=True, slots=True)
class QualityLimits:
    """What a face must fulfil to be judged.

    The defaults were set on 1,638 bona fide pictures (1,163 identities; studio, office, outdoors, flash, synthetic):
    they refuse 6 of them, 0.4 %, while pictures that were spoilt on purpose (faces of 48 px, blurred with a sigma of
    2 px at 128 px, lit at 15 %, cut by a fifth) are refused in at least 99 % of cases and pictures lit at 300 % in
    93 %. ``benchmarks/quality_limits.py`` prints the tables.

    Attributes:
        min_face_px: Shorter side of the face box in pixels of the frame, at least.
        min_sharpness: Variance of the Laplacian (grey values squared) of the face at 128 x 128 px, at least.
        min_brightness: Mean grey value of the face in [0, 255], at least.
        max_brightness: Mean grey value of the face in [0, 255], at most.
        max_clipped_fraction: Share of the face's pixels with a grey value of 250 or more, at most.
        min_visible_fraction: Share of the face box that lies inside the frame, at least.
        max_yaw_deg: Turn of the head to either side in degrees, at most.
        max_pitch_deg: Nod of the head up or down in degrees, at most.
        max_roll_deg: Lean of the head to either side in degrees, at most.

    Raises:
        InputError: A limit is not finite, negative, or outside the range of its measure.
    """

    min_face_px: float = 64.0
    min_sharpness: float = 30.0
    min_brightness: float = 40.0
    max_brightness: float = 220.0
    max_clipped_fraction: float = 0.30
    min_visible_fraction: float = 0.90
    max_yaw_deg: float = 40.0
    max_pitch_deg: float = 30.0
    max_roll_deg: float = 35.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            top = _TOPS.get(item.name, math.inf)
            if not math.isfinite(value) or not 0 <= value <= top:
                raise InputError(f"{item.name} must be a finite number in [0, {top:g}], got {value!r}")
        if self.min_brightness > self.max_brightness:
            raise InputError(
                f"min_brightness must not exceed max_brightness, got {self.min_brightness} > {self.max_brightness}"
            )


_TOPS = {
    "min_brightness": 255.0,
    "max_brightness": 255.0,
    "max_clipped_fraction": 1.0,
    "min_visible_fraction": 1.0,
    "max_yaw_deg": 180.0,
    "max_pitch_deg": 180.0,
    "max_roll_deg": 180.0,
}

#: The limits that a detector uses unless told otherwise.
DEFAULT_LIMITS = QualityLimits()


@dataclass(frozen=True, slots=True)
class QualityMeasures:
    """What was measured on one face; units as in :class:`QualityLimits`.

    Attributes:
        face_px: Shorter side of the face box in pixels.
        visible_fraction: Share of the face box inside the frame, in [0, 1].
        sharpness: Variance of the Laplacian at 128 px; ``None`` when nothing of the face lies inside the frame.
        brightness: Mean grey value in [0, 255]; ``None`` likewise.
        clipped_fraction: Share of clipped pixels in [0, 1]; ``None`` likewise.
        yaw_deg: Turn of the head; > 0 to the picture's right. ``None`` without key points.
        pitch_deg: Nod of the head; > 0 looking down. ``None`` without key points.
        roll_deg: Lean of the head; > 0 clockwise in the picture. ``None`` without key points.
    """

    face_px: float
    visible_fraction: float
    sharpness: float | None = None
    brightness: float | None = None
    clipped_fraction: float | None = None
    yaw_deg: float | None = None
    pitch_deg: float | None = None
    roll_deg: float | None = None

    def as_dict(self) -> Mapping[str, float]:
        """The measures that were taken, by name."""
        taken = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        return MappingProxyType(taken)


@dataclass(frozen=True, slots=True)
class QualityReport:
    """Measures of one face and what they break.

    Attributes:
        measures: What was measured.
        reasons: The broken limits, in the order of :class:`fasedge.types.Reason`; empty for a face fit to be judged.
    """

    measures: QualityMeasures
    reasons: tuple[Reason, ...] = field(default=())

    @property
    def is_usable(self) -> bool:
        """Whether no limit is broken."""
        return not self.reasons


def measure(frame: Frame, face: Face) -> QualityMeasures:
    """Measure size, light, sharpness, cut and pose of one face.

    Args:
        frame: The picture.
        face: A face in it; its box may reach beyond the frame, key points may be unknown.

    Returns:
        The measures. Light and sharpness come from the part of the face box inside the frame.
    """
    box = face.box
    visible = visible_fraction(box, frame.width, frame.height)
    yaw = pitch = roll = None
    if face.key_points is not None:
        yaw, pitch, roll = head_pose_deg(face.key_points)
    sharpness = brightness = clipped = None
    inside = _inside(box, frame)
    if inside is not None:
        grey = face_grey(frame.rgb, inside)
        sharpness = float(cv2.Laplacian(grey, cv2.CV_32F).var())
        brightness = float(grey.mean())
        clipped = float(np.count_nonzero(grey >= CLIPPED_FROM)) / grey.size
    return QualityMeasures(
        face_px=min(box.width, box.height),
        visible_fraction=visible,
        sharpness=sharpness,
        brightness=brightness,
        clipped_fraction=clipped,
        yaw_deg=yaw,
        pitch_deg=pitch,
        roll_deg=roll,
    )


def _inside(box: Box, frame: Frame) -> Box | None:
    x1, x2 = max(box.x1, 0.0), min(box.x2, float(frame.width))
    y1, y2 = max(box.y1, 0.0), min(box.y2, float(frame.height))
    return Box(x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def face_grey(rgb: UInt8Array, box: Box) -> UInt8Array:
    """The face at 128 x 128 px in grey values.

    The fixed size makes the sharpness of a face comparable over camera resolutions and distances.

    Args:
        rgb: uint8 (H, W, 3), red first.
        box: Face box in pixels.

    Returns:
        uint8 (128, 128), luma of ITU-R BT.601.
    """
    return np.asarray(cv2.cvtColor(crop_face(rgb, box, _BARE_FACE), cv2.COLOR_RGB2GRAY), np.uint8)


def assess(frame: Frame, face: Face, limits: QualityLimits = DEFAULT_LIMITS) -> QualityReport:
    """Measure one face and say which limits it breaks.

    Args:
        frame: The picture.
        face: A face in it.
        limits: What it must fulfil.

    Returns:
        The measures and the reasons. Pose is only judged where key points are known; a face of which nothing lies
        inside the frame has :attr:`Reason.FACE_CUT_BY_FRAME` whatever the limits.
    """
    taken = measure(frame, face)
    checks = (
        (Reason.FACE_TOO_SMALL, taken.face_px < limits.min_face_px),
        (Reason.FACE_BLURRED, taken.sharpness is not None and taken.sharpness < limits.min_sharpness),
        (Reason.FACE_TOO_DARK, taken.brightness is not None and taken.brightness < limits.min_brightness),
        (Reason.FACE_OVER_EXPOSED, _is_over_exposed(taken, limits)),
        (
            Reason.FACE_CUT_BY_FRAME,
            taken.sharpness is None or taken.visible_fraction < limits.min_visible_fraction,
        ),
        (Reason.EXTREME_POSE, _is_turned_away(taken, limits)),
    )
    return QualityReport(measures=taken, reasons=tuple(reason for reason, broken in checks if broken))


def _is_over_exposed(taken: QualityMeasures, limits: QualityLimits) -> bool:
    if taken.brightness is None or taken.clipped_fraction is None:
        return False
    return taken.brightness > limits.max_brightness or taken.clipped_fraction > limits.max_clipped_fraction


def _is_turned_away(taken: QualityMeasures, limits: QualityLimits) -> bool:
    pairs = (
        (taken.yaw_deg, limits.max_yaw_deg),
        (taken.pitch_deg, limits.max_pitch_deg),
        (taken.roll_deg, limits.max_roll_deg),
    )
    return any(angle is not None and abs(angle) > limit for angle, limit in pairs)
