"""DeepPixBiS: the pixel-wise supervised baseline that A-DeepPixBiS builds upon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from training.backbones.base import Trunk
from training.errors import ConfigError
from training.methods.base import Method, at_least_float32, check_images, check_labels, without_autocast


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepPixBiSConfig:
    """Settings of the loss and the size of the map.

    Attributes:
        lambda_pixel: Weight of the pixel loss; the image loss has the rest.
        pixel_smoothing: The targets of the map are 1 − this for bona fide and this for attacks.
        map_side: Cells along one side of the feature map: the input has 16 times as many pixels.
        score_head: Which of :meth:`DeepPixBiS.scores` decides.
    """

    lambda_pixel: float = 0.5
    pixel_smoothing: float = 0.01
    map_side: int = 14
    score_head: Literal["map", "binary", "combined"] = "map"

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            ConfigError: A value is out of its range.
        """
        if not 0.0 <= self.lambda_pixel <= 1.0:
            raise ConfigError(f"DeepPixBiS: expected 0 <= lambda_pixel <= 1, got {self.lambda_pixel}")
        if not 0.0 <= self.pixel_smoothing < 0.5:
            raise ConfigError(f"DeepPixBiS: expected 0 <= pixel_smoothing < 0.5, got {self.pixel_smoothing}")
        if self.map_side < 1:
            raise ConfigError(f"DeepPixBiS: expected map_side >= 1, got {self.map_side}")


class PixelLogits(NamedTuple):
    """Outputs of the heads, float32, before their sigmoids.

    Attributes:
        map: (N, m, m) logit of each cell; higher = bona fide.
        image: (N,) logit of the image; higher = bona fide.
    """

    map: Tensor
    image: Tensor


class PixelLosses(NamedTuple):
    """Scalars; ``total`` is λ · pixel + (1 − λ) · image."""

    total: Tensor
    pixel: Tensor
    image: Tensor


class DeepPixBiS(Method[PixelLogits, PixelLosses]):
    """A trunk, a 1×1 convolution to a map of probabilities, and a linear layer on that map.

    With the DenseNet-161 trunk and a map side of 14 it has 3,198,726 parameters.

    Args:
        trunk: Feature extractor of stride 16.
        config: Settings; the published ones if not given.

    Source: George & Marcel, "Deep Pixel-wise Binary Supervision for Face Presentation Attack Detection", ICB 2019;
    λ = 0.5 and mask targets of 0.99 and 0.01.
    """

    primary_score: ClassVar[str] = "map"

    def __init__(self, trunk: Trunk, config: DeepPixBiSConfig | None = None) -> None:
        super().__init__()
        self.config = config if config is not None else DeepPixBiSConfig()
        self.trunk = trunk
        self.pixel_head = nn.Conv2d(trunk.out_channels, 1, kernel_size=1)
        self.image_head = nn.Linear(self.config.map_side**2, 1)

    def forward(self, x: Tensor) -> PixelLogits:
        """Map images to logits.

        Args:
            x: (N, C, 16 · map_side, 16 · map_side) float images, RGB, normalised as the trunk expects.

        Returns:
            Logits in float32, also under autocast: only the trunk runs in reduced precision.

        Raises:
            BatchError: The images have another size or number of channels.
        """
        check_images(x, self.trunk.in_channels, self.config.map_side * self.trunk.stride)
        features: Tensor = self.trunk(x)
        with without_autocast(features.device.type):
            logits: Tensor = self.pixel_head(at_least_float32(features)).squeeze(1)
            # The linear layer reads the map after its sigmoid, as in the authors' code.
            image: Tensor = self.image_head(torch.sigmoid(logits).flatten(1)).squeeze(1)
        return PixelLogits(logits, image)

    def loss(self, outputs: PixelLogits, labels: Tensor) -> PixelLosses:
        """Binary cross-entropy of every cell and of the image.

        Args:
            outputs: What :meth:`forward` returned.
            labels: (N,) labels, 1 = bona fide, 0 = attack.

        Raises:
            BatchError: There is not one label per image.

        Source: George & Marcel, ICB 2019: λ · L_pix + (1 − λ) · L_bin.
        """
        y = check_labels(labels, outputs.image.shape[0])
        smoothing = self.config.pixel_smoothing
        cell_targets = (smoothing + y * (1.0 - 2.0 * smoothing)).reshape(-1, 1, 1).expand_as(outputs.map)
        pixel = binary_cross_entropy_with_logits(outputs.map, cell_targets)
        image = binary_cross_entropy_with_logits(outputs.image, y)
        weight = self.config.lambda_pixel
        return PixelLosses(weight * pixel + (1.0 - weight) * image, pixel, image)

    def scores(self, outputs: PixelLogits) -> dict[str, Tensor]:
        """Turn logits into (N,) scores in [0, 1], higher = bona fide.

        Returns:
            ``map``: mean of the map. ``binary``: probability of the image head. ``combined``: the mean of both.

        Source: George & Marcel, ICB 2019; the mean of the map is the published score.
        """
        cells = torch.sigmoid(outputs.map).mean(dim=(1, 2))
        image = torch.sigmoid(outputs.image)
        return {"map": cells, "binary": image, "combined": (cells + image) / 2.0}
