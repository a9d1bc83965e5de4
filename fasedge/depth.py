"""Depth of a face as a network input: millimetres to bytes, relative to the face.

A depth camera measures from itself; a network should see the relief of the face whatever its distance. The median and
the spread of the depth inside the face box set the scale, for the face and for what is around it. What follows in a
network is part of the exported graph, as for colour (see :mod:`fasedge.preprocess`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fasedge.errors import FrameError, InputError
from fasedge.geometry import crop_square, visible_fraction
from fasedge.preprocess import InputSpec, crop_face, crop_faces
from fasedge.types import Box, Face, Frame, UInt8Array, UInt16Array

#: Deviations from the median that are mapped to the ends of the byte range.
SPREADS = 3.0
#: Smallest deviation in millimetres: a print held parallel to the sensor has none, and nothing may be divided by it.
SMALLEST_SPREAD_MM = 1.0
#: Largest value in millimetres that still counts as a hole.
HOLE_MM = 1


@dataclass(frozen=True, slots=True)
class FaceDepth:
    """Where a face is and how much relief it has.

    Attributes:
        median_mm: Median depth inside the face box, without holes.
        spread_mm: Median absolute deviation from it, at least :data:`SMALLEST_SPREAD_MM`; not scaled to a standard
            deviation.
        valid_fraction: Share of the face box's pixels inside the frame that have a depth, in (0, 1].
    """

    median_mm: float
    spread_mm: float
    valid_fraction: float


def measure_face_depth(depth_mm: UInt16Array, box: Box) -> FaceDepth | None:
    """Measure the depth inside the face box, and nowhere else.

    Args:
        depth_mm: uint16 (H, W) in millimetres; 0 and 1 are holes.
        box: Face box in pixels; may reach beyond the frame.

    Returns:
        The measures, or ``None`` where no pixel of the box has a depth: there is nothing to judge then.

    Raises:
        FrameError: The depth is not uint16 (H, W).

    Source: George & Marcel, "Cross Modal Focal Loss for RGBD Face Anti-Spoofing", CVPR 2021, released preprocessing;
    the smallest spread is ours.
    """
    _check_depth(depth_mm)
    if not depth_mm.size or visible_fraction(box, depth_mm.shape[1], depth_mm.shape[0]) <= 0:
        return None
    rows, columns = _covered(box, depth_mm.shape, margin=0)
    inside = depth_mm[rows, columns]
    seen = inside[inside > HOLE_MM].astype(np.float64)
    if not seen.size:
        return None
    median = float(np.median(seen))
    spread = float(np.median(np.abs(seen - median)))
    return FaceDepth(median, max(spread, SMALLEST_SPREAD_MM), seen.size / inside.size)


def depth_to_bytes(depth_mm: UInt16Array, measured: FaceDepth) -> UInt8Array:
    """Map depth to bytes: 255 · (d − median + 3 · spread) / (6 · spread), cut at 0 and 255, fractions dropped.

    The median becomes 127, what lies three spreads nearer 0, three spreads farther 255. Holes become 0, also where the
    spread is so large that the formula would give them more.

    Args:
        depth_mm: uint16 of any shape, in millimetres.
        measured: Median and spread of the face.

    Returns:
        uint8 of the same shape.

    Source: as for :func:`measure_face_depth`; n = 3 deviations on either side. That holes stay 0 is ours.
    """
    # In this order, and in doubles, all before the division is exact: whole numbers are not cut to the one below.
    risen = depth_mm.astype(np.float64) - measured.median_mm + SPREADS * measured.spread_mm
    scaled = 255.0 * risen / (2.0 * SPREADS * measured.spread_mm)
    return np.asarray(np.where(depth_mm > HOLE_MM, np.clip(scaled, 0.0, 255.0), 0.0), np.uint8)


def crop_depth(depth_mm: UInt16Array, box: Box, spec: InputSpec, measured: FaceDepth) -> UInt8Array:
    """Cut the depth of one face out, at the same place as :func:`fasedge.preprocess.crop_face` cuts its colour.

    Depth becomes bytes first and is resized then, so that holes stay dark instead of pulling their neighbours' depth.

    Args:
        depth_mm: uint16 (H, W) in millimetres, aligned to the colour.
        box: Face box in pixels; may reach beyond the frame.
        spec: Size and crop scale.
        measured: What :func:`measure_face_depth` said of the face.

    Returns:
        uint8 (S, S), S = ``spec.size_px``.

    Raises:
        FrameError: The depth is not uint16 (H, W).
    """
    _check_depth(depth_mm)
    # Only what the crop can see is converted; the zeros elsewhere are never read and cost no time to make.
    rows, columns = _covered(crop_square(box, spec.crop_scale), depth_mm.shape, margin=2)
    bytes_ = np.zeros(depth_mm.shape, np.uint8)
    bytes_[rows, columns] = depth_to_bytes(depth_mm[rows, columns], measured)
    return crop_face(bytes_, box, spec)


def crop_faces_rgbd(
    frame: Frame, faces: Sequence[Face], spec: InputSpec, measured: Sequence[FaceDepth | None] | None = None
) -> UInt8Array:
    """Cut colour and depth of every face out for one batched call.

    Args:
        frame: The picture, with depth.
        faces: One or more faces, each with some depth.
        spec: Size and crop scale.
        measured: What :func:`measure_face_depth` said of each face, if it was asked before.

    Returns:
        uint8 (N, S, S, 4), red, green, blue, depth, in the order of ``faces``.

    Raises:
        InputError: There is no face.
        FrameError: The frame has no depth, or none inside a face's box. Use :func:`measure_face_depth` to ask first.
    """
    if not faces:
        raise InputError("crop_faces_rgbd needs at least one face")
    depth_mm = frame.depth_mm
    if depth_mm is None:
        raise FrameError("crop_faces_rgbd needs a frame with depth_mm, got one without; use a depth camera")
    out = np.empty((len(faces), spec.size_px, spec.size_px, 4), np.uint8)
    out[..., :3] = crop_faces(frame, faces, spec)
    if measured is None:
        measured = [measure_face_depth(depth_mm, face.box) for face in faces]
    for place, face, known in zip(out, faces, measured, strict=True):
        if known is None:
            raise FrameError(
                f"no depth inside the face box {face.box.xyxy}: all holes; skip faces for which measure_face_depth "
                "returns None"
            )
        place[..., 3] = crop_depth(depth_mm, face.box, spec, known)
    return out


def _covered(box: Box, shape: tuple[int, ...], margin: int) -> tuple[slice, slice]:
    """Rows and columns of a frame that a box touches, widened by a margin; the nearest of them if it touches none."""
    spans = []
    for low, high, length in ((box.y1, box.y2, shape[0]), (box.x1, box.x2, shape[1])):
        first = min(max(math.floor(low) - margin, 0), length - 1)
        last = max(min(math.ceil(high) + margin, length), first + 1)
        spans.append(slice(first, last))
    return spans[0], spans[1]


def _check_depth(depth_mm: UInt16Array) -> None:
    if not isinstance(depth_mm, np.ndarray) or depth_mm.dtype != np.uint16 or depth_mm.ndim != 2:
        got = f"{depth_mm.dtype} {depth_mm.shape}" if isinstance(depth_mm, np.ndarray) else type(depth_mm).__name__
        raise FrameError(f"expected depth_mm as uint16 (H, W) in millimetres, got {got}")
