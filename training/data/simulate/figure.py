"""A person as a height towards the camera: the face's mesh, continued by head, neck and shoulders.

The mesh ends at the hairline and before the ears. Beyond it stand simple bodies in adult proportions to the face's
outline; nothing follows the picture's own silhouette, which nobody has measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (the community's name for it)
from torch import Tensor

from training.data.simulate.draws import Draws, column
from training.data.simulate.facefit import EYES, MOUTH, OVAL, crop, extend, face_distance
from training.data.simulate.mesh import N_LANDMARKS, RELIEF_PX, MeshBatch
from training.data.simulate.optics import blur, grid

#: A face for pictures without a mesh: half width, half height and place of its outline, height of its middle.
_PLAIN_FACE = (0.31, 0.38, -0.01, 0.36)
#: Smoothing of meshes in pixels of their maps, the same for skin and masks: about 4 mm.
_SMOOTH_PX = 1.6
#: How fast the face's shape gives way to the head's beyond the mesh, tile units.
_FADE = 0.14
#: Landmarks where the face meets the ears.
_EARS = (234, 454)
#: How far masks may stand off the head beyond the face, tile units.
_STAND_OFF = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Figure:
    """A head with shoulders over the tile's grid, (B, 1, 160, 160) each.

    Attributes:
        height: Towards the camera, tile units; 0 is the median of the face.
        there: Whether the person is there, 0 or 1.
        face: Whether the mesh shows the place, 0 or 1.
        hair: Share of hair.
        cloth: Share of clothes.
        middle: What was taken off heights of the mesh to make the face's median 0, (B, 1, 1, 1).
        landmarks: Of the mesh, or of the plain face in its place, (B, 478, 3), tile units.
    """

    height: Tensor
    there: Tensor
    face: Tensor
    hair: Tensor
    cloth: Tensor
    middle: Tensor
    landmarks: Tensor


def draw_figure(d: Draws) -> None:
    """Proportions of head and shoulders to the face's outline, and of the mesh's guessed depth to the true one.

    Heads are about 1.15 times as wide as the outline and reach as far above the hairline as a fifth of the face.
    """
    d.uniform("depth_relief", 0.9, 1.1)
    d.uniform("depth_head_width", 1.08, 1.3)
    d.uniform("depth_head_height", 1.2, 1.45)
    d.uniform("depth_hairline", -0.1, 0.25)
    d.uniform("depth_neck", 0.55, 0.8)
    d.uniform("depth_shoulders", 2.0, 2.8)
    d.uniform("depth_shoulder_fall", 0.15, 0.5)
    d.uniform("depth_chest", 0.25, 0.55)


def figure(mesh: MeshBatch | None, draws: Sequence[Draws]) -> Figure:
    """Build the people of a batch.

    Args:
        mesh: Their meshes; where there is none, or one without landmarks, a plain face stands in.
        draws: Parameters of :func:`draw_figure`.
    """
    relief, landmarks = _faces(mesh, len(draws))
    relief = relief * column(draws, "depth_relief", 1.0)
    points = grid(RELIEF_PX, RELIEF_PX).expand(len(draws), -1, -1, -1)
    x, y, wide = outline(landmarks)
    known = relief.isfinite()
    face = _smooth(relief)
    middle = relief.flatten(1).nanmedian(1).values.view(-1, 1, 1, 1)
    ears = ear_height(landmarks, draws)
    head, inside = _head(x, y, wide, draws)
    head = head + ears
    distance = face_distance(points, landmarks, torch.ones(len(draws), 1, 1), torch.zeros(len(draws), 2))
    # What the mesh has beyond the simple head fades with the distance from the mesh.
    fade = torch.exp(-((distance.clamp_max(0) / _FADE) ** 2))
    differs = extend(torch.where(known, face - head, torch.nan))
    height = torch.where(known, face, head + fade * differs)
    body, clothed, bodied = _body(x, y, wide, ears, draws)
    headed = known | inside
    height = torch.where(headed, torch.where(bodied & ~known, torch.maximum(height, body), height), body)
    hair = headed & ~known & (y < column(draws, "depth_hairline"))
    return Figure(
        height=height - middle,
        there=(headed | bodied).float(),
        face=known.float(),
        hair=hair.float(),
        cloth=(clothed & bodied & ~headed).float(),
        middle=middle,
        landmarks=landmarks,
    )


def outline(landmarks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Places over the tile's grid in halves of the sides of the face's outline: 1 is the edge of the face.

    Args:
        landmarks: (B, 478, 3), tile units.

    Returns:
        x and y, (B, 1, 160, 160) each, and the outline's half width in tile units, (B, 1, 1, 1).
    """
    rim = landmarks[:, OVAL, :2]
    low, high = rim.amin(1), rim.amax(1)
    centre, half = (low + high) / 2, (high - low) / 2
    points = grid(RELIEF_PX, RELIEF_PX).expand(len(landmarks), -1, -1, -1)
    x = ((points[..., 0] - centre[:, 0, None, None]) / half[:, 0, None, None]).unsqueeze(1)
    y = ((points[..., 1] - centre[:, 1, None, None]) / half[:, 1, None, None]).unsqueeze(1)
    return x, y, half[:, 0].view(-1, 1, 1, 1)


def ear_height(landmarks: Tensor, draws: Sequence[Draws]) -> Tensor:
    """Height where the face meets the ears, (B, 1, 1, 1); heights of meshes count from no fixed place."""
    return landmarks[:, _EARS, 2].mean(1).view(-1, 1, 1, 1) * column(draws, "depth_relief", 1.0)


def _faces(mesh: MeshBatch | None, n: int) -> tuple[Tensor, Tensor]:
    """Relief (B, 1, 160, 160) and landmarks (B, 478, 3), never without a face."""
    half_x, half_y, top, tall = _PLAIN_FACE
    points = grid(RELIEF_PX, RELIEF_PX)
    x, y = points[..., 0] / half_x, (points[..., 1] - top) / half_y
    radius2 = x * x + y * y
    nose = 0.1 * torch.exp(-((x / 0.22) ** 2) - ((y - 0.1) / 0.4) ** 2)
    eyes = 0.03 * torch.exp(-(((x.abs() - 0.42) / 0.2) ** 2) - ((y + 0.25) / 0.15) ** 2)
    plain = torch.where(radius2 < 1, tall * (1 - radius2.clamp_max(1)).sqrt() + nose - eyes, torch.nan)
    marks = torch.zeros(N_LANDMARKS, 3)
    angle = torch.arange(len(OVAL)) * (2 * torch.pi / len(OVAL))
    marks[list(OVAL), 0], marks[list(OVAL), 1] = half_x * torch.sin(angle), top - half_y * torch.cos(angle)
    for side, eye in zip((-1, 1), EYES, strict=True):
        marks[list(eye), 0], marks[list(eye), 1] = side * 0.42 * half_x, top - 0.25 * half_y
        marks[MOUTH[(side + 1) // 2], :2] = torch.tensor([side * 0.36 * half_x, top + 0.45 * half_y])
    if mesh is None:
        return plain.expand(n, 1, -1, -1), marks.expand(n, -1, -1)
    relief, landmarks = mesh.relief.to(plain.device), mesh.landmarks.to(plain.device)
    there = landmarks[:, 0, 0].isfinite().view(-1, 1, 1)
    return torch.where(there.unsqueeze(1), relief, plain), torch.where(there, landmarks, marks)


def _smooth(relief: Tensor) -> Tensor:
    """Smoothed as the faces under masks are, see :func:`training.data.simulate.facefit.fit`, and continued."""
    return blur(extend(relief), torch.full((len(relief), 1, 1, 1), _SMOOTH_PX), 9)


def _head(x: Tensor, y: Tensor, wide: Tensor, draws: Sequence[Draws]) -> tuple[Tensor, Tensor]:
    """An ellipsoid round the face: its height and where it is."""
    across = x / column(draws, "depth_head_width", 1.15)
    tall = column(draws, "depth_head_height", 1.3)
    # The chin stays where it is, the crown rises.
    along = torch.where(y < 0, y / tall, y / 1.02)
    bulge = 1 - across * across - along * along
    # The visible rim lies a little behind the ears' front, the forehead one half width before them.
    return wide * (1.4 * bulge.clamp_min(0).sqrt() - 0.4), bulge > 0


def _body(x: Tensor, y: Tensor, wide: Tensor, ears: Tensor, draws: Sequence[Draws]) -> tuple[Tensor, Tensor, Tensor]:
    """Neck and shoulders: their height, where clothes are, where they are."""
    neck = column(draws, "depth_neck", 0.7)
    # The throat lies some 2 cm before the ears, the chest between there and the face.
    round_neck = ears + wide * (0.4 - neck * (1 - (1 - (x / neck) ** 2).clamp_min(0).sqrt()))
    in_neck = (x.abs() < neck) & (y > 0.3)
    broad = column(draws, "depth_shoulders", 2.4)
    top = 1.25 + column(draws, "depth_shoulder_fall", 0.3) * (x.abs() - neck).clamp_min(0)
    chest = (y - top).clamp(0, 1).sqrt() * column(draws, "depth_chest", 0.4)
    torso = ears + wide * (2.0 * chest - 0.35 * (x / broad) ** 2)
    in_torso = (y > top) & (x.abs() < broad)
    return torch.where(in_torso, torch.maximum(torso, round_neck), round_neck), in_torso, in_torso | in_neck


def overlay(built: Figure, height: Tensor, cover: Tensor, draws: Sequence[Draws]) -> tuple[Tensor, Tensor]:
    """Put what a person wears on the figure.

    Args:
        built: The people.
        height: Height of the instrument over the window's grid, tile units of the mesh, (B, 1, G, G).
        cover: Its share, (B, 1, G, G).
        draws: The samples' parameters.

    Returns:
        Height over the tile's grid with the instrument on, and where it is (0 or 1), (B, 1, 160, 160) each.
    """
    worn, where = built.height.clone(), torch.zeros_like(built.height)
    on = cover > 0.5
    crop(where).copy_(on.float())
    lifted = height * column(draws, "depth_relief", 1.0) - built.middle
    own, face = crop(worn).clone(), crop(built.face) > 0
    # Beyond the face a mask follows the head, which may be nothing but air: it stands off by 2 cm at most.
    lifted = torch.where(face, lifted, torch.minimum(lifted, own + _STAND_OFF))
    # A mannequin's head is one, its face no layer.
    solid = torch.tensor([d.values.get("subtype") == "mannequin" for d in draws]).view(-1, 1, 1, 1)
    crop(worn).copy_(torch.where(on & ~solid, lifted, own))
    return worn, where


def look(values: Tensor, plane: Tensor, *, nearest: bool = False) -> Tensor:
    """Values over the tile (B, C, h, w) at tile positions (B, H, W, 2); beyond the tile its edge repeats."""
    mode = "nearest" if nearest else "bilinear"
    return F.grid_sample(values, plane, mode=mode, padding_mode="border", align_corners=False)
