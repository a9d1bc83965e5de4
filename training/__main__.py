"""Command line of the training program: ``python -m training …``."""

from __future__ import annotations

import enum
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, cast

import torch
import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training.config import load_config
from training.data.making import make_set
from training.data.manifest import Split, data_folder
from training.data.samples import SampleSet
from training.data.simulate.compose import CANVAS_SCALE, WIDEST_CANVAS
from training.data.simulate.simulator import PICTURE_PX
from training.data.work import View
from training.evaluation.command import evaluate_command, results_command
from training.prepare import prepare_command
from training.program import run_program

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Train full-precision presentation-attack detectors."
)
console = Console()
app.command("prepare")(prepare_command)
app.command("evaluate")(evaluate_command)
app.command("results")(results_command)


class Layout(enum.StrEnum):
    """How a set lies on the disk."""

    NPY = "npy"
    WEBDATASET = "webdataset"


class Encoding(enum.StrEnum):
    """How pictures are stored in shards."""

    PNG = "png"
    JPG = "jpg"


_ARRAYS, _SHARDS, _SHEETS = "arrays (--format npy)", "shards (--format webdataset)", "contact sheets (--preview)"
#: Parameters of `simulate` that not all of what it makes knows: the option, and what it is for.
_USED_FOR = {
    "n": ("-n", (_ARRAYS, _SHARDS)),
    "workers": ("--workers", (_ARRAYS, _SHARDS)),
    "layout": ("--format", (_ARRAYS, _SHARDS)),
    "encoding": ("--encoding", (_SHARDS,)),
    "shard_size": ("--shard-size", (_SHARDS,)),
    "tiles": ("--tiles", (_SHEETS,)),
}
DataOption = Annotated[Path | None, typer.Option("--data", help="Folder of the face pack; default: $FASEDGE_DATA.")]
CanvasOption = Annotated[
    float,
    typer.Option(min=CANVAS_SCALE, max=WIDEST_CANVAS, help="Side of the pictures over the side of the face box."),
]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="Threads; default: all cores.")]


@app.command()
def simulate(  # noqa: PLR0917 - typer passes by name
    context: typer.Context,
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of the set, or of contact sheets; tiles are cached beside it.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The same, by name.")] = None,
    split: Annotated[str, typer.Option(help="Identities: train, dev or test.")] = "train",
    n: Annotated[int, typer.Option("-n", min=1, help="Number of samples.")] = 9600,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the set; the same seed gives the same set.")] = 101,
    data: DataOption = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: all cores.")] = None,
    depth: Annotated[bool, typer.Option("--depth", help="Simulate a depth camera too.")] = False,
    picture_px: Annotated[
        int, typer.Option(min=128, max=512, help="Side of the pictures; larger ones are sharper and take longer.")
    ] = PICTURE_PX,
    canvas: CanvasOption = CANVAS_SCALE,
    layout: Annotated[
        Layout, typer.Option("--format", help="npy: arrays for training; webdataset: tar shards.")
    ] = Layout.NPY,
    encoding: Annotated[Encoding, typer.Option(help="Pictures in shards: png keeps every bit.")] = Encoding.PNG,
    shard_size: Annotated[int, typer.Option(min=1, help="Samples per shard.")] = 1000,
    preview: Annotated[
        bool, typer.Option("--preview", help="Draw contact sheets instead, by default into preview/sheets.")
    ] = False,
    tiles: Annotated[int, typer.Option(min=1, help="Samples per row of a contact sheet.")] = 8,
) -> None:
    """Make a set of simulated bona fide presentations and attacks; goes on where it was interrupted."""
    named = [path for path in (folder, out) if path is not None] or [Path("preview/sheets")] * preview
    if len(named) != 1:
        raise typer.BadParameter("name one folder, FOLDER or --out; contact sheets (--preview) need none")
    _check_used(context, _SHEETS if preview else _ARRAYS if layout is Layout.NPY else _SHARDS)
    pack, part, view = data_folder(data), cast(Split, split), View(picture_px=picture_px, canvas_scale=canvas)
    steps: Iterator[tuple[int, int]]
    if preview:
        from training.data.preview import contact_sheets

        steps, total = contact_sheets(pack, named[0], part, seed=seed, tiles=tiles, depth=depth, **view), None
    elif layout is Layout.NPY:
        steps, total = make_set(pack, named[0], part, n, seed=seed, workers=workers, depth=depth, **view), n
    else:
        from training.data.shards import make_shards

        steps, total = make_shards(
            pack, named[0], part, n, seed=seed, workers=workers, depth=depth, encoding=encoding.value,
            shard_size=shard_size, **view,
        ), n  # fmt: skip
    made = str(named[0] / "index.md") if preview else str(named[0])
    _show_steps(f"simulating {split}", steps, total, made, f"all its {n} samples")


def _check_used(context: typer.Context, product: str) -> None:
    """Refuse options that would change nothing."""
    for name, (option, products) in _USED_FOR.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE" and product not in products:
            raise typer.BadParameter(
                f"{option} is for {' and '.join(products)}, and would change nothing of {product}; leave it out"
            )


@app.command("simulate-clips")
def simulate_clips(  # noqa: PLR0917 - typer passes by name
    folder: Annotated[Path, typer.Argument(help="Folder of the set; tiles are cached beside it.")],
    split: Annotated[str, typer.Option(help="Identities: train, dev or test.")] = "train",
    n: Annotated[int, typer.Option("-n", min=1, help="Number of clips.")] = 100,
    seconds: Annotated[float, typer.Option(min=0.0, help="Length of each.")] = 2.0,
    fps: Annotated[float, typer.Option(min=0.0, help="Frames per second.")] = 15.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the set; the same seed gives the same set.")] = 101,
    data: DataOption = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: all cores.")] = None,
    depth: Annotated[bool, typer.Option("--depth", help="Simulate a depth camera too.")] = False,
    picture_px: Annotated[int, typer.Option(min=128, max=512, help="Side of the pictures.")] = PICTURE_PX,
    canvas: CanvasOption = CANVAS_SCALE,
) -> None:
    """Make short clips of simulated presentations, a folder of pictures each; goes on where it was interrupted."""
    from training.data.clips import make_clips

    steps = make_clips(
        data_folder(data), folder, cast(Split, split), n, seed=seed, seconds=seconds, fps=fps, workers=workers,
        depth=depth, picture_px=picture_px, canvas_scale=canvas,
    )  # fmt: skip
    _show_steps(f"simulating clips of {split}", steps, n, str(folder), f"all its {n} clips")


def _show_steps(what: str, steps: Iterator[tuple[int, int]], total: int | None, made: str, whole: str) -> None:
    """A bar while something is made; then where it lies, or that it was there already."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    done = 0
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(what, total=total)
        for done, all_ in steps:
            progress.update(bar, completed=done, total=all_)
        if not done:
            progress.remove_task(bar)
    console.print(made if done else f"{made} is there already, with {whole}", markup=False, soft_wrap=True)


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
def pictures(
    sample_set: Annotated[Path, typer.Argument(help="A set made by `simulate` or `prepare`.")],
    out: Annotated[Path, typer.Argument(help="Folder of the pictures.")],
    attacks: Annotated[bool, typer.Option(help="Those of attacks too.")] = False,
) -> None:
    """Write a set's pictures as files, for programs that render depth; their maps go into SET/relief."""
    from training.data.relief import write_pictures

    samples = SampleSet.load(sample_set)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("writing")
        for done, total in write_pictures(samples, out, attacks=attacks):
            progress.update(bar, completed=done, total=total)
    console.print(str(out))


@app.command()
def confounds(sample_set: Annotated[Path, typer.Argument(help="A set made by `simulate`.")]) -> None:
    """Say how well single scalars (brightness, sharpness …) separate the classes of a set; 0.5 is ideal."""
    from training.evaluate import confounds as measure

    for name, auc in measure(SampleSet.load(sample_set)).items():
        console.print(f"{name:12s} AUC {auc:.3f}")


@app.command()
def fit(  # noqa: PLR0917 - typer passes by name
    config: Annotated[Path, typer.Argument(help="TOML file, e.g. training/configs/a_deeppixbis_cpu.toml.")],
    out: Annotated[Path, typer.Option(help="Folder of checkpoints and history; a run in it is resumed.")],
    train: Annotated[
        str | None, typer.Option(help="Set of the train split, or: simulate. Default: data.train.")
    ] = None,
    dev: Annotated[
        str | None, typer.Option(help="Set of the dev split, chooses the epoch that is kept; or: simulate.")
    ] = None,
    data: DataOption = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of tiles and the simulated dev set.")] = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option(help="Part of train and dev that is left out, e.g. species=mask or camera=kiosk; several times."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the run. Default: seed.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="File of torchvision's ImageNet weights of densenet161. Default: method.weights.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that simulate.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    threads: ThreadsOption = None,
) -> None:
    """Train a full-precision method; by default on samples that are simulated while training goes on.

    Several processes: `torchrun --nproc-per-node 2 -m training fit …`.
    """
    from training.fit import Places, fit_config, overridden

    if threads:
        torch.set_num_threads(threads)
    settings = overridden(
        load_config(config), train=train, dev=dev, workers=workers, device=device, seed=seed, leave_out=leave_out,
        weights=weights,
    )  # fmt: skip
    fit_config(settings, Places(out, data, cache or out.parent / "cache"), console)


def main() -> int:
    """Run the program; errors made on purpose become one line.

    Returns:
        0; 2 for a wrong command line; 3 for an error; 130 when the user stopped it.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
    return run_program(app)


if __name__ == "__main__":
    sys.exit(main())
