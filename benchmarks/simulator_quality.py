"""Quality control of the simulator: measured, with intervals, and written down.

    python -m benchmarks.simulator_quality confounds sets/dev --out quality
    python -m benchmarks.simulator_quality operators runs/student/best.safetensors --out quality
    python -m benchmarks.simulator_quality heldout --train sets/train --test sets/dev --out quality
    python -m benchmarks.simulator_quality identities sets/train sets/dev sets/test --out quality
    python -m benchmarks.simulator_quality sheets --out quality
    python -m benchmarks.simulator_quality report --results quality

Each command writes its JSON after every result and goes on where it was interrupted; ``report`` joins what there is
into ``docs/simulator-quality.md``. What only eyes can find, "what gives the simulation away", is written by hand
between two markers of that page, and kept. Contact sheets show people: they stay out of the repository.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, cast

import msgspec
import numpy as np
import torch
import typer
from rich.console import Console

from benchmarks import simulator_experiments as experiments
from benchmarks.simulator_measures import Kept, confound_figures, count_identities, recorded_scalars, shared_identities
from benchmarks.simulator_report import write_report
from benchmarks.students import StudentOptions
from training.data.manifest import Split, data_folder
from training.data.samples import SampleSet
from training.data.simulate.draws import Value
from training.data.simulate.held_out import HELD_OUT, held_out
from training.data.simulate.operators import OPERATORS, operator
from training.data.work import make_simulator
from training.errors import DataError
from training.evaluate import face_scalars
from training.program import run_program

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Quality control of the attack simulator.")
console = Console()

OutOption = Annotated[Path, typer.Option(help="Folder of the results.")]
DataOption = Annotated[Path | None, typer.Option("--data", help="Folder of the face pack; default: $FASEDGE_DATA.")]
SplitOption = Annotated[str, typer.Option(help="Identities: train, dev or test.")]
SeedOption = Annotated[int, typer.Option(help="Seed of the simulated samples and of the resamples.")]
OnlyOption = Annotated[list[str] | None, typer.Option("--only", help="Only these; default: all. Can be repeated.")]
_PROGRAM = "python -m benchmarks.simulator_quality"


def _set_of(samples: SampleSet) -> str:
    info = samples.info
    return f"{info.split}, seed {info.seed}, n {info.n}, version {info.version}"


@app.command()
def confounds(
    sample_set: Annotated[Path, typer.Argument(help="A set made by `simulate`.")],
    out: OutOption = Path("quality"),
    seed: SeedOption = 0,
) -> None:
    """How well single scalars separate the classes of a set: 0.5 is ideal, 0.55 is the bar."""
    samples = SampleSet.load(sample_set)
    path = out / "confounds.json"
    kept = Kept.open(
        path, f"{_PROGRAM} confounds sets/{samples.info.split} --seed {seed}", {"set": _set_of(samples), "seed": seed}
    )
    if not kept.results:
        values = face_scalars(samples) | recorded_scalars(samples.table)
        people = [row.identity for row in samples.table]
        for name, figure in confound_figures(values, samples.labels, people, seed=seed).items():
            kept.add(path, name, figure)
            console.print(f"{name:16s} AUC {figure}", markup=False)


@app.command()
def operators(  # noqa: PLR0917 - typer passes by name
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of a method or a student.")],
    out: OutOption = Path("quality"),
    split: SplitOption = "dev",
    n: Annotated[int, typer.Option("-n", min=2, help="Samples.")] = 1200,
    seed: SeedOption = 11,
    only: OnlyOption = None,
    data: DataOption = None,
) -> None:
    """Score samples with each operator off in turn: on which does the network lean?"""
    names = list(only or OPERATORS)
    for name in names:
        operator(name)
    scorer = experiments.load_scorer(checkpoint)
    path = out / "operators.json"
    settings: dict[str, Value] = {"checkpoint_sha256": scorer.digest, "split": split, "n": n, "seed": seed}
    kept = Kept.open(path, f"{_PROGRAM} operators {checkpoint.name} --split {split} -n {n} --seed {seed}", settings)
    todo = [name for name in names if name not in kept.results]
    if not todo:
        return
    simulator = make_simulator(data_folder(data), out / "tiles", cast(Split, split), seed)
    base = experiments.baseline(simulator, n, scorer)
    for name in todo:
        result = experiments.without_operator(simulator, base, scorer, name, seed)
        kept.add(path, name, result)
        console.print(f"{name:20s} {result.auc:.3f} -> {result.auc_off:.3f}, drop {result.drop}", markup=False)


@app.command()
def heldout(
    *,
    train: Annotated[Path, typer.Option(help="Sample set of the train split.")],
    test: Annotated[Path, typer.Option(help="Sample set of other people.")],
    out: OutOption = Path("quality"),
    only: OnlyOption = None,
    seeds: Annotated[list[int] | None, typer.Option("--seeds", help="Seed of a student; can be repeated.")] = None,
    n: Annotated[int, typer.Option("-n", help="Samples per student.")] = 3000,
    epochs: Annotated[int, typer.Option(help="Passes over them.")] = 1,
    size: Annotated[int, typer.Option(help="Side of the crops.")] = 96,
    batch: Annotated[int, typer.Option(help="Samples per step.")] = 64,
    pretrained: Annotated[bool, typer.Option(help="Start from ImageNet weights.")] = True,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; default: all cores.")] = None,
) -> None:
    """Train students that never saw a part of the simulation, and test them on it."""
    names, runs = list(only or HELD_OUT), list(seeds or (1, 2, 3))
    for name in names:
        held_out(name)
    if threads:
        torch.set_num_threads(threads)
    options = StudentOptions(n=n, epochs=epochs, size_px=size, batch=batch, pretrained=pretrained)
    sets = SampleSet.load(train), SampleSet.load(test)
    if shared := {row.identity for row in sets[0].table} & {row.identity for row in sets[1].table}:
        raise DataError(f"{len(shared)} people are in both sets; choose sets of different splits")
    settings = {"train": _set_of(sets[0]), "test": _set_of(sets[1]), "options": experiments.options_text(options)}
    command = f"{_PROGRAM} heldout --train sets/{sets[0].info.split} --test sets/{sets[1].info.split} -n {n}"
    command += f" --epochs {epochs} --size {size} --batch {batch}" + "".join(f" --seeds {s}" for s in runs)
    _train_all(sets, names, runs, options, Kept.open(out / "students.json", command, settings), out / "students.json")
    _compare_all(sets, names, runs, options, Kept.open(out / "heldout.json", command, settings), out)


def _train_all(  # noqa: PLR0917 - the parts of a run, in their order
    sets: tuple[SampleSet, SampleSet],
    names: list[str],
    seeds: list[int],
    options: StudentOptions,
    kept: Kept,
    path: Path,
) -> None:
    for seed in seeds:
        for name in (experiments.EVERYTHING, *names):
            if f"{name}/{seed}" in kept.results:
                continue
            changed = msgspec.structs.replace(options, seed=seed)
            kept.add(path, f"{name}/{seed}", experiments.heldout_scores(*sets, name, changed))
            console.print(f"student without {name}, seed {seed}: trained", markup=False)


def _compare_all(  # noqa: PLR0917 - the parts of a run, in their order
    sets: tuple[SampleSet, SampleSet],
    names: list[str],
    seeds: list[int],
    options: StudentOptions,
    kept: Kept,
    out: Path,
) -> None:
    students = Kept.read(out / "students.json").results
    scores = {name: np.array(msgspec.json.decode(raw, type=list[float])) for name, raw in students.items()}
    for name in names:
        pairs = {s: (scores[f"{experiments.EVERYTHING}/{s}"], scores[f"{name}/{s}"]) for s in seeds}
        left = len(experiments.allowed_indices(sets[0], name))
        trained_on = min(options.n, left) if options.n else left
        result = experiments.compare_heldout(sets[1], name, pairs, trained_on, seed=0)
        kept.add(out / "heldout.json", name, result)
        figures = f"with {result.auc_with:.3f}, without {result.auc_without:.3f}, drop {result.drop}"
        console.print(f"{name:20s} {figures}", markup=False)


@app.command()
def identities(
    sets: Annotated[list[Path], typer.Argument(help="Sets of all splits.")], out: OutOption = Path("quality")
) -> None:
    """Check that no person is in two splits, and count who appears in both classes."""
    loaded = {path.name: SampleSet.load(path) for path in sets}
    path = out / "identities.json"
    names = " ".join(f"sets/{name}" for name in loaded)
    kept = Kept.open(path, f"{_PROGRAM} identities {names}", {name: _set_of(s) for name, s in loaded.items()})
    for name, samples in loaded.items():
        kept.add(path, name, count_identities(samples.info.split, samples.table))
    shared = shared_identities({name: samples.table for name, samples in loaded.items()})
    kept.add(path, "shared", shared)
    console.print(shared, markup=False)
    if found := {pair: n for pair, n in shared.items() if n}:
        raise DataError(f"people in two sets: {found}; a score on either says nothing about new people")


@app.command()
def sheets(
    out: OutOption = Path("quality"),
    split: SplitOption = "dev",
    n: Annotated[int, typer.Option("-n", min=1, help="Samples per species.")] = 100,
    seed: SeedOption = 11,
    data: DataOption = None,
) -> None:
    """Write a sheet per species, to be looked at beside real captures."""
    path = out / "sheets.json"
    settings: dict[str, Value] = {"split": split, "n": n, "seed": seed}
    kept = Kept.open(path, f"{_PROGRAM} sheets --split {split} -n {n} --seed {seed}", settings)
    simulator = make_simulator(data_folder(data), out / "tiles", cast(Split, split), seed)
    for species in experiments.drawn_species(simulator):
        sheet = out / "sheets" / f"{species}.png"
        if species in kept.results and sheet.is_file():
            continue
        numbers = experiments.sample_numbers(simulator, species, n)
        experiments.write_sheet(simulator, numbers, sheet)
        kept.add(path, species, numbers)
        console.print(sheet)


@app.command()
def report(
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("quality"),
    page: Annotated[Path, typer.Option(help="Page to write.")] = Path("docs/simulator-quality.md"),
) -> None:
    """Join the results into a page; the part that is written by hand is kept."""
    write_report(results, page)
    console.print(page)


def main() -> int:
    """Run the program; errors made on purpose become one line."""
    return run_program(app)


if __name__ == "__main__":
    sys.exit(main())
