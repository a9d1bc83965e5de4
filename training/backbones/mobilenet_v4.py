"""MobileNetV4-Conv-Small up to its last layer of stride 16."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from training.backbones.base import Trunk, check_channels, refuse_pretrained
from training.backbones.blocks import InvertedResidual, Style, conv_norm, initialise

#: Name in ``training.backbones.TRUNKS``.
NAME = "mobilenetv4_conv_s"
# PyTorch's momentum and not TensorFlow's, so that a short training from random weights knows its own statistics.
_STYLE = Style(activation=nn.ReLU, momentum=0.1)


class _Layer(NamedTuple):
    kernel: int
    stride: int
    out_channels: int


class _Block(NamedTuple):
    start: int
    kernel: int
    stride: int
    expansion: int
    out_channels: int


# As the authors' code has it: both convolutions of a fused inverted bottleneck end in a ReLU.
_LAYERS = (
    _Layer(3, 2, 32),
    _Layer(3, 2, 32),
    _Layer(1, 1, 32),
    _Layer(3, 2, 96),
    _Layer(1, 1, 64),
)
_BLOCKS = (
    _Block(5, 5, 2, 3, 96),
    *(_Block(0, 3, 1, 2, 96),) * 4,
    _Block(3, 0, 1, 4, 96),
)


class MobileNetV4ConvSmallTrunk(Trunk):
    """MobileNetV4-Conv-Small from the stem to the last block of stride 16: 96 channels.

    A stem, two fused inverted bottlenecks (3×3, then 1×1) and six universal inverted bottlenecks, with ReLU: 317,568
    parameters, 0.32 M. The last stage (six blocks of stride 32), the two 1×1 convolutions and the classifier are cut
    off: 3.46 of the network's 3.77 M parameters. Nothing is left out before the cut. Padding and the epsilon
    of norms are those of the authors' TensorFlow code; their momentum is PyTorch's. Weights start at random.

    Args:
        in_channels: Channels of the input image.

    Raises:
        ConfigError: ``in_channels`` is below 1.

    Source: Qin et al., "MobileNetV4: Universal Models for the Mobile Ecosystem", ECCV 2024 (arXiv 2404.10518);
    ``MNV4ConvSmall_BLOCK_SPECS`` in the TensorFlow Model Garden.
    """

    input_mean: ClassVar[tuple[float, float, float]] = (0.5, 0.5, 0.5)
    input_std: ClassVar[tuple[float, float, float]] = (0.25, 0.25, 0.25)

    def __init__(self, in_channels: int = 3) -> None:
        check_channels(in_channels)
        super().__init__(in_channels, _BLOCKS[-1].out_channels)
        layers: list[nn.Module] = []
        channels = in_channels
        for layer in _LAYERS:
            layers.append(
                conv_norm(channels, layer.out_channels, kernel=layer.kernel, stride=layer.stride, style=_STYLE)
            )
            channels = layer.out_channels
        self.layers = nn.Sequential(*layers)
        blocks: list[nn.Module] = []
        for block in _BLOCKS:
            blocks.append(
                InvertedResidual(
                    channels,
                    block.out_channels,
                    kernel=block.kernel,
                    stride=block.stride,
                    expansion=block.expansion,
                    start=block.start,
                    style=_STYLE,
                )
            )
            channels = block.out_channels
        self.blocks = nn.Sequential(*blocks)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) images to (N, 96, H/16, W/16) features; H and W divisible by 16."""
        features: Tensor = self.blocks(self.layers(x))
        return features


def mobilenetv4_conv_s_trunk(pretrained: bool = False, in_channels: int = 3) -> MobileNetV4ConvSmallTrunk:
    """Build a MobileNetV4-Conv-Small trunk with random weights.

    Args:
        pretrained: Must be false: published ImageNet weights of it are not read.
        in_channels: Channels of the input image.

    Raises:
        ConfigError: Pretrained weights are asked for, or ``in_channels`` is below 1.
    """
    refuse_pretrained(NAME, pretrained)
    return MobileNetV4ConvSmallTrunk(in_channels)
