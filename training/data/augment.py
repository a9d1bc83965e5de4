"""Augmentation of network inputs, batched; every random number comes from the generator that is passed in."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (the community's name for it)
from torch import Generator, Tensor

from training.config import AugmentConfig

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as torchvision's colour jitter


def augment(rgb: Tensor, config: AugmentConfig, generator: Generator) -> Tensor:
    """Augment a batch of pictures.

    Args:
        rgb: uint8 (N, S, S, 3), red first.
        config: What to do.
        generator: Source of every random number.

    Returns:
        uint8 (N, S, S, 3).

    Source: A-DeepPixBiS, released code: horizontal flip and ColorJitter(0.15, 0.15, 0.15); the rest is ours.
    """
    n = rgb.shape[0]

    def spread(amount: float, channels: int = 1) -> Tensor:
        return 1 + amount * (2 * torch.rand(n, channels, 1, 1, generator=generator) - 1)

    def happens(probability: float) -> Tensor:
        return torch.rand(n, 1, 1, 1, generator=generator) < probability

    x = rgb.permute(0, 3, 1, 2).float()
    x = torch.where(drawn_flips(n, config, generator).view(n, 1, 1, 1), x.flip(3), x)
    x = x * spread(config.brightness)
    mean = _grey(x).mean((1, 2, 3), keepdim=True)
    x = mean + (x - mean) * spread(config.contrast)
    grey = _grey(x)
    keep = torch.where(happens(config.grey), torch.zeros(n, 1, 1, 1), spread(config.saturation))
    x = grey + (x - grey) * keep
    x = x * spread(config.colour, 3)
    x = _lose_resolution(x, happens(config.blur), generator)
    if config.noise:
        strength = config.noise * torch.rand(n, 1, 1, 1, generator=generator)
        x = x + strength * torch.randn(x.shape, generator=generator)
    x = _erase(x, happens(config.erase), generator)
    return x.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def drawn_flips(n: int, config: AugmentConfig, generator: Generator) -> Tensor:
    """Which pictures are flipped, bool (n,): the first draw of :func:`augment` from a generator in the same state.

    Whatever belongs to the pictures, such as their depth, is flipped by it too.
    """
    return torch.rand(n, generator=generator) < config.flip


def _grey(x: Tensor) -> Tensor:
    return (x * torch.tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _lose_resolution(x: Tensor, chosen: Tensor, generator: Generator) -> Tensor:
    """Shrink and enlarge again: one factor per batch keeps it one call."""
    factor = 1 + 1.5 * float(torch.rand((), generator=generator))
    if not bool(chosen.any()):
        return x
    side = x.shape[-1]
    small = F.interpolate(x, (round(side / factor),) * 2, mode="area")
    return torch.where(chosen, F.interpolate(small, (side, side), mode="bilinear", align_corners=False), x)


def _erase(x: Tensor, chosen: Tensor, generator: Generator) -> Tensor:
    """Fill a random rectangle, half a side at most, with a random grey."""
    n, side = x.shape[0], x.shape[-1]
    place = torch.rand(n, 5, generator=generator)
    size = (0.1 + 0.4 * place[:, 2:4]) * side
    start = place[:, :2] * (side - size)
    ramp = torch.arange(side)
    rows = (ramp >= start[:, :1]) & (ramp < start[:, :1] + size[:, :1])
    columns = (ramp >= start[:, 1:]) & (ramp < start[:, 1:] + size[:, 1:])
    inside = rows.view(n, 1, side, 1) & columns.view(n, 1, 1, side) & chosen
    return torch.where(inside, place[:, 4].view(n, 1, 1, 1) * 255, x)
