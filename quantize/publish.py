"""From artefacts and facts to a model folder inside the package: all or nothing."""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import torch
from filelock import FileLock

from fasedge._card_checks import PLAIN_NAME
from fasedge.cards import (
    CARD_NAME,
    Calibration,
    Evaluation,
    FileCard,
    GoldenVectors,
    InputCard,
    LatencyRecord,
    ModelCard,
    OperatingPoint,
    OutputCard,
    OutputName,
    ParityRecord,
    Source,
    TrainingData,
    dump_card,
    load_card,
    models_folder,
    sha256_of,
    verified_model_path,
)
from fasedge.errors import FasEdgeError
from fasedge.preprocess import InputSpec
from fasedge.selftest import run_selftest
from fasedge.types import UInt8Array
from quantize.errors import PublishError
from quantize.export import Artefact, CalibrationFile, artefact, artefacts, complete
from quantize.latency import read_latency
from quantize.parity import read_parity
from quantize.pictures import feed
from quantize.students import ExportModel

GOLDEN_NAME = "golden.npz"
#: Largest difference of a score that a device may show. INT8 differed from FP32 by up to 0.052 on 400 crops
#: (ImageNet trunk, calibration scale 22; it grows with that scale), by less than 0.015 between processors and engines.
DEFAULT_TOLERANCE = 0.06
#: ``AT_FDCWD`` and ``RENAME_EXCHANGE`` of Linux.
_HERE, _RENAME_EXCHANGE = -100, 2
_STAGING, _OLD, _LOCK = ".staging-", "old-", ".publishing.lock"

_MODALITY: Mapping[str, Literal["rgb", "depth"]] = {"rgb": "rgb", "depth": "depth"}
_MEANING: Mapping[OutputName, str] = {
    "score": "sigmoid of the calibrated mean {value}; higher = more surely bona fide",
    "map": "the same of the {value} of each cell of the crop alone",
    "score_rgb": "the same as the score, of colour alone: does not depend on depth",
    "score_depth": "the same as the score, of depth alone",
}


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``facts.json``: what the artefacts themselves cannot tell. Written by the evaluation, never by hand.

    The fields are those of :class:`fasedge.cards.ModelCard`, and ``measured_with``, see :func:`hashes_of`.
    """

    id: str
    version: str
    summary: str
    licence: str
    source: Source
    operating_points: tuple[OperatingPoint, ...]
    default_operating_point: str
    training_data: tuple[TrainingData, ...]
    evaluation: tuple[Evaluation, ...]
    intended_use: str
    limitations: tuple[str, ...]
    provenance: dict[str, str] = {}
    measured_with: dict[str, str] = {}


def hashes_of(checkpoint: Path, calibration: Path, folder: Path) -> dict[str, str]:
    """SHA-256 of the files that facts are measured with, by what they are.

    Args:
        checkpoint: Rounded student.
        calibration: ``calibration.json``.
        folder: Of the artefacts; INT8 is measured in OpenVINO.

    Raises:
        ConversionError: The artefact is missing.
        ModelNotFoundError: Another file cannot be read.
    """
    (measured,) = complete([artefact(folder, "openvino", "int8")])
    files = {"checkpoint": checkpoint, "calibration": calibration}
    files |= {path.name: path for path in (measured.path, *measured.companions)}
    return {name: sha256_of(path) for name, path in files.items()}


def check_names(model_id: str, version: str) -> None:
    """Refuse an id, which names a folder, or a version that is no plain name, before anything is done.

    Raises:
        PublishError: One of them is no plain name.
    """
    for what, name in (("--id", model_id), ("--version", version)):
        if not PLAIN_NAME.fullmatch(name):
            raise PublishError(
                f"{what} must be a plain name (letters, digits, '.', '_', '-'; a letter or digit first), got {name!r}"
            )


def read_facts(path: Path) -> Facts:
    """Read ``facts.json``.

    Raises:
        PublishError: It is missing or malformed.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Facts)
    except (OSError, msgspec.MsgspecError) as error:
        raise PublishError(f"{path} are no facts about a model: {error}") from error


def read_golden(path: Path) -> UInt8Array:
    """Read the golden pictures, uint8 (n, S, S, 3) or with depth (n, S, S, 4), n >= 1.

    Raises:
        PublishError: They are missing, malformed or something else.
    """
    try:
        rgb = np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise PublishError(f"{path} are no golden pictures: {error}") from error
    _check_golden(rgb)
    return rgb


def _check_golden(rgb: UInt8Array) -> None:
    if rgb.ndim != 4 or len(rgb) == 0 or rgb.shape[3] not in (3, 4) or rgb.dtype != np.uint8:
        raise PublishError(
            f"golden vectors need uint8 (n, S, S, 3), or 4 with depth, and n >= 1, got {rgb.dtype} {rgb.shape}"
        )


def _check_fits(rgb: UInt8Array, model: ExportModel, spec: InputSpec) -> None:
    _check_golden(rgb)
    wanted = (spec.size_px, spec.size_px, sum(model.inputs.values()))
    if rgb.shape[1:] != wanted:
        raise PublishError(
            f"the network looks at pictures of {wanted}, the golden ones are {rgb.shape[1:]}; take those that "
            "`python -m quantize facts` chose for it"
        )


def publish(
    model: ExportModel,
    folder: Path,
    facts: Facts,
    *,
    spec: InputSpec,
    calibration: CalibrationFile,
    hashes: Mapping[str, str],
    golden_rgb: UInt8Array,
    tolerance: float = DEFAULT_TOLERANCE,
    models: Path | None = None,
) -> Path:
    """Put a model folder together, load everything back, and only then make it visible.

    Args:
        model: The FP32 network; gives the golden outputs.
        folder: Artefacts, ``parity.json`` and ``latency.json``.
        facts: See :class:`Facts`.
        spec: The network's input.
        calibration: As built into the graph.
        hashes: See :func:`hashes_of`; the facts must have been measured with the same files.
        golden_rgb: uint8 (n, S, S, C): pictures that may be published.
        tolerance: Of the self-test.
        models: Where model folders lie; default: inside the package.

    Returns:
        The published folder.

    Raises:
        PublishError: Id or version is no plain name, the new folder cannot be made, ``latency.json`` is missing, it or
            the facts are about other files, the golden pictures are of another network, or an artefact fails its
            self-test. An earlier folder is untouched.
        ConversionError: An artefact is missing.
        ParityError: ``parity.json`` is missing or about other files.
    """
    check_names(facts.id, facts.version)
    models = models or models_folder()
    items = artefacts(folder)
    records, latency = read_parity(folder, items), read_latency(folder, items)
    _check_calibration(model, calibration)
    _check_facts(facts, hashes)
    _check_fits(golden_rgb, model, spec)
    target = models / facts.id
    try:
        with _staging_for(target) as staging:
            fresh = staging / "new"
            fresh.mkdir()
            files = tuple(_copy(item, fresh, facts.id) for item in items)
            parts = _Parts(facts, records, latency, spec, calibration, files, model)
            card = _card(parts, *_write_golden(fresh, model, golden_rgb, tolerance))
            (fresh / CARD_NAME).write_text(dump_card(card), encoding="utf-8")
            _verify(fresh, card)
            _swap(fresh, target, staging)
    except (FasEdgeError, OSError) as error:
        raise PublishError(
            f"model {facts.id!r} was not published, what was there before is unchanged: {error}"
        ) from error
    return target


@contextmanager
def _staging_for(target: Path) -> Iterator[Path]:
    """A folder beside a model's own to put the new one together in; another publication waits until it is gone."""
    models = target.parent
    models.mkdir(parents=True, exist_ok=True)
    with FileLock(models / _LOCK):
        _clear_up(models)
        # One level deeper than a model folder, so that an unfinished one is never listed.
        staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=models))
        try:
            yield staging
        finally:
            if target.exists() or not any(staging.glob(f"{_OLD}*")):
                shutil.rmtree(staging, ignore_errors=True)


def _clear_up(models: Path) -> None:
    """Remove what killed publications left; a model of which they hold the only copy is put back before."""
    for staging in models.glob(f"{_STAGING}*"):
        for old in staging.glob(f"{_OLD}*"):
            try:
                target = models / load_card(old).id
            except FasEdgeError:
                break  # whose model it is cannot be said: it stays
            if not target.exists():
                old.replace(target)
        else:
            shutil.rmtree(staging, ignore_errors=True)


def _check_calibration(model: ExportModel, calibration: CalibrationFile) -> None:
    if model.platt != calibration.platt():
        raise PublishError(
            f"the card would state another calibration ({calibration.platt()}) than the graph has ({model.platt})"
        )


def _check_facts(facts: Facts, hashes: Mapping[str, str]) -> None:
    other = [name for name, sha256 in hashes.items() if facts.measured_with.get(name) != sha256]
    if other:
        raise PublishError(
            f"the facts about {facts.id!r} were not measured with this {' and '.join(other)}; "
            "run `python -m quantize facts` again, then `parity`"
        )


@dataclass(frozen=True, slots=True)
class _Parts:
    facts: Facts
    records: tuple[ParityRecord, ...]
    latency: tuple[LatencyRecord, ...]
    spec: InputSpec
    calibration: CalibrationFile
    files: tuple[FileCard, ...]
    model: ExportModel


def _card(parts: _Parts, golden: GoldenVectors, map_side: int) -> ModelCard:
    facts, spec, calibration = parts.facts, parts.spec, parts.calibration
    return ModelCard(
        schema_version=1,
        inputs=tuple(
            InputCard(name=name, size_px=spec.size_px, crop_scale=spec.crop_scale, modality=_MODALITY[name])
            for name in parts.model.inputs
        ),
        outputs=tuple(
            OutputCard(
                name=name,
                shape=(map_side, map_side) if name == "map" else (1,),
                meaning=_MEANING[name].format(value=parts.model.head.value),
            )
            for name in parts.model.outputs
        ),
        files=parts.files,
        calibration=Calibration(
            kind="platt",
            scale=calibration.scale,
            bias=calibration.bias,
            fitted_on=calibration.fitted_on,
            heads=calibration.heads,
        ),
        parity=parts.records,
        latency=parts.latency,
        golden=golden,
        **{name: getattr(facts, name) for name in facts.__struct_fields__ if name != "measured_with"},
    )


def _copy(item: Artefact, folder: Path, model_id: str) -> FileCard:
    companions: dict[str, str] = {}
    for source in (item.path, *item.companions):
        target = folder / f"{model_id}-{source.name}"
        shutil.copyfile(source, target)
        if source != item.path:
            companions[target.name] = sha256_of(target)
    main = folder / f"{model_id}-{item.path.name}"
    return FileCard(
        engine=item.engine,
        precision=item.precision,
        path=main.name,
        sha256=sha256_of(main),
        bytes=item.bytes,
        companions=companions,
    )


def _write_golden(folder: Path, model: ExportModel, rgb: UInt8Array, tolerance: float) -> tuple[GoldenVectors, int]:
    with torch.inference_mode():
        found = [out.numpy().astype(np.float32) for out in model(torch.from_numpy(rgb.copy()))]
    outputs = dict(zip(model.outputs, found, strict=True))
    path = folder / GOLDEN_NAME
    np.savez_compressed(path, allow_pickle=False, **feed(rgb), **outputs)
    golden = GoldenVectors(path=path.name, sha256=sha256_of(path), n=len(rgb), tolerance=tolerance)
    return golden, int(outputs["map"].shape[1])


def _verify(folder: Path, card: ModelCard) -> None:
    """Load everything back as a user's device would."""
    read = load_card(folder)
    if read != card:
        raise PublishError("the card reads back differently from how it was written")
    for item in read.files:
        verified_model_path(folder, item)
        run_selftest(folder, item.engine, item.precision).raise_for_failure()


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step, so that there is one of them at any moment; false where nobody can."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    done: int = rename(_HERE, os.fsencode(one.resolve()), _HERE, os.fsencode(other.resolve()), _RENAME_EXCHANGE)
    return done == 0


def _swap(fresh: Path, target: Path, staging: Path) -> None:
    """Put the new folder into place: in one step where the system can, else with the old one put back on failure."""
    if target.exists() and _exchange(fresh, target):
        return
    old = staging / f"{_OLD}{secrets.token_hex(4)}"
    try:
        if target.exists():
            target.replace(old)
        fresh.replace(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.replace(target)
        raise
