"""What moves the weights beside the gradient: learning rate, averaging, frozen batch normalisation."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from training.config import OptimiserConfig


class Averaged:
    """Exponential moving average of a module's weights and buffers.

    Args:
        module: The module to follow.
        decay: Share of the old average kept per step.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).eval()
        self._decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Follow one step; early steps weigh more, so that the start is forgotten soon."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for old, new in zip(self.module.state_dict().values(), module.state_dict().values(), strict=True):
            if old.dtype.is_floating_point:
                old.lerp_(new, 1 - decay)
            else:
                old.copy_(new)


def learning_rate(config: OptimiserConfig, step: int, total: int) -> float:
    """Learning rate at a step of ``total``, counted from 0: linear warm-up, then constant, half a cosine, or in steps.

    Epochs are counted from the start, warm-up included.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    if config.schedule == "step":
        epoch = step * config.epochs // total
        return config.learning_rate * config.step_factor ** (epoch // config.step_epochs)
    progress = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def freeze_norm(module: nn.Module) -> None:
    """Put batch normalisation into evaluation mode: it keeps its statistics, its factors are still trained."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()
