"""Tasks of methods that see pictures alone, on a trunk: what trains them, and what students imitate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, TypeAlias, cast, runtime_checkable

import torch
from torch import Tensor, nn

from training.backbones import TRUNKS, UNTRAINED, DenseNetTrunk, Trunk, load_torchvision_weights
from training.config import MethodConfig, TrainConfig
from training.errors import ConfigError
from training.inputs import GraphInput
from training.methods.a_deeppixbis import ADeepPixBiS, ADeepPixBiSConfig, Cosines, Losses
from training.methods.base import LossesT, Method, OutputT, without_autocast
from training.methods.binary_trunk import BinaryLogits, BinaryLoss, BinaryTrunk, BinaryTrunkConfig
from training.settings import imagenet_weights, with_options
from training.tasks import Batch, MethodStep

_Colour: TypeAlias = tuple[float, float, float]


class PictureInput(nn.Module):
    """First layer of methods that see pictures only.

    Args:
        config: Its input's normalisation.
        mean: Mean of the network's input, for colours in [0, 1].
        std: Its divisor.
    """

    def __init__(self, config: TrainConfig, mean: _Colour, std: _Colour) -> None:
        super().__init__()
        self.graph = GraphInput(config.input.normalisation(), mean, std)

    def forward(self, batch: Batch) -> Tensor:
        """Normalise the pictures of a batch: float32 (N, 3, S, S)."""
        return cast(Tensor, self.graph(batch.rgb))


class ImitatedTask(Protocol):
    """A method whose answers a student can imitate."""

    @property
    def method(self) -> str:
        """The method's name: what the value of a cell means."""
        ...

    @property
    def map_side(self) -> int | None:
        """Cells along a side of the map, m; ``None`` for a method that says one thing of the whole picture."""
        ...

    @property
    def channels(self) -> int:
        """Channels of the map that features are imitated of; 0 if there is none to imitate."""
        ...

    @property
    def module(self) -> nn.Module:
        """The method."""
        ...

    def to(self, device: torch.device) -> None:
        """Move everything to a device."""
        ...

    def features(self, rgb: Tensor) -> Tensor:
        """The map (N, C, m, m) of pictures, uint8 (N, S, S, 3), red first."""
        ...

    def cells_of(self, features: Tensor) -> Tensor:
        """Values (N, m, m) of the cells of the map."""
        ...


@runtime_checkable
class TeachingTask(ImitatedTask, Protocol):
    """A method whose trunk a student can start from, or whose head."""

    @property
    def filter(self) -> tuple[Tensor, Tensor | None]:
        """What makes a value of a cell of the trunk's map: weight, C values in any shape, and bias (1,)."""
        ...

    @property
    def trunk(self) -> Trunk:
        """The trunk."""
        ...


class _OnTrunk(MethodStep[OutputT, LossesT]):
    """A method of pictures on a trunk: what :class:`TeachingTask` has in common."""

    def __init__(
        self, method: Method[OutputT, LossesT], trunk: Trunk, config: TrainConfig, *, score: str | None = None
    ) -> None:
        see = PictureInput(config, trunk.input_mean, trunk.input_std)
        super().__init__(method, see, score=score)
        self._trunk, self._input = trunk, see.graph
        self._map_side = config.input.size_px // trunk.stride
        self._name = config.method.name

    @property
    def method(self) -> str:
        """The method's name."""
        return self._name

    @property
    def trunk(self) -> Trunk:
        """The trunk."""
        return self._trunk

    @property
    def map_side(self) -> int:
        """Cells along a side of the map, m."""
        return self._map_side

    @property
    def channels(self) -> int:
        """Channels of the trunk's map."""
        return self._trunk.out_channels

    def features(self, rgb: Tensor) -> Tensor:
        """Return the trunk's map (N, C, m, m), for distillation."""
        return cast(Tensor, self._trunk(self._input(rgb)))


class MethodTask(_OnTrunk[Cosines, Losses]):
    """A-DeepPixBiS as a task: normalisation and method; a :class:`TeachingTask`.

    Args:
        config: The run.
    """

    def __init__(self, config: TrainConfig) -> None:
        settings = method_settings(config)
        trunk = build_trunk(config.method)
        method = ADeepPixBiS(trunk, settings)
        # By default the mean of the score map: what the student imitates and what is exported.
        super().__init__(method, trunk, config, score=settings.score_head)
        self._network = method

    @property
    def module(self) -> ADeepPixBiS:
        """The method's network."""
        return self._network

    def loss(self, rgb: Tensor, labels: Tensor) -> Tensor:
        """Return the total loss of the method."""
        outputs = self._network(self._input(rgb))
        with without_autocast(rgb.device.type):
            return self._network.loss(outputs, labels).total

    def score(self, rgb: Tensor) -> Tensor:
        """Return the chosen score, by default the mean of the score map."""
        return self._network.scores(self._network(self._input(rgb)))[self.primary_score]

    @property
    def filter(self) -> tuple[Tensor, None]:
        """The pixel filter."""
        return self._network.pixel_filter.weight, None

    def cells_of(self, features: Tensor) -> Tensor:
        """Return the cosines (N, m, m)."""
        return self._network.heads(features).map


class BinaryTask(_OnTrunk[BinaryLogits, BinaryLoss]):
    """Binary supervision of a trunk as a task; a :class:`TeachingTask`.

    Args:
        config: The run.
    """

    def __init__(self, config: TrainConfig) -> None:
        trunk = build_trunk(config.method)
        settings = with_options(BinaryTrunkConfig(map_side=config.input.size_px // trunk.stride), config.method)
        method = BinaryTrunk(trunk, settings)
        super().__init__(method, trunk, config)
        self._network = method

    @property
    def filter(self) -> tuple[Tensor, Tensor]:
        """The last layer."""
        return self._network.last.weight, self._network.last.bias

    def cells_of(self, features: Tensor) -> Tensor:
        """Return the logits (N, m, m)."""
        return self._network.heads(features).map

    def score(self, rgb: Tensor) -> Tensor:
        """Return the probability of a living person, (N,)."""
        return torch.sigmoid(self.cells_of(self.features(rgb)).mean(dim=(1, 2)))


def method_settings(config: TrainConfig) -> ADeepPixBiSConfig:
    """Settings of A-DeepPixBiS for a run.

    Raises:
        ConfigError: The run is of another method, or a setting is out of its range.
    """
    if config.method.name != "a-deeppixbis":
        raise ConfigError(f"expected a run of the method 'a-deeppixbis', got one of {config.method.name!r}")
    settings = ADeepPixBiSConfig.from_profile(config.method.profile).for_input(config.input.size_px)
    if config.method.scale is not None:
        settings = replace(settings, scale=config.method.scale)
    if config.method.margin is not None:
        settings = replace(settings, margin=config.method.margin)
    o = config.optimiser
    # Processes and passes are averaged: what each of them adds up has to be as much as one batch of all would.
    return with_options(replace(settings, summed_images=o.batch * o.accumulate), config.method)


def build_trunk(config: MethodConfig) -> Trunk:
    """Make the trunk and load its ImageNet weights, or say loudly that there are none.

    Raises:
        ConfigError: An unknown trunk, or options that it does not have.
        WeightsUnavailableError: ImageNet weights are asked for and cannot be had.
    """
    if config.trunk not in TRUNKS:
        raise ConfigError(f"method.trunk must be one of {', '.join(sorted(TRUNKS))}, got {config.trunk!r}")
    make: Callable[..., Trunk] = TRUNKS[config.trunk]
    if config.trunk == "efficientnet_lite0":
        if config.width != 1 or config.weights:
            raise ConfigError("efficientnet_lite0 has no width and loads its weights from its own package")
        return make(pretrained=config.pretrained)
    if config.trunk in UNTRAINED:
        if config.width != 1 or config.weights:
            raise ConfigError(f"{config.trunk} has no width, and no weights to start from; each size has its own name")
        return make(pretrained=config.pretrained)
    trunk, weights = make(width=config.width), imagenet_weights(config)
    if weights is not None and isinstance(trunk, DenseNetTrunk):
        load_torchvision_weights(trunk, weights)
    return trunk
