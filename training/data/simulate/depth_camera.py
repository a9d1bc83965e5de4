"""Depth cameras: from a surface in metres to the uint16 millimetres that a driver hands out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (the community's name for it)
from torch import Tensor

from training.data.simulate.draws import Draws, column
from training.data.simulate.optics import grid
from training.data.simulate.surface import Surface


@dataclass(frozen=True, slots=True)
class DepthProfile:
    """A kind of depth sensor; numbers are representative of their kind, not of one product.

    Attributes:
        share: How often it is drawn.
        focal_baseline: Focal length in pixels times baseline in metres; 0 for time of flight.
        step_px: Disparity step in pixels; 0 does not quantise.
        noise_m: Standard deviation at 0.5 m, metres, (low, high).
        shadow_px: Width of the occlusion shadow at a jump of 1 m over 0.5 m, pixels.
        flying: Highest share of flying pixels along an edge.
    """

    share: float
    focal_baseline: float
    step_px: float
    noise_m: tuple[float, float]
    shadow_px: int
    flying: float


#: Source: sigma_z = z² / (f·b) · sigma_d for triangulating sensors (Gallup et al. 2008); 1-2 mm at 0.5 m.
PROFILES: dict[str, DepthProfile] = {
    "active_stereo": DepthProfile(0.4, 32.0, 1 / 32, (0.001, 0.002), 4, 0.3),
    "structured_light": DepthProfile(0.35, 43.0, 1 / 8, (0.0005, 0.0015), 5, 0.1),
    "tof": DepthProfile(0.25, 0.0, 0.0, (0.001, 0.002), 0, 0.6),
}
#: How far from a return a driver that smooths fills holes, of the map's side.
_FILL_REACH = 0.08
#: A neighbour farther than this is another surface, metres.
_JUMP_M = 0.03


def draw_depth_camera(d: Draws) -> None:
    """Parameters of a depth camera; ``d`` must not be the generator that the colour picture uses.

    Noise at 0.5 m 0.5-2 mm by profile; least return that is measured 0.01-0.15 of a white thing's in the middle of the
    view; misalignment with the colour picture ±2 px; a third of drivers fill holes (assumption).
    """
    name = d.choice("depth_profile", list(PROFILES), [p.share for p in PROFILES.values()])
    d.uniform("depth_noise", *PROFILES[name].noise_m)
    d.uniform("depth_flying", 0.0, PROFILES[name].flying)
    d.loguniform("depth_least_return", 0.01, 0.15)
    d.uniform("depth_mirror_lost", 0.2, 1.0)
    d.uniform("depth_shift_x", -2.0, 2.0)
    d.uniform("depth_shift_y", -2.0, 2.0)
    d.chance("depth_from_left", 0.5)
    d.chance("depth_filled", 0.33)


def draw_driver(d: Draws) -> None:
    """What the driver does to a map before it hands it out, beside filling holes.

    Two fifths smooth it within surfaces and leave no narrow hole (assumption). Sources: phones do so unless told
    otherwise (Apple, ``AVCaptureDepthDataOutput.isFilteringEnabled``); for other cameras it is an option (librealsense,
    post-processing filters: edge-preserving smoothing that stops at 20 steps of 1/32 px, a hundredth of the distance
    at 0.5 m).
    """
    d.chance("depth_smoothed", 0.4)
    d.uniform("depth_smooth_stop", 0.01, 0.03)
    d.integer("depth_smooth_passes", 1, 4)


def measure(surface: Surface, draws: Sequence[Draws]) -> Tensor:
    """Measure a surface.

    Args:
        surface: What stands before the camera.
        draws: Parameters of :func:`draw_depth_camera`; their noise generators move on.

    Returns:
        int32 (B, H, W) in [0, 65535], millimetres, 0 = no return; NumPy's uint16 holds it.
    """
    size = surface.depth_m.shape[-2:]
    shift = torch.cat(
        [column(draws, f"depth_shift_{a}").view(-1, 1) * 2 / n for a, n in zip("xy", size[::-1], strict=True)], 1
    )
    points = grid(*size) + shift.view(-1, 1, 1, 2)
    # Nearest: a mean across an edge would be a surface that is not there.
    stack = torch.cat([surface.depth_m, surface.reflectivity, surface.mirror], 1)
    seen = F.grid_sample(stack, points, mode="nearest", padding_mode="border", align_corners=False)
    true, reflectivity, mirror = seen[:, :1], seen[:, 1:2], seen[:, 2:]
    noise = torch.stack([d.noise(3, *size) for d in draws])
    chance = torch.special.ndtr(noise[:, 1:])
    # Exposure follows what stands in the middle: light falls with the square of the distance beyond it.
    middle = true[..., size[0] // 2 : size[0] // 2 + 1, size[1] // 2 : size[1] // 2 + 1]
    lost = reflectivity * (middle / true).clamp_max(1) ** 2 < column(draws, "depth_least_return")
    # A pixel over an edge mixes what both sides send back; a side that sends nothing back has no part in it.
    far = F.max_pool2d(torch.where(lost, 0.0, true), 3, 1, 1)
    near = -F.max_pool2d(torch.where(lost, -torch.inf, -true), 3, 1, 1)
    edge = ((far - near > _JUMP_M) & ~lost).float()
    flies = (edge > 0) & (chance[:, 1:] < column(draws, "depth_flying"))
    depth = torch.where(flies, near + (far - near) * chance[:, :1], true)
    sigma = column(draws, "depth_noise") * (true / 0.5) ** 2 * (1 + 2 * edge)
    depth = _quantised((depth + sigma * noise[:, :1]).clamp_min(0.05), draws)
    lost |= mirror * column(draws, "depth_mirror_lost") > chance[:, 1:]
    millimetres = (depth * 1000).round().clamp(1, 65535) * ~(lost | _shadow(true, draws))
    filled = column(draws, "depth_filled") > 0
    millimetres = torch.where(filled & (millimetres == 0), _fill(millimetres), millimetres)
    for i, d in enumerate(draws):
        if d.values.get("depth_smoothed"):
            millimetres[i : i + 1] = _driven(millimetres[i : i + 1], d)
    return millimetres[:, 0].int()


def _driven(millimetres: Tensor, d: Draws) -> Tensor:
    """A map without narrow holes, smoothed within surfaces, (1, 1, H, W).

    Where a room returns nothing, far from whatever does, nothing is made up: filled from the head's edge, it would be a
    wall at the head.
    """
    for _ in range(math.ceil(_FILL_REACH * max(millimetres.shape) / 2)):
        holes = millimetres == 0
        if not holes.any() or holes.all():
            break
        millimetres = torch.where(holes, _fill(millimetres, 2), millimetres)
    stop = float(d.values["depth_smooth_stop"])
    for _ in range(int(d.values["depth_smooth_passes"])):
        for axis in (2, 3):
            millimetres = _smooth_along(millimetres, axis, stop)
    return millimetres.round()


def _smooth_along(depth: Tensor, axis: int, stop: float) -> Tensor:
    """Mean over five pixels along an axis of those that differ by less than ``stop`` of the distance."""
    padded = F.pad(depth, (0, 0, 2, 2) if axis == 2 else (2, 2, 0, 0), mode="replicate")
    total, count = torch.zeros_like(depth), torch.zeros_like(depth)
    for step in range(5):
        other = padded.narrow(axis, step, depth.shape[axis])
        near = ((other - depth).abs() < stop * depth).float()
        total, count = total + near * other, count + near
    return total / count.clamp_min(1)


def _quantised(depth: Tensor, draws: Sequence[Draws]) -> Tensor:
    """Depths whose disparity is a whole number of steps: z = f·b / disparity."""
    profiles = [PROFILES[str(d.values["depth_profile"])] for d in draws]
    scale = torch.tensor([p.focal_baseline / p.step_px if p.step_px else 0.0 for p in profiles]).view(-1, 1, 1, 1)
    steps = (scale / depth).round().clamp_min(1)
    return torch.where(scale > 0, scale / steps, depth)


def _shadow(depth: Tensor, draws: Sequence[Draws]) -> Tensor:
    """Where a nearer thing to one side hides the surface from projector or second camera, bool (B, 1, H, W)."""
    widths = torch.tensor([PROFILES[str(d.values["depth_profile"])].shadow_px for d in draws]).view(-1, 1, 1, 1)
    flipped = column(draws, "depth_from_left") > 0
    seen = torch.where(flipped, depth.flip(3), depth)
    hidden = torch.zeros_like(seen, dtype=torch.bool)
    for step in range(1, 2 * max(p.shadow_px for p in PROFILES.values()) + 1):
        near = F.pad(seen, (step, 0, 0, 0), mode="replicate")[..., : seen.shape[-1]]
        # Disparity is proportional to 1/z; 1 m behind 0.5 m is a difference of 1 per metre.
        hidden |= ((1 / near - 1 / seen) * widths >= step) & (seen - near > _JUMP_M)
    return torch.where(flipped, hidden.flip(3), hidden)


def _fill(millimetres: Tensor, reach: int = 4) -> Tensor:
    """The farthest return within ``reach`` pixels, as drivers fill from the background; 0 where there is none."""
    return F.max_pool2d(millimetres, 2 * reach + 1, 1, reach)
