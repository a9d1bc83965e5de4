"""Command line of the compression program: ``python -m quantize …``."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import torch
import typer
from rich.console import Console

from fasedge.cards import models_folder, sha256_of
from quantize.calibrate import DEFAULT_CROPS, calibration_crops
from quantize.distill import DistilTask, PooledTask, load_task, load_teacher
from quantize.equalise import equalise
from quantize.errors import CalibrationDataError, CheckpointMismatchError, ParityError
from quantize.export import CalibrationFile, artefacts, export_fp32, export_int8, load_trained, read_calibration
from quantize.facts import (
    DEFAULT_POINT,
    as_scored,
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
from quantize.imitation import Imitation
from quantize.pack import EvaluationPack, make_pack
from quantize.parity import Presentations, artefact_scores, measure, reference_scores, write_parity
from quantize.platt import fit_platt
from quantize.publish import DEFAULT_TOLERANCE, publish, read_facts
from quantize.rounded import UNCALIBRATED, Rounded, load_rounded, save_rounded
from quantize.students import ExportModel
from quantize.teachers import OpenVinoTeacher, TorchTeacher
from training.checkpoint import load_exactly
from training.config import load_config
from training.data.joined import joined
from training.data.manifest import data_folder, read_manifest
from training.data.samples import SampleSet
from training.distributed import choose_device
from training.evaluate import evaluate_sets, write_evaluation
from training.loop import Trainer, score_set
from training.program import run_program

DEFAULT_STEPS = FinetuneConfig().steps

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Turn a trained student into models for the engines of the SDK."
)
console = Console()

CheckpointOption = Annotated[Path, typer.Option("--checkpoint", help="Rounded student, see `round`.")]
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


StepsOption = Annotated[int, typer.Option("--steps", help="Steps of fine-tuning on the INT8 grid; 0 for none.")]
LeadingOption = Annotated[
    int | None,
    typer.Option(
        "--leading-float", help="Convolutions at the start of the network that stay in float; default: by the network."
    ),
]
EvaluationOption = Annotated[
    list[Path] | None, typer.Option(help="Further evaluations to take into the card, e.g. on real captures.")
]
VersionOption = Annotated[str, typer.Option(help="Version of the model.")]
IdOption = Annotated[str, typer.Option("--id", help="Name of the model; a published one of that name is replaced.")]
OriginOption = Annotated[str, typer.Option(help="What the card adds about where the weights come from.")]
DevOption = Annotated[Path, typer.Option("--dev", help="Sample set of the dev split.")]
DataOption = Annotated[Path | None, typer.Option("--data", help="Folder of the face pack; default: $FASEDGE_DATA.")]


@app.command()
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
    for record in Trainer(task, settings, samples, SampleSet.load(dev), out, note).run():
        console.print(record.line())


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
) -> None:
    """Measure operating points and rates at both precisions, and choose the golden pictures."""
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
    if student is not None:
        task, config = load_task(student)
        before = score_set(task.score, task.module, sets["test"], config)
        default = next(p for p in points if (p.name, p.precision) == (DEFAULT_POINT, "fp32"))
        provenance |= rounding_cost(before, fp32_scores["test"], sets["test"], default.threshold)
    file = make_facts(
        data=folder,
        points=points,
        evaluation=[*results, *read_evaluations(evaluation or [])],
        version=version,
        model=model_id,
        config=rounded.config.method,
        notes=network_notes(rounded.config.method, info.parent_note, origin),
        provenance=provenance,
    )
    facts.write_bytes(msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n")
    licences = {picture.key: picture.licence for picture in read_manifest(folder)}
    np.save(golden, sets["test"].crops(golden_indices(sets["test"], licences), spec), allow_pickle=False)
    chosen = next(p for p in points if (p.name, p.precision) == (file.default_operating_point, "fp32"))
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
) -> None:
    """Round a student's weights: choose one INT8 grid on train crops and fine-tune on it."""
    network, config = load_trained(student)
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
        golden_rgb=np.asarray(np.load(golden, allow_pickle=False)),
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
    models: ModelsOption = None,
    crops: CropsOption = DEFAULT_CROPS,
    steps: StepsOption = DEFAULT_STEPS,
    leading_float: LeadingOption = None,
    tolerance: ToleranceOption = DEFAULT_TOLERANCE,
) -> None:
    """All of it: round, calibrate, export, int8, facts, parity, publish. Nothing is published when a step fails."""
    out.mkdir(parents=True, exist_ok=True)
    calibration, facts, golden = out / "calibration.json", out / "facts.json", out / "golden.npy"
    student, checkpoint = checkpoint, out / "rounded.safetensors"
    if not checkpoint.is_file() or load_rounded(checkpoint).info.parent_sha256 != sha256_of(student):
        round_command(student, checkpoint, train, crops, steps)
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
    )
    known = read_facts(facts)
    threshold = next(
        p.threshold for p in known.operating_points if (p.name, p.precision) == (known.default_operating_point, "fp32")
    )
    parity(checkpoint, calibration, out, test, threshold)
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
