"""Methods that learn from several domains at once, as tasks of the training loop: RFMeta and its ablations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from training.errors import ConfigError
from training.methods.hsv import RgbHsvInput
from training.methods.meta_step import REESTIMATION_BATCHES, DomainBatch, DomainObjective, reestimate_norm
from training.methods.rfmeta import RFMeta
from training.tasks import TOTAL, Batch, Needs

#: Where depth targets come from: the (simulated) depth camera, or half an ellipsoid in the face box.
DepthTarget = Literal["camera", "ellipsoid"]


def depth_targets(batch: Batch, side: int, target: DepthTarget, crop_scale: float) -> Tensor:
    """Depth that the regulariser asks for: 1 near, 0 background and attacks.

    Args:
        batch: With depth, where the target is the camera's.
        side: Cells along a side of the map.
        target: Where it comes from.
        crop_scale: Side of the crop over the side of the face box.

    Returns:
        float32 (N, side, side) in [0, 1].

    Raises:
        ConfigError: The camera's depth is wanted, but there is none.

    Source: RFMeta: depth maps for bona fide, zeros for attacks. The ellipsoid, z = √(1 - x² - y²), stands in where
    nothing has measured depth; it is not what the authors used.
    """
    bona_fide = (batch.labels > 0.5).float().view(-1, 1, 1)
    if target == "ellipsoid":
        ramp = ((torch.arange(side, device=batch.labels.device) + 0.5) * (2 / side) - 1) * crop_scale
        height = (1 - ramp.square()[:, None] - ramp.square()[None, :]).clamp_min(0).sqrt()
        return bona_fide * height
    if batch.depth is None:
        raise ConfigError("depth targets of the camera need samples with depth; use the option depth_target ellipsoid")
    near = torch.where(batch.depth > 0, 255.0 - batch.depth.float(), 0.0) / 255.0
    return bona_fide * adaptive_avg_pool2d(near.unsqueeze(1), (side, side)).squeeze(1)


class DomainTask:
    """Networks of RFMeta with an objective over domains.

    Each step puts the domains into random order: the last one is the meta-test domain.

    Args:
        model: The networks.
        objective: What trains them.
        target: Where depth targets come from.
        crop_scale: Side of the crop over the side of the face box.

    Raises:
        ConfigError: There is no such target.
    """

    def __init__(
        self, model: RFMeta, objective: DomainObjective, *, target: DepthTarget = "camera", crop_scale: float = 1.0
    ) -> None:
        if target not in get_args(DepthTarget):
            raise ConfigError(f"depth_target must be one of {', '.join(get_args(DepthTarget))}, got {target!r}")
        self._model, self._objective, self._target, self._crop_scale = model, objective, target, crop_scale
        self._input = RgbHsvInput()
        self._regularised = model.config.depth_weight > 0
        self.needs = Needs(
            depth=self._regularised and target == "camera",
            domains=True,
            gradients=True,
            settle=REESTIMATION_BATCHES if model.config.reestimate_norm else 0,
            compiles=False,
        )

    @property
    def module(self) -> RFMeta:
        """The networks."""
        return self._model

    def to(self, device: torch.device) -> None:
        """Move the networks."""
        self._model.to(device)
        self._input.to(device)

    def training_step(self, batches: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        """One step of the objective, which adds to the gradients itself."""
        names = sorted(batches)
        order = torch.randperm(len(names)).tolist()
        losses = self._objective.backward([self._seen(batches[names[i]]) for i in order])
        parts = {
            "class": losses.train_class,
            "depth": losses.train_depth,
            "test_class": losses.test_class,
            "test_depth": losses.test_depth,
        }
        return {TOTAL: losses.total, **{name: value.mean() for name, value in parts.items() if value.numel()}}

    def _seen(self, batch: Batch) -> DomainBatch:
        side = self._model.config.map_side
        depth = depth_targets(batch, side, self._target, self._crop_scale) if self._regularised else None
        return DomainBatch(self._input(batch.rgb), batch.labels, depth)

    def settle(self, batches: Iterator[Mapping[str, Batch]]) -> None:
        """Measure the statistics of batch normalisation anew, on batches of all domains."""
        pictures = (self._input(torch.cat([batch.rgb for batch in named.values()])) for named in batches)
        reestimate_norm(self._model, pictures, self._model.classify if not self._regularised else None)

    def score_batch(self, batch: Batch) -> Tensor:
        """The classifier's probability of bona fide."""
        return torch.sigmoid(self._model.classify(self._input(batch.rgb)))
