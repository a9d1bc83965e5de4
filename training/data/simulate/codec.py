"""JPEG as cameras and messengers apply it."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from training.errors import TrainingError


def jpeg(srgb: Tensor, quality: Tensor) -> Tensor:
    """Compress and decompress each picture; a quality of 0 leaves it alone (only rounded to 8 bits).

    Args:
        srgb: float32 (B, 3, H, W) in [0, 1].
        quality: JPEG qualities in any shape of B values, 0 or 1..100.
    """
    bytes_ = to_uint8(srgb)
    out = np.empty_like(bytes_)
    for i, q in enumerate(quality.flatten().round().int().tolist()):
        out[i] = jpeg_once(bytes_[i], q) if q > 0 else bytes_[i]
    return torch.from_numpy(out).permute(0, 3, 1, 2).float() / 255


def jpeg_once(
    rgb: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], quality: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """JPEG round trip of one uint8 (H, W, 3) picture."""
    ok, data = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR) if ok else None
    if decoded is None:
        raise TrainingError("OpenCV could not make a JPEG: is its JPEG codec missing?")
    return np.ascontiguousarray(decoded[..., ::-1]).astype(np.uint8, copy=False)


def to_uint8(srgb: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Round float32 (B, 3, H, W) in [0, 1] to uint8 (B, H, W, 3)."""
    rounded = (srgb.clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(rounded.permute(0, 2, 3, 1).numpy())
