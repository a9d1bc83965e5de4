"""Methods that learn from several domains at once, as tasks of the training loop: RFMeta and its ablations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from training.data.depth_targets import DepthTargets
from training.errors import ConfigError
from training.methods.hsv import RgbHsvInput
from training.methods.meta_step import REESTIMATION_BATCHES, DomainBatch, DomainObjective, reestimate_norm
from training.methods.rfmeta import RFMeta
from training.tasks import TOTAL, Batch, Needs


class DomainTask:
    """Networks of RFMeta with an objective over domains.

    The last domain of a step is the meta-test domain; the feed draws their order.

    Args:
        model: The networks.
        objective: What trains them.
        targets: What makes depth targets, of the side of the network's map; for networks that depth regularises.
        see: First layer, from pictures uint8 (N, S, S, 3), red first, to what the network sees; RGB beside HSV if not
            given.

    Raises:
        ConfigError: There are no targets, but the network's depth is trained.
    """

    def __init__(
        self,
        model: RFMeta,
        objective: DomainObjective,
        targets: DepthTargets | None = None,
        see: nn.Module | None = None,
    ) -> None:
        self._model, self._objective = model, objective
        self._input = see if see is not None else RgbHsvInput()
        self._regularised = model.config.depth_weight > 0
        if self._regularised and targets is None:
            raise ConfigError("RFMeta: the depth loss needs targets; pass DepthTargets, or set depth_weight=0")
        self.needs = Needs(
            targets=targets if self._regularised else None,
            domains=True,
            fewest_domains=objective.fewest_domains,
            gradients=True,
            settle=REESTIMATION_BATCHES if model.config.reestimate_norm else 0,
            compiles=False,
        )

    @property
    def objective(self) -> DomainObjective:
        """What trains the networks."""
        return self._objective

    @property
    def module(self) -> RFMeta:
        """The networks."""
        return self._model

    def to(self, device: torch.device) -> None:
        """Move the networks."""
        self._model.to(device)
        self._input.to(device)

    def see(self, rgb: Tensor) -> Tensor:
        """What the network sees of pictures uint8 (N, S, S, 3), red first: float32 (N, C, S, S)."""
        return cast(Tensor, self._input(rgb))

    def training_step(self, batches: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        """One step of the objective, which adds to the gradients itself."""
        losses = self._objective.backward([self._seen(batch) for batch in batches.values()])
        parts = {
            "class": losses.train_class,
            "depth": losses.train_depth,
            "test_class": losses.test_class,
            "test_depth": losses.test_depth,
        }
        return {TOTAL: losses.total, **{name: value.mean() for name, value in parts.items() if value.numel()}}

    def _seen(self, batch: Batch) -> DomainBatch:
        return DomainBatch(self.see(batch.rgb), batch.labels, batch.depth_targets)

    def settle(self, batches: Iterator[Mapping[str, Batch]]) -> None:
        """Measure the statistics of batch normalisation anew, on batches of all domains."""
        pictures = (self.see(torch.cat([batch.rgb for batch in named.values()])) for named in batches)
        reestimate_norm(self._model, pictures, self._model.classify if not self._regularised else None)

    def logits(self, rgb: Tensor) -> Tensor:
        """The classifier's logits (N,) of pictures, uint8 (N, S, S, 3), red first; higher = bona fide."""
        return self._model.classify(self.see(rgb))

    def score_batch(self, batch: Batch) -> Tensor:
        """The classifier's probability of bona fide."""
        return torch.sigmoid(self.logits(batch.rgb))
