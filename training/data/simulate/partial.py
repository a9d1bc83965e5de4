"""Partial attacks: a strip of printed eyes or mouth, or glasses with printed eyes, on a living face; linear light.

As described for SiW-M (funny eyes, paper glasses, partial paper) and HQ-WMCA (paper glasses, funny-eye glasses).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from training.data.simulate import facefit
from training.data.simulate.draws import Draws, column
from training.data.simulate.facefit import EYES, MOUTH, TEMPLES, Opening
from training.data.simulate.wearing import (
    Layer,
    Stage,
    draw_edge,
    draw_print,
    draw_wearing,
    highlights,
    paper_edge,
    printed,
)

#: Half width over half the feature's width, half height over the same, by kind, each (low, high).
PATCHES = {"printed_eyes": ((1.1, 1.6), (0.25, 0.55)), "printed_mouth": ((1.2, 2.2), (0.5, 1.1))}
#: Reflectance of frames of glasses.
FRAMES = {
    "black": (0.012, 0.012, 0.012),
    "brown": (0.06, 0.03, 0.015),
    "metal": (0.3, 0.29, 0.27),
    "red": (0.25, 0.02, 0.02),
}


def draw_partial(d: Draws, subtype: str) -> None:
    """Parameters of a partial attack."""
    draw_wearing(d)
    draw_print(d)
    d.loguniform("patch_power", 2.0, 12.0)
    if subtype == "printed_glasses":
        d.uniform("glasses_width", 1.15, 1.6)
        d.uniform("glasses_height", 0.62, 0.95)
        d.loguniform("glasses_frame", 0.007, 0.03)
        d.choice("glasses_colour", list(FRAMES), (0.55, 0.2, 0.15, 0.1))
        d.uniform("glasses_gloss", 0.02, 0.4)
        d.uniform("glasses_bridge", -0.3, 0.3)
        return
    draw_edge(d)
    width, height = PATCHES[subtype]
    d.uniform("patch_width", *width)
    d.uniform("patch_height", *height)
    d.uniform("patch_curve", 0.3, 1.6)


def _patch(at: Stage, place: Opening, draws: Sequence[Draws]) -> Layer:
    """A piece of paper over a feature; it bends round the face about one axis."""
    wide, high = column(draws, "patch_width", 1.2).view(-1, 1, 1), column(draws, "patch_height", 0.4).view(-1, 1, 1)
    power = column(draws, "patch_power", 4.0).view(-1, 1, 1)
    distance = facefit.oval_distance(at.fit.points, place, (wide * place.width, high * place.width), power)
    x = (at.fit.points[..., 0] - place.x).unsqueeze(1)
    height = at.fit.height.amax((2, 3), keepdim=True) - column(draws, "patch_curve") * x * x
    reflectance = printed(at, draws)
    shading = facefit.enlarge(at.light.shade(facefit.normals(height)) * at.level, at.size)
    white = column(draws, "print_white", 0.8) * shading
    return Layer(paper_edge(reflectance * shading, distance, white, draws, at.px), distance, height, reflectance)


def printed_eyes(at: Stage, draws: Sequence[Draws]) -> Layer:
    """A strip of paper with the victim's eyes."""
    outer_left, outer_right = EYES[0][0], EYES[1][1]
    return _patch(at, facefit.opening(at.fit.landmarks, (outer_left, outer_right, EYES[0][2], EYES[1][3])), draws)


def printed_mouth(at: Stage, draws: Sequence[Draws]) -> Layer:
    """A piece of paper with the victim's mouth."""
    return _patch(at, facefit.opening(at.fit.landmarks, MOUTH), draws)


def printed_glasses(at: Stage, draws: Sequence[Draws]) -> Layer:
    """Glasses whose lenses are covered by the victim's printed eyes."""
    points, marks = at.fit.points, at.fit.landmarks
    power = column(draws, "patch_power", 4.0).view(-1, 1, 1)
    wide, high = column(draws, "glasses_width", 1.3).view(-1, 1, 1), column(draws, "glasses_height", 0.8).view(-1, 1, 1)
    thick = column(draws, "glasses_frame", 0.01)
    left, right = (facefit.opening(marks, eye) for eye in EYES)
    lenses = torch.maximum(
        *(facefit.oval_distance(points, eye, (wide * eye.width, high * eye.width), power) for eye in (left, right))
    )
    temples = [marks[:, i, :2].view(-1, 1, 1, 2) for i in TEMPLES]
    bars = _bars(points, (left, right), temples, wide, column(draws, "glasses_bridge").view(-1, 1, 1))
    distance = torch.maximum(lenses + thick, 0.5 * thick - bars)
    height = at.fit.height.amax((2, 3), keepdim=True).expand_as(at.fit.height)
    reflectance = printed(at, draws)
    paper_light = reflectance * at.level
    frame = torch.tensor([FRAMES[str(d.values["glasses_colour"])] for d in draws]).view(-1, 3, 1, 1)
    # A round bar catches the light along its upper or lower side.
    shape = (thick - (lenses.abs() - 0.5 * thick).abs()).clamp_min(0)
    shine = highlights(at, facefit.normals(shape), column(draws, "glasses_gloss"), torch.full_like(at.level, 12.0))
    frame_light = (frame + facefit.enlarge(shine, at.size)) * at.level
    inside = (facefit.enlarge(lenses, at.size) * at.px + 0.5).clamp(0, 1)
    light = paper_light * inside + frame_light * (1 - inside)
    return Layer(light, distance, height, reflectance * inside)


def _bars(
    points: Tensor, eyes: tuple[Opening, Opening], temples: Sequence[Tensor], wide: Tensor, bridge: Tensor
) -> Tensor:
    """Distance from the bridge and the arms of glasses, tile units, (B, 1, G, G)."""
    left, right = eyes

    def place(eye: Opening, side: float) -> Tensor:
        x = eye.x + side * wide * eye.width * eye.cos
        y = eye.y + side * wide * eye.width * eye.sin + bridge * eye.width
        return torch.stack([x, y], -1)

    ends = (
        (place(left, 1.0), place(right, -1.0)),
        (place(left, -1.0), temples[0]),
        (place(right, 1.0), temples[1]),
    )
    return torch.stack([_segment(points, a, b) for a, b in ends]).amin(0).unsqueeze(1)


def _segment(points: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Distance from a straight line between two places (B, 1, 1, 2), (B, G, G)."""
    along = end - start
    length2 = (along * along).sum(3, keepdim=True).clamp_min(1e-6)
    share = (((points - start) * along).sum(3, keepdim=True) / length2).clamp(0, 1)
    away: Tensor = (points - start - share * along).square().sum(3)
    return away.sqrt()


#: The material of each sub-type.
MATERIALS: dict[str, Callable[[Stage, Sequence[Draws]], Layer]] = {
    "printed_eyes": printed_eyes,
    "printed_mouth": printed_mouth,
    "printed_glasses": printed_glasses,
}
