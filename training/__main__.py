"""Command line of the training program: ``python -m training …``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, cast

import torch
import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training.config import load_config
from training.data.manifest import Split, data_folder
from training.data.samples import SampleSet, make_set
from training.program import run_program

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Train full-precision presentation-attack detectors."
)
console = Console()

DataOption = Annotated[Path | None, typer.Option("--data", help="Folder of the face pack; default: $FASEDGE_DATA.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="Threads; default: all cores.")]


@app.command()
def simulate(  # noqa: PLR0917 - typer passes by name
    out: Annotated[Path, typer.Argument(help="Folder of the set; tiles are cached beside it.")],
    split: Annotated[str, typer.Option(help="Identities: train, dev or test.")] = "train",
    n: Annotated[int, typer.Option("-n", help="Number of samples.")] = 9600,
    seed: Annotated[int, typer.Option(help="Seed of the set; the same seed gives the same set.")] = 101,
    data: DataOption = None,
    workers: Annotated[int | None, typer.Option(help="Processes; default: all cores.")] = None,
) -> None:
    """Make a set of simulated bona fide presentations and attacks; goes on where it was interrupted."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(f"simulating {split}", total=n)
        for done, _ in make_set(data_folder(data), out, cast(Split, split), n, seed=seed, workers=workers):
            progress.update(bar, completed=done)


@app.command()
def preview(
    out: Annotated[Path, typer.Argument(help="Folder for the contact sheets, one per species.")],
    split: Annotated[str, typer.Option(help="Identities: train, dev or test.")] = "dev",
    n: Annotated[int, typer.Option("-n", help="Samples to draw.")] = 160,
    seed: Annotated[int, typer.Option(help="Seed.")] = 1,
    data: DataOption = None,
) -> None:
    """Draw contact sheets of simulated samples, to be looked at."""
    from training.data.preview import contact_sheets

    for path in contact_sheets(data_folder(data), out, cast(Split, split), n, seed):
        console.print(path)


@app.command("sample-pack")
def sample_pack(
    out: Annotated[Path, typer.Argument(help="Folder of the pack.")] = Path("fasedge/assets/samples"),
    data: DataOption = None,
) -> None:
    """Build the sample pictures that ship with fasedge, with their index and attributions."""
    from training.sample_pack import build_pack

    files = build_pack(data_folder(data), out)
    console.print(f"{len(files)} files, {sum(path.stat().st_size for path in files):,} bytes: {out}")


@app.command()
def confounds(sample_set: Annotated[Path, typer.Argument(help="A set made by `simulate`.")]) -> None:
    """Say how well single scalars (brightness, sharpness …) separate the classes of a set; 0.5 is ideal."""
    from training.evaluate import confounds as measure

    for name, auc in measure(SampleSet.load(sample_set)).items():
        console.print(f"{name:12s} AUC {auc:.3f}")


@app.command()
def fit(
    config: Annotated[Path, typer.Argument(help="TOML file, e.g. training/configs/a_deeppixbis_cpu.toml.")],
    train: Annotated[Path, typer.Option(help="Set of the train split.")],
    dev: Annotated[Path, typer.Option(help="Set of the dev split; chooses the epoch that is kept.")],
    out: Annotated[Path, typer.Option(help="Folder of checkpoints and history; a run in it is resumed.")],
    threads: ThreadsOption = None,
) -> None:
    """Train a full-precision method."""
    from training.build import MethodTask
    from training.loop import Trainer

    if threads:
        torch.set_num_threads(threads)
    settings = load_config(config)
    torch.manual_seed(settings.seed)
    trainer = Trainer(MethodTask(settings), settings, SampleSet.load(train), SampleSet.load(dev), out)
    for record in trainer.run():
        console.print(record.line())


def main() -> int:
    """Run the program; errors made on purpose become one line.

    Returns:
        0; 2 for a wrong command line; 3 for an error; 130 when the user stopped it.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
    return run_program(app)


if __name__ == "__main__":
    sys.exit(main())
