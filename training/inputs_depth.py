"""First layer of the networks that see depth: uint8 channels, normalised inside the graph.

How millimetres become bytes is pre-processing and stands in :mod:`fasedge.depth`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from training.errors import BatchError, ConfigError
from training.inputs import IMAGENET_MEAN, IMAGENET_STD

ByteNormalisation = Literal["unit", "imagenet"]

# The first convolution of a depth trunk is the mean of the colour channels, so are the mean and the deviation for it.
_DEPTH_MEAN = sum(IMAGENET_MEAN) / 3
_DEPTH_STD = sum(IMAGENET_STD) / 3


class BytesInput(nn.Module):
    """uint8 NHWC channels to float NCHW: (x / 255 − mean) / std.

    Args:
        mean: Mean of every channel, in [0, 1].
        std: Divisor of every channel.

    Raises:
        ConfigError: Other than one divisor > 0 per mean.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if not mean or len(mean) != len(std) or min(std) <= 0:
            raise ConfigError(f"expected a mean and a divisor > 0 for every channel, got {mean!r} and {std!r}")
        # Buffers that no checkpoint stores: they are constants of the format, not weights.
        self.register_buffer("factor", 1.0 / (255.0 * torch.tensor(std)), persistent=False)
        self.register_buffer("offset", torch.tensor(mean) / torch.tensor(std), persistent=False)

    def forward(self, channels: Tensor) -> Tensor:
        """Normalise.

        Args:
            channels: uint8 (N, S, S, C) as the layer was made for: depth last, behind red, green and blue.

        Returns:
            float32 (N, C, S, S).

        Raises:
            BatchError: Another number of channels, or of dimensions.
        """
        factor, offset = cast(Tensor, self.factor), cast(Tensor, self.offset)
        if channels.ndim != 4 or channels.shape[3] != factor.shape[0]:
            raise BatchError(f"expected channels of shape (N, S, S, {factor.shape[0]}), got {tuple(channels.shape)}")
        x = channels.to(torch.float32) * factor - offset
        return x.permute(0, 3, 1, 2)


def rgbd_input(normalisation: ByteNormalisation = "unit") -> BytesInput:
    """Make the first layer for red, green, blue and depth, uint8 (N, S, S, 4).

    Args:
        normalisation: ``unit`` divides by 255. ``imagenet`` also brings colour to ImageNet's mean and deviation, and
            depth to the averages of these over the three colours.

    Raises:
        ConfigError: No such normalisation.

    Source: George & Marcel, CVPR 2021, released code: division by 255 only.
    """
    if _is_unit(normalisation):
        return BytesInput((0.0,) * 4, (1.0,) * 4)
    return BytesInput((*IMAGENET_MEAN, _DEPTH_MEAN), (*IMAGENET_STD, _DEPTH_STD))


def depth_input(normalisation: ByteNormalisation = "unit") -> BytesInput:
    """Make the first layer for depth alone, uint8 (N, S, S, 1); see :func:`rgbd_input`.

    Raises:
        ConfigError: No such normalisation.
    """
    return BytesInput((0.0,), (1.0,)) if _is_unit(normalisation) else BytesInput((_DEPTH_MEAN,), (_DEPTH_STD,))


def _is_unit(normalisation: str) -> bool:
    if normalisation not in ("unit", "imagenet"):
        raise ConfigError(f"expected the normalisation 'unit' or 'imagenet', got {normalisation!r}")
    return normalisation == "unit"
