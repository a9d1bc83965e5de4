"""``python -m quantize distil``: train a student."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from fasedge.cards import sha256_of
from quantize.distill import DistilTask, load_teacher
from quantize.export import load_trained
from quantize.imitation import Imitation
from quantize.options import DevOption
from quantize.teachers import OpenVinoTeacher, TorchTeacher
from training.checkpoint import load_exactly
from training.config import load_config
from training.data.joined import joined
from training.data.samples import SampleSet
from training.distributed import choose_device
from training.loop import Trainer


def distil(
    config: Annotated[Path, typer.Argument(help="TOML file of the student, e.g. quantize/student.toml.")],
    *,
    train: Annotated[
        list[Path], typer.Option("--train", help="Sample set of the train split; several are put together.")
    ],
    dev: DevOption,
    out: Annotated[Path, typer.Option(help="Folder of checkpoints and history; a run in it is resumed.")],
    teacher: Annotated[
        list[Path] | None,
        typer.Option(help="Checkpoint of a full-precision method; several answer together. None: no teacher."),
    ] = None,
    alpha: Annotated[float, typer.Option(help="Weight of the imitation of the answer, 0 to 1.")] = 0.5,
    features: Annotated[
        float, typer.Option(help="Weight of the imitation of the first teacher's features; needs as many channels.")
    ] = 0.0,
    mixup: Annotated[float, typer.Option(help="Share of the batches whose pictures are blended, 0 to 1.")] = 0.0,
    steady: Annotated[
        float, typer.Option(help="Share of the batches whose crops are moved, for student and teachers apart, 0 to 1.")
    ] = 0.0,
    start: Annotated[bool, typer.Option(help="Start from the first teacher's weights; needs the same trunk.")] = False,
    begin: Annotated[
        Path | None, typer.Option("--from", help="Start from a student of the same trunk that `distil` left.")
    ] = None,
) -> None:
    """Train the student, with or without teachers."""
    settings = load_config(config)
    torch.manual_seed(settings.seed)
    masters = [load_teacher(path)[0] for path in teacher or []]
    if start and not masters:
        raise typer.BadParameter("--start needs --teacher")
    if start and begin is not None:
        raise typer.BadParameter("a student starts --from another one or with --start from its teacher, not both")
    on_cpu = choose_device(settings.machine.device).type == "cpu"
    through_openvino = on_cpu and find_spec("openvino") is not None
    task = DistilTask(
        settings,
        [OpenVinoTeacher(one, settings.input.size_px) if through_openvino else TorchTeacher(one) for one in masters],
        Imitation(alpha=alpha, features=features, mixup=mixup, steady=steady),
    )
    note: dict[str, str | float | bool] = {"mixup": mixup, "steady": steady}
    if teacher:
        note |= {"teacher_sha256": ", ".join(map(sha256_of, teacher)), "alpha": alpha, "features": features}
        note |= {"started_from_it": start, "teachers_answer_in": "openvino" if through_openvino else "torch"}
    if begin is not None:
        before, _ = load_trained(begin)
        load_exactly(task.module, before.state_dict(), what=f"the student in {begin}")
        note["began_as_sha256"] = sha256_of(begin)
    elif start:
        task.start_from(masters[0])
    elif features:
        task.start_with_head(masters[0])
    samples = joined([SampleSet.load(path) for path in train])
    console = Console()
    for record in Trainer(task, settings, samples, SampleSet.load(dev), out, note).run():
        console.print(record.line())
