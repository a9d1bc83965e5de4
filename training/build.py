"""From a configuration to something that can be trained.

:data:`METHODS` is the register: a name of ``method.name`` and the function that makes its task. A method that needs
more than mixed batches of pictures says so there: see :mod:`training.tasks`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import msgspec
import torch
from torch import Tensor

from training.config import MethodConfig, TrainConfig
from training.data.depth_targets import DepthTargets, ProviderName
from training.errors import ConfigError
from training.inputs import GraphInput
from training.meta_task import DomainTask
from training.methods.baselines import DeepPixBiS, DeepPixBiSConfig, PixelLogits, PixelLosses
from training.methods.cdcn import CDCN, CDCN_MEAN, CDCN_STD, CDCNConfig, DepthLosses, DepthMap
from training.methods.lbp_svm import LbpSvm, LbpSvmConfig
from training.methods.meta_baselines import BASELINES as RFMETA_ROWS
from training.methods.meta_baselines import build_baseline
from training.methods.rfmeta import RFMeta, RFMetaConfig
from training.methods.rfmeta_networks import TrunkExtractor
from training.picture_task import (
    BinaryTask,
    ImitatedTask,
    MethodTask,
    PictureInput,
    TeachingTask,
    build_trunk,
    method_settings,
)
from training.rgbd_task import cmfl, rgbd_baseline
from training.settings import with_options
from training.tasks import Batch, FittedTask, MethodStep, Needs, ScoringTask, StepTask, Task

__all__ = [
    "FITTED", "METHODS", "BinaryTask", "ImitatedTask", "LogitTask", "MethodTask", "ScoringTask", "Task",
    "TeachingTask", "build_fitted", "build_task", "build_trunk", "has_trunk", "looks_at_depth", "method_settings",
    "with_options",
]  # fmt: skip


class LogitTask:
    """A method that says one logit of the whole picture (RFMeta and its rows) as one that a student can imitate.

    Its logit stands for a map of one cell. Features of the published extractor have no counterpart in a student, whose
    stride is another; those of a trunk in its place have.

    Args:
        config: The run.

    Raises:
        ConfigError: The method is another.
    """

    map_side = None

    def __init__(self, config: TrainConfig) -> None:
        task = build_task(config)
        if not isinstance(task, DomainTask):
            raise ConfigError(f"expected a run of RFMeta or one of its rows, got one of {config.method.name!r}")
        self._task, self.method = task, config.method.name
        extractor = task.module.extractor
        self.channels = extractor.out_channels if isinstance(extractor, TrunkExtractor) else 0

    @property
    def module(self) -> RFMeta:
        """The method's networks."""
        return self._task.module

    def to(self, device: torch.device) -> None:
        """Move everything to a device."""
        self._task.to(device)

    def features(self, rgb: Tensor) -> Tensor:
        """The extractor's deep features (N, C, m, m)."""
        return self.module.extractor.deep(self._task.see(rgb))

    def cells_of(self, features: Tensor) -> Tensor:
        """The logit as a map of one cell, (N, 1, 1)."""
        return self.module.logits(features)[:, None, None]

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
    # Options are the network's, or the step's: rates and weights, but not what makes the row what it is.
    step = RFMETA_ROWS[m.name].step
    of_step = {name: value for name, value in own.options.items() if name in _STEP_OPTIONS}
    rest = {name: value for name, value in own.options.items() if name not in of_step}
    settings = with_options(RFMetaConfig.from_profile(m.profile), msgspec.structs.replace(own, options=rest))
    settings = replace(settings, input_side=config.input.size_px, width=m.width)
    step = with_options(step, msgspec.structs.replace(own, options=of_step))
    targets = DepthTargets(settings.map_side, providers)
    if settings.extractor == "published":
        return DomainTask(*build_baseline(m.name, settings, step), targets)
    trunk = build_trunk(msgspec.structs.replace(m, width=1.0))  # the width is that of M and D
    see = GraphInput(config.input.normalisation(), trunk.input_mean, trunk.input_std)
    return DomainTask(*build_baseline(m.name, settings, step, TrunkExtractor(trunk)), targets, see)


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


def _reads(method: MethodConfig) -> frozenset[str]:
    """Settings that a method reads; unregistered ones are taken to be built on a trunk."""
    own = _READS.get(method.name, _ON_A_TRUNK)
    return own | _ON_A_TRUNK if method.options.get("extractor") == "trunk" else own


def has_trunk(method: MethodConfig) -> bool:
    """Whether a method is built on a trunk that may start from ImageNet weights; unregistered ones are taken to be."""
    return "trunk" in _reads(method)


def looks_at_depth(name: str) -> bool:
    """Whether a method's network looks at depth, without making it."""
    return METHODS.get(name) in {cmfl, rgbd_baseline}


def refuse_unread(config: TrainConfig) -> None:
    """Refuse settings that would change nothing: they are mistakes of whoever wrote them.

    Raises:
        ConfigError: Names them.
    """
    m, plain = config.method, MethodConfig()
    reads = _reads(m)
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
