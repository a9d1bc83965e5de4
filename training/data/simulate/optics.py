"""Blur, warps and aliasing, one set of parameters per sample, float32 (B, C, H, W)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (the community's name for it)
from torch import Tensor


def per_sample_filter(pictures: Tensor, kernels: Tensor) -> Tensor:
    """Filter each picture with its own kernel; edges repeat.

    Args:
        pictures: (B, C, H, W).
        kernels: (B, k, k), k odd, each summing to one.
    """
    b, c, h, w = pictures.shape
    k = kernels.shape[-1]
    padded = F.pad(pictures, [k // 2] * 4, mode="replicate").reshape(1, b * c, h + k - 1, w + k - 1)
    weight = kernels.repeat_interleave(c, 0).unsqueeze(1)
    return F.conv2d(padded, weight, groups=b * c).view(b, c, h, w)


def gaussian_weights(sigma: Tensor, size: int) -> Tensor:
    """One-dimensional Gaussian weights (B, size) for ``sigma`` in pixels; sigma 0 gives the identity."""
    r = torch.arange(size, dtype=torch.float32) - size // 2
    one = torch.exp(-(r**2) / (2 * sigma.reshape(-1, 1).clamp_min(1e-3) ** 2))
    return one / one.sum(1, keepdim=True)


def motion_kernels(length: Tensor, angle: Tensor, size: int) -> Tensor:
    """Straight motion blur of ``length`` pixels at ``angle`` radians, (B, size, size)."""
    r = torch.arange(size, dtype=torch.float32) - size // 2
    y, x = torch.meshgrid(r, r, indexing="ij")
    a, half = angle.view(-1, 1, 1), length.view(-1, 1, 1) / 2
    along = x * torch.cos(a) + y * torch.sin(a)
    across = -x * torch.sin(a) + y * torch.cos(a)
    kernel = (half + 0.5 - along.abs()).clamp(0, 1) * (1 - across.abs()).clamp(0, 1)
    return kernel / kernel.sum((1, 2), keepdim=True)


def blur(pictures: Tensor, sigma: Tensor, size: int = 9) -> Tensor:
    """Gaussian blur with a sigma (B, 1, 1, 1) in pixels per sample; samples with sigma 0 are left alone."""
    chosen = (sigma.flatten() > 0).nonzero().flatten()
    if not len(chosen):
        return pictures
    part = pictures[chosen]
    b, c, h, w = part.shape
    half = size // 2
    weights = gaussian_weights(sigma.flatten()[chosen], size).repeat_interleave(c, 0)
    flat = F.pad(part, [half] * 4, mode="replicate").reshape(1, b * c, h + 2 * half, w + 2 * half)
    flat = F.conv2d(flat, weights.view(b * c, 1, size, 1), groups=b * c)
    flat = F.conv2d(flat, weights.view(b * c, 1, 1, size), groups=b * c)
    out = pictures.clone()
    out[chosen] = flat.view(b, c, h, w)
    return out


def motion_blur(pictures: Tensor, length: Tensor, angle: Tensor, size: int = 11) -> Tensor:
    """Motion blur of ``length`` pixels at ``angle`` radians, (B, 1, 1, 1) each; length 0 leaves a sample alone."""
    chosen = (length.flatten() > 0).nonzero().flatten()
    if not len(chosen):
        return pictures
    out = pictures.clone()
    out[chosen] = per_sample_filter(pictures[chosen], motion_kernels(length[chosen], angle[chosen], size))
    return out


def grid(height: int, width: int) -> Tensor:
    """Pixel centres in [-1, 1]: (H, W, 2), x first."""
    y = (torch.arange(height, dtype=torch.float32) + 0.5) / height * 2 - 1
    x = (torch.arange(width, dtype=torch.float32) + 0.5) / width * 2 - 1
    gy, gx = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([gx, gy], -1)


def homography(rotation: Tensor, zoom: Tensor, shift: Tensor, tilt: Tensor) -> Tensor:
    """View matrices (B, 3, 3) from canvas to plane coordinates, both in [-1, 1] at the centre.

    Args:
        rotation: (B,) radians in the picture.
        zoom: (B,) plane units per canvas unit.
        shift: (B, 2) in plane units.
        tilt: (B, 2) perspective terms: the plane recedes by this share per canvas unit along x and y.
    """
    c, s = torch.cos(rotation) * zoom, torch.sin(rotation) * zoom
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    rows = [c, -s, shift[:, 0], s, c, shift[:, 1], zero, zero, one]
    affine = torch.stack(rows, 1).view(-1, 3, 3)
    perspective = torch.stack([one, zero, zero, zero, one, zero, tilt[:, 0], tilt[:, 1], one], 1).view(-1, 3, 3)
    return affine @ perspective


def apply(matrices: Tensor, points: Tensor) -> Tensor:
    """Apply (B, 3, 3) to points (B, H, W, 2), or to points (H, W, 2) that the batch shares: (B, H, W, 2)."""
    b = matrices.shape[0]
    flat = points.expand(b, *points.shape) if points.dim() == 3 else points
    shape = flat.shape
    flat = flat.reshape(b, -1, 2)
    homogeneous = torch.cat([flat, torch.ones_like(flat[..., :1])], -1) @ matrices.transpose(1, 2)
    return (homogeneous[..., :2] / homogeneous[..., 2:].clamp_min(1e-4)).view(shape)


def sample(pictures: Tensor, coordinates: Tensor) -> Tensor:
    """Look pictures (B, C, H, W) up at coordinates (B, h, w, 2) in [-1, 1]; outside, the edge repeats."""
    return F.grid_sample(pictures, coordinates, mode="bilinear", padding_mode="border", align_corners=False)


def smooth_noise(noise: Tensor, size: int) -> Tensor:
    """Enlarge coarse noise (B, C, h, w) to (B, C, size, size), smoothly."""
    return F.interpolate(noise, (size, size), mode="bicubic", align_corners=False)


#: Sinusoids that lens and pixel leave less of than this are not worked out: they cannot move an 8-bit value.
NEGLIGIBLE = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class Sensor:
    """A sensor at its own resolution, before its picture is shrunk to the canvas; every field (B, 1, 1, 1).

    Attributes:
        ratio: Native pixels per canvas pixel, at least 1.
        lens: Gaussian blur before sampling (lens and defocus), sigma in native pixels.
        motion: Path of motion blur in native pixels.
        motion_angle: Its direction in radians.
        soft: Gaussian blur after sampling (scaling, processing), sigma in canvas pixels.
    """

    ratio: Tensor
    lens: Tensor
    motion: Tensor
    motion_angle: Tensor
    soft: Tensor

    def __getitem__(self, chosen: Tensor) -> Sensor:
        parts = (self.ratio, self.lens, self.motion, self.motion_angle, self.soft)
        return Sensor(*(part[chosen] for part in parts))


def before_sampling(fx: Tensor, fy: Tensor, sensor: Sensor) -> Tensor:
    """What lens, motion and pixel aperture leave of a sinusoid, with its sign: a pixel wider than a period inverts it.

    Args:
        fx: Cycles per native pixel along x, (B, C, H, W).
        fy: The same along y.
        sensor: The sensors.

    Source: Fourier transforms of a Gaussian, of a straight path and of a square.
    """
    gaussian = torch.exp(-2 * (math.pi * sensor.lens) ** 2 * (fx * fx + fy * fy))
    along = fx * torch.cos(sensor.motion_angle) + fy * torch.sin(sensor.motion_angle)
    return gaussian * torch.sinc(fx) * torch.sinc(fy) * torch.sinc(sensor.motion * along)


def nearest_alias(fx: Tensor, fy: Tensor, *, quincunx: bool) -> tuple[Tensor, Tensor]:
    """Vector of the reciprocal lattice of a Bayer channel that is nearest to a frequency; cycles per native pixel.

    Red and blue sites repeat every two pixels: (m/2, n/2). Green sites form a quincunx: (m/2, n/2) with m + n even.

    Source: Conway and Sloane, Sphere Packings, Lattices and Groups, chapter 20 (nearest point of Z^n and of D_n).
    """
    m, n = torch.round(2 * fx), torch.round(2 * fy)
    if quincunx:
        miss_x, miss_y = 2 * fx - m, 2 * fy - n
        odd = (m + n).remainder(2) > 0.5
        worse_x = miss_x.abs() > miss_y.abs()
        m = torch.where(odd & worse_x, m + torch.where(miss_x < 0, -1.0, 1.0), m)
        n = torch.where(odd & ~worse_x, n + torch.where(miss_y < 0, -1.0, 1.0), n)
    return m / 2, n / 2


def aliased(cycles: Tensor, phase: Tensor, sensor: Sensor) -> Tensor:
    """What a camera makes of ``cos(2π·cycles + phase)`` in the light on its sensor: moiré included.

    The lens, motion and the pixel's aperture weaken the sinusoid; the sites of each Bayer channel sample it, which
    moves its frequency to the nearest one to zero that agrees at those sites; then the picture is shrunk to the
    canvas by averaging ``ratio`` pixels each way. Demosaicing is taken to pass what it should: it acts on all but the
    coarsest frequencies less than the shrinking does. At ratio 1 the values at the sites are those of plain
    sampling, and :func:`training.data.simulate.camera.sense` picks them.

    Args:
        cycles: Phase in cycles at each canvas position, (B, 1, H, W) or (B, 3, H, W), smooth, H and W at least 2.
        phase: Further phase in radians, (1 or B, 1 or 3, 1, 1).
        sensor: The sensors.

    Returns:
        (B, 3, H, W), red first; amplitude at most 1.

    Source: sampling theorem on lattices (Petersen and Middleton 1962); the mean of n neighbours passes
    sin(πnf) / (n·sin(πf)).
    """
    b, _, height, width = cycles.shape
    out = torch.zeros(b, 3, height, width)
    fx, fy = _slope(cycles, 3) / sensor.ratio, _slope(cycles, 2) / sensor.ratio
    left = before_sampling(fx, fy, sensor)
    chosen = (left.abs().amax((1, 2, 3)) > NEGLIGIBLE).nonzero().flatten()
    if not len(chosen):
        return out
    fx, fy, left, cycles, sensor = fx[chosen], fy[chosen], left[chosen], cycles[chosen], sensor[chosen]
    phase = phase.expand(b, 3, 1, 1)[chosen]
    x, y = _native(width, sensor.ratio, 3), _native(height, sensor.ratio, 2)
    seen = []
    green = nearest_alias(fx, fy, quincunx=True)
    other = nearest_alias(fx, fy, quincunx=False)
    # Places of the first site of each channel in the RGGB cell.
    for channel, (site_x, site_y) in enumerate(((0, 0), (1, 0), (1, 1))):
        part = slice(channel, channel + 1) if cycles.shape[1] == 3 else slice(0, 1)
        nx, ny = (v[:, part] for v in (green if channel == 1 else other))
        ax, ay = fx[:, part] - nx, fy[:, part] - ny
        angle = cycles[:, part] - nx * (x - site_x) - ny * (y - site_y)
        strength = left[:, part] * _after_sampling(ax, ay, sensor)
        seen.append(strength * torch.cos(2 * math.pi * angle + phase[:, channel : channel + 1]))
    out[chosen] = torch.cat(seen, 1)
    return out


def _after_sampling(fx: Tensor, fy: Tensor, sensor: Sensor) -> Tensor:
    """What shrinking by ``ratio`` and the blur after it leave; the frequency in cycles per native pixel, below 1."""
    box = torch.sinc(sensor.ratio * fx) / torch.sinc(fx) * torch.sinc(sensor.ratio * fy) / torch.sinc(fy)
    return box * torch.exp(-2 * (math.pi * sensor.soft * sensor.ratio) ** 2 * (fx * fx + fy * fy))


def _slope(values: Tensor, axis: int) -> Tensor:
    """Change per canvas pixel along an axis, same shape: central differences, one-sided at the edges."""
    steps = torch.diff(values, dim=axis)
    n = steps.shape[axis]
    first, last = steps.narrow(axis, 0, 1), steps.narrow(axis, n - 1, 1)
    return (torch.cat([first, steps], axis) + torch.cat([steps, last], axis)) / 2


def _native(n: int, ratio: Tensor, axis: int) -> Tensor:
    """Native pixel coordinates of the canvas pixels' centres along an axis, 0 at a red site near the middle.

    Counted from the middle, so that phases stay small; at ratio 1 the even coordinates are the canvas' red sites.
    """
    shape = [1, 1, 1, 1]
    shape[axis] = n
    return (torch.arange(n, dtype=torch.float32).view(shape) + 0.5 - n // 4 * 2) * ratio - 0.5
