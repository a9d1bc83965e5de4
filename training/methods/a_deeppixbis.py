"""A-DeepPixBiS: attentional pixel-wise supervision with an angular-margin binary cross-entropy.

Source: Hossain et al., "A-DeepPixBis: Attentional Angular Margin for Face Anti-Spoofing", DICTA 2020. Where the text,
the released code and good numerics differ, the difference is a field of :class:`ADeepPixBiSConfig` with one value per
profile.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, softplus

from training.backbones.base import Trunk
from training.errors import BatchError, ConfigError
from training.methods.base import Method, at_least_float32, check_images, check_labels, without_autocast

MarginMode = Literal["none", "plain", "monotone", "arcface"]
PixelReduction = Literal["mean", "sum"]
ScoreHead = Literal["map", "binary", "map_att"]
ProfileName = Literal["paper", "official", "default"]

_NORM_FLOOR = 1e-12  # added to squared norms: keeps the gradient finite where a feature vector is zero


@dataclass(frozen=True, slots=True, kw_only=True)
class ADeepPixBiSConfig:
    """Settings of the heads and the loss; the defaults are the profile ``default``.

    Attributes:
        margin: Angle m in radians added to θ for bona fide presentations (eq. 13).
        margin_mode: What happens with the margin, see :func:`margin_cosine`.
        lambda_pixel: Weight of the pixel loss; the image loss has the rest.
        scale: Factor s on the cosine before the sigmoid, in the loss and in the scores.
        clamp_eps: Bona fide cosines are clamped to ±(1 − clamp_eps) before the margin, in the loss only. Without
            ``normalise_weights`` the values of attacks are clamped too, as in the released code.
        normalise_weights: Divide the filters of both heads by their norm, so that the outputs are cosines. The released
            code means to, but does not.
        pixel_reduction: ``mean`` over the batch, or ``sum`` as in the released code.
        summed_images: Images that a sum is of: those of a whole step, of which a batch may be a part (of several
            processes or passes). ``None``: those of the batch.
        attention: Weight the pixels by a trained map; without it all weigh the same.
        embedding: Length of the embedding of the image head.
        map_side: Cells along one side of the feature map: the input has 16 times as many pixels.
        score_head: Which of :meth:`ADeepPixBiS.scores` decides in training and evaluation; the paper reports ``binary``
            and ``map``. Students and exported graphs have the map.
    """

    margin: float = 0.5
    margin_mode: MarginMode = "monotone"
    lambda_pixel: float = 0.7
    scale: float = 1.0
    clamp_eps: float = 1e-4
    normalise_weights: bool = True
    pixel_reduction: PixelReduction = "mean"
    summed_images: int | None = None
    attention: bool = True
    embedding: int = 512
    map_side: int = 14
    score_head: ScoreHead = "map"

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            ConfigError: A value is out of its range.
        """
        rules = (
            ("margin", 0.0 <= self.margin < math.pi, "0 <= margin < pi"),
            ("margin_mode", self.margin_mode in ("none", "plain", "monotone", "arcface"), "a known mode"),
            ("lambda_pixel", 0.0 <= self.lambda_pixel <= 1.0, "0 <= lambda_pixel <= 1"),
            ("scale", 0.0 < self.scale < math.inf, "scale > 0"),
            ("clamp_eps", 1e-7 <= self.clamp_eps < 1.0, "1e-7 <= clamp_eps < 1 (float32 resolves no less)"),
            ("pixel_reduction", self.pixel_reduction in ("mean", "sum"), "'mean' or 'sum'"),
            ("summed_images", self.summed_images is None or self.summed_images >= 1, "summed_images >= 1"),
            ("embedding", self.embedding >= 1, "embedding >= 1"),
            ("map_side", self.map_side >= 1, "map_side >= 1"),
        )
        for name, holds, wanted in rules:
            if not holds:
                raise ConfigError(f"A-DeepPixBiS: expected {wanted}, got {name}={getattr(self, name)!r}")

    @classmethod
    def from_profile(cls, name: ProfileName) -> ADeepPixBiSConfig:
        """Return the settings of the paper's text, of the released code, or our own.

        Raises:
            ConfigError: There is no such profile.
        """
        if name not in PROFILES:
            raise ConfigError(f"expected one of the profiles {sorted(PROFILES)}, got {name!r}")
        return PROFILES[name]

    def for_input(self, side: int, trunk_stride: int = 16) -> ADeepPixBiSConfig:
        """Return the same settings for square inputs of another size, e.g. 128 pixels and an 8×8 map.

        Raises:
            ConfigError: The side is not a positive multiple of the stride.
        """
        if side < trunk_stride or side % trunk_stride:
            raise ConfigError(f"expected an input side that is a multiple of {trunk_stride}, got {side}")
        return replace(self, map_side=side // trunk_stride)


PROFILES: dict[str, ADeepPixBiSConfig] = {
    "default": ADeepPixBiSConfig(),
    "paper": ADeepPixBiSConfig(margin_mode="plain", clamp_eps=1e-7),
    "official": ADeepPixBiSConfig(
        margin_mode="plain", clamp_eps=1e-7, lambda_pixel=0.5, normalise_weights=False, pixel_reduction="sum"
    ),
}


class Cosines(NamedTuple):
    """Outputs of the heads, float32.

    Attributes:
        map: (N, m, m) cosine between the feature of each cell and the pixel filter; 1 = bona fide.
        image: (N,) cosine between the embedding of the image and the image filter; 1 = bona fide.
        attention: (m, m) weights of the cells, positive, summing to 1; the same for every image.
    """

    map: Tensor
    image: Tensor
    attention: Tensor


class Losses(NamedTuple):
    """Scalars; ``total`` is λ · pixel + (1 − λ) · image."""

    total: Tensor
    pixel: Tensor
    image: Tensor


def margin_cosine(cos: Tensor, config: ADeepPixBiSConfig) -> Tensor:
    """Add the angular margin: the logit of a bona fide presentation, before the scale.

    cos(θ + m) = c · cos m − √(1 − c²) · sin m. It falls only up to θ = π − m; behind that, ``plain`` rises again and
    pushes bona fide samples the wrong way, ``monotone`` mirrors the value to −2 − cos(θ + m), which continues it with
    the same slope, and ``arcface`` uses c − m · sin m, which jumps. ``none`` has no margin.

    Args:
        cos: Cosines of any shape, float32 or float64.
        config: ``margin``, ``margin_mode`` and ``clamp_eps`` are used.

    Returns:
        Values of the same shape and type.

    Source: A-DeepPixBis, eq. 13; Deng et al., "ArcFace", CVPR 2019, eq. 3.
    """
    if config.margin_mode == "none":
        return cos
    limit = 1.0 - config.clamp_eps
    c = cos.clamp(-limit, limit)
    shifted = c * math.cos(config.margin) - torch.sqrt(1.0 - c * c) * math.sin(config.margin)
    if config.margin_mode == "plain":
        return shifted
    beyond = -2.0 - shifted if config.margin_mode == "monotone" else c - config.margin * math.sin(config.margin)
    return torch.where(c < math.cos(math.pi - config.margin), beyond, shifted)


def a_bce(cos: Tensor, labels: Tensor, config: ADeepPixBiSConfig) -> Tensor:
    """Angular-margin binary cross-entropy of every element.

    ℓ = −[y · log σ(s · z⁺) + (1 − y) · log(1 − σ(s · z⁻))] with z⁺ = cos(θ + m) and z⁻ = cos θ.

    Args:
        cos: (N, …) cosines; half precision is raised to float32.
        labels: (N,) or the shape of ``cos``; 1 = bona fide, 0 = attack, or a probability in between.
        config: Margin and scale.

    Returns:
        Losses, of the shape of ``cos``.

    Raises:
        BatchError: The labels have neither shape.

    Source: A-DeepPixBis, eq. 13; the clamp of values that are no cosines: released code.
    """
    if labels.shape not in (cos.shape[:1], cos.shape):
        raise BatchError(
            f"expected labels of shape {tuple(cos.shape[:1])} or {tuple(cos.shape)}, got {tuple(labels.shape)}"
        )
    cos = at_least_float32(cos)
    y = labels.to(cos.dtype).reshape(labels.shape + (1,) * (cos.ndim - labels.ndim))
    bona_fide = softplus(-config.scale * margin_cosine(cos, config))
    limit = 1.0 - config.clamp_eps
    # Cosines need no clamp here, and it would take the slope from the worst attacks. Other values have no angle.
    attack = softplus(config.scale * (cos if config.normalise_weights else cos.clamp(-limit, limit)))
    return y * bona_fide + (1.0 - y) * attack


class ADeepPixBiS(Method[Cosines, Losses]):
    """A trunk with a pixel-wise and an image-level cosine head.

    With the DenseNet-161 trunk and a map side of 14 it has 3,300,485 parameters.

    Args:
        trunk: Feature extractor of stride 16.
        config: Settings of heads and loss; the profile ``default`` if not given.

    Source: A-DeepPixBis; the separate projection and the 512 values of the embedding come from the
    released code.
    """

    primary_score: ClassVar[str] = "binary"

    def __init__(self, trunk: Trunk, config: ADeepPixBiSConfig | None = None) -> None:
        super().__init__()
        self.config = config if config is not None else ADeepPixBiSConfig()
        side = self.config.map_side
        self.trunk = trunk
        self.pixel_filter = nn.Conv2d(trunk.out_channels, 1, kernel_size=1, bias=False)
        self.image_projection = nn.Conv2d(trunk.out_channels, 1, kernel_size=1)
        self.image_embedding = nn.Linear(side * side, self.config.embedding)
        self.image_filter = nn.Linear(self.config.embedding, 1, bias=False)
        self.attention = nn.Parameter(torch.ones(side, side)) if self.config.attention else None

    def forward(self, x: Tensor) -> Cosines:
        """Same as :meth:`cosines`; takes no labels, so it exports.

        torch.export and OpenVINO take the named tuple as it is; litert-torch wants a plain tuple or mapping.
        """
        return self.cosines(x)

    def cosines(self, x: Tensor) -> Cosines:
        """Map images to cosines.

        Args:
            x: (N, C, 16 · map_side, 16 · map_side) float images, RGB, normalised as the trunk expects.

        Returns:
            Cosines in float32, also under autocast: only the trunk runs in reduced precision. With
            ``normalise_weights`` off the values are inner products with unit vectors and may exceed ±1.

        Raises:
            BatchError: The images have another size or number of channels.
        """
        check_images(x, self.trunk.in_channels, self.config.map_side * self.trunk.stride)
        return self.heads(self.trunk(x))

    def heads(self, features: Tensor) -> Cosines:
        """Map what the trunk has found, (N, C, map_side, map_side), to cosines."""
        with without_autocast(features.device.type):
            features = at_least_float32(features)
            return Cosines(self._pixel_cosines(features), self._image_cosines(features), self.attention_weights())

    def attention_weights(self) -> Tensor:
        """Return the (m, m) attention Â = softmax(A); uniform before training or with attention off."""
        side = self.config.map_side
        if self.attention is None:
            return self.pixel_filter.weight.new_full((side, side), 1.0 / (side * side))
        return torch.softmax(self.attention.reshape(-1), dim=0).reshape(side, side)

    def _pixel_cosines(self, features: Tensor) -> Tensor:
        weight = self.pixel_filter.weight
        if self.config.normalise_weights:
            weight = _unit(weight)
        return conv2d(_unit(features), weight).squeeze(1)

    def _image_cosines(self, features: Tensor) -> Tensor:
        embedding = _unit(self.image_embedding(self.image_projection(features).flatten(1)))
        weight = self.image_filter.weight
        if self.config.normalise_weights:
            weight = _unit(weight)
        return linear(embedding, weight).squeeze(1)

    def loss(self, outputs: Cosines, labels: Tensor) -> Losses:
        """Weighted sum of the pixel loss Σ Â ℓ and the image loss.

        Args:
            outputs: What :meth:`cosines` returned.
            labels: (N,) labels, 1 = bona fide, 0 = attack.

        Raises:
            BatchError: There is not one label per image.

        Source: A-DeepPixBis, eq. 13 and 17.
        """
        y = check_labels(labels, outputs.image.shape[0])
        per_image = (outputs.attention * a_bce(outputs.map, y, self.config)).sum(dim=(1, 2))
        pixel = per_image.mean()
        if self.config.pixel_reduction == "sum":
            pixel = pixel * (self.config.summed_images or len(per_image))
        image = a_bce(outputs.image, y, self.config).mean()
        weight = self.config.lambda_pixel
        return Losses(weight * pixel + (1.0 - weight) * image, pixel, image)

    def scores(self, outputs: Cosines) -> dict[str, Tensor]:
        """Turn cosines into (N,) scores in [0, 1], higher = bona fide.

        At scale 1 scores lie in [0.2689, 0.7311], the sigmoid of ±1.

        Returns:
            ``binary``: σ(s · cos) of the image head. ``map``: mean of σ(s · cos) over the cells, attention unused.
            ``map_att``: the same, weighted by the attention.

        Source: A-DeepPixBis for ``binary`` and ``map``; ``map_att`` is ours.
        """
        cells = torch.sigmoid(self.config.scale * outputs.map)
        return {
            "binary": torch.sigmoid(self.config.scale * outputs.image),
            "map": cells.mean(dim=(1, 2)),
            "map_att": (outputs.attention * cells).sum(dim=(1, 2)),
        }


def _unit(x: Tensor) -> Tensor:
    """Divide by the Euclidean norm over dimension 1; a zero vector stays zero with a finite gradient."""
    return x * torch.rsqrt((x * x).sum(dim=1, keepdim=True) + _NORM_FLOOR)
