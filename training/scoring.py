"""Scores of whole sets on plain crops, with the network in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

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
    named = named_score_batches(lambda batch: {"": score(batch)}, module, samples, config, needs=needs, places=places)
    return named.get("", np.empty(0))


def named_score_batches(
    scores: Callable[[Batch], Mapping[str, Tensor]],
    module: nn.Module,
    samples: SampleSet,
    config: TrainConfig,
    *,
    needs: Needs | None = None,
    places: Sequence[int] | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Several scores of each sample in one pass: float64 (n,) by name; nothing without samples.

    Args:
        scores: From a batch to (N,) by name.
        module: See :func:`score_batches`.
        samples: See :func:`score_batches`.
        config: See :func:`score_batches`.
        needs: See :func:`score_batches`.
        places: See :func:`score_batches`.
        progress: Called with the number of samples that are done.

    Raises:
        DataError: Depth is needed and the set has none.
    """
    was_training = module.training
    device = next(module.parameters()).device
    places = range(len(samples)) if places is None else places
    out: dict[str, list[NDArray[np.float64]]] = {}
    module.eval()
    with torch.inference_mode():
        for start in range(0, len(places), _AT_ONCE):
            batch = plain_batch(samples, places[start : start + _AT_ONCE], config, needs or Needs())
            for name, values in scores(batch.to(device)).items():
                out.setdefault(name, []).append(values.double().cpu().numpy())
            if progress is not None:
                progress(min(start + _AT_ONCE, len(places)))
    module.train(was_training)
    return {name: np.concatenate(parts) for name, parts in out.items()}
