"""Training the student of CMFL: with CMFL's own loss, and beside it the logits of a teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from fasedge.preprocess import InputSpec
from quantize.errors import CheckpointMismatchError
from quantize.rgbd import METHOD, SCORES, RgbdInput, RgbdStudent, new_rgbd_student
from training.build import build_task, refuse_unread
from training.checkpoint import load_checkpoint, load_exactly
from training.config import TrainConfig
from training.errors import BatchError, ConfigError
from training.methods.base import without_autocast
from training.methods.cmfl import CMFL, CMFLLosses, StreamLogits
from training.tasks import MIXED, TOTAL, Batch, MethodStep, Needs, named_losses
from training.trained import config_of, without_start


class RgbdTeacher:
    """A trained CMFL of full size.

    Args:
        step: It, as a task.
    """

    def __init__(self, step: MethodStep[StreamLogits, CMFLLosses]) -> None:
        self._step = step
        step.module.eval().requires_grad_(False)

    def to(self, device: torch.device) -> None:
        """Answer from there."""
        self._step.to(device)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> StreamLogits:
        """Logits of the three heads."""
        said: StreamLogits = self._step.module(self._step.see(batch))
        return said


class RgbdTask:
    """A student of CMFL as a task of the training loop.

    Args:
        config: The student's run.
        teachers: Trained networks of CMFL, of whose logits the mean is imitated.
        alpha: Weight of that against CMFL's own loss, in [0, 1].
        student: One that exists already, instead of a new one.

    Raises:
        ConfigError: A setting that such a student does not have, or ``alpha`` out of its range.
    """

    needs = Needs(depth=True)
    sees_depth = True

    def __init__(
        self,
        config: TrainConfig,
        teachers: Sequence[RgbdTeacher] = (),
        alpha: float = 0.5,
        *,
        student: RgbdStudent | None = None,
    ) -> None:
        if not 0 <= alpha <= 1:
            raise ConfigError(f"distillation needs alpha in [0, 1], got {alpha}")
        refuse_unread(config)
        self._student = student or new_rgbd_student(config.method)
        self._input = RgbdInput(config.input.normalisation(), self._student.network.rgb_trunk)
        self._teachers, self._alpha = tuple(teachers), alpha

    @property
    def module(self) -> RgbdStudent:
        """The student."""
        return self._student

    def to(self, device: torch.device) -> None:
        """Move student, teachers and first layer."""
        self._student.to(device)
        self._input.to(device)
        for teacher in self._teachers:
            teacher.to(device)

    def logits(self, batch: Batch) -> StreamLogits:
        """Logits of the three heads.

        Raises:
            BatchError: The batch has no depth.
        """
        if batch.depth is None:
            raise BatchError("a student of CMFL learns from colour with depth, but the batch has none")
        found: StreamLogits = self._student(*self._input(batch.rgb, batch.depth.unsqueeze(3)))
        return found

    def training_step(self, batches: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        """CMFL's loss, and the imitation of the teachers' logits by the joint head and that of depth.

        Source of the former: George & Marcel, CVPR 2021, see :meth:`training.methods.cmfl.CMFL.loss`.
        """
        batch = batches[MIXED]
        found = self.logits(batch)
        with without_autocast(batch.rgb.device.type):
            losses = named_losses(self._student.network.loss(found, batch.labels))
            if not self._teachers:
                return losses
            said = [teacher(batch) for teacher in self._teachers]
            imitation = torch.stack(
                [F.smooth_l1_loss(_of(found, name), mean_logit(said, name)) for name in ("joint", "depth")]
            ).sum()
            total = (1 - self._alpha) * losses[TOTAL] + self._alpha * imitation
            return losses | {"imitation": imitation, TOTAL: total}

    def score_batch(self, batch: Batch) -> Tensor:
        """The joint score before calibration, (N,)."""
        return torch.sigmoid(_of(self.logits(batch), "joint"))

    def score(self, pictures: Tensor) -> Tensor:
        """uint8 (N, S, S, 4), depth last, to the joint score before calibration, (N,)."""
        return torch.sigmoid(self.pooled_heads(pictures)[SCORES[0]])

    def pooled_heads(self, pictures: Tensor) -> dict[str, Tensor]:
        """uint8 (N, S, S, 4), depth last, to the logits (N,) of the heads by the names of their scores."""
        found = self._student(*self._input(pictures[..., :3], pictures[..., 3:]))
        return dict(zip(SCORES, (_of(found, "joint"), found.rgb, _of(found, "depth")), strict=True))


def _of(logits: StreamLogits, name: str) -> Tensor:
    value = getattr(logits, name)
    if not isinstance(value, Tensor):
        raise BatchError(f"the head {name!r} has not answered: there was no depth")
    return value


def mean_logit(said: Sequence[StreamLogits], name: str) -> Tensor:
    """Mean of what several networks say of a head, (N,).

    Raises:
        BatchError: One of them has seen no depth.
    """
    return torch.stack([_of(one, name) for one in said]).mean(0)


def load_rgbd_teacher(path: Path) -> tuple[RgbdTeacher, TrainConfig]:
    """Load a trained CMFL from its checkpoint.

    Args:
        path: Checkpoint of ``python -m training fit``.

    Returns:
        The teacher, and the configuration that it was trained with.

    Raises:
        CheckpointMismatchError: The checkpoint is of another method.
        CheckpointError: The file is missing or damaged, or carries no configuration.
    """
    checkpoint = load_checkpoint(path)
    config = config_of(checkpoint)
    if config.method.name != METHOD:
        raise CheckpointMismatchError(
            f"{path} is a network of {config.method.name}; a student of colour and depth is taught by one of {METHOD}"
        )
    step = build_task(without_start(config))
    if not isinstance(step, MethodStep) or not isinstance(step.module, CMFL):
        raise CheckpointMismatchError(f"{path} is no network of {METHOD}")
    load_exactly(step.module, checkpoint.tensors, what=str(path))
    return RgbdTeacher(step), config


def check_same_crop(student: TrainConfig, known: InputSpec, who: str) -> None:
    """Refuse somebody who would look at other crops than those that he was trained on.

    Args:
        student: Whose crops they would be.
        known: What he has seen.
        who: For the message.

    Raises:
        ConfigError: Size or crop differ.
    """
    wanted = student.input.spec()
    if (wanted.size_px, wanted.crop_scale) != (known.size_px, known.crop_scale):
        raise ConfigError(
            f"{who} has seen crops of {known.size_px} px and {known.crop_scale:g} face boxes, the student sees "
            f"{wanted.size_px} px and {wanted.crop_scale:g}: train one of the two for the other's"
        )
