"""Glasses that people really wear, and eyes, as a depth camera sees them.

A frame stands before the eyes. A lens lets near infrared through or throws it elsewhere, and then nothing returns;
moist eyes do the same. People of both classes have them, but nobody over printed eyes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.data.simulate import figure
from training.data.simulate.draws import Draws, column
from training.data.simulate.facefit import EYES
from training.data.simulate.mesh import RELIEF_PX
from training.data.simulate.optics import grid, smooth_noise
from training.data.simulate.surface import UNIT_M

#: Keeps the noise of lenses apart from other noise.
PURPOSE = 4
#: Share of people with glasses (assumption: fewer than need them, since many take them off before a camera).
WORN = 0.25
#: Radius of the part of an eye that shines, tile units: an iris of 12 mm.
_IRIS = 0.006 / UNIT_M
#: Distance of the eyes of an adult, metres.
_APART_M = 0.063


@dataclass(frozen=True, slots=True, eq=False)
class Glasses:
    """Glasses and eyes over the tile's grid, (B, 1, 160, 160) each.

    Attributes:
        frame: Whether there is a frame, 0 or 1.
        height: Where the frame stands, tile units towards the camera.
        mirror: Share of light that lenses and eyes throw elsewhere.
    """

    frame: Tensor
    height: Tensor
    mirror: Tensor


def draw_glasses(d: Draws) -> None:
    """Glasses and eyes of a person.

    Lenses 44 to 58 mm wide and 28 to 46 high, 12 to 16 mm before the eyes (trade sizes; the vertex distance of
    opticians); frames 1.5 to 6 mm. Lenses of half of the glasses lose some of their light, and so do the eyes of three
    in ten people (assumptions; time-of-flight cameras are known for holes in eyes).
    """
    d.chance("depth_glasses", WORN)
    d.uniform("depth_lens_width", 0.044, 0.058)
    d.uniform("depth_lens_height", 0.028, 0.046)
    d.uniform("depth_lens_gap", 0.012, 0.016)
    d.loguniform("depth_frame", 0.0015, 0.006)
    d.loguniform("depth_frame_return", 0.03, 0.5)
    d.sometimes("depth_lens_lost", 0.5, 0.2, 1.0)
    d.sometimes("depth_eyes_lost", 0.3, 0.2, 1.0)


def glasses(height: Tensor, landmarks: Tensor, draws: Sequence[Draws]) -> Glasses:
    """Glasses and eyes of people.

    Args:
        height: Surface of the face or of what is on it, tile units, (B, 1, 160, 160).
        landmarks: The people's, (B, 478, 3), tile units.
        draws: Parameters of :func:`draw_glasses`; without them there are neither glasses nor lost eyes.
    """
    worn = column(draws, "depth_glasses") > 0
    if not (worn | (column(draws, "depth_eyes_lost") > 0)).any():
        nothing = torch.zeros_like(height)
        return Glasses(nothing, nothing, nothing)
    eyes = [landmarks[:, list(eye), :2].mean(1).view(-1, 1, 1, 2) for eye in EYES]
    line = eyes[1] - eyes[0]
    apart = line.norm(dim=3, keepdim=True).clamp_min(0.05)
    line = line / apart
    scale = apart.view(-1, 1, 1, 1) / _APART_M
    half_x, half_y = (column(draws, f"depth_lens_{side}", 0.05) / 2 * scale for side in ("width", "height"))
    thick = column(draws, "depth_frame", 0.003) * scale
    points = grid(RELIEF_PX, RELIEF_PX)
    rings, lens, iris = [], [], []
    for eye in eyes:
        away = points - eye
        x = (away * line).sum(3).unsqueeze(1)
        y = (away[..., 1] * line[..., 0] - away[..., 0] * line[..., 1]).unsqueeze(1)
        inside = (1 - ((x / half_x) ** 4 + (y / half_y) ** 4) ** 0.25) * half_y
        lens.append(inside > 0)
        rings.append((inside <= 0) & (inside > -thick))
        iris.append(x * x + y * y < _IRIS**2)
    middle = points - (eyes[0] + eyes[1]) / 2
    x = (middle * line).sum(3).unsqueeze(1)
    y = (middle[..., 1] * line[..., 0] - middle[..., 0] * line[..., 1]).unsqueeze(1)
    bridge = (x.abs() < apart.view(-1, 1, 1, 1) / 2 - half_x) & (y.abs() < thick.clamp_min(0.004))
    clear = lens[0] | lens[1]
    frame = (rings[0] | rings[1] | bridge) & ~clear & worn
    before = torch.stack([figure.look(height, eye) for eye in eyes]).mean(0)
    # Frames follow the face a little.
    stands = before + column(draws, "depth_lens_gap", 0.014) / UNIT_M - 0.3 * x * x
    patches = (0.5 + smooth_noise(torch.stack([_noise(d) for d in draws]), RELIEF_PX)).clamp(0, 1)
    lost = (clear & worn) * column(draws, "depth_lens_lost") * patches
    lost = torch.maximum(lost, (iris[0] | iris[1]) * column(draws, "depth_eyes_lost"))
    return Glasses(frame.float(), stands, lost)


def _noise(d: Draws) -> Tensor:
    coarse = d.generator(PURPOSE).standard_normal((1, 12, 12), "float32")
    return torch.from_numpy(coarse).to(torch.get_default_device())
