"""``python -m quantize steady``: a trained student whose answers change less with the crop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fasedge.cards import sha256_of
from quantize.distill import PooledTask, load_task
from quantize.errors import CheckpointMismatchError
from quantize.export import is_student
from quantize.options import CropScaleOption, TrainsOption
from quantize.pictures import training_set, usable_part
from quantize.provenance import learnt_from, note_of, unmeasured
from quantize.rounded import train_set, with_crop
from quantize.steady import SteadyConfig, Steadying
from training.checkpoint import load_checkpoint, save_checkpoint
from training.data.joined import joined

_DEFAULT = SteadyConfig()


def steady(
    student: Annotated[Path, typer.Argument(help="Checkpoint that `distil` or `average` left.")],
    *,
    train: TrainsOption,
    out: Annotated[Path, typer.Option(help="Checkpoint to write; OUT.part beside it keeps an unfinished run.")],
    crop_scale: CropScaleOption = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = _DEFAULT.steps,
    weight: Annotated[float, typer.Option(min=0, help="Of the variance over crops.")] = _DEFAULT.weight,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = _DEFAULT.learning_rate,
    seed: Annotated[int, typer.Option(help="Of pictures and moves.")] = _DEFAULT.seed,
) -> None:
    """Train a student to answer alike to moved crops of one face, and otherwise as before."""
    checkpoint = load_checkpoint(student)
    if not is_student(checkpoint):
        raise CheckpointMismatchError(f"{student} is no student that is still to be rounded; `distil` trains one")
    task, config = load_task(student)
    task = cast("PooledTask", task)  # as every student
    config = with_crop(config, crop_scale)
    samples = usable_part(joined([training_set(path) for path in train], depth=task.sees_depth), depth=task.sees_depth)
    how = SteadyConfig(steps=steps, weight=weight, learning_rate=learning_rate, seed=seed)
    state = out.with_name(f"{out.name}.part")
    run = Steadying(task, samples, config, how, state)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as progress:
        bar = progress.add_task("steps", total=steps)
        record = run.run(lambda step: progress.update(bar, completed=step))
    note = note_of(checkpoint)
    note |= {f"steady_{key}": value for key, value in learnt_from(student).items()}
    note |= {
        "steady_from_sha256": sha256_of(student),
        "steady_on": train_set(samples.info),
        "steady_how": str(how),
        "steady_noise": f"{record.noise_before:.4f} to {record.noise_after:.4f}",
    }
    metadata = unmeasured(checkpoint.metadata) | {"config": msgspec.to_builtins(config), "note": note}
    save_checkpoint(out, task.module.state_dict(), metadata)
    state.unlink(missing_ok=True)
    Console().print(
        f"variance over crops, of that between pictures: {record.noise_before:.4f} before, {record.noise_after:.4f} "
        f"after; distance from the answers before: {record.error_after:.4f}"
    )
