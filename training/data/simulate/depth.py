"""What stands before the depth camera in each presentation, and its depth map.

One unit of the tile is 21 cm on a person, whose face box is about 15 cm wide. A medium shows a face of another size:
that of the device or sheet over how many face boxes it is wide; its distance follows, since the face is as large in
the picture. Screens and sheets have the tilt, bend, crease, rim and finger of the colour picture. Where the colour
picture shows something that nobody measured (outline of the hair, clutter, what the room is like), depth has a plain
thing of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (the community's name for it)
from torch import Tensor

from training.data.simulate import compose, cutout, figure, glasses, hair, moment, paper
from training.data.simulate.cutout import Cut
from training.data.simulate.depth_camera import draw_depth_camera, draw_driver, measure
from training.data.simulate.draws import Draws, Value, column
from training.data.simulate.facefit import EYES, WINDOW
from training.data.simulate.mesh import MeshBatch
from training.data.simulate.optics import apply, smooth_noise
from training.data.simulate.scene import FACE_HALF
from training.data.simulate.species import BONA_FIDE
from training.data.simulate.surface import FACE_BOX_M, UNIT_M, Surface, away, sheet_depth
from training.data.simulate.wearing import Worn

#: Keeps the draws of depth apart from those of the picture and of sequences, which have 1.
PURPOSE = 2
#: Kinds of draws whose depth is a sheet or a screen.
FLAT = frozenset({"replay", "print"})
#: Width of media in metres, (low, high); phones and tablets change sides when they lie. Source: phones 5-7 inches,
#: tablets 8-13, laptops 13-17, monitors 22-32; A4; photographs 10 × 15 to 20 × 30 cm; newspaper pictures (assumption).
WIDTHS_M: dict[str, tuple[float, float]] = {
    "phone": (0.064, 0.078), "tablet": (0.12, 0.22), "laptop": (0.29, 0.38), "monitor": (0.48, 0.71),
    "laser": (0.20, 0.21), "inkjet": (0.20, 0.21), "photo_paper": (0.10, 0.20), "newsprint": (0.12, 0.30),
}  # fmt: skip
#: Near-infrared return of rims, by the colour of the bezel.
_BEZELS = {"black": 0.12, "dark": 0.25, "white": 0.7, "silver": 0.45}
#: Media stand no nearer than this: cameras have a least distance.
_NEAREST_M = 0.16
#: Thickness of a finger on a medium.
_FINGER_M = 0.012
#: Masks that have the shape of a face, and its beard.
_SOLID = frozenset({"rigid_mask", "flexible_mask", "mannequin"})
#: Who wears these has no other glasses, and no eyes to be seen.
_EYES_PRINTED = frozenset({"printed_eyes", "printed_glasses"})
#: Corners of both eyes, whose height is that of the eyes.
_EYE_CORNERS = [corner for eye in EYES for corner in eye[:2]]
#: Who looks through a sheet stays behind it by this at least.
_CLEAR_M = 0.004
#: Where the tilts of views are those of perspective, metres.
_TILT_SEEN_M = 0.45


def draw_depth(d: Draws, picture: Mapping[str, Value]) -> None:
    """Parameters of the depth map of a sample whose picture has the parameters ``picture``.

    A person stands at 0.3 to 1.2 m, the wall 0.3 to 3 m behind; hair returns 4 to 35 %, skin 45 to 70 %. Half of the
    screens are measured as if they were paper, of the others a part is missing or all of it.
    """
    draw_depth_camera(d)
    figure.draw_figure(d)
    d.loguniform("depth_distance", 0.3, 1.2)
    d.uniform("depth_skin", 0.45, 0.7)
    d.uniform("depth_hair", 0.04, 0.35)
    d.uniform("depth_cloth", 0.1, 0.8)
    d.loguniform("depth_behind", 0.3, 3.0)
    d.uniform("depth_wall", 0.3, 0.9)
    d.normal("depth_wall_slope", 0.0, 0.12)
    d.sometimes("depth_step", 0.4, 0.1, 0.6)
    d.uniform("depth_step_place", -0.9, 0.9)
    d.chance("depth_step_left", 0.5)
    d.uniform("depth_thing", 0.4, 0.8)
    species = BONA_FIDE if picture["bona_fide"] else str(picture["species"])
    if species in FLAT:
        _draw_medium(d, picture, species)
    # After all else, so that older parameters stay what they were.
    hair.draw_hair(d)
    glasses.draw_glasses(d)
    draw_driver(d)


def _draw_medium(d: Draws, picture: Mapping[str, Value], species: str) -> None:
    subtype = str(picture["subtype"])
    # A phone that lies is as wide as it else is tall.
    width = d.uniform("depth_width", *WIDTHS_M[subtype])
    aspect = float(picture["edge_aspect"])
    if aspect < 1 and subtype in {"phone", "tablet", "photo_paper"}:
        width /= aspect
    # Eyes that fit holes are as far apart as the printed ones: such a sheet shows a face as large as life.
    holes = bool(picture.get("holes"))
    face = FACE_BOX_M if holes else min(max(width / float(picture["edge_size"]), 0.03), 0.25)
    d.derive("depth_face", face)
    d.derive("depth_medium_distance", max(float(d.values["depth_distance"]) * face / FACE_BOX_M, _NEAREST_M))
    cut_out = holes or (subtype in compose.CUT_OUT and picture["edge_form"] == "1")
    # Who wears a cut-out picture has it before the face.
    d.derive("depth_holder", int(d.chance("depth_holder_seen", 0.3) or cut_out))
    d.uniform("depth_holder_gap", *((0.005, 0.04) if holes else (0.01, 0.06) if cut_out else (0.08, 0.4)))
    d.sometimes("depth_holder_x", 0.0 if cut_out else 1.0, -0.9, 0.9)
    if species == "replay":
        d.sometimes("depth_lost", 0.5, 0.2, 1.0)
        d.uniform("depth_lost_patches", 0.0, 1.0)


def depth_maps(
    draws: Sequence[Draws],
    mesh: MeshBatch | None,
    worn: Worn | None,
    size: int,
    *,
    flat: bool,
    cut: Cut | None = None,
) -> Tensor:
    """Depth maps of a batch, pixel for pixel over its pictures but for the cameras' misalignment.

    Args:
        draws: The samples' parameters, with those of :func:`draw_depth`; their own noise is not touched, except that a
            frame of a sequence takes its from its moment.
        mesh: Meshes of the people, or of the holders of media.
        worn: What they wear, for masks and partial attacks.
        size: Side of the maps in pixels.
        flat: Whether the samples are media.
        cut: Where sheets are cut, if any is, see :func:`training.data.simulate.cutout.plan`.

    Returns:
        int32 (B, size, size), millimetres, 0 = no return, cut at the frame's edge as the pictures are.
    """
    own = [_own_noise(d) for d in draws]
    canvas = compose.canvas(size, draws)
    plane = apply(compose.view_matrices(own), canvas)
    if flat:
        surface = medium(canvas, plane, mesh, own, cut)
    else:
        surface = person(canvas, moment.moved(plane, draws), mesh, worn, own)
    millimetres = measure(surface, own).cpu()
    with torch.device("cpu"):
        return compose.truncate(millimetres, own)


def _own_noise(d: Draws) -> Draws:
    """The same parameters with the depth camera's noise: that of the sample, or of the frame of a sequence."""
    out = copy.copy(d)
    out.noise_from(d.generator(PURPOSE) if d.moment is None else d.moment.noise)
    return out


def person(canvas: Tensor, plane: Tensor, mesh: MeshBatch | None, worn: Worn | None, draws: Sequence[Draws]) -> Surface:
    """A head with shoulders before a wall, with or without something on the face.

    Args:
        canvas: (H, W, 2), canvas positions.
        plane: (B, H, W, 2), the same in tile units.
        mesh: The people's meshes.
        worn: What they wear.
        draws: The samples' parameters.
    """
    built = hair.head_hair(figure.figure(mesh, draws), draws)
    height, where, bearded = _dressed(built, worn, draws)
    wears = glasses.glasses(height, built.landmarks, draws)
    printed = torch.tensor([d.values.get("subtype") in _EYES_PRINTED for d in draws]).view(-1, 1, 1, 1)
    frame = wears.frame * ~printed
    height = torch.where(frame > 0, torch.maximum(height, wears.height), height)
    unit = torch.full_like(column(draws, "depth_distance"), UNIT_M)
    distance = column(draws, "depth_distance", 0.5)
    depth = away(canvas, distance, draws, _lean(distance, FACE_BOX_M)) - figure.look(height, plane) * unit
    solid = torch.stack([built.there, where, bearded, frame]).amax(0)
    there = figure.look(solid, plane, nearest=True) > 0.5
    hairy, cloth = torch.maximum(built.hair, bearded), built.cloth * (1 - bearded)
    mirror = wears.mirror * (1 - torch.maximum(where, printed.float()))
    parts = torch.cat([hairy, cloth, where, frame, mirror], 1)
    hairs, cloth, on, framed, lost = figure.look(parts, plane, nearest=True).chunk(5, 1)
    skin = column(draws, "depth_skin", 0.6)
    returned = skin + hairs * (column(draws, "depth_hair", 0.2) - skin)
    returned = returned + cloth * (column(draws, "depth_cloth", 0.5) - skin)
    returned = returned + on * (column(draws, "depth_thing", 0.6) - returned)
    returned = returned + framed * (column(draws, "depth_frame_return", 0.2) - returned)
    # What is steep sends little back; locks of hair scatter.
    locks = torch.stack([d.noise(1, 24, 24) for d in draws])
    returned = returned * (1 + 0.5 * hairs * smooth_noise(locks, canvas.shape[0])).clamp(0.2, 2)
    returned = returned * _facing(depth, plane, unit)
    wall, wall_return = _wall(canvas, distance, draws)
    depth, returned = torch.where(there, depth, wall), torch.where(there, returned, wall_return)
    return Surface(depth.clamp_min(0.1), returned.clamp(0, 1), torch.where(there, lost, 0.0))


def _dressed(built: figure.Figure, worn: Worn | None, draws: Sequence[Draws]) -> tuple[Tensor, Tensor, Tensor]:
    """Height with beard and what is worn, where something is worn, where a beard is seen."""
    beard = hair.beard(built, draws)
    own = beard.on(built.height, built.face)
    if worn is None:
        return own, torch.zeros_like(own), beard.where
    covered, where = figure.overlay(built, worn.height, worn.cover, draws)
    # Paper lies on the beard; masks are cast with that of their victim.
    paper_like = torch.tensor([d.values.get("subtype") not in _SOLID for d in draws]).view(-1, 1, 1, 1)
    on_paper = torch.where((where > 0) & (beard.where == 0), covered, torch.maximum(covered, own))
    height = torch.where(paper_like, on_paper, beard.on(covered, torch.maximum(built.face, where)))
    return height, where, beard.where * (1 - where)


def medium(
    canvas: Tensor, plane: Tensor, mesh: MeshBatch | None, draws: Sequence[Draws], cut: Cut | None = None
) -> Surface:
    """A screen or a sheet before its holder or a wall; arguments as in :func:`person` and :func:`depth_maps`."""
    distance, face = column(draws, "depth_medium_distance", 0.4), column(draws, "depth_face", FACE_BOX_M)
    unit = face / (2 * FACE_HALF)
    depth = sheet_depth(canvas, plane, distance, draws, face_m=face, lean=_lean(distance, face))
    bent, _ = paper.bend(plane, draws)
    # A fold along the sheet's own axis: both halves lean away from the camera, or towards it.
    angle = column(draws, "bend_angle")
    across = plane[..., 1].unsqueeze(1) * torch.cos(angle) - plane[..., 0].unsqueeze(1) * torch.sin(angle)
    across = across - column(draws, "crease_place")
    depth = depth + unit * 0.5 * column(draws, "crease") * torch.sqrt(across**2 + 1e-4)
    px = compose.px_per_tile_unit(canvas.shape[0], draws)
    inside, body, finger = (share > 0.5 for share in compose.outline(bent, draws, px, cut))
    content = column(draws, "depth_thing", 0.6)
    bezel = torch.tensor([_BEZELS[str(d.values.get("bezel", "white"))] for d in draws]).view(-1, 1, 1, 1)
    returned = torch.where(inside, content, bezel)
    lost = torch.where(inside, _lost(canvas.shape[0], draws), 0.0)
    behind, behind_return = _behind(canvas, plane, mesh, distance, draws, sheet=depth, cut=cut)
    sheet, depth, returned = depth, torch.where(body, depth, behind), torch.where(body, returned, behind_return)
    depth = torch.where(finger, sheet - _FINGER_M, depth)
    returned = torch.where(finger, column(draws, "depth_skin", 0.6), returned)
    return Surface(depth.clamp_min(0.1), returned.clamp(0, 1), torch.where(body & ~finger, lost, 0.0))


def _lost(size: int, draws: Sequence[Draws]) -> Tensor:
    """Share of a screen that returns nothing, in patches or evenly, (B, 1, size, size)."""
    patches = (0.5 + smooth_noise(torch.stack([d.noise(1, 6, 6) for d in draws]), size)).clamp(0, 1)
    return column(draws, "depth_lost") * (1 + column(draws, "depth_lost_patches") * (patches - 1))


def _behind(
    canvas: Tensor,
    plane: Tensor,
    mesh: MeshBatch | None,
    distance: Tensor,
    draws: Sequence[Draws],
    *,
    sheet: Tensor,
    cut: Cut | None,
) -> tuple[Tensor, Tensor]:
    """Depth and return of what is seen beside a medium: its holder, who may be out of view, before the wall.

    Who looks through holes of a sheet, at ``sheet`` metres, leans as it does, with the eyes behind it by the gap.
    """
    gap = column(draws, "depth_holder_gap", 0.2)
    holder_m = distance + gap
    # Lengths in the picture grow with the distance: the holder's head is as large as it is there.
    scale = column(draws, "depth_face", FACE_BOX_M) / FACE_BOX_M * holder_m / distance
    offset = torch.cat([column(draws, "depth_holder_x").view(-1, 1, 1, 1), 0 * scale], 3)
    built = hair.head_hair(figure.figure(mesh, draws), draws)
    beard = hair.beard(built, draws)
    place = plane * scale - offset
    pierced = [] if cut is None else cut.pierced
    if cut is not None and pierced:
        place[pierced] = cutout.onto_holder(plane, cut)
    inside = (place.abs() < WINDOW * 1.5).all(3).unsqueeze(1)
    body = torch.maximum(built.there, beard.where)
    there = (figure.look(body, place, nearest=True) > 0.5) & inside & (column(draws, "depth_holder") > 0)
    height = figure.look(beard.on(built.height, built.face), place)
    top = figure.look(built.height, torch.zeros_like(place[:, :1, :1])).clamp_min(0.2)
    # Even the nose stays behind the sheet.
    person_m = holder_m - (height - top) * UNIT_M
    if pierced:
        face = column(draws, "depth_face", FACE_BOX_M)
        leaning = away(canvas, holder_m, draws, _lean(distance, face))[pierced]
        eyes = figure.look(built.height[pierced], built.landmarks[pierced][:, None, _EYE_CORNERS, :2]).mean(3, True)
        leaning = leaning - (height[pierced] - eyes) * UNIT_M
        person_m[pierced] = torch.maximum(leaning, sheet[pierced] + _CLEAR_M)
    wall, wall_return = _wall(canvas, holder_m + 0.15, draws)
    skin = column(draws, "depth_skin", 0.6)
    hairs = figure.look(torch.maximum(built.hair, beard.where), place, nearest=True)
    returned = skin + hairs * (column(draws, "depth_hair", 0.2) - skin)
    return torch.where(there, person_m, wall), torch.where(there, returned, wall_return)


def _lean(distance: Tensor, face: Tensor | float) -> Tensor:
    """Factor of the view's tilt: the angle is the one whose perspective a face shows at 0.45 m, wherever it stands."""
    return _TILT_SEEN_M / FACE_BOX_M * face / distance


def _wall(canvas: Tensor, before: Tensor, draws: Sequence[Draws]) -> tuple[Tensor, Tensor]:
    """Depth and return of a slanted wall with, sometimes, furniture before it; the same for every species."""
    behind = column(draws, "depth_behind", 1.0)
    x = canvas[..., 0]
    side = torch.where(column(draws, "depth_step_left") > 0, -x, x)
    step = column(draws, "depth_step") * (side > column(draws, "depth_step_place"))
    slope = 1 + column(draws, "depth_wall_slope") * x
    depth = before + 0.12 + behind * slope.clamp_min(0.3) * (1 - step)
    return depth, column(draws, "depth_wall", 0.6).expand_as(depth)


def _facing(depth: Tensor, plane: Tensor, unit: Tensor) -> Tensor:
    """Cosine between surface and line of sight, (B, 1, H, W), at least 0.1."""
    step = (plane[:, :, 1:] - plane[:, :, :-1]).norm(dim=3).mean((1, 2)).view(-1, 1, 1, 1) * unit
    padded = F.pad(depth, [1] * 4, mode="replicate")
    dx = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / (2 * step)
    dy = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / (2 * step)
    return torch.rsqrt(1 + dx * dx + dy * dy).clamp_min(0.1)
