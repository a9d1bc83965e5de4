"""Fingers that hold a medium: rounded, side by side, over its edge; linear light."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from training.data.simulate.draws import Draws, column
from training.data.simulate.scene import FACE_HALF

#: Places of neighbouring fingers over their width: they lie close to each other.
_SPACING = 2.1


def draw_finger(d: Draws, probability: float, along: float = 0.8) -> None:
    """Fingers at one side: half their width, place along the edge, how far they reach over it, tone, how many.

    Lengths in halves of the face box's side. A thumb is alone, fingers come in twos to fours; of them the
    middle ones reach farthest. ``finger_uneven`` is how much less the outer ones reach, ``finger_fan`` how far they
    slant, ``finger_light`` which side of a round thing the light falls on.

    Args:
        d: The sample's parameters.
        probability: How often there are any.
        along: How far from the middle of an edge they may lie, of half its length.
    """
    d.sometimes("finger", probability, 0.10, 0.28)
    d.uniform("finger_place", -along, along)
    d.uniform("finger_reach", 0.05, 0.45)
    d.loguniform("finger_tone", 0.08, 0.6)
    d.choice("finger_side", ("left", "right", "bottom"))
    d.integer("finger_count", 1, 5)
    d.uniform("finger_uneven", 0.2, 0.9)
    d.uniform("finger_fan", -0.3, 0.3)
    d.uniform("finger_light", -0.8, 0.8)


def finger(
    plane: Tensor, half: tuple[Tensor, Tensor], centre: Tensor, draws: Sequence[Draws], px: Tensor
) -> tuple[Tensor, Tensor]:
    """Round ends of fingers that reach from outside over a rectangle's edge.

    Args:
        plane: (B, H, W, 2), canvas positions in tile units.
        half: Half the rectangle's width and height, (B, 1, 1, 1) each.
        centre: Its middle, (B, 2).
        draws: The samples' parameters.
        px: Canvas pixels per tile unit, (B, 1, 1, 1).

    Returns:
        How much of each position they cover, and how much light they send back there relative to a flat thing,
        (B, 1, H, W) each: a cylinder is darker towards its sides, by Lambert's cosine.
    """
    half_w, half_h = half
    x = plane[..., 0].unsqueeze(1) - centre[:, 0].view(-1, 1, 1, 1)
    y = plane[..., 1].unsqueeze(1) - centre[:, 1].view(-1, 1, 1, 1)
    side = [d.values.get("finger_side", "left") for d in draws]
    left = torch.tensor([s == "left" for s in side]).view(-1, 1, 1, 1)
    bottom = torch.tensor([s == "bottom" for s in side]).view(-1, 1, 1, 1)
    along = torch.where(bottom, half_h - y, torch.where(left, x + half_w, half_w - x))
    length = torch.where(bottom, half_w, half_h)
    # Depth into the medium from its edge: fingers slant and get thinner towards their ends.
    reach = column(draws, "finger_reach") * FACE_HALF
    across = torch.where(bottom, x, y) - column(draws, "finger_place") * length - column(draws, "finger_fan") * along
    width = column(draws, "finger") * FACE_HALF * (1 - 0.25 * (along / reach.clamp_min(1e-6)).clamp(-1, 1))
    # Which of the fingers is nearest, from the first one on towards the middle of the edge.
    step = (_SPACING * column(draws, "finger") * FACE_HALF).clamp_min(1e-6)
    inward = -torch.sign(column(draws, "finger_place", 1.0))
    last = column(draws, "finger_count", 1.0) - 1
    number = (across * inward / step).round().clamp_min(0).minimum(last)
    across = across - number * step * inward
    # The middle ones of several reach farthest.
    shorter = column(draws, "finger_uneven") * reach * ((2 * number - last) / (last + 1)).abs()
    overhang = (along - reach + shorter).clamp_min(0)
    away = torch.sqrt(overhang**2 + across**2)
    cover = ((width - away) * px + 0.5).clamp(0, 1) * (width > 0)
    sine = (across / width.clamp_min(1e-6)).clamp(-1, 1)
    up = torch.sqrt((1 - (away / width.clamp_min(1e-6)) ** 2).clamp_min(0))
    light = column(draws, "finger_light")
    shade = (up * torch.sqrt(1 - light**2) + sine * light).clamp_min(0) * 0.75 + 0.25
    return cover, shade
