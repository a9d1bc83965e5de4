"""RFMeta: a feature extractor, a meta learner and a depth estimator that regularises both steps of meta-learning.

Source: Shao et al., "Regularized Fine-grained Meta Face Anti-spoofing", AAAI 2020, with the layer table of its
supplementary material. Where the text, the released code and good numerics differ, the difference is a field of
:class:`RFMetaConfig` with one value per profile. The step that trains the network is in
:mod:`training.methods.meta_step`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate, relu

from training.errors import BatchError, ConfigError
from training.methods.base import Method, at_least_float32, check_images, check_labels, without_autocast
from training.methods.rfmeta_networks import (
    STRIDE,
    TRUNK_STRIDE,
    DepthEstimator,
    Extractor,
    FeatureExtractor,
    Features,
    MetaLearner,
    NormInit,
    initialise,
)

DepthReduction = Literal["mean", "sum"]
ExtractorName = Literal["published", "trunk"]
ProfileName = Literal["paper", "official", "default"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RFMetaConfig:
    """Settings of the networks and their losses; the defaults are the profile ``default``.

    Attributes:
        input_side: Pixels along one side of the input; the depth map has an eighth.
        width: Factor on every number of channels and hidden features; 1 is the published network.
        extractor: ``published``, or a ``trunk`` of stride 16 in its place: no part of the paper, but one that can start
            from ImageNet weights.
        depth_head: Have a depth estimator. Without one the network is a plain binary classifier.
        depth_weight: Weight of the depth loss; 0 is the ablation without regularisation.
        depth_reduction: ``mean`` squared error over all cells, or ``sum`` over the cells of a map and mean over maps.
        learner_norm_momentum: Weight of the newest batch in the running statistics of the meta learner. 1 keeps the
            last batch only, which is one domain.
        norm_init: First values of the scales of batch norm: ``normal`` N(1, 0.02), or ``uniform`` in (0.02, 1], which
            is what the released code's mistyped call amounts to.
        reestimate_norm: Measure the running statistics anew after training, on batches of all domains.
    """

    input_side: int = 256
    width: float = 1.0
    extractor: ExtractorName = "published"
    depth_head: bool = True
    depth_weight: float = 10.0
    depth_reduction: DepthReduction = "mean"
    learner_norm_momentum: float = 0.1
    norm_init: NormInit = "normal"
    reestimate_norm: bool = True

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            ConfigError: A value is out of its range.
        """
        rules = (
            (
                "input_side",
                self.input_side >= 4 * self.stride and self.input_side % self.side_step == 0,
                f"a multiple of {self.side_step}, at least {4 * self.stride}",
            ),
            ("extractor", self.extractor in ("published", "trunk"), "'published' or 'trunk'"),
            ("width", 0.0 < self.width <= 4.0, "0 < width <= 4"),
            ("depth_weight", 0.0 <= self.depth_weight < math.inf, "depth_weight >= 0"),
            ("depth_head", self.depth_head or self.depth_weight == 0.0, "depth_weight 0 without a depth head"),
            ("depth_reduction", self.depth_reduction in ("mean", "sum"), "'mean' or 'sum'"),
            ("learner_norm_momentum", 0.0 < self.learner_norm_momentum <= 1.0, "0 < learner_norm_momentum <= 1"),
            ("norm_init", self.norm_init in ("normal", "uniform"), "'normal' or 'uniform'"),
        )
        for name, holds, wanted in rules:
            if not holds:
                raise ConfigError(f"RFMeta: expected {wanted}, got {name}={getattr(self, name)!r}")

    @classmethod
    def from_profile(cls, name: ProfileName) -> RFMetaConfig:
        """Return the settings of the paper's text, of the released code, or our own.

        Raises:
            ConfigError: There is no such profile.
        """
        if name not in PROFILES:
            raise ConfigError(f"expected one of the profiles {sorted(PROFILES)}, got {name!r}")
        return PROFILES[name]

    def for_cpu(self, side: int = 64, width: float = 0.125) -> RFMetaConfig:
        """Return the same settings for a small network, for machines without an accelerator."""
        return replace(self, input_side=side, width=width)

    @property
    def stride(self) -> int:
        """Input pixels per cell of the features and of the depth map."""
        return STRIDE if self.extractor == "published" else TRUNK_STRIDE

    @property
    def side_step(self) -> int:
        """What the side of the input is a multiple of: the published M halves its cells twice without a rest."""
        return 4 * STRIDE if self.extractor == "published" else TRUNK_STRIDE

    @property
    def map_side(self) -> int:
        """Cells along one side of the depth map."""
        return self.input_side // self.stride


PROFILES: dict[str, RFMetaConfig] = {
    "default": RFMetaConfig(),
    "paper": RFMetaConfig(depth_weight=1.0, depth_reduction="sum", reestimate_norm=False),
    "official": RFMetaConfig(learner_norm_momentum=1.0, norm_init="uniform", reestimate_norm=False),
}


class RFMetaOutputs(NamedTuple):
    """Outputs of both heads, float32.

    Attributes:
        logit: (N,) logit; higher = bona fide.
        depth: (N, m, m) depth map ≥ 0, nearer = larger, or ``None`` without a depth estimator.
    """

    logit: Tensor
    depth: Tensor | None


class RFMetaLosses(NamedTuple):
    """Scalars; ``total`` is binary + depth_weight · depth."""

    total: Tensor
    binary: Tensor
    depth: Tensor


class RFMeta(Method[RFMetaOutputs, RFMetaLosses]):
    """The three networks of RFMeta.

    Args:
        config: Settings; the profile ``default`` if not given.
        extractor: F, where it is not the published one.

    Raises:
        ConfigError: The settings ask for another F than there is.

    Attributes:
        extractor: F.
        learner: M, the only part that the inner step changes.
        estimator: D, or ``None``; of no use after training.

    Source: RFMeta, figure 2 and supplementary material.
    """

    primary_score: ClassVar[str] = "binary"

    def __init__(self, config: RFMetaConfig | None = None, extractor: Extractor | None = None) -> None:
        super().__init__()
        self.config = config if config is not None else RFMetaConfig()
        if (self.config.extractor == "trunk") != (extractor is not None):
            raise ConfigError(f"RFMeta: extractor={self.config.extractor!r} does not go with the network that is given")
        width = self.config.width
        own = extractor if extractor is not None else FeatureExtractor(width)
        self.extractor: Extractor = own
        self.learner = MetaLearner(width, self.config.learner_norm_momentum, own.out_channels)
        self.estimator = DepthEstimator(width, own.pyramid_channels) if self.config.depth_head else None
        for part in (self.extractor if extractor is None else None, self.learner, self.estimator):
            if part is not None:  # a trunk keeps the weights that it comes with
                initialise(part, self.config.norm_init)

    def forward(self, x: Tensor) -> RFMetaOutputs:
        """Map images to a logit and a depth map.

        Args:
            x: (N, 6, S, S) float images of :class:`training.methods.hsv.RgbHsvInput`, S = ``config.input_side``; with
                a trunk (N, 3, S, S), as it wants them.

        Returns:
            Outputs in float32, also under autocast: only F and D run in reduced precision.

        Raises:
            BatchError: The images have another size or number of channels.
        """
        features = self.features(x)
        return RFMetaOutputs(self.logits(features.deep), self.depth(features.pyramid) if self.estimator else None)

    def features(self, x: Tensor) -> Features:
        """Check images and extract their features.

        Raises:
            BatchError: The images have another size or number of channels.
        """
        check_images(x, self.extractor.in_channels, self.config.input_side)
        features: Features = self.extractor(x)
        return features

    def logits(self, deep: Tensor) -> Tensor:
        """Run M in float32: (N,) logits."""
        with without_autocast(deep.device.type):
            logit: Tensor = self.learner(at_least_float32(deep))
            return logit

    def depth(self, pyramid: Tensor) -> Tensor:
        """Run D: (N, m, m) depth maps in float32.

        Raises:
            ConfigError: The network has no depth estimator.
        """
        if self.estimator is None:
            raise ConfigError("RFMeta: depth maps need depth_head=True in the configuration")
        depth: Tensor = self.estimator(pyramid)
        return at_least_float32(depth).squeeze(1)

    def classify(self, x: Tensor) -> Tensor:
        """Map images to logits (N,) without depth: F without its short-cuts, and M; what is exported.

        Raises:
            BatchError: The images have another size or number of channels.
        """
        check_images(x, self.extractor.in_channels, self.config.input_side)
        return self.logits(self.extractor.deep(x))

    def loss(self, outputs: RFMetaOutputs, labels: Tensor, depth: Tensor | None = None) -> RFMetaLosses:
        """Cross-entropy and depth regression of one batch, without any meta-learning.

        Args:
            outputs: What :meth:`forward` returned.
            labels: (N,) labels, 1 = bona fide, 0 = attack.
            depth: (N, m, m) depth targets in [0, 1], zeros for attacks; not needed when ``depth_weight`` is 0.

        Raises:
            BatchError: A shape does not fit, or depth targets are needed and missing.

        Source: RFMeta, eq. 1 and 2.
        """
        binary = class_loss(outputs.logit, labels)
        if self.config.depth_weight == 0.0:
            return RFMetaLosses(binary, binary, torch.zeros_like(binary))
        if depth is None or outputs.depth is None:
            raise BatchError("RFMeta: expected depth targets (N, m, m) in the batch, got none; or set depth_weight=0")
        regression = depth_loss(outputs.depth, depth, self.config.depth_reduction)
        return RFMetaLosses(binary + self.config.depth_weight * regression, binary, regression)

    def scores(self, outputs: RFMetaOutputs) -> dict[str, Tensor]:
        """Turn outputs into (N,) scores in [0, 1], higher = bona fide.

        Returns:
            ``binary``: σ(logit), the published score. ``depth``, where there is a depth map: its mean, cut at 1.

        Source: RFMeta's released code for ``binary``; Liu et al., "Learning Deep Models for Face Anti-Spoofing: Binary
        or Auxiliary Supervision", CVPR 2018, scores depth maps by their norm.
        """
        scores = {"binary": torch.sigmoid(outputs.logit)}
        if outputs.depth is not None:
            scores["depth"] = outputs.depth.mean(dim=(1, 2)).clamp(max=1.0)
        return scores

    def attention(self, x: Tensor) -> Tensor:
        """Which places speak for bona fide: the class activation map of M, exact because M ends in a mean.

        Args:
            x: (N, 6, S, S) images.

        Returns:
            (N, S, S), ≥ 0, enlarged to the input: ReLU of Σ_k w_k · A_k, in units of the logit.

        Source: Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, eq. 2.
        """
        check_images(x, self.extractor.in_channels, self.config.input_side)
        cells = self.learner.convolutions(at_least_float32(self.extractor.deep(x)))
        weights = self.learner.classifier.weight.reshape(1, -1, 1, 1)
        activation = relu((weights * cells).sum(dim=1, keepdim=True))
        return interpolate(activation, size=x.shape[2:], mode="bilinear", align_corners=False).squeeze(1)


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy of (N,) logits, in float32.

    Raises:
        BatchError: There is not one label per logit.

    Source: RFMeta, eq. 1 (printed without its minus sign).
    """
    y = check_labels(labels, logits.shape[0])
    logits = at_least_float32(logits)
    return binary_cross_entropy_with_logits(logits, y.to(logits.dtype))


def depth_loss(maps: Tensor, targets: Tensor, reduction: DepthReduction = "mean") -> Tensor:
    """Squared error of depth maps (N, m, m), in float32.

    Raises:
        BatchError: The shapes differ.

    Source: RFMeta, eq. 2 (a sum of squares); its released code takes the mean.
    """
    if maps.shape != targets.shape:
        raise BatchError(f"expected depth targets of shape {tuple(maps.shape)}, got {tuple(targets.shape)}")
    maps = at_least_float32(maps)
    error = (maps - targets.to(maps.dtype)).square()
    return error.mean() if reduction == "mean" else error.sum(dim=(1, 2)).mean()
