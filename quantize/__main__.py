"""Command line of the compression program: ``python -m quantize …``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, cast

import msgspec
import numpy as np
import typer
from rich.console import Console

from fasedge.cards import HeadCalibration, find_model, models_folder
from quantize.calibrate import DEFAULT_CROPS, calibration_crops
from quantize.distil_command import distil
from quantize.distill import PooledTask, load_task, pooled_heads_of, scores_of, sees_depth
from quantize.equalise import equalise
from quantize.errors import CalibrationDataError, CheckpointMismatchError, ConversionError, ParityError
from quantize.export import CalibrationFile, artefacts, export_fp32, export_int8, load_trained
from quantize.facts import as_scored, held_out
from quantize.facts_command import facts_command
from quantize.files import complete_file, remove_unfinished
from quantize.finetune import FinetuneConfig, finetune, training_crops
from quantize.fitting import fit_grid
from quantize.full_command import full
from quantize.grid import GridConfig, conv_names, in_float, release
from quantize.latency import LATENCY_NAME, measure_latency, time_published, write_latency
from quantize.layers_command import layers
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
    ToleranceOption,
    TrainOption,
    VersionOption,
)
from quantize.pack import EvaluationPack, make_pack
from quantize.parity import PARITY_NAME, Presentations, measure, reference_scores, write_parity
from quantize.pictures import pictures, usable_part
from quantize.platt import fit_platt
from quantize.points import DEFAULT_POINT, check_point, fp32_point
from quantize.publish import DEFAULT_TOLERANCE, check_names, hashes_of, publish, read_facts, read_golden
from quantize.rounded import UNCALIBRATED, Rounded, load_calibrated, load_rounded, save_rounded, with_crop
from quantize.students import ExportModel
from training.data.manifest import Split, data_folder
from training.data.samples import SampleSet
from training.errors import CheckpointError
from training.evaluate import evaluate_sets, write_evaluation
from training.program import run_program

DEFAULT_STEPS = FinetuneConfig().steps

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Turn a trained student into models for the engines of the SDK."
)
console = Console()
app.command()(distil)
app.command("facts")(facts_command)
app.command()(full)
app.command()(layers)


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
    samples = usable_part(SampleSet.load(dev), depth=task.sees_depth)
    if samples.info.split != "dev":
        raise CalibrationDataError(f"the score is calibrated on the dev split, got {samples.info.split!r}")
    means = pooled_heads_of(task, samples, config)
    fitted = {name: fit_platt(values, samples.labels) for name, values in means.items()}
    platt = fitted.pop("score")
    file = CalibrationFile(
        scale=platt.scale,
        bias=platt.bias,
        fitted_on=f"simulated dev set, n={len(samples)}, seed {samples.info.seed}",
        heads={name: HeadCalibration(scale=own.scale, bias=own.bias) for name, own in fitted.items()},
    )
    with complete_file(calibration) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n")
    for name, own in {"score": platt, **fitted}.items():
        console.print(f"{name} = sigmoid({own.scale:.4f} * mean {own.bias:+.4f})")


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
    plain = network.exported(UNCALIBRATED, config.input.normalisation())
    whole = SampleSet.load(train)
    samples = usable_part(whole, depth=plain.sees_depth)
    calibration = calibration_crops(samples, config.input.spec(), crops, depth=plain.sees_depth)
    model = equalise(plain, calibration)
    chosen = GridConfig(float_convs=tuple(conv_names(model, in_float(config.method.trunk).weights)))
    tuning = FinetuneConfig(steps=steps)
    grid = fit_grid(model, calibration, chosen)
    source = training_crops(samples, config, tuning.batch, depth=plain.sees_depth)
    record = finetune(grid, model, source, tuning)
    console.print(
        f"RMS error of the mean over the cells: {record.before:.4f} before, {record.after:.4f} after fine-tuning"
    )
    save_rounded(checkpoint, grid, student, config, chosen, tuning, record, train=whole.info, crops=crops)


@app.command()
def export(checkpoint: CheckpointOption, calibration: CalibrationOption, out: FolderOption) -> None:
    """Write the FP32 network for all engines."""
    rounded, _ = load_calibrated(checkpoint, calibration)
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
    rounded, _ = load_calibrated(checkpoint, calibration)
    depth = rounded.grid.sees_depth
    sample = pictures(usable_part(SampleSet.load(train), depth=depth), [0], rounded.config.input.spec(), depth=depth)
    start = in_float(rounded.config.method.trunk).convs if leading_float is None else leading_float
    grid = release(rounded.grid, _leading(rounded.grid, start))
    for item in export_int8(grid, out, rounded.config.input.size_px, sample):
        console.print(f"{item.name:20s} {item.bytes:>10,} bytes")


def _leading(model: ExportModel, n: int) -> list[str]:
    """Names of the leading convolutions, some of which at least stay in INT8."""
    names, total = conv_names(model, n), len(conv_names(model))
    if len(names) == total:
        most = max(k for k in range(min(n, total)) if len(conv_names(model, k)) < total)
        raise ConversionError(
            f"--leading-float {n} leaves no convolution in INT8: the network has {total}, so at most {most} can lead"
        )
    return names


@app.command()
def parity(
    checkpoint: CheckpointOption,
    calibration: CalibrationOption,
    out: FolderOption,
    test: TestOption,
    facts: FactsOption,
) -> None:
    """Compare every artefact with the FP32 network; fails when one is farther away than allowed.

    Decisions are those at the default operating point of facts.json.
    """
    rounded, _ = load_calibrated(checkpoint, calibration)
    known = read_facts(facts)
    model, spec = rounded.fp32(), rounded.config.input.spec()
    samples = SampleSet.load(test)
    if samples.info.split == "train":
        raise ParityError("parity is measured on held-out samples, got a set of the train split")
    samples = usable_part(samples, depth=model.sees_depth)
    crops = pictures(samples, range(len(samples)), spec, depth=model.sees_depth)
    species = [row.species for row in samples.table]
    reports = []
    for output, modalities in model.decisions.items():
        point = fp32_point(known.operating_points, known.default_operating_point, modalities)
        data = Presentations(crops, samples.labels, species, point.threshold, output)
        report = measure(artefacts(out), reference_scores(model, crops, output), data)
        console.print(report.table())
        for (a, b), value in report.cross_engine.items():
            console.print(f"{a} and {b}: largest difference of {output} {value:.4f}")
        report.check()
        reports.append(report)
    console.print(write_parity(out, *reports))


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
    rounded, file = load_calibrated(checkpoint, calibration)
    folder = publish(
        rounded.fp32(),
        out,
        read_facts(facts),
        spec=rounded.config.input.spec(),
        calibration=file,
        hashes=hashes_of(checkpoint, calibration, out),
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
    check_names(model_id, version)
    held_out(dev, test)
    made_from = SampleSet.load(train).info
    out.mkdir(parents=True, exist_ok=True)
    calibration, facts, golden = out / "calibration.json", out / "facts.json", out / "golden.npy"
    student, checkpoint = checkpoint, out / "rounded.safetensors"
    written = ("fp32", "int8", PARITY_NAME, LATENCY_NAME)
    remove_unfinished(calibration, facts, golden, checkpoint, *(out / name for name in written))
    if not (rounded := _rounded_before(checkpoint)) or not rounded.is_of(
        student, made_from, crops=crops, crop_scale=crop_scale, steps=steps
    ):
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
    parity(checkpoint, calibration, out, test, facts)
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


def _rounded_before(path: Path) -> Rounded | None:
    """What an earlier run left; a file that is damaged is made anew."""
    if not path.is_file():
        return None
    try:
        return load_rounded(path)
    except (CheckpointMismatchError, CheckpointError) as error:
        console.print(f"{error}; rounding again", markup=False)
        return None


def main() -> int:
    """Run the program; errors made on purpose become one line.

    Returns:
        0; 2 for a wrong command line; 3 for an error; 130 when the user stopped it.
    """
    return run_program(app)


if __name__ == "__main__":
    sys.exit(main())
