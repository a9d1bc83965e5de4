"""What a camera's sensor makes of patterns finer than its pixels: aliasing on a Bayer mosaic, moiré included."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (the community's name for it)
from torch import Tensor

from training.data.simulate.optics import enlarge

#: Sinusoids of which this or less reaches the picture are not worked out: they cannot move an 8-bit value by half.
NEGLIGIBLE = 5e-4
#: Canvas pixels along the side of a block in which a sinusoid has one alias, but beside folds; its strength runs on.
_BLOCK_PX = 4


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

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """The fields in their order."""
        return self.ratio, self.lens, self.motion, self.motion_angle, self.soft

    def __getitem__(self, chosen: Tensor) -> Sensor:
        return Sensor(*(part[chosen] for part in self.parts))


def sinc(x: Tensor) -> Tensor:
    """``sin(πx) / (πx)``, 1 at 0. On the CPU several times faster than :func:`torch.sinc`, which is not vectorised."""
    # The function is even, and a float32 1 below an argument of 1e-4.
    angle = (x * math.pi).abs_().clamp_min_(1e-4)
    return torch.sin(angle).div_(angle)


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
    return gaussian * sinc(fx) * sinc(fy) * sinc(sensor.motion * along)


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

    Frequencies change slowly over the canvas: they, their aliases and what is left of them are worked out on blocks
    of pixels, the phase at every pixel; where the alias changes from block to block, all of it at every pixel.

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
    out = cycles.new_zeros((b, 3, height, width))
    block = _block(height, width)
    coarse = F.avg_pool2d(cycles, block) if block > 1 else cycles
    fx, fy = _slope(coarse, 3) / (block * sensor.ratio), _slope(coarse, 2) / (block * sensor.ratio)
    # Per channel of the mosaic, over the blocks: the alias and what is left of the sinusoid.
    around = [torch.cat(v, 1) for v in zip(*_aliases(_beyond(fx), _beyond(fy)), strict=True)]
    nx, ny = (v[..., 1:-1, 1:-1] for v in around)
    left = before_sampling(fx, fy, sensor) * _after_sampling(fx - nx, fy - ny, sensor)
    chosen = (left.abs().amax((1, 2, 3)) > NEGLIGIBLE).nonzero().flatten()
    if not len(chosen):
        return out
    nx, ny, left, cycles, ratio = nx[chosen], ny[chosen], left[chosen], cycles[chosen], sensor.ratio[chosen]
    # Places of the first site of each channel in the RGGB cell: (0, 0), (1, 0), (1, 1).
    site_x, site_y = cycles.new_tensor([0.0, 1.0, 1.0]), cycles.new_tensor([0.0, 0.0, 1.0])
    at_site = nx * site_x.view(1, 3, 1, 1) + ny * site_y.view(1, 3, 1, 1)
    at_site += phase.expand(b, 3, 1, 1)[chosen] / (2 * math.pi)
    if block == 1:
        angle = at_site.add_(cycles).sub_(nx * _native(cycles, ratio, 3)).sub_(ny * _native(cycles, ratio, 2))
        out[chosen] = angle.mul_(2 * math.pi).cos_().mul_(left)
        return out
    x, y = _native(cycles, ratio, 3), _native(cycles, ratio, 2)
    # Down first, then across: what lies in between is a fourth as large.
    columns = at_site.repeat_interleave(block, 2).sub_(ny.repeat_interleave(block, 2).mul_(y))
    angle = columns.repeat_interleave(block, 3).add_(cycles)
    angle.sub_(nx.repeat_interleave(block, 2).repeat_interleave(block, 3).mul_(x))
    made = angle.mul_(2 * math.pi).cos_().mul_(enlarge(left, (height, width)))
    _mend(made, [v[chosen] for v in around], cycles, phase.expand(b, 3, 1, 1)[chosen], sensor[chosen])
    out[chosen] = made
    return out


def _mend(made: Tensor, alias: Sequence[Tensor], cycles: Tensor, phase: Tensor, sensor: Sensor) -> None:
    """Work out pixel by pixel, in place, the blocks beside which the alias changes.

    Where the frequency of a bent sheet comes near the fold between two aliases, a block may have pixels on both sides.

    Args:
        made: What was worked out block by block, (B, 3, H, W).
        alias: Lattice vectors at the blocks and one beyond, (B, 3, h + 2, w + 2), x first.
        cycles: As for :func:`aliased`.
        phase: (B, 3, 1, 1), radians.
        sensor: The sensors.
    """
    changes_x, changes_y = (F.max_pool2d(n, 3, 1) != -F.max_pool2d(-n, 3, 1) for n in alias)
    changes = changes_x | changes_y
    if not bool(changes.any()):
        return
    height, width = made.shape[2:]
    block = width // changes.shape[3]
    b, c, row, col = (i.view(-1, 1, 1) for i in changes.nonzero(as_tuple=True))
    inside = torch.arange(block, device=made.device)
    y, x = row * block + inside.view(1, -1, 1), col * block + inside.view(1, 1, -1)
    own = c if cycles.shape[1] == 3 else torch.zeros_like(c)

    def field(values: Tensor) -> Tensor:
        return values.flatten()[b]

    at = Sensor(*(field(part) for part in sensor.parts))
    left_x, right_x = (x - 1).clamp_min(0), (x + 1).clamp_max(width - 1)
    up, down = (y - 1).clamp_min(0), (y + 1).clamp_max(height - 1)
    fx = (cycles[b, own, y, right_x] - cycles[b, own, y, left_x]) / ((right_x - left_x) * at.ratio)
    fy = (cycles[b, own, down, x] - cycles[b, own, up, x]) / ((down - up) * at.ratio)
    nx, ny = (
        torch.where(c == 1, green, other)
        for green, other in zip(
            nearest_alias(fx, fy, quincunx=True), nearest_alias(fx, fy, quincunx=False), strict=True
        )
    )
    left = before_sampling(fx, fy, at) * _after_sampling(fx - nx, fy - ny, at)
    middle_x, middle_y = width // 4 * 2, height // 4 * 2
    native_x, native_y = ((v + 0.5 - m) * at.ratio - 0.5 for v, m in ((x, middle_x), (y, middle_y)))
    # Sites of red, green and blue: (0, 0), (1, 0), (1, 1).
    turns = nx * (c > 0) + ny * (c > 1) + phase[b, c, 0, 0] / (2 * math.pi)
    turns = turns + cycles[b, own, y, x] - nx * native_x - ny * native_y
    made[b, c, y, x] = torch.cos(2 * math.pi * turns) * left


def _beyond(values: Tensor) -> Tensor:
    """Continue values straight by one on all sides, (B, C, h + 2, w + 2)."""
    for axis in (2, 3):
        n = values.shape[axis]
        first, second, third, last = (values.narrow(axis, i, 1) for i in (0, 1, n - 2, n - 1))
        values = torch.cat([2 * first - second, values, 2 * last - third], axis)
    return values


def _block(height: int, width: int) -> int:
    """Side of a block: the largest that divides the canvas and leaves at least four blocks each way."""
    for block in (_BLOCK_PX, _BLOCK_PX // 2):
        if height % block == width % block == 0 and min(height, width) >= 4 * block:
            return block
    return 1


def _aliases(fx: Tensor, fy: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Nearest lattice vectors (nx, ny) of red, green and blue, (B, 1, H, W) each."""
    found = []
    for channel in range(3):
        part = slice(channel, channel + 1) if fx.shape[1] == 3 else slice(0, 1)
        found.append(nearest_alias(fx[:, part], fy[:, part], quincunx=channel == 1))
    return found


def _after_sampling(fx: Tensor, fy: Tensor, sensor: Sensor) -> Tensor:
    """What shrinking by ``ratio`` and the blur after it leave; the frequency in cycles per native pixel, below 1."""
    box = sinc(sensor.ratio * fx) / sinc(fx) * sinc(sensor.ratio * fy) / sinc(fy)
    return box * torch.exp(-2 * (math.pi * sensor.soft * sensor.ratio) ** 2 * (fx * fx + fy * fy))


def _slope(values: Tensor, axis: int) -> Tensor:
    """Change from one value to the next along an axis, same shape: central differences, one-sided at the edges."""
    steps = torch.diff(values, dim=axis)
    n = steps.shape[axis]
    first, last = steps.narrow(axis, 0, 1), steps.narrow(axis, n - 1, 1)
    return (torch.cat([first, steps], axis) + torch.cat([steps, last], axis)) / 2


def _native(cycles: Tensor, ratio: Tensor, axis: int) -> Tensor:
    """Native pixel coordinates of the canvas pixels' centres along an axis, 0 at a red site near the middle.

    Counted from the middle, so that phases stay small; at ratio 1 the even coordinates are the canvas' red sites.
    """
    shape, n = [1, 1, 1, 1], cycles.shape[axis]
    shape[axis] = n
    return (torch.arange(n, dtype=torch.float32, device=cycles.device).view(shape) + 0.5 - n // 4 * 2) * ratio - 0.5
