"""A student of an experiment as a teacher: the same weights as a checkpoint of the method ``binary-trunk``.

    python -m benchmarks.student_teacher students/recoloured_1.safetensors --out teacher_1.safetensors

Both networks are EfficientNet-Lite0, the mean of its map, and one logit; only the files differ. ``python -m quantize
distil --teacher`` takes the result. A student of that method that ``distil`` left becomes a teacher likewise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import msgspec
import typer
from torch import Tensor, nn

from benchmarks.students import StudentOptions, load_student
from quantize.errors import CheckpointMismatchError
from quantize.export import load_trained
from quantize.students import PixelLogitStudent
from training.build import BinaryTask
from training.checkpoint import load_exactly, save_checkpoint
from training.config import InputConfig, MethodConfig, OptimiserConfig, TrainConfig
from training.errors import CheckpointError, StateMismatchError

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
    if options.cells or options.high_pass:
        raise CheckpointError("a student of cells, or of fine structure alone, has no like among the methods")
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


def of_distilled(path: Path) -> tuple[BinaryTask, TrainConfig]:
    """A student that ``python -m quantize distil`` left, as a task.

    Raises:
        CheckpointError: It is no such student, or one of another method.
    """
    try:
        student, config = load_trained(path)
    except (CheckpointMismatchError, StateMismatchError) as error:
        raise CheckpointError(
            f"{path} is no student of an experiment (`benchmarks.transfer run --keep` writes them) and none of "
            f"`python -m quantize distil` ({error})"
        ) from error
    if not isinstance(student, PixelLogitStudent):
        raise CheckpointError(f"{path} is a student of {config.method.name}; one of binary-trunk is wanted")
    task = BinaryTask(config)
    tensors = {name: value for name, value in student.state_dict().items() if name.startswith("trunk.")}
    weight, bias = student.filter.weight, student.filter.bias
    tensors |= {"last.weight": weight.detach().flatten(1), "last.bias": cast(Tensor, bias).detach()}
    load_exactly(task.module, tensors, what=str(path))
    task.module.eval()
    return task, config


def main(
    student: Annotated[Path, typer.Argument(help="What `benchmarks.transfer run --keep` or `quantize distil` wrote.")],
    *,
    out: Annotated[Path, typer.Option(help="Checkpoint to write.")],
    size: Annotated[int, typer.Option(help="Side of the pictures; a student of `distil` keeps its own.")] = 112,
    crop_scale: Annotated[float, typer.Option(help="Side of the crops over that of the face box; likewise.")] = 1.4,
) -> None:
    """Write the checkpoint."""
    found = load_student(student)
    task, config = as_teacher(*found, size, crop_scale) if found is not None else of_distilled(student)
    save_checkpoint(out, task.module.state_dict(), {"config": msgspec.to_builtins(config)})


if __name__ == "__main__":
    typer.run(main)
