"""Steady answers: a trained student learns to say of every crop of a face what it says of them in the mean.

Finders are uncertain by some percent of the face, and decisions of a network that was trained on crops of all sizes
still change with them. Here nothing but that is trained away. The target of a picture is what the student itself said,
before, of several moved crops in the mean; each step shows it two other crops of every picture:

``L = Σ_h [ mean((z̄_h - t_h)²) + w·mean(s²_h) ] / Var(t_h)``

with z̄ the mean and s² the variance over the crops of a picture, for every head h. Normalisations stay as they are.
The second term is what counts: students that merely imitate a mean, one crop at a time (``distil --steady``), are not
steadier.

Source: the variance term is the consistency loss of Sajjadi et al., "Regularization With Stochastic Transformations and
Perturbations for Deep Semi-Supervised Learning", NeurIPS 2016; the targets are self-distillation as in Laine & Aila,
"Temporal Ensembling for Semi-Supervised Learning", ICLR 2017.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from quantize.distill import PooledTask
from quantize.errors import CalibrationDataError
from quantize.pictures import pictures
from training.checkpoint import Checkpoint, Tree, flatten, load_checkpoint, restore, save_checkpoint
from training.config import TrainConfig
from training.data.samples import CropJitter, SampleSet
from training.errors import ConfigError, DivergedError, StateMismatchError
from training.precision import reduced

#: How far boxes lie off: what the crops of both target and training are moved by.
MOVES = CropJitter()
_CLIP_NORM = 5.0
_WARMUP_STEPS = 100
_BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class SteadyConfig:
    """How a student is made steady.

    Attributes:
        steps: Optimiser steps, at least 1.
        pictures: Pictures per step, at least 2; each gives ``views`` crops.
        weight: w, of the variance over crops beside the error of their mean, >= 0.
        learning_rate: Peak learning rate of AdamW, after 100 steps; half a cosine to zero.
        views: Crops per picture and step, at least 2.
        wanted_views: Moved crops of which the mean answer is the target, at least 2.
        average: Of the weights, exponential, in [0, 1); what is kept.
        seed: Of pictures and moves.
    """

    steps: int = 4000
    pictures: int = 40
    weight: float = 10.0
    learning_rate: float = 3e-4
    views: int = 2
    wanted_views: int = 8
    average: float = 0.998
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            ConfigError: A value is out of its range.
        """
        rules = (
            (self.steps >= 1, "steps >= 1"),
            (self.pictures >= 2, "pictures >= 2"),
            (0 <= self.weight < math.inf, "weight >= 0"),
            (0 < self.learning_rate < math.inf, "learning_rate > 0"),
            (self.views >= 2, "views >= 2"),
            (self.wanted_views >= 2, "wanted_views >= 2"),
            (0 <= self.average < 1, "average in [0, 1)"),
        )
        wrong = [what for holds, what in rules if not holds]
        if wrong:
            raise ConfigError(f"steady answers need {' and '.join(wrong)}, got {self}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be said of each picture, and how far the student was from it.

    Attributes:
        answers: Mean over the moved crops, float32 (n,), by the names of the scores.
        noise: Variance over the crops of a picture, mean over the pictures, over the variance between pictures; the
            largest of the scores.
    """

    answers: Mapping[str, Tensor]
    noise: float


@torch.no_grad()
def wanted_answers(task: PooledTask, samples: SampleSet, config: TrainConfig, how: SteadyConfig) -> Wanted:
    """What a student says of moved crops in the mean.

    Args:
        task: The student, in evaluation mode.
        samples: The set; with depth where the student looks at it, see :func:`quantize.pictures.usable_part`.
        config: Its input is the one of the crops.
        how: Number of crops, and the seed of their moves.

    Raises:
        CalibrationDataError: There are fewer pictures than a step takes, or the student says the same of all of them.
    """
    n = len(samples)
    if n < how.pictures:
        raise CalibrationDataError(f"steady answers take {how.pictures} pictures per step, the set holds {n}")
    rng = np.random.default_rng([how.seed, 0])
    said: dict[str, list[Tensor]] = {}
    for start in range(0, n, _BATCH):
        part = range(start, min(start + _BATCH, n))
        views = [task.pooled_heads(_moved(task, samples, part, config, rng)) for _ in range(how.wanted_views)]
        for name in views[0]:
            said.setdefault(name, []).append(torch.stack([view[name].float() for view in views], dim=1))
    whole = {name: torch.cat(found) for name, found in said.items()}
    answers = {name: found.mean(dim=1) for name, found in whole.items()}
    between = _spreads(answers)
    if any(variance <= 0 or not math.isfinite(variance) for variance in between.values()):
        raise CalibrationDataError(f"the student does not tell the pictures of the set apart (variances {between})")
    noise = max(float(found.var(dim=1).mean()) / between[name] for name, found in whole.items())
    return Wanted(answers, noise)


def steady_loss(found: Tensor, wanted: Tensor, spread: float, weight: float) -> tuple[Tensor, Tensor]:
    """Loss of one head, and the variance in it.

    Args:
        found: Answers to crops of each picture, (n, views).
        wanted: Targets, (n,).
        spread: Variance of the targets in the whole set, > 0.
        weight: Of the variance over the crops.

    Returns:
        ``(mean((z̄ - t)²) + weight·mean(s²)) / spread`` and ``mean(s²) / spread``, each ().
    """
    error = (found.mean(dim=1) - wanted).square().mean() / spread
    noise = found.var(dim=1).mean() / spread
    return error + weight * noise, noise


@dataclass(frozen=True, slots=True)
class SteadyRecord:
    """What came of it.

    Attributes:
        noise_before: Of the student, see :class:`Wanted`.
        noise_after: In the last tenth of the steps; the kept mean of the weights has less.
        error_after: Mean squared distance of a picture's mean answer from its target, in units of the variance
            between pictures, likewise.
    """

    noise_before: float
    noise_after: float
    error_after: float


class _State(TypedDict):
    module: dict[str, Tensor]
    average: dict[str, Tensor]
    optimiser: dict[str, Any]
    answers: dict[str, Tensor]
    noise: float
    seen: Tensor


class Steadying:
    """A run that can be taken up again.

    Args:
        task: The student; its network is changed in place.
        samples: What it is shown, of the train split.
        config: Its input is the one of the crops; its precision that of the steps.
        how: How.
        state: File in which the run is kept until it is finished; one that is there is taken up.
        save_minutes: How often.

    Raises:
        CalibrationDataError: See :func:`wanted_answers`.
        StateMismatchError: The file is of another run.
        CheckpointError: It is damaged.
    """

    def __init__(
        self,
        task: PooledTask,
        samples: SampleSet,
        config: TrainConfig,
        how: SteadyConfig,
        state: Path,
        *,
        save_minutes: float = 5.0,
    ) -> None:
        self._task, self._samples, self._config, self._how, self._path = task, samples, config, how, state
        self._parameters = list(task.module.parameters())
        self._optimiser = AdamW(self._parameters, lr=how.learning_rate, weight_decay=0.0)
        average = get_ema_multi_avg_fn(how.average)  # type: ignore[no-untyped-call]  # torch does not annotate it
        self._average = AveragedModel(task.module, multi_avg_fn=average)
        self._seen: list[list[float]] = []
        self._save_seconds = 60 * save_minutes
        task.module.eval()
        self._run = f"{how}; {samples.info}; {config.input}"
        if state.is_file():
            self._resume(load_checkpoint(state))
        else:
            self._wanted = wanted_answers(task, samples, config, how)
        self._spreads = _spreads(self._wanted.answers)

    def run(self, told: Callable[[int], object] = lambda step: None) -> SteadyRecord:
        """Take the steps that are left; afterwards the network has the mean of the weights.

        Args:
            told: Hears of every step that is done.

        Raises:
            DivergedError: The loss is not finite.
        """
        how, saved = self._how, time.monotonic()
        for parameter in self._parameters:
            parameter.requires_grad_(True)
        for step in range(len(self._seen), how.steps):
            warm = min(1.0, (step + 1) / _WARMUP_STEPS)
            for group in self._optimiser.param_groups:
                group["lr"] = how.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / how.steps))
            self._seen.append(self._take_step(step))
            told(step + 1)
            if time.monotonic() - saved > self._save_seconds:
                self._save()
                saved = time.monotonic()
        self._task.module.load_state_dict(self._average.module.state_dict())
        last = np.mean(self._seen[-max(1, how.steps // 10) :], axis=0)
        return SteadyRecord(self._wanted.noise, float(last[1]), float(last[0]))

    def _take_step(self, step: int) -> list[float]:
        how = self._how
        rng = np.random.default_rng([how.seed, 1, step])
        chosen = np.sort(rng.choice(len(self._samples), how.pictures, replace=False)).tolist()
        views = [_moved(self._task, self._samples, chosen, self._config, rng) for _ in range(how.views)]
        shown = torch.cat(views)
        if rng.random() < 0.5:
            shown = shown.flip(2)
        with reduced(self._config.optimiser.precision, shown.device):
            said = self._task.pooled_heads(shown)
        loss, noises = torch.zeros(()), []
        for name, values in said.items():
            found, wanted = values.float().view(how.views, -1).T, self._wanted.answers[name][chosen]
            own, noise = steady_loss(found, wanted, self._spreads[name], how.weight)
            loss = loss + own
            noises.append(float(noise.detach()))
        if not bool(torch.isfinite(loss)):
            raise DivergedError(f"the loss of step {step} is not finite; try a lower learning rate")
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        torch.nn.utils.clip_grad_norm_(self._parameters, _CLIP_NORM)
        self._optimiser.step()
        self._average.update_parameters(self._task.module)
        return [float(loss.detach()) - how.weight * sum(noises), max(noises)]

    def _save(self) -> None:
        state: _State = {
            "module": self._task.module.state_dict(),
            "average": self._average.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "answers": dict(self._wanted.answers),
            "noise": self._wanted.noise,
            "seen": torch.tensor(self._seen, dtype=torch.float64),
        }
        tensors, skeleton = flatten(cast("Tree", state))
        save_checkpoint(self._path, tensors, {"skeleton": skeleton, "run": self._run})

    def _resume(self, found: Checkpoint) -> None:
        if found.metadata.get("run") != self._run:
            raise StateMismatchError(
                f"{found.name} is of another run ({found.metadata.get('run')}) than this one ({self._run}); remove it, "
                "or choose another file"
            )
        state = cast("_State", restore(found.metadata["skeleton"], found.tensors))
        self._task.module.load_state_dict(state["module"])
        self._average.load_state_dict(state["average"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._wanted = Wanted(state["answers"], state["noise"])
        self._seen = state["seen"].tolist()


def _spreads(answers: Mapping[str, Tensor]) -> dict[str, float]:
    """Variance of each score between the pictures."""
    return {name: float(found.var(correction=0)) for name, found in answers.items()}


def _moved(
    task: PooledTask, samples: SampleSet, indices: range | list[int], config: TrainConfig, rng: np.random.Generator
) -> Tensor:
    """Crops at moved boxes, uint8 (n, S, S, C)."""
    boxes = samples.boxes(indices, jitter=MOVES, rng=rng)
    return torch.from_numpy(pictures(samples, indices, config.input.spec(), depth=task.sees_depth, boxes=boxes))
