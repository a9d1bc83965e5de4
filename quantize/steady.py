"""Steady answers: a trained student learns to say of every crop of a face what it says of them in the mean.

Finders are uncertain by some percent of the face, and decisions of a network that was trained on crops of all sizes
still change with them. Here nothing but that is trained away. The target of a picture is what the student as it was
says of several moved crops in the mean; each step shows the one that learns two other crops of every picture:

``L = Σ_h [ mean((z̄_h - t_h)²) + w·mean(s²_h) ] / Var(t_h)``

with z̄ the mean and s² the variance over the crops of a picture, for every head h. Normalisations stay as they are. A
share of the pictures is augmented, all crops of a picture alike: what was learnt of cameras that the set does not hold
is kept, too.

The second term is what counts: students that merely imitate a mean, one crop at a time (``distil --steady``), are not
steadier.

What is kept is the exponential mean of the weights, or a point beyond it on the line from the weights before
(``reach``): ``θ = θ_before + reach·(θ_mean - θ_before)``.

Source: the variance term is the consistency loss of Sajjadi et al., "Regularization With Stochastic Transformations and
Perturbations for Deep Semi-Supervised Learning", NeurIPS 2016; the targets are those of "learning without forgetting"
(Li & Hoiem, ECCV 2016): of the network as it was, on the pictures at hand. The line is that of Wortsman et al., "Robust
fine-tuning of zero-shot models" (WiSE-FT), CVPR 2022, who stay between its ends.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from quantize.distill import PooledTask
from quantize.errors import CalibrationDataError
from quantize.pictures import pictures
from training.checkpoint import Checkpoint, Tree, flatten, load_checkpoint, restore, save_checkpoint
from training.config import AugmentConfig, TrainConfig
from training.data.augment import augment
from training.data.samples import CropJitter, SampleSet
from training.errors import ConfigError, DivergedError, StateMismatchError
from training.precision import reduced

#: How far boxes lie off: what the crops of both target and training are moved by.
MOVES = CropJitter()
_CLIP_NORM = 5.0
_WARMUP_STEPS = 100
_BATCH = 256
#: Of the set, for what the variances between pictures are measured on.
_MEASURED = 2000


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
        augmented: Share of the pictures that are augmented as the student's own training set was, in [0, 1].
        average: Of the weights, exponential, in [0, 1).
        reach: How far from the weights before to their average the weights that are kept lie: 1 is the average, more
            is beyond it; > 0.
        seed: Of pictures and moves.
    """

    steps: int = 4000
    pictures: int = 40
    weight: float = 10.0
    learning_rate: float = 3e-4
    views: int = 2
    wanted_views: int = 4
    augmented: float = 0.5
    average: float = 0.998
    reach: float = 1.0
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
            (0 <= self.augmented <= 1, "augmented in [0, 1]"),
            (0 <= self.average < 1, "average in [0, 1)"),
            (0 < self.reach < math.inf, "reach > 0"),
        )
        wrong = [what for holds, what in rules if not holds]
        if wrong:
            raise ConfigError(f"steady answers need {' and '.join(wrong)}, got {self}")


@dataclass(frozen=True, slots=True)
class Before:
    """How far a student tells pictures apart, and crops of one picture, before it is made steady.

    Attributes:
        spreads: Variance between pictures of the mean answer to their moved crops, by the names of the scores.
        noise: Variance over the crops of a picture, mean over the pictures, over the variance between pictures; the
            largest of the scores.
    """

    spreads: Mapping[str, float]
    noise: float


@torch.no_grad()
def measured(task: PooledTask, samples: SampleSet, config: TrainConfig, how: SteadyConfig) -> Before:
    """How far a student tells pictures apart, on at most 2,000 of a set.

    Args:
        task: The student, in evaluation mode.
        samples: The set; with depth where the student looks at it, see :func:`quantize.pictures.usable_part`.
        config: Its input is the one of the crops, its precision that of the answers.
        how: Number of crops, and the seed of their moves.

    Raises:
        CalibrationDataError: There are fewer pictures than a step takes, or the student says the same of all of them.
    """
    n = len(samples)
    if n < how.pictures:
        raise CalibrationDataError(f"steady answers take {how.pictures} pictures per step, the set holds {n}")
    rng = np.random.default_rng([how.seed, 0])
    chosen = np.sort(rng.choice(n, min(n, _MEASURED), replace=False)).tolist()
    said: dict[str, list[Tensor]] = {}
    for start in range(0, len(chosen), _BATCH):
        part = chosen[start : start + _BATCH]
        views = [_moved(task, samples, part, config, rng) for _ in range(how.wanted_views)]
        for name, values in _said(task, views, config).items():
            said.setdefault(name, []).append(values)
    whole = {name: torch.cat(found) for name, found in said.items()}
    spreads = {name: float(found.mean(dim=1).var(correction=0)) for name, found in whole.items()}
    if any(variance <= 0 or not math.isfinite(variance) for variance in spreads.values()):
        raise CalibrationDataError(f"the student does not tell the pictures of the set apart (variances {spreads})")
    return Before(spreads, max(float(found.var(dim=1).mean()) / spreads[name] for name, found in whole.items()))


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
        noise_before: Of the student, see :class:`Before`.
        noise_after: In the last tenth of the steps; the mean of the weights has less.
        error_after: Mean squared distance of a picture's mean answer from its target, in units of the variance
            between pictures, likewise.
    """

    noise_before: float
    noise_after: float
    error_after: float


class _State(TypedDict):
    module: dict[str, Tensor]
    average: dict[str, Tensor]
    as_it_was: dict[str, Tensor]
    optimiser: dict[str, Any]
    spreads: dict[str, float]
    noise: float
    seen: Tensor


class Steadying:
    """A run that can be taken up again.

    Args:
        task: The student; its network is changed in place.
        samples: What it is shown, of the train split.
        config: Its input is the one of the crops; its precision that of the steps; its augmentation that of pictures,
            where they are augmented.
        how: How.
        state: File in which the run is kept until it is finished; one that is there is taken up.
        save_minutes: How often.

    Raises:
        CalibrationDataError: See :func:`measured`.
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
        task.module.eval()
        self._as_it_was = copy.deepcopy(task)
        self._parameters = list(task.module.parameters())
        self._optimiser = AdamW(self._parameters, lr=how.learning_rate, weight_decay=0.0)
        average = get_ema_multi_avg_fn(how.average)  # type: ignore[no-untyped-call]  # torch does not annotate it
        self._average = AveragedModel(task.module, multi_avg_fn=average)
        self._seen: list[list[float]] = []
        self._save_seconds = 60 * save_minutes
        self._run = f"{how}; {samples.info}; {config.input}; {config.augment}"
        if state.is_file():
            self._resume(load_checkpoint(state))
        else:
            self._before = measured(task, samples, config, how)

    def run(self, told: Callable[[int], object] = lambda step: None) -> SteadyRecord:
        """Take the steps that are left; afterwards the network has the mean of the weights, or what lies beyond it.

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
        before = self._as_it_was.module.state_dict()
        kept = {
            name: _beyond(before[name], mean, how.reach) for name, mean in self._average.module.state_dict().items()
        }
        self._task.module.load_state_dict(kept)
        last = np.mean(self._seen[-max(1, how.steps // 10) :], axis=0)
        return SteadyRecord(self._before.noise, float(last[1]), float(last[0]))

    def _take_step(self, step: int) -> list[float]:
        how = self._how
        rng = np.random.default_rng([how.seed, 1, step])
        chosen = np.sort(rng.choice(len(self._samples), how.pictures, replace=False)).tolist()
        views = [
            _moved(self._task, self._samples, chosen, self._config, rng) for _ in range(how.views + how.wanted_views)
        ]
        views = augmented(views, self._config.augment, how.augmented, rng)
        with torch.no_grad():
            wanted = _said(self._as_it_was, views[how.views :], self._config)
        loss, noises = torch.zeros(()), []
        for name, found in _said(self._task, views[: how.views], self._config).items():
            own, noise = steady_loss(found, wanted[name].mean(dim=1), self._before.spreads[name], how.weight)
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
            "as_it_was": self._as_it_was.module.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "spreads": dict(self._before.spreads),
            "noise": self._before.noise,
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
        self._as_it_was.module.load_state_dict(state["as_it_was"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._before = Before(state["spreads"], state["noise"])
        self._seen = state["seen"].tolist()


def _beyond(before: Tensor, mean: Tensor, reach: float) -> Tensor:
    """The point on the line from the one to the other; counters are those of the mean."""
    return torch.lerp(before, mean, reach) if mean.is_floating_point() else mean


def _said(task: PooledTask, views: Sequence[Tensor], config: TrainConfig) -> dict[str, Tensor]:
    """Answers to crops of each picture, float32 (n, views), by the names of the scores."""
    with reduced(config.optimiser.precision, views[0].device):
        said = task.pooled_heads(torch.cat(list(views)))
    return {name: values.float().view(len(views), -1).T for name, values in said.items()}


def augmented(views: Sequence[Tensor], config: AugmentConfig, share: float, rng: np.random.Generator) -> list[Tensor]:
    """A share of pictures augmented, all views of one alike.

    Depth (a fourth channel) is mirrored with its picture and otherwise left alone. Half of the pictures are mirrored,
    also of those that are not augmented.

    Args:
        views: Of the same pictures, uint8 (n, S, S, C) RGB or RGB and depth each.
        config: How; its ``flip`` does not count.
        share: Of the pictures, in [0, 1].
        rng: Says which and how.

    Returns:
        Views of the same shapes and dtype.
    """
    n = len(views[0])
    chosen = torch.from_numpy(rng.random(n) < share).view(n, 1, 1, 1)
    flipped = torch.from_numpy(rng.random(n) < 0.5).view(n, 1, 1, 1)
    seed, upright = int(rng.integers(2**62)), msgspec.structs.replace(config, flip=0.0)
    found = []
    for view in views:
        changed = view.clone()
        changed[..., :3] = augment(view[..., :3], upright, torch.Generator().manual_seed(seed))
        mixed = torch.where(chosen, changed, view)
        found.append(torch.where(flipped, mixed.flip(2), mixed))
    return found


def _moved(
    task: PooledTask, samples: SampleSet, indices: list[int], config: TrainConfig, rng: np.random.Generator
) -> Tensor:
    """Crops at moved boxes, uint8 (n, S, S, C)."""
    boxes = samples.boxes(indices, jitter=MOVES, rng=rng)
    return torch.from_numpy(pictures(samples, indices, config.input.spec(), depth=task.sees_depth, boxes=boxes))
