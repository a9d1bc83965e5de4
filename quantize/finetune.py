"""Fine-tuning on the INT8 grid: the rounded network learns to answer as the FP32 one does.

Rounding is in the forward pass, its gradient is passed straight through, and the target is the FP32 network's own
values per cell: no label is needed, and nothing but the rounding error is trained away. Each step runs the network
twice, with and without rounding of the activations: both have to answer as the FP32 network does, and alike.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
CVPR 2018, section 3 (simulated rounding); Bengio et al., 2013 (straight-through estimator).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.optim import Adam

from fasedge.types import UInt8Array
from quantize.errors import CalibrationDataError, ConversionError
from quantize.grid import float_activations, grid_convs
from quantize.pictures import pictures
from quantize.students import ExportModel
from training.config import TrainConfig
from training.data.samples import CropJitter, SampleSet


@dataclass(frozen=True, slots=True)
class FinetuneConfig:
    """How the rounded network is fine-tuned.

    Attributes:
        steps: Optimiser steps; 0 leaves the network as it is.
        batch: Crops per step.
        learning_rate: Peak learning rate of Adam; half a cosine to zero.
        pooled_weight: Weight of the error of the mean over the cells beside the error of each cell.
        agreement_weight: Weight of the difference between rounded and float activations.
    """

    steps: int = 600
    batch: int = 32
    learning_rate: float = 5e-5
    pooled_weight: float = 8.0
    agreement_weight: float = 2.0


#: Steps where nobody says another number.
DEFAULT_STEPS = FinetuneConfig().steps


@dataclass(frozen=True, slots=True)
class FinetuneRecord:
    """What fine-tuning did: RMS error of the mean over the cells, in the first and the last tenth of the steps.

    Attributes:
        before: At the start.
        after: At the end.
    """

    before: float
    after: float


def finetune(
    model: ExportModel, reference: ExportModel, batches: Iterable[UInt8Array], config: FinetuneConfig | None = None
) -> FinetuneRecord:
    """Fine-tune a network on its grid, in place.

    Args:
        model: As :func:`quantize.fitting.fit_grid` returns it; its ranges stay, its weights and biases move.
        reference: The FP32 network.
        batches: Training pictures, uint8 (n, S, S, C) each; at least ``config.steps`` of them.
        config: How.

    Returns:
        The error before and after.

    Raises:
        CalibrationDataError: There are fewer batches than steps.
        ConversionError: The error is not finite any more.
    """
    config = config or FinetuneConfig()
    parameters = [p for conv in grid_convs(model).values() for p in conv.conv.parameters()]
    optimiser = Adam(parameters, lr=config.learning_rate)
    source = iter(batches)
    errors = []
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        for step in range(config.steps):
            crops = next(source, None)
            if crops is None:
                raise CalibrationDataError(f"fine-tuning needs {config.steps} batches of crops, got {step}")
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * 0.5 * (1 + math.cos(math.pi * step / config.steps))
            rgb = torch.from_numpy(np.ascontiguousarray(crops))
            with torch.no_grad():
                wanted = reference.cells(rgb)
            found = model.cells(rgb)
            with float_activations(model):
                plain = model.cells(rgb)
            pooled = _pooled_error(found, wanted)
            loss = _error(found, wanted, config) + _error(plain, wanted, config)
            loss = loss + config.agreement_weight * _error(found, plain, config)
            if not bool(torch.isfinite(loss)):
                raise ConversionError(f"fine-tuning on the INT8 grid diverged at step {step}; lower the learning rate")
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
            optimiser.step()
            errors.append(float(pooled.detach()))
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
    tenth = max(1, len(errors) // 10)
    if not errors:
        return FinetuneRecord(0.0, 0.0)
    return FinetuneRecord(math.sqrt(float(np.mean(errors[:tenth]))), math.sqrt(float(np.mean(errors[-tenth:]))))


def _pooled_error(a: Tensor, b: Tensor) -> Tensor:
    return (a.mean(dim=(-2, -1)) - b.mean(dim=(-2, -1))).square().mean()


def _error(a: Tensor, b: Tensor, config: FinetuneConfig) -> Tensor:
    """Squared difference of the values of two networks, of their cells and of their means."""
    return (a - b).square().mean() + config.pooled_weight * _pooled_error(a, b)


def training_crops(samples: SampleSet, config: TrainConfig, batch: int, *, depth: bool = False) -> Iterator[UInt8Array]:
    """Pictures of a sample set in random order, with the jitter of training, without end.

    Args:
        samples: The set.
        config: Configuration of the student's training: input, jitter and seed.
        batch: Pictures per batch.
        depth: Whether the network looks at depth.

    Yields:
        uint8 (batch, S, S, C), see :func:`quantize.pictures.pictures`.

    Raises:
        CalibrationDataError: The set is smaller than a batch.
    """
    if len(samples) < batch:
        raise CalibrationDataError(f"fine-tuning takes {batch} crops per step, the set holds {len(samples)}")
    rng = np.random.default_rng(config.seed)
    jitter = config.augment.jitter() or CropJitter()
    while True:
        order = rng.permutation(len(samples))
        for i in range(0, len(order) - batch + 1, batch):
            chosen = order[i : i + batch].tolist()
            boxes = samples.boxes(chosen, jitter=jitter, rng=rng)
            yield pictures(samples, chosen, config.input.spec(), depth=depth, boxes=boxes)
