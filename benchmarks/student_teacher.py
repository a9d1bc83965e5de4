"""A student of an experiment as a teacher: the same weights as a checkpoint of the method ``binary-trunk``.

    python -m benchmarks.student_teacher students/recoloured_1.safetensors --out teacher_1.safetensors

Both networks are EfficientNet-Lite0, the mean of its map, and one logit; only the files differ. ``python -m quantize
distil --teacher`` takes the result.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from torch import nn

from benchmarks.students import StudentOptions, load_student
from training.build import BinaryTask
from training.checkpoint import load_exactly, save_checkpoint
from training.config import InputConfig, MethodConfig, OptimiserConfig, TrainConfig
from training.errors import CheckpointError

_OF_INPUT = "input."


def as_teacher(
    student: nn.Module, options: StudentOptions, size_px: int, crop_scale: float
) -> tuple[BinaryTask, TrainConfig]:
    """The same network as a task.

    Args:
        student: As :func:`benchmarks.students.load_student` gives it.
        options: How it was trained.
        size_px: Side of the pictures that it will answer to; a network without dense layers takes any.
        crop_scale: Side of the crops over the side of the face box.

    Raises:
        CheckpointError: It was trained in a way that no method is.
    """
    if options.cells:
        raise CheckpointError("a student that was trained cell by cell has no like among the methods")
    config = TrainConfig(
        seed=options.seed,
        input=InputConfig(
            size_px=size_px, crop_scale=crop_scale, brightness=options.brightness, grey_world=options.grey_world
        ),
        method=MethodConfig(
            name="binary-trunk", trunk="efficientnet_lite0", pretrained=options.pretrained,
            options={"dropout": options.dropout},
        ),
        optimiser=OptimiserConfig(
            learning_rate=options.learning_rate, weight_decay=options.weight_decay, decoupled=True, batch=options.batch,
            epochs=options.epochs, warmup_steps=options.warmup_steps, schedule="cosine", average=options.average,
            label_smoothing=options.label_smoothing, clip_norm=options.clip_norm, keep="last",
            precision=options.precision,
        ),
        augment=msgspec.structs.replace(options.augment, recoloured=options.recoloured),
    )  # fmt: skip
    task = BinaryTask(config)
    tensors = {name: value for name, value in student.state_dict().items() if not name.startswith(_OF_INPUT)}
    load_exactly(task.module, tensors, what="the student")
    task.module.eval()
    return task, config


def main(
    student: Annotated[Path, typer.Argument(help="What `benchmarks.transfer run --keep` wrote.")],
    *,
    out: Annotated[Path, typer.Option(help="Checkpoint to write.")],
    size: Annotated[int, typer.Option(help="Side of the pictures.")] = 112,
    crop_scale: Annotated[float, typer.Option(help="Side of the crops over the side of the face box.")] = 1.4,
) -> None:
    """Write the checkpoint."""
    found = load_student(student)
    if found is None:
        raise CheckpointError(f"{student} is no student of an experiment; `benchmarks.transfer run --keep` writes them")
    task, config = as_teacher(*found, size, crop_scale)
    save_checkpoint(out, task.module.state_dict(), {"config": msgspec.to_builtins(config)})


if __name__ == "__main__":
    typer.run(main)
