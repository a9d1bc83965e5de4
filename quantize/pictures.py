"""What a network is shown: crops of colour, with depth behind them as fourth channel where it looks at depth too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fasedge.preprocess import InputSpec
from fasedge.types import Box, UInt8Array
from quantize.errors import CalibrationDataError
from training.data.batches import depth_crops, usable
from training.data.samples import SampleSet
from training.tasks import Batch

_CHANNELS: Mapping[str, int] = {"rgb": 3, "depth": 1}


def pictures(
    samples: SampleSet, indices: Sequence[int], spec: InputSpec, *, depth: bool, boxes: Sequence[Box] | None = None
) -> UInt8Array:
    """Network inputs of some samples.

    Args:
        samples: Where they are.
        indices: Which, by position.
        spec: Size and crop scale, of colour and depth alike.
        depth: Whether the network looks at depth.
        boxes: What to cut by, and to measure depth in; by default the boxes of the set.

    Returns:
        uint8 (n, S, S, 3), or (n, S, S, 4) with depth.

    Raises:
        DataError: Depth is needed and the set, or a face, has none; see :func:`usable_part`.
    """
    boxes = samples.boxes(indices) if boxes is None else boxes
    rgb = samples.crops(indices, spec, boxes=boxes)
    if not depth:
        return rgb
    return np.concatenate([rgb, depth_crops(samples, indices, spec, boxes, found=True)[..., None]], axis=3)


def training_set(path: Path) -> SampleSet:
    """A set that a network may be fitted to.

    Raises:
        CalibrationDataError: It is of another split than train.
        DataError: It is missing or malformed.
    """
    samples = SampleSet.load(path)
    if samples.info.split != "train":
        raise CalibrationDataError(f"--train needs a set of the train split, got {samples.info.split!r} in {path}")
    return samples


def usable_part(samples: SampleSet, *, depth: bool) -> SampleSet:
    """The samples that a network can look at: all, or those whose face has depth.

    Raises:
        CalibrationDataError: The set is empty, or depth is needed and no sample has any.
    """
    if not len(samples):
        raise CalibrationDataError(f"the sample set of the {samples.info.split} split is empty")
    if not depth:
        return samples
    if not samples.has_depth:
        raise CalibrationDataError("this network looks at depth, but the sample set has none; make it with --depth")
    chosen = usable(samples, measured=True)
    if not chosen:
        raise CalibrationDataError("no face of the sample set has any depth")
    return samples if len(chosen) == len(samples) else samples.subset(chosen, "faces with depth")


def packed(batch: Batch, *, depth: bool) -> Tensor:
    """The pictures of a batch, uint8 (N, S, S, 3), or (N, S, S, 4) with depth.

    Raises:
        CalibrationDataError: Depth is needed and the batch has none.
    """
    if not depth:
        return batch.rgb
    if batch.depth is None:
        raise CalibrationDataError("this network looks at depth, but the batch has none")
    return torch.cat([batch.rgb, batch.depth.unsqueeze(3)], dim=3)


def feed(shown: UInt8Array) -> dict[str, UInt8Array]:
    """Pictures as an engine takes them: uint8 (n, S, S, C) for each input, by its name.

    Args:
        shown: As :func:`pictures` gives them.
    """
    out, first = {}, 0
    for name, channels in _CHANNELS.items():
        if first + channels <= shown.shape[3]:
            out[name] = np.ascontiguousarray(shown[..., first : first + channels])
        first += channels
    return out


def parts(shown: UInt8Array, size: int) -> Iterator[UInt8Array]:
    """Pictures in their order, ``size`` at a time."""
    for start in range(0, len(shown), size):
        yield np.ascontiguousarray(shown[start : start + size])
