"""A student of colour alone whose teachers see depth as well: what depth knows, as far as colour can show it.

``L = (1 - alpha)·BCE(z_s, label) + alpha·smoothL1(z_s, z_t)``, with the student's logit of colour and the mean of the
teachers' joint logits of colour and depth, both of the same crop.

Source: Gupta, Hoffman and Malik, "Cross Modal Distillation for Supervision Transfer", CVPR 2016, for the idea; the loss
is that of :mod:`quantize.distill` for students with one logit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from quantize.distill import DistilTask
from quantize.rgbd_task import RgbdTeacher, mean_logit
from quantize.students import PixelLogitStudent, Student
from training.errors import ConfigError
from training.methods.base import without_autocast
from training.tasks import MIXED, TOTAL, Batch, Needs


class CrossModalTask:
    """A student of colour, taught by networks of colour and depth, as a task of the training loop.

    Args:
        student: The student, without teachers of its own.
        teachers: Trained networks of CMFL; they see the crops that the student sees, with depth.
        alpha: Weight of the imitation, in [0, 1].

    Raises:
        ConfigError: The student has no logit, there is no teacher, or ``alpha`` is out of its range.
    """

    needs = Needs(depth=True)

    def __init__(self, student: DistilTask, teachers: Sequence[RgbdTeacher], alpha: float = 0.5) -> None:
        if not isinstance(student.module, PixelLogitStudent):
            raise ConfigError(
                "teachers of cmfl say logits; students that have one are those of the methods binary-trunk and rfmeta"
            )
        if not teachers or not 0 <= alpha <= 1:
            raise ConfigError(f"expected a teacher and alpha in [0, 1], got {len(teachers)} and {alpha}")
        self.student = student
        self._teachers, self._alpha = tuple(teachers), alpha

    @property
    def module(self) -> Student:
        """The student."""
        return self.student.module

    def to(self, device: torch.device) -> None:
        """Move student and teachers."""
        self.student.to(device)
        for teacher in self._teachers:
            teacher.to(device)

    def training_step(self, batches: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        """Task loss and imitation."""
        batch = batches[MIXED]
        wanted = mean_logit([teacher(batch) for teacher in self._teachers], "joint")
        found = self.student.pooled(batch.rgb)
        with without_autocast(batch.rgb.device.type):
            task = F.binary_cross_entropy_with_logits(found.float(), batch.labels)
            imitation = F.smooth_l1_loss(found.float(), wanted.float())
            total = (1 - self._alpha) * task + self._alpha * imitation
        return {TOTAL: total, "task": task, "imitation": imitation}

    def score_batch(self, batch: Batch) -> Tensor:
        """The student's score, (N,): of colour."""
        return self.student.score(batch.rgb)
