"""Screens: what a replayed picture turns into before the victim camera sees it; linear light.

Sub-pixels are not drawn one by one. A stripe layout is a product of the picture and a periodic mask; of the mask's
Fourier components :mod:`training.data.simulate.moire` works out what the camera's native sensor turns them into, by
aliasing on its Bayer mosaic, and what shrinking leaves of that: moiré, at the cost of a few cosines per pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from training.data.simulate import colour
from training.data.simulate.draws import Draws, column
from training.data.simulate.moire import Sensor, aliased
from training.data.simulate.scene import FACE_HALF

#: Display pixels over the width of the face box, by kind of screen (low, high).
FACE_DISPLAY_PX = {
    "phone": (250.0, 900.0),
    "tablet": (350.0, 1200.0),
    "laptop": (200.0, 700.0),
    "monitor": (160.0, 600.0),
}


def draw_display(d: Draws, subtype: str) -> None:
    """Parameters of a screen."""
    d.uniform("display_gamma", 0.9, 1.6)
    d.uniform("display_saturation", 0.85, 1.5)
    # From night mode to the blue of a cheap panel; how far the camera adapts to the screen instead of to the room.
    d.loguniform("display_kelvin", 4300, 10500)
    d.uniform("display_adaptation", 0.0, 1.0)
    d.loguniform("display_black", 0.0003, 0.015)
    # Brightness of the face on the screen against that of a face that is exposed as it should be.
    d.loguniform("display_metering", 0.4, 2.5)
    d.sometimes("display_over", 0.5, 0.05, 1.2)
    low, high = FACE_DISPLAY_PX[subtype]
    d.loguniform("display_face_px", low, high)
    d.choice("display_layout", ("stripe", "pentile"), (0.3, 0.7) if subtype == "phone" else (0.9, 0.1))
    d.uniform("display_fill", 0.55, 0.95)
    d.uniform("display_phase", 0, 2 * math.pi)
    d.sometimes("display_banding", 0.2, 0.01, 0.10)
    d.loguniform("display_band_period", 0.15, 1.5)
    d.uniform("display_band_phase", 0, 2 * math.pi)


def emit(srgb: Tensor, draws: Sequence[Draws]) -> Tensor:
    """Light that the screen sends out for a picture (B, 3, H, W), without its pixel structure.

    Content gamma, gamut, white point, back-light bleed, over-driven brightness.
    """
    linear = colour.power(colour.to_linear(srgb).clamp_min_(1e-5), column(draws, "display_gamma", 1.0))
    linear = colour.saturate(linear, column(draws, "display_saturation", 1.0))
    linear = linear.mul_(1 + column(draws, "display_over")).clamp_(0, 1)
    black = column(draws, "display_black")
    # Seen by a camera that is balanced for the room's light, as far as it has not adapted to the screen.
    adaptation = column(draws, "display_adaptation", 1.0)
    room, screen = column(draws, "light_kelvin", 6500), column(draws, "display_kelvin", 6500)
    balanced_for = room ** (1 - adaptation) * screen**adaptation
    white = colour.white_point(screen) / colour.white_point(balanced_for)
    return linear.mul_((1 - black) * white).add_(black * white)


def pixel_structure(plane: Tensor, draws: Sequence[Draws], sensor: Sensor) -> Tensor:
    """Factor (B, 3, H, W), mean 1, by which the sub-pixel grid modulates what the sensor sees.

    Args:
        plane: Where each canvas position looks on the screen, (B, H, W, 2) in plane units.
        draws: The samples' parameters.
        sensor: The cameras' sensors.
    """
    display_px = column(draws, "display_face_px", 400.0) / (2 * FACE_HALF)
    u = plane[..., 0].unsqueeze(1) * display_px
    v = plane[..., 1].unsqueeze(1) * display_px
    fill, phase = column(draws, "display_fill", 0.8), column(draws, "display_phase")
    pentile = torch.tensor([d.values.get("display_layout") == "pentile" for d in draws]).view(-1, 1, 1, 1)
    across = torch.where(pentile, u + 0.5 * v, u)
    offsets = torch.tensor([0.0, 1 / 3, 2 / 3]).view(1, 3, 1, 1) * 2 * math.pi
    # Share of a third-wide lit stripe in the first harmonics of a period: 2·sinc(k·w); vertical gaps: 2·sinc(k·fill).
    stripe = fill / 3
    factor = torch.ones(u.shape[0], 3, u.shape[2], u.shape[3])
    for k in (1, 2):
        factor.addcmul_(2 * torch.sinc(k * stripe), aliased(k * across, k * (offsets + phase), sensor))
        factor.addcmul_(2 * torch.sinc(k * fill), aliased(k * v, k * phase, sensor))
    return factor.clamp_min_(0)


def banding(draws: Sequence[Draws], size: int) -> Tensor:
    """Rolling bands (B, 1, H, 1): the screen's refresh against a rolling shutter."""
    y = torch.linspace(-1, 1, size).view(1, 1, -1, 1)
    period, phase = column(draws, "display_band_period", 1.0), column(draws, "display_band_phase")
    return 1 + column(draws, "display_banding") * torch.sin(2 * math.pi * y / period + phase)
