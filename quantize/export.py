"""From a trained student to the artefacts of all engines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from fasedge.cards import EngineName, HeadCalibration, Precision
from fasedge.types import UInt8Array
from quantize.errors import CheckpointMismatchError, ConversionError
from quantize.students import Exportable, ExportModel, Platt, Student, load_student, new_student

if TYPE_CHECKING:
    from quantize.rgbd import RgbdStudent
    from training.checkpoint import Checkpoint
    from training.config import TrainConfig

AnyStudent: TypeAlias = "Student | RgbdStudent"
#: Engine to the suffix of its file.
SUFFIXES: dict[EngineName, str] = {"openvino": ".xml", "litert": ".tflite", "onnxruntime": ".onnx"}
#: All engines of the SDK; their files are written in this order.
_ALL: tuple[EngineName, ...] = tuple(SUFFIXES)
#: Largest INT8 artefact that is published, all files of one engine together.
MAX_INT8_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Artefact:
    """A file for one engine at one precision.

    Attributes:
        engine: Engine that reads it.
        precision: ``fp32`` or ``int8``.
        path: The file to load; OpenVINO's ``.bin`` lies beside it.
    """

    engine: EngineName
    precision: Precision
    path: Path

    @property
    def companions(self) -> tuple[Path, ...]:
        """Files that are loaded along with it."""
        return (self.path.with_suffix(".bin"),) if self.engine == "openvino" else ()

    @property
    def bytes(self) -> int:
        """Size of all its files."""
        return sum(item.stat().st_size for item in (self.path, *self.companions))

    @property
    def name(self) -> str:
        """``engine/precision``, for messages."""
        return f"{self.engine}/{self.precision}"


def artefact(folder: Path, engine: EngineName, precision: Precision) -> Artefact:
    """Where an artefact lies, whether or not it has been written."""
    return Artefact(engine, precision, folder / f"{precision}{SUFFIXES[engine]}")


def artefacts(folder: Path, precisions: tuple[Precision, ...] = ("fp32", "int8")) -> list[Artefact]:
    """All artefacts of a folder, complete or not at all.

    Raises:
        ConversionError: A file is missing or empty: an export did not finish.
    """
    return complete([artefact(folder, engine, precision) for precision in precisions for engine in _ALL])


def complete(files: Sequence[Artefact]) -> list[Artefact]:
    """The same artefacts, if all of them are there.

    Raises:
        ConversionError: A file is missing or empty: an export did not finish.
    """
    for item in files:
        for path in (item.path, *item.companions):
            if not path.is_file() or path.stat().st_size == 0:
                raise ConversionError(
                    f"{path} is missing or empty: the export of {item.name} did not finish; "
                    "run `python -m quantize export` and `int8` again"
                )
    return list(files)


class CalibrationFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``calibration.json``: how the score is made from the mean over the cells.

    Attributes:
        scale: See :class:`quantize.students.Platt`.
        bias: Likewise.
        fitted_on: In words: which samples.
        heads: Scale and bias of the scores of single heads, by their names.
    """

    scale: float
    bias: float
    fitted_on: str
    heads: dict[str, HeadCalibration] = {}

    def platt(self) -> Platt:
        """The calibration itself."""
        return Platt(self.scale, self.bias, {name: Platt(h.scale, h.bias) for name, h in self.heads.items()})


def read_calibration(path: Path) -> CalibrationFile:
    """Read ``calibration.json``.

    Raises:
        CheckpointMismatchError: It is missing or malformed, or a number in it is impossible.
    """
    try:
        file = msgspec.json.decode(path.read_bytes(), type=CalibrationFile)
        file.platt()
    except (OSError, ValueError) as error:
        raise CheckpointMismatchError(
            f"{path} is no calibration ({error}); expected JSON with scale, bias and fitted_on, as "
            "`python -m quantize calibrate` writes it"
        ) from error
    return file


def is_rounded(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint is one of a student on its INT8 grid, see :mod:`quantize.rounded`."""
    return "rounded" in checkpoint.metadata


def is_student(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint is one of a student that is not rounded, and not of a method of full size."""
    return not is_rounded(checkpoint) and any(name.startswith(("filter.", "network.")) for name in checkpoint.tensors)


def empty_student(config: TrainConfig) -> AnyStudent:
    """A student with random weights, into which those of a checkpoint go: nothing is loaded from elsewhere.

    Raises:
        CheckpointMismatchError: The method of the configuration has no student.
    """
    from quantize.rgbd import METHOD, new_rgbd_student
    from training.build import build_trunk
    from training.errors import ConfigError
    from training.trained import without_start

    try:
        if config.method.name == METHOD:
            return new_rgbd_student(config.method)
        trunk = build_trunk(without_start(config).method)
        return new_student(config.method.name, trunk, trunk.out_channels)
    except ConfigError as error:
        raise CheckpointMismatchError(f"the checkpoint is of no student: {error}") from error


def load_trained(path: Checkpoint | Path) -> tuple[AnyStudent, TrainConfig]:
    """Load a trained student with the configuration that it was trained with.

    Args:
        path: Checkpoint of a distillation run.

    Raises:
        CheckpointMismatchError: The checkpoint is of another method or trunk.
        CheckpointError: The file is missing or damaged (see ``training.checkpoint``), or carries no configuration.
    """
    from training.checkpoint import load_checkpoint
    from training.trained import config_of

    checkpoint = load_checkpoint(path)
    config = config_of(checkpoint)
    return load_student(empty_student(config), checkpoint.tensors), config


def export_fp32(model: Exportable, folder: Path, size_px: int, engines: Sequence[EngineName] = _ALL) -> list[Artefact]:
    """Write the FP32 network.

    Args:
        model: FP32 model.
        folder: Made if missing; files of the same names are replaced.
        size_px: Side of the input.
        engines: For which engines; by default all.

    Raises:
        ConversionError: A converter refused the network.
    """
    from quantize.onnx_export import export_onnx_fp32
    from quantize.openvino_export import export_openvino_fp32
    from quantize.tflite_export import export_tflite_fp32

    writers = {"openvino": export_openvino_fp32, "onnxruntime": export_onnx_fp32, "litert": export_tflite_fp32}
    files = [artefact(folder, engine, "fp32") for engine in engines]
    for item in files:
        writers[item.engine](model, item.path, size_px)
    return complete(files)


def export_int8(
    model: ExportModel,
    folder: Path,
    size_px: int,
    sample: UInt8Array,
    engines: Sequence[EngineName] = _ALL,
    *,
    largest: int | None = MAX_INT8_BYTES,
) -> list[Artefact]:
    """Write a network on an INT8 grid.

    Args:
        model: As :func:`quantize.fitting.fit_grid` returns it.
        folder: Made if missing; files of the same names are replaced.
        size_px: Side of the input.
        sample: One picture, uint8 (1, S, S, C).
        engines: For which engines; by default all.
        largest: Bytes that an artefact may have; ``None`` for any number, where nothing will be published.

    Raises:
        ConversionError: A converter refused the network, or an artefact is larger than allowed.
    """
    from quantize.onnx_export import export_onnx_int8
    from quantize.openvino_int8 import export_openvino_int8
    from quantize.tflite_int8 import export_tflite_int8

    def litert(model: ExportModel, path: Path, size_px: int) -> Path:
        return export_tflite_int8(model, path, size_px, sample)

    writers = {"openvino": export_openvino_int8, "onnxruntime": export_onnx_int8, "litert": litert}
    files = [artefact(folder, engine, "int8") for engine in engines]
    for item in files:
        writers[item.engine](model, item.path, size_px)
    for item in complete(files):
        if largest is not None and item.bytes > largest:
            raise ConversionError(
                f"{item.name} has {item.bytes:,} bytes, more than the {largest:,} allowed; "
                "keep fewer convolutions in float"
            )
    return files
