"""The attacker's first capture: how the picture got onto the medium."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (the community's name for it)
from torch import Tensor

from training.data.simulate import colour
from training.data.simulate.codec import jpeg
from training.data.simulate.draws import Draws, column
from training.data.simulate.optics import blur


def draw_capture(d: Draws) -> None:
    """Blur, size, tone and codec of the attacker's camera, or of the picture found online."""
    d.sometimes("capture_blur", 0.5, 0.0, 1.6)
    # Video calls and social networks shrink what they pass on.
    d.sometimes("capture_small", 0.3, 1.2, 3.5)
    d.uniform("capture_gamma", 0.85, 1.2)
    # Phones give their pictures an S-shaped curve and local sharpness.
    d.sometimes("capture_contrast", 0.75, 0.0, 1.0)
    d.sometimes("capture_sharpen", 0.4, 0.1, 0.9)
    d.uniform("capture_saturation", 0.8, 1.3)
    d.integer("capture_quality", 25, 96)


def attackers_capture(tiles: Tensor, draws: Sequence[Draws]) -> Tensor:
    """Re-capture tiles as the attacker did: uint8 sRGB in, float32 sRGB (B, 3, H, W) in [0, 1] out."""
    out = blur(tiles.float() / 255, column(draws, "capture_blur"), 7)
    gamma = column(draws, "capture_gamma", 1.0)
    # A straight mix of the picture and its square stands in for a power near 1: same end points, a tenth of the time.
    out = out + (gamma - 1) * (out * out - out)
    out = out + column(draws, "capture_contrast") * (out * out * (3 - 2 * out) - out)
    strength = column(draws, "capture_sharpen")
    sharp = (strength.flatten() > 0).nonzero().flatten()
    if len(sharp):
        some = out[sharp]
        out[sharp] = some + strength[sharp] * (some - blur(some, torch.ones_like(strength[sharp]), 7))
    out = colour.saturate(out, column(draws, "capture_saturation", 1.0))
    return _passed_on(out, draws)


def _passed_on(srgb: Tensor, draws: Sequence[Draws]) -> Tensor:
    """Compress, where drawn at a smaller size; float32 sRGB (B, 3, H, W) in and out."""
    quality, factors = column(draws, "capture_quality"), column(draws, "capture_small").flatten().tolist()
    out = torch.empty_like(srgb)
    size = srgb.shape[-1]
    full = [i for i, factor in enumerate(factors) if factor <= 1]
    if full:
        out[full] = jpeg(srgb[full], quality[full])
    for i, factor in enumerate(factors):
        if factor > 1:
            side = max(16, round(size / factor))
            small = F.interpolate(srgb[i : i + 1], (side, side), mode="area")
            small = jpeg(small, quality[i : i + 1])
            out[i : i + 1] = F.interpolate(small, (size, size), mode="bilinear", align_corners=False)
    return out
