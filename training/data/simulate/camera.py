"""The victim camera: one model for both classes, from linear light to the picture that the network sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import cv2
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the community's name for it)
from torch import Tensor

from training.data.simulate import colour, compose
from training.data.simulate.codec import ByteArray, h264_once, jpeg_once, to_uint8, while_small
from training.data.simulate.draws import Draws, column
from training.data.simulate.moire import Sensor
from training.data.simulate.moment import held
from training.data.simulate.optics import blur, grid, motion_blur, sample
from training.data.simulate.profiles import PROFILES

#: Lens blur in canvas pixels up to which it is softness of processing and scaling; what exceeds it is defocus.
SOFT_BLUR = 0.8
#: Mean of a face in sensor units beyond which no automatic exposure lets it go, however dark the room.
BRIGHTEST = 0.55


def draw_camera(d: Draws) -> None:
    """Parameters of the victim camera, the same distribution for both classes: first which camera it is."""
    profile = PROFILES[d.choice("camera", list(PROFILES), [p.share for p in PROFILES.values()])]
    # A face is exposed from almost lost in the dark to its highlights clipped: metering looks at more than the face.
    d.loguniform("exposure_target", 0.04, 0.42)
    d.uniform("awb_strength", 0.0, 0.35)
    d.uniform("awb_red", 0.82, 1.18)
    d.uniform("awb_blue", 0.82, 1.18)
    # Cameras keep part of the room's colour: what is lit by a bulb stays warm.
    d.uniform("awb_residue", 0.0, 0.3)
    # Light of the surroundings, relative to the face's: a window behind someone, or a dark room.
    d.loguniform("surrounding_light", 0.4, 5.0)
    d.sometimes("flare", profile.flare[0], 0.0, profile.flare[1])
    d.uniform("flare_angle", -math.pi, math.pi)
    d.uniform("flare_slope", 0.0, 0.8)
    d.loguniform("flare_red", 0.9, 1.11)
    d.loguniform("flare_blue", 0.9, 1.11)
    d.uniform("vignette", 0.0, 0.3)
    d.sometimes("aberration", 0.4, -0.006, 0.006)
    d.uniform("lens_blur", *profile.lens_blur)
    d.sometimes("defocus", profile.defocus[0], 0.0, profile.defocus[1])
    d.loguniform("native_ratio", *profile.native_ratio)
    d.uniform("native_lens", 0.2, 0.6)
    d.sometimes("motion", profile.motion[0], 1.0, profile.motion[1])
    d.uniform("motion_angle", 0.0, math.pi)
    d.loguniform("shot_noise", *profile.shot_noise)
    d.loguniform("read_noise", *profile.read_noise)
    d.sometimes("denoise", profile.denoise[0], 0.2, profile.denoise[1])
    d.sometimes("chroma_denoise", 0.7, 0.5, 1.8)
    d.uniform("camera_saturation", *profile.saturation)
    d.uniform("tone_gamma", *profile.gamma)
    d.sometimes("auto_black", profile.auto_black[0], 0.2, profile.auto_black[1])
    d.uniform("auto_white", 0.0, 0.8)
    d.uniform("tone_contrast", *profile.contrast)
    d.sometimes("sharpen", profile.sharpen[0], 0.1, profile.sharpen[1])
    d.sometimes("small", profile.small[0], 1.1, profile.small[1])
    d.integer("jpeg_quality", *(int(q) for q in profile.quality))
    d.chance("jpeg_twice", profile.recoded)
    d.integer("jpeg_second_quality", 40, 98)
    d.chance("h264", profile.video)
    d.integer("h264_qp", 18, 41)


def lens_sigma(draws: Sequence[Draws]) -> Tensor:
    """Lens blur and defocus together, sigma in canvas pixels (B, 1, 1, 1)."""
    return torch.sqrt(column(draws, "lens_blur", 0.6) ** 2 + column(draws, "defocus") ** 2)


def native_sensor(draws: Sequence[Draws]) -> Sensor:
    """The camera's sensor at its own resolution, for the fine patterns of the media.

    Phones and webcams sample the face finer than the canvas does, and their picture is then shrunk: what a screen's
    pixels alias to is decided on the native sensor. There defocus comes before sampling, softness after it.
    """
    ratio, lens_blur = column(draws, "native_ratio", 1.0), lens_sigma(draws)
    defocus = (lens_blur - SOFT_BLUR).clamp_min(0) * ratio
    return Sensor(
        ratio=ratio,
        lens=torch.sqrt(column(draws, "native_lens", 0.5) ** 2 + defocus**2),
        motion=column(draws, "motion") * ratio,
        motion_angle=column(draws, "motion_angle"),
        soft=lens_blur.clamp_max(SOFT_BLUR),
    )


def expose(light: Tensor, draws: Sequence[Draws]) -> Tensor:
    """Automatic exposure and white balance, vignetting, flare: linear light to sensor units.

    Exposure is metered on the middle of the canvas, one face box wide, where the face is, and aims at a target that is
    drawn from the same distribution for both classes: brightness must not tell them apart. White balance corrects the
    room's light, with an error (the two gains), and drifts a little towards making the picture grey. Stray light of
    bright surroundings veils living people and media alike.
    """
    size = light.shape[-1]
    middle = _middle(light, draws).mean((2, 3), keepdim=True)
    mean = held("colour", middle.clamp_min(1e-4), draws)
    grey_world = (mean.mean(1, keepdim=True) / mean) ** column(draws, "awb_strength")
    gains = grey_world * colour.gains(column(draws, "awb_red", 1.0), column(draws, "awb_blue", 1.0))
    gains = gains * colour.white_point(column(draws, "light_kelvin", 6500)) ** column(draws, "awb_residue")
    # Gains and luma are linear: the luma of the mean is the mean of the luma.
    level = held("exposure", colour.luma(middle * gains), draws)
    # A camera meters the room as well, and a screen is rarely as bright as the room.
    target = column(draws, "exposure_target", 0.18) * column(draws, "display_metering", 1.0)
    target = target.clamp_max(BRIGHTEST)
    points = grid(size, size)
    radius2 = (points**2).sum(-1).view(1, 1, size, size) / 2
    # Stray light: what the surroundings send into the lens lies over the whole picture, more on the side of its source.
    stray = column(draws, "flare") * column(draws, "surrounding_light", 1.0)
    # The exposure loop sees the veil too, and takes part of it back.
    share = 1 / (1 + 0.7 * stray)
    exposed = light * (gains * (target / level.clamp_min(1e-4) * share))
    exposed.mul_(1 - column(draws, "vignette") * radius2)
    if bool(stray.any()):
        angle, slope = column(draws, "flare_angle"), column(draws, "flare_slope")
        across = points[..., 0] * torch.cos(angle) + points[..., 1] * torch.sin(angle)
        tint = colour.gains(column(draws, "flare_red", 1.0), column(draws, "flare_blue", 1.0))
        exposed.addcmul_(1 + slope * across, stray * target * share * tint)
    return exposed


def image(light: Tensor, draws: Sequence[Draws]) -> Tensor:
    """Lens: blur, motion, lateral chromatic aberration."""
    size = light.shape[-1]
    out = blur(light, lens_sigma(draws), 9)
    out = motion_blur(out, column(draws, "motion"), column(draws, "motion_angle"))
    stretch = column(draws, "aberration")
    chosen = stretch.flatten().nonzero().flatten()
    if not len(chosen):
        return out
    out = out.clone() if out is light else out
    points, stretch, some = grid(size, size)[None], stretch[chosen], out[chosen]
    out[chosen, :1] = sample(some[:, :1], points * (1 + stretch))
    out[chosen, 2:] = sample(some[:, 2:], points * (1 - stretch))
    return out


def sense(light: Tensor, draws: Sequence[Draws]) -> Tensor:
    """Bayer mosaic (RGGB), shot and read noise, clipping, bilinear demosaicing."""
    size = light.shape[-1]
    raw = light[:, 1:2].clone()
    raw[..., 0::2, 0::2] = light[:, :1, 0::2, 0::2]
    raw[..., 1::2, 1::2] = light[:, 2:, 1::2, 1::2]
    noise = torch.stack([d.noise(1, size, size) for d in draws])
    deviation = (raw.clamp_min(0) * column(draws, "shot_noise")).add_(column(draws, "read_noise") ** 2).sqrt_()
    raw = raw.addcmul_(noise, deviation).clamp_(0, 1)
    return demosaic(raw)


def bayer(size: int) -> Tensor:
    """RGGB mosaic (1, 3, size, size)."""
    mask = torch.zeros(1, 3, size, size)
    mask[:, 0, 0::2, 0::2] = 1
    mask[:, 1, 0::2, 1::2] = 1
    mask[:, 1, 1::2, 0::2] = 1
    mask[:, 2, 1::2, 1::2] = 1
    return mask


def demosaic(raw: Tensor) -> Tensor:
    """Bilinear: every missing value is the mean of its measured neighbours in a 3x3 window.

    The sites of a channel are so regular that one kernel does it: it gives a measured value itself, and the mean of
    the two or four nearest elsewhere.

    Args:
        raw: Mosaic (B, 1, S, S), S even.

    Returns:
        (B, 3, S, S), red first.
    """
    known = raw * bayer(raw.shape[-1])
    if raw.device.type == "cpu":
        out = torch.empty_like(known)
        for source, target in zip(known.numpy(), out.numpy(), strict=True):
            for plane, kernel, filled in zip(source, _DEMOSAIC, target, strict=True):
                cv2.filter2D(plane, -1, kernel, dst=filled, borderType=cv2.BORDER_REFLECT_101)
        return out
    kernels = torch.from_numpy(_DEMOSAIC).to(raw.device).unsqueeze(1)
    return F.conv2d(F.pad(known, [1] * 4, mode="reflect"), kernels, groups=3)


#: Kernels that spread the measured values of red, green and blue.
_DEMOSAIC = (
    np.array([[[1, 2, 1], [2, 4, 2], [1, 2, 1]], [[0, 1, 0], [1, 4, 1], [0, 1, 0]], [[1, 2, 1], [2, 4, 2], [1, 2, 1]]])
    / 4
).astype(np.float32)


def develop(raw: Tensor, draws: Sequence[Draws]) -> Tensor:
    """Image signal processor: denoise, colour matrix, tone curve, sharpening; linear to sRGB in [0, 1]."""
    out = blur(raw, column(draws, "denoise"), 5)
    grey = colour.luma(out)
    chroma = blur(out - grey, column(draws, "chroma_denoise"), 9)
    out = chroma.mul_(column(draws, "camera_saturation", 1.0)).add_(grey).clamp_(0, 1)
    out = colour.power(colour.to_srgb(out).clamp_min_(1e-4), column(draws, "tone_gamma", 1.0))
    out = levels(out, draws)
    # The S of the tone curve, c·(x²·(3 - 2x) - x) = c·x·(x·(3 - 2x) - 1).
    curve = (out * -2).add_(3).mul_(out).sub_(1).mul_(out).mul_(column(draws, "tone_contrast"))
    out.add_(curve)
    strength = column(draws, "sharpen")
    soft = blur(out, (strength > 0).to(out.dtype), 7)
    return out.add_((out - soft).mul_(strength)).clamp_(0, 1)


def levels(srgb: Tensor, draws: Sequence[Draws]) -> Tensor:
    """Automatic levels: cameras pull the darkest parts of the face towards black and the lightest towards white.

    Measured on the middle of the canvas, one face box wide (first and ninety-ninth percentile of the luma). Without it
    every veil over a medium would show as a raised black level, which real cameras hide.
    """
    middle = _middle(srgb, draws).flatten(2)[:, :, None, ::4]
    middle = colour.luma(middle).flatten(1)
    ranked = _sorted(middle)
    n = ranked.shape[1]
    low = held("black", ranked[:, n // 100].view(-1, 1, 1, 1), draws) * column(draws, "auto_black")
    high = held("white", ranked[:, n - 1 - n // 100].view(-1, 1, 1, 1), draws)
    mean = held("mean", middle.mean(1).view(-1, 1, 1, 1), draws)
    # Half of what was taken away comes back as gain: the exposure loop keeps the face about as bright as it was.
    gain = (mean / (mean - low).clamp_min(0.02)) ** 0.5
    room = (1 / high.clamp_min(0.1)).clamp(1, 3) ** column(draws, "auto_white")
    slope = torch.clamp_max(gain * room, 3.0) / (1 - low).clamp_min(0.05)
    return (srgb * slope).sub_(low * slope).clamp_(1e-4, 1)


def _middle(pictures: Tensor, draws: Sequence[Draws]) -> Tensor:
    """The middle of the canvas, one face box wide: its half by default; a view."""
    size = pictures.shape[-1]
    margin = int(size * (0.5 - 0.25 / compose.half_canvas(draws)))
    return pictures[..., margin:-margin, margin:-margin]


def _sorted(values: Tensor) -> Tensor:
    """Values (B, n), smallest first; on the CPU by NumPy, in a small part of torch's time."""
    return torch.from_numpy(np.sort(values.numpy(), 1)) if values.device.type == "cpu" else values.sort(1).values


def encode(srgb: Tensor, draws: Sequence[Draws], size: int) -> ByteArray:
    """Scale to the stored size and compress: uint8 (B, size, size, 3).

    A small face is a picture that was compressed while it was small; it is enlarged again for the network. A frame of
    a video is H.264 instead of JPEG, and JPEG besides where pictures are compressed twice.
    """
    pictures = shrink(to_uint8(srgb), size)
    for i, d in enumerate(draws):
        pictures[i] = while_small(pictures[i], float(d.values["small"]), partial(_compress, d))
    return pictures


def _compress(d: Draws, picture: ByteArray) -> ByteArray:
    """What the camera's codec, or a second one, leaves of a picture."""
    value = d.values
    if value.get("h264"):
        picture = h264_once(picture, int(value["h264_qp"]))
    else:
        picture = jpeg_once(picture, int(value["jpeg_quality"]))
    return jpeg_once(picture, int(value["jpeg_second_quality"])) if value["jpeg_twice"] else picture


def shrink(pictures: ByteArray, size: int) -> ByteArray:
    """Scale uint8 (B, H, W, 3) to ``size`` by averaging over each new pixel's area; enlarging is bilinear."""
    if pictures.shape[1] == size:
        return pictures
    how = cv2.INTER_AREA if size < pictures.shape[1] else cv2.INTER_LINEAR
    return np.stack([np.asarray(cv2.resize(p, (size, size), interpolation=how), np.uint8) for p in pictures])


def capture(
    light: Tensor, draws: Sequence[Draws], size: int, pattern: Tensor | None = None
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The whole victim camera: linear light to the stored picture.

    Args:
        light: (B, 3, H, W).
        draws: The samples' parameters.
        size: Side of the pictures.
        pattern: Factor (B, 3, H, W), mean about 1, of a medium's fine pattern as the sensor saw it, behind the lens:
            see :func:`training.data.simulate.moire.aliased`.

    Returns:
        uint8 (B, size, size, 3), red first.
    """
    seen = image(expose(light, draws), draws)
    if pattern is not None:
        seen = seen * pattern
    return encode(develop(sense(seen, draws), draws), draws, size)
