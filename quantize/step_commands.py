"""The steps between a trained student and a published model, each as a command of ``python -m quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from fasedge.cards import HeadCalibration, models_folder
from quantize.calibrate import DEFAULT_CROPS, calibration_crops
from quantize.distill import PooledTask, load_task, pooled_heads_of
from quantize.equalise import bound, equalise
from quantize.errors import CalibrationDataError, CheckpointMismatchError, ConversionError, ParityError
from quantize.export import CalibrationFile, artefacts, export_fp32, export_int8, load_trained
from quantize.files import complete_file
from quantize.finetune import DEFAULT_STEPS, FinetuneConfig, finetune, training_crops
from quantize.fitting import fit_grid
from quantize.grid import GridConfig, conv_names, in_float, release
from quantize.latency import measure_latency, write_latency
from quantize.options import (
    CalibrationOption,
    CheckpointOption,
    CropScaleOption,
    CropsOption,
    DevOption,
    FactsOption,
    FolderOption,
    GoldenOption,
    LeadingOption,
    ModelsOption,
    StepsOption,
    TestOption,
    ToleranceOption,
    TrainOption,
)
from quantize.parity import Presentations, measure, reference_scores, write_parity
from quantize.pictures import pictures, training_set, usable_part
from quantize.platt import fit_platt
from quantize.points import fp32_point
from quantize.publish import DEFAULT_TOLERANCE, hashes_of, publish, read_facts, read_golden
from quantize.rounded import UNCALIBRATED, load_calibrated, save_rounded, with_crop
from quantize.students import ExportModel
from training.data.samples import SampleSet

console = Console()


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
    model, bounded = bound(equalise(plain, calibration), calibration)
    chosen = GridConfig(float_convs=tuple(conv_names(model, in_float(config.method.trunk).weights)))
    tuning = FinetuneConfig(steps=steps)
    grid = fit_grid(model, calibration, chosen)
    source = training_crops(samples, config, tuning.batch, depth=plain.sees_depth)
    record = finetune(grid, plain, source, tuning)
    console.print(
        f"RMS error of the mean over the cells: {record.before:.4f} before, {record.after:.4f} after fine-tuning"
    )
    save_rounded(
        checkpoint, grid, student, config, chosen, tuning, record, train=whole.info, crops=crops, bounded=bounded
    )


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
        fitted_on=f"simulated dev set, version {samples.info.version}, n={len(samples)}, seed {samples.info.seed}",
        heads={name: HeadCalibration(scale=own.scale, bias=own.bias) for name, own in fitted.items()},
    )
    with complete_file(calibration) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n")
    for name, own in {"score": platt, **fitted}.items():
        console.print(f"{name} = sigmoid({own.scale:.4f} * mean {own.bias:+.4f})")


def export(checkpoint: CheckpointOption, calibration: CalibrationOption, out: FolderOption) -> None:
    """Write the FP32 network for all engines."""
    rounded, _ = load_calibrated(checkpoint, calibration)
    for item in export_fp32(rounded.fp32(), out, rounded.config.input.size_px):
        console.print(f"{item.name:20s} {item.bytes:>10,} bytes")


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
    sample = pictures(usable_part(training_set(train), depth=depth), [0], rounded.config.input.spec(), depth=depth)
    start = in_float(rounded.config.method.trunk).convs if leading_float is None else leading_float
    grid = release(rounded.grid, leading(rounded.grid, start))
    for item in export_int8(grid, out, rounded.config.input.size_px, sample):
        console.print(f"{item.name:20s} {item.bytes:>10,} bytes")


def leading(model: ExportModel, n: int) -> list[str]:
    """Names of the leading convolutions behind each input, that are to stay in float.

    Raises:
        ConversionError: None would be left to compute in INT8.
    """
    names, total = conv_names(model, n), len(conv_names(model))
    if len(names) == total:
        most = max(k for k in range(min(n, total)) if len(conv_names(model, k)) < total)
        raise ConversionError(
            f"--leading-float {n} leaves no convolution in INT8: the network has {total}, so at most {most} can lead"
        )
    return names


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
