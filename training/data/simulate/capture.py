"""The attacker's first capture: how the picture got onto the medium."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from training.data.simulate import colour
from training.data.simulate.codec import jpeg
from training.data.simulate.draws import Draws, column
from training.data.simulate.optics import blur


def draw_capture(d: Draws) -> None:
    """Blur, tone and codec of the attacker's camera or of the picture found online."""
    d.sometimes("capture_blur", 0.5, 0.0, 1.6)
    d.uniform("capture_gamma", 0.85, 1.2)
    d.uniform("capture_saturation", 0.8, 1.2)
    d.integer("capture_quality", 50, 96)


def attackers_capture(tiles: Tensor, draws: Sequence[Draws]) -> Tensor:
    """Re-capture tiles as the attacker did: uint8 sRGB in, float32 sRGB (B, 3, H, W) in [0, 1] out."""
    out = blur(tiles.float() / 255, column(draws, "capture_blur"), 7)
    gamma = column(draws, "capture_gamma", 1.0)
    # A straight mix of the picture and its square stands in for a power near 1: same end points, a tenth of the time.
    out = out + (gamma - 1) * (out * out - out)
    out = colour.saturate(out, column(draws, "capture_saturation", 1.0))
    return jpeg(out, column(draws, "capture_quality"))
