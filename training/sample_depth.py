"""Depth map for a portrait of the sample pack: rendered from face landmarks, not measured by any camera.

No RGB-D portrait of the face pack may be shown in a demonstration, so the pack shows a colour photograph with a depth
map that is *made up* in the format and with the faults of a real one. The face is the photograph's own face mesh, set
to millimetres by an assumed pupillary distance; head, neck, shoulders and wall are simple bodies; holes and noise
follow rules of thumb of structured-light and stereo cameras. It shows how depth is passed in. It proves nothing about
how well depth tells attacks from people.

Lengths are in millimetres; x to the right, y down, z away from the camera; the pupils' middle is the origin of x and y.
"""

from __future__ import annotations

from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from fasedge.types import UInt8Array, UInt16Array
from training.errors import DataError

_Array: TypeAlias = NDArray[np.float64]
_Mask: TypeAlias = NDArray[np.bool_]

#: Assumed distance between the pupils: the mean of adults. Source: N. A. Dodgson, "Variation and extrema of human
#: interpupillary distance", 2004 (mean 63.4 mm).
PUPIL_DISTANCE_MM = 63.0
#: Assumed distance of the pupils from the camera.
SUBJECT_MM = 600.0
#: Distance of the wall, and by how much it recedes over the picture's width.
WALL_MM = (1300.0, 25.0)
#: Distance between the depth camera's two eyes; makes the shadow that the figure throws on the wall.
BASELINE_MM = 25.0
#: Standard deviation of depth at ``SUBJECT_MM``; it grows with the square of distance, as triangulation's does.
NOISE_MM = 1.0

_PUPILS = (468, 473)  # centres of the irises in the 478 points of the face mesh
_FACE_POINTS = 468
_MOUTH = 13


def render_depth(rgb: UInt8Array, landmarks: _Array, seed: int) -> UInt16Array:
    """Render a depth map for a frontal portrait before a plain, light wall.

    Args:
        rgb: uint8 (H, W, 3), red first.
        landmarks: (478, 3) face mesh with irises, x and y in pixels of ``rgb``, z in the same scale, smaller = nearer.
        seed: Seed of noise and holes.

    Returns:
        uint16 (H, W) in millimetres, aligned to ``rgb``, 0 = no return.

    Raises:
        DataError: The landmarks have another shape, or no figure stands out from the wall.
    """
    if landmarks.shape != (478, 3):
        raise DataError(f"the depth map needs a face mesh of shape (478, 3), got {landmarks.shape}")
    figure = figure_mask(rgb, landmarks)
    mm_per_px = PUPIL_DISTANCE_MM / float(np.linalg.norm(np.diff(landmarks[_PUPILS, :2], axis=0)))
    points = landmarks - landmarks[_PUPILS, :].mean(0)
    height, width = rgb.shape[:2]
    origin = landmarks[_PUPILS, :2].mean(0)
    x, y = np.meshgrid(np.arange(width) + 0.5 - origin[0], np.arange(height) + 0.5 - origin[1])
    body = _body(x * mm_per_px, y * mm_per_px)
    face, weight = _face(points, x, y, mm_per_px)
    wall = WALL_MM[0] + WALL_MM[1] * (np.arange(width) / width - 0.5)
    depth = np.where(figure, body * (1 - weight) + face * weight, wall)
    rng = np.random.default_rng(seed)
    holes = _shadow(depth, SUBJECT_MM / mm_per_px) | _grazing(depth)
    holes |= _hair_holes(rgb, figure & (weight == 0) & (y < points[_MOUTH, 1]), rng)
    depth += _correlated(rng, depth.shape, 0.8) * NOISE_MM * (depth / SUBJECT_MM) ** 2
    return np.where(holes, 0, depth.round()).astype(np.uint16)


def figure_mask(rgb: UInt8Array, landmarks: _Array) -> _Mask:
    """Tell the person from the wall, bool (H, W).

    The wall's colour is a quadratic surface fitted to what is surely wall: the strip over the head, and the strips
    beside it down to the mouth. What differs from it, and hangs together with the face, is the person.
    """
    height, width = rgb.shape[:2]
    lab = cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).astype(np.float64)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    sure = np.zeros((height, width), bool)
    sure[: height // 12] = True
    mouth = int(landmarks[_MOUTH, 1])
    sure[:mouth, : width // 10] = sure[:mouth, -(width // 10) :] = True
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1)
    coefficients = np.linalg.lstsq(terms[sure], lab[sure], rcond=None)[0]
    differs = np.linalg.norm(lab - terms @ coefficients, axis=-1) > 4.5
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    mask = cv2.morphologyEx(differs.astype(np.uint8), cv2.MORPH_OPEN, kernel)
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, kernel, iterations=3)
    _, labels = cv2.connectedComponents(mask)
    own = labels == labels[int(landmarks[1, 1]), int(landmarks[1, 0])]
    if not 0.15 < own.mean() < 0.75 or not own[int(landmarks[1, 1]), int(landmarks[1, 0])]:
        raise DataError(f"no person stands out from a plain wall: the mask covers {own.mean():.0%} of the picture")
    return _fill(own)


def _fill(mask: _Mask) -> _Mask:
    """Close what the mask encloses; its lower edge counts as closed, since the figure goes on below the picture."""
    padded = np.pad(mask.astype(np.uint8), ((1, 0), (1, 1)))
    outside = padded.copy()
    cv2.floodFill(outside, None, (0, 0), 2)
    return np.asarray(outside[1:, 1:-1] != 2)


def _bump(rho2: _Array, centre: float, semi_axis: float) -> _Array:
    """Front of an ellipsoid at ``rho2``, the squared distance from its axis in semi-axes; falls away outside."""
    front = centre - semi_axis * np.sqrt(np.clip(1 - rho2, 0, 1))
    return np.asarray(front + 80 * np.clip(np.sqrt(rho2) - 1, 0, 2), np.float64)


def _body(x: _Array, y: _Array) -> _Array:
    """Head with hair, neck and shoulders as ellipsoids and a cylinder: depth at (x, y), all in millimetres.

    The sizes are those of a middling adult; hair makes the skull wider and higher.
    """
    head = _bump((x / 92) ** 2 + ((y + 15) / 130) ** 2, SUBJECT_MM + 92, 102)
    neck = np.where(y > 40, _bump((x / 66) ** 2, SUBJECT_MM + 115, 62), np.inf)
    shoulders = _bump((x / 250) ** 2 + ((y - 420) / 280) ** 2, SUBJECT_MM + 145, 120)
    nearest = np.minimum(np.minimum(head, neck), shoulders)
    return np.asarray(cv2.GaussianBlur(nearest, (0, 0), 2.0), np.float64)


def _face(points: _Array, x: _Array, y: _Array, mm_per_px: float) -> tuple[_Array, _Array]:
    """Depth of the face mesh at (x, y) in pixels, and how much it counts (1 inside, 0 outside, soft rim)."""
    face = points[:_FACE_POINTS]
    hull = cv2.convexHull(face[:, :2].astype(np.float32))
    corner = np.array([x[0, 0], y[0, 0]])
    inside = np.zeros(x.shape, np.uint8)
    cv2.fillConvexPoly(inside, (hull[:, 0] - corner).round().astype(np.int32), 1)
    rim_px = np.where(y < points[_MOUTH, 1], 10.0, 2.0)  # the chin stands out before the neck, the temples do not
    weight = np.clip(cv2.distanceTransform(inside, cv2.DIST_L2, 5) / rim_px, 0, 1).astype(np.float64)
    depth = np.full(x.shape, SUBJECT_MM)
    chosen = inside > 0
    where = np.stack([x[chosen], y[chosen]], 1)
    depth[chosen] += _thin_plate(face[:, :2], face[:, 2], where) * mm_per_px
    return depth, weight


def _thin_plate(at: _Array, values: _Array, where: _Array) -> _Array:
    """Smooth surface through scattered values: thin-plate spline with a little slack.

    Source: J. Duchon, "Splines minimizing rotation-invariant semi-norms in Sobolev spaces", 1977: kernel r²·log r
    plus a plane.
    """
    scale = float(np.abs(at).max())
    at, where = at / scale, where / scale

    def kernel(a: _Array) -> _Array:
        r2 = ((a[:, None] - at[None]) ** 2).sum(-1)
        return np.asarray(0.5 * r2 * np.log(np.maximum(r2, 1e-12)), np.float64)

    plane = np.column_stack([np.ones(len(at)), at])
    system = np.block([[kernel(at) + 1e-4 * np.eye(len(at)), plane], [plane.T, np.zeros((3, 3))]])
    solution = np.linalg.solve(system, np.concatenate([values, np.zeros(3)]))
    out = np.column_stack([np.ones(len(where)), where]) @ solution[-3:]
    for start in range(0, len(where), 8192):  # in parts, to bound the memory of the kernel
        part = slice(start, start + 8192)
        out[part] += kernel(where[part]) @ solution[:-3]
    return np.asarray(out, np.float64)


def _shadow(depth: _Array, focal_px: float) -> _Mask:
    """What the depth camera's second eye, ``BASELINE_MM`` to the right, cannot see: no match, no depth.

    A point at column x appears to the second eye at ``x - f·b/z``. It is hidden if a point right of it, which must be
    nearer for that, appears at the same place or further left.
    """
    seen_at = np.arange(depth.shape[1]) - focal_px * BASELINE_MM / depth
    leftmost = np.minimum.accumulate(seen_at[:, ::-1], axis=1)[:, ::-1]
    hidden = np.zeros(depth.shape, bool)
    hidden[:, :-1] = leftmost[:, 1:] <= seen_at[:, :-1]
    return hidden


def _grazing(depth: _Array) -> _Mask:
    """Pixels on a jump of depth: the mixed returns that cameras throw away."""
    kernel = np.ones((3, 3), np.uint8)
    step = cv2.dilate(depth, kernel) - cv2.erode(depth, kernel)
    return np.asarray(step > 60)


def _hair_holes(rgb: UInt8Array, hair: _Mask, rng: np.random.Generator) -> _Mask:
    """Patches without return in dark hair, which swallows infrared light; the darker, the more."""
    grey = cv2.GaussianBlur(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), (0, 0), 2.0).astype(np.float64)
    darkness = np.clip(1 - grey / 110, 0, 1)
    return np.asarray(hair & (_correlated(rng, hair.shape, 3.0) < 2.2 * darkness - 2.0))


def _correlated(rng: np.random.Generator, shape: tuple[int, ...], sigma_px: float) -> _Array:
    """Normal noise of standard deviation 1 that hangs together over ``sigma_px`` pixels."""
    noise = cv2.GaussianBlur(rng.standard_normal(shape), (0, 0), sigma_px)
    return np.asarray(noise / noise.std(), np.float64)
