"""Plain convolutions only: a trunk that integer kernels run fast.

In training each layer is a 3×3 convolution, a 1×1 convolution and, where the shapes allow it, the values themselves,
each with its own BatchNorm, added before one ReLU. All of it is linear up to the ReLU, so the deployed layer is a
single 3×3 convolution: no addition, no depthwise convolution, nothing that an INT8 engine computes in float.

Source: Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", CVPR 2021, section 3.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

import torch
import torch.nn.functional as F  # noqa: N812 (the community's name for it)
from torch import Tensor, nn

from training.backbones.base import Trunk, refuse_pretrained
from training.errors import ConfigError, StateMismatchError

#: Channels and layers of the four stages of stride 2, by name; the numbers of parameters are those at inference.
SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "plain_xs": ((8, 16, 32, 64), (1, 1, 2, 2)),  # 0.08 M parameters; for depth, which has one channel
    "plain_s": ((16, 32, 64, 128), (1, 1, 2, 2)),  # 0.30 M parameters
    "plain_m": ((16, 32, 64, 128), (1, 2, 2, 3)),  # 0.45 M
    "plain_l": ((32, 64, 96, 128), (1, 2, 3, 3)),  # 0.70 M
}
#: Channels of the map of the named sizes: those of EfficientNet-Lite0, whose map they can imitate and whose head they
#: can take over.
PROJECTED = 112


class PlainLayer(nn.Module):
    """``ReLU(BN(conv3×3(x)) + BN(conv1×1(x)) + BN(x))``; the last term where input and output have one shape.

    Args:
        in_channels: Channels read.
        out_channels: Channels written.
        stride: 1 or 2.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.wide_norm = nn.BatchNorm2d(out_channels)
        self.point = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.point_norm = nn.BatchNorm2d(out_channels)
        same = in_channels == out_channels and stride == 1
        self.same_norm = nn.BatchNorm2d(in_channels) if same else None

    def forward(self, x: Tensor) -> Tensor:
        """Float (N, in, H, W) to (N, out, H/stride, W/stride)."""
        # Every second value is taken before the 1x1 convolution: with one input channel and a stride of its own, its
        # gradient on a CPU writes beyond its memory (torch 2.13).
        step = self.wide.stride[0]
        y: Tensor = self.wide_norm(self.wide(x)) + self.point_norm(self.point(x[:, :, ::step, ::step]))
        if self.same_norm is not None:
            y = y + self.same_norm(x)
        return F.relu(y)

    def merged(self) -> nn.Sequential:
        """The same function at inference as one convolution with a bias, and a ReLU; a private copy.

        Source: RepVGG, section 3.3 and figure 4: a BatchNorm scales the filters before it and adds a bias; a 1×1
        filter, or the unit filter for the values themselves, is the middle of a 3×3 one.
        """
        weight, bias = _scaled(self.wide.weight, self.wide_norm)
        parts = [_scaled(F.pad(self.point.weight, (1, 1, 1, 1)), self.point_norm)]
        if self.same_norm is not None:
            unit = torch.zeros_like(self.wide.weight)
            nn.init.dirac_(unit)
            parts.append(_scaled(unit, self.same_norm))
        for more, shift in parts:
            weight, bias = weight + more, bias + shift
        conv = nn.Conv2d(self.wide.in_channels, self.wide.out_channels, 3, stride=self.wide.stride[0], padding=1)
        conv.weight.data.copy_(weight)
        cast(Tensor, conv.bias).data.copy_(bias)
        return nn.Sequential(conv, nn.ReLU())

    @torch.no_grad()
    def load_merged(self, weight: Tensor, bias: Tensor) -> None:
        """Become the layer whose merged form has these filters and this bias, in evaluation mode.

        Args:
            weight: (out, in, 3, 3).
            bias: (out,).

        Raises:
            StateMismatchError: The shapes are not those of this layer.
        """
        if weight.shape != self.wide.weight.shape or bias.shape != self.wide_norm.bias.shape:
            raise StateMismatchError(
                f"expected filters {tuple(self.wide.weight.shape)} and as many biases, got {tuple(weight.shape)} and "
                f"{tuple(bias.shape)}"
            )
        self.wide.weight.copy_(weight)
        for norm in (self.wide_norm, self.point_norm, self.same_norm):
            if norm is not None:
                # What the others add is nothing; a variance of 1 - eps makes the first divide by exactly 1.
                cast(Tensor, norm.running_mean).zero_()
                cast(Tensor, norm.running_var).fill_(1 - norm.eps)
                norm.weight.fill_(float(norm is self.wide_norm))
                norm.bias.zero_()
        self.wide_norm.bias.copy_(bias)

    @torch.no_grad()
    def settle(self, x: Tensor) -> Tensor:
        """Let the norms measure what they see, and say the same as before.

        A layer made by :meth:`load_merged` can then be trained: in training norms divide by the statistics of the
        batch, and not by what they were set to.

        Args:
            x: Float (N, in, H, W), a few hundred pictures' worth.

        Returns:
            What the layer makes of it in evaluation mode.
        """
        step = self.wide.stride[0]
        seen = (
            (self.wide_norm, self.wide(x)),
            (self.point_norm, self.point(x[:, :, ::step, ::step])),
            (self.same_norm, x),
        )
        for norm, values in seen:
            if norm is None:
                continue
            weight, bias = _factor(norm)
            mean, variance = values.mean((0, 2, 3)), values.var((0, 2, 3), correction=0)
            cast(Tensor, norm.running_mean).copy_(mean)
            cast(Tensor, norm.running_var).copy_(variance)
            norm.weight.copy_(weight * (variance + norm.eps).sqrt())
            norm.bias.copy_(bias + weight * mean)
        self.eval()
        return cast(Tensor, self(x))


def _factor(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Factor and bias of a BatchNorm in evaluation mode, float64."""
    mean, variance = cast(Tensor, norm.running_mean).double(), cast(Tensor, norm.running_var).double()
    factor = norm.weight.detach().double() / (variance + norm.eps).sqrt()
    return factor, norm.bias.detach().double() - mean * factor


def _scaled(weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Filters and bias that do the same as the filters and a BatchNorm in evaluation mode, float64."""
    factor, bias = _factor(norm)
    return weight.detach().double() * factor[:, None, None, None], bias


class PlainTrunk(Trunk):
    """Four stages of plain convolutions, each halving the side; no ImageNet weights exist for it.

    Args:
        widths: Channels of the four stages.
        depths: Layers of each; the first has stride 2.
        in_channels: Channels of the input image.
        projected: Channels of a last 1×1 convolution without ReLU; 0 leaves it out. With it the map can have values of
            both signs, and as many channels as that of a network that it imitates (Chen et al., "Knowledge Distillation
            with the Reused Teacher Classifier", CVPR 2022, section 3).

    Raises:
        ConfigError: Not four stages, a number below 1, or ``projected`` below 0.
    """

    input_mean: ClassVar[tuple[float, float, float]] = (0.5, 0.5, 0.5)
    input_std: ClassVar[tuple[float, float, float]] = (0.25, 0.25, 0.25)

    def __init__(
        self, widths: Sequence[int], depths: Sequence[int], in_channels: int = 3, *, projected: int = 0
    ) -> None:
        if len(widths) != 4 or len(depths) != 4 or min(*widths, *depths, in_channels) < 1 or projected < 0:
            raise ConfigError(
                f"expected channels and layers of four stages, each at least 1, got {widths}, {depths}, "
                f"in_channels={in_channels} and projected={projected}"
            )
        super().__init__(in_channels, projected or widths[-1])
        layers, channels = [], in_channels
        for width, depth in zip(widths, depths, strict=True):
            for number in range(depth):
                layers.append(PlainLayer(channels, width, stride=2 if number == 0 else 1))
                channels = width
        self.layers = nn.Sequential(*layers)
        self.projection = nn.Conv2d(channels, projected, 1) if projected else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) images to (N, out_channels, H/16, W/16); H and W divisible by 16."""
        features: Tensor = self.layers(x)
        return features if self.projection is None else cast(Tensor, self.projection(features))

    def load_merged(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the network whose merged form, see :meth:`deployed`, has these tensors, in evaluation mode.

        Args:
            tensors: As ``deployed().state_dict()``.

        Raises:
            StateMismatchError: They are those of another network.
        """
        wanted = {name: value.shape for name, value in self.deployed().state_dict().items()}
        if wanted != {name: value.shape for name, value in tensors.items()}:
            raise StateMismatchError(
                f"expected the {len(wanted)} tensors of a merged network of {len(self.layers)} layers, got "
                f"{len(tensors)}, or some of other shapes"
            )
        for place, layer in enumerate(self.layers):
            cast(PlainLayer, layer).load_merged(tensors[f"{2 * place}.weight"], tensors[f"{2 * place}.bias"])
        if self.projection is not None:
            last = f"{2 * len(self.layers)}."
            self.projection.load_state_dict({name: tensors[last + name] for name in ("weight", "bias")})

    def settle(self, x: Tensor) -> None:
        """Let the norms of a network made by :meth:`load_merged` measure what they see, so that it can be trained on.

        Args:
            x: Float (N, 3, S, S), a few hundred pictures; what the network says of them stays the same. It is in
                evaluation mode afterwards.
        """
        for layer in self.layers:
            x = cast(PlainLayer, layer).settle(x)
        self.eval()

    def deployed(self) -> nn.Module:
        """The same function at inference, one convolution per layer."""
        layers = [layer for part in self.layers for layer in cast(PlainLayer, part).merged()]
        last = [] if self.projection is None else [copy.deepcopy(self.projection)]
        return nn.Sequential(*layers, *last).eval()


def plain_trunk(size: str, *, pretrained: bool = False, in_channels: int = 3) -> PlainTrunk:
    """Build a plain trunk of a named size.

    Args:
        size: Key of :data:`SIZES`.
        pretrained: Must be false: nobody publishes ImageNet weights of these networks.
        in_channels: Channels of the input image.

    Raises:
        ConfigError: There is no such size, or pretrained weights are asked for.
    """
    if size not in SIZES:
        raise ConfigError(f"expected one of {sorted(SIZES)}, got {size!r}")
    refuse_pretrained(size, pretrained)
    return PlainTrunk(*SIZES[size], in_channels=in_channels, projected=PROJECTED)
