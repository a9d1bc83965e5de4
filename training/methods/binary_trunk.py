"""Binary supervision of a trunk: the mean of its map, one logit. The simplest network that there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, conv2d

from training.backbones.base import Trunk
from training.errors import ConfigError
from training.methods.base import Method, at_least_float32, check_images, check_labels, without_autocast


@dataclass(frozen=True, slots=True, kw_only=True)
class BinaryTrunkConfig:
    """Settings.

    Attributes:
        dropout: Share of the mean feature's values that a training step leaves out.
        map_side: Cells along one side of the feature map: the input has 16 times as many pixels.
    """

    dropout: float = 0.2
    map_side: int = 14

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            ConfigError: A value is out of its range.
        """
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"binary-trunk: expected 0 <= dropout < 1, got {self.dropout}")
        if self.map_side < 1:
            raise ConfigError(f"binary-trunk: expected map_side >= 1, got {self.map_side}")


class BinaryLogits(NamedTuple):
    """Outputs, float32.

    Attributes:
        map: (N, m, m) logit of each cell alone, the class-activation map; without dropout its mean is ``image``.
        image: (N,) logit of the image; higher = bona fide.
    """

    map: Tensor
    image: Tensor


class BinaryLoss(NamedTuple):
    """Scalar."""

    total: Tensor


class BinaryTrunk(Method[BinaryLogits, BinaryLoss]):
    """A trunk, its mean over the cells, one logit.

    Args:
        trunk: Feature extractor of stride 16.
        config: Settings; the defaults if not given.

    Source: the binary baseline that papers on pixel-wise supervision compare with (George and Marcel, ICB 2019, section
    1); Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, eq. 2, for the map.
    """

    primary_score: ClassVar[str] = "image"

    def __init__(self, trunk: Trunk, config: BinaryTrunkConfig | None = None) -> None:
        super().__init__()
        self.config = config if config is not None else BinaryTrunkConfig()
        self.trunk = trunk
        self.dropout = nn.Dropout(self.config.dropout)
        self.last = nn.Linear(trunk.out_channels, 1)

    def forward(self, x: Tensor) -> BinaryLogits:
        """Map images to logits.

        Args:
            x: (N, C, 16 · map_side, 16 · map_side) float images, RGB, normalised as the trunk expects.

        Returns:
            Logits in float32, also under autocast: only the trunk runs in reduced precision.

        Raises:
            BatchError: The images have another size or number of channels.
        """
        check_images(x, self.trunk.in_channels, self.config.map_side * self.trunk.stride)
        return self.heads(self.trunk(x))

    def heads(self, features: Tensor) -> BinaryLogits:
        """Map what the trunk has found, (N, C, map_side, map_side), to logits."""
        with without_autocast(features.device.type):
            features = at_least_float32(features)
            cells = conv2d(features, self.last.weight[:, :, None, None], self.last.bias).squeeze(1)
            image: Tensor = self.last(self.dropout(features.mean(dim=(2, 3)))).squeeze(1)
        return BinaryLogits(cells, image)

    def loss(self, outputs: BinaryLogits, labels: Tensor) -> BinaryLoss:
        """Binary cross-entropy of the image.

        Args:
            outputs: What :meth:`forward` returned.
            labels: (N,) labels, 1 = bona fide, 0 = attack.

        Raises:
            BatchError: There is not one label per image.
        """
        y = check_labels(labels, outputs.image.shape[0])
        return BinaryLoss(binary_cross_entropy_with_logits(outputs.image, y))

    def scores(self, outputs: BinaryLogits) -> dict[str, Tensor]:
        """Turn the logit into (N,) scores in [0, 1], higher = bona fide."""
        return {"image": torch.sigmoid(outputs.image)}
