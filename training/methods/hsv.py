"""Hue, saturation and value inside the graph: the same 8-bit numbers as Pillow, from float32 operators only."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.errors import BatchError


class RgbHsvInput(nn.Module):
    """First layer of networks that read colour twice: uint8 NHWC to float RGB beside HSV.

    Neither half has a mean or a standard deviation: all six channels are 8-bit numbers over 255.

    Source: Shao et al., "Regularized Fine-grained Meta Face Anti-spoofing", AAAI 2020, supplementary material:
    input of 256×256×6, RGB and HSV.
    """

    def forward(self, rgb: Tensor) -> Tensor:
        """Convert.

        Args:
            rgb: uint8 (N, S, S, 3), red first.

        Returns:
            float32 (N, 6, S, S) in [0, 1]: red, green, blue, hue, saturation, value.

        Raises:
            BatchError: The pictures do not have three channels in their last dimension.
        """
        if rgb.ndim != 4 or rgb.shape[3] != 3:
            raise BatchError(f"expected pictures of shape (N, S, S, 3), red first, got {tuple(rgb.shape)}")
        x = rgb.to(torch.float32)
        return (torch.cat([x, rgb_to_hsv(x)], dim=3) * (1.0 / 255.0)).permute(0, 3, 1, 2)


def rgb_to_hsv(rgb: Tensor) -> Tensor:
    """Convert colours as Pillow's ``convert("HSV")`` does, bit for bit.

    With c = max − min, S = 255 · c / max and H = 255 · h / 6, where h = (g_c − b_c), 2 + (…), 4 + (…) in the sector of
    the largest channel, turned into [0, 6); fractions are cut off, not rounded. Grey has H = S = 0, V is max. OpenCV's
    8-bit hue reaches 179 only and is not this one.

    Args:
        rgb: (…, 3) whole numbers from 0 to 255, red first, float32 or uint8.

    Returns:
        float32 (…, 3), whole numbers from 0 to 255.

    Source: Smith, "Color Gamut Transform Pairs", SIGGRAPH 1978, hexcone model; scale and truncation measured on Pillow.
    """
    red, green, blue = rgb.to(torch.float32).unbind(-1)
    value = torch.maximum(torch.maximum(red, green), blue)
    least = torch.minimum(torch.minimum(red, green), blue)
    chroma = value - least
    zero, one = torch.zeros_like(value), torch.ones_like(value)
    span = torch.where(chroma == 0, one, chroma)
    # Where a channel is the least its share is 1; engines that multiply by a reciprocal would find a little less.
    r, g, b = (torch.where(channel == least, one, (value - channel) / span) for channel in (red, green, blue))
    green_or_blue = torch.where(green == value, _sector(2.0, r, b), _sector(4.0, g, r))
    hue = torch.where(red == value, _sector(0.0, b, g), green_or_blue) / 6.0
    hue = torch.where(hue < 0, hue + 1.0, hue)
    saturation = chroma / torch.where(value == 0, one, value)
    return torch.stack([torch.where(chroma == 0, zero, _floor_255(hue)), _floor_255(saturation), value], dim=-1)


def _sector(base: float, plus: Tensor, minus: Tensor) -> Tensor:
    """``base + plus − minus``, where one of the two is 1: rounded once, as by a processor with more digits."""
    return torch.where(minus == 1.0, (base - 1.0) + plus, (base + 1.0) - minus)


def _floor_255(share: Tensor) -> Tensor:
    """⌊255 · share⌋ of the exact product, which float32 cannot hold.

    The rounded product may reach a whole number that the exact one just misses. 256 · share − n is exact near n, and
    the difference of two floats always has the right sign.
    """
    nearest = torch.round(share * 255.0)
    missed = (share * 256.0 - nearest) - share < 0.0
    return nearest - missed.to(share.dtype)
