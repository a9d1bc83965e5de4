"""Methods that look at colour and depth, or at depth alone, as tasks of the training loop: CMFL and its baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

import msgspec
import torch
from torch import Tensor, nn

from training.config import TrainConfig
from training.errors import BatchError, ConfigError
from training.inputs_depth import ByteNormalisation, BytesInput, depth_input, rgbd_input
from training.methods.base import Method
from training.methods.baselines import DeepPixBiSConfig
from training.methods.cmfl import CMFLConfig, densenet_cmfl
from training.methods.rgbd_baselines import (
    deeppixbis_depth,
    late_fusion,
    mc_pixbis,
    multi_level_fusion,
    rgbd_mh_bce,
    score_fusion,
)
from training.settings import imagenet_weights, with_options
from training.tasks import Batch, MethodStep, Needs, StepTask

_Weights: TypeAlias = Path | Mapping[str, Tensor] | None

#: Settings of CMFL that a row fixes, or that do nothing there.
_FIXED: Mapping[str, frozenset[str]] = {
    "rgbd-mh-bce": frozenset({"gamma", "detach_weight", "attack_only"}),
    "late-fusion": frozenset({"beta", "alpha", "gamma", "branch_weight", "detach_weight", "attack_only", "score_head"}),
}
_PIXEL: Mapping[str, Callable[..., Method[Any, Any]]] = {
    "mc-pixbis": mc_pixbis,
    "deeppixbis-depth": deeppixbis_depth,
    "score-fusion": score_fusion,
}


class RgbdInput(nn.Module):
    """First layer of methods that see colour and depth, or depth alone.

    Args:
        layer: For four channels, or for one.
    """

    def __init__(self, layer: BytesInput) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, batch: Batch) -> Tensor:
        """Normalise the pictures and depth of a batch: float32 (N, 4, S, S), or depth alone (N, 1, S, S).

        Raises:
            BatchError: The batch has no depth.
        """
        if batch.depth is None:
            raise BatchError("the method looks at depth, but the batch has none; Needs(depth=True) asks for it")
        depth = batch.depth.unsqueeze(3)
        channels = depth if self.layer.get_buffer("factor").numel() == 1 else torch.cat([batch.rgb, depth], dim=3)
        return cast(Tensor, self.layer(channels))


def cmfl(config: TrainConfig) -> StepTask:
    """CMFL.

    Raises:
        ConfigError: Settings that it does not have.
        WeightsUnavailableError: ImageNet weights are asked for and cannot be had.
    """
    settings = with_options(CMFLConfig.from_profile(config.method.profile), config.method)
    return _streams(densenet_cmfl, settings, config)


def rgbd_baseline(config: TrainConfig) -> StepTask:
    """One of CMFL's baselines, by ``method.name``.

    All take the option ``normalisation``, ``unit`` (bytes over 255, as CMFL, beside which they are compared) or
    ``imagenet``. Those made of DeepPixBiS take its settings too, the others CMFL's as far as these act there.

    Raises:
        ConfigError: Settings that the baseline does not have.
        WeightsUnavailableError: ImageNet weights are asked for and cannot be had.
    """
    m = config.method
    if m.name in _FIXED:
        row = rgbd_mh_bce if m.name == "rgbd-mh-bce" else late_fusion
        if fixed := sorted(_FIXED[m.name] & set(m.options)):
            raise ConfigError(
                f"method.options.{fixed[0]} is fixed by {m.name}, or does nothing there; take method.name = 'cmfl'"
            )
        start = CMFLConfig(gamma=0.0) if row is rgbd_mh_bce else CMFLConfig(beta=0.0)
        return _streams(row, with_options(start, m), config)
    options = dict(m.options)
    normalisation = cast(ByteNormalisation, options.pop("normalisation", "unit"))
    rest, depth = msgspec.structs.replace(m, options=options), m.name == "deeppixbis-depth"
    see = RgbdInput(depth_input(normalisation) if depth else rgbd_input(normalisation))
    if m.name not in _PIXEL:
        if options:
            raise ConfigError(f"{m.name} has the option normalisation only, got {', '.join(options)}")
        return MethodStep(multi_level_fusion(width=m.width, weights=_weights(config)), see, Needs(depth=True))
    pixel = with_options(DeepPixBiSConfig(map_side=config.input.size_px // 16), rest)
    model = _PIXEL[m.name](side_px=config.input.size_px, config=pixel, width=m.width, weights=_weights(config))
    score = "mean" if m.name == "score-fusion" else pixel.score_head
    return MethodStep(model, see, Needs(depth=True), score=score)


def _streams(make: Callable[..., Method[Any, Any]], settings: CMFLConfig, config: TrainConfig) -> StepTask:
    model = make(settings, width=config.method.width, weights=_weights(config))
    see = RgbdInput(rgbd_input(settings.normalisation))
    return MethodStep(model, see, Needs(depth=True), score=settings.score_head)


def _weights(config: TrainConfig) -> _Weights:
    """Weights for methods that build their own trunks."""
    m = config.method
    if m.trunk != "densenet161" or config.input.brightness:
        raise ConfigError(
            f"{m.name} is built on densenet161 and without input.brightness; got trunk = {m.trunk!r}, brightness = "
            f"{config.input.brightness}"
        )
    return imagenet_weights(m)
