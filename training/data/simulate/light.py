"""Illumination of what stands before the victim camera, and reflections on it; linear light."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from training.data.simulate import colour, compose
from training.data.simulate.draws import Draws, column


def draw_room_light(d: Draws) -> None:
    """Light of the room: direction and strength of a gradient, a coloured second light, its temperature."""
    d.uniform("light_angle", -3.1416, 3.1416)
    d.sometimes("light_gradient", 0.7, 0.0, 0.7)
    d.uniform("light_offset", -0.6, 0.6)
    d.uniform("light_kelvin", 2800, 8000)
    d.sometimes("light_mix", 0.35, 0.0, 0.6)
    d.uniform("light_mix_kelvin", 2600, 9500)


def room_light(draws: Sequence[Draws], size: int) -> Tensor:
    """Illumination (B, 3, H, W), about 1 on average: a smooth ramp, warm or cold, with mixed colours.

    The ramp is ``1 + g·tanh(2(t - offset))`` along the light's direction; the camera's white balance later removes
    the common part of the colour, not the difference between the two lights.
    """
    points = compose.canvas(size, draws)
    angle, gradient = column(draws, "light_angle"), column(draws, "light_gradient")
    t = points[None, None, ..., 0] * torch.cos(angle) + points[None, None, ..., 1] * torch.sin(angle)
    ramp = torch.tanh(2 * (t - column(draws, "light_offset")))
    main = colour.white_point(column(draws, "light_kelvin", 6500))
    second = colour.white_point(column(draws, "light_mix_kelvin", 6500))
    share = column(draws, "light_mix") * (0.5 - 0.5 * ramp)
    level = (1 + gradient * ramp).clamp_min(0.03)
    # The second light's tint relative to the main one's, level · (main·(1 - share) + second·share) / main.
    return torch.addcmul(level, level * share, second / main.clamp_min(1e-3) - 1)


def fall_off(draws: Sequence[Draws], size: int) -> Tensor:
    """Brightness of a screen that is seen at an angle (B, 1, H, W): a ramp along the room light's direction."""
    points = compose.canvas(size, draws)
    angle = column(draws, "light_angle")
    t = points[None, None, ..., 0] * torch.cos(angle) + points[None, None, ..., 1] * torch.sin(angle)
    return (1 + column(draws, "screen_gradient") * t).clamp_min(0.1)


def draw_glare(d: Draws, probability: float, strongest: float) -> None:
    """A soft highlight or a reflected room on glass or gloss."""
    d.sometimes("glare", probability, 0.02, strongest)
    d.uniform("glare_x", -1.1, 1.1)
    d.uniform("glare_y", -1.1, 1.1)
    d.loguniform("glare_size", 0.12, 1.2)
    d.uniform("glare_stretch", 0.4, 2.5)
    # A lamp or a flash that the glass mirrors: small, and brighter than anything the screen shows.
    d.sometimes("lamp", probability * 0.35, 0.5, 4.0)
    d.uniform("lamp_x", -0.8, 0.8)
    d.uniform("lamp_y", -0.8, 0.8)
    d.loguniform("lamp_size", 0.02, 0.12)
    d.sometimes("room_reflection", probability * 0.6, 0.01, 0.12)


def glare(draws: Sequence[Draws], size: int, room: Tensor) -> Tensor:
    """Light added by glare and by the reflected room (B, 3, H, W), relative to a white of 1."""
    points = compose.canvas(size, draws)[None, None]
    spot = torch.zeros(len(draws), 1, size, size)
    if any(d.values.get("glare") for d in draws):
        dx = (points[..., 0] - column(draws, "glare_x")) / column(draws, "glare_stretch", 1.0)
        dy = points[..., 1] - column(draws, "glare_y")
        spot = torch.exp(-(dx**2 + dy**2) / (2 * column(draws, "glare_size", 1.0) ** 2)) * column(draws, "glare")
    if any(d.values.get("lamp") for d in draws):
        # A bright core in a wide, faint halo: smudged glass scatters.
        away2 = (points[..., 0] - column(draws, "lamp_x")) ** 2 + (points[..., 1] - column(draws, "lamp_y")) ** 2
        size2 = column(draws, "lamp_size", 1.0) ** 2
        lamp = torch.exp(-away2 / (2 * size2)) + 0.06 / (1 + away2 / (4 * size2))
        spot = spot + column(draws, "lamp") * lamp
    return torch.addcmul(spot, column(draws, "room_reflection"), room)
