"""Sheets that are cut: along the head, and with holes through which whoever holds the sheet looks; linear light.

The cut photo attack of CASIA-FASD has the eyes cut out of a printed face, so that somebody behind it blinks in their
place (Zhang et al. 2012, A face antispoofing database with diverse attacks, ICB). Sizes of holes, errors of scissors
and how well the holder stands behind the holes are guesses: nobody measured them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.simulate import facefit
from training.data.simulate.draws import Draws, Value, column
from training.data.simulate.facefit import EYES, MOUTH, OVAL
from training.data.simulate.mesh import FaceMeshes
from training.data.simulate.optics import apply
from training.data.simulate.scene import FACE_HALF

#: Kinds of print that are cut with scissors; newspaper is too limp to be held then.
KINDS = frozenset({"laser", "inkjet", "photo_paper"})
#: How often a sheet has holes; how often it is cut along the head where it has none, and where it has: one in six.
HOLES, CONTOUR, CONTOUR_WITH_HOLES = 1 / 8, 0.12, 0.5
#: Directions in which a contour's reach is known.
_N_ANGLES = 96
#: Harmonics of the scissors' error, from the second on: the first would only move the contour.
_HARMONICS = range(2, 9)
#: No error of the scissors comes nearer to the outline of the face than this share of its radius.
_LEAST_MARGIN = 1.02
#: Half width and half height of the outline of a face without landmarks, and its middle, tile units.
_PLAIN_FACE = (0.34, 0.42, -0.01)
#: Keeps the scissors' error apart from other noise of a sample; the same in colour, depth and every frame of a clip.
_SCISSORS = 3
#: How far under the sheet a hole's shadow is seen, canvas pixels; where in a hole it is weakest, tile units.
_UNDER_PX, _LIT_AT = 3.0, 0.03

FloatRows = NDArray[np.float64]


def draw_cutout(d: Draws, subtype: str, *, held: bool) -> None:
    """Whether and how a print is cut. Lengths on the face in tile units of about 21 cm, or shares of its radius.

    Args:
        d: The sample's draws.
        subtype: Kind of print; other kinds than :data:`KINDS` are never cut.
        held: Whether there are meshes of the person shown and of somebody else, who can look through holes. Without,
            no holes are drawn.
    """
    cuttable = subtype in KINDS
    holes = d.sometimes("holes", HOLES if cuttable and held else 0.0, 0.95, 1.6)
    d.uniform("holes_height", 0.5, 1.1)
    d.sometimes("holes_mouth", 0.2, 0.8, 1.2)
    d.sometimes("holes_rim", 0.5, 0.002, 0.012)
    d.uniform("holes_shadow", 0.15, 0.65)
    d.uniform("holder_x", -0.02, 0.02)
    d.uniform("holder_y", -0.02, 0.02)
    d.normal("holder_roll", 0.0, 0.03)
    d.uniform("holder_zoom", 0.93, 1.07)
    d.sometimes("contour", (CONTOUR_WITH_HOLES if holes else CONTOUR) if cuttable else 0.0, 0.04, 0.25)
    d.uniform("contour_hair", 0.1, 0.5)
    d.sometimes("contour_neck", 0.5, 0.1, 0.6)
    d.loguniform("contour_waves", 0.004, 0.025)
    d.sometimes("contour_paper", 0.4, 0.01, 0.08)


def stands_behind(values: Mapping[str, Value]) -> int:
    """Number of the picture of whoever stands behind a medium: the holder of a sheet with holes, else the one shown."""
    return int(values["holder"] if values.get("holes") else values["picture"])


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """How the sheets of a batch are cut, whatever the canvas; k of them along the head, m with holes.

    Attributes:
        contoured: Numbers in the batch of those cut along the head.
        centre: Middle of their faces, tile units, (k, 2).
        reach: Distance of the cut from there in each direction, tile units, (k, 97): clockwise from the right, the
            last is the first.
        slant: Cosine between that direction and the cut's normal, (k, 97).
        pierced: Numbers of those with holes.
        marks: Landmarks of the people that these show, (m, 478, 3).
        view: Matrices from places on these sheets to the holders' tiles, (m, 3, 3).
    """

    contoured: list[int]
    centre: Tensor
    reach: Tensor
    slant: Tensor
    pierced: list[int]
    marks: Tensor
    view: Tensor


def plan(draws: Sequence[Draws], meshes: FaceMeshes | None) -> Cut | None:
    """Where the sheets of a batch are cut; ``None`` where none is.

    Args:
        draws: The samples' parameters.
        meshes: Meshes of the simulator's pictures. Faces without one are cut out along a plain oval, and have no holes.
    """
    contoured = [i for i, d in enumerate(draws) if d.values.get("contour")]
    pierced = [i for i, d in enumerate(draws) if d.values.get("holes")] if meshes is not None else []
    if not contoured and not pierced:
        return None

    def marks(numbers: list[int], name: str) -> NDArray[np.float32]:
        pictures = [int(draws[i].values[name]) for i in numbers]
        if meshes is None:
            return np.full((len(numbers), 478, 3), np.nan, np.float32)
        return np.asarray(meshes.landmarks[pictures], np.float32).reshape(-1, 478, 3)

    lines = [_contour(draws[i], m) for i, m in zip(contoured, marks(contoured, "picture"), strict=True)]
    centres = np.array([centre for centre, _ in lines]).reshape(-1, 2)
    reach = np.array([line for _, line in lines]).reshape(-1, _N_ANGLES)
    bend = (np.roll(reach, -1, 1) - np.roll(reach, 1, 1)) / (4 * np.pi / _N_ANGLES)
    some = [draws[i] for i in pierced]
    shown, holder = (_tensor(marks(pierced, name)) for name in ("picture", "holder"))
    return Cut(
        contoured=contoured,
        centre=_tensor(centres),
        reach=_tensor(_closed(reach)),
        slant=_tensor(_closed(reach / np.hypot(reach, bend))),
        pierced=pierced,
        marks=shown,
        view=_view(shown, holder, some) if some else torch.zeros(0, 3, 3),
    )


def _tensor(values: NDArray[np.floating]) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float32)).to(torch.get_default_device())


def _closed(rows: FloatRows) -> FloatRows:
    return np.concatenate([rows, rows[:, :1]], 1)


def _contour(d: Draws, marks: NDArray[np.float32]) -> tuple[FloatRows, FloatRows]:
    """Middle of a face (2,) and how far scissors cut from it in each direction (96,), tile units."""
    margin, hair, neck, waves = (float(d.values[f"contour{n}"]) for n in ("", "_hair", "_neck", "_waves"))
    angles = np.arange(_N_ANGLES) * (2 * np.pi / _N_ANGLES)
    rim = np.asarray(marks[list(OVAL), :2], np.float64)
    if np.isfinite(rim).all():
        centre = (rim.min(0) + rim.max(0)) / 2
        x, y = (rim - centre).T
        # Hair makes heads taller, hardly wider.
        y = np.where(y < 0, y * (1 + hair), y)
        face = np.interp(angles, np.arctan2(y, x), np.hypot(x, y), period=2 * np.pi)
    else:
        half_x, half_y, middle = _PLAIN_FACE
        centre = np.array([0.0, middle])
        tall = np.where(np.sin(angles) < 0, half_y * (1 + hair), half_y)
        face = 1 / np.hypot(np.cos(angles) / half_x, np.sin(angles) / tall)
    # Down is positive; the neck is narrower than the chin.
    grown = 1 + margin + neck * np.sin(angles).clip(0) ** 10
    error = d.generator(_SCISSORS).standard_normal((2, len(_HARMONICS)))
    for (cosine, sine), k in zip(error.T, _HARMONICS, strict=True):
        grown = grown + waves * (cosine * np.cos(k * angles) + sine * np.sin(k * angles)) * (2 / k) ** 0.5
    return centre, face * grown.clip(_LEAST_MARGIN)


def _view(shown: Tensor, holder: Tensor, draws: Sequence[Draws]) -> Tensor:
    """Similarities (m, 3, 3) that lay the shown eyes on the holders', but for how badly the sheets are held."""
    (x, y, along), (hx, hy, other) = _eyes(shown), _eyes(holder)
    zoom = other.norm(dim=1) / along.norm(dim=1) * column(draws, "holder_zoom", 1.0).flatten()
    turn = torch.atan2(other[:, 1], other[:, 0]) - torch.atan2(along[:, 1], along[:, 0])
    turn = turn + column(draws, "holder_roll").flatten()
    c, s = zoom * torch.cos(turn), zoom * torch.sin(turn)
    x0 = hx + column(draws, "holder_x").flatten() - c * x + s * y
    y0 = hy + column(draws, "holder_y").flatten() - s * x - c * y
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    return torch.stack([c, -s, x0, s, c, y0, zero, zero, one], 1).view(-1, 3, 3)


def _eyes(marks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Middle between the eyes, x and y (m,), and from the left eye to the right one (m, 2)."""
    left, right = (marks[:, eye, :2].mean(1) for eye in EYES)
    middle = (left + right) / 2
    return middle[:, 0], middle[:, 1], right - left


def cut(inside: Tensor, body: Tensor, plane: Tensor, draws: Sequence[Draws], *, px: Tensor, by: Cut) -> None:
    """Take from whole sheets what is cut away, in place: the one rule for colour and depth.

    Args:
        inside: Share of each pixel that shows the print, (B, 1, H, W).
        body: Share that is paper, printed or not.
        plane: (B, H, W, 2), canvas positions in tile units, bent as the sheets are.
        draws: The samples' parameters.
        px: Canvas pixels per tile unit, (B, 1, 1, 1).
        by: Where the sheets are cut.
    """
    if by.contoured:
        some = [draws[i] for i in by.contoured]
        distance, fine = _contour_distance(plane[by.contoured], by), px[by.contoured]
        body[by.contoured] = (distance * fine + 0.5).clamp(0, 1)
        distance = distance - column(some, "contour_paper") * FACE_HALF
        inside[by.contoured] = (distance * fine + 0.5).clamp(0, 1)
    if by.pierced:
        some = [draws[i] for i in by.pierced]
        distance, fine = _hole_distance(plane[by.pierced], by, some), px[by.pierced]
        body[by.pierced] *= (0.5 - distance * fine).clamp(0, 1)
        distance = distance + column(some, "holes_rim")
        inside[by.pierced] *= (0.5 - distance * fine).clamp(0, 1)


def _contour_distance(plane: Tensor, by: Cut) -> Tensor:
    """How far within the contour places (k, H, W, 2) lie, tile units to first order, (k, 1, H, W)."""
    x, y = (plane[..., axis] - by.centre[:, axis].view(-1, 1, 1) for axis in (0, 1))
    turn = (torch.atan2(y, x) / (2 * torch.pi)) % 1 * _N_ANGLES
    first = turn.floor().clamp(0, _N_ANGLES - 1)
    share, at = turn - first, first.long().flatten(1)
    found = []
    for table in (by.reach, by.slant):
        low, high = (table.gather(1, at + step).view_as(share) for step in (0, 1))
        found.append(torch.lerp(low, high, share))
    distance: Tensor = (found[0] - (x * x + y * y).sqrt()) * found[1]
    return distance.unsqueeze(1)


def _hole_distance(plane: Tensor, by: Cut, draws: Sequence[Draws]) -> Tensor:
    """How far within a hole places (m, H, W, 2) lie, tile units to first order, (m, 1, H, W)."""
    wide, high = column(draws, "holes").view(-1, 1, 1), column(draws, "holes_height").view(-1, 1, 1)
    places = [facefit.opening(by.marks, eye) for eye in EYES]
    found = [_oval_distance(plane, at, (wide * at.width, high * at.width)) for at in places]
    scale, mouth = column(draws, "holes_mouth").view(-1, 1, 1), facefit.opening(by.marks, MOUTH)
    tall = scale * torch.maximum(mouth.height, 0.35 * mouth.width)
    half = ((scale * mouth.width).clamp_min(1e-3), tall.clamp_min(1e-3))
    found.append(torch.where((scale > 0).unsqueeze(1), _oval_distance(plane, mouth, half), -1.0))
    return torch.stack(found).amax(0)


def _oval_distance(plane: Tensor, at: facefit.Opening, half: tuple[Tensor, Tensor]) -> Tensor:
    """How far within an ellipse of these half axes (m, 1, 1) round a feature places lie, (m, 1, H, W).

    To first order true on all of its edge, so that edge and rim are as wide at its ends as above and below.
    """
    x, y = plane[..., 0] - at.x, plane[..., 1] - at.y
    u, v = (x * at.cos + y * at.sin) / half[0], (y * at.cos - x * at.sin) / half[1]
    radius = (u * u + v * v).sqrt()
    slope = ((u / half[0]) ** 2 + (v / half[1]) ** 2).sqrt().clamp_min(1e-3)
    distance: Tensor = (1 - radius) * radius.clamp_min(1e-3) / slope
    return distance.unsqueeze(1)


def grip(half: tuple[Tensor, Tensor], centre: Tensor, by: Cut) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Where a finger finds the edges of sheets: half sides (B, 1, 1, 1) and middle (B, 2), of contours their own."""
    if not by.contoured:
        return half, centre
    quarter = _N_ANGLES // 4
    right, down, left, up = (by.reach[:, k * quarter] for k in range(4))
    wide, high, middle = half[0].clone(), half[1].clone(), centre.clone()
    wide[by.contoured], high[by.contoured] = ((a + b).view(-1, 1, 1, 1) / 2 for a, b in ((left, right), (up, down)))
    middle[by.contoured] = by.centre + torch.stack([right - left, down - up], 1) / 2
    return (wide, high), middle


def onto_holder(plane: Tensor, by: Cut) -> Tensor:
    """Places in the holders' tiles (m, H, W, 2) behind the canvas positions (B, H, W, 2) of sheets with holes."""
    return apply(by.view, plane[by.pierced])


def under_sheet(bent: Tensor, draws: Sequence[Draws], px: Tensor, by: Cut) -> Tensor:
    """Factor (m, 1, H, W) of the light on holders: the sheet keeps some from what is seen through its holes."""
    some = [draws[i] for i in by.pierced]
    distance = _hole_distance(bent[by.pierced], by, some)
    near = distance * px[by.pierced] > -_UNDER_PX
    return 1 - near * column(some, "holes_shadow") * (1 - 0.5 * (distance / _LIT_AT).clamp(0, 1))
