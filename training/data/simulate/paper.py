"""Prints: what a picture turns into on paper, and how the sheet bends; linear light."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from training.data.simulate import colour
from training.data.simulate.draws import Draws, column
from training.data.simulate.moire import Sensor, aliased
from training.data.simulate.optics import blur, smooth_noise
from training.data.simulate.scene import FACE_HALF

#: (ink floor, paper white, saturation, screen in lines over the face box) by kind of print, each (low, high).
PRINTS = {
    "laser": ((0.004, 0.022), (0.65, 0.9), (0.7, 1.25), (70.0, 260.0)),
    "inkjet": ((0.005, 0.025), (0.65, 0.9), (0.75, 1.3), (300.0, 900.0)),
    "photo_paper": ((0.002, 0.01), (0.75, 0.95), (0.9, 1.4), (400.0, 1200.0)),
    "newsprint": ((0.015, 0.045), (0.45, 0.7), (0.5, 1.0), (35.0, 110.0)),
}
#: How often dots are scattered (FM) instead of placed in lines (AM), and then the dots over the face box (low, high).
SCATTERED = {
    "laser": (0.15, (250.0, 1500.0)),
    "inkjet": (0.85, (300.0, 2400.0)),
    "photo_paper": (0.75, (400.0, 3000.0)),
    "newsprint": (0.1, (150.0, 800.0)),
}
#: Width of the spectrum of scattered dots, see :func:`scattered_deviation`; fitted to error diffusion by Floyd and
#: Steinberg on areas of even tone.
_BLUE = 0.11
#: Reflectances for which the deviation of scattered dots is worked out.
_TONES = 256
#: Largest deviation of scattered dots relative to the tone: beyond it darkness would be cut off, and the mean grow.
_MOST_SCATTER = 1 / 3
#: Linear value that the tone curve of a print leaves where it is: photographic middle grey.
MIDDLE_GREY = 0.18
#: Angles of the cyan, magenta and yellow screens in degrees (customary in offset printing).
SCREEN_ANGLES_DEG = (15.0, 75.0, 0.0)


def draw_paper(d: Draws, subtype: str) -> None:
    """Parameters of a print on a sheet."""
    draw_ink(d, subtype)
    d.sometimes("bend", 0.6, -0.9, 0.9)
    d.uniform("bend_angle", -0.5, 0.5)
    d.sometimes("crease", 0.25, -0.25, 0.25)
    d.uniform("crease_place", -0.9, 0.9)


def draw_ink(d: Draws, subtype: str) -> None:
    """Parameters of ink and paper, whatever shape the paper has."""
    floor, white, saturation, lines = PRINTS[subtype]
    d.uniform("print_floor", *floor)
    d.uniform("print_white", *white)
    d.uniform("print_saturation", *saturation)
    d.uniform("print_gamma", 0.9, 1.55)
    scattered, dots = SCATTERED[subtype]
    if d.choice("print_halftone", ("am", "fm"), (1 - scattered, scattered)) == "am":
        d.loguniform("print_lines", *lines)
        d.uniform("print_screen", 0.2, 0.9)
        d.uniform("print_phase", 0, 2 * math.pi)
    else:
        d.loguniform("print_dots", *dots)
        d.uniform("print_grain", 0.2, 0.9)
    d.chance("print_grey", 0.06)
    d.uniform("print_red", 0.92, 1.15)
    d.uniform("print_blue", 0.85, 1.12)
    d.uniform("paper_noise", 0.003, 0.04)
    d.sometimes("print_banding", 0.25, 0.01, 0.08)
    d.loguniform("print_band_period", 0.02, 0.2)


def reflect(srgb: Tensor, draws: Sequence[Draws]) -> Tensor:
    """Reflectance of the printed picture (B, 3, H, W), without its screen.

    Tone about middle grey; gamut map: desaturation, an ink floor and a paper white below 1; grey prints sometimes.
    """
    linear = about_middle_grey(colour.to_linear(srgb).clamp_(1e-5, 1), column(draws, "print_gamma", 1.0))
    grey = column(draws, "print_grey")
    linear = colour.saturate(linear, column(draws, "print_saturation", 1.0) * (1 - grey)).clamp_(0, 1)
    floor, white = column(draws, "print_floor"), column(draws, "print_white", 1.0)
    tint = colour.gains(column(draws, "print_red", 1.0), column(draws, "print_blue", 1.0))
    return linear.mul_((white - floor) * tint).add_(floor * tint)


def about_middle_grey(linear: Tensor, gamma: Tensor) -> Tensor:
    """Steepen or flatten tones about :data:`MIDDLE_GREY`: nothing clips, black and white stay black and white.

    Args:
        linear: In [0, 1], any shape.
        gamma: Slope of the logit; of the tones themselves at middle grey.

    Returns:
        ``x^γ / (x^γ + (g/(1 - g))^(γ - 1) (1 - x)^γ)`` with g for middle grey: an S in which x = g stays.
    """
    odds = ((1 - linear) / linear).pow_(gamma)
    return 1 / odds.mul_((MIDDLE_GREY / (1 - MIDDLE_GREY)) ** (gamma - 1)).add_(1)


def screen(plane: Tensor, reflectance: Tensor, draws: Sequence[Draws], sensor: Sensor) -> Tensor:
    """Factor (B, 3, H, W), mean 1, by which the halftone modulates what the sensor sees: in lines, or scattered.

    Args:
        plane: Where each canvas position looks on the sheet, (B, H, W, 2) in plane units.
        reflectance: What is printed there, (B, 3, H, W).
        draws: The samples' parameters.
        sensor: The cameras' sensors.
    """
    parts = [[i for i, d in enumerate(draws) if (d.values.get("print_halftone") == "fm") == fm] for fm in (False, True)]
    factor = torch.ones_like(reflectance)
    for some, made in zip(parts, (_lines, _scatter), strict=True):
        if some:
            chosen = torch.tensor(some)
            factor[chosen] = made(plane[chosen], reflectance[chosen], [draws[i] for i in some], sensor[chosen])
    return factor


def _lines(plane: Tensor, reflectance: Tensor, draws: Sequence[Draws], sensor: Sensor) -> Tensor:
    """Amplitude modulation (AM): dots of varying size in lines, one rotated screen per ink; as :func:`screen`.

    The amplitude of a dot screen is largest at mid-tones, t·(1 - t), hence 1 - t relative to the tone.
    """
    lines = column(draws, "print_lines", 300.0) / (2 * FACE_HALF)
    phase = column(draws, "print_phase")
    x, y = plane[..., 0].unsqueeze(1), plane[..., 1].unsqueeze(1)
    angles = torch.tensor(SCREEN_ANGLES_DEG).deg2rad().view(1, 3, 1, 1)
    u = (x * torch.cos(angles) + y * torch.sin(angles)) * lines
    v = (-x * torch.sin(angles) + y * torch.cos(angles)) * lines
    dots = aliased(u, phase, sensor).add_(aliased(v, phase, sensor))
    depth = (1 - reflectance.clamp(0, 1)).mul_(column(draws, "print_screen"))
    return dots.mul_(depth).add_(1).clamp_min_(0)


def _scatter(plane: Tensor, reflectance: Tensor, draws: Sequence[Draws], sensor: Sensor) -> Tensor:
    """Frequency modulation (FM): dots of one size scattered by error diffusion, ink by ink; as :func:`screen`.

    There is no period to alias, what remains is noise. A pixel of the native sensor averages it
    (:func:`scattered_deviation`), the sites of a Bayer channel have no side in common, so their noise is independent,
    and shrinking averages those that fall on a canvas pixel: to no less than a pixel of that size would see. One scale
    for the whole sheet, the median.

    Sources: Floyd and Steinberg, An adaptive algorithm for spatial greyscale, Proc. SID 1976; Ulichney, Dithering with
    blue noise, Proc. IEEE 1988.
    """
    size = reflectance.shape[-1]
    # Drawn at any strength, so that the same noise follows.
    noise = torch.stack([d.noise(3, size, size) for d in draws])
    depth = column(draws, "print_grain")
    if not bool(depth.any()):
        return torch.ones_like(noise)
    across, down = (torch.diff(plane, dim=axis)[:, :-1:8, :-1:8] for axis in (2, 1))
    area = (across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0]).abs()
    step = area.flatten(1).median(1).values.sqrt().view(-1, 1, 1, 1)
    dots = column(draws, "print_dots", 1000.0) / (2 * FACE_HALF) * step
    tones = torch.linspace(0, 1, _TONES).view(1, 1, 1, -1)
    whole = scattered_deviation(tones, dots, sensor.lens / sensor.ratio, sensor.motion / sensor.ratio)
    native = scattered_deviation(tones, dots / sensor.ratio, sensor.lens, sensor.motion)
    # One site of red and of blue in four, two of green.
    shared = (torch.tensor([4.0, 2.0, 4.0]).view(1, 3, 1, 1) / sensor.ratio**2).clamp_max(1).sqrt()
    relative = torch.maximum(whole, native * shared) / tones.clamp_min(1 / _TONES)
    table = (relative * depth).clamp_max(_MOST_SCATTER).squeeze(2)
    level = (reflectance.clamp(0, 1) * (_TONES - 1)).add_(0.5).long()
    deviation = table.gather(2, level.flatten(2)).view_as(reflectance)
    return blur(noise, sensor.soft, 9).mul(deviation).add_(1).clamp_min_(0)


def scattered_deviation(tone: Tensor, dots: Tensor, lens: Tensor, motion: Tensor) -> Tensor:
    """Standard deviation, of paper's white, of what a pixel sees of scattered dots of one tone.

    Blue noise: its power is that of black and white, t·(1 - t), and its spectrum at f cycles per dot is taken as
    κ·f²·exp(-a·f²), a = (2πc)² / (t·(1 - t)), c = 0.11: less the coarser, as what one dot has too much its neighbours
    lack, and coarser where dots are few. The pixel is a square behind a Gaussian lens and motion blur, which is taken
    for a Gaussian of the same variance along one of its sides; the integral over all f is in closed form. From
    one and a half dots per pixel on it lies within a factor of 2.5 of what error diffusion leaves, which falls with the
    1.5th to second power of the dots.

    Args:
        tone: Share t of the area that is white, in [0, 1].
        dots: Dots along the side of a pixel, above 0.
        lens: Gaussian sigma of the lens in pixels.
        motion: Path of motion blur in pixels.

    Returns:
        The deviation, 0 to 0.5, in the shape to which the arguments broadcast.
    """
    power = (tone * (1 - tone)).clamp_min(1e-8)
    spread = (_BLUE / dots) ** 2 / power + lens**2

    def parts(s: Tensor) -> tuple[Tensor, Tensor]:
        """Integrals of f²·sinc²(f)·exp(-(2πsf)²) and of sinc²(f)·exp(-(2πsf)²)."""
        ends = -torch.expm1(-1 / (4 * s * s))
        return ends / (4 * math.pi**2.5 * s), torch.erf(1 / (2 * s)) - 2 * s / math.sqrt(math.pi) * ends

    steep_along, flat_along = parts((spread + motion**2 / 12).sqrt())
    steep_across, flat_across = parts(spread.sqrt())
    kappa = (2 * math.pi * _BLUE) ** 4 / (math.pi * power)
    return (kappa / dots**4 * (steep_along * flat_across + steep_across * flat_along)).sqrt()


def fibres(draws: Sequence[Draws], size: int) -> Tensor:
    """Paper noise (B, 1, H, W), mean 0: fine grain and slow cloudiness; and the banding of a worn printer."""
    fine = torch.stack([d.noise(1, size, size) for d in draws])
    cloud = smooth_noise(torch.stack([d.noise(1, 12, 12) for d in draws]), size)
    y = torch.linspace(-1, 1, size).view(1, 1, -1, 1)
    bands = torch.sin(2 * math.pi * y / column(draws, "print_band_period", 1.0))
    return column(draws, "paper_noise") * (0.7 * fine + 0.5 * cloud) + column(draws, "print_banding") * bands


def bend(plane: Tensor, draws: Sequence[Draws]) -> tuple[Tensor, Tensor]:
    """Bend the sheet: cylinder and crease.

    A sheet wrapped round a cylinder of curvature κ shows the surface point ``asin(κ·x)/κ`` at the apparent place x,
    and its shading falls with the cosine of the surface's angle to a frontal light.

    Args:
        plane: (B, H, W, 2) in plane units.
        draws: The samples' parameters.

    Returns:
        Bent plane coordinates (B, H, W, 2) and shading (B, 1, H, W).
    """
    angle = column(draws, "bend_angle").view(-1, 1, 1)
    kappa = column(draws, "bend").view(-1, 1, 1)
    x = plane[..., 0] * torch.cos(angle) + plane[..., 1] * torch.sin(angle)
    y = -plane[..., 0] * torch.sin(angle) + plane[..., 1] * torch.cos(angle)
    slope = (kappa * x).clamp(-0.95, 0.95)
    safe = torch.where(kappa.abs() < 1e-3, torch.full_like(kappa, 1e-3), kappa)
    wrapped = torch.where(kappa.abs() < 1e-3, x, torch.asin(slope) / safe)
    # The sign of the curvature decides on which side the light falls off first.
    shading = torch.sqrt(1 - slope**2) * (1 + 0.3 * slope)
    if any(d.values.get("crease") for d in draws):
        side = torch.sigmoid((y - column(draws, "crease_place").view(-1, 1, 1)) * 60)
        shading = shading * (1 + column(draws, "crease").view(-1, 1, 1) * (side - 0.5))
    wrapped_x = wrapped * torch.cos(angle) - y * torch.sin(angle)
    wrapped_y = wrapped * torch.sin(angle) + y * torch.cos(angle)
    return torch.stack([wrapped_x, wrapped_y], -1), shading.unsqueeze(1)
