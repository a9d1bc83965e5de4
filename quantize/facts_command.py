"""``python -m quantize facts``: what the card of a model will say, measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
import typer
from rich.console import Console

from fasedge.cards import Evaluation, OperatingPoint, Precision, sha256_of
from fasedge.preprocess import InputSpec
from fasedge.types import FloatArray, UInt8Array
from quantize.distill import load_task, scores_of
from quantize.export import Artefact, artefacts
from quantize.facts import (
    as_scored,
    golden_indices,
    held_out,
    make_facts,
    network_notes,
    picture_licences,
    read_evaluations,
    rounding_cost,
    simulated_evaluation,
)
from quantize.files import complete_file
from quantize.options import (
    CalibrationOption,
    CheckpointOption,
    DataOption,
    DevOption,
    EvaluationOption,
    FactsOption,
    FolderOption,
    GoldenOption,
    IdOption,
    OriginOption,
    PointOption,
    TestOption,
    VersionOption,
)
from quantize.parity import artefact_scores, reference_scores
from quantize.pictures import pictures, usable_part
from quantize.points import DEFAULT_POINT, check_point, fp32_point, operating_points
from quantize.provenance import learnt_from
from quantize.publish import check_names, hashes_of
from quantize.rounded import RoundedInfo, load_calibrated, with_crop
from quantize.students import ExportModel
from training.config import TrainConfig
from training.data.manifest import data_folder
from training.data.samples import SampleSet


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
    check_names(model_id, version)
    loaded = held_out(dev, test)
    rounded, _ = load_calibrated(checkpoint, calibration)
    items, hashes = artefacts(out), hashes_of(checkpoint, calibration, out)
    model, folder, spec = rounded.fp32(), data_folder(data), rounded.config.input.spec()
    sets = {name: usable_part(samples, depth=model.sees_depth) for name, samples in loaded.items()}
    quantized = next(a for a in items if (a.engine, a.precision) == ("openvino", "int8"))
    measured = _measure(model, sets, spec, quantized)
    provenance = _provenance(rounded.info, rounded.config, checkpoint)
    chosen = fp32_point(measured.points, default_point, next(iter(model.decisions.values())))
    if student is not None:
        task, config = load_task(student)
        seen = rounded.config.input.crop_scale
        if config.input.crop_scale != seen:
            provenance["student_crop_scale_in_training"] = f"{config.input.crop_scale:g}"
        before = scores_of(task.score, task, sets["test"], with_crop(config, seen))
        provenance |= {f"student_{name}": value for name, value in learnt_from(student).items()}
        provenance |= rounding_cost(before, measured.fp32_test, sets["test"], chosen.threshold)
    file = make_facts(
        data=folder,
        points=measured.points,
        evaluation=[*measured.results, *read_evaluations(evaluation or [])],
        version=version,
        model=model_id,
        config=rounded.config.method,
        notes=network_notes(rounded.config.method, rounded.info.parent_note, origin),
        default_point=default_point,
        provenance=provenance,
        measured_with=hashes,
    )
    with complete_file(facts) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n")
    best = golden_indices(sets["test"], picture_licences(folder))
    with complete_file(golden) as temporary, temporary.open("wb") as stream:
        np.save(stream, pictures(sets["test"], best, spec, depth=model.sees_depth), allow_pickle=False)
    Console().print(f"FP32 threshold of {chosen.name}: {chosen.threshold:.6f}")


class _Measured(NamedTuple):
    """What was measured of a model.

    Attributes:
        points: Operating points of all that may decide, at both precisions; the usual one and full precision first.
        results: Evaluations, likewise.
        fp32_test: Scores of the usual one at full precision on the test set, (n,).
    """

    points: list[OperatingPoint]
    results: list[Evaluation]
    fp32_test: FloatArray


def _measure(model: ExportModel, sets: Mapping[str, SampleSet], spec: InputSpec, quantized: Artefact) -> _Measured:
    crops = {
        name: pictures(samples, range(len(samples)), spec, depth=model.sees_depth) for name, samples in sets.items()
    }
    points: list[OperatingPoint] = []
    results: list[Evaluation] = []
    on_test: list[FloatArray] = []
    for output, modalities in model.decisions.items():
        scorers: dict[Precision, Callable[[UInt8Array], FloatArray]] = {
            "fp32": partial(reference_scores, model, output=output),
            "int8": partial(artefact_scores, quantized, output=output),
        }
        for precision, score in scorers.items():
            scored = {name: as_scored(sets[name], score(shown)) for name, shown in crops.items()}
            points += operating_points(scored["dev"], scored["test"], precision, modalities=modalities)
            results.append(simulated_evaluation(scored["test"], precision, modalities))
            on_test.append(scored["test"].scores.astype(np.float32))
    return _Measured(points, results, on_test[0])


def _provenance(info: RoundedInfo, config: TrainConfig, checkpoint: Path) -> dict[str, str]:
    return {
        "train_seed": str(config.seed),
        "student_epoch": str(info.parent_epoch),
        **{f"student_{name}": str(value) for name, value in info.parent_note.items()},
        "student_sha256": info.parent_sha256,
        "rounded_student_sha256": sha256_of(checkpoint),
        "weights": f"rounded to codes of +-{info.weight_code_max} in FP32 and INT8 alike, then {info.steps} steps of "
        "fine-tuning to the student's own answers; FP32 and INT8 differ by the rounding of activations",
        **({"activations": f"{len(info.bounded)} end at 6, in FP32 and INT8 alike"} if info.bounded else {}),
        **({"rounded_on": f"{info.crops} crops for the ranges; {info.train}"} if info.train else {}),
        "int8_operating_points": "measured with the OpenVINO artefact; all engines share one INT8 grid",
    }
