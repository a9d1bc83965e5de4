"""RFMeta's baselines and ablations: the same networks, trained in other ways.

Most are a configuration of :mod:`training.methods.meta_step`; MLDG and Reptile have a step of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor
from torch.func import functional_call

from training.errors import BatchError, ConfigError
from training.methods.meta_step import (
    DomainBatch,
    DomainObjective,
    MetaLosses,
    MetaStep,
    MetaStepConfig,
    inner_step,
    joined_gradients,
)
from training.methods.rfmeta import RFMeta, RFMetaConfig, RFMetaOutputs, class_loss
from training.methods.rfmeta_networks import Extractor


@dataclass(frozen=True, slots=True, kw_only=True)
class MldgConfig:
    """Settings of :class:`Mldg`.

    Attributes:
        inner_rate: Learning rate α of the inner step.
        meta_test_weight: Weight β of the loss on the meta-test domain.
        second_order: Differentiate through the inner gradient.
    """

    inner_rate: float = 1e-3
    meta_test_weight: float = 1.0
    second_order: bool = True

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            ConfigError: A value is negative or not finite.
        """
        for name in ("inner_rate", "meta_test_weight"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"MLDG: expected {name} >= 0, got {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReptileConfig:
    """Settings of :class:`Reptile`.

    Attributes:
        inner_rate: Learning rate of the inner steps, > 0.
        inner_steps: Steps on each domain. One is joint training; Reptile begins with two.
    """

    inner_rate: float = 1e-3
    inner_steps: int = 3

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            ConfigError: A value is out of its range.
        """
        if not 0.0 < self.inner_rate < math.inf:
            raise ConfigError(f"Reptile: expected inner_rate > 0, got {self.inner_rate!r}")
        if self.inner_steps < 1:
            raise ConfigError(f"Reptile: expected inner_steps >= 1, got {self.inner_steps!r}")


class Mldg:
    """Meta-learning for domain generalisation: the inner step moves the whole network, nothing regularises it.

    With ℓ̄ the mean cross-entropy of the meta-train domains and θ' = θ − α ∇ℓ̄, the objective is
    ℓ̄(θ) + β ℓ_t(θ'), where t is the last batch. Running statistics come from the meta-train passes alone.

    Args:
        model: F and M; depth is not trained.
        config: Settings of the step.

    Source: Li et al., "Learning to Generalize: Meta-Learning for Domain Generalization", AAAI 2018, algorithm 1.
    """

    def __init__(self, model: RFMeta, config: MldgConfig | None = None) -> None:
        _refuse_depth(model, "MLDG")
        self.model = model
        self.config = config if config is not None else MldgConfig()

    @property
    def fewest_domains(self) -> int:
        """Two: the last is held out."""
        return 2

    def losses(self, batches: Sequence[DomainBatch]) -> MetaLosses:
        """The objective of one step.

        Raises:
            BatchError: There are fewer than two domains.
        """
        if len(batches) < self.fewest_domains:
            raise BatchError(f"expected batches of at least two domains for MLDG, got {len(batches)}")
        config, test = self.config, batches[-1]
        on_train = torch.stack([class_loss(self.model(batch.images).logit, batch.labels) for batch in batches[:-1]])
        parameters = dict(self.model.named_parameters())
        moved = inner_step(parameters, on_train.mean(), config.inner_rate, second_order=config.second_order)
        buffers = {name: value.detach().clone() for name, value in self.model.named_buffers()}
        outputs: RFMetaOutputs = functional_call(self.model, {**moved, **buffers}, (test.images,))
        on_test = class_loss(outputs.logit, test.labels).reshape(1)
        total = on_train.mean() + config.meta_test_weight * on_test.sum()
        return MetaLosses(total, on_train, torch.zeros_like(on_train), on_test, torch.zeros_like(on_test))

    def backward(self, batches: Sequence[DomainBatch]) -> MetaLosses:
        """Add the gradients of :meth:`losses` to the parameters' ``grad``.

        Raises:
            BatchError: There are fewer than two domains.
        """
        losses = self.losses(batches)
        losses.total.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        return losses.detached()


class Reptile:
    """Every domain is a task: walk some steps on each, then move towards where the walks ended.

    The outer "gradient" is the mean over domains of (θ − φ_i) / α, where φ_i is where the walk on domain i ended; any
    optimiser takes it. With one inner step it is the gradient of joint training. No domain is held out, and all steps
    on a domain see its one batch.

    Args:
        model: F and M; depth is not trained.
        config: Settings of the walks.

    Source: Nichol et al., "On First-Order Meta-Learning Algorithms", 2018, algorithm 2 and section 2.
    """

    def __init__(self, model: RFMeta, config: ReptileConfig | None = None) -> None:
        _refuse_depth(model, "Reptile")
        self.model = model
        self.config = config if config is not None else ReptileConfig()

    @property
    def fewest_domains(self) -> int:
        """One: no domain is held out."""
        return 1

    def backward(self, batches: Sequence[DomainBatch]) -> MetaLosses:
        """Add (θ − φ) / α, averaged over the domains, to the parameters' ``grad``.

        Returns:
            The losses, detached; ``train_class`` is each domain's cross-entropy before its first step.

        Raises:
            BatchError: There is no domain.
        """
        if not batches:
            raise BatchError("expected batches of at least one domain for Reptile, got none")
        first = []
        for batch in batches:
            loss, walked = self._walk(batch)
            first.append(loss)
            for name, parameter in self.model.named_parameters():
                step = walked[name] / len(batches)
                parameter.grad = step if parameter.grad is None else parameter.grad + step
        on_train = torch.stack(first)
        none = on_train.new_empty(0)
        return MetaLosses(on_train.mean(), on_train, torch.zeros_like(on_train), none, none)

    def _walk(self, batch: DomainBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss before the first step, and the sum of all gradients on the way, which is (θ − φ) / α."""
        parameters = {name: value.detach().requires_grad_() for name, value in self.model.named_parameters()}
        total = {name: torch.zeros_like(value) for name, value in parameters.items()}
        first: Tensor | None = None
        for _ in range(self.config.inner_steps):
            outputs: RFMetaOutputs = functional_call(self.model, parameters, (batch.images,))
            loss = class_loss(outputs.logit, batch.labels)
            first = loss.detach() if first is None else first
            gradients = joined_gradients(loss, list(parameters.values()), second_order=False)
            for name, gradient in zip(total, gradients, strict=True):
                total[name] += gradient
                moved = parameters[name].detach() - self.config.inner_rate * gradient
                parameters[name] = moved.requires_grad_()
        assert first is not None  # there is at least one step
        return first, total


StepConfig: TypeAlias = MetaStepConfig | MldgConfig | ReptileConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """One row of a table of results.

    Attributes:
        about: What it is, in words.
        step: How it is trained.
        network: What changes in the network's settings.
    """

    about: str
    step: StepConfig
    network: Callable[[RFMetaConfig], RFMetaConfig] = lambda config: config


def _without_depth(config: RFMetaConfig) -> RFMetaConfig:
    return replace(config, depth_head=False, depth_weight=0.0)


def _without_regulariser(config: RFMetaConfig) -> RFMetaConfig:
    return replace(config, depth_weight=0.0)


#: Every way of training the networks of RFMeta, by the name that configurations and tables use.
BASELINES: dict[str, Baseline] = {
    "rfmeta": Baseline(about="the method: second order, one inner step per domain", step=MetaStepConfig()),
    "rfmeta-first-order": Baseline(about="the inner gradient is a constant", step=MetaStepConfig(order="first")),
    "rfmeta-aggregation": Baseline(
        about="the meta-train domains are one batch", step=MetaStepConfig(domains="aggregated")
    ),
    "rfmeta-without-meta": Baseline(about="no inner step, one batch per domain", step=MetaStepConfig(order="none")),
    "rfmeta-without-depth": Baseline(
        about="nothing regularises the step", step=MetaStepConfig(), network=_without_regulariser
    ),
    "auxiliary-depth": Baseline(
        about="F, M and D on all domains pooled", step=MetaStepConfig(order="none", domains="aggregated")
    ),
    "binary-cnn": Baseline(
        about="F and M with cross-entropy on all domains pooled",
        step=MetaStepConfig(order="none", domains="aggregated"),
        network=_without_depth,
    ),
    "mldg": Baseline(about="the inner step moves F and M, no depth", step=MldgConfig(), network=_without_depth),
    "reptile": Baseline(about="every domain is a task, no depth", step=ReptileConfig(), network=_without_depth),
}


def build_baseline(
    name: str,
    config: RFMetaConfig | None = None,
    step: StepConfig | None = None,
    extractor: Extractor | None = None,
) -> tuple[RFMeta, DomainObjective]:
    """Make the network and the objective of a row.

    Args:
        name: Key of :data:`BASELINES`.
        config: Settings of the network, before the row changes them; the profile ``default`` if not given.
        step: Settings of the step; the row's if not given.
        extractor: F, where it is not the published one.

    Returns:
        The network, and what trains it on batches of domains.

    Raises:
        ConfigError: There is no such row.
    """
    if name not in BASELINES:
        raise ConfigError(f"expected one of {', '.join(sorted(BASELINES))}, got {name!r}")
    row = BASELINES[name]
    model = RFMeta(row.network(config if config is not None else RFMetaConfig()), extractor)
    return model, objective(model, step if step is not None else row.step)


def objective(model: RFMeta, step: StepConfig) -> DomainObjective:
    """What trains a network with these settings of the step.

    Raises:
        ConfigError: MLDG or Reptile for a network with a depth estimator.
    """
    if isinstance(step, MldgConfig):
        return Mldg(model, step)
    if isinstance(step, ReptileConfig):
        return Reptile(model, step)
    return MetaStep(model, step)


def _refuse_depth(model: RFMeta, name: str) -> None:
    if model.estimator is not None:
        raise ConfigError(f"{name} trains no depth estimator: make the network with depth_head=False, depth_weight=0")
