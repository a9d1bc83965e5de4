"""Blur and warps, one set of parameters per sample, float32 (B, C, H, W)."""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the community's name for it)
from numpy.typing import NDArray
from torch import Tensor

FloatArray = NDArray[np.float32]


def per_sample_filter(pictures: Tensor, kernels: Tensor) -> Tensor:
    """Filter each picture with its own kernel; edges repeat.

    Args:
        pictures: (B, C, H, W).
        kernels: (B, k, k), k odd, each summing to one.
    """
    if pictures.device.type == "cpu":
        out = torch.empty_like(pictures)
        for source, kernel, target in zip(_planes(pictures), kernels.numpy(), _planes(out), strict=True):
            for plane, filtered in zip(source, target, strict=True):
                cv2.filter2D(plane, -1, kernel, dst=filtered, borderType=cv2.BORDER_REPLICATE)
        return out
    b, c, h, w = pictures.shape
    k = kernels.shape[-1]
    padded = F.pad(pictures, [k // 2] * 4, mode="replicate").reshape(1, b * c, h + k - 1, w + k - 1)
    weight = kernels.repeat_interleave(c, 0).unsqueeze(1)
    return F.conv2d(padded, weight, groups=b * c).view(b, c, h, w)


def _planes(pictures: Tensor) -> FloatArray:
    """The pixels of contiguous pictures on the CPU as an array (B, C, H, W); writing to it writes to them."""
    return np.asarray(pictures.numpy(), np.float32)


def gaussian_weights(sigma: Tensor, size: int) -> Tensor:
    """One-dimensional Gaussian weights (B, size) for ``sigma`` in pixels; sigma 0 gives the identity."""
    r = torch.arange(size, dtype=torch.float32, device=sigma.device) - size // 2
    one = torch.exp(-(r**2) / (2 * sigma.reshape(-1, 1).clamp_min(1e-3) ** 2))
    return one / one.sum(1, keepdim=True)


def motion_kernels(length: Tensor, angle: Tensor, size: int) -> Tensor:
    """Straight motion blur of ``length`` pixels at ``angle`` radians, (B, size, size)."""
    r = torch.arange(size, dtype=torch.float32, device=length.device) - size // 2
    y, x = torch.meshgrid(r, r, indexing="ij")
    a, half = angle.view(-1, 1, 1), length.view(-1, 1, 1) / 2
    along = x * torch.cos(a) + y * torch.sin(a)
    across = -x * torch.sin(a) + y * torch.cos(a)
    kernel = (half + 0.5 - along.abs()).clamp(0, 1) * (1 - across.abs()).clamp(0, 1)
    return kernel / kernel.sum((1, 2), keepdim=True)


#: Where a Gaussian's weights end, in standard deviations: what lies beyond is less than a float's last digit.
_GAUSSIAN_END = 5.3
#: Up to this sigma in pixels the next pixel's weight, exp(-1 / (2·sigma²)), is less than a float's last digit.
_NO_BLUR = 0.173


def blur(pictures: Tensor, sigma: Tensor, size: int = 9) -> Tensor:
    """Gaussian blur with a sigma (B, 1, 1, 1) in pixels per sample; those without one are left alone.

    Args:
        pictures: (B, C, H, W). Where no sample is blurred they are returned as they are, not copied.
        sigma: In pixels.
        size: Most weights along an axis, odd; edges repeat.
    """
    sigmas = sigma.flatten().tolist()
    chosen = [i for i, s in enumerate(sigmas) if s > _NO_BLUR]
    if not chosen:
        return pictures
    weights = gaussian_weights(sigma.flatten(), size)
    if pictures.device.type == "cpu":
        return _blur_planes(pictures.contiguous(), sigmas, weights.numpy())
    out = pictures.clone()
    out[chosen] = _blur_tensor(pictures[chosen], weights[chosen])
    return out


def _blur_planes(pictures: Tensor, sigmas: list[float], weights: FloatArray) -> Tensor:
    """Blur plane by plane with OpenCV, which on the CPU is several times faster than a grouped convolution."""
    out = torch.empty_like(pictures)
    middle = weights.shape[1] // 2
    for i, (source, target) in enumerate(zip(_planes(pictures), _planes(out), strict=True)):
        if sigmas[i] <= _NO_BLUR:
            target[...] = source
            continue
        reach = min(middle, math.ceil(_GAUSSIAN_END * sigmas[i]))
        weight = weights[i, middle - reach : middle + reach + 1]
        for plane, blurred in zip(source, target, strict=True):
            cv2.sepFilter2D(plane, -1, weight, weight, dst=blurred, borderType=cv2.BORDER_REPLICATE)
    return out


def _blur_tensor(pictures: Tensor, weights: Tensor) -> Tensor:
    """The same blur as convolutions, for any device: pictures (B, C, H, W), weights (B, k)."""
    b, c, h, w = pictures.shape
    size = weights.shape[1]
    half = size // 2
    weights = weights.repeat_interleave(c, 0)
    flat = F.pad(pictures, [half] * 4, mode="replicate").reshape(1, b * c, h + 2 * half, w + 2 * half)
    flat = F.conv2d(flat, weights.view(b * c, 1, size, 1), groups=b * c)
    return F.conv2d(flat, weights.view(b * c, 1, 1, size), groups=b * c).view(b, c, h, w)


def motion_blur(pictures: Tensor, length: Tensor, angle: Tensor, size: int = 11) -> Tensor:
    """Motion blur of ``length`` pixels at ``angle`` radians, (B, 1, 1, 1) each; length 0 leaves a sample alone."""
    chosen = (length.flatten() > 0).nonzero().flatten()
    if not len(chosen):
        return pictures
    out = pictures.clone()
    out[chosen] = per_sample_filter(pictures[chosen], motion_kernels(length[chosen], angle[chosen], size))
    return out


def pairs(x: Tensor, y: Tensor) -> Tensor:
    """Coordinates (..., H, W, 2) from x and y (..., H, W).

    In memory each coordinate is a plane of its own: arithmetic on one of them runs several times as fast as on every
    second number, and looking up is as fast.
    """
    return torch.stack([x, y], -3).movedim(-3, -1)


def grid(height: int, width: int) -> Tensor:
    """Pixel centres in [-1, 1]: (H, W, 2), x first; on torch's default device, kept: not to be changed in place."""
    return _grid(height, width, torch.get_default_device())


@functools.lru_cache(maxsize=16)
def _grid(height: int, width: int, device: torch.device) -> Tensor:
    y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height * 2 - 1
    x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width * 2 - 1
    gy, gx = torch.meshgrid(y, x, indexing="ij")
    return pairs(gx, gy)


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
    x, y = (points[..., axis].contiguous() for axis in (0, 1))
    # Row by row: a product with a matrix of three columns is slower, and needs a third coordinate beside each point.
    m = matrices.view(-1, 3, 3, 1, 1)
    scaled = [torch.addcmul(m[:, row, 2], m[:, row, 0], x).addcmul_(m[:, row, 1], y) for row in range(3)]
    return pairs(scaled[0], scaled[1]).div_(scaled[2].clamp_min_(1e-4).unsqueeze(-1))


def sample(pictures: Tensor, coordinates: Tensor) -> Tensor:
    """Look pictures (B, C, H, W) up at coordinates (B, h, w, 2) in [-1, 1]; outside, the edge repeats."""
    return F.grid_sample(pictures, coordinates, mode="bilinear", padding_mode="border", align_corners=False)


def enlarge(values: Tensor, size: int | tuple[int, int], *, smooth: bool = False) -> Tensor:
    """Scale (B, C, h, w) to ``size``, a side or (H, W), straight or smoothly (bicubic) from pixel to pixel.

    Between pixel centres; beyond the outermost the edge repeats. Nothing is averaged where it gets smaller. On the CPU
    OpenCV does it, in a tenth of torch's time and the same but for rounding.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if values.device.type != "cpu":
        mode = "bicubic" if smooth else "bilinear"
        return F.interpolate(values, (height, width), mode=mode, align_corners=False)
    out = values.new_empty((*values.shape[:2], height, width))
    how = cv2.INTER_CUBIC if smooth else cv2.INTER_LINEAR
    for source, target in zip(_planes(values.contiguous()), _planes(out), strict=True):
        for plane, scaled in zip(source, target, strict=True):
            cv2.resize(plane, (width, height), dst=scaled, interpolation=how)
    return out


def smooth_noise(noise: Tensor, size: int) -> Tensor:
    """Enlarge coarse noise (B, C, h, w) to (B, C, size, size), smoothly."""
    return enlarge(noise, size, smooth=True)
