"""Quantisation-aware training of networks of full size: their convolutions learn to be rounded, nothing else changes.

For networks that rounding alone moves too far (:mod:`quantize.full`). In the forward pass the convolutions that the
files round are rounded as in :mod:`quantize.layers`; the gradient passes straight through. The target is the network's
own score at full precision: no label is needed, and what is learnt is the rounding alone. What comes out is a network
in float whose files lose less; each engine's quantiser then works on it as on any other.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
CVPR 2018, section 3 (simulated rounding); Bengio et al., 2013 (straight-through estimator).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torch.optim import Adam

from fasedge.types import UInt8Array
from quantize.errors import CalibrationDataError, ConversionError
from quantize.finetune import FinetuneConfig, FinetuneRecord
from quantize.full import FullNetwork, float_modules
from quantize.layers import Layers

#: Scores nearer to 0 or 1 are compared as if they were this far from it: as logits they would be infinite.
_NEAREST = 1e-5


def finetune_full(
    model: FullNetwork, calibration: UInt8Array, batches: Iterable[UInt8Array], config: FinetuneConfig
) -> tuple[FullNetwork, FinetuneRecord]:
    """Train a network's convolutions to bear rounding.

    Args:
        model: The network; it stays as it is.
        calibration: Pictures of the train split for the ranges, uint8 (n, S, S, C).
        batches: Training pictures, uint8 (n, S, S, C) each; at least ``config.steps`` of them.
        config: Steps, learning rate and weight of the agreement; its ``batch`` and ``pooled_weight`` say nothing here.

    Returns:
        A copy whose convolutions have learnt, and the root mean square of the error of the score as a logit, at the
        beginning and at the end.

    Raises:
        CalibrationDataError: There are no calibration pictures, or fewer batches than steps.
        ConversionError: The error is not finite any more.
    """
    tuned = copy.deepcopy(model)
    in_float = set(float_modules(model, calibration[:1])) if len(calibration) else set()
    source, errors = iter(batches), []
    with Layers(tuned, calibration, in_float=in_float) as layers:
        names = [name for name in layers.names if name not in in_float]
        parameters = [p for n, part in tuned.named_modules() if n in names for p in part.parameters()]
        optimiser = Adam(parameters, lr=config.learning_rate)
        for parameter in parameters:
            parameter.requires_grad_(True)
        for step in range(config.steps):
            crops = next(source, None)
            if crops is None:
                raise CalibrationDataError(f"fine-tuning needs {config.steps} batches of crops, got {step}")
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * 0.5 * (1 + math.cos(math.pi * step / config.steps))
            shown = torch.from_numpy(np.ascontiguousarray(crops))
            with torch.no_grad():
                wanted = _logit(model, shown)
            optimiser.zero_grad()
            plain = (_logit(tuned, shown) - wanted).square().mean()
            plain.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
            with layers.rounded(names):
                # The gradient at the rounded filters moves those that are not.
                error = (_logit(tuned, shown) - wanted).square().mean()
                error.backward()  # type: ignore[no-untyped-call]
            if not bool(torch.isfinite(error + plain)):
                raise ConversionError(f"quantisation-aware training diverged at step {step}; lower the learning rate")
            optimiser.step()
            layers.round_anew()
            errors.append(float(error.detach()))
    for parameter in parameters:
        parameter.requires_grad_(False)
        parameter.grad = None
    return tuned, FinetuneRecord.of(errors)


def _logit(model: FullNetwork, shown: Tensor) -> Tensor:
    return torch.logit(model(shown)[0], eps=_NEAREST)
