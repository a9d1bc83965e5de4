"""What a player draws over the picture on a screen: a play button."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from training.data.simulate.draws import Draws, column
from training.data.simulate.scene import FACE_HALF


def draw_overlay(d: Draws) -> None:
    """A paused video shows a button in the middle of the screen, most often near the face; lengths in face halves."""
    d.sometimes("play_button", 0.08, 0.35, 0.9)
    d.uniform("play_x", -0.8, 0.8)
    d.uniform("play_y", -0.6, 1.2)
    d.uniform("play_radius", 0.12, 0.4)
    d.uniform("play_tone", 0.15, 1.0)


def play_button(content: Tensor, plane: Tensor, draws: Sequence[Draws], px: Tensor) -> Tensor:
    """Lay a disc with a triangle in it over what a screen shows; linear light, screen white 1.

    Args:
        content: (B, 3, H, W).
        plane: (B, H, W, 2), canvas positions in tile units.
        draws: The samples' parameters.
        px: Canvas pixels per tile unit, (B, 1, 1, 1).
    """
    opacity = column(draws, "play_button")
    chosen = (opacity.flatten() > 0).nonzero().flatten()
    if not len(chosen):
        return content
    some = [draws[i] for i in chosen.tolist()]
    radius = column(some, "play_radius", 0.2) * FACE_HALF
    x = plane[chosen, ..., 0].unsqueeze(1) - column(some, "play_x") * FACE_HALF
    y = plane[chosen, ..., 1].unsqueeze(1) - column(some, "play_y") * FACE_HALF
    disc = ((radius - torch.sqrt(x * x + y * y)) * px[chosen] + 0.5).clamp(0, 1)
    # A triangle that points to the right, also over a mirrored face: behind its left side, between its slanted ones.
    x = x * (1 - 2 * column(some, "view_mirror"))
    side = torch.minimum(x + 0.4 * radius, (0.5 * radius - x) * 0.5 - y.abs() * 0.866)
    triangle = (side * px[chosen] + 0.5).clamp(0, 1)
    tone = column(some, "play_tone", 1.0)
    # Light buttons carry a dark triangle and dark ones a light one.
    paint = tone * (1 - triangle) + (1.1 - tone).clamp(0.02, 1) * triangle
    cover = disc * opacity[chosen]
    out = content.clone()
    out[chosen] = out[chosen] * (1 - cover) + paint * cover
    return out
