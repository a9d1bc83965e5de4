"""Command line of the compression program: ``python -m quantize …``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from fasedge.cards import models_folder
from fasedge.errors import FasEdgeError
from quantize.calibrate import DEFAULT_CROPS, calibration_crops
from quantize.errors import ParityError
from quantize.export import CalibrationFile, artefacts, export_fp32, export_int8, load_trained, read_calibration
from quantize.grid import GridConfig, fit_grid
from quantize.parity import Presentations, measure, reference_scores, write_parity
from quantize.publish import DEFAULT_TOLERANCE, publish, read_facts
from quantize.students import ExportModel
from training.config import TrainConfig
from training.data.samples import SampleSet
from training.errors import TrainingError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Turn a trained student into models for the engines of the SDK."
)
console = Console()

CheckpointOption = Annotated[Path, typer.Option("--checkpoint", help="Trained student.")]
CalibrationOption = Annotated[
    Path, typer.Option("--calibration", help="calibration.json with scale, bias and fitted_on.")
]
FolderOption = Annotated[Path, typer.Option("--out", help="Folder of the artefacts.")]
TrainOption = Annotated[Path, typer.Option("--train", help="Sample set of the train split.")]
TestOption = Annotated[Path, typer.Option("--test", help="Sample set that is held out.")]
ThresholdOption = Annotated[float, typer.Option(help="Threshold of the default operating point.")]
CropsOption = Annotated[int, typer.Option("--crops", help="Calibration crops.")]
FactsOption = Annotated[Path, typer.Option("--facts", help="facts.json, written by the evaluation.")]
GoldenOption = Annotated[Path, typer.Option("--golden", help=".npy, uint8 (n, S, S, 3): crops that may be published.")]
ModelsOption = Annotated[Path | None, typer.Option("--models", help="Default: inside the package.")]
ToleranceOption = Annotated[float, typer.Option(help="Largest difference of a score in the self-test.")]


def _model(checkpoint: Path, calibration: Path) -> tuple[ExportModel, TrainConfig, CalibrationFile]:
    student, config = load_trained(checkpoint)
    file = read_calibration(calibration)
    return ExportModel(student, file.platt(), config.input.normalisation()), config, file


@app.command()
def export(checkpoint: CheckpointOption, calibration: CalibrationOption, out: FolderOption) -> None:
    """Write the FP32 network for all engines."""
    model, config, _ = _model(checkpoint, calibration)
    for item in export_fp32(model, out, config.input.size_px):
        console.print(f"{item.name:20s} {item.bytes:>10,} bytes")


@app.command()
def int8(
    checkpoint: CheckpointOption,
    calibration: CalibrationOption,
    out: FolderOption,
    train: TrainOption,
    crops: CropsOption = DEFAULT_CROPS,
) -> None:
    """Choose one INT8 grid on train crops and write the network on it for all engines."""
    model, config, _ = _model(checkpoint, calibration)
    chosen = calibration_crops(SampleSet.load(train), config.input.spec(), crops)
    for item in export_int8(fit_grid(model, chosen, GridConfig()), out, config.input.size_px, chosen[:1]):
        console.print(f"{item.name:20s} {item.bytes:>10,} bytes")


@app.command()
def parity(
    checkpoint: CheckpointOption,
    calibration: CalibrationOption,
    out: FolderOption,
    test: TestOption,
    threshold: ThresholdOption,
) -> None:
    """Compare every artefact with the FP32 network; fails when one is farther away than allowed."""
    model, config, _ = _model(checkpoint, calibration)
    samples = SampleSet.load(test)
    if samples.info.split == "train":
        raise ParityError("parity is measured on held-out samples, got a set of the train split")
    crops = samples.crops(range(len(samples)), config.input.spec())
    data = Presentations(crops, samples.labels, [row.species for row in samples.table], threshold)
    report = measure(artefacts(out), reference_scores(model, crops), data)
    console.print(report.table())
    for (a, b), value in report.cross_engine.items():
        console.print(f"{a} and {b}: largest difference of a score {value:.4f}")
    report.check()
    console.print(write_parity(out, report))


@app.command("publish")
def publish_command(
    checkpoint: CheckpointOption,
    calibration: CalibrationOption,
    out: FolderOption,
    facts: FactsOption,
    golden: GoldenOption,
    models: ModelsOption = None,
    tolerance: ToleranceOption = DEFAULT_TOLERANCE,
) -> None:
    """Write card and golden vectors, load everything back, and put the model into the package: all or nothing."""
    model, config, file = _model(checkpoint, calibration)
    folder = publish(
        model,
        out,
        read_facts(facts),
        spec=config.input.spec(),
        calibration=file,
        golden_rgb=np.asarray(np.load(golden, allow_pickle=False)),
        tolerance=tolerance,
        models=models or models_folder(),
    )
    console.print(f"published {folder}")


@app.command()
def run(
    checkpoint: CheckpointOption,
    calibration: CalibrationOption,
    out: FolderOption,
    train: TrainOption,
    test: TestOption,
    threshold: ThresholdOption,
    facts: FactsOption,
    golden: GoldenOption,
    models: ModelsOption = None,
    crops: CropsOption = DEFAULT_CROPS,
    tolerance: ToleranceOption = DEFAULT_TOLERANCE,
) -> None:
    """All of it: export, int8, parity, publish. Stops at the first step that fails, with nothing published."""
    export(checkpoint, calibration, out)
    int8(checkpoint, calibration, out, train, crops)
    parity(checkpoint, calibration, out, test, threshold)
    publish_command(checkpoint, calibration, out, facts, golden, models, tolerance)


def main() -> int:
    """Run the program; errors made on purpose become one line."""
    try:
        app(standalone_mode=False)
    except (FasEdgeError, TrainingError) as error:
        Console(stderr=True).print(f"[red]error[/red] {error}", markup=True)
        return 3
    except typer.Abort:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
