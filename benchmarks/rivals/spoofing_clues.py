"""Simulated physical (SPSC) and digital (SDSC) spoofing clues.

Ranges and shares are those of the released program (``moire.py``, ``digital.py``, ``CvprDataset_P*.py``), whose
pictures are cut to 500 px. In its protocol 2.1, which knows physical attacks only, moire and colour jitter are equally
frequent and never meet; in protocol 1 a physical clue is moire and then jitter, and digital clues are as frequent.
"""

from __future__ import annotations

import cv2
import numpy as np

from fasedge.types import UInt8Array
from training.data.simulate.draws import Draws

#: Side of the pictures that the released program works on.
REFERENCE_PX = 500


def moire(picture: UInt8Array, d: Draws) -> UInt8Array:
    """Clue of a replay: a fifth of the picture, swirled round its middle, over four fifths of itself.

    A point at radius r turns by ``degree * r``, degree 0.0005 to 0.01 per pixel of 500; beyond the picture its edge is
    repeated.
    """
    size = picture.shape[0]
    degree = d.uniform("moire_degree", 0.0005, 0.01) * REFERENCE_PX / size
    middle = size // 2
    y, x = (np.mgrid[:size, :size] - middle).astype(np.float32)
    radius = np.hypot(x, y)
    angle = np.arctan2(y, x) + np.float32(degree) * radius
    swirled = cv2.remap(
        picture,
        middle + radius * np.cos(angle),
        middle + radius * np.sin(angle),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.rint(0.8 * picture.astype(np.float32) + 0.2 * swirled.astype(np.float32)).astype(np.uint8)


def _recolour(picture: UInt8Array, d: Draws) -> UInt8Array:
    """Slight change of colour, contrast and sharpness, each half the time, and of resolution in two of five."""
    if d.chance("blend_hsv", 0.5):
        hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV_FULL).astype(np.float32)
        hsv[..., 0] = (hsv[..., 0] + d.uniform("blend_hue", -5, 5) * 256 / 180) % 256
        hsv[..., 1:] += (d.uniform("blend_saturation", -5, 5), d.uniform("blend_value", -10, 10))
        picture = cv2.cvtColor(np.clip(hsv, 0, 255).astype(np.uint8), cv2.COLOR_HSV2RGB_FULL).astype(np.uint8)
    if d.chance("blend_tone", 0.5):
        factor, shift = 1 + d.uniform("blend_contrast", -0.1, 0.1), 255 * d.uniform("blend_brightness", -0.1, 0.1)
        picture = np.rint(np.clip(picture.astype(np.float32) * factor + shift, 0, 255)).astype(np.uint8)
    if d.chance("blend_downscale", 0.4):
        scale, size = d.uniform("blend_scale", 0.35, 0.65), picture.shape[1::-1]
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
        picture = np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    if d.chance("blend_sharpen", 0.5):
        alpha, lightness = d.uniform("blend_alpha", 0.1, 0.3), d.uniform("blend_lightness", 0.5, 1.0)
        kernel = np.full((3, 3), -alpha, np.float32)
        kernel[1, 1] = 1 - alpha + alpha * (8 + lightness)
        picture = np.asarray(cv2.filter2D(picture, -1, kernel), np.uint8)
    return picture


def self_blend(picture: UInt8Array, face_mask: UInt8Array, d: Draws) -> UInt8Array:
    """Clue of a face swap: the face over itself, recoloured or moved by up to 2 %, along a bent, soft edge.

    Args:
        picture: uint8 (P, P, 3), red first.
        face_mask: uint8 (P, P), 1 on the face. The released program takes it from a face-parsing network.
        d: Draws of the sample.

    Returns:
        uint8 (P, P, 3), red first.
    """
    size = picture.shape[0]
    source = target = picture
    if d.chance("blend_source", 0.5):
        source = _recolour(picture, d)
    else:
        target = _recolour(picture, d)
    zoom_x, zoom_y = d.uniform("blend_zoom_x", 0.98, 1.02), d.uniform("blend_zoom_y", 0.98, 1.02)
    moved = d.chance("blend_moved", 0.5)
    shift_x, shift_y = d.uniform("blend_shift_x", -0.02, 0.02) * moved, d.uniform("blend_shift_y", -0.02, 0.02) * moved
    matrix = np.array(
        [[zoom_x, 0, ((1 - zoom_x) / 2 + shift_x) * size], [0, zoom_y, ((1 - zoom_y) / 2 + shift_y) * size]]
    )
    source = np.asarray(cv2.warpAffine(source, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE), np.uint8)
    mask = cv2.warpAffine(face_mask.astype(np.float32), matrix, (size, size))
    rng = np.random.default_rng(d.integer("blend_bend", 0, 1 << 30))
    bend = rng.normal(0, 4 * size / REFERENCE_PX, (6, 6, 2)).astype(np.float32)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    bend = np.asarray(cv2.resize(bend, (size, size), interpolation=cv2.INTER_CUBIC), np.float32)
    mask = cv2.remap(mask, x + bend[..., 0], y + bend[..., 1], cv2.INTER_LINEAR)
    for side in (3, 5):
        mask = cv2.GaussianBlur(mask, (side, side), 3)
    share = float(d.choice("blend_share", ("0.25", "0.5", "0.75", "1"), (1, 1, 1, 3)))
    weight = share * mask[..., None]
    return np.rint(weight * source.astype(np.float32) + (1 - weight) * target.astype(np.float32)).astype(np.uint8)
