"""Distillation: a small student learns the task and imitates the full-precision network.

``L = (1 - alpha)·A-BCE(student map, label) + alpha·[ BCE(σ(T·c_s), σ(T·c_t)) - H(σ(T·c_t)) ]``, averaged over the
cells of the map: the first term is the method's own pixel-wise loss, the second the Kullback-Leibler divergence to
the teacher's softened map. With ``alpha = 0`` the student is trained without a teacher, on the same schedule.

Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, for the softened targets; the pixel-wise
form follows the method's map.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import cast

import msgspec
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from quantize.export import config_of, load_trained
from quantize.rounded import RoundedTask, is_rounded, load_rounded
from quantize.students import PixelCosineStudent
from training.backbones import Trunk
from training.build import MethodTask, ScoringTask, build_trunk, method_settings
from training.checkpoint import load_checkpoint, load_exactly
from training.config import TrainConfig
from training.errors import ConfigError
from training.inputs import GraphInput
from training.methods.a_deeppixbis import a_bce
from training.methods.base import without_autocast


class DistilTask:
    """A student as a task of the training loop.

    Args:
        config: The student's run; ``method.trunk`` names its trunk.
        teacher: A trained full-precision method, or ``None``.
        alpha: Weight of the imitation, in [0, 1].
        temperature: T: factor on the cosines before the sigmoid of both.
        student: A student that exists already, instead of a new one with the configured trunk.

    Raises:
        ConfigError: ``alpha`` or ``temperature`` is out of range, or the teacher's map has another size.
    """

    def __init__(
        self,
        config: TrainConfig,
        teacher: MethodTask | None = None,
        *,
        alpha: float = 0.5,
        temperature: float = 4.0,
        student: PixelCosineStudent | None = None,
    ) -> None:
        if not 0 <= alpha <= 1 or not 0 < temperature < math.inf:
            raise ConfigError(f"distillation needs alpha in [0, 1] and temperature > 0, got {alpha} and {temperature}")
        trunk = build_trunk(config.method) if student is None else cast(Trunk, student.trunk)
        self._student = student or PixelCosineStudent(trunk, trunk.out_channels)
        self._input = GraphInput(config.input.normalisation(), trunk.input_mean, trunk.input_std)
        self._settings = replace(method_settings(config), attention=False)
        self._teacher = teacher
        self._alpha = alpha if teacher is not None else 0.0
        self._temperature = temperature
        if teacher is not None:
            sides = teacher.module.config.map_side, self._settings.map_side
            if sides[0] != sides[1]:
                raise ConfigError(
                    f"the teacher's map has {sides[0]} cells a side, the student's {sides[1]}; give the student an "
                    f"input.size_px of {16 * sides[0]}"
                )
            teacher.module.eval()
            teacher.module.requires_grad_(False)

    @property
    def module(self) -> PixelCosineStudent:
        """The student."""
        return self._student

    def to(self, device: torch.device) -> None:
        """Move student, teacher and first layer to a device."""
        self._student.to(device)
        self._input.to(device)
        if self._teacher is not None:
            self._teacher.to(device)

    def start_from(self, teacher: MethodTask) -> None:
        """Give the student the teacher's trunk and pixel filter as a start, where both have the same trunk.

        Raises:
            StateMismatchError: The trunks differ.
        """
        load_exactly(self._student.trunk, teacher.module.trunk.state_dict(), what="the teacher's trunk")
        self._student.filter.weight.data.copy_(teacher.module.pixel_filter.weight.data)

    def loss(self, rgb: Tensor, labels: Tensor) -> Tensor:
        """Task loss and imitation."""
        cosines = self._student.cosine_map(self._input(rgb))
        with torch.no_grad():
            taught = None if self._teacher is None else self._temperature * self._teacher.cosines(rgb)[0]
        with without_autocast(rgb.device.type):
            loss = a_bce(cosines, labels, self._settings).mean()
            if taught is None:
                return loss
            wanted = torch.sigmoid(taught)
            entropy = F.binary_cross_entropy(wanted, wanted)
            imitation = F.binary_cross_entropy_with_logits(self._temperature * cosines, wanted) - entropy
            return (1 - self._alpha) * loss + self._alpha * imitation

    def score(self, rgb: Tensor) -> Tensor:
        """Mean cosine mapped to [0, 1]; the calibrated score is made at export."""
        return 0.5 + 0.5 * self._student.pooled(self._input(rgb))


def load_teacher(path: Path) -> tuple[MethodTask, TrainConfig]:
    """Load a trained method from its checkpoint.

    Args:
        path: Checkpoint of ``python -m training fit``.

    Returns:
        The method, and the configuration that it was trained with.

    Raises:
        CheckpointMismatchError: The checkpoint is of another method, or carries no configuration.
        CheckpointError: The file is missing or damaged.
    """
    checkpoint = load_checkpoint(path)
    config = config_of(checkpoint, path)
    # The weights come from the checkpoint: nothing is to be loaded from elsewhere.
    bare = msgspec.structs.replace(config.method, pretrained=False, weights=None)
    task = MethodTask(msgspec.structs.replace(config, method=bare))
    load_exactly(task.module, checkpoint.tensors, what=str(path))
    task.module.eval()
    return task, config


def load_task(path: Path) -> tuple[ScoringTask, TrainConfig]:
    """Load a checkpoint of any kind (method, student, rounded student) to score with it.

    Raises:
        CheckpointMismatchError: It is of no kind that is known.
        CheckpointError: The file is missing or damaged.
    """
    if is_rounded(path):
        rounded = load_rounded(path)
        return RoundedTask(rounded), rounded.config
    if "pixel_filter.weight" in load_checkpoint(path).tensors:
        return load_teacher(path)
    student, config = load_trained(path)
    task = DistilTask(config, student=student)
    task.module.eval()
    return task, config
