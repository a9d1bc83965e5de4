"""JPEG as cameras and messengers apply it."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from training.errors import TrainingError

ByteArray = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


def jpeg(srgb: Tensor, quality: Tensor) -> Tensor:
    """Compress and decompress each picture; a quality of 0 leaves it alone (only rounded to 8 bits).

    Args:
        srgb: float32 (B, 3, H, W) in [0, 1].
        quality: JPEG qualities in any shape of B values, 0 or 1..100.
    """
    pictures = to_uint8(srgb)
    for i, q in enumerate(quality.flatten().round().int().tolist()):
        if q > 0:
            pictures[i] = jpeg_once(pictures[i], q)
    return from_uint8(pictures, srgb.device)


def jpeg_once(rgb: ByteArray, quality: int) -> ByteArray:
    """JPEG round trip of one uint8 (H, W, 3) picture."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    ok, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR) if ok else None
    if decoded is None:
        raise TrainingError("OpenCV could not make a JPEG: is its JPEG codec missing?")
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)


def to_uint8(srgb: Tensor) -> ByteArray:
    """Round float32 (B, 3, H, W) in [0, 1], on any device, to uint8 (B, H, W, 3)."""
    # Adding a half and cutting off rounds as well as rounding does, but for halves, which are as good as never met.
    planes = srgb.clamp(0, 1).mul_(255).add_(0.5).to(torch.uint8).cpu().numpy()
    return np.stack([cv2.merge(list(picture)) for picture in planes])


def from_uint8(pictures: ByteArray, device: torch.device) -> Tensor:
    """uint8 (B, H, W, 3) to float32 (B, 3, H, W) in [0, 1] on a device."""
    planes = np.stack([np.stack(cv2.split(picture)) for picture in pictures])
    return torch.from_numpy(planes).to(device).float().div_(255)
