"""Distillation: a small student learns the task and imitates the full-precision network.

Students of A-DeepPixBiS: ``L = (1 - alpha)·A-BCE(student map, label) + alpha·[ BCE(σ(T·c_s), σ(T·c_t)) -
H(σ(T·c_t)) ]``, averaged over the cells of the map: the first term is the method's own pixel-wise loss, the second the
Kullback-Leibler divergence to the teacher's softened map. With ``alpha = 0`` the student is trained without a teacher,
on the same schedule.

Students of binary supervision and of RFMeta: the same with the cross-entropy of the mean logit z, and the smooth L1
distance of ``T·z_s`` from ``T·z_t``: single cells need not say what they say, only their mean is supervised.

Where the student's map has as many channels as the teacher's, it can imitate what the teacher's trunk finds as well:
``+ beta·mean(((f_s - f_t) / (sd(f_t) + 0.001))²)``, with the deviation of each channel in the batch. It then starts
with the teacher's head.

A student can be held to a *steady* answer as well: it sees a crop that was moved a little and imitates the mean of what
its teachers say of several such crops, none of them its own; features are then compared in the mean over the map.

Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, for the softened targets; the pixel-wise
form follows the method's map. Romero et al., "FitNets", ICLR 2015, for features; Chen et al., "Knowledge Distillation
with the Reused Teacher Classifier", CVPR 2022, for the head; Beyer et al., "Knowledge Distillation: A Good Teacher is
Patient and Consistent", CVPR 2022, for one view for both, and for pictures that are blended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol, cast, runtime_checkable

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from quantize.errors import CheckpointMismatchError
from quantize.export import is_rounded, is_student, load_trained
from quantize.imitation import FINDER, Imitation, feature_error, mixup, moved, pool
from quantize.pictures import packed
from quantize.rgbd import RgbdStudent
from quantize.rgbd_task import RgbdTask
from quantize.rounded import RoundedTask, load_rounded
from quantize.students import Student, new_student
from quantize.teachers import Taught, Teacher, together
from training.backbones import Trunk
from training.build import (
    BinaryTask,
    LogitTask,
    MethodTask,
    ScoringTask,
    TeachingTask,
    build_trunk,
    method_settings,
    refuse_unread,
)
from training.checkpoint import Checkpoint, load_checkpoint, load_exactly
from training.config import TrainConfig
from training.data.samples import SampleSet
from training.errors import ConfigError
from training.inputs import GraphInput
from training.methods.a_deeppixbis import a_bce
from training.methods.base import without_autocast
from training.scoring import named_score_batches, score_batches
from training.tasks import Needs
from training.trained import config_of, without_start


class DistilTask:
    """A student as a task of the training loop.

    Args:
        config: The student's run; ``method.trunk`` names its trunk.
        teachers: Trained full-precision networks of the same method. What they say of the cells is imitated in the
            mean, features are those of the first.
        imitation: How they are imitated; without teachers not at all.
        student: A student that exists already, instead of a new one with the configured trunk.

    Raises:
        ConfigError: The method has no student, a setting that nothing reads, a teacher of another method or with a map
            of another size, or features are to be imitated and there is another number of them.
    """

    def __init__(
        self,
        config: TrainConfig,
        teachers: Sequence[Teacher] = (),
        imitation: Imitation | None = None,
        *,
        student: Student | None = None,
    ) -> None:
        trunk = build_trunk(config.method) if student is None else cast(Trunk, student.trunk)
        self._student = student or new_student(config.method.name, trunk, trunk.out_channels)
        self._input = GraphInput(config.input.normalisation(), trunk.input_mean, trunk.input_std)
        self._losses = _SCHOOLS[config.method.name].losses(config)
        map_side = config.input.size_px // trunk.stride
        self._teachers = tuple(teachers)
        self._imitation = imitation or Imitation()
        self._shift = FINDER.shift / config.input.crop_scale
        for teacher in self._teachers:
            if teacher.method != config.method.name:
                raise ConfigError(
                    f"a student of {config.method.name} cannot imitate a teacher of {teacher.method}: the values of "
                    "its cells mean something else"
                )
            sides = teacher.map_side, map_side
            if sides[0] not in (None, sides[1]):
                raise ConfigError(
                    f"the teacher's map has {sides[0]} cells a side, the student's {sides[1]}; give the student an "
                    f"input.size_px of {16 * int(sides[0] or 0)}"
                )
        if self._imitation.features and not (self._teachers and self._teachers[0].channels == trunk.out_channels):
            found = f"a map of {self._teachers[0].channels} channels" if self._teachers else "no teacher"
            raise ConfigError(
                f"features can be imitated where there are as many; the student's map has {trunk.out_channels} "
                f"channels, and there is {found}"
            )

    sees_depth = False

    @property
    def module(self) -> Student:
        """The student."""
        return self._student

    def to(self, device: torch.device) -> None:
        """Move student, teachers and first layer to a device."""
        self._student.to(device)
        self._input.to(device)
        for teacher in self._teachers:
            teacher.to_device(device)

    def start_from(self, teacher: TeachingTask) -> None:
        """Give the student the teacher's trunk and filter as a start, where both have the same trunk.

        Raises:
            StateMismatchError: The trunks differ.
        """
        load_exactly(self._student.trunk, teacher.trunk.state_dict(), what="the teacher's trunk")
        self.start_with_head(teacher)

    def start_with_head(self, teacher: TeachingTask) -> None:
        """Give the student the teacher's filter as a start, where both maps have as many channels.

        Raises:
            ConfigError: They have not.
        """
        own = self._student.filter
        weight, bias = teacher.filter
        if weight.numel() != own.weight.numel():
            raise ConfigError(
                f"the teacher's filter has {weight.numel()} channels, the student's {own.weight.numel()}: it cannot "
                "start with it"
            )
        own.weight.data.copy_(weight.detach().reshape(own.weight.shape))
        if own.bias is not None and bias is not None:
            own.bias.data.copy_(bias.detach())

    def loss(self, rgb: Tensor, labels: Tensor) -> Tensor:
        """Task loss and imitation."""
        how = self._imitation
        if how.mixup and float(torch.rand(())) < how.mixup:
            rgb, labels = mixup(rgb, labels)
        steady = bool(how.steady) and float(torch.rand(())) < how.steady
        taught = self._taught(rgb, steady=steady) if self._teachers else None
        features = self._student.trunk(self._input(self._moved(rgb) if steady else rgb))
        cells = self._student.cells_of(features)
        with without_autocast(rgb.device.type):
            loss = self._losses.task(cells, labels)
            if taught is None:
                return loss
            factor = self._losses.temperature if how.temperature is None else how.temperature
            imitation = self._losses.imitation(factor * cells, factor * taught.cells)
            loss = (1 - how.alpha) * loss + how.alpha * imitation
            if not how.features:
                return loss
            found = features.float()
            return loss + how.features * feature_error(pool(found) if steady else found, taught.features)

    def _moved(self, rgb: Tensor) -> Tensor:
        return moved(rgb, self._shift)

    def _taught(self, rgb: Tensor, *, steady: bool) -> Taught:
        """What the teachers say; for a steady answer the mean of what they say of moved crops, features pooled."""
        if not steady:
            return together(self._teachers, rgb)
        said = [together(self._teachers, self._moved(rgb)) for _ in range(self._imitation.views)]
        cells, features = (torch.stack(list(values)).mean(0) for values in zip(*said, strict=True))
        return Taught(cells, pool(features))

    def score(self, rgb: Tensor) -> Tensor:
        """Mean over the cells mapped to [0, 1]; the calibrated score is made at export."""
        return self._student.share(self.pooled(rgb))

    def inputs(self, rgb: Tensor) -> Tensor:
        """What the trunk sees of pictures uint8 (N, S, S, 3): float32 (N, 3, S, S)."""
        return cast(Tensor, self._input(rgb))

    def pooled(self, rgb: Tensor) -> Tensor:
        """Mean over the cells, (N,)."""
        return self._student.pooled(self._input(rgb))

    def pooled_heads(self, pictures: Tensor) -> dict[str, Tensor]:
        """The same by the name of the score: there is one."""
        return {"score": self.pooled(pictures)}


@runtime_checkable
class PooledTask(ScoringTask, Protocol):
    """A student, rounded or not: what is calibrated are the means over the cells of its heads."""

    @property
    def sees_depth(self) -> bool:
        """Whether pictures have depth as fourth channel."""
        ...

    def pooled_heads(self, pictures: Tensor) -> dict[str, Tensor]:
        """Means over the cells, (N,), of pictures uint8 (N, S, S, C), by the names of their scores."""
        ...


def scores_of(
    score: Callable[[Tensor], Tensor], task: ScoringTask, samples: SampleSet, config: TrainConfig
) -> NDArray[np.float64]:
    """Score a whole set, float64 (n,).

    Args:
        score: From pictures, uint8 (N, S, S, C), to (N,); such as ``task.score``.
        task: Whose score that is.
        samples: The set; see :func:`quantize.pictures.usable_part`.
        config: Its input is the one of the crops.
    """
    depth = sees_depth(task)
    needs = Needs(depth=depth)
    return score_batches(lambda batch: score(packed(batch, depth=depth)), task.module, samples, config, needs=needs)


def pooled_heads_of(task: PooledTask, samples: SampleSet, config: TrainConfig) -> dict[str, NDArray[np.float64]]:
    """Means over the cells of a whole set, float64 (n,), by the names of their scores; see :func:`scores_of`."""
    depth = task.sees_depth
    return named_score_batches(
        lambda batch: task.pooled_heads(packed(batch, depth=depth)),
        task.module,
        samples,
        config,
        needs=Needs(depth=depth),
    )


def sees_depth(task: ScoringTask) -> bool:
    """Whether a task of :func:`load_task` looks at depth."""
    return isinstance(task, PooledTask) and task.sees_depth


class _Losses(Protocol):
    """What a student of a method is trained with, made for its run."""

    temperature: ClassVar[float]

    def __init__(self, config: TrainConfig) -> None: ...

    def task(self, cells: Tensor, labels: Tensor) -> Tensor:
        """Loss of the cells (N, m, m) for labels (N,)."""
        ...

    def imitation(self, found: Tensor, wanted: Tensor) -> Tensor:
        """Difference of the student's cells from the teacher's, both times T."""
        ...


class _CosineLosses:
    temperature: ClassVar[float] = 4.0

    def __init__(self, config: TrainConfig) -> None:
        self._settings = replace(method_settings(config), attention=False)

    def task(self, cells: Tensor, labels: Tensor) -> Tensor:
        return a_bce(cells, labels, self._settings).mean()

    def imitation(self, found: Tensor, wanted: Tensor) -> Tensor:
        share = torch.sigmoid(wanted)
        return F.binary_cross_entropy_with_logits(found, share) - F.binary_cross_entropy(share, share)


class _LogitLosses:
    temperature: ClassVar[float] = 1.0

    def __init__(self, config: TrainConfig) -> None:
        # The student's network is its own, whatever its method's may read: a trunk with one logit.
        refuse_unread(
            msgspec.structs.replace(config, method=msgspec.structs.replace(config.method, name="binary-trunk"))
        )
        if config.method.options:
            raise ConfigError(f"a student of {config.method.name} has no options, got {config.method.options}")

    def task(self, cells: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(cells.mean(dim=(1, 2)), labels)

    def imitation(self, found: Tensor, wanted: Tensor) -> Tensor:
        return F.smooth_l1_loss(found.mean(dim=(1, 2)), wanted.mean(dim=(1, 2)))


class _School(NamedTuple):
    """How students of a method learn, and the full-precision network that teaches them."""

    losses: type[_Losses]
    teacher: type[MethodTask | BinaryTask | LogitTask]


#: By the name of the method, as :data:`quantize.students.STUDENTS`.
_SCHOOLS: Mapping[str, _School] = {
    "a-deeppixbis": _School(_CosineLosses, MethodTask),
    "binary-trunk": _School(_LogitLosses, BinaryTask),
    "rfmeta": _School(_LogitLosses, LogitTask),
}


def load_teacher(path: Checkpoint | Path) -> tuple[MethodTask | BinaryTask | LogitTask, TrainConfig]:
    """Load a trained method from its checkpoint.

    Args:
        path: Checkpoint of ``python -m training fit``.

    Returns:
        The method, and the configuration that it was trained with.

    Raises:
        CheckpointMismatchError: The checkpoint is of another method.
        CheckpointError: The file is missing or damaged, or carries no configuration.
    """
    checkpoint = load_checkpoint(path)
    config = config_of(checkpoint)
    if config.method.name not in _SCHOOLS:
        raise CheckpointMismatchError(
            f"{checkpoint.name} is a network of full size of {config.method.name}; here one of {', '.join(_SCHOOLS)} "
            "is wanted (`training evaluate` scores any, `quantize full` makes files of any)"
        )
    task = _SCHOOLS[config.method.name].teacher(without_start(config))
    load_exactly(task.module, checkpoint.tensors, what=checkpoint.name)
    task.module.eval()
    return task, config


def load_task(path: Path) -> tuple[ScoringTask, TrainConfig]:
    """Load a checkpoint of any kind (method, student, rounded student) to score with it.

    Raises:
        CheckpointMismatchError: It is of no kind that is known.
        CheckpointError: The file is missing or damaged.
    """
    checkpoint = load_checkpoint(path)
    if is_rounded(checkpoint):
        rounded = load_rounded(checkpoint)
        return RoundedTask(rounded), rounded.config
    if not is_student(checkpoint):
        return load_teacher(checkpoint)
    student, config = load_trained(checkpoint)
    task = (
        RgbdTask(config, student=student) if isinstance(student, RgbdStudent) else DistilTask(config, student=student)
    )
    task.module.eval()
    return task, config
