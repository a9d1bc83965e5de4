"""Parts of RFMeta: the feature extractor F, the meta learner M, the depth estimator D, and a trunk in the place of F.

The published F starts from random weights and wants a large set and a GPU. With a trunk in its place M and D read that
trunk's last map: colour alone (no HSV), no levels in between, a cell for every 16 pixels. The step stays the paper's,
the network is not: in tables of results it stands under a name of its own.

Source: Shao et al., "Regularized Fine-grained Meta Face Anti-spoofing", AAAI 2020, supplementary material, table of
layers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from training.backbones import Trunk

NormInit = Literal["normal", "uniform"]

IN_CHANNELS = 6  # red, green, blue, hue, saturation, value
STRIDE = 8  # input pixels per cell of the features and of the depth map
TRUNK_STRIDE = 16  # the same where another trunk extracts features


class Features(NamedTuple):
    """What the extractor gives.

    Attributes:
        deep: (N, 128 · width, m, m) features of the last block; the meta learner reads these.
        pyramid: (N, 384 · width, m, m) features of all three blocks, averaged to the size of the last; the depth
            estimator reads these.
    """

    deep: Tensor
    pyramid: Tensor


def conv_unit(in_channels: int, out_channels: int, momentum: float = 0.1) -> nn.Sequential:
    """3×3 convolution with bias, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1),
        nn.BatchNorm2d(out_channels, momentum=momentum),
        nn.ReLU(),
    )


def channels(published: int, width: float) -> int:
    """Channels of a layer at some width, at least one."""
    return max(1, int(published * width))


class Extractor(nn.Module, ABC):
    """What F is: images to :class:`Features`.

    Attributes:
        in_channels: Channels of the images.
        out_channels: Channels of the deep features.
        pyramid_channels: Channels of the pyramid.
    """

    in_channels: int
    out_channels: int
    pyramid_channels: int

    @abstractmethod
    def forward(self, x: Tensor) -> Features:
        """Map (N, in_channels, S, S) images to features of (S / stride)² cells."""

    @abstractmethod
    def deep(self, x: Tensor) -> Tensor:
        """The deep features alone, which is all that inference needs."""


class FeatureExtractor(Extractor):
    """F: ten convolutions in three blocks with a pooling after each; 1,731,108 parameters at width 1.

    Args:
        width: Factor on the channels.

    Source: RFMeta, supplementary material, table of layers.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        first, middle, wide = (channels(c, width) for c in (64, 128, 196))
        self.stem = conv_unit(IN_CHANNELS, first)
        self.blocks = nn.ModuleList(
            nn.Sequential(conv_unit(before, middle), conv_unit(middle, wide), conv_unit(wide, middle), nn.MaxPool2d(2))
            for before in (first, middle, middle)
        )
        self.in_channels, self.out_channels, self.pyramid_channels = IN_CHANNELS, middle, 3 * middle

    def forward(self, x: Tensor) -> Features:
        """Map (N, 6, S, S) images to :class:`Features` of (S / 8)² cells."""
        first, second, third = self.blocks
        one = first(self.stem(x))
        two = second(one)
        deep = third(two)
        # Adaptive pooling to the last level's size, whose factors are always 4 and 2.
        return Features(deep, torch.cat([avg_pool2d(one, 4), avg_pool2d(two, 2), deep], dim=1))

    def deep(self, x: Tensor) -> Tensor:
        """The deep features alone, which is all that inference needs."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x


class MetaLearner(nn.Module):
    """M: three convolutions, global average, one logit; 1,625,217 parameters at width 1.

    Args:
        width: Factor on the channels.
        momentum: Weight of the newest batch in the running statistics.
        in_channels: Channels of the deep features; ``None``: those of the published F.

    Source: RFMeta, supplementary material, table of layers.
    """

    def __init__(self, width: float = 1.0, momentum: float = 0.1, in_channels: int | None = None) -> None:
        super().__init__()
        low, middle, high = (channels(c, width) for c in (128, 256, 512))
        low = low if in_channels is None else in_channels
        self.convolutions = nn.Sequential(
            conv_unit(low, low, momentum),
            nn.MaxPool2d(2),
            conv_unit(low, middle, momentum),
            nn.MaxPool2d(2),
            conv_unit(middle, high, momentum),
        )
        self.classifier = nn.Linear(high, 1)

    def forward(self, deep: Tensor) -> Tensor:
        """Map deep features to (N,) logits, higher = bona fide."""
        logit: Tensor = self.classifier(self.convolutions(deep).mean(dim=(2, 3)))
        return logit.squeeze(1)


class DepthEstimator(nn.Sequential):
    """D: three convolutions, the last with batch norm and ReLU too; 517,251 parameters at width 1.

    Maps the pyramid (N, 384 · width, m, m) to depth maps (N, 1, m, m), values ≥ 0.

    Args:
        width: Factor on the channels.
        in_channels: Channels of the pyramid; ``None``: those of the published F.

    Source: RFMeta, supplementary material, table of layers.
    """

    def __init__(self, width: float = 1.0, in_channels: int | None = None) -> None:
        middle, low = channels(128, width), channels(64, width)
        first = 3 * middle if in_channels is None else in_channels
        super().__init__(conv_unit(first, middle), conv_unit(middle, low), conv_unit(low, 1))


class TrunkExtractor(Extractor):
    """F made of a trunk.

    Args:
        trunk: float32 (N, 3, S, S) to (N, C, S/16, S/16).
    """

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk
        self.in_channels, self.out_channels = trunk.in_channels, trunk.out_channels
        self.pyramid_channels = trunk.out_channels

    def forward(self, x: Tensor) -> Features:
        """Map (N, 3, S, S) images to one map (N, C, S/16, S/16) for M and D."""
        deep = self.deep(x)
        return Features(deep, deep)

    def deep(self, x: Tensor) -> Tensor:
        """That map."""
        return cast(Tensor, self.trunk(x))


def initialise(module: nn.Module, norm: NormInit) -> None:
    """First values. Source: RFMeta's released code: Xavier-normal weights, zero bias of linear layers and norms."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            if norm == "normal":
                nn.init.normal_(layer.weight, 1.0, 0.02)
            else:
                nn.init.uniform_(layer.weight, 0.02, 1.0)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_normal_(layer.weight)
            if isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.bias)
