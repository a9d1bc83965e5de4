"""Where the medium stands and what is seen round it: rim, hands, room; and clutter behind living people."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from training.data.simulate.draws import Draws, column
from training.data.simulate.optics import apply, blur, grid, homography, sample
from training.data.simulate.scene import FACE_HALF, TILE_SCALE

#: Side of the simulated picture over the side of the face box.
CANVAS_SCALE = 2.0
#: Tile units per canvas unit when the face has its nominal size.
BASE_ZOOM = CANVAS_SCALE / TILE_SCALE


def draw_view(d: Draws, tilt: float) -> None:
    """Pose of the face or medium before the victim camera: roll, distance, place, tilt."""
    d.normal("view_roll", 0.0, 0.10)
    d.uniform("view_zoom", 0.90, 1.12)
    d.uniform("view_x", -0.05, 0.05)
    d.uniform("view_y", -0.05, 0.05)
    d.normal("view_tilt_x", 0.0, tilt / 2)
    d.normal("view_tilt_y", 0.0, tilt / 2)
    d.chance("view_mirror", 0.5)


def view_matrices(draws: Sequence[Draws]) -> Tensor:
    """Matrices (B, 3, 3) from canvas to tile coordinates."""

    def flat(name: str, default: float = 0.0) -> Tensor:
        return column(draws, name, default).flatten()

    shift = torch.stack([flat("view_x"), flat("view_y")], 1)
    tilt = torch.stack([flat("view_tilt_x"), flat("view_tilt_y")], 1)
    matrices = homography(flat("view_roll"), BASE_ZOOM * flat("view_zoom", 1.0), shift, tilt)
    mirror = torch.diag_embed(torch.stack([1 - 2 * flat("view_mirror"), *[torch.ones(len(draws))] * 2], 1))
    return mirror @ matrices


def face_box(matrix: Tensor, size: int) -> tuple[float, float, float, float]:
    """Face box in the canvas, in pixels (x1, y1, x2, y2): an upright square, as BlazeFace reports it.

    Args:
        matrix: (3, 3), canvas to tile coordinates.
        size: Side of the canvas in pixels.
    """
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0], [0.0, 0.0]]) * FACE_HALF
    points = apply(torch.linalg.inv(matrix)[None], corners[None, None])[0, 0]
    sides = (points[:4] - points[[1, 2, 3, 0]]).norm(dim=1)
    half = float(sides.mean()) / 2
    cx, cy = float(points[4, 0]), float(points[4, 1])
    scale = size / 2
    return ((cx - half + 1) * scale, (cy - half + 1) * scale, (cx + half + 1) * scale, (cy + half + 1) * scale)


def draw_surroundings(d: Draws, rim: tuple[float, float]) -> None:
    """Edge of the medium, its rim (bezel or paper margin), hands and room behind."""
    edge = d.chance("edge_visible", 0.4)
    low, high = (1.05, 2.0) if edge else (3.0, 3.1)
    d.uniform("edge_width", low, high)
    d.uniform("edge_height", low, high * 1.2)
    d.uniform("edge_x", -0.25, 0.25)
    d.uniform("edge_y", -0.3, 0.3)
    d.uniform("rim", *rim)
    d.loguniform("room_level", 0.06, 1.6)
    d.uniform("room_zoom", 0.4, 1.0)
    d.uniform("room_x", -0.5, 0.5)
    d.uniform("room_y", -0.5, 0.5)
    d.uniform("room_blur", 0.0, 3.0)
    d.sometimes("finger", 0.4 if edge else 0.0, 0.10, 0.28)
    d.uniform("finger_place", -0.8, 0.8)
    d.uniform("finger_reach", 0.05, 0.45)
    d.uniform("finger_tone", 0.12, 0.6)
    d.choice("finger_side", ("left", "right", "bottom"))
    d.sometimes("controls", 0.12, 0.2, 0.9)
    d.uniform("controls_height", 0.04, 0.14)


def coverage(plane: Tensor, half_width: Tensor, half_height: Tensor, centre: Tensor, px_per_plane: Tensor) -> Tensor:
    """Share of each pixel inside a rectangle on the plane, (B, 1, H, W), with soft one-pixel edges."""
    dx = half_width - (plane[..., 0].unsqueeze(1) - centre[:, 0].view(-1, 1, 1, 1)).abs()
    dy = half_height - (plane[..., 1].unsqueeze(1) - centre[:, 1].view(-1, 1, 1, 1)).abs()
    return (torch.minimum(dx, dy) * px_per_plane + 0.5).clamp(0, 1)


def room(backgrounds: Tensor, draws: Sequence[Draws], size: int) -> Tensor:
    """The room behind (B, 3, H, W), linear light, out of focus, at its own brightness."""
    zoom = column(draws, "room_zoom", 0.7).flatten()
    shift = torch.cat([column(draws, "room_x").view(-1, 1), column(draws, "room_y").view(-1, 1)], 1)
    matrices = homography(torch.zeros_like(zoom), zoom, shift, torch.zeros_like(shift))
    seen = sample(backgrounds, apply(matrices, grid(size, size)))
    seen = blur(seen, column(draws, "room_blur"), 13)
    mean = seen.mean((1, 2, 3), keepdim=True).clamp_min(1e-3)
    return seen / mean * 0.35 * column(draws, "room_level", 1.0)


def surround(
    content: Tensor, plane: Tensor, *, behind: Tensor, rim_colour: Tensor, draws: Sequence[Draws], px: Tensor
) -> Tensor:
    """Put the medium's content into its rim, hands over it and the room behind; linear light.

    Args:
        content: (B, 3, H, W), what the medium shows at each canvas position.
        plane: (B, H, W, 2), canvas positions in tile units.
        behind: (B, 3, H, W), the room.
        rim_colour: (B, 3, 1, 1) or (B, 3, H, W), bezel or paper margin.
        draws: The samples' parameters.
        px: Canvas pixels per tile unit, (B, 1, 1, 1).
    """
    half_w, half_h = column(draws, "edge_width", 3.0) * FACE_HALF, column(draws, "edge_height", 3.0) * FACE_HALF
    centre = torch.cat([column(draws, "edge_x").view(-1, 1), column(draws, "edge_y").view(-1, 1)], 1) * FACE_HALF
    rim = column(draws, "rim") * FACE_HALF
    bar_height = column(draws, "controls_height", 0.1) * FACE_HALF * 2
    below = (plane[..., 1].unsqueeze(1) - centre[:, 1].view(-1, 1, 1, 1)) - (half_h - bar_height)
    bar = (below * px + 0.5).clamp(0, 1) * column(draws, "controls")
    content = content * (1 - 0.8 * bar)
    inside = coverage(plane, half_w, half_h, centre, px)
    body = coverage(plane, half_w + rim, half_h + rim, centre, px)
    out = behind * (1 - body) + rim_colour * body
    out = out * (1 - inside) + content * inside
    finger = _finger(plane, (half_w + rim, half_h + rim), centre, draws, px)
    tone = column(draws, "finger_tone", 0.3)
    skin = torch.cat([tone, tone * 0.68, tone * 0.5], 1)
    return out * (1 - finger) + skin * finger


def _finger(plane: Tensor, half: tuple[Tensor, Tensor], centre: Tensor, draws: Sequence[Draws], px: Tensor) -> Tensor:
    """Soft capsule that reaches from outside over the rim, (B, 1, H, W)."""
    half_w, half_h = half
    x = plane[..., 0].unsqueeze(1) - centre[:, 0].view(-1, 1, 1, 1)
    y = plane[..., 1].unsqueeze(1) - centre[:, 1].view(-1, 1, 1, 1)
    side = [d.values.get("finger_side", "left") for d in draws]
    left = torch.tensor([s == "left" for s in side]).view(-1, 1, 1, 1)
    bottom = torch.tensor([s == "bottom" for s in side]).view(-1, 1, 1, 1)
    along = torch.where(bottom, half_h - y, torch.where(left, x + half_w, half_w - x))
    across = torch.where(bottom, x / half_w, y / half_h) - column(draws, "finger_place")
    across = across * torch.where(bottom, half_w, half_h)
    width = column(draws, "finger") * FACE_HALF
    overhang = (along - column(draws, "finger_reach") * FACE_HALF).clamp_min(0)
    distance = width - torch.sqrt(overhang**2 + across**2)
    return (distance * px + 0.5).clamp(0, 1) * (width > 0)


def draw_clutter(d: Draws) -> None:
    """Straight-edged things behind a living person: doors, shelves, pictures, a monitor."""
    d.sometimes("clutter", 0.35, 0.05, 0.9)
    d.uniform("clutter_x", 0.85, 1.7)
    d.uniform("clutter_y", -1.6, 1.6)
    d.uniform("clutter_width", 0.08, 0.9)
    d.uniform("clutter_height", 0.3, 3.0)
    d.chance("clutter_left", 0.5)


def clutter(scene: Tensor, plane: Tensor, draws: Sequence[Draws], px: Tensor) -> Tensor:
    """Draw one rectangle beside the face, never over it; linear light."""
    side = 1 - 2 * column(draws, "clutter_left")
    half_w = column(draws, "clutter_width", 0.1) * FACE_HALF
    x = side * (column(draws, "clutter_x", 1.2) * FACE_HALF + half_w)
    centre = torch.cat([x.view(-1, 1), column(draws, "clutter_y").view(-1, 1) * FACE_HALF], 1)
    inside = coverage(plane, half_w, column(draws, "clutter_height", 1.0) * FACE_HALF, centre, px)
    level = column(draws, "clutter")
    inside = inside * (level > 0)
    return scene * (1 - inside) + level * inside


def draw_truncation(d: Draws) -> None:
    """The frame's edge: many pictures end close to the face."""
    cut = d.chance("cut", 0.4)
    for side in ("left", "top", "right", "bottom"):
        d.sometimes(f"cut_{side}", 0.6 if cut else 0.0, 0.0, 0.27)


def truncate(picture: Tensor, draws: Sequence[Draws]) -> Tensor:
    """Repeat the frame's edge beyond the drawn cuts, as cropping at the edge of a frame does; uint8 (B, H, W, 3)."""
    size = picture.shape[1]
    out = picture.clone()
    for i, d in enumerate(draws):
        left, top, right, bottom = (
            int(float(d.values[f"cut_{side}"]) * size) for side in ("left", "top", "right", "bottom")
        )
        index_x = torch.arange(size).clamp(left, size - 1 - right)
        index_y = torch.arange(size).clamp(top, size - 1 - bottom)
        out[i] = picture[i][index_y][:, index_x]
    return out
