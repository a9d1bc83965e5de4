"""The seam between methods and the training loop: what a method asks for, what it gets, and what it gives back.

There are two ways to be trained:

* :class:`Task`, for whoever needs nothing but mixed batches of pictures: ``loss(rgb, labels)`` and ``score(rgb)``.
* :class:`StepTask`, for everybody else. It says in :class:`Needs` what it wants to see (depth) and how batches are to
  be put together (mixed, or one batch per domain), and brings its own step::

      class Gentle:                                   # a method that learns from several domains
          needs = Needs(depth=True, domains=True)

          def training_step(self, batches):           # {"kiosk": Batch, "webcam_480p": Batch, ...}
              losses = {name: self._loss(batch) for name, batch in batches.items()}
              return {"total": sum(losses.values()), **losses}

          def score_batch(self, batch):               # (N,) scores in [0, 1], higher = bona fide
              return torch.sigmoid(self._logits(batch))

  ``total`` is differentiated, every other entry is logged. The loop calls ``backward`` and moves the weights. A step
  that differentiates inside itself (an inner step of meta-learning) may do so, with :func:`torch.autograd.grad`; one
  that makes gradients in its own way says ``Needs(gradients=True)``, adds to ``parameter.grad`` and returns numbers.

Most methods are a network, a loss and scores (:class:`training.methods.base.Method`): :class:`MethodStep` makes a task
of one, given a function from :class:`Batch` to the network's input. A task is registered in ``training.build.METHODS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from training.data.depth_targets import DepthTargets
from training.errors import ConfigError
from training.methods.base import LossesT, Method, OutputT, without_autocast

#: Name of the only batch of a task that does not ask for domains.
MIXED = "mixed"
#: Key of the loss that is differentiated.
TOTAL = "total"


@dataclass(frozen=True, slots=True)
class Needs:
    """What a task asks of the loop.

    Attributes:
        depth: It reads :attr:`Batch.depth`; every sample must have a depth map.
        targets: What makes the depth maps that it learns to predict, :attr:`Batch.depth_targets`.
        domains: It wants a batch of each domain in every step, each half bona fide and half attack, instead of one
            mixed batch. ``optimiser.batch`` is shared out among the domains. Their order is drawn anew for each step
            and the same in all processes: whoever holds a domain out takes the last.
        fewest_domains: How many domains it needs, where it wants them: two if it holds one out.
        gradients: Its step adds to the gradients of its parameters itself; the loop does not call ``backward``.
        settle: Batches that :meth:`SettlingTask.settle` wants before the network is scored.
        compiles: Whether ``torch.compile`` may be used; it has no second-order gradients.
        every: An epoch of a set shows every sample, in a last batch as small as it happens to be. Steps of the
            optimiser want batches of one size, and leave that rest out.
    """

    depth: bool = False
    targets: DepthTargets | None = None
    domains: bool = False
    fewest_domains: int = 0
    gradients: bool = False
    settle: int = 0
    compiles: bool = True
    every: bool = False

    @property
    def measured(self) -> bool:
        """Whether training samples must have a measured depth map."""
        return self.depth or (self.targets is not None and self.targets.measured)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Samples as the network sees them.

    Attributes:
        rgb: uint8 (N, S, S, 3), red first.
        labels: float32 (N,): 1 bona fide, 0 attack, or smoothed.
        depth: uint8 (N, S, S), normalised per face (:func:`fasedge.depth.depth_to_bytes`), near is small and 0 is
            nearest or no return; ``None`` where the task did not ask for it.
        depth_targets: float32 (N, m, m) in [0, 1], see :class:`training.data.depth_targets.DepthTargets`; ``None``
            where the task did not ask for it, or is only to score.
        domains: Domain of each sample.
        indices: Number of each sample in its set or stream.
    """

    rgb: Tensor
    labels: Tensor
    depth: Tensor | None = None
    depth_targets: Tensor | None = None
    domains: Sequence[str] = ()
    indices: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The same batch in memory that a GPU reads by itself, while the processor goes on."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return replace(
            self,
            rgb=change(self.rgb),
            labels=change(self.labels),
            depth=None if self.depth is None else change(self.depth),
            depth_targets=None if self.depth_targets is None else change(self.depth_targets),
        )


class Trained(Protocol):
    """What both kinds of task have."""

    @property
    def module(self) -> nn.Module:
        """Holds every parameter."""
        ...

    def to(self, device: torch.device) -> None:
        """Move every network, trained or not, to a device; pictures and labels are expected there from then on."""
        ...


class ScoringTask(Trained, Protocol):
    """Something that scores pictures, uint8 (N, S, S, 3), red first."""

    def score(self, rgb: Tensor) -> Tensor:
        """Scores (N,), higher = bona fide."""
        ...


class Task(ScoringTask, Protocol):
    """What the loop trains: a module with its loss and its score."""

    def loss(self, rgb: Tensor, labels: Tensor) -> Tensor:
        """Scalar loss; labels are float32 (N,), possibly smoothed."""
        ...


class FittedTask(Protocol):
    """A classifier that is worked out in one go from the features of all samples; no gradient moves it.

    It is trained by :func:`training.fitted.fit_features` and registered in ``training.build.FITTED``.
    """

    @property
    def module(self) -> nn.Module:
        """Holds everything that has been learnt."""
        ...

    def features(self, rgb: Tensor) -> Tensor:
        """Features (N, L) of pictures, uint8 (N, S, S, 3), red first."""
        ...

    def fit(self, features: Tensor, labels: Tensor) -> int:
        """Learn from features (n, L) and labels (n,), 1 = bona fide, 0 = attack; returns the steps that it took."""
        ...

    def score(self, rgb: Tensor) -> Tensor:
        """Scores (N,), higher = bona fide."""
        ...


@runtime_checkable
class StepTask(Trained, Protocol):
    """A task that says what it needs and brings its own step."""

    @property
    def needs(self) -> Needs:
        """What the loop must supply."""
        ...

    def training_step(self, batches: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        """Scalar losses of a step by name; ``total`` is differentiated, the others are logged.

        With several processes each gets its share of every batch, and the loop averages the gradients: losses should be
        means over samples. What is nonlinear in a gradient must average it first
        (:func:`training.distributed.mean_over_processes`).

        Args:
            batches: One batch per domain, or one named :data:`MIXED`. They lie on the task's device.
        """
        ...

    def score_batch(self, batch: Batch) -> Tensor:
        """Scores (N,), higher = bona fide."""
        ...


@runtime_checkable
class SettlingTask(StepTask, Protocol):
    """A task with something to do between the last step of an epoch and its scores, such as measuring statistics."""

    def settle(self, batches: Iterator[Mapping[str, Batch]]) -> None:
        """Prepare the network for scoring.

        Args:
            batches: ``needs.settle`` more batches, as for a step.
        """
        ...


class PlainStep:
    """A :class:`Task` as a :class:`StepTask`.

    Args:
        task: It gets mixed batches and never sees more than pictures and labels.
    """

    needs = Needs()

    def __init__(self, task: Task) -> None:
        self._task = task

    @property
    def module(self) -> nn.Module:
        """The task's module."""
        return self._task.module

    def to(self, device: torch.device) -> None:
        """Move the task."""
        self._task.to(device)

    def training_step(self, batches: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        """The task's loss."""
        batch = batches[MIXED]
        return {TOTAL: self._task.loss(batch.rgb, batch.labels)}

    def score_batch(self, batch: Batch) -> Tensor:
        """The task's score."""
        return self._task.score(batch.rgb)


def as_step_task(task: Task | StepTask) -> StepTask:
    """One kind of task for the loop."""
    return task if isinstance(task, StepTask) else PlainStep(task)


class MethodStep(Generic[OutputT, LossesT]):
    """A :class:`training.methods.base.Method` as a :class:`StepTask`: forward, loss, one of its scores.

    Args:
        method: Network, loss and scores.
        see: From a batch to the network's input; a module where it has buffers to be moved along.
        needs: What ``see`` reads. Domains are not for this class: their batches would have to be weighed.
        score: Name of the score; the method's primary one by default.
        compare: From outputs and batch to the losses, for methods whose loss looks at more than the labels.

    Raises:
        ConfigError: Domains are asked for.
    """

    def __init__(
        self,
        method: Method[OutputT, LossesT],
        see: Callable[[Batch], Tensor],
        needs: Needs | None = None,
        *,
        score: str | None = None,
        compare: Callable[[OutputT, Batch], LossesT] | None = None,
    ) -> None:
        self._method, self._see, self._needs = method, see, needs or Needs()
        self._compare = compare or (lambda outputs, batch: method.loss(outputs, batch.labels))
        self._score = score or method.primary_score
        if self._needs.domains:
            raise ConfigError(f"{type(method).__name__} has no step of its own: it cannot be given a batch per domain")

    @property
    def needs(self) -> Needs:
        """What the network sees."""
        return self._needs

    @property
    def module(self) -> Method[OutputT, LossesT]:
        """The method."""
        return self._method

    def to(self, device: torch.device) -> None:
        """Move the method and its first layer."""
        self._method.to(device)
        if isinstance(self._see, nn.Module):
            self._see.to(device)

    def training_step(self, batches: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        """Forward and loss; the parts of the loss are logged under their names."""
        batch = batches[MIXED]
        outputs: OutputT = self._method(self._see(batch))
        with without_autocast(batch.rgb.device.type):
            return named_losses(self._compare(outputs, batch))

    @property
    def primary_score(self) -> str:
        """Name of the chosen score."""
        return self._score

    def see(self, batch: Batch) -> Tensor:
        """What the network sees of a batch."""
        return self._see(batch)

    def named_scores(self, batch: Batch) -> dict[str, Tensor]:
        """All scores (N,) of the method by name."""
        return self._method.scores(self._method(self._see(batch)))

    def score_batch(self, batch: Batch) -> Tensor:
        """The chosen score."""
        return self.named_scores(batch)[self._score]


def named_losses(losses: object) -> dict[str, Tensor]:
    """Losses of a method, a named tuple or anything with ``total``, by name."""
    if isinstance(losses, tuple) and hasattr(losses, "_asdict"):
        return {name: value for name, value in losses._asdict().items() if isinstance(value, Tensor)}
    total = getattr(losses, TOTAL, None)
    if not isinstance(total, Tensor):
        raise TypeError(f"expected losses with a tensor {TOTAL!r}, got {type(losses).__name__}")
    return {TOTAL: total}
