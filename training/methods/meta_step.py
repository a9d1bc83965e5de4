"""The step of RFMeta: learn on some domains so that another domain gains, with depth as a regulariser in both.

Every domain is a batch of its own and so has its own batch statistics. The inner step moves a copy of the meta learner
M; what the copy sees never reaches M's running statistics.

Source: Shao et al., "Regularized Fine-grained Meta Face Anti-spoofing", AAAI 2020, eq. 1 to 4 and algorithm 1. Sums
over domains, one optimiser for everything, and the weight of 10 on depth are those of the released code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from training.distributed import mean_over_processes, processes
from training.errors import BatchError, ConfigError, DataError
from training.methods.base import at_least_float32, without_autocast
from training.methods.rfmeta import RFMeta, class_loss, depth_loss

Order = Literal["second", "first", "none"]
Domains = Literal["separate", "aggregated"]

#: Batches of all domains that are enough to measure running statistics anew.
REESTIMATION_BATCHES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaStepConfig:
    """Settings of the step; paper and released code agree on the defaults.

    Attributes:
        order: ``second`` differentiates through the inner gradient, ``first`` takes it for a constant, ``none`` leaves
            meta-learning out: all domains are trained on directly.
        domains: ``separate`` makes one inner step per meta-train domain; ``aggregated`` merges these domains into one
            batch, so that there is a single shift per step. With order ``none``, all domains are merged.
        inner_rate: Learning rate α of the one inner step of plain gradient descent.
        meta_test_weight: Weight of the losses of the meta-test domain.
    """

    order: Order = "second"
    domains: Domains = "separate"
    inner_rate: float = 1e-3
    meta_test_weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            ConfigError: A value is out of its range.
        """
        rules = (
            ("order", self.order in ("second", "first", "none"), "'second', 'first' or 'none'"),
            ("domains", self.domains in ("separate", "aggregated"), "'separate' or 'aggregated'"),
            ("inner_rate", 0.0 <= self.inner_rate < math.inf, "inner_rate >= 0"),
            ("meta_test_weight", 0.0 <= self.meta_test_weight < math.inf, "meta_test_weight >= 0"),
        )
        for name, holds, wanted in rules:
            if not holds:
                raise ConfigError(f"meta step: expected {wanted}, got {name}={getattr(self, name)!r}")

    @property
    def fewest_domains(self) -> int:
        """Batches that a step needs at least: two where a domain is held out for meta-test."""
        return 1 if self.order == "none" else 2


class DomainBatch(NamedTuple):
    """Samples of one domain, half bona fide and half attacks.

    Attributes:
        images: (N, C, S, S) float images.
        labels: (N,) labels, 1 = bona fide, 0 = attack.
        depth: (N, m, m) depth targets in [0, 1], zeros for attacks; ``None`` where depth is not trained.
    """

    images: Tensor
    labels: Tensor
    depth: Tensor | None = None


class MetaLosses(NamedTuple):
    """Losses of a step, float32.

    Attributes:
        total: Scalar; what is differentiated.
        train_class: (k,) cross-entropy of each meta-train domain.
        train_depth: (k,) depth loss of each; zeros where depth is not trained.
        test_class: Cross-entropy of the meta-test domain after each inner step; empty without meta-learning.
        test_depth: Depth loss of the meta-test domain, of shape (1,); empty without meta-learning.
    """

    total: Tensor
    train_class: Tensor
    train_depth: Tensor
    test_class: Tensor
    test_depth: Tensor

    def detached(self) -> MetaLosses:
        """The same values without their history."""
        return MetaLosses(*(value.detach() for value in self))


class DomainObjective(Protocol):
    """What a loop over domain batches trains."""

    @property
    def fewest_domains(self) -> int:
        """Batches that a step needs at least."""
        ...

    def backward(self, batches: Sequence[DomainBatch]) -> MetaLosses:
        """Add the gradients of one step to the parameters' ``grad``; the last batch is the meta-test domain.

        Returns:
            The losses, detached.
        """
        ...


class MetaStep:
    """RFMeta's step, as an objective for a training loop.

    Args:
        model: The networks.
        config: Settings of the step.
    """

    def __init__(self, model: RFMeta, config: MetaStepConfig | None = None) -> None:
        self.model = model
        self.config = config if config is not None else MetaStepConfig()

    @property
    def fewest_domains(self) -> int:
        """Batches that a step needs at least, see :class:`MetaStepConfig`."""
        return self.config.fewest_domains

    def backward(self, batches: Sequence[DomainBatch]) -> MetaLosses:
        """Add the gradients of :func:`meta_losses` to the parameters' ``grad``.

        Raises:
            BatchError: There are too few domains, or a shape does not fit.
        """
        losses = meta_losses(self.model, batches, self.config)
        losses.total.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        return losses.detached()


def meta_losses(model: RFMeta, batches: Sequence[DomainBatch], config: MetaStepConfig) -> MetaLosses:
    """The objective of one step.

    With meta-train domains i and the meta-test domain t,
    L = Σ_i (ℓ_i + w δ_i) + β · (Σ_i ℓ_t(θ'_i) + w δ_t), where ℓ is the cross-entropy, δ the depth loss and
    θ'_i = θ_M − α ∇ℓ_i. Gradients of the second order reach M and, through ∇ℓ_i, the feature extractor.

    Args:
        model: The networks; in training mode, for batch statistics.
        batches: One batch per domain; the last is the meta-test domain.
        config: Order of differentiation, merging of domains, α and β.

    Raises:
        BatchError: There are fewer than two domains (one without meta-learning), or a shape does not fit.

    Source: RFMeta, eq. 1 to 4.
    """
    fewest = config.fewest_domains
    if len(batches) < fewest:
        raise BatchError(
            f"expected batches of at least {fewest} domains for a step of order {config.order!r}, got {len(batches)}"
        )
    train = list(batches) if config.order == "none" else list(batches[:-1])
    if config.domains == "aggregated":
        train = [merged(train)]
    weight, parameters = model.config.depth_weight, dict(model.learner.named_parameters())
    train_class, train_depth, adapted = [], [], []
    for batch in train:
        features = model.features(batch.images)
        loss = class_loss(model.logits(features.deep), batch.labels)
        train_class.append(loss)
        train_depth.append(_depth(model, features.pyramid, batch))
        if config.order != "none":
            second = config.order == "second"
            adapted.append(inner_step(parameters, loss, config.inner_rate, second_order=second))
    on_train, depths = torch.stack(train_class), torch.stack(train_depth)
    total = on_train.sum() + weight * depths.sum()
    if config.order == "none":
        return MetaLosses(total, on_train, depths, on_train.new_empty(0), on_train.new_empty(0))
    test = batches[-1]
    features = model.features(test.images)
    with without_autocast(test.images.device.type):
        deep = at_least_float32(features.deep)
        on_test = torch.stack([class_loss(forward_with(model.learner, moved, deep), test.labels) for moved in adapted])
    depth = _depth(model, features.pyramid, test).reshape(1)
    total = total + config.meta_test_weight * (on_test.sum() + weight * depth.sum())
    return MetaLosses(total, on_train, depths, on_test, depth)


def inner_step(parameters: Mapping[str, Tensor], loss: Tensor, rate: float, *, second_order: bool) -> dict[str, Tensor]:
    """One step of gradient descent that leaves the parameters as they are: θ' = θ − α ∇ℓ(θ).

    Several processes take the step of their joined batch: they average its gradient, differentiably.

    Args:
        parameters: θ by name.
        loss: Scalar ℓ, computed from them.
        rate: α.
        second_order: Keep the history of the gradient, so that dθ'/dθ = I − α H. Without it, dθ'/dθ = I.

    Returns:
        θ' by name, differentiable.

    Source: Finn et al., "Model-Agnostic Meta-Learning", ICML 2017, eq. 1 and section 5.2 for the first order.
    """
    gradients = joined_gradients(loss, list(parameters.values()), second_order=second_order)
    return {
        name: value - rate * gradient for (name, value), gradient in zip(parameters.items(), gradients, strict=True)
    }


def joined_gradients(loss: Tensor, parameters: Sequence[Tensor], *, second_order: bool) -> tuple[Tensor, ...]:
    """Gradients of a loss that several processes have computed on their shares of a batch: the mean of theirs.

    Args:
        loss: Scalar; its history is kept.
        parameters: What to differentiate by.
        second_order: Keep the history of the gradients.
    """
    gradients = torch.autograd.grad(loss, parameters, create_graph=second_order, retain_graph=True)
    if processes().world == 1:
        return gradients
    # One message for all of them.
    flat = mean_over_processes(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    return tuple(part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True))


def forward_with(module: nn.Module, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Run a module with other parameters, and with copies of its buffers: its running statistics stay as they are."""
    buffers = {name: value.detach().clone() for name, value in module.named_buffers()}
    outputs: Tensor = functional_call(module, {**parameters, **buffers}, (x,))
    return outputs


def merged(batches: Sequence[DomainBatch]) -> DomainBatch:
    """Several domains as one batch.

    Raises:
        BatchError: There is no batch, or only some have depth targets.
    """
    if not batches:
        raise BatchError("expected at least one batch to merge, got none")
    depths = [batch.depth for batch in batches if batch.depth is not None]
    if len(depths) not in (0, len(batches)):
        raise BatchError(f"expected depth targets for all {len(batches)} domains or for none, got {len(depths)}")
    images, labels = (torch.cat([batch[part] for batch in batches]) for part in (0, 1))  # type: ignore[misc]
    return DomainBatch(images, labels, torch.cat(depths) if depths else None)


def _depth(model: RFMeta, pyramid: Tensor, batch: DomainBatch) -> Tensor:
    """The depth loss of a batch, or zero where the configuration has no use for it."""
    if model.config.depth_weight == 0.0:
        return pyramid.new_zeros((), dtype=at_least_float32(pyramid).dtype)
    if batch.depth is None:
        raise BatchError("RFMeta: expected depth targets (N, m, m) in every domain, got none; or set depth_weight=0")
    return depth_loss(model.depth(pyramid), batch.depth, model.config.depth_reduction)


def reestimate_norm(
    module: nn.Module, batches: Iterable[Tensor], forward: Callable[[Tensor], object] | None = None
) -> int:
    """Measure the running statistics of all batch norms anew: their plain average over some batches.

    Training sees one domain per forward pass; in use, statistics of all domains together are wanted.

    Args:
        module: The networks. Parameters stay as they are; so does the mode (training or evaluation) afterwards.
        batches: (N, C, S, S) images, each batch balanced over domains and classes;
            :data:`REESTIMATION_BATCHES` of them are enough.
        forward: How to run the module on images; by default, calling it.

    Returns:
        The number of batches seen.

    Raises:
        DataError: There was no batch; the statistics are then the old ones.

    Source: Ioffe & Szegedy, "Batch Normalization", ICML 2015, algorithm 2, step 10.
    """
    run = forward if forward is not None else module
    norms = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    modes = {layer: layer.training for layer in module.modules()}
    momenta = [layer.momentum for layer in norms]
    count = 0
    module.eval()
    try:
        with torch.no_grad():
            for images in batches:
                if count == 0:
                    for layer in norms:
                        layer.reset_running_stats()
                        layer.train()
                        layer.momentum = None  # a plain average over all batches since the reset
                run(images)
                count += 1
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum
        for part, training in modes.items():
            part.training = training
    if count == 0:
        raise DataError("batch norms need at least one batch to measure their statistics, got none")
    return count
