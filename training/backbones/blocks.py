"""What trunks with depthwise convolutions are made of: convolution with norm, and the inverted residual block."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from torch import Tensor, nn


class Style(NamedTuple):
    """What all convolutions of a network have in common; by default what EfficientNet-Lite has in TensorFlow.

    Attributes:
        activation: What follows a norm, where something does.
        same: With stride 2, pad as TensorFlow's SAME does; otherwise by as much on all sides, as PyTorch's networks do.
        eps: Of norms.
        momentum: Of norms, as PyTorch counts it; 0.01 is TensorFlow's decay of 0.99.
    """

    activation: type[nn.ReLU] | type[nn.ReLU6] = nn.ReLU6
    same: bool = True
    eps: float = 1e-3
    momentum: float = 0.01


LITE = Style()


def conv_norm(
    in_channels: int,
    out_channels: int,
    *,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: bool = True,
    style: Style = LITE,
) -> nn.Sequential:
    """Convolution, BatchNorm and, unless it is a projection, an activation.

    For stride 2 and an even input, SAME pads k − 2 in total with the odd pixel at the bottom right. Sides divisible by
    16 stay even down to the last stride, so that the padding is a constant and exports as one.

    Args:
        in_channels: Channels read.
        out_channels: Channels written.
        kernel: Side of the filter, odd.
        stride: 1 or 2.
        groups: As many as channels for a depthwise convolution.
        activation: Whether one follows the norm.
        style: Which, how it is padded, and the norm's constants.

    Returns:
        Float (N, in, H, W) to (N, out, H/stride, W/stride).
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    padding = (kernel - 1) // 2
    if stride == 2 and style.same:
        before, after = (kernel - 2) // 2, (kernel - 1) // 2
        layers["pad"] = nn.ZeroPad2d((before, after, before, after))
        padding = 0
    layers["conv"] = nn.Conv2d(
        in_channels, out_channels, kernel, stride=stride, padding=padding, groups=groups, bias=False
    )
    layers["norm"] = nn.BatchNorm2d(out_channels, eps=style.eps, momentum=style.momentum)
    if activation:
        layers["act"] = style.activation(inplace=True)
    return nn.Sequential(layers)


class InvertedResidual(nn.Module):
    """Expand 1×1, depthwise k×k, project 1×1; with a skip connection where the shapes allow it.

    A depthwise convolution without activation can stand before it, and the one in the middle can be left out: this is
    MobileNetV4's universal inverted bottleneck. What is left out is ``None``, so that nothing stands between the
    convolutions of the exported network.

    Args:
        in_channels: Channels read.
        out_channels: Channels written, by a linear projection.
        kernel: Side of the depthwise filter in the middle; 0 leaves it out.
        stride: 1 or 2: that of the depthwise convolution in the middle, or else of the one at the start.
        expansion: Channels in the middle over those read; with 1 there is no expanding convolution.
        start: Side of the depthwise filter at the start; 0 leaves it out.
        style: Of its convolutions; an activation follows the expanding one and the one in the middle.

    Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018; Qin et al.,
    "MobileNetV4: Universal Models for the Mobile Ecosystem", ECCV 2024 (arXiv 2404.10518), section 4.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int,
        stride: int,
        expansion: int,
        start: int = 0,
        style: Style = LITE,
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion

        def depthwise(channels: int, side: int, step: int, *, activation: bool) -> nn.Sequential:
            return conv_norm(
                channels, channels, kernel=side, stride=step, groups=channels, activation=activation, style=style
            )

        self.start = depthwise(in_channels, start, 1 if kernel else stride, activation=False) if start else None
        self.expand = conv_norm(in_channels, hidden, style=style) if expansion != 1 else None
        self.depthwise = depthwise(hidden, kernel, stride, activation=True) if kernel else None
        self.project = conv_norm(hidden, out_channels, activation=False, style=style)
        self.has_skip = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Float (N, in, H, W) to (N, out, H/stride, W/stride)."""
        y = x
        for part in (self.start, self.expand, self.depthwise):
            if part is not None:
                y = part(y)
        projected: Tensor = self.project(y)
        return x + projected if self.has_skip else projected


def initialise(module: nn.Module) -> None:
    """He-normal over the fan-out, as EfficientNet's authors do; a depthwise filter counts as one channel. In place."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            fan_out = part.kernel_size[0] * part.kernel_size[1] * part.out_channels
            nn.init.normal_(part.weight, std=(2.0 / (fan_out / part.groups)) ** 0.5)
