"""From a configuration to something that can be trained."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from training.backbones import TRUNKS, DenseNetTrunk, Trunk, load_torchvision_weights
from training.config import MethodConfig, TrainConfig
from training.errors import ConfigError
from training.inputs import GraphInput
from training.methods.a_deeppixbis import ADeepPixBiS, ADeepPixBiSConfig
from training.methods.base import without_autocast

_LOG = logging.getLogger("training")


class ScoringTask(Protocol):
    """Something that scores pictures, uint8 (N, S, S, 3), red first."""

    @property
    def module(self) -> nn.Module:
        """Holds every parameter."""
        ...

    def to(self, device: torch.device) -> None:
        """Move every network, trained or not, to a device; pictures and labels are expected there from then on."""
        ...

    def score(self, rgb: Tensor) -> Tensor:
        """Scores (N,), higher = bona fide."""
        ...


class Task(ScoringTask, Protocol):
    """What the loop trains: a module with its loss and its score."""

    def loss(self, rgb: Tensor, labels: Tensor) -> Tensor:
        """Scalar loss; labels are float32 (N,), possibly smoothed."""
        ...


class MethodTask:
    """A-DeepPixBiS as a task: normalisation and method.

    Args:
        config: The run.
    """

    def __init__(self, config: TrainConfig) -> None:
        settings = method_settings(config)
        trunk = build_trunk(config.method)
        self._method = ADeepPixBiS(trunk, settings)
        self._input = GraphInput(config.input.normalisation(), trunk.input_mean, trunk.input_std)

    @property
    def module(self) -> ADeepPixBiS:
        """The method's network."""
        return self._method

    def to(self, device: torch.device) -> None:
        """Move the network and its first layer to a device."""
        self._method.to(device)
        self._input.to(device)

    def loss(self, rgb: Tensor, labels: Tensor) -> Tensor:
        """Return the total loss of the method."""
        outputs = self._method.cosines(self._input(rgb))
        with without_autocast(rgb.device.type):
            return self._method.loss(outputs, labels).total

    def score(self, rgb: Tensor) -> Tensor:
        """Return the mean of the score map: what the student imitates and what is exported."""
        return self._method.scores(self._method.cosines(self._input(rgb)))["map"]

    def cosines(self, rgb: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cosine map (N, m, m) and image cosine (N,), for distillation."""
        out = self._method.cosines(self._input(rgb))
        return out.map, out.image


def method_settings(config: TrainConfig) -> ADeepPixBiSConfig:
    """Settings of A-DeepPixBiS for a run."""
    settings = ADeepPixBiSConfig.from_profile(config.method.profile).for_input(config.input.size_px)
    if config.method.scale is not None:
        settings = replace(settings, scale=config.method.scale)
    if config.method.margin is not None:
        settings = replace(settings, margin=config.method.margin)
    return settings


def build_trunk(config: MethodConfig) -> Trunk:
    """Make the trunk and load its ImageNet weights, or say loudly that there are none.

    Raises:
        ConfigError: An unknown trunk, or options that it does not have.
    """
    if config.trunk not in TRUNKS:
        raise ConfigError(f"method.trunk must be one of {', '.join(sorted(TRUNKS))}, got {config.trunk!r}")
    make: Callable[..., Trunk] = TRUNKS[config.trunk]
    if config.trunk == "efficientnet_lite0":
        if config.width != 1 or config.weights:
            raise ConfigError("efficientnet_lite0 has no width and loads its weights from its own package")
        return make(pretrained=config.pretrained)
    if config.pretrained:
        raise ConfigError(f"no package carries weights for {config.trunk}; name their file in method.weights instead")
    trunk = make(width=config.width)
    if config.weights and isinstance(trunk, DenseNetTrunk):
        load_torchvision_weights(trunk, Path(config.weights))
    else:
        _LOG.warning("no ImageNet weights for %s: training from scratch, not as the paper does", config.trunk)
    return trunk
