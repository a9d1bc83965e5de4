"""CMFL: two streams, colour and depth, whose losses discount what both streams already know.

Source: George & Marcel, "Cross Modal Focal Loss for RGBD Face Anti-Spoofing", CVPR 2021. Where the text and the
released code differ, the difference is a field of :class:`CMFLConfig` with one value per profile.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from training.backbones import densenet161_trunk, load_torchvision_weights
from training.backbones.base import Trunk
from training.errors import BatchError, ConfigError
from training.inputs_depth import ByteNormalisation
from training.methods.base import Method, at_least_float32, check_labels, without_autocast

EmbedAct = Literal["sigmoid", "identity"]
ProfileName = Literal["paper", "official", "default"]
ScoreHead = Literal["joint", "rgb", "depth", "both", "mean3"]

# Which heads a score is made from.
_HEADS_OF_SCORE: dict[str, tuple[str, ...]] = {
    "joint": ("joint",),
    "rgb": ("rgb",),
    "depth": ("depth",),
    "both": ("rgb", "depth"),
    "mean3": ("rgb", "depth", "joint"),
}
# 1 − w is kept above this: with γ < 1 its power has no finite slope at 0.
_SMALLEST_REST = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class CMFLConfig:
    """Settings of the heads and the loss; the defaults are the profile ``default``.

    Attributes:
        alpha: Factor α on the focal loss of a branch.
        gamma: Focusing exponent γ; 0 makes both branch losses plain cross-entropies (RGBD-MH-BCE).
        beta: Weight of the two branch losses; the joint head's cross-entropy has the rest. With 0 only the joint head
            learns, with 1 only the branches do.
        branch_weight: Weight of either branch in their sum: 0.5 in the released code, 1 in the paper's text.
        detach_weight: No gradient through the other branch's probability inside the weight w.
        attack_only: Discount attacks only; bona fide presentations have w = 0.
        embed_act: What follows the global mean of the features: ``sigmoid`` as released, or nothing.
        normalisation: Of the bytes: ``unit`` divides by 255, ``imagenet`` also subtracts the mean of ImageNet and
            divides by its deviation. Read by whoever builds the input layer, see
            :func:`training.inputs_depth.rgbd_input`.
        score_head: Which of the scores :meth:`CMFL.score` returns.
    """

    alpha: float = 1.0
    gamma: float = 3.0
    beta: float = 0.5
    branch_weight: float = 0.5
    detach_weight: bool = False
    attack_only: bool = False
    embed_act: EmbedAct = "sigmoid"
    normalisation: ByteNormalisation = "unit"
    score_head: ScoreHead = "joint"

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            ConfigError: A value is out of its range, or the score comes from a head that learns nothing.
        """
        rules = (
            ("alpha", 0.0 < self.alpha < math.inf, "alpha > 0"),
            ("gamma", 0.0 <= self.gamma < math.inf, "gamma >= 0"),
            ("beta", 0.0 <= self.beta <= 1.0, "0 <= beta <= 1"),
            ("branch_weight", 0.0 < self.branch_weight < math.inf, "branch_weight > 0"),
            ("embed_act", self.embed_act in ("sigmoid", "identity"), "'sigmoid' or 'identity'"),
            ("normalisation", self.normalisation in ("unit", "imagenet"), "'unit' or 'imagenet'"),
            ("score_head", self.score_head in _HEADS_OF_SCORE, f"one of {sorted(_HEADS_OF_SCORE)}"),
        )
        for name, holds, wanted in rules:
            if not holds:
                raise ConfigError(f"CMFL: expected {wanted}, got {name}={getattr(self, name)!r}")
        if not set(_HEADS_OF_SCORE[self.score_head]) <= self.trained_heads():
            raise ConfigError(
                f"CMFL: with beta={self.beta} only the heads {sorted(self.trained_heads())} learn, but score_head is "
                f"{self.score_head!r}; choose a score of theirs, or 0 < beta < 1"
            )

    def trained_heads(self) -> frozenset[str]:
        """Names of the heads that the loss trains."""
        heads = {"rgb", "depth"} if self.beta > 0.0 else set()
        return frozenset(heads | {"joint"} if self.beta < 1.0 else heads)

    @classmethod
    def from_profile(cls, name: ProfileName) -> CMFLConfig:
        """Return the settings of the paper's text, of the released code, or our own.

        Raises:
            ConfigError: There is no such profile.
        """
        if name not in PROFILES:
            raise ConfigError(f"expected one of the profiles {sorted(PROFILES)}, got {name!r}")
        return PROFILES[name]


PROFILES: dict[str, CMFLConfig] = {
    "default": CMFLConfig(),
    "paper": CMFLConfig(branch_weight=1.0),
    "official": CMFLConfig(branch_weight=0.5),
}


class StreamLogits(NamedTuple):
    """Outputs of the heads, float32, before their sigmoids; higher = bona fide.

    Attributes:
        rgb: (N,) logit of the colour branch, p = σ(rgb).
        depth: (N,) logit of the depth branch, q = σ(depth); ``None`` where there was no depth.
        joint: (N,) logit of both together, r = σ(joint); ``None`` where there was no depth.
    """

    rgb: Tensor
    depth: Tensor | None
    joint: Tensor | None


class CMFLLosses(NamedTuple):
    """Scalars; ``total`` is β · branch_weight · (rgb + depth) + (1 − β) · joint."""

    total: Tensor
    rgb: Tensor
    depth: Tensor
    joint: Tensor


def log_cross_weight(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Logarithm of w(p, q) = q · 2pq / (p + q), for probabilities given by their logarithms.

    w lies in [0, 1] and comes near 1 only where both branches are right and sure. In logarithms neither sure nor
    hopeless branches lose digits: 2 / (p + q) is taken as the inverse of the mean.

    Args:
        log_p: Logarithm of the branch's own probability of the true class, any shape, ≤ 0 and finite.
        log_q: That of the other branch, same shape.

    Returns:
        log w, same shape, ≤ 0. Not symmetric.

    Source: CMFL, eq. for w(p_t, q_t): the other branch's probability times the harmonic mean of both.
    """
    log_mean = torch.maximum(log_p, log_q) + torch.log1p(0.5 * torch.expm1(-(log_p - log_q).abs()))
    return log_p + 2.0 * log_q - log_mean


def cross_modal_focal_loss(logits: Tensor, other: Tensor, labels: Tensor, config: CMFLConfig) -> Tensor:
    """Cross-modal focal loss of every sample for one branch.

    CMFL(p_t, q_t) = −α · (1 − w(p_t, q_t))^γ · log p_t, p_t and q_t being the two branches' probabilities of the true
    class. A label between 0 and 1 mixes the losses of the two classes, so that γ = 0 stays the cross-entropy.

    Args:
        logits: (N,) logits of the branch; half precision is raised to float32.
        other: (N,) logits of the other branch.
        labels: (N,) 1 = bona fide, 0 = attack, or a probability in between.
        config: ``alpha``, ``gamma``, ``detach_weight`` and ``attack_only`` are used.

    Returns:
        (N,) losses.

    Raises:
        BatchError: The shapes differ.

    Source: CMFL, eq. for L_CMFL(p, q); ``detach_weight`` and ``attack_only`` are flags of the released code.
    """
    if not logits.shape == other.shape == labels.shape:
        raise BatchError(
            f"expected logits of both branches and labels of one shape, got {tuple(logits.shape)}, "
            f"{tuple(other.shape)} and {tuple(labels.shape)}"
        )
    with without_autocast(logits.device.type):
        z, z_other = at_least_float32(logits), at_least_float32(other)
        if config.detach_weight:
            z_other = z_other.detach()
        y = labels.to(z.dtype)
        bona_fide = _focal(z, z_other, 0.0 if config.attack_only else config.gamma)
        attack = _focal(-z, -z_other, config.gamma)
        return config.alpha * (y * bona_fide + (1.0 - y) * attack)


def _focal(z: Tensor, z_other: Tensor, gamma: float) -> Tensor:
    """−(1 − w)^γ · log σ(z) for samples of the class that a high z speaks for."""
    log_p = logsigmoid(z)
    if gamma == 0.0:
        return -log_p
    rest = -torch.expm1(log_cross_weight(log_p, logsigmoid(z_other)))
    return -(rest.clamp_min(_SMALLEST_REST) ** gamma) * log_p


def split_rgbd(x: Tensor) -> tuple[Tensor, Tensor]:
    """Part (N, 4, H, W) images into colour (N, 3, H, W) and depth (N, 1, H, W).

    Raises:
        BatchError: There are not four channels.
    """
    if x.ndim != 4 or x.shape[1] != 4:
        raise BatchError(
            f"expected images of shape (N, 4, H, W), red, green, blue, depth, got {tuple(x.shape)}; where there is no "
            "depth, call logits(rgb, None)"
        )
    return x[:, :3], x[:, 3:]


def check_stream(x: Tensor, channels: int, stride: int) -> None:
    """Check the shape of the images of one stream.

    Raises:
        BatchError: Another number of channels, or sides that are not multiples of the stride.
    """
    if x.ndim != 4 or x.shape[1] != channels or any(side < stride or side % stride for side in x.shape[2:]):
        raise BatchError(
            f"expected images of shape (N, {channels}, H, W) with sides that are multiples of {stride}, "
            f"got {tuple(x.shape)}"
        )


class CMFL(Method[StreamLogits, CMFLLosses]):
    """RGBD-MH: a trunk for colour, one for depth, and three heads on their mean features.

    With two DenseNet-161 trunks it has 6,388,419 parameters. Inputs may have any size that the trunks' stride divides.

    Args:
        rgb_trunk: Feature extractor for three channels.
        depth_trunk: Feature extractor for one channel.
        config: Settings of heads and loss; the profile ``default`` if not given.

    Raises:
        ConfigError: A trunk takes another number of channels.

    Source: CMFL, the multi-head network RGBD-MH; the sigmoid behind the mean comes from the released code.
    """

    primary_score: ClassVar[str] = "joint"

    def __init__(self, rgb_trunk: Trunk, depth_trunk: Trunk, config: CMFLConfig | None = None) -> None:
        super().__init__()
        if (rgb_trunk.in_channels, depth_trunk.in_channels) != (3, 1):
            raise ConfigError(
                "CMFL: expected a trunk with 3 input channels and one with 1, got "
                f"{rgb_trunk.in_channels} and {depth_trunk.in_channels}"
            )
        self.config = config if config is not None else CMFLConfig()
        self.rgb_trunk = rgb_trunk
        self.depth_trunk = depth_trunk
        self.rgb_head = nn.Linear(rgb_trunk.out_channels, 1)
        self.depth_head = nn.Linear(depth_trunk.out_channels, 1)
        self.joint_head = nn.Linear(rgb_trunk.out_channels + depth_trunk.out_channels, 1)

    def forward(self, x: Tensor) -> StreamLogits:
        """Map colour with depth to logits; for colour alone see :meth:`logits`.

        Args:
            x: (N, 4, H, W) float images, red, green, blue, depth, normalised as :attr:`CMFLConfig.normalisation` says.

        Raises:
            BatchError: There are not four channels, or the stride does not divide the sides.
        """
        return self.logits(*split_rgbd(x))

    def logits(self, rgb: Tensor, depth: Tensor | None) -> StreamLogits:
        """Map colour, and depth where there is some, to logits.

        Without depth the colour branch answers alone, with the same value as if depth were there.

        Args:
            rgb: (N, 3, H, W) float images, red first.
            depth: (N, 1, H, W) float depth pictures, or ``None``: zeros would be taken for something very near.

        Returns:
            Logits in float32, also under autocast: only the trunks run in reduced precision.

        Raises:
            BatchError: A shape is wrong, or the streams do not belong together.
        """
        check_stream(rgb, 3, self.rgb_trunk.stride)
        if depth is None:
            return self.heads(self.rgb_trunk(rgb), None)
        check_stream(depth, 1, self.depth_trunk.stride)
        if depth.shape[0] != rgb.shape[0]:
            raise BatchError(f"expected one depth picture per image, got {depth.shape[0]} for {rgb.shape[0]}")
        return self.heads(self.rgb_trunk(rgb), self.depth_trunk(depth))

    def heads(self, rgb: Tensor, depth: Tensor | None) -> StreamLogits:
        """Map features to logits.

        Args:
            rgb: (N, C, h, w) features of the colour trunk.
            depth: (N, C', h, w) features of the depth trunk, or ``None``.

        Source: CMFL, heads of RGBD-MH; shapes as in the released code.
        """
        with without_autocast(rgb.device.type):
            of_rgb = self._embedding(rgb)
            p: Tensor = self.rgb_head(of_rgb).squeeze(1)
            if depth is None:
                return StreamLogits(p, None, None)
            of_depth = self._embedding(depth)
            q: Tensor = self.depth_head(of_depth).squeeze(1)
            r: Tensor = self.joint_head(torch.cat([of_rgb, of_depth], dim=1)).squeeze(1)
            return StreamLogits(p, q, r)

    def _embedding(self, features: Tensor) -> Tensor:
        mean = at_least_float32(features).mean(dim=(2, 3))
        return torch.sigmoid(mean) if self.config.embed_act == "sigmoid" else mean

    def loss(self, outputs: StreamLogits, labels: Tensor) -> CMFLLosses:
        """Focal losses of the two branches, each discounted by the other, and cross-entropy of the joint head.

        Args:
            outputs: What :meth:`forward` returned.
            labels: (N,) labels, 1 = bona fide, 0 = attack, or a probability in between.

        Raises:
            BatchError: There is not one label per image, or depth is missing: the branches learn together.

        Source: CMFL, eq. for the total loss, (1 − λ) · L_CE + λ · (L_CMFL(p, q) + L_CMFL(q, p)); λ is β here.
        """
        if outputs.depth is None or outputs.joint is None:
            raise BatchError("CMFL learns from colour with depth, but these outputs were made without depth")
        y = check_labels(labels, outputs.rgb.shape[0])
        rgb = cross_modal_focal_loss(outputs.rgb, outputs.depth, y, self.config).mean()
        depth = cross_modal_focal_loss(outputs.depth, outputs.rgb, y, self.config).mean()
        with without_autocast(outputs.joint.device.type):
            joint = binary_cross_entropy_with_logits(at_least_float32(outputs.joint), y.to(rgb.dtype))
            beta = self.config.beta
            total = beta * self.config.branch_weight * (rgb + depth) + (1.0 - beta) * joint
        return CMFLLosses(total, rgb, depth, joint)

    def scores(self, outputs: StreamLogits) -> dict[str, Tensor]:
        """Turn logits into (N,) scores in [0, 1], higher = bona fide.

        Returns:
            ``joint``: r. ``rgb``: p. ``depth``: q. ``both``: (p + q) / 2. ``mean3``: (p + q + r) / 3. What needs a
            head that had no input, or one that the loss does not train (β = 0 or 1), is left out.

        Source: the released code's choices of a score; ``joint`` is its default.
        """
        logits = {"rgb": outputs.rgb, "depth": outputs.depth, "joint": outputs.joint}
        trained = self.config.trained_heads()
        heads = {name: torch.sigmoid(z) for name, z in logits.items() if z is not None and name in trained}
        return {
            score: torch.stack([heads[name] for name in names]).mean(dim=0)
            for score, names in _HEADS_OF_SCORE.items()
            if heads.keys() >= set(names)
        }

    def score(self, outputs: StreamLogits) -> Tensor:
        """Return the (N,) score that :attr:`CMFLConfig.score_head` names.

        Raises:
            BatchError: It needs depth, which these outputs were made without. Another score is never put in its place.
        """
        scores = self.scores(outputs)
        if self.config.score_head not in scores:
            raise BatchError(
                f"the score {self.config.score_head!r} needs depth, which is missing; without it there are "
                f"{sorted(scores) or 'none'}"
            )
        return scores[self.config.score_head]


def densenet_cmfl(
    config: CMFLConfig | None = None, *, width: float = 1.0, weights: Path | str | Mapping[str, Tensor] | None = None
) -> CMFL:
    """Build CMFL on two DenseNet-161 trunks.

    Args:
        config: Settings; the profile ``default`` if not given.
        width: Width of both trunks; only 1 has published weights.
        weights: torchvision's DenseNet-161 weights, put into both trunks: the first convolution of the depth trunk gets
            the mean over the three colour channels. ``None`` starts from random weights.

    Raises:
        CheckpointError: The weights cannot be read or do not fit.

    Source: CMFL, released code: cross-modal pre-training by the mean over colour.
    """
    rgb, depth = densenet161_trunk(3, width), densenet161_trunk(1, width)
    if weights is not None:
        load_torchvision_weights(rgb, weights)
        load_torchvision_weights(depth, weights)
    return CMFL(rgb, depth, config)
