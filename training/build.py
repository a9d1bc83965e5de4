"""From a configuration to something that can be trained.

:data:`METHODS` is the register: a name of ``method.name`` and the function that makes its task. A method that needs
more than mixed batches of pictures says so there: see :mod:`training.tasks`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol, TypeAlias, cast, runtime_checkable

import msgspec
import torch
from torch import Tensor, nn

from training.backbones import PLAIN_SIZES, TRUNKS, DenseNetTrunk, Trunk, load_torchvision_weights
from training.config import MethodConfig, TrainConfig
from training.data.depth_targets import DepthTargets, ProviderName
from training.errors import ConfigError
from training.inputs import GraphInput
from training.meta_task import DomainTask
from training.methods.a_deeppixbis import ADeepPixBiS, ADeepPixBiSConfig, Cosines, Losses
from training.methods.base import LossesT, Method, OutputT, without_autocast
from training.methods.baselines import DeepPixBiS, DeepPixBiSConfig, PixelLogits, PixelLosses
from training.methods.binary_trunk import BinaryLogits, BinaryLoss, BinaryTrunk, BinaryTrunkConfig
from training.methods.cdcn import CDCN, CDCN_MEAN, CDCN_STD, CDCNConfig, DepthLosses, DepthMap
from training.methods.lbp_svm import LbpSvm, LbpSvmConfig
from training.methods.meta_baselines import BASELINES as RFMETA_ROWS
from training.methods.meta_baselines import build_baseline
from training.methods.rfmeta import RFMetaConfig
from training.rgbd_task import cmfl, rgbd_baseline
from training.settings import imagenet_weights, with_options
from training.tasks import Batch, FittedTask, MethodStep, Needs, ScoringTask, StepTask, Task

__all__ = [
    "FITTED", "METHODS", "BinaryTask", "ImitatedTask", "LogitTask", "MethodTask", "ScoringTask", "Task",
    "TeachingTask", "build_fitted", "build_task", "build_trunk", "has_trunk", "looks_at_depth", "method_settings",
    "with_options",
]  # fmt: skip

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


class LogitTask:
    """A method that says one logit of the whole picture (RFMeta and its rows) as one that a student can imitate.

    Its logit stands for a map of one cell. Its features have no counterpart in a student, whose trunk is another.

    Args:
        config: The run.

    Raises:
        ConfigError: The method is another.
    """

    map_side = None
    channels = 0

    def __init__(self, config: TrainConfig) -> None:
        task = build_task(config)
        if not isinstance(task, DomainTask):
            raise ConfigError(f"expected a run of RFMeta or one of its rows, got one of {config.method.name!r}")
        self._task, self.method = task, config.method.name

    @property
    def module(self) -> nn.Module:
        """The method's networks."""
        return self._task.module

    def to(self, device: torch.device) -> None:
        """Move everything to a device."""
        self._task.to(device)

    def features(self, rgb: Tensor) -> Tensor:
        """The logit as a map of one cell, (N, 1, 1, 1)."""
        return self._task.logits(rgb)[:, None, None, None]

    def cells_of(self, features: Tensor) -> Tensor:
        """The same, (N, 1, 1)."""
        return features[:, 0]

    def score(self, rgb: Tensor) -> Tensor:
        """Return the probability of a living person, (N,)."""
        return torch.sigmoid(self._task.logits(rgb))


def _deeppixbis(config: TrainConfig) -> MethodStep[PixelLogits, PixelLosses]:
    trunk = build_trunk(config.method)
    settings = with_options(DeepPixBiSConfig(map_side=config.input.size_px // trunk.stride), config.method)
    see = PictureInput(config, trunk.input_mean, trunk.input_std)
    return MethodStep(DeepPixBiS(trunk, settings), see, score=settings.score_head)


def _rfmeta(config: TrainConfig) -> StepTask:
    m = config.method
    providers, own = _depth_providers(m)
    settings = replace(RFMetaConfig.from_profile(m.profile), input_side=config.input.size_px, width=m.width)
    # Options are the network's, or the step's: rates and weights, but not what makes the row what it is.
    step = RFMETA_ROWS[m.name].step
    of_step = {name: value for name, value in own.options.items() if name in _STEP_OPTIONS}
    rest = {name: value for name, value in own.options.items() if name not in of_step}
    settings = with_options(settings, msgspec.structs.replace(own, options=rest))
    step = with_options(step, msgspec.structs.replace(own, options=of_step))
    model, objective = build_baseline(m.name, settings, step)
    return DomainTask(model, objective, DepthTargets(settings.map_side, providers))


def _cdcn(config: TrainConfig) -> StepTask:
    providers, own = _depth_providers(config.method)
    settings = CDCNConfig(input_side=config.input.size_px, width=config.method.width)
    settings = with_options(settings, own)
    model, see = CDCN(settings), PictureInput(config, CDCN_MEAN, CDCN_STD)

    def compare(outputs: DepthMap, batch: Batch) -> DepthLosses:
        return model.loss(outputs, batch.labels, batch.depth_targets)

    return MethodStep(model, see, Needs(targets=DepthTargets(settings.map_side, providers)), compare=compare)


#: Settings of the step of RFMeta and its rows that ``method.options`` may change.
_STEP_OPTIONS = frozenset({"inner_rate", "inner_steps", "meta_test_weight"})
#: Values of the option ``depth_target``. A single face of which the camera has measured nothing,
#: or nothing was rendered, gets the ellipsoid.
_DEPTH_TARGETS: Mapping[str, tuple[ProviderName, ...]] = {
    "sensor": ("sensor", "ellipsoid"),
    "rendered": ("rendered", "ellipsoid"),
    "ellipsoid": ("ellipsoid",),
    "mask": ("mask",),
}


def _depth_providers(config: MethodConfig) -> tuple[tuple[ProviderName, ...], MethodConfig]:
    """How targets are made concerns the task; all other options are the network's."""
    own = dict(config.options)
    name = own.pop("depth_target", "sensor")
    if name not in _DEPTH_TARGETS:
        raise ConfigError(f"method.options.depth_target must be one of {', '.join(_DEPTH_TARGETS)}, got {name!r}")
    return _DEPTH_TARGETS[str(name)], msgspec.structs.replace(config, options=own)


def _lbp_svm(config: TrainConfig) -> FittedTask:
    return LbpSvm(with_options(LbpSvmConfig(), config.method))


#: Methods by the name of ``method.name``.
METHODS: Mapping[str, Callable[[TrainConfig], Task | StepTask]] = {
    "a-deeppixbis": MethodTask,
    "binary-trunk": BinaryTask,
    "deeppixbis": _deeppixbis,
    "cmfl": cmfl,
    **dict.fromkeys(
        ("rgbd-mh-bce", "late-fusion", "mc-pixbis", "deeppixbis-depth", "score-fusion", "multi-level-fusion"),
        rgbd_baseline,
    ),
    "cdcn": _cdcn,
    **dict.fromkeys(RFMETA_ROWS, _rfmeta),
}

#: Methods that no gradient trains, see :mod:`training.fitted`.
FITTED: Mapping[str, Callable[[TrainConfig], FittedTask]] = {"lbp-svm": _lbp_svm}


#: Settings that a method reads beside its name and options; by default those of a network on a trunk of choice. What
#: methods on DenseNet-161 alone read of these, they check themselves.
_ON_A_TRUNK = frozenset({"trunk", "width", "pretrained", "weights", "brightness"})
_READS: Mapping[str, frozenset[str]] = {
    "a-deeppixbis": _ON_A_TRUNK | {"profile", "scale", "margin"},
    "cmfl": _ON_A_TRUNK | {"profile"},
    "cdcn": frozenset({"width", "brightness"}),
    "lbp-svm": frozenset(),
    **dict.fromkeys(RFMETA_ROWS, frozenset({"profile", "width"})),
}


def has_trunk(name: str) -> bool:
    """Whether a method is built on a trunk that may start from ImageNet weights; unregistered ones are taken to be."""
    return "trunk" in _READS.get(name, _ON_A_TRUNK)


def looks_at_depth(name: str) -> bool:
    """Whether a method's network looks at depth, without making it."""
    return METHODS.get(name) in {cmfl, rgbd_baseline}


def refuse_unread(config: TrainConfig) -> None:
    """Refuse settings that would change nothing: they are mistakes of whoever wrote them.

    Raises:
        ConfigError: Names them.
    """
    m, plain = config.method, MethodConfig()
    reads = _READS.get(m.name, _ON_A_TRUNK)
    set_here = [
        f"method.{name}"
        for name in ("profile", "trunk", "width", "pretrained", "weights", "scale", "margin")
        if name not in reads and getattr(m, name) != getattr(plain, name)
    ]
    if config.input.brightness and "brightness" not in reads:
        set_here.append("input.brightness")
    if set_here:
        raise ConfigError(f"{m.name} does not read {', '.join(set_here)}; leave it out")


def build_task(config: TrainConfig) -> Task | StepTask:
    """Make the task of a run.

    Raises:
        ConfigError: An unknown method, one that is fitted, or settings that it does not have.
    """
    name = config.method.name
    if name in FITTED:
        raise ConfigError(f"{name} is fitted, not trained by gradients: see training.build.build_fitted")
    if name not in METHODS:
        raise ConfigError(f"method.name must be one of {', '.join(sorted({**METHODS, **FITTED}))}, got {name!r}")
    refuse_unread(config)
    return METHODS[name](config)


def build_fitted(config: TrainConfig) -> FittedTask:
    """Make the task of a run whose method is one of :data:`FITTED`.

    Raises:
        ConfigError: It is not, or it does not have these settings.
    """
    if config.method.name not in FITTED:
        raise ConfigError(f"method.name must be one of {', '.join(sorted(FITTED))}, got {config.method.name!r}")
    refuse_unread(config)
    return FITTED[config.method.name](config)


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
    return with_options(settings, config.method)


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
    if config.trunk in PLAIN_SIZES:
        if config.width != 1 or config.weights:
            raise ConfigError(f"{config.trunk} has no width, and no weights to start from; its sizes are names")
        return make(pretrained=config.pretrained)
    trunk, weights = make(width=config.width), imagenet_weights(config)
    if weights is not None and isinstance(trunk, DenseNetTrunk):
        load_torchvision_weights(trunk, weights)
    return trunk
