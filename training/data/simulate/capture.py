"""The attacker's first capture: how the picture got onto the medium."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from torch import Tensor

from training.data.simulate import colour
from training.data.simulate.codec import ByteArray, from_uint8, h264_once, jpeg_once, to_uint8, while_small
from training.data.simulate.draws import Draws, column
from training.data.simulate.optics import blur

#: How often the first capture is a frame of a video: of what is replayed, of what is printed.
REPLAYED_VIDEO, PRINTED_VIDEO = 0.35, 0.1


def draw_capture(d: Draws, video: float) -> None:
    """Blur, size, tone and codec of the attacker's camera, or of the picture found online.

    Args:
        d: Draws the parameters.
        video: Probability that it is a frame of a video, stored as H.264 instead of JPEG.
    """
    d.sometimes("capture_blur", 0.5, 0.0, 1.6)
    # Video calls and social networks shrink what they pass on.
    d.sometimes("capture_small", 0.3, 1.2, 3.5)
    d.uniform("capture_gamma", 0.85, 1.2)
    # Phones give their pictures an S-shaped curve and local sharpness.
    d.sometimes("capture_contrast", 0.75, 0.0, 1.0)
    d.sometimes("capture_sharpen", 0.4, 0.1, 0.9)
    d.uniform("capture_saturation", 0.8, 1.3)
    d.integer("capture_quality", 25, 96)
    d.chance("capture_h264", video)
    d.integer("capture_qp", 20, 42)


def attackers_capture(tiles: Tensor, draws: Sequence[Draws]) -> Tensor:
    """Re-capture tiles as the attacker did: uint8 sRGB in, float32 sRGB (B, 3, H, W) in [0, 1] out."""
    # Whole tiles are large: one at a time stays in a core's cache.
    at_once = 1 if tiles.device.type == "cpu" else len(draws)
    parts = [slice(start, start + at_once) for start in range(0, len(draws), at_once)]
    pictures = np.concatenate([to_uint8(_developed(tiles[part], draws[part])) for part in parts])
    for i, d in enumerate(draws):
        pictures[i] = _passed_on(pictures[i], d)
    return from_uint8(pictures, tiles.device)


def _developed(tiles: Tensor, draws: Sequence[Draws]) -> Tensor:
    """What the attacker's camera makes of the tiles, float32 sRGB (B, 3, H, W)."""
    out = blur(tiles.float().div_(255), column(draws, "capture_blur"), 7)
    # A straight mix of the picture and its square stands in for a power near 1: same end points, a tenth of the time.
    # x + (g - 1)·(x² - x) = x·(x·(g - 1) + 2 - g).
    bent = column(draws, "capture_gamma", 1.0) - 1
    out = out.mul_((out * bent).add_(1 - bent))
    contrast = column(draws, "capture_contrast")
    if bool(contrast.any()):
        # x + c·(x²·(3 - 2x) - x) = x·(1 + c·(x·(3 - 2x) - 1)).
        out = out.mul_((out * -2).add_(3).mul_(out).sub_(1).mul_(contrast).add_(1))
    strength = column(draws, "capture_sharpen")
    if bool(strength.any()):
        soft = blur(out, (strength > 0).to(out.dtype), 7)
        out = out.add_((out - soft).mul_(strength))
    return colour.saturate(out, column(draws, "capture_saturation", 1.0))


def _passed_on(picture: ByteArray, d: Draws) -> ByteArray:
    """Compress, where drawn at a smaller size; uint8 (H, W, 3) in and out."""
    return while_small(picture, float(d.values.get("capture_small", 0.0)), partial(_compress, d))


def _compress(d: Draws, picture: ByteArray) -> ByteArray:
    quality = int(d.values.get("capture_quality", 0))
    if d.values.get("capture_h264"):
        return h264_once(picture, int(d.values["capture_qp"]))
    return jpeg_once(picture, quality) if quality > 0 else picture
