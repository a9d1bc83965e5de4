"""How heads, hands and cameras move: band-limited paths, rotation of a head with parallax, blinks, expressions.

Lengths are in tile units: a tile spans [-1, 1] and is 2.8 face boxes wide, so that one unit is about 21 cm on a face
whose box is 15 cm wide; x to the right, y down, z towards the camera.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fasedge.types import FloatArray
from training.data.simulate.optics import blur, grid
from training.data.simulate.scene import FACE_HALF

#: Millimetres per tile unit on a face box of 150 mm.
UNIT_MM = 150.0 / 2 / FACE_HALF
#: Sinusoids per path: enough not to look periodic within seconds.
_TONES = 7
#: Where a head turns: between the ears, a little below the face box's middle.
_PIVOT = (0.0, 0.15, 0.0)
#: Ellipse of the head round the face box's centre; what lies further out by ``_REACH`` stays where it is.
_HEAD_CENTRE_Y, _HEAD_RADII, _REACH = -0.08, (0.46, 0.58), 1.8
#: Height of the ellipsoid that stands in for a face without a mesh.
_HEAD_DEPTH = 0.36
#: Landmarks of each eye: outer corner, inner corner, upper lid, lower lid. Source: numbering of the FaceMesh topology.
_EYES = ((33, 133, 159, 145), (263, 362, 386, 374))
#: Corners of the mouth, lower lip, chin; same source.
_MOUTH = (61, 291, 17, 152)

Times = NDArray[np.float64]


class Path:
    """A smooth random path through zero mean: sinusoids of random phase within a band of frequencies.

    Args:
        rng: Where phases and amplitudes come from.
        low_hz: Lower end of the band.
        high_hz: Upper end.
        rms: Root mean square of the path over long times.
    """

    def __init__(self, rng: np.random.Generator, low_hz: float, high_hz: float, rms: float) -> None:
        self._hz = np.exp(rng.uniform(np.log(low_hz), np.log(high_hz), _TONES))
        self._phase = rng.uniform(0, 2 * math.pi, _TONES)
        weights = rng.uniform(0.3, 1.0, _TONES)
        self._amplitude = rms * weights * math.sqrt(2 / float((weights**2).sum()))

    def __call__(self, t: Times) -> Times:
        """Values at times in seconds."""
        angle = 2 * math.pi * np.multiply.outer(np.asarray(t, float), self._hz) + self._phase
        return np.asarray((self._amplitude * np.sin(angle)).sum(-1), np.float64)


def blink_closure(t: Times, starts: Times, duration_s: float) -> Times:
    """How far the eyes are closed, [0, 1]: down in a third of the time, up in the rest.

    Source: lids close about twice as fast as they open (Stern, Walrath and Goldstein 1984).
    """
    closed = np.zeros(np.shape(t))
    for start in starts:
        u = (np.asarray(t) - start) / duration_s
        down, up = np.clip(3 * u, 0, 1), np.clip(1.5 * (1 - u), 0, 1)
        inside = (u > 0) & (u < 1)
        closed = np.maximum(closed, np.where(inside, 0.5 - 0.5 * np.cos(math.pi * np.minimum(down, up)), 0))
    return closed


@dataclass(frozen=True, slots=True)
class Pose:
    """A head at one moment, relative to its picture; angles in radians, lengths in tile units.

    Attributes:
        yaw: To the right of the picture.
        pitch: Downwards.
        roll: Clockwise in the picture.
        x: To the right.
        y: Down.
        blink: How far the eyes are closed, [0, 1].
        smile: Outward move of the corners of the mouth.
        jaw: Downward move of the chin.
    """

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    x: float = 0.0
    y: float = 0.0
    blink: float = 0.0
    smile: float = 0.0
    jaw: float = 0.0


class MovingHead:
    """A head that can be put into another pose than its picture's, by moving each place of the tile.

    Args:
        relief: (h, w), height towards the camera in tile units, NaN outside the face; ``None`` or all NaN gives an
            ellipsoid.
        landmarks: (478, 3) in tile units, or ``None``; without them, or where they are NaN, eyes and mouth keep still.
        distance: From the camera to the head in tile units.
    """

    def __init__(self, relief: Tensor | None, landmarks: Tensor | None, distance: float, size: int = 160) -> None:
        self._points = grid(size, size)
        self._distance = distance
        self._height = self._fill(relief, size)
        x, y = self._points[..., 0], self._points[..., 1] - _HEAD_CENTRE_Y
        radius = torch.sqrt((x / _HEAD_RADII[0]) ** 2 + (y / _HEAD_RADII[1]) ** 2)
        share = ((_REACH - radius) / (_REACH - 1)).clamp(0, 1)
        self._weight = share * share * (3 - 2 * share)
        marks = None if landmarks is None or not bool(torch.isfinite(landmarks).all()) else landmarks
        self.landmarks: FloatArray | None = None if marks is None else marks.numpy()

    def _fill(self, relief: Tensor | None, size: int) -> Tensor:
        """Height everywhere: that of the mesh, round it what is next to it, an ellipsoid where there is no mesh."""
        x, y = self._points[..., 0], self._points[..., 1] - _HEAD_CENTRE_Y
        bulge = (1 - (x / _HEAD_RADII[0]) ** 2 - (y / _HEAD_RADII[1]) ** 2).clamp_min(0)
        if relief is None or not bool(torch.isfinite(relief).any()):
            return _HEAD_DEPTH * bulge.sqrt()
        known = torch.isfinite(relief)
        # Normalised smoothing, ever wider, fills the surroundings from the face's rim outwards.
        height, share = torch.where(known, relief, 0.0), known.float()
        out, filled = height, share
        for _ in range(6):
            both = blur(torch.stack([height, share])[:, None], torch.full((2, 1, 1, 1), 6.0), 25)[:, 0]
            height, share = both[0], both[1]
            out = torch.where(filled > 0, out, height / share.clamp_min(1e-6) * (share > 1e-4))
            filled = torch.maximum(filled, (share > 1e-4).float())
        return out

    def forward(self, x: Tensor, y: Tensor, z: Tensor, pose: Pose) -> tuple[Tensor, Tensor]:
        """Offsets of points of the head in the picture, in a pose: rotation about the neck, then perspective."""
        px, py, pz = (float(v) for v in _PIVOT)
        x0, y0, z0 = x - px, y - py, z - pz
        cy, sy = math.cos(pose.yaw), math.sin(pose.yaw)
        x1, z1 = cy * x0 + sy * z0, -sy * x0 + cy * z0
        cp, sp = math.cos(pose.pitch), math.sin(pose.pitch)
        y2, z2 = cp * y0 + sp * z1, -sp * y0 + cp * z1
        cr, sr = math.cos(pose.roll), math.sin(pose.roll)
        x3, y3 = cr * x1 - sr * y2, sr * x1 + cr * y2
        # The picture was taken in perspective already: only the change of distance counts.
        scale = (self._distance - z) / (self._distance - (z2 + pz)).clamp_min(0.2)
        return (x3 + px) * scale + pose.x - x, (y3 + py) * scale + pose.y - y

    def flow(self, pose: Pose) -> Tensor:
        """Where each place of the tile lay in the picture, as an offset in tile units: float32 (2, h, w), x first."""
        x, y = self._points[..., 0], self._points[..., 1]
        dx, dy = self.forward(x, y, self._height, pose)
        ahead = torch.stack([dx, dy]) * self._weight
        # The inverse of a smooth displacement by fixed-point steps: p = q - d(p).
        back = -ahead
        for _ in range(5):
            places = (self._points + back.permute(1, 2, 0))[None]
            back = -torch.nn.functional.grid_sample(
                ahead[None], places, mode="bilinear", padding_mode="border", align_corners=False
            )[0]
        if self.landmarks is not None and (pose.blink > 0 or pose.smile or pose.jaw):
            places = self._points + back.permute(1, 2, 0)
            back = back + self._face_moves(places, pose)
        return back

    def _face_moves(self, places: Tensor, pose: Pose) -> Tensor:
        """Further offset of lids and mouth at places of the picture (h, w, 2): (2, h, w)."""
        marks = self.landmarks
        if marks is None:
            return torch.zeros(2, *places.shape[:2])
        x, y = places[..., 0], places[..., 1]
        out_x, out_y = torch.zeros_like(x), torch.zeros_like(y)
        for outer, inner, upper, lower in _EYES:
            out_y = out_y + _lid(x, y, marks[[outer, inner, upper, lower]], pose.blink)
        left, right, lip, chin = (marks[i] for i in _MOUTH)
        for corner, other in ((left, right), (right, left)):
            near = _bump(x, y, corner, 0.10)
            outward = math.copysign(1.0, float(corner[0] - other[0]))
            out_x = out_x - outward * pose.smile * near
            out_y = out_y + 0.6 * pose.smile * near
        out_y = out_y - pose.jaw * torch.maximum(_bump(x, y, chin, 0.16), _bump(x, y, lip, 0.12))
        return torch.stack([out_x, out_y])


def _bump(x: Tensor, y: Tensor, at: FloatArray, sigma: float) -> Tensor:
    return torch.exp(-((x - float(at[0])) ** 2 + (y - float(at[1])) ** 2) / (2 * sigma**2))


def _lid(x: Tensor, y: Tensor, eye: FloatArray, blink: float) -> Tensor:
    """Vertical offset that draws the skin above an eye over it: piecewise linear in height, a parabola across.

    The skin between lid and brow is stretched, below it the eye is pressed together.
    """
    outer, inner, upper, lower = eye
    centre, half = float(outer[0] + inner[0]) / 2, abs(float(outer[0] - inner[0])) / 2 + 1e-4
    across = 1 - ((x - centre) / (1.15 * half)) ** 2
    # The lids' line follows a tilted eye.
    slope = float(inner[1] - outer[1]) / (float(inner[0] - outer[0]) or 1e-4)
    lid = float(upper[1]) + slope * (x - float(upper[0]))
    opening = (float(lower[1]) - float(upper[1])) * across.clamp_min(0) + 1e-4
    skin, moved = 0.55 * half, 0.95 * blink * opening
    above = -(moved * ((y - lid + skin) / (skin + moved)).clamp(0, 1))
    below = -(moved * ((lid + opening - y) / (opening - moved)).clamp(0, 1))
    return torch.where(y < lid + moved, above, below) * (across > 0) * (blink > 0)
