"""From frame and face to network input: the only pre-processing in the repository.

Training, calibration, evaluation and the SDK call these functions. What follows in a network (brightness
normalisation, mean and standard deviation, colour spaces) is part of the exported graph, so that each engine gets
the same uint8 picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from fasedge.errors import InputError
from fasedge.geometry import crop_square
from fasedge.types import Box, Face, Frame, UInt8Array


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What a model wants to see of a face.

    Attributes:
        name: Logical input name, ``rgb``.
        size_px: Side of the square network input in pixels.
        crop_scale: Side of the crop over the side of the face box; 1 is the bare face, 2 shows what is around it.
    """

    name: str = "rgb"
    size_px: int = 128
    crop_scale: float = 1.5

    def __post_init__(self) -> None:
        if self.size_px < 1 or not 0 < self.crop_scale < 100:
            raise InputError(f"an input needs size_px >= 1 and crop_scale in (0, 100), got {self!r}")


def crop_face(rgb: UInt8Array, box: Box, spec: InputSpec) -> UInt8Array:
    """Cut one face out and resize it to the network's input.

    The square of :func:`fasedge.geometry.crop_square` is sampled with pixel centres at half-integers; what lies
    outside the frame repeats the frame's edge. Shrinking averages areas, enlarging interpolates linearly, so that
    neither aliases.

    Args:
        rgb: uint8 (H, W, 3), red first.
        box: Face box in pixels; may reach beyond the frame.
        spec: Size and crop scale.

    Returns:
        uint8 (S, S, 3), red first, S = ``spec.size_px``.
    """
    square = crop_square(box, spec.crop_scale)
    height, width = rgb.shape[:2]
    x1, y1 = round(square.x1), round(square.y1)
    side = max(1, round(square.width))
    x2, y2 = x1 + side, y1 + side
    # Clamp the index range first: a far-away box must not allocate a giant border.
    inner_x1, inner_x2 = min(max(x1, 0), width - 1), max(min(x2, width), 1)
    inner_y1, inner_y2 = min(max(y1, 0), height - 1), max(min(y2, height), 1)
    inner_x2, inner_y2 = max(inner_x2, inner_x1 + 1), max(inner_y2, inner_y1 + 1)
    patch = rgb[inner_y1:inner_y2, inner_x1:inner_x2]
    if (inner_x2 - inner_x1, inner_y2 - inner_y1) == (side, side):
        return _resize(patch, spec.size_px, spec.size_px)
    # Resize the visible part first and extend it afterwards: same picture, bounded memory.
    factor = spec.size_px / side
    left = min(max(round((inner_x1 - x1) * factor), 0), spec.size_px - 1)
    top = min(max(round((inner_y1 - y1) * factor), 0), spec.size_px - 1)
    right = min(max(round((inner_x2 - x1) * factor), left + 1), spec.size_px)
    bottom = min(max(round((inner_y2 - y1) * factor), top + 1), spec.size_px)
    small = _resize(patch, right - left, bottom - top)
    extended = cv2.copyMakeBorder(
        small, top, spec.size_px - bottom, left, spec.size_px - right, borderType=cv2.BORDER_REPLICATE
    )
    return np.asarray(extended, np.uint8)


def _resize(patch: UInt8Array, width: int, height: int) -> UInt8Array:
    shrinks = patch.shape[1] >= width and patch.shape[0] >= height
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(patch, (width, height), interpolation=interpolation), np.uint8)


def crop_faces(frame: Frame, faces: Sequence[Face], spec: InputSpec) -> UInt8Array:
    """Cut every face of a frame out for one batched call.

    Args:
        frame: The picture.
        faces: One or more faces.
        spec: Size and crop scale.

    Returns:
        uint8 (N, S, S, 3), red first, in the order of ``faces``.

    Raises:
        InputError: There is no face.
    """
    if not faces:
        raise InputError("crop_faces needs at least one face")
    return np.stack([crop_face(frame.rgb, face.box, spec) for face in faces])
