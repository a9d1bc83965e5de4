"""Scores of whole sets on plain crops, with the network in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.config import TrainConfig
from training.data.batches import plain_batch
from training.data.samples import SampleSet
from training.tasks import Batch, Needs

_AT_ONCE = 64


def score_set(
    score: Callable[[Tensor], Tensor], module: nn.Module, samples: SampleSet, config: TrainConfig
) -> NDArray[np.float64]:
    """Score a whole set by its pictures: float64 (n,).

    Args:
        score: From uint8 (N, S, S, 3) to (N,).
        module: The network behind it.
        samples: The set.
        config: Its input is the one of the crops.
    """
    return score_batches(lambda batch: score(batch.rgb), module, samples, config)


def score_batches(
    score: Callable[[Batch], Tensor],
    module: nn.Module,
    samples: SampleSet,
    config: TrainConfig,
    *,
    needs: Needs | None = None,
    places: Sequence[int] | None = None,
) -> NDArray[np.float64]:
    """Score samples of a set: float64 (n,).

    Args:
        score: From a batch to (N,).
        module: The network behind it.
        samples: The set.
        config: Its input is the one of the crops.
        needs: What ``score`` looks at.
        places: Which samples; all by default.

    Raises:
        DataError: Depth is needed and the set has none.
    """
    was_training = module.training
    device = next(module.parameters()).device
    places, out = range(len(samples)) if places is None else places, [np.empty(0)]
    module.eval()
    with torch.inference_mode():
        for start in range(0, len(places), _AT_ONCE):
            batch = plain_batch(samples, places[start : start + _AT_ONCE], config, needs or Needs())
            out.append(score(batch.to(device)).double().cpu().numpy())
    module.train(was_training)
    return np.concatenate(out)
