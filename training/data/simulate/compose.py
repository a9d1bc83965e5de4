"""Where the medium stands and what is seen round it: rim, hands, room; and clutter behind living people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import torch
from torch import Tensor

from training.data.simulate import cutout, hand
from training.data.simulate.cutout import Cut
from training.data.simulate.draws import Draws, Value, column
from training.data.simulate.optics import apply, blur, grid, homography, sample
from training.data.simulate.scene import FACE_HALF, TILE_SCALE

#: Side of the simulated picture over the side of the face box, unless a sample's ``canvas_scale`` says otherwise.
CANVAS_SCALE = 2.0
#: Most that it can be: tiles end soon after.
WIDEST_CANVAS = 2.6
#: Tile units per canvas unit when the face has its nominal size. A canvas unit is the side of a face box.
BASE_ZOOM = CANVAS_SCALE / TILE_SCALE


def half_canvas(draws: Sequence[Draws]) -> float:
    """Half the canvas's side in canvas units, 1 by default; the samples of a batch share it."""
    return float(draws[0].values.get("canvas_scale", CANVAS_SCALE)) / CANVAS_SCALE


def canvas(size: int, draws: Sequence[Draws]) -> Tensor:
    """Canvas positions of pixels (size, size, 2), in [-1, 1] by default and beyond on a wider canvas.

    What is placed by canvas units keeps its place on the face, however much is seen round it. Not to be changed in
    place.
    """
    half = half_canvas(draws)
    return grid(size, size) if half == 1 else grid(size, size) * half


def px_per_tile_unit(size: int, draws: Sequence[Draws]) -> Tensor:
    """Canvas pixels per tile unit, (B, 1, 1, 1), where the canvas has ``size`` along a side."""
    return (size / 2) / (half_canvas(draws) * BASE_ZOOM * column(draws, "view_zoom", 1.0))


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
    return face_boxes(matrix[None], size)[0]


def face_boxes(matrices: Tensor, size: int, half: float = 1.0) -> list[tuple[float, float, float, float]]:
    """Face boxes of a batch, see :func:`face_box`.

    Args:
        matrices: (B, 3, 3), canvas to tile coordinates.
        size: Side of the canvas in pixels.
        half: Half of it in canvas units, see :func:`half_canvas`.
    """
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0], [0.0, 0.0]]) * FACE_HALF
    points = apply(torch.linalg.inv(matrices), corners[None, None])[:, 0]
    sides = (points[:, :4] - points[:, [1, 2, 3, 0]]).norm(dim=2).mean(1)
    scale, boxes = size / (2 * half), []
    for side, (cx, cy) in zip(sides.tolist(), points[:, 4].tolist(), strict=True):
        x1, y1, x2, y2 = (middle + reach + half for reach in (-side / 2, side / 2) for middle in (cx, cy))
        boxes.append((x1 * scale, y1 * scale, x2 * scale, y2 * scale))
    return boxes


@dataclass(frozen=True, slots=True)
class Form:
    """Size and shape of a medium as it is held: lengths in halves of the face box's side.

    Attributes:
        share: How often the medium is held like this.
        half_width: Half the picture's width, (low, high).
        aspect: Its height over its width, (low, high).
    """

    share: float
    half_width: tuple[float, float]
    aspect: tuple[float, float]


#: Forms of each kind of medium.
FORMS: dict[str, tuple[Form, ...]] = {
    "phone": (Form(0.65, (1.0, 1.9), (1.6, 2.2)), Form(0.35, (2.0, 4.0), (0.45, 0.5625))),
    "tablet": (Form(0.5, (1.1, 2.5), (1.33, 1.33)), Form(0.5, (1.1, 2.5), (0.75, 0.75))),
    "laptop": (Form(1.0, (1.8, 4.5), (0.625, 0.625)),),
    "monitor": (Form(1.0, (2.0, 5.0), (0.5625, 0.5625)),),
    "laser": (Form(0.8, (1.1, 2.2), (1.41, 1.41)), Form(0.2, (1.0, 1.3), (1.05, 1.41))),
    "inkjet": (Form(0.8, (1.1, 2.2), (1.41, 1.41)), Form(0.2, (1.0, 1.3), (1.05, 1.41))),
    "photo_paper": (Form(0.5, (1.2, 2.5), (1.5, 1.5)), Form(0.5, (1.2, 2.5), (0.667, 0.667))),
    "newsprint": (Form(1.0, (1.2, 3.0), (1.0, 1.5)),),
}
#: Kinds of which the second form is cut out close to the face, without a margin.
CUT_OUT = frozenset({"laser", "inkjet"})
#: An edge within this many face halves is one that a crop may show; on a wider canvas more are.
NEAR_EDGE = 1.8


def draw_surroundings(d: Draws, subtype: str, rim: tuple[float, float]) -> None:
    """Size of the medium, place of the face on it, its rim (bezel or paper margin), hands and room behind.

    The face lies within the medium. Attackers also hide the edges by coming close.
    """
    hidden = d.chance("edge_hidden", 0.3)
    forms = FORMS[subtype]
    names = [str(i) for i in range(len(forms))]
    number = int(d.choice("edge_form", names, [form.share for form in forms]))
    seen = half_canvas([d])
    width, aspect = d.uniform("edge_size", *forms[number].half_width), d.uniform("edge_aspect", *forms[number].aspect)
    place_x, place_y = d.uniform("edge_place_x", -0.7, 0.7), d.uniform("edge_place_y", -0.7, 0.7)
    close = d.uniform("edge_close", 3.0, 3.1) * seen
    # Lying media would else cut the forehead or the chin off.
    width = max(width, 1.05 / aspect)
    half_w, half_h = (close, close) if hidden else (width, width * aspect)
    x, y = (0.35 * place_x, 0.35 * place_y) if hidden else (place_x * (half_w - 1), place_y * (half_h - 1))
    for name, value in (("edge_width", half_w), ("edge_height", half_h), ("edge_x", x), ("edge_y", y)):
        d.derive(name, value)
    contoured = bool(d.values.get("contour"))
    near = contoured or near_edge(d.values)
    d.derive("edge_visible", int(near))
    cut_out = contoured or (subtype in CUT_OUT and number == 1)
    d.uniform("rim", *((0.0, 0.0) if cut_out else rim))
    draw_room(d)
    # Beside the lowest or the outermost point of a head a straight finger would miss it.
    hand.draw_finger(d, 0.4 if near else 0.0, along=0.3 if contoured else 0.8)
    d.sometimes("controls", 0.12, 0.2, 0.9)
    d.uniform("controls_height", 0.04, 0.14)


def near_edge(values: Mapping[str, Value]) -> bool:
    """Whether an edge of a whole medium with these parameters is near enough to be seen, see :data:`NEAR_EDGE`."""
    seen = float(values.get("canvas_scale", CANVAS_SCALE)) / CANVAS_SCALE
    ends = (("edge_width", "edge_x"), ("edge_height", "edge_y"))
    return min(float(values[half]) - abs(float(values[middle])) for half, middle in ends) < NEAR_EDGE * seen


def draw_room(d: Draws) -> None:
    """A room that is seen behind a medium or in a frame: brightness, place, focus."""
    d.loguniform("room_level", 0.06, 1.6)
    d.uniform("room_zoom", 0.4, 1.0)
    d.uniform("room_x", -0.5, 0.5)
    d.uniform("room_y", -0.5, 0.5)
    d.uniform("room_blur", 0.0, 3.0)


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
    return seen * (0.35 * column(draws, "room_level", 1.0) / mean)


def _sides(draws: Sequence[Draws]) -> tuple[Tensor, Tensor]:
    return column(draws, "edge_width", 3.0) * FACE_HALF, column(draws, "edge_height", 3.0) * FACE_HALF


def _centre(draws: Sequence[Draws]) -> Tensor:
    return torch.cat([column(draws, "edge_x").view(-1, 1), column(draws, "edge_y").view(-1, 1)], 1) * FACE_HALF


def rectangle(draws: Sequence[Draws]) -> tuple[Tensor, Tensor, Tensor]:
    """Half the width and half the height of a medium's content, (B, 1, 1, 1), and its middle (B, 2); tile units."""
    return *_sides(draws), _centre(draws)


def outline(plane: Tensor, draws: Sequence[Draws], px: Tensor, cut: Cut | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Where the medium's content is, where the medium with its rim, where a finger over it; (B, 1, H, W) each.

    Args:
        plane: (B, H, W, 2), canvas positions in tile units, bent as the medium is.
        draws: The samples' parameters.
        px: Canvas pixels per tile unit, (B, 1, 1, 1).
        cut: Where sheets are cut, if any is.
    """
    return _held(plane, draws, px, cut)[:3]


def _held(
    plane: Tensor, draws: Sequence[Draws], px: Tensor, cut: Cut | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """As :func:`outline`, and the light that fingers send back, if there are any."""
    (half_w, half_h), centre, rim = _sides(draws), _centre(draws), column(draws, "rim") * FACE_HALF
    inside = coverage(plane, half_w, half_h, centre, px)
    body = coverage(plane, half_w + rim, half_h + rim, centre, px)
    half = half_w + rim, half_h + rim
    if cut is not None:
        cutout.cut(inside, body, plane, draws, px=px, by=cut)
        half, centre = cutout.grip(half, centre, cut)
    if not _any(draws, "finger"):
        return inside, body, torch.zeros_like(inside), None
    return inside, body, *hand.finger(plane, half, centre, draws, px)


def surround(
    content: Tensor,
    plane: Tensor,
    *,
    behind: Tensor,
    rim_colour: Tensor,
    draws: Sequence[Draws],
    px: Tensor,
    cut: Cut | None = None,
) -> tuple[Tensor, Tensor]:
    """Put the medium's content into its rim, hands over it and the room behind; linear light.

    Args:
        content: (B, 3, H, W), what the medium shows at each canvas position.
        plane: (B, H, W, 2), canvas positions in tile units.
        behind: (B, 3, H, W), the room.
        rim_colour: (B, 3, 1, 1) or (B, 3, H, W), bezel or paper margin.
        draws: The samples' parameters.
        px: Canvas pixels per tile unit, (B, 1, 1, 1).
        cut: Where sheets are cut, if any is.

    Returns:
        The light (B, 3, H, W), and how much of each position is the medium's content (B, 1, H, W).
    """
    half_h, centre = _sides(draws)[1], _centre(draws)
    if _any(draws, "controls"):
        bar_height = column(draws, "controls_height", 0.1) * FACE_HALF * 2
        below = (plane[..., 1].unsqueeze(1) - centre[:, 1].view(-1, 1, 1, 1)) - (half_h - bar_height)
        bar = (below * px + 0.5).clamp(0, 1) * column(draws, "controls")
        content = content * (1 - 0.8 * bar)
    inside, body, finger, shade = _held(plane, draws, px, cut)
    # Shares of one pixel, so that a rim of no width leaves nothing of itself in the pixels of the edge.
    out = behind * (1 - body) + rim_colour * (body - inside).clamp_min(0) + content * inside
    if shade is None:
        return out, inside
    tone = column(draws, "finger_tone", 0.3)
    skin = torch.cat([tone, tone * 0.68, tone * 0.5], 1)
    return torch.lerp(out, skin * shade, finger), inside * (1 - finger)


def _any(draws: Sequence[Draws], name: str) -> bool:
    """Whether a thing that is only sometimes there is in any picture of the batch."""
    return any(d.values.get(name) for d in draws)


def draw_clutter(d: Draws) -> None:
    """Straight-edged things behind a living person: doors, shelves, pictures, a monitor."""
    d.sometimes("clutter", 0.35, 0.05, 0.9)
    d.uniform("clutter_x", 0.85, 1.7)
    d.uniform("clutter_y", -1.6, 1.6)
    d.uniform("clutter_width", 0.08, 0.9)
    d.uniform("clutter_height", 0.3, 3.0)
    d.chance("clutter_left", 0.5)
    # What stands behind someone is rarely in focus.
    d.loguniform("clutter_soft", 1.0, 8.0)


def clutter(scene: Tensor, plane: Tensor, draws: Sequence[Draws], px: Tensor) -> Tensor:
    """Draw one rectangle beside the face, never over it; linear light."""
    if not any(d.values["clutter"] for d in draws):
        return scene
    side = 1 - 2 * column(draws, "clutter_left")
    half_w = column(draws, "clutter_width", 0.1) * FACE_HALF
    x = side * (column(draws, "clutter_x", 1.2) * FACE_HALF + half_w)
    centre = torch.cat([x.view(-1, 1), column(draws, "clutter_y").view(-1, 1) * FACE_HALF], 1)
    soft = px / column(draws, "clutter_soft", 1.0)
    inside = coverage(plane, half_w, column(draws, "clutter_height", 1.0) * FACE_HALF, centre, soft)
    level = column(draws, "clutter")
    inside = inside * (level > 0)
    return torch.lerp(scene, level.expand_as(scene), inside)


def draw_frame(d: Draws) -> None:
    """A picture on the wall or a monitor beside a living person, which shows a room; rooms belong to both classes."""
    d.chance("frame", 0.15)
    d.uniform("frame_x", 0.85, 1.5)
    d.uniform("frame_y", -1.2, 1.2)
    d.uniform("frame_width", 0.3, 1.2)
    d.uniform("frame_aspect", 0.56, 1.5)
    d.uniform("frame_rim", 0.02, 0.2)
    d.loguniform("frame_rim_level", 0.006, 0.7)
    d.chance("frame_left", 0.5)
    d.loguniform("frame_soft", 1.0, 6.0)
    draw_room(d)


def frame(scene: Tensor, plane: Tensor, draws: Sequence[Draws], px: Tensor, shown: Tensor) -> Tensor:
    """Hang a frame beside the face, never over it; linear light.

    Args:
        scene: (B, 3, H, W).
        plane: (B, H, W, 2), canvas positions in tile units.
        draws: The samples' parameters.
        px: Canvas pixels per tile unit, (B, 1, 1, 1).
        shown: (B, 3, H, W), what the frame shows.
    """
    side = 1 - 2 * column(draws, "frame_left")
    half_w, rim = column(draws, "frame_width", 0.5) * FACE_HALF, column(draws, "frame_rim") * FACE_HALF
    half_h = half_w * column(draws, "frame_aspect", 1.0)
    # The nearer edge of the rim, not of the picture, keeps its distance from the face.
    x = side * (column(draws, "frame_x", 1.2) * FACE_HALF + half_w + rim)
    centre = torch.cat([x.view(-1, 1), column(draws, "frame_y").view(-1, 1) * FACE_HALF], 1)
    soft = px / column(draws, "frame_soft", 1.0)
    body = coverage(plane, half_w + rim, half_h + rim, centre, soft) * column(draws, "frame")
    inside = coverage(plane, half_w, half_h, centre, soft) * column(draws, "frame")
    out = torch.lerp(scene, column(draws, "frame_rim_level").expand_as(scene), body)
    return torch.lerp(out, shown, inside)


def draw_truncation(d: Draws) -> None:
    """The frame's edge: many pictures end close to the face, and collections of faces are cut out of their frames."""
    cut = d.chance("cut", 0.4)
    tight = d.chance("cut_tight", 0.25)
    for side in ("left", "top", "right", "bottom"):
        # Cut out at the width of the face, with forehead and chin: a portrait-shaped picture.
        low, high = ((0.2, 0.31) if side in {"left", "right"} else (0.1, 0.24)) if tight else (0.0, 0.27)
        d.sometimes(f"cut_{side}", 1.0 if tight else 0.6 if cut else 0.0, low, high)


def truncate(picture: Tensor, draws: Sequence[Draws]) -> Tensor:
    """Repeat the frame's edge beyond the drawn cuts, as cropping at the edge of a frame does; uint8 (B, H, W, 3)."""
    size, half = picture.shape[1], half_canvas(draws)
    out = picture.clone()
    for pixels, d in zip(out.numpy(), draws, strict=True):
        left, top, right, bottom = (
            int(_cut(float(d.values[f"cut_{side}"]), half) * size) for side in ("left", "top", "right", "bottom")
        )
        if left or top or right or bottom:
            kept = pixels[top : size - bottom, left : size - right]
            pixels[...] = cv2.copyMakeBorder(kept, top, bottom, left, right, cv2.BORDER_REPLICATE)
    return out


def _cut(share: float, half: float) -> float:
    """Share of the canvas that a cut takes: as drawn on the default one; on a wider one the cut stays at its place."""
    return share if half == 1 or not share else max(0.0, 0.5 - (0.5 - share) / half)
