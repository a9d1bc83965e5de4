"""Baselines with depth, beside which CMFL is reported: fusion at the input, in between, behind the trunks, of scores.

Most are settings of networks that exist. :data:`RGBD_METHODS` names them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from training.backbones import DenseNetTrunk, densenet161_trunk, load_torchvision_weights
from training.errors import BatchError, ConfigError
from training.methods.base import Method, at_least_float32, check_labels, without_autocast
from training.methods.baselines import DeepPixBiS, DeepPixBiSConfig, PixelLogits, PixelLosses
from training.methods.cmfl import CMFL, CMFLConfig, check_stream, densenet_cmfl, split_rgbd

#: torchvision's DenseNet-161 weights: a file, a mapping, or ``None`` for random ones.
Weights: TypeAlias = Path | str | Mapping[str, Tensor] | None

_STRIDE = 16
# The features that multi-level fusion takes from a trunk: the last layer of each level.
_LEVELS = ("pool0", "transition1", "transition2")


def rgbd_mh_bce(config: CMFLConfig | None = None, *, width: float = 1.0, weights: Weights = None) -> CMFL:
    """Build RGBD-MH-BCE: CMFL whose branches learn by plain cross-entropy (γ = 0, whatever ``config`` says).

    Source: George & Marcel, CVPR 2021, ablation of the loss.
    """
    return densenet_cmfl(replace(config or CMFLConfig(), gamma=0.0), width=width, weights=weights)


def late_fusion(config: CMFLConfig | None = None, *, width: float = 1.0, weights: Weights = None) -> CMFL:
    """Build fusion of embeddings: both trunks' mean features side by side, one head, cross-entropy.

    This is CMFL with β = 0, whatever ``config`` says. Its branch heads exist but learn nothing and give no scores.
    """
    return densenet_cmfl(replace(config or CMFLConfig(), beta=0.0), width=width, weights=weights)


def mc_pixbis(
    *, side_px: int = 224, config: DeepPixBiSConfig | None = None, width: float = 1.0, weights: Weights = None
) -> DeepPixBiS:
    """Build MC-PixBiS: DeepPixBiS on (N, 4, S, S) images, colour and depth fused by the first convolution.

    At width 1 and 224 pixels it has 3,203,430 parameters. Each of the four input slots of the first convolution
    starts from the mean of the pretrained colour slots.

    Raises:
        ConfigError: The side is not a positive multiple of 16.

    Source: Heusch et al., "Deep Models and Shortwave Infrared Information to Detect Face Presentation Attacks", T-BIOM
    2020 (multi-channel input); George & Marcel, ICB 2019 (network and loss).
    """
    return _deeppixbis(4, side_px, config, width, weights)


def deeppixbis_depth(
    *, side_px: int = 224, config: DeepPixBiSConfig | None = None, width: float = 1.0, weights: Weights = None
) -> DeepPixBiS:
    """Build DeepPixBiS on depth alone, (N, 1, S, S); the first convolution starts from the mean over colour.

    Raises:
        ConfigError: The side is not a positive multiple of 16.

    Source: George & Marcel, ICB 2019.
    """
    return _deeppixbis(1, side_px, config, width, weights)


def score_fusion(
    *, side_px: int = 224, config: DeepPixBiSConfig | None = None, width: float = 1.0, weights: Weights = None
) -> ScoreFusion:
    """Build :class:`ScoreFusion` of two DeepPixBiS.

    Raises:
        ConfigError: The side is not a positive multiple of 16.
    """
    rgb, depth = (_deeppixbis(channels, side_px, config, width, weights) for channels in (3, 1))
    return ScoreFusion(rgb, depth)


def multi_level_fusion(*, width: float = 1.0, weights: Weights = None) -> MultiLevelFusion:
    """Build :class:`MultiLevelFusion` of two DenseNet-161 trunks."""
    return MultiLevelFusion(_trunk(3, width, weights), _trunk(1, width, weights))


class FusedPixelLogits(NamedTuple):
    """Outputs of two DeepPixBiS.

    Attributes:
        rgb: Logits of the network on colour.
        depth: Logits of the network on depth; ``None`` where there was no depth.
    """

    rgb: PixelLogits
    depth: PixelLogits | None


class FusedPixelLosses(NamedTuple):
    """``total`` is the sum of both networks' totals."""

    total: Tensor
    rgb: PixelLosses
    depth: PixelLosses


class ScoreFusion(Method[FusedPixelLogits, FusedPixelLosses]):
    """Two DeepPixBiS, on colour and on depth, whose scores are averaged.

    They share nothing, so that the sum of their losses trains each as if it were alone (unless the optimiser clips the
    norm of all gradients together).

    Args:
        rgb: Network on three channels.
        depth: Network on one channel.

    Raises:
        ConfigError: A network takes another number of channels.

    Source: score fusion as in George et al., "Biometric Face Presentation Attack Detection with Multi-Channel
    Convolutional Neural Network", T-IFS 2020 (mean of scores).
    """

    primary_score: ClassVar[str] = "mean"

    def __init__(self, rgb: DeepPixBiS, depth: DeepPixBiS) -> None:
        super().__init__()
        _check_channels("score fusion", rgb.trunk.in_channels, depth.trunk.in_channels)
        self.rgb = rgb
        self.depth = depth

    def forward(self, x: Tensor) -> FusedPixelLogits:
        """Map (N, 4, S, S) float images, red, green, blue, depth, to logits.

        Raises:
            BatchError: The images have another size or number of channels.
        """
        return self.logits(*split_rgbd(x))

    def logits(self, rgb: Tensor, depth: Tensor | None) -> FusedPixelLogits:
        """Map (N, 3, S, S) colour, and (N, 1, S, S) depth where there is some, to logits.

        Raises:
            BatchError: A shape is wrong.
        """
        return FusedPixelLogits(self.rgb(rgb), None if depth is None else self.depth(depth))

    def loss(self, outputs: FusedPixelLogits, labels: Tensor) -> FusedPixelLosses:
        """Sum of both networks' losses.

        Raises:
            BatchError: There is not one label per image, or depth is missing.
        """
        if outputs.depth is None:
            raise BatchError("score fusion learns from colour with depth, but these outputs were made without depth")
        rgb, depth = self.rgb.loss(outputs.rgb, labels), self.depth.loss(outputs.depth, labels)
        return FusedPixelLosses(rgb.total + depth.total, rgb, depth)

    def scores(self, outputs: FusedPixelLogits) -> dict[str, Tensor]:
        """Turn logits into (N,) scores in [0, 1], higher = bona fide.

        Returns:
            ``rgb`` and ``depth``: the network's score, by default the mean of its map. ``mean``: the mean of both.
            Without depth ``rgb`` only.
        """
        rgb = self.rgb.scores(outputs.rgb)[self.rgb.config.score_head]
        if outputs.depth is None:
            return {"rgb": rgb}
        depth = self.depth.scores(outputs.depth)[self.depth.config.score_head]
        return {"mean": (rgb + depth) / 2.0, "rgb": rgb, "depth": depth}


class FusedLogits(NamedTuple):
    """``image``: (N,) float32 logits; higher = bona fide."""

    image: Tensor


class ImageLosses(NamedTuple):
    """One scalar: the cross-entropy."""

    total: Tensor


class MultiLevelFusion(Method[FusedLogits, ImageLosses]):
    """Two trunks whose features are fused at three depths, in the manner of MC-ResNetDLAS.

    At each level (behind the first pooling and behind either transition) both streams' features are put side by side
    and mixed by a 1×1 convolution; a strided 3×3 convolution carries what was fused before to the next level, where
    it is added. One linear layer reads the mean of the last level.

    Simplified against the original, so that what is compared is where to fuse and not which trunk: DenseNet-161 trunks
    as in every network here in place of ResNet-34, ImageNet instead of face-recognition weights, no squeeze-and-
    excitation, two streams instead of three, one network instead of an ensemble. Do not report it as MC-ResNetDLAS.

    Args:
        rgb_trunk: Trunk for three channels.
        depth_trunk: Trunk for one channel, of the same width.

    Raises:
        ConfigError: A trunk takes another number of channels, or the widths differ.

    Source: Parkin & Grinchuk, "Recognizing Multi-Modal Face Spoofing with Face Recognition Networks", CVPRW 2019,
    aggregation at several levels.
    """

    primary_score: ClassVar[str] = "binary"

    def __init__(self, rgb_trunk: DenseNetTrunk, depth_trunk: DenseNetTrunk) -> None:
        super().__init__()
        _check_channels("multi-level fusion", rgb_trunk.in_channels, depth_trunk.in_channels)
        channels = _level_channels(rgb_trunk)
        if channels != _level_channels(depth_trunk):
            raise ConfigError(
                f"multi-level fusion: expected trunks of one width, got levels of {channels} and "
                f"{_level_channels(depth_trunk)} channels"
            )
        self.rgb_trunk = rgb_trunk
        self.depth_trunk = depth_trunk
        self.mix = nn.ModuleList(_conv_norm(2 * count, count, kernel=1, stride=1) for count in channels)
        steps = pairwise(channels)
        self.carry = nn.ModuleList(_conv_norm(before, after, kernel=3, stride=2) for before, after in steps)
        self.head = nn.Linear(channels[-1], 1)

    def forward(self, x: Tensor) -> FusedLogits:
        """Map images to logits.

        Args:
            x: (N, 4, H, W) float images, red, green, blue, depth, normalised as the trunks expect.

        Returns:
            Logits in float32, also under autocast.

        Raises:
            BatchError: There are not four channels, or the stride does not divide the sides.
        """
        check_stream(x, 4, _STRIDE)
        colour, distance = split_rgbd(x)
        rgb, depth = _levels(self.rgb_trunk, colour), _levels(self.depth_trunk, distance)
        fused: Tensor = self.mix[0](torch.cat([rgb[0], depth[0]], dim=1))
        for mix, carry, of_rgb, of_depth in zip(self.mix[1:], self.carry, rgb[1:], depth[1:], strict=True):
            fused = mix(torch.cat([of_rgb, of_depth], dim=1)) + carry(fused)
        with without_autocast(fused.device.type):
            return FusedLogits(self.head(at_least_float32(fused).mean(dim=(2, 3))).squeeze(1))

    def loss(self, outputs: FusedLogits, labels: Tensor) -> ImageLosses:
        """Binary cross-entropy.

        Raises:
            BatchError: There is not one label per image.
        """
        y = check_labels(labels, outputs.image.shape[0])
        return ImageLosses(binary_cross_entropy_with_logits(outputs.image, y))

    def scores(self, outputs: FusedLogits) -> dict[str, Tensor]:
        """Return ``binary``: the (N,) probability of a bona fide presentation."""
        return {"binary": torch.sigmoid(outputs.image)}


#: Baselines with depth by name; every constructor takes ``width`` and ``weights``. All but ``deeppixbis-depth`` (depth
#: alone, one channel) see four channels.
RGBD_METHODS: dict[str, Callable[..., Method[Any, Any]]] = {
    "rgbd-mh-bce": rgbd_mh_bce,
    "late-fusion": late_fusion,
    "mc-pixbis": mc_pixbis,
    "deeppixbis-depth": deeppixbis_depth,
    "score-fusion": score_fusion,
    "multi-level-fusion": multi_level_fusion,
}


def _trunk(channels: int, width: float, weights: Weights) -> DenseNetTrunk:
    trunk = densenet161_trunk(channels, width)
    if weights is not None:
        load_torchvision_weights(trunk, weights)
    return trunk


def _deeppixbis(
    channels: int, side_px: int, config: DeepPixBiSConfig | None, width: float, weights: Weights
) -> DeepPixBiS:
    if side_px < _STRIDE or side_px % _STRIDE:
        raise ConfigError(f"expected an input side that is a multiple of {_STRIDE}, got {side_px}")
    settings = replace(config or DeepPixBiSConfig(), map_side=side_px // _STRIDE)
    return DeepPixBiS(_trunk(channels, width, weights), settings)


def _check_channels(what: str, rgb: int, depth: int) -> None:
    if (rgb, depth) != (3, 1):
        raise ConfigError(
            f"{what}: expected a network with 3 input channels and one with 1, got {rgb} and {depth}; "
            "colour comes first"
        )


def _conv_norm(in_channels: int, out_channels: int, *, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def _level_channels(trunk: DenseNetTrunk) -> tuple[int, int, int]:
    """Channels of the three levels of a trunk."""
    first = trunk.features.get_submodule("conv0")
    second = trunk.features.get_submodule("transition1.conv")
    if not isinstance(first, nn.Conv2d) or not isinstance(second, nn.Conv2d):
        raise ConfigError("expected a DenseNet trunk with the layers conv0 and transition1.conv")
    return first.out_channels, second.out_channels, trunk.out_channels


def _levels(trunk: DenseNetTrunk, x: Tensor) -> list[Tensor]:
    """Features behind each level."""
    taken = []
    for name, layer in trunk.features.named_children():
        x = layer(x)
        if name in _LEVELS:
            # No copy needed: the in-place rectifiers of the next block only touch what its norms have made.
            taken.append(x)
    return taken
