"""What a screen shows over the picture: a play button, and the interface of a phone, a player or a call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from training.data.simulate.compose import rectangle
from training.data.simulate.draws import Draws, column
from training.data.simulate.scene import FACE_HALF

#: Screens that are held in a hand; the others stand on a table and have windows and a pointer.
HANDHELD = frozenset({"phone", "tablet"})
#: Buttons of a call: hang up, mute, camera; sRGB.
CALL_BUTTONS = ((0.85, 0.16, 0.14), (0.22, 0.23, 0.25), (0.22, 0.23, 0.25))

#: From an inset to the screen's edges, of the shorter side; above it further, for a bar, of the longer one.
_GAP, _BELOW_BAR = 0.03, 0.05


def draw_overlay(d: Draws) -> None:
    """A paused video shows a button in the middle of the screen, most often near the face; lengths in face halves."""
    d.sometimes("play_button", 0.08, 0.35, 0.9)
    d.uniform("play_x", -0.8, 0.8)
    d.uniform("play_y", -0.6, 1.2)
    d.uniform("play_radius", 0.12, 0.4)
    d.uniform("play_tone", 0.15, 1.0)


def draw_interface(d: Draws, subtype: str) -> None:
    """What the screen shows beside the picture: bar along its upper edge, notch, pointer, a call's buttons and inset.

    Shares are an assumption: half of the phones and tablets show a status bar, a third of the others a title bar, half
    of the phones have a hole in the screen, a fifth of the others show the pointer, one screen in eight shows a call.
    """
    handheld = subtype in HANDHELD
    d.sometimes("status_bar", 0.5 if handheld else 0.35, 0.3, 1.0)
    d.uniform("status_bar_height", *((0.025, 0.05) if handheld else (0.03, 0.08)))
    d.uniform("status_bar_tone", 0.0, 1.0)
    d.uniform("status_bar_marks", 0.1, 0.45)
    d.sometimes("notch", 0.5 if subtype == "phone" else 0.0, 0.05, 0.5)
    d.uniform("notch_height", 0.02, 0.045)
    d.sometimes("pointer", 0.0 if handheld else 0.2, 0.08, 0.22)
    d.uniform("pointer_x", -1.4, 1.4)
    d.uniform("pointer_y", -1.4, 1.4)
    d.sometimes("call", 0.12, 0.5, 1.0)
    d.uniform("call_size", 0.045, 0.09)
    d.uniform("call_height", 0.08, 0.2)
    wanted = d.sometimes("inset_wanted", 0.12, 0.22, 0.36)
    d.uniform("inset_level", 0.25, 1.0)
    corner = d.choice("inset_corner", ("upper_left", "upper_right", "lower_left", "lower_right"))
    d.derive("inset", wanted if _beside_the_face(d, corner, wanted) else 0.0)


def _beside_the_face(d: Draws, corner: str, share: float) -> bool:
    """Whether an inset in a corner leaves the face alone; nobody who shows a face covers it."""
    half_w, half_h = float(d.values["edge_width"]), float(d.values["edge_height"])
    width = 2 * share * half_w
    height = min(4 / 3 * width, 0.8 * half_h)
    gap = 2 * _GAP * min(half_w, half_h)
    right, upper = corner.endswith("right"), corner.startswith("upper")
    to_x = half_w + float(d.values["edge_x"]) * (1 if right else -1) - gap - width
    to_y = half_h + float(d.values["edge_y"]) * (-1 if upper else 1) - gap - height
    return max(to_x, to_y - (2 * _BELOW_BAR * max(half_w, half_h) if upper else 0)) > 1


def interface(shown: Tensor, plane: Tensor, draws: Sequence[Draws], px: Tensor, room: Tensor) -> Tensor:
    """Lay the interface over what a screen shows.

    Args:
        shown: (B, 3, H, W), the picture that the screen is sent, sRGB in [0, 1].
        plane: (B, H, W, 2), canvas positions in tile units.
        draws: The samples' parameters.
        px: Canvas pixels per tile unit, (B, 1, 1, 1).
        room: (B, 3, H, W), what the inset of a call shows, in [0, 1].

    Returns:
        The same with the interface, sRGB (B, 3, H, W); ``shown`` stays as it is.
    """
    out = shown
    for name, part in (
        ("inset", _inset),
        ("call", _call),
        ("status_bar", _bar),
        ("notch", _notch),
        ("pointer", _pointer),
    ):
        chosen = column(draws, name).flatten().nonzero().flatten()
        if not len(chosen):
            continue
        out = out.clone() if out is shown else out
        some = [draws[i] for i in chosen.tolist()]
        screen = _Screen(plane[chosen], some, px[chosen])
        cover, paint = part(screen, some, room[chosen])
        out[chosen] = torch.lerp(out[chosen], paint.expand_as(out[chosen]), cover.expand_as(out[chosen]))
    return out


class _Screen:
    """Places on a screen, upright for whoever looks at it, in tile units.

    Attributes:
        x, y: From the left and the upper edge, (B, 1, H, W).
        width, height: Of the screen, (B, 1, 1, 1).
        px: Canvas pixels per tile unit, (B, 1, 1, 1).
    """

    def __init__(self, plane: Tensor, draws: Sequence[Draws], px: Tensor) -> None:
        half_width, half_height, centre = rectangle(draws)
        self.x = plane[..., 0].unsqueeze(1) - centre[:, 0].view(-1, 1, 1, 1) + half_width
        self.y = plane[..., 1].unsqueeze(1) - centre[:, 1].view(-1, 1, 1, 1) + half_height
        self.width, self.height, self.px = 2 * half_width, 2 * half_height, px

    @property
    def long(self) -> Tensor:
        """Longer side."""
        return torch.maximum(self.width, self.height)

    @property
    def short(self) -> Tensor:
        """Shorter side."""
        return torch.minimum(self.width, self.height)

    def covered(self, distance: Tensor) -> Tensor:
        """Share of each pixel that is covered, by the signed distance to an outline, positive inside."""
        return (distance * self.px + 0.5).clamp(0, 1)


def _bar(at: _Screen, draws: Sequence[Draws], _: Tensor) -> tuple[Tensor, Tensor]:
    """A strip along the upper edge with marks in both corners: a clock and symbols, or a title and buttons."""
    height, tone = column(draws, "status_bar_height", 0.04) * at.long, column(draws, "status_bar_tone")
    strip = at.covered(height - at.y)
    # Marks are a third of the strip high, and as wide and as far apart as letters.
    reach = column(draws, "status_bar_marks", 0.2) * at.width
    edge = torch.minimum(at.x, at.width - at.x) - 0.3 * height
    letters = torch.sin(edge * (2 * torch.pi / (0.5 * height))) + torch.sin(edge * (2 * torch.pi / (1.3 * height)))
    inside = torch.minimum(torch.minimum(edge, reach - edge), 0.18 * height - (at.y - 0.5 * height).abs())
    marks = at.covered(inside) * (letters * 2 + 0.5).clamp(0, 1)
    paint = torch.lerp(tone, (tone < 0.5).to(tone.dtype), 0.9 * marks)
    # Marks are opaque where the strip lets the picture through.
    return torch.maximum(strip * column(draws, "status_bar"), strip * marks), paint


def _notch(at: _Screen, draws: Sequence[Draws], _: Tensor) -> tuple[Tensor, Tensor]:
    """What the front camera takes of the screen, in the middle of a shorter edge: from a hole to half of the edge."""
    upright = at.height >= at.width
    along = torch.where(upright, at.x - at.width / 2, at.y - at.height / 2)
    down = torch.where(upright, at.y, at.x)
    height = column(draws, "notch_height", 0.03) * at.long
    half = (column(draws, "notch", 0.1) * at.short / 2).clamp_min(height / 2)
    # A capsule; where it is wide it hangs from the edge.
    middle = torch.where(half > 2 * height, 0.3 * height, 0.9 * height)
    away = torch.sqrt((along.abs() - (half - height / 2)).clamp_min(0) ** 2 + (down - middle) ** 2)
    return at.covered(height / 2 - away), torch.zeros_like(height)


def _pointer(at: _Screen, draws: Sequence[Draws], _: Tensor) -> tuple[Tensor, Tensor]:
    """A white arrow with a black outline near the face; its point looks up and to the left, mirrored or not."""
    size = column(draws, "pointer", 0.1) * FACE_HALF
    _, _, centre = rectangle(draws)
    x = at.x - at.width / 2 + centre[:, 0].view(-1, 1, 1, 1) - column(draws, "pointer_x") * FACE_HALF
    y = at.y - at.height / 2 + centre[:, 1].view(-1, 1, 1, 1) - column(draws, "pointer_y") * FACE_HALF
    # Between its left side, the slanted one, and the lower one.
    inside = torch.minimum(torch.minimum(x, (y - x) * 0.7071), (size * 1.4 - y - 0.35 * x) * 0.94)
    rim = 0.06 * size
    return at.covered(inside + rim), at.covered(inside - rim).expand(-1, 3, -1, -1)


def _call(at: _Screen, draws: Sequence[Draws], _: Tensor) -> tuple[Tensor, Tensor]:
    """A row of round buttons near the lower edge."""
    radius, opacity = column(draws, "call_size", 0.06) * at.short, column(draws, "call")
    down = at.y - at.height * (1 - column(draws, "call_height", 0.1))
    cover, paint = torch.zeros_like(at.x), torch.zeros_like(at.x).repeat(1, 3, 1, 1)
    for place, colours in zip((0.0, -3.2, 3.2), CALL_BUTTONS, strict=True):
        away = torch.sqrt((at.x - at.width / 2 - place * radius) ** 2 + down**2)
        disc = at.covered(radius - away)
        # A light bar stands for the symbol.
        symbol = at.covered(
            torch.minimum(0.45 * radius - (away * away - down * down).clamp_min(0).sqrt(), 0.13 * radius - down.abs())
        )
        tone = torch.tensor(colours).view(1, 3, 1, 1)
        paint = torch.where(disc > 0, torch.lerp(tone.expand_as(paint), torch.ones_like(paint), symbol), paint)
        cover = torch.maximum(cover, disc)
    return cover * opacity, paint


def _inset(at: _Screen, draws: Sequence[Draws], room: Tensor) -> tuple[Tensor, Tensor]:
    """The caller's own small picture in a corner; it shows the room."""
    corner = [str(d.values["inset_corner"]) for d in draws]
    left = torch.tensor([c.endswith("left") for c in corner]).view(-1, 1, 1, 1)
    upper = torch.tensor([c.startswith("upper") for c in corner]).view(-1, 1, 1, 1)
    width, gap = column(draws, "inset", 0.3) * at.width, _GAP * at.short
    height = (width * 4 / 3).clamp_max(0.4 * at.height)
    x = torch.where(left, at.x - gap, at.width - gap - at.x)
    y = torch.where(upper, at.y - gap - _BELOW_BAR * at.long, at.height - gap - at.y)
    cover = at.covered(torch.minimum(torch.minimum(x, width - x), torch.minimum(y, height - y)))
    return cover, (room * column(draws, "inset_level", 0.5)).clamp(0, 1)


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
