"""``python -m quantize steady``: a trained student whose answers change less with the crop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, cast

import msgspec
import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fasedge.cards import find_model, load_card, sha256_of
from quantize.distil_command import start_from_another
from quantize.distill import DistilTask, PooledTask, load_task
from quantize.errors import CheckpointMismatchError
from quantize.export import is_student
from quantize.options import CropScaleOption, TrainsOption
from quantize.pictures import training_set, usable_part
from quantize.provenance import learnt_from, note_of, unmeasured
from quantize.rounded import train_set, with_crop
from quantize.steady import SteadyConfig, Steadying
from training.checkpoint import JsonValue, load_checkpoint, save_checkpoint
from training.config import TrainConfig, load_config
from training.data.joined import joined

_DEFAULT = SteadyConfig()


_TAUGHT = "student_"  # of a card's provenance: what the student's own record said


def steady(
    student: Annotated[str, typer.Argument(help="Checkpoint that `distil` or `average` left, or a model's id.")],
    *,
    train: TrainsOption,
    out: Annotated[Path, typer.Option(help="Checkpoint to write; OUT.part beside it keeps an unfinished run.")],
    config: Annotated[
        Path | None, typer.Option(help="TOML file of the student, e.g. quantize/student.toml; of a model only.")
    ] = None,
    crop_scale: CropScaleOption = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = _DEFAULT.steps,
    weight: Annotated[float, typer.Option(min=0, help="Of the variance over crops.")] = _DEFAULT.weight,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = _DEFAULT.learning_rate,
    augmented: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the pictures that are augmented, as the student's own were.")
    ] = _DEFAULT.augmented,
    reach: Annotated[
        float, typer.Option(help="How far to go from the weights before to those found: 1 is there, more is beyond.")
    ] = _DEFAULT.reach,
    seed: Annotated[int, typer.Option(help="Of pictures and moves.")] = _DEFAULT.seed,
) -> None:
    """Train a student to answer alike to moved crops of one face, and otherwise as before."""
    how = SteadyConfig(
        steps=steps, weight=weight, learning_rate=learning_rate, augmented=augmented, reach=reach, seed=seed
    )
    task, settings, metadata = _begin(student, config, train)
    settings = with_crop(settings, crop_scale)
    samples = usable_part(joined([training_set(path) for path in train], depth=task.sees_depth), depth=task.sees_depth)
    state = out.with_name(f"{out.name}.part")
    run = Steadying(task, samples, settings, how, state)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as progress:
        bar = progress.add_task("steps", total=steps)
        record = run.run(lambda step: progress.update(bar, completed=step))
    note = cast("dict[str, JsonValue]", metadata["note"]) | {
        "steady_on": train_set(samples.info),
        "steady_how": str(how),
        "steady_noise": f"{record.noise_before:.4f} to {record.noise_after:.4f}",
    }
    save_checkpoint(out, task.module.state_dict(), metadata | {"config": msgspec.to_builtins(settings), "note": note})
    state.unlink(missing_ok=True)
    Console().print(
        f"variance over crops, of that between pictures: {record.noise_before:.4f} before, {record.noise_after:.4f} "
        f"after; distance from the answers before: {record.error_after:.4f}"
    )


def _begin(
    student: str, config: Path | None, train: Sequence[Path]
) -> tuple[PooledTask, TrainConfig, dict[str, JsonValue]]:
    """The student as it is, its configuration, and what its checkpoint or its card says of it."""
    path = Path(student)
    if path.is_file():
        if config is not None:
            raise typer.BadParameter("a checkpoint carries its configuration: --config is for models")
        checkpoint = load_checkpoint(path)
        if not is_student(checkpoint):
            raise CheckpointMismatchError(f"{path} is no student that is still to be rounded; `distil` trains one")
        task, settings = load_task(path)
        note = note_of(checkpoint) | {f"steady_{key}": value for key, value in learnt_from(path).items()}
        note["steady_from_sha256"] = sha256_of(path)
        return cast("PooledTask", task), settings, unmeasured(checkpoint.metadata) | {"note": note}
    if config is None:
        raise typer.BadParameter(f"there is no checkpoint {path}; of a model, --config says what network it is")
    card = load_card(find_model(student))
    settings = with_crop(load_config(config), card.input_spec().crop_scale)
    torch.manual_seed(settings.seed)  # of what a model of merged branches does not say: how its weights are split
    begun = DistilTask(settings)
    before = start_from_another(begun, settings, student, joined([training_set(path) for path in train], depth=False))
    begun.module.eval()
    note = {key.removeprefix(_TAUGHT): said for key, said in card.provenance.items() if key.startswith(_TAUGHT)}
    note["steady_from_sha256"] = str(before["began_as_sha256"])
    return begun, settings, {"note": note | before}
