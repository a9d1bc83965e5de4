"""Blur and warps, one set of parameters per sample, float32 (B, C, H, W)."""

from __future__ import annotations

import math

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


def attenuation(frequency: Tensor, sigma: Tensor, aperture: float = 1.0) -> Tensor:
    """How much of a sinusoid survives the lens and the pixel: Gaussian MTF times the pixel's sinc.

    Args:
        frequency: Cycles per sensor pixel.
        sigma: Lens blur in sensor pixels.
        aperture: Side of the light-sensitive area in sensor pixels.

    Source: Fourier transforms of a Gaussian and of a box.
    """
    gaussian = torch.exp(-2 * (math.pi * frequency * sigma) ** 2)
    return gaussian * torch.sinc(frequency * aperture).abs()
