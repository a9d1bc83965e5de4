"""Command line of the compression program: ``python -m quantize …``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, cast

import numpy as np
import typer
from rich.console import Console

from fasedge.cards import find_model
from quantize.average import average
from quantize.distil_command import distil
from quantize.distill import load_task, scores_of, sees_depth
from quantize.facts import as_scored
from quantize.facts_command import facts_command
from quantize.files import complete_file
from quantize.full_command import full
from quantize.latency import time_published
from quantize.layers_command import layers
from quantize.options import CalibrationOption, CheckpointOption, DataOption, DevOption, TestOption, VersionOption
from quantize.pack import EvaluationPack, make_pack
from quantize.parity import reference_scores
from quantize.pictures import usable_part
from quantize.rounded import load_calibrated
from quantize.run_command import run
from quantize.steady_command import steady
from quantize.step_commands import calibrate, export, int8, latency, parity, publish_command, round_command
from training.data.manifest import Split, data_folder
from training.data.samples import SampleSet
from training.evaluate import evaluate_sets, write_evaluation
from training.program import run_program

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Turn a trained network into small models for the engines of the SDK: `run` takes every step.",
)
console = Console()
app.command()(run)
app.command()(distil)
app.command()(average)
app.command()(steady)
app.command("round")(round_command)
app.command()(calibrate)
app.command()(export)
app.command()(int8)
app.command("facts")(facts_command)
app.command()(parity)
app.command()(latency)
app.command("publish")(publish_command)
app.command()(full)
app.command()(layers)


@app.command()
def evaluate(
    *,
    checkpoint: CheckpointOption,
    dev: DevOption,
    test: TestOption,
    out: Annotated[Path, typer.Option(help="Folder for metrics.json and scores.csv.")],
) -> None:
    """Evaluate a method or a student at full precision: thresholds from dev, rates on test."""
    task, config = load_task(checkpoint)
    scored = {}
    for name, path in (("dev", dev), ("test", test)):
        samples = usable_part(SampleSet.load(path), depth=sees_depth(task))
        scored[name] = as_scored(samples, scores_of(task.score, task, samples, config))
    results = evaluate_sets(scored["dev"], scored["test"])
    write_evaluation(out, scored["test"], results)
    for name in ("dev_auc", "test_auc", "by_source", "by_species", "by_subtype", "by_edge"):
        console.print(name, results[name])


@app.command("time")
def time_command(
    models: Annotated[list[str], typer.Argument(help="Ids of published models, or their folders.")],
    *,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of twelve crops per file.")] = 20,
) -> None:
    """Time published models on this machine, one thread, and say so in their cards; leave it alone meanwhile."""
    for name in models:
        card = time_published(find_model(name), rounds=rounds)
        for record in card.latency:
            console.print(f"{card.id} {record.engine}/{record.precision}: median {record.median_ms:.3f} ms")


@app.command()
def pack(
    out: Annotated[Path, typer.Argument(help="File to write, .npz.")],
    *,
    data: DataOption = None,
    per_species: Annotated[int, typer.Option(min=1, help="Attacks of each PAI species.")] = 200,
    depth: Annotated[
        Path | None, typer.Option(help="File for what a simulated depth camera sees of the same presentations, .npz.")
    ] = None,
    split: Annotated[str, typer.Option(help="Identities: test to evaluate, train to calibrate.")] = "test",
) -> None:
    """Make the packs of the regression tests, from portraits in the public domain."""
    made = make_pack(data_folder(data), per_species, depth=depth is not None, split=cast(Split, split))
    made.save(out, depth)
    for path in (out, depth):
        if path is not None:
            console.print(f"{path}: {len(made)} presentations, {path.stat().st_size:,} bytes")


@app.command()
def reference(
    *,
    checkpoint: CheckpointOption,
    calibration: CalibrationOption,
    pack_file: Annotated[Path, typer.Option("--pack", help="Evaluation pack, see `pack`.")],
    pack_depth: Annotated[Path | None, typer.Option(help="Its depth, for networks that look at it.")] = None,
    version: VersionOption,
    out: Annotated[Path, typer.Option(help="File to write, .npz.")],
) -> None:
    """Score the evaluation pack with the torch network: what the regression tests hold published files to."""
    rounded, _ = load_calibrated(checkpoint, calibration)
    model = rounded.fp32()
    crops = EvaluationPack.load(pack_file, pack_depth).pictures(rounded.config.input.spec(), depth=model.sees_depth)
    scores = {output: reference_scores(model, crops, output) for output in model.decisions}
    with complete_file(out) as temporary:
        np.savez(temporary, allow_pickle=False, version=np.array(version), **scores)
    console.print(out)


def main() -> int:
    """Run the program; errors made on purpose become one line.

    Returns:
        0; 2 for a wrong command line; 3 for an error; 130 when the user stopped it.
    """
    return run_program(app)


if __name__ == "__main__":
    sys.exit(main())
