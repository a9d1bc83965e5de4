"""Fitting one face onto another: warp, outlines, openings, surface normals and the light in a picture.

Everything here lives on the *window*, the middle of the tile that holds the face with its hair and ears; its grid has
the pixels of the meshes' maps. Positions stay in tile units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (the community's name for it)
from torch import Tensor

from training.data.simulate import optics
from training.data.simulate.draws import Draws, column
from training.data.simulate.mesh import RELIEF_PX, MeshBatch
from training.data.simulate.optics import blur, grid, pairs, sample

#: Half the window's side in tile units.
WINDOW = 0.65
#: Side of the window's grid in pixels.
GRID_PX = round(RELIEF_PX * WINDOW)
#: Landmarks round the face, in order (the face oval of MediaPipe's face mesh).
OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
#: Landmarks of an eye: the corner on the picture's left, on its right, the upper lid, the lower lid.
EYES = ((33, 133, 159, 145), (362, 263, 386, 374))
#: Mouth in the same order: corners, upper and lower edge of the lips.
MOUTH = (61, 291, 0, 17)
#: Nose: its wings, the bridge between the eyes, its base.
NOSE = (129, 358, 168, 2)
#: Cheeks before the ears, where the arms of glasses end: left and right in the picture.
TEMPLES = (127, 356)
_HARMONICS = 6


@dataclass(frozen=True, slots=True, eq=False)
class Opening:
    """A feature's place; every field (B, 1, 1).

    Attributes:
        x: Centre.
        y: Centre.
        width: Half the distance of the corners.
        height: Half the distance of the upper and the lower edge.
        cos: Direction from the left to the right corner.
        sin: The same.
    """

    x: Tensor
    y: Tensor
    width: Tensor
    height: Tensor
    cos: Tensor
    sin: Tensor


def crop(tiles: Tensor) -> Tensor:
    """The window of tiles or of maps over tiles, (B, C, T, T) to (B, C, W, W), a view."""
    size = tiles.shape[-1]
    margin = round(size * (1 - WINDOW) / 2)
    return tiles[..., margin : size - margin, margin : size - margin]


def enlarge(values: Tensor, size: int) -> Tensor:
    """Values on the window's grid (B, C, G, G) on one of ``size`` pixels."""
    return optics.enlarge(values, size)


def window_points() -> Tensor:
    """Tile positions of the window's grid, (G, G, 2)."""
    return grid(GRID_PX, GRID_PX) * WINDOW


def extend(values: Tensor) -> Tensor:
    """Continue values (B, C, G, G) smoothly where they are NaN.

    A plane goes through all of them; what differs from it is spread outwards.

    Source: push-pull interpolation (Gortler et al. 1996, The Lumigraph, section 3.5).
    """
    known = values.isfinite().all(1, keepdim=True).float()
    points = grid(values.shape[2], values.shape[3])
    basis = torch.stack([torch.ones_like(points[..., 0]), points[..., 0], points[..., 1]])[None]
    values = torch.nan_to_num(values) * known
    weighted = basis * known
    normal = (weighted.unsqueeze(2) * basis.unsqueeze(1)).sum((3, 4)) + 1e-3 * torch.eye(3)
    right = (weighted.unsqueeze(2) * values.unsqueeze(1)).sum((3, 4))
    plane: Tensor = (torch.linalg.solve(normal, right)[..., None, None] * basis.unsqueeze(2)).sum(1)
    rest = (values - plane) * known
    spread = blur(_push_pull(rest, known), torch.full((len(values), 1, 1, 1), 2.0), 9)
    return plane + rest + spread * (1 - known)


def _push_pull(values: Tensor, known: Tensor) -> Tensor:
    levels = [(values, known)]
    while levels[-1][1].shape[-1] > 3:
        v, k = levels[-1]
        levels.append((F.avg_pool2d(v, 2, ceil_mode=True), F.avg_pool2d(k, 2, ceil_mode=True)))
    v, k = levels.pop()
    out = v / k.clamp_min(1e-3)
    for v, k in reversed(levels):
        out = v + (1 - k) * optics.enlarge(out, (v.shape[2], v.shape[3]))
    return out


def opening(landmarks: Tensor, points: Sequence[int]) -> Opening:
    """Place of an eye, the mouth or the nose.

    Args:
        landmarks: (B, 478, 3).
        points: Left and right corner, upper and lower edge.
    """
    left, right, top, bottom = (landmarks[:, i, :2] for i in points)
    across = right - left
    width = across.norm(dim=1).clamp_min(1e-4)
    centre = (left + right + top + bottom) / 4

    def field(values: Tensor) -> Tensor:
        return values.view(-1, 1, 1)

    return Opening(
        x=field(centre[:, 0]),
        y=field(centre[:, 1]),
        width=field(width / 2),
        height=field((bottom - top).norm(dim=1) / 2),
        cos=field(across[:, 0] / width),
        sin=field(across[:, 1] / width),
    )


def oval_distance(points: Tensor, at: Opening, half: tuple[Tensor, Tensor], power: Tensor | float = 2.0) -> Tensor:
    """How far inside a superellipse round an opening positions lie, about in tile units, negative outside.

    Args:
        points: (B, G, G, 2).
        at: Centre and direction.
        half: Half width and half height, (B, 1, 1) each.
        power: 2 an ellipse, more for rounded rectangles, (B, 1, 1) or a number.

    Returns:
        (B, 1, G, G).
    """
    x, y = points[..., 0] - at.x, points[..., 1] - at.y
    along, across = (x * at.cos + y * at.sin) / half[0], (-x * at.sin + y * at.cos) / half[1]
    radius = (along.abs().clamp_min(1e-4) ** power + across.abs().clamp_min(1e-4) ** power) ** (1 / power)
    # To first order the distance is the residual over the slope; for a superellipse that lies between the half axes.
    return ((1 - radius) * torch.minimum(*half)).unsqueeze(1)


def face_distance(points: Tensor, landmarks: Tensor, size: Tensor, wobble: Tensor) -> Tensor:
    """How far inside the face's outline positions lie, in tile units along rays from its middle, negative outside.

    Args:
        points: (B, G, G, 2).
        landmarks: (B, 478, 3).
        size: Scale of the outline, (B, 1, 1).
        wobble: Relative change of its radius by harmonics, (B, 2 K): cosines, then sines, from the second on.

    Returns:
        (B, 1, G, G).
    """
    rim = landmarks[:, OVAL, :2]
    centre = rim.mean(1, keepdim=True)
    away = rim - centre
    radius = away.norm(dim=2)
    basis = torch.stack(_circular(away[..., 0] / radius, away[..., 1] / radius), -1)
    # High harmonics are held back: thirty-six points must not make waves.
    ridge = torch.diag(torch.tensor([1e-4] + [0.02 * (k * k) for k in range(1, _HARMONICS + 1)] * 2))
    normal = (basis.unsqueeze(3) * basis.unsqueeze(2)).sum(1) + ridge
    right = (basis * radius.unsqueeze(2)).sum(1).unsqueeze(2)
    coefficients: Tensor = torch.linalg.solve(normal, right)
    x, y = points[..., 0] - centre[..., 0:1], points[..., 1] - centre[..., 1:2]
    distance = (x * x + y * y).clamp_min(1e-8).sqrt()
    around = _circular(x / distance, y / distance)
    outline, waves = torch.zeros_like(x), torch.ones_like(x)
    for k, part in enumerate(around):
        outline = outline + coefficients[:, k : k + 1] * part
    n = wobble.shape[1] // 2
    for k in range(n):
        waves = waves + wobble[:, k].view(-1, 1, 1) * around[2 + k]
        waves = waves + wobble[:, n + k].view(-1, 1, 1) * around[2 + _HARMONICS + k]
    inside: Tensor = (outline * size * waves - distance).unsqueeze(1)
    return inside


def _circular(cos: Tensor, sin: Tensor) -> list[Tensor]:
    """1, then cosines, then sines of the multiples of an angle. Source: angle addition."""
    cosines, sines = [cos], [sin]
    for _ in range(_HARMONICS - 1):
        c, s = cosines[-1], sines[-1]
        cosines.append(c * cos - s * sin)
        sines.append(s * cos + c * sin)
    return [torch.ones_like(cos), *cosines, *sines]


def normals(height: Tensor) -> Tensor:
    """Unit normals (B, 3, G, G) of a height (B, 1, G, G) in tile units over the window; z towards the camera."""
    step = 2 * WINDOW / height.shape[-1]
    padded = F.pad(height, [1] * 4, mode="replicate")
    dx = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / (2 * step)
    dy = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / (2 * step)
    scale = torch.rsqrt(1 + dx * dx + dy * dy)
    return torch.cat([-dx * scale, -dy * scale, scale], 1)


@dataclass(frozen=True, slots=True, eq=False)
class Light:
    """The light on a face: brightness is ``level · (1 + slope · (normal - middle))``.

    Attributes:
        level: Mean brightness, (B, 1, 1, 1).
        slope: (B, 3, 1, 1).
        middle: Mean normal of the face, (B, 3, 1, 1).
    """

    level: Tensor
    slope: Tensor
    middle: Tensor

    def shade(self, surface: Tensor) -> Tensor:
        """Relative brightness (B, 1, G, G) of a surface with these normals, 1 on the mean of the face."""
        return (1 + (self.slope * (surface - self.middle)).sum(1, keepdim=True)).clamp(0.2, 2.2)


def light_of(luma: Tensor, surface: Tensor, face: Tensor) -> Light:
    """Fit the light of a picture to a face's brightness and normals.

    Args:
        luma: Linear luma on the window's grid, (B, 1, G, G).
        surface: Normals, (B, 3, G, G).
        face: Where the face is, (B, 1, G, G) in [0, 1].

    Source: first-order spherical harmonics of a convex Lambertian surface (Basri and Jacobs 2003, IEEE PAMI 25:2);
    with a ridge, as eyes, brows and beards are not white.
    """
    area = face.sum((2, 3), keepdim=True).clamp_min(1)
    level = ((luma * face).sum((2, 3), keepdim=True) / area).clamp_min(1e-3)
    middle = (surface * face).sum((2, 3), keepdim=True) / area
    varied = (surface - middle) * face
    bright = luma / level - 1
    normal = (varied.unsqueeze(2) * varied.unsqueeze(1)).sum((3, 4)) / area.view(-1, 1, 1) + 0.02 * torch.eye(3)
    right = (varied * bright).sum((2, 3)).unsqueeze(2) / area.view(-1, 1, 1)
    slope: Tensor = torch.linalg.solve(normal, right)
    # Contrast beyond this is albedo, not light.
    slope = slope * (0.8 / slope.norm(dim=1, keepdim=True).clamp_min(1e-6)).clamp_max(1)
    return Light(level, slope.unsqueeze(3), middle)


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A victim's face on a wearer's.

    Attributes:
        points: Tile positions of the window's grid, moved back by how askew the mask sits, (B, G, G, 2).
        warp: Position in the victim's tile that each of them shows, (B, G, G, 2).
        height: The wearer's surface, smoothed and continued beyond the face, (B, 1, G, G).
        victim_height: The victim's, on the victim's own window.
        face: Where the wearer's face is, (B, 1, G, G).
        victim_face: The same of the victim.
        landmarks: The wearer's, (B, 478, 3).
    """

    points: Tensor
    warp: Tensor
    height: Tensor
    victim_height: Tensor
    face: Tensor
    victim_face: Tensor
    landmarks: Tensor

    def from_victim(self, values: Tensor) -> Tensor:
        """Values on the victim's window (B, C, G, G) where the wearer's window shows them."""
        return sample(values, self.warp / WINDOW)


def fit(wearer: MeshBatch, victim: MeshBatch, draws: Sequence[Draws]) -> Fit:
    """Fit faces onto faces; masks sit as askew as ``mask_x``, ``mask_y``, ``mask_roll`` and ``mask_zoom`` say."""
    uv = crop(wearer.uv.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    found = sample(victim.position.permute(0, 3, 1, 2), torch.nan_to_num(uv, nan=3.0))
    found = torch.where(uv.isfinite().all(3).unsqueeze(1), found, torch.nan)
    points = _askew(wearer.landmarks, draws)
    smooth = torch.full((len(draws), 1, 1, 1), 1.6)
    warp = sample(blur(extend(found), 0.6 * smooth, 7), points / WINDOW).permute(0, 2, 3, 1)
    relief, other = crop(wearer.relief), crop(victim.relief)
    height, victim_height = blur(extend(torch.cat([relief, other])), smooth.repeat(2, 1, 1, 1), 9).chunk(2)
    return Fit(
        points=points,
        warp=warp,
        height=height,
        victim_height=victim_height,
        face=relief.isfinite().float(),
        victim_face=other.isfinite().float(),
        landmarks=wearer.landmarks,
    )


def _askew(landmarks: Tensor, draws: Sequence[Draws]) -> Tensor:
    """Where on the wearer's face a point of the mask would lie if it sat straight, (B, G, G, 2)."""
    centre = landmarks[:, OVAL, :2].mean(1).view(-1, 1, 1, 2)
    away = window_points() - centre
    roll, zoom = column(draws, "mask_roll").view(-1, 1, 1), column(draws, "mask_zoom", 1.0).view(-1, 1, 1)
    x = (away[..., 0] - column(draws, "mask_x").view(-1, 1, 1)) / zoom
    y = (away[..., 1] - column(draws, "mask_y").view(-1, 1, 1)) / zoom
    c, s = torch.cos(roll), torch.sin(roll)
    return pairs(c * x + s * y, -s * x + c * y) + centre
