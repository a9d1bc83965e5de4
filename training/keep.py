"""Which epoch of a run is kept: what is measured on the dev set after every epoch, and compared.

``optimiser.keep`` chooses the rule:

* ``eer``: lowest equal error rate.
* ``acer``: lowest ACER at the threshold of the equal error rate. The APCER is that of the worst species of attack, so
  that it differs from the equal error rate, which pools them.
* ``loss``: lowest loss of the method itself, on plain crops, labels that are not smoothed, and in evaluation mode.
* ``last``: whatever comes last.

Of equals the first is kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from fasedge import metrics
from training.config import KeepRule, TrainConfig
from training.data.batches import plain_batch
from training.data.samples import SampleSet
from training.distributed import gathered, processes
from training.errors import ConfigError, DataError, DivergedError
from training.tasks import MIXED, TOTAL, Batch, StepTask

_AT_ONCE = 64


class DevJudge:
    """Measures an epoch on the dev set.

    Args:
        task: What is trained.
        config: The run; ``optimiser.keep`` is the rule.
        dev: The dev set.
        places: Samples of it that can be scored.

    Raises:
        ConfigError: The rule is the loss, but the task has none that could be worked out without training.
        DataError: The rule is the loss, which compares depth maps, and the dev set has none of the kind that is learnt.
    """

    def __init__(self, task: StepTask, config: TrainConfig, dev: SampleSet, places: Sequence[int]) -> None:
        self._task, self._config, self._dev, self._places = task, config, dev, places
        self._labels = dev.labels[list(places)]
        self._species = [dev.table[i].species for i in places]
        if self.rule == "loss":
            self._check_loss()

    @property
    def rule(self) -> KeepRule:
        """What is measured."""
        return self._config.optimiser.keep

    def _check_loss(self) -> None:
        """Find out before the first epoch, not behind it."""
        needs = self._task.needs
        if needs.domains or needs.gradients:
            raise ConfigError(
                f"optimiser.keep = 'loss' is not for {self._config.method.name}: the step works on domains and makes "
                "its own gradients, so that there is no loss of the dev set; choose 'last', 'eer' or 'acer'"
            )
        if needs.targets is None:
            return
        if needs.targets.measured and not self._dev.has_depth:
            raise DataError(
                "optimiser.keep = 'loss' compares measured depth, but the dev set has none: make it with --depth, or "
                "choose another rule"
            )
        needs.targets.batch(self._dev, list(self._places[:1]), self._config.input.spec())

    def value(self, scores: NDArray[np.float64]) -> float | None:
        """Measure an epoch.

        With several processes, all of them call this.

        Args:
            scores: float (n,) of the dev set, in the order of ``places``.

        Returns:
            The measure, lower is better; ``None`` for the rule ``last``.

        Raises:
            DivergedError: The loss is not finite.
        """
        if self.rule == "last":
            return None
        if self.rule == "loss":
            return self._loss()
        equal = metrics.eer(scores, self._labels)
        if self.rule == "eer":
            return float(equal.value)
        return float(metrics.acer(scores, self._labels, self._species, threshold=equal.threshold))

    def _loss(self) -> float:
        who, module = processes(), self._task.module
        was_training = module.training
        module.eval()
        own = self._places[who.rank :: who.world]
        total = 0.0
        with torch.no_grad():
            for start in range(0, len(own), _AT_ONCE):
                batch = self._batch(own[start : start + _AT_ONCE]).to(next(module.parameters()).device)
                total += float(self._task.training_step({MIXED: batch})[TOTAL]) * len(batch)
        module.train(was_training)
        mean = math.fsum(cast("list[float]", gathered(total))) / len(self._places)
        if not math.isfinite(mean):
            raise DivergedError("the loss of the dev set is not finite: the weights diverged; lower the learning rate")
        return mean

    def _batch(self, places: Sequence[int]) -> Batch:
        """Plain samples, with the depth maps that are learnt where there are such."""
        needs, config = self._task.needs, self._config
        batch = plain_batch(self._dev, places, config, needs)
        if needs.targets is None:
            return batch
        targets = torch.from_numpy(needs.targets.batch(self._dev, list(places), config.input.spec()))
        return replace(batch, depth_targets=targets)
