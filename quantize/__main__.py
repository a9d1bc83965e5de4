"""Command line of the compression program: ``python -m quantize …``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer
from rich.console import Console

from fasedge.cards import models_folder, sha256_of
from quantize.calibrate import DEFAULT_CROPS, calibration_crops
from quantize.distil_command import distil
from quantize.distill import PooledTask, load_task
from quantize.equalise import equalise
from quantize.errors import CalibrationDataError, CheckpointMismatchError, ParityError
from quantize.export import CalibrationFile, artefacts, export_fp32, export_int8, load_trained, read_calibration
from quantize.facts import (
    DEFAULT_POINT,
    as_scored,
    check_point,
    fp32_point,
    golden_indices,
    make_facts,
    network_notes,
    operating_points,
    read_evaluations,
    rounding_cost,
    simulated_evaluation,
)
from quantize.files import complete_file
from quantize.finetune import FinetuneConfig, finetune, training_crops
from quantize.grid import GridConfig, conv_names, fit_grid, in_float, release
from quantize.latency import measure_latency, write_latency
from quantize.options import (
    CalibrationOption,
    CheckpointOption,
    CropScaleOption,
    CropsOption,
    DataOption,
    DevOption,
    EvaluationOption,
    FactsOption,
    FolderOption,
    GoldenOption,
    IdOption,
    LeadingOption,
    ModelsOption,
    OriginOption,
    PointOption,
    StepsOption,
    TestOption,
    ThresholdOption,
    ToleranceOption,
    TrainOption,
    VersionOption,
)
from quantize.pack import EvaluationPack, make_pack
from quantize.parity import Presentations, artefact_scores, measure, reference_scores, write_parity
from quantize.platt import fit_platt
from quantize.publish import DEFAULT_TOLERANCE, publish, read_facts, read_golden
from quantize.rounded import UNCALIBRATED, Rounded, load_rounded, save_rounded, with_crop
from quantize.students import ExportModel
from training.data.manifest import data_folder, read_manifest
from training.data.samples import SampleSet
from training.evaluate import evaluate_sets, write_evaluation
from training.loop import score_set
from training.program import run_program

DEFAULT_STEPS = FinetuneConfig().steps

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Turn a trained student into models for the engines of the SDK."
)
console = Console()
app.command()(distil)


@app.command()
def calibrate(
    *,
    checkpoint: CheckpointOption,
    dev: DevOption,
    calibration: CalibrationOption,
) -> None:
    """Fit the score to the dev set and write calibration.json."""
    task, config = load_task(checkpoint)
    if not isinstance(task, PooledTask):
        raise CheckpointMismatchError(f"{checkpoint} is no student: calibrate the score of what is exported")
    samples = SampleSet.load(dev)
    if samples.info.split != "dev":
        raise CalibrationDataError(f"the score is calibrated on the dev split, got {samples.info.split!r}")
    platt = fit_platt(score_set(task.pooled, task.module, samples, config), samples.labels)
    file = CalibrationFile(
        scale=platt.scale, bias=platt.bias, fitted_on=f"simulated dev set, n={len(samples)}, seed {samples.info.seed}"
    )
    calibration.write_bytes(msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n")
    console.print(f"score = sigmoid({platt.scale:.4f} * mean {platt.bias:+.4f})")


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
        samples = SampleSet.load(path)
        scored[name] = as_scored(samples, score_set(task.score, task.module, samples, config))
    results = evaluate_sets(scored["dev"], scored["test"])
    write_evaluation(out, scored["test"], results)
    for name in ("dev_auc", "test_auc", "by_source", "by_species", "by_subtype", "by_edge"):
        console.print(name, results[name])


@app.command("facts")
def facts_command(
    *,
    checkpoint: CheckpointOption,
    calibration: CalibrationOption,
    out: FolderOption,
    dev: DevOption,
    test: TestOption,
    facts: FactsOption,
    golden: GoldenOption,
    student: Annotated[
        Path | None, typer.Option(help="The student before rounding, to say what rounding cost.")
    ] = None,
    data: DataOption = None,
    evaluation: EvaluationOption = None,
    version: VersionOption = "0.1.0",
    model_id: IdOption,
    origin: OriginOption = "",
    default_point: PointOption = DEFAULT_POINT,
) -> None:
    """Measure operating points and rates at both precisions, and choose the golden pictures."""
    check_point(default_point)
    rounded, _ = _model(checkpoint, calibration)
    model, folder, spec = rounded.fp32(), data_folder(data), rounded.config.input.spec()
    sets = {name: SampleSet.load(path) for name, path in (("dev", dev), ("test", test))}
    crops = {name: samples.crops(range(len(samples)), spec) for name, samples in sets.items()}
    points, results, fp32_scores = [], [], {}
    quantized = next(a for a in artefacts(out) if (a.engine, a.precision) == ("openvino", "int8"))
    for precision in ("fp32", "int8"):
        scored = {}
        for name, pictures in crops.items():
            if precision == "fp32":
                scores = fp32_scores[name] = reference_scores(model, pictures)
            else:
                scores = artefact_scores(quantized, pictures)
            scored[name] = as_scored(sets[name], scores)
        points += operating_points(scored["dev"], scored["test"], precision)
        results.append(simulated_evaluation(scored["test"], precision))
    info = rounded.info
    provenance = {
        "train_seed": str(rounded.config.seed),
        "student_epoch": str(info.parent_epoch),
        **{f"student_{name}": str(value) for name, value in info.parent_note.items()},
        "student_sha256": info.parent_sha256,
        "rounded_student_sha256": sha256_of(checkpoint),
        "weights": f"rounded to codes of +-{info.weight_code_max} in FP32 and INT8 alike, then {info.steps} steps of "
        "fine-tuning to the student's own answers; FP32 and INT8 differ by the rounding of activations",
        "int8_operating_points": "measured with the OpenVINO artefact; all engines share one INT8 grid",
    }
    chosen = fp32_point(points, default_point)
    if student is not None:
        task, config = load_task(student)
        seen = rounded.config.input.crop_scale
        if config.input.crop_scale != seen:
            provenance["student_crop_scale_in_training"] = f"{config.input.crop_scale:g}"
        before = score_set(task.score, task.module, sets["test"], with_crop(config, seen))
        provenance |= rounding_cost(before, fp32_scores["test"], sets["test"], chosen.threshold)
    file = make_facts(
        data=folder,
        points=points,
        evaluation=[*results, *read_evaluations(evaluation or [])],
        version=version,
        model=model_id,
        config=rounded.config.method,
        notes=network_notes(rounded.config.method, info.parent_note, origin),
        default_point=default_point,
        provenance=provenance,
    )
    facts.write_bytes(msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n")
    licences = {picture.key: picture.licence for picture in read_manifest(folder)}
    np.save(golden, sets["test"].crops(golden_indices(sets["test"], licences), spec), allow_pickle=False)
    console.print(f"FP32 threshold of {chosen.name}: {chosen.threshold:.6f}")


def _model(checkpoint: Path, calibration: Path) -> tuple[Rounded, CalibrationFile]:
    file = read_calibration(calibration)
    return load_rounded(checkpoint, file.platt()), file


@app.command("round")
def round_command(
    student: Annotated[Path, typer.Argument(help="Checkpoint of a trained student.")],
    checkpoint: CheckpointOption,
    train: TrainOption,
    crops: CropsOption = DEFAULT_CROPS,
    steps: StepsOption = DEFAULT_STEPS,
    *,
    crop_scale: CropScaleOption = None,
) -> None:
    """Round a student's weights: choose one INT8 grid on train crops and fine-tune on it."""
    network, config = load_trained(student)
    config = with_crop(config, crop_scale)
    samples = SampleSet.load(train)
    calibration = calibration_crops(samples, config.input.spec(), crops)
    model = equalise(ExportModel(network, UNCALIBRATED, config.input.normalisation()), calibration)
    chosen = GridConfig(float_convs=tuple(conv_names(model)[: in_float(config.method.trunk).weights]))
    tuning = FinetuneConfig(steps=steps)
    grid = fit_grid(model, calibration, chosen)
    record = finetune(grid, model, training_crops(samples, config, tuning.batch), tuning)
    console.print(
        f"RMS error of the mean over the cells: {record.before:.4f} before, {record.after:.4f} after fine-tuning"
    )
    save_rounded(checkpoint, grid, student, config, chosen, tuning, record)


@app.command()
def export(checkpoint: CheckpointOption, calibration: CalibrationOption, out: FolderOption) -> None:
    """Write the FP32 network for all engines."""
    rounded, _ = _model(checkpoint, calibration)
    for item in export_fp32(rounded.fp32(), out, rounded.config.input.size_px):
        console.print(f"{item.name:20s} {item.bytes:>10,} bytes")


@app.command()
def int8(
    checkpoint: CheckpointOption,
    calibration: CalibrationOption,
    out: FolderOption,
    train: TrainOption,
    leading_float: LeadingOption = None,
) -> None:
    """Write the INT8 network for all engines."""
    rounded, _ = _model(checkpoint, calibration)
    sample = SampleSet.load(train).crops([0], rounded.config.input.spec())
    start = in_float(rounded.config.method.trunk).convs if leading_float is None else leading_float
    grid = release(rounded.grid, conv_names(rounded.grid)[:start])
    for item in export_int8(grid, out, rounded.config.input.size_px, sample):
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
    rounded, _ = _model(checkpoint, calibration)
    samples = SampleSet.load(test)
    if samples.info.split == "train":
        raise ParityError("parity is measured on held-out samples, got a set of the train split")
    crops = samples.crops(range(len(samples)), rounded.config.input.spec())
    data = Presentations(crops, samples.labels, [row.species for row in samples.table], threshold)
    report = measure(artefacts(out), reference_scores(rounded.fp32(), crops), data)
    console.print(report.table())
    for (a, b), value in report.cross_engine.items():
        console.print(f"{a} and {b}: largest difference of a score {value:.4f}")
    report.check()
    console.print(write_parity(out, report))


@app.command()
def latency(
    *,
    out: FolderOption,
    golden: GoldenOption,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of twelve crops per artefact.")] = 20,
) -> None:
    """Time every artefact on this machine, one thread, and write latency.json; leave the machine alone meanwhile."""
    items = artefacts(out)
    records = measure_latency(items, read_golden(golden), rounds=rounds)
    for record in records:
        console.print(f"{record.engine}/{record.precision}: median {record.median_ms:.3f} ms, 95 % {record.p95_ms:.3f}")
    console.print(f"{records[0].cpu}; {write_latency(out, items, records)}")


@app.command()
def pack(
    out: Annotated[Path, typer.Argument(help="File to write, .npz.")],
    *,
    data: DataOption = None,
    per_species: Annotated[int, typer.Option(min=1, help="Attacks of each PAI species.")] = 200,
) -> None:
    """Make the evaluation pack of the regression tests, from portraits in the public domain."""
    made = make_pack(data_folder(data), per_species)
    made.save(out)
    console.print(f"{out}: {len(made)} pictures, {out.stat().st_size:,} bytes")


@app.command()
def reference(
    *,
    checkpoint: CheckpointOption,
    calibration: CalibrationOption,
    pack_file: Annotated[Path, typer.Option("--pack", help="Evaluation pack, see `pack`.")],
    version: VersionOption,
    out: Annotated[Path, typer.Option(help="File to write, .npz.")],
) -> None:
    """Score the evaluation pack with the torch network: what the regression tests hold published files to."""
    rounded, _ = _model(checkpoint, calibration)
    crops = EvaluationPack.load(pack_file).crops(rounded.config.input.spec())
    with complete_file(out) as temporary:
        np.savez(temporary, scores=reference_scores(rounded.fp32(), crops), version=np.array(version))
    console.print(out)


@app.command("publish")
def publish_command(
    *,
    checkpoint: CheckpointOption,
    calibration: CalibrationOption,
    out: FolderOption,
    facts: FactsOption,
    golden: GoldenOption,
    models: ModelsOption = None,
    tolerance: ToleranceOption = DEFAULT_TOLERANCE,
) -> None:
    """Write card and golden vectors, load everything back, and put the model into the package: all or nothing."""
    rounded, file = _model(checkpoint, calibration)
    folder = publish(
        rounded.fp32(),
        out,
        read_facts(facts),
        spec=rounded.config.input.spec(),
        calibration=file,
        golden_rgb=read_golden(golden),
        tolerance=tolerance,
        models=models or models_folder(),
    )
    console.print(f"published {folder}")


@app.command()
def run(
    *,
    checkpoint: Annotated[Path, typer.Option(help="Trained student, as `distil` left it.")],
    out: FolderOption,
    train: TrainOption,
    dev: DevOption,
    test: TestOption,
    data: DataOption = None,
    evaluation: EvaluationOption = None,
    version: VersionOption = "0.1.0",
    model_id: IdOption,
    origin: OriginOption = "",
    default_point: PointOption = DEFAULT_POINT,
    models: ModelsOption = None,
    crops: CropsOption = DEFAULT_CROPS,
    steps: StepsOption = DEFAULT_STEPS,
    crop_scale: CropScaleOption = None,
    leading_float: LeadingOption = None,
    tolerance: ToleranceOption = DEFAULT_TOLERANCE,
) -> None:
    """Every step from `round` to `publish`. Nothing is published when one fails."""
    check_point(default_point)
    out.mkdir(parents=True, exist_ok=True)
    calibration, facts, golden = out / "calibration.json", out / "facts.json", out / "golden.npy"
    student, checkpoint = checkpoint, out / "rounded.safetensors"
    if not checkpoint.is_file() or not load_rounded(checkpoint).is_of(student, crop_scale=crop_scale, steps=steps):
        round_command(student, checkpoint, train, crops, steps, crop_scale=crop_scale)
    calibrate(checkpoint=checkpoint, dev=dev, calibration=calibration)
    export(checkpoint, calibration, out)
    int8(checkpoint, calibration, out, train, leading_float)
    facts_command(
        student=student,
        checkpoint=checkpoint,
        calibration=calibration,
        out=out,
        dev=dev,
        test=test,
        facts=facts,
        golden=golden,
        data=data,
        evaluation=evaluation,
        version=version,
        model_id=model_id,
        origin=origin,
        default_point=default_point,
    )
    known = read_facts(facts)
    chosen = fp32_point(known.operating_points, known.default_operating_point)
    parity(checkpoint, calibration, out, test, chosen.threshold)
    latency(out=out, golden=golden)
    publish_command(
        checkpoint=checkpoint,
        calibration=calibration,
        out=out,
        facts=facts,
        golden=golden,
        models=models,
        tolerance=tolerance,
    )


def main() -> int:
    """Run the program; errors made on purpose become one line.

    Returns:
        0; 2 for a wrong command line; 3 for an error; 130 when the user stopped it.
    """
    return run_program(app)


if __name__ == "__main__":
    sys.exit(main())
