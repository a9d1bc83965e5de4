"""First layer of every network: the uint8 picture, normalised inside the graph.

Training, calibration and export use this one module, so that every engine gets the same bytes and none repeats a
normalisation in its own way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from training.errors import ConfigError

#: Mean and standard deviation of ImageNet in [0, 1], red first. Source: the values that torchvision documents.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
#: Luma weights of red, green, blue. Source: ITU-R BT.601-7, section 2.5.1.
LUMA_WEIGHTS = (0.299, 0.587, 0.114)


@dataclass(frozen=True, slots=True)
class BrightnessNorm:
    """Per-picture gain that brings the mean luma of the crop, or the mean of each channel, to a target.

    Attributes:
        target: Wanted mean in (0, 1).
        min_gain: Smallest gain, > 0.
        max_gain: Largest gain; what is darker than ``target / max_gain`` stays dark.
        ceiling: Values are cut here after the gain (1 = white); keeps the range that INT8 must cover bounded.
        grey_world: A gain of its own for each channel, so that a colour cast goes too. Source: Buchsbaum, "A spatial
            processor model for object colour perception", Journal of the Franklin Institute 310, 1980.
    """

    target: float = 0.45
    min_gain: float = 0.4
    max_gain: float = 3.0
    ceiling: float = 1.0
    grey_world: bool = False

    def __post_init__(self) -> None:
        if not (0 < self.target < 1 and 0 < self.min_gain <= self.max_gain and self.ceiling > 0):
            raise ConfigError(f"need 0 < target < 1, 0 < min_gain <= max_gain and ceiling > 0, got {self!r}")


class GraphInput(nn.Module):
    """uint8 NHWC picture to normalised float NCHW: the part of pre-processing that lives in the graph.

    Training, calibration and export use this one module.

    Args:
        brightness: Gain normalisation; ``None`` switches it off.
        mean: Per-channel mean of the network's input, for RGB in [0, 1].
        std: Per-channel divisor that goes with it.
    """

    def __init__(
        self,
        brightness: BrightnessNorm | None = None,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.brightness = brightness
        # Buffers that no checkpoint stores: they are constants of the format, not weights.
        self.register_buffer("luma", torch.tensor(LUMA_WEIGHTS) / 255.0, persistent=False)
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("inverse_std", 1.0 / torch.tensor(std), persistent=False)

    def forward(self, rgb: Tensor) -> Tensor:
        """Normalise.

        Args:
            rgb: uint8 (N, S, S, 3), red first.

        Returns:
            float32 (N, 3, S, S), brightness-normalised if so configured, minus mean, over standard deviation.
        """
        luma, mean = cast(Tensor, self.luma), cast(Tensor, self.mean)
        x = rgb.to(torch.float32)
        if self.brightness is None:
            x = x * (1.0 / 255.0)
        else:
            rule = self.brightness
            level = x.mean(dim=(1, 2), keepdim=True)
            level = level / 255.0 if rule.grey_world else (level * luma).sum(dim=3, keepdim=True)
            # Clamping the level instead of the gain is the same and never divides by zero.
            level = level.clamp(rule.target / rule.max_gain, rule.target / rule.min_gain)
            x = (x * ((rule.target / 255.0) / level)).clamp(max=rule.ceiling)
        x = (x - mean) * cast(Tensor, self.inverse_std)
        return x.permute(0, 3, 1, 2)
