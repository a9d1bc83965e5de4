"""What stands between a living face and the camera: the parts that masks and partial attacks have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (the community's name for it)
from torch import Tensor

from training.data.simulate import capture, colour, facefit, paper
from training.data.simulate.draws import Draws, column
from training.data.simulate.facefit import Fit, Light
from training.data.simulate.mesh import MeshBatch
from training.data.simulate.optics import blur, sample, smooth_noise

#: Reflectance of skin that a face's brightness is compared with to guess the illumination; faces are 0.1 to 0.6.
SKIN = 0.3
#: Mean sRGB luma of faces that are printed; others are brought to the nearer end.
PRINTED_TONES = (0.42, 0.75)
#: Kinds of print that masks are made from, see :data:`training.data.simulate.paper.PRINTS`, and how often.
PRINT_KINDS = {"laser": 0.5, "inkjet": 0.3, "photo_paper": 0.2}


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """A wearer, a victim and the light on them.

    Attributes:
        wearer: The wearer's window, linear light, (B, 3, W, W).
        victims: Tiles of the victims, uint8 sRGB (B, 3, T, T).
        fit: The victim's face on the wearer's.
        light: Light on the wearer's face.
        towards_light: Unit vectors to the strongest light, (B, 3, 1, 1); y down, z towards the camera.
        level: Illumination on the face relative to that on a white of 1, (B, 1, 1, 1).
        px: Window pixels per tile unit.
    """

    wearer: Tensor
    victims: Tensor
    fit: Fit
    light: Light
    towards_light: Tensor
    level: Tensor
    px: float

    @property
    def size(self) -> int:
        """Side of the window in pixels."""
        return self.wearer.shape[-1]


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A material over the wearer's face, on the window.

    Attributes:
        light: What it sends to the camera, linear, (B, 3, W, W).
        distance: How far inside its edge positions lie, in tile units, negative outside and in holes; (B, 1, G, G).
        height: Its surface, tile units, (B, 1, G, G).
        printed: Reflectance of the print on it, (B, 3, W, W), if there is one.
        feather: Width of its edge in tile units, (B, 1, 1, 1), if it is not sharp.
    """

    light: Tensor
    distance: Tensor
    height: Tensor
    printed: Tensor | None = None
    feather: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Worn:
    """A person with an attack instrument on the face.

    Attributes:
        light: Linear light of the whole tile, (B, 3, T, T).
        printed: Reflectance of prints, (B, 3, W, W), 0 where there is none.
        paper: Share of each window pixel that is printed paper, (B, 1, W, W).
        sheet: Position on the printed sheet, in the victim's tile units, (B, G, G, 2).
        height: Surface towards the camera, tile units, (B, 1, G, G); continued smoothly beyond the face.
        cover: Share of each grid point that the instrument covers, (B, 1, G, G).
    """

    light: Tensor
    printed: Tensor
    paper: Tensor
    sheet: Tensor
    height: Tensor
    cover: Tensor


def draw_wearing(d: Draws) -> None:
    """How an instrument sits on the face: askew by up to about 4 mm, its shadow, the light that models it.

    A tile unit is about 210 mm, as a face box is about 150 mm wide.
    """
    d.uniform("mask_x", -0.018, 0.018)
    d.uniform("mask_y", -0.018, 0.018)
    d.normal("mask_roll", 0.0, 0.025)
    d.uniform("mask_zoom", 0.97, 1.06)
    d.uniform("mask_shadow", 0.15, 0.7)
    d.uniform("mask_stand_off", 0.006, 0.035)
    draw_modelling(d)


def draw_modelling(d: Draws) -> None:
    """Direction of the strongest light beyond what the wearer's picture says, and the illumination's guess."""
    d.uniform("mask_light_x", -0.9, 0.9)
    d.uniform("mask_light_y", -0.9, 0.5)
    d.loguniform("mask_level", 0.8, 1.25)


def draw_print(d: Draws) -> None:
    """The picture that is printed for a mask, and its print."""
    capture.draw_capture(d, capture.PRINTED_VIDEO)
    paper.draw_ink(d, d.choice("mask_print", list(PRINT_KINDS), list(PRINT_KINDS.values())))


def draw_edge(d: Draws) -> None:
    """The cut of a piece of paper: how white and how thick it shows."""
    d.uniform("mask_edge", 0.1, 0.9)
    d.loguniform("mask_edge_width", 0.001, 0.006)


def stage(tiles: Tensor, victims: Tensor, wearer: MeshBatch, victim: MeshBatch, draws: Sequence[Draws]) -> Stage:
    """Set the scene: fit the faces, read the light off the wearer's.

    Args:
        tiles: The wearers' tiles, linear light, (B, 3, T, T).
        victims: The victims' tiles, uint8 sRGB.
        wearer: The wearers' meshes.
        victim: The victims' meshes.
        draws: The samples' parameters.
    """
    fitted = facefit.fit(wearer, victim, draws)
    inner = facefit.crop(tiles)
    luma = F.interpolate(colour.luma(inner), fitted.height.shape[2:], mode="area")
    found = facefit.light_of(luma, facefit.normals(fitted.height), fitted.face)
    lean_x, lean_y = column(draws, "mask_light_x"), column(draws, "mask_light_y")
    towards = torch.cat([3 * found.slope[:, :1] + lean_x, 3 * found.slope[:, 1:2] + lean_y, torch.ones_like(lean_x)], 1)
    level = (found.level / SKIN).clamp(0.25, 1.5) * column(draws, "mask_level", 1.0)
    px = inner.shape[-1] / (2 * facefit.WINDOW)
    return Stage(inner, victims, fitted, found, F.normalize(towards, dim=1), level, px)


def printed(at: Stage, draws: Sequence[Draws]) -> Tensor:
    """Reflectance of the victim's picture as the attacker captured and printed it, laid over the wearer's window."""
    srgb = capture.attackers_capture(facefit.crop(at.victims), draws)
    # Who prints a face makes it neither black nor white.
    seen = colour.luma(F.interpolate(srgb, at.fit.victim_face.shape[2:], mode="area"))
    mean = (seen * at.fit.victim_face).sum((2, 3), keepdim=True) / at.fit.victim_face.sum((2, 3), keepdim=True)
    srgb = (srgb * (mean.clamp(*PRINTED_TONES) / mean.clamp_min(1e-3))).clamp(0, 1)
    where = facefit.enlarge((at.fit.warp / facefit.WINDOW).permute(0, 3, 1, 2), at.size).permute(0, 2, 3, 1)
    noise = paper.fibres(draws, at.size)
    return (paper.reflect(sample(srgb, where), draws) * (1 + noise)).clamp_min(0.002)


def paper_edge(light: Tensor, distance: Tensor, white: Tensor, draws: Sequence[Draws], px: float) -> Tensor:
    """Show the cut of the paper: a thin white line along its edge, brighter and darker along the way.

    Args:
        light: What the paper sends to the camera, (B, 3, W, W).
        distance: How far inside the edge, (B, 1, G, G).
        white: The paper's white in the same light, (B, 1 or 3, W, W).
        draws: The samples' parameters.
        px: Window pixels per tile unit.
    """
    size = light.shape[-1]
    inside_px = facefit.enlarge(distance, size) * px + 0.5
    width_px = column(draws, "mask_edge_width", 0.003) * px
    # A line narrower than a pixel fills its share of one.
    line = torch.exp(-inside_px.clamp_min(0) / width_px.clamp_min(0.8)) * (width_px / 0.8).clamp_max(1)
    patches = facefit.enlarge(
        smooth_noise(torch.stack([d.noise(1, 14, 14) for d in draws]), facefit.GRID_PX // 2), size
    )
    share = line * column(draws, "mask_edge") * (0.4 + 0.4 * patches).clamp(0, 1)
    return light * (1 - share) + white * share


def lay(at: Stage, layer: Layer, draws: Sequence[Draws]) -> tuple[Tensor, Tensor]:
    """Put a layer over the wearer: its shadow on the skin, then itself.

    Returns:
        The window (B, 3, W, W), linear light, and the layer's share of each pixel (B, 1, W, W).
    """
    distance = facefit.enlarge(layer.distance, at.size)
    width = torch.full_like(at.level, 1 / at.px)
    if layer.feather is not None:
        width = torch.maximum(width, layer.feather)
    cover = (distance / width + 0.5).clamp(0, 1)
    if layer.feather is not None:
        cover = cover * cover * (3 - 2 * cover)
    skin = at.wearer * (1 - facefit.enlarge(cast_shadow(at, layer.distance, draws), at.size))
    return skin * (1 - cover) + layer.light * cover, cover


def cast_shadow(at: Stage, distance: Tensor, draws: Sequence[Draws]) -> Tensor:
    """Share of the light that a layer keeps from the skin beside it, (B, 1, G, G).

    The part from the strongest light falls to the side away from it; the part round the contact falls on all sides.
    """
    step = at.px * facefit.GRID_PX / at.size
    cover = (distance * step + 0.5).clamp(0, 1)
    off = column(draws, "mask_stand_off", 0.01)
    points = facefit.window_points() + (at.towards_light[:, :2] * off).permute(0, 2, 3, 1)
    thrown = blur(sample(cover, points / facefit.WINDOW), 0.5 * off * step, 9)
    contact = blur(cover, off * step, 13)
    return column(draws, "mask_shadow") * (0.7 * thrown + 0.6 * contact).clamp(0, 1)


def highlights(at: Stage, surface: Tensor, gloss: Tensor, polish: Tensor) -> Tensor:
    """Mirror-like reflection of the strongest light, relative to a white of 1, (B, 1, G, G).

    Args:
        at: The scene.
        surface: Normals, (B, 3, G, G).
        gloss: Strength, (B, 1, 1, 1).
        polish: Sharpness, the exponent, (B, 1, 1, 1).

    Source: half-vector highlights (Blinn 1977, SIGGRAPH).
    """
    half = F.normalize(at.towards_light + torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1), dim=1)
    facing = (surface * half).sum(1, keepdim=True).clamp_min(1e-4)
    return gloss * facing**polish
