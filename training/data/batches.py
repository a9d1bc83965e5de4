"""From samples to batches: crops with a jittered box, depth that goes with them, augmentation, labels, domains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from fasedge.depth import crop_depth, measure_face_depth
from fasedge.preprocess import InputSpec
from fasedge.types import Box, UInt8Array
from training.config import AugmentConfig, TrainConfig
from training.data.augment import augment
from training.data.samples import CropJitter, SampleSet, _jittered
from training.data.table import SampleRow
from training.errors import DataError
from training.tasks import Batch, Needs


def depth_crops(
    samples: SampleSet,
    indices: Sequence[int],
    spec: InputSpec,
    *,
    jitter: CropJitter | None = None,
    rng: np.random.Generator | None = None,
) -> UInt8Array:
    """Depth of the crops that :meth:`SampleSet.crops` cuts, from a generator in the same state.

    Returns:
        uint8 (n, S, S), see :func:`fasedge.depth.depth_to_bytes`; all 0 where nothing in the face box returns.

    Raises:
        DataError: The set has no depth.
    """
    out = np.empty((len(indices), spec.size_px, spec.size_px), np.uint8)
    for place, index in enumerate(indices):
        box, depth_mm = Box(*samples.table[index].box_xyxy), samples.depth_mm(index)
        # The face as it was found decides the scale, the jittered box only where the crop lies.
        measured = measure_face_depth(depth_mm, box)
        if jitter is not None and rng is not None:
            box = _jittered(box, jitter, rng)
        out[place] = 0 if measured is None else crop_depth(depth_mm, box, spec, measured)
    return out


def domain_of(row: SampleRow, rule: Literal["auto", "camera", "source"]) -> str:
    """Domain of a sample.

    Raises:
        DataError: The camera is asked for, but the sample does not say which it was.
    """
    camera = row.params.get("camera")
    if rule == "source" or (rule == "auto" and camera is None):
        return row.source
    if camera is None:
        raise DataError(
            f"data.domain is 'camera', but sample {row.index} has no parameter of that name; use 'source', or make the "
            "set anew"
        )
    return str(camera)


def make_batch(
    samples: SampleSet, indices: Sequence[int], config: TrainConfig, needs: Needs, key: Sequence[int]
) -> Batch:
    """A batch for training: jittered crops, augmented, labels smoothed.

    Args:
        samples: Where they are.
        indices: Which, by position.
        config: The run.
        needs: What the task looks at.
        key: All randomness comes from these numbers: a resumed run sees the same batches.

    Raises:
        DataError: The task needs depth and the set has none.
    """
    a, o, spec = config.augment, config.optimiser, config.input.spec()
    seed = int(np.random.default_rng(key).integers(1 << 62))
    rng = np.random.default_rng(key)
    rng.integers(1 << 62)
    crops = torch.from_numpy(samples.crops(indices, spec, jitter=a.jitter(), rng=rng))
    depth = None
    if needs.depth:
        again = np.random.default_rng(key)
        again.integers(1 << 62)
        depth = torch.from_numpy(depth_crops(samples, indices, spec, jitter=a.jitter(), rng=again))
        depth = _flipped(depth, a, torch.Generator().manual_seed(seed))
    labels = _labels(samples, indices)
    return Batch(
        rgb=augment(crops, a, torch.Generator().manual_seed(seed)),
        labels=labels * (1 - o.label_smoothing) + o.label_smoothing / 2,
        depth=depth,
        domains=[domain_of(samples.table[i], config.data.domain) for i in indices],
        indices=[samples.table[i].index for i in indices],
    )


def _labels(samples: SampleSet, indices: Sequence[int]) -> torch.Tensor:
    return torch.tensor([samples.table[i].label for i in indices], dtype=torch.float32)


def _flipped(depth: torch.Tensor, config: AugmentConfig, generator: torch.Generator) -> torch.Tensor:
    """Flip the maps whose pictures :func:`augment` flips: its first draw from a generator in the same state."""
    chosen = torch.rand(len(depth), 1, 1, 1, generator=generator).view(-1, 1, 1) < config.flip
    return torch.where(chosen, depth.flip(2), depth)


def plain_batch(samples: SampleSet, indices: Sequence[int], config: TrainConfig, needs: Needs) -> Batch:
    """A batch for scoring: plain crops, labels as they are.

    Raises:
        DataError: The task needs depth and the set has none.
    """
    spec = config.input.spec()
    return Batch(
        rgb=torch.from_numpy(samples.crops(indices, spec)),
        labels=_labels(samples, indices),
        depth=torch.from_numpy(depth_crops(samples, indices, spec)) if needs.depth else None,
        domains=[domain_of(samples.table[i], config.data.domain) for i in indices],
        indices=[samples.table[i].index for i in indices],
    )
