"""What a student imitates, and on which pictures: settings, and the pieces that losses are put together from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from training.data.samples import CropJitter
from training.errors import ConfigError
from training.methods.base import without_autocast

#: How far a finder's box may lie off.
FINDER = CropJitter()
#: A channel that is the same everywhere counts no more than one with this deviation.
_LEAST_DEVIATION = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Imitation:
    """How a student imitates.

    Attributes:
        alpha: Weight of the imitation of the answer against the task's own loss, in [0, 1].
        temperature: T: factor on the values of both; by default what suits the method (4 for cosines, 1 for logits).
        features: beta: weight of the imitation of the trunk's map; 0 leaves it out.
        mixup: Share of the batches to which :func:`mixup` is applied, in [0, 1].
        steady: Share of the batches in which student and teachers see crops that :func:`moved` has moved, each its own,
            in [0, 1].
        views: Moved crops of which the teachers' mean is imitated, at least 2.
    """

    alpha: float = 0.5
    temperature: float | None = None
    features: float = 0.0
    mixup: float = 0.0
    steady: float = 0.0
    views: int = 3

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            ConfigError: A value is out of its range.
        """
        rules = (
            (0 <= self.alpha <= 1, "alpha in [0, 1]"),
            (self.temperature is None or 0 < self.temperature < math.inf, "temperature > 0"),
            (0 <= self.features < math.inf, "features >= 0"),
            (0 <= self.mixup <= 1, "mixup in [0, 1]"),
            (0 <= self.steady <= 1, "steady in [0, 1]"),
            (self.views >= 2, "views >= 2"),
        )
        wrong = [what for holds, what in rules if not holds]
        if wrong:
            raise ConfigError(f"distillation needs {' and '.join(wrong)}, got {self}")


def mixup(rgb: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Blend each picture of a batch with the one that lies opposite; at least half of each is itself.

    Args:
        rgb: uint8 (N, S, S, 3).
        labels: float32 (N,).

    Returns:
        The same shapes and types; labels in between.

    Source: Zhang et al., "mixup", ICLR 2018; one weight for the batch, uniform in [0.5, 1].
    """
    weight = 0.5 + 0.5 * float(torch.rand(()))
    mixed = rgb.float().lerp_(rgb.flip(0).float(), 1 - weight)
    return mixed.round_().to(torch.uint8), labels * weight + labels.flip(0) * (1 - weight)


def feature_error(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error of maps (N, C, m, m), each channel in units of the wanted one's deviation in the batch."""
    deviation = wanted.std(dim=(0, 2, 3), correction=0, keepdim=True) + _LEAST_DEVIATION
    return ((found - wanted) / deviation).square().mean()


def pool(features: Tensor) -> Tensor:
    """Mean over the map: (N, C, m, m) to (N, C, 1, 1)."""
    return features.mean(dim=(2, 3), keepdim=True)


def moved(rgb: Tensor, shift: float, scale: float = FINDER.scale) -> Tensor:
    """Crops as another box would have cut them; beyond the edge they are mirrored.

    Args:
        rgb: uint8 (N, S, S, 3).
        shift: Largest shift as a share of S, each axis.
        scale: Largest relative change of the side, log-uniform.

    Returns:
        The same shape and type; each picture has its own shift and scale, from torch's global generator.
    """
    n = len(rgb)
    draws = 2 * torch.rand(n, 3) - 1
    size = torch.exp(draws[:, 0] * math.log1p(scale))
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = size
    theta[:, :, 2] = 2 * shift * draws[:, 1:]  # coordinates run from -1 to 1
    planes = rgb.permute(0, 3, 1, 2).float()
    with without_autocast(planes.device.type):  # in half precision places would be half a pixel off
        grid = F.affine_grid(theta.to(planes.device), list(planes.shape), align_corners=False)
        found = F.grid_sample(planes, grid, padding_mode="reflection", align_corners=False)
    return found.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
