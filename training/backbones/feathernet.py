"""FeatherNetB up to its last layer of stride 16, without squeeze-and-excitation."""

from __future__ import annotations

from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from training.backbones.base import Trunk, check_channels, refuse_pretrained
from training.backbones.blocks import InvertedResidual, Style, conv_norm, initialise

#: Name in ``training.backbones.TRUNKS``.
NAME = "feathernet_b"
_STEM = 32
# PyTorch's own constants, as the authors have them.
_STYLE = Style(same=False, eps=1e-5, momentum=0.1)


class _Stage(NamedTuple):
    repeats: int
    expansion: int
    out_channels: int


# As the authors' code has it; the first block of each stage has stride 2.
_STAGES = (
    _Stage(1, 1, 16),
    _Stage(2, 6, 32),
    _Stage(6, 6, 48),
)


class PooledProjection(nn.Module):
    """Means over 2×2 cells, BatchNorm, convolution 1×1: the second branch of a block that halves the side.

    Args:
        in_channels: Channels read.
        out_channels: Channels written.

    Source: Zhang et al., the down-sampling block of FeatherNetB; the norm stands before the convolution as in the
    authors' code.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(2, stride=2)
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Float (N, in, H, W) to (N, out, H/2, W/2)."""
        y: Tensor = self.conv(self.norm(self.pool(x)))
        return y

    @torch.no_grad()
    def merged(self) -> nn.Conv2d:
        """The same function at inference as one convolution 2×2 of stride 2 with a bias; a private copy.

        All three steps are linear. A mean over four values is a filter of quarters, and nothing is padded, so that the
        norm's shift goes through the filter into the bias. Integer kernels need to know neither means nor norms then.
        """
        variance, mean = cast(Tensor, self.norm.running_var).double(), cast(Tensor, self.norm.running_mean).double()
        factor = self.norm.weight.double() / (variance + self.norm.eps).sqrt()
        weight = self.conv.weight.double()
        conv = nn.Conv2d(self.conv.in_channels, self.conv.out_channels, 2, stride=2)
        conv.weight.copy_((weight * factor[:, None, None] / 4).expand(-1, -1, 2, 2))
        cast(Tensor, conv.bias).copy_(weight[:, :, 0, 0] @ (self.norm.bias.double() - mean * factor))
        return conv


class _HalvingBlock(InvertedResidual):
    """An inverted residual of stride 2, to which a branch of means is added."""

    def __init__(self, in_channels: int, out_channels: int, *, expansion: int) -> None:
        super().__init__(in_channels, out_channels, kernel=3, stride=2, expansion=expansion, style=_STYLE)
        self.down: nn.Module = PooledProjection(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Float (N, in, H, W) to (N, out, H/2, W/2)."""
        return super().forward(x) + cast(Tensor, self.down(x))

    def merge(self) -> None:
        """Make one convolution of the branch of means, in place, for evaluation mode."""
        self.down = cast(PooledProjection, self.down).merged()


class FeatherNetTrunk(Trunk):
    """FeatherNetB from the stem to the last block of stride 16: 48 channels.

    A stem and nine inverted residuals with ReLU6; in the three that halve the side a branch of 2×2 means is added.
    200,704 parameters, 0.20 M; 208,320 once the branches are single convolutions (:meth:`deployed`). What differs from
    the authors' network:

    - Its last stage (three blocks of stride 32) is cut off, and so is the streaming module behind it, a depthwise
      convolution that replaces global pooling: heads here judge every cell of the map, so there is nothing to pool.
    - Squeeze-and-excitation behind each stage is left out: the INT8 grid has no gates.
    - The input is colour; the authors' is depth. Weights start at random.

    Args:
        in_channels: Channels of the input image.

    Raises:
        ConfigError: ``in_channels`` is below 1.

    Source: Zhang et al., "FeatherNets: Convolutional Neural Networks as Light as Feather for Face Anti-spoofing", CVPRW
    2019; the released code, ``models/FeatherNet.py``.
    """

    input_mean: ClassVar[tuple[float, float, float]] = (0.5, 0.5, 0.5)
    input_std: ClassVar[tuple[float, float, float]] = (0.25, 0.25, 0.25)

    def __init__(self, in_channels: int = 3) -> None:
        check_channels(in_channels)
        super().__init__(in_channels, _STAGES[-1].out_channels)
        self.stem = conv_norm(in_channels, _STEM, kernel=3, stride=2, style=_STYLE)
        blocks: list[nn.Module] = []
        channels = _STEM
        for stage in _STAGES:
            blocks.append(_HalvingBlock(channels, stage.out_channels, expansion=stage.expansion))
            channels = stage.out_channels
            blocks += [
                InvertedResidual(channels, channels, kernel=3, stride=1, expansion=stage.expansion, style=_STYLE)
                for _ in range(stage.repeats - 1)
            ]
        self.blocks = nn.Sequential(*blocks)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) images to (N, 48, H/16, W/16) features; H and W divisible by 16."""
        features: Tensor = self.blocks(self.stem(x))
        return features

    def deployed(self) -> nn.Module:
        """The same function at inference, each branch of means one convolution."""
        result = super().deployed()
        for block in result.modules():
            if isinstance(block, _HalvingBlock):
                block.merge()
        return result


def feathernet_b_trunk(pretrained: bool = False, in_channels: int = 3) -> FeatherNetTrunk:
    """Build a FeatherNetB trunk with random weights.

    Args:
        pretrained: Must be false: the authors publish no ImageNet weights.
        in_channels: Channels of the input image.

    Raises:
        ConfigError: Pretrained weights are asked for, or ``in_channels`` is below 1.
    """
    refuse_pretrained(NAME, pretrained)
    return FeatherNetTrunk(in_channels)
