"""Colour texture with a linear classifier: the baseline from before learned features.

Histograms of uniform local binary patterns of six colour channels (HSV and YCrCb), and a linear support vector machine.
Everything is batched torch, so it runs wherever the networks run; nothing else is needed to train it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.errors import BatchError, ConfigError, DataError
from training.methods.hsv import rgb_to_hsv

_POINTS = 8
_CHANNELS = 6
#: Patterns with at most two changes round the circle have a bin each, all others share the last one.
PATTERN_BINS = 59


@dataclass(frozen=True, slots=True, kw_only=True)
class LbpSvmConfig:
    """Settings of features and classifier.

    Attributes:
        radius: Radius of the circle of eight neighbours, pixels.
        grid: The picture is cut into grid × grid equal parts with a histogram each.
        penalty: C of the support vector machine, for squared hinge losses that are summed over samples.
        balanced: Give both classes the same total weight.
    """

    radius: float = 1.0
    grid: int = 1
    penalty: float = 1.0
    balanced: bool = True

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            ConfigError: A value is out of its range.
        """
        rules = (
            ("radius", 1.0 <= self.radius <= 16.0, "1 <= radius <= 16"),
            ("grid", 1 <= self.grid <= 16, "1 <= grid <= 16"),
            ("penalty", 0.0 < self.penalty < math.inf, "penalty > 0"),
        )
        for name, holds, wanted in rules:
            if not holds:
                raise ConfigError(f"LBP-SVM: expected {wanted}, got {name}={getattr(self, name)!r}")

    @property
    def length(self) -> int:
        """Length of a feature vector."""
        return self.grid**2 * _CHANNELS * PATTERN_BINS


class LbpSvm(nn.Module):
    """A trained or untrained classifier; its state dict is all that has to be kept.

    It scores pictures as every task of this program does: :meth:`score` takes uint8 (N, S, S, 3).

    Args:
        config: Settings.

    Source: Boulkenafet et al., "Face anti-spoofing based on color texture analysis", ICIP 2015.
    """

    def __init__(self, config: LbpSvmConfig | None = None) -> None:
        super().__init__()
        self.config = config if config is not None else LbpSvmConfig()
        length = self.config.length
        # Parameters, so that whatever moves or counts a module's weights finds them; fit() sets them, no optimiser.
        self.weight = nn.Parameter(torch.zeros(length, dtype=torch.float64), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros((), dtype=torch.float64), requires_grad=False)
        self.register_buffer("mean", torch.zeros(length, dtype=torch.float64))
        self.register_buffer("inverse_std", torch.ones(length, dtype=torch.float64))

    @property
    def module(self) -> LbpSvm:
        """Itself: holds every parameter."""
        return self

    def features(self, rgb: Tensor) -> Tensor:
        """Histograms of pictures.

        Args:
            rgb: uint8 (N, H, W, 3), red first; both sides at least 2 · radius + grid pixels.

        Returns:
            float64 (N, L): for each part of the picture (rows first) and channel (H, S, V, Y, Cr, Cb) the share of each
            of 59 patterns.

        Raises:
            BatchError: The pictures are not uint8 (N, H, W, 3) or too small.
        """
        smallest = 2 * math.ceil(self.config.radius) + self.config.grid
        if rgb.ndim != 4 or rgb.shape[3] != 3 or rgb.dtype != torch.uint8 or min(rgb.shape[1:3]) < smallest:
            raise BatchError(
                f"LBP-SVM: expected uint8 pictures (N, H, W, 3) of at least {smallest} pixels a side, got {rgb.dtype} "
                f"{tuple(rgb.shape)}"
            )
        planes = colour_planes(rgb)
        bins = pattern_bins(rgb.device)[lbp_codes(planes, self.config.radius).long()]
        grid, parts = self.config.grid, []
        for rows in bins.tensor_split(grid, dim=2):
            for cell in rows.tensor_split(grid, dim=3):
                parts.append(_histograms(cell))
        return torch.cat(parts, dim=1)

    def fit(self, features: Tensor, labels: Tensor) -> int:
        """Train on features; what was learned before is forgotten.

        Args:
            features: (n, L) of :meth:`features`.
            labels: (n,) labels, 1 = bona fide, 0 = attack.

        Returns:
            The number of Newton steps.

        Raises:
            DataError: Shapes do not fit, values are not finite, or there is one class only.
        """
        x, y = features.to(self.weight), labels.to(self.weight)
        if x.ndim != 2 or x.shape[1] != self.config.length or y.shape != x.shape[:1]:
            raise DataError(
                f"LBP-SVM: expected features (n, {self.config.length}) and labels (n,), got {tuple(x.shape)} and "
                f"{tuple(y.shape)}"
            )
        if not bool(torch.isfinite(x).all()):
            raise DataError("LBP-SVM: features are not finite; look for damaged pictures")
        found = sorted(set(y.tolist()))
        if found != [0.0, 1.0]:
            raise DataError(f"LBP-SVM: expected both labels, 0 and 1, got {found}")
        spread = x.std(dim=0, correction=0)
        mean, inverse = x.mean(dim=0), torch.where(spread > 0, 1.0 / spread.clamp(min=1e-12), torch.zeros_like(spread))
        cost = torch.full_like(y, self.config.penalty)
        if self.config.balanced:
            bona_fide = y.mean()
            cost = cost * torch.where(y == 1, 0.5 / bona_fide, 0.5 / (1.0 - bona_fide))
        weight, bias, steps = fit_linear_svm((x - mean) * inverse, 2.0 * y - 1.0, cost)
        self.get_buffer("mean").copy_(mean)
        self.get_buffer("inverse_std").copy_(inverse)
        self.weight.copy_(weight)
        self.bias.copy_(bias)
        return steps

    def decide(self, features: Tensor) -> Tensor:
        """Signed distances (n,) of features from the boundary, in units of the margin; higher = bona fide."""
        x = (features.to(self.weight) - self.get_buffer("mean")) * self.get_buffer("inverse_std")
        return x @ self.weight + self.bias

    def score(self, rgb: Tensor) -> Tensor:
        """Score pictures.

        Args:
            rgb: uint8 (N, H, W, 3), red first.

        Returns:
            float32 (N,) in [0, 1], higher = bona fide: the sigmoid of the distance from the boundary. It orders samples
            as the distance does and is no calibrated probability.

        Raises:
            BatchError: The pictures have another shape or type, or are too small.
        """
        return torch.sigmoid(self.decide(self.features(rgb))).float()


def colour_planes(rgb: Tensor) -> Tensor:
    """The six channels whose texture is looked at.

    Args:
        rgb: uint8 (N, H, W, 3), red first.

    Returns:
        float32 (N, 6, H, W), whole numbers from 0 to 255: H, S, V of :func:`training.methods.hsv.rgb_to_hsv`; Y, Cr,
        Cb of full range with 128 as grey.

    Source: ITU-R BT.601-7, sections 2.5.1 and 2.5.2, for luma and colour differences; Boulkenafet et al., ICIP 2015.
    """
    x = rgb.to(torch.float32)
    red, green, blue = x.unbind(-1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    # (R − Y) reaches ±0.701 · 255 and (B − Y) ±0.886 · 255: scaled to ±127.5.
    cr, cb = (red - luma) * (0.5 / 0.701) + 128.0, (blue - luma) * (0.5 / 0.886) + 128.0
    rest = torch.stack([luma, cr, cb], dim=-1).round().clamp(0.0, 255.0)
    return torch.cat([rgb_to_hsv(x), rest], dim=-1).permute(0, 3, 1, 2)


def lbp_codes(planes: Tensor, radius: float = 1.0) -> Tensor:
    """Local binary patterns: bit p says whether neighbour p is at least as bright as the centre.

    Neighbour p lies at the angle 2πp/8, counted from the right and upwards; between pixels it is interpolated.

    Args:
        planes: (N, C, H, W) whole numbers from 0 to 255.
        radius: Of the circle, pixels.

    Returns:
        uint8 (N, C, H − 2r, W − 2r), r the radius rounded up.

    Source: Ojala et al., "Multiresolution gray-scale and rotation invariant texture classification with local binary
    patterns", TPAMI 2002, eq. 8 to 11.
    """
    margin = math.ceil(radius)
    height, width = planes.shape[2] - 2 * margin, planes.shape[3] - 2 * margin
    # Interpolated in float64 and rounded: equal pixels must stay equal, whatever the weights.
    planes = planes.to(torch.float64)

    def shifted(down: int, right: int) -> Tensor:
        top, left = margin + down, margin + right
        return planes[:, :, top : top + height, left : left + width]

    centre = shifted(0, 0)
    codes = torch.zeros(centre.shape, dtype=torch.uint8, device=planes.device)
    for bit in range(_POINTS):
        angle = 2.0 * math.pi * bit / _POINTS
        down, right = round(-radius * math.sin(angle), 5), round(radius * math.cos(angle), 5)
        row, column = math.floor(down), math.floor(right)
        v, h = down - row, right - column
        neighbour = torch.zeros_like(centre)
        for step_down, step_right, share in (
            (0, 0, (1 - v) * (1 - h)),
            (0, 1, (1 - v) * h),
            (1, 0, v * (1 - h)),
            (1, 1, v * h),
        ):
            if share:
                neighbour = neighbour + share * shifted(row + step_down, column + step_right)
        codes |= ((neighbour - centre) > -1e-6).to(torch.uint8) << bit
    return codes


def pattern_bins(device: torch.device | None = None) -> Tensor:
    """Bin of each of the 256 codes, int64 (256,): uniform patterns in the order of their codes, then the rest.

    Source: Ojala et al., TPAMI 2002, section 2.3: at most two changes between neighbouring bits round the circle.
    """
    codes = torch.arange(256)
    turned = (codes >> 1) | ((codes & 1) << 7)
    changes = sum(((codes ^ turned) >> bit) & 1 for bit in range(_POINTS))
    uniform = torch.as_tensor(changes) <= 2
    bins = torch.full((256,), PATTERN_BINS - 1)
    bins[uniform] = torch.arange(PATTERN_BINS - 1)
    return bins.to(device)


def fit_linear_svm(x: Tensor, sign: Tensor, cost: Tensor, *, most_steps: int = 100) -> tuple[Tensor, Tensor, int]:
    """Minimise ½‖w‖² + ½b² + Σ c_i max(0, 1 − s_i (w·x_i + b))² by Newton's method with halved steps.

    The objective is strictly convex and piecewise quadratic: a full step is exact once the margin holds the right
    samples. The bias is regularised too, as by LIBLINEAR with an intercept of 1.

    Args:
        x: (n, d) float64.
        sign: (n,) of ±1.
        cost: (n,) weights c.
        most_steps: Where to stop in any case.

    Returns:
        w (d,), b and the number of steps.

    Source: Keerthi & DeCoste, "A modified finite Newton method for fast solution of large scale linear SVMs", JMLR
    2005.
    """
    rows = torch.cat([x, torch.ones_like(sign).unsqueeze(1)], dim=1)
    solution = torch.zeros(rows.shape[1], dtype=rows.dtype, device=rows.device)

    def value(w: Tensor) -> Tensor:
        return 0.5 * w @ w + (cost * (1.0 - sign * (rows @ w)).clamp(min=0.0).square()).sum()

    steps = 0
    while steps < most_steps:
        steps += 1
        slack = (1.0 - sign * (rows @ solution)).clamp(min=0.0)
        gradient = solution - 2.0 * rows.T @ (cost * sign * slack)
        if float(gradient.norm()) <= 1e-9 * float(cost.sum()):
            break
        inside = slack > 0
        active = rows[inside]
        hessian = 2.0 * (active.T * cost[inside]) @ active
        hessian.diagonal().add_(1.0)
        direction = torch.linalg.solve(hessian, gradient)
        length, now, slope = 1.0, value(solution), gradient @ direction
        while length > 1e-10 and bool(value(solution - length * direction) > now - 1e-4 * length * slope):
            length /= 2.0
        solution = solution - length * direction
    return solution[:-1], solution[-1], steps


def _histograms(bins: Tensor) -> Tensor:
    """Shares of bins (N, C, h, w) per picture and channel: float64 (N, C · 59)."""
    n, c = bins.shape[:2]
    flat = bins.flatten(2)
    counts = torch.zeros(n, c, PATTERN_BINS, dtype=torch.float64, device=bins.device)
    counts.scatter_add_(2, flat, torch.ones_like(flat, dtype=torch.float64))
    return (counts / flat.shape[2]).flatten(1)
