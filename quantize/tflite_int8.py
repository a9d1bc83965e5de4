"""TFLite files: INT8, from the network's INT8 grid."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fasedge.types import FloatArray, UInt8Array
from quantize.bake import GridPoint, grid_points, without_activation_grids
from quantize.errors import ConversionError
from quantize.files import complete_file
from quantize.grid import grids
from quantize.pictures import feed
from quantize.students import ExportModel
from quantize.tflite_export import export_tflite_fp32, quiet_converter

#: Name of the signature in the files.
SIGNATURE = "serving_default"
_INT8_CODE_MAX = 127
#: Operations that become integer kernels; the pre-processing and the head consist of others, or are not matched.
_KERNELS = ("CONV_2D", "DEPTHWISE_CONV_2D", "ADD")
_MATCH_TOLERANCE = 1e-3
_UNITY_TOLERANCE = 1e-4
_SMALLEST_PEAK = 1e-7
_NO_WEIGHT = np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class _Tensor:
    """A tensor of the float file: who writes it, and what the sample picture gives."""

    name: str
    writer: str
    input_name: str
    weight_name: str
    weight: FloatArray
    values: FloatArray


def export_tflite_int8(model: ExportModel, path: Path, size_px: int, sample: UInt8Array) -> Path:
    """Write a network on an INT8 grid. Pre-processing and head stay in float; input and outputs as in FP32.

    The grid is handed to the quantiser as calibration result, so that nothing is estimated a second time.

    Args:
        model: As :func:`quantize.fitting.fit_grid` returns it.
        path: ``.tflite`` file; replaced in one step.
        size_px: Side of the input, S.
        sample: One picture, uint8 (1, S, S, C), by whose values tensors of the converted file are recognised.

    Returns:
        ``path``; see :func:`quantize.tflite_export.export_tflite_fp32`.

    Raises:
        ConversionError: The model is on no grid; the converter refused it; a place of the network cannot be found
            again in the converted file.
    """
    if not grids(model):
        raise ConversionError("export_tflite_int8 needs a model on an INT8 grid; call quantize.fitting.fit_grid first")
    with tempfile.TemporaryDirectory() as folder:
        source = export_tflite_fp32(without_activation_grids(model), Path(folder) / "rounded.tflite", size_px)
        tensors = _tensors(source, sample)
        matched = _match(grid_points(model, sample), tensors)
        paddings = {tensor.input_name: tensor.name for tensor in tensors if tensor.writer == "PAD"}
        with complete_file(path) as temporary:
            try:
                with quiet_converter():
                    _quantize(source, temporary, matched, paddings)
            except ConversionError:
                raise
            except Exception as error:  # the quantiser raises whatever its passes raise
                raise ConversionError(f"ai-edge-quantizer cannot quantise the network: {error}") from error
    return path


def _quantize(source: Path, target: Path, matched: list[tuple[GridPoint, _Tensor]], paddings: dict[str, str]) -> None:
    from ai_edge_quantizer import qtyping, quantizer

    work = quantizer.Quantizer(str(source))
    statistics: dict[str, dict[str, Any]] = {}
    for point, tensor in matched:
        ratio = _ratio(tensor.values, point.values)
        statistics[tensor.name] = {"min": _constant(ratio * point.low), "max": _constant(ratio * point.high)}
        if tensor.writer not in _KERNELS:
            continue  # the input: its reader puts the QUANTIZE in front
        if tensor.writer != "ADD":
            if point.code_peak is None or point.weight_scale is None:
                continue  # a convolution that stays in float
            statistics[tensor.weight_name] = _weight_range(
                tensor.weight, point.code_peak, point.weight_scale, tensor.writer
            )
        work.add_static_config(
            regex=f"^{re.escape(tensor.name)};$",
            operation_name=qtyping.TFLOperationName(tensor.writer),
            activation_num_bits=8,
            weight_num_bits=8,
        )
    for name, padded in paddings.items():
        if name in statistics:  # padding moves codes about: same grid behind it
            statistics[padded] = statistics[name]
            work.add_static_config(
                regex=f"^{re.escape(padded)};$",
                operation_name=qtyping.TFLOperationName.PAD,
                activation_num_bits=8,
                weight_num_bits=8,
            )
    work.quantize(statistics, enable_progress_report=False).export_model(str(target), overwrite=True)


def _constant(value: float) -> FloatArray:
    return np.full((1, 1, 1, 1), value, np.float32)


def _weight_range(weight: FloatArray, code_peak: FloatArray, weight_scale: FloatArray, writer: str) -> dict[str, Any]:
    """Ranges from which a symmetric int8 quantiser computes the scales of the grid.

    The scales are read off the file's own weights: the converter may have moved a factor of the input into them.
    Channels without weights have nothing to read off, and keep the grid's own scale: it is what their bias needs.
    """
    axes, shape = ((1, 2, 3), (-1, 1, 1, 1)) if writer == "CONV_2D" else ((0, 1, 2), (1, 1, 1, -1))
    scale = np.where(code_peak > 0, np.abs(weight).max(axis=axes) / np.maximum(code_peak, 1), weight_scale)
    peak = np.maximum(scale * _INT8_CODE_MAX, _SMALLEST_PEAK).reshape(shape).astype(np.float32)
    return {"min": -peak, "max": peak}


def open_interpreter(source: Path) -> Any:
    """Open a file so that every value between its operations can be read."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    # Without the delegate every intermediate value can be read back.
    result = Interpreter(
        str(source),
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    result.allocate_tensors()
    return result


def _tensors(source: Path, sample: UInt8Array) -> list[_Tensor]:
    """All intermediate float tensors of four dimensions with their values, NCHW."""
    interpreter = open_interpreter(source)
    shown = feed(sample)
    for name, at in interpreter.get_signature_runner(SIGNATURE).get_input_details().items():
        interpreter.set_tensor(at["index"], shown[name])
    interpreter.invoke()
    names = {int(item["index"]): str(item["name"]) for item in interpreter.get_tensor_details()}
    result = []
    for operation in interpreter._get_ops_details():  # there is no public list of operations
        for index in operation["outputs"]:
            values = interpreter.get_tensor(index)
            if values.ndim == 4 and values.dtype == np.float32:
                inputs = [int(i) for i in operation["inputs"]]
                writer, first = str(operation["op_name"]), names.get(inputs[0], "")
                weight_name, weight = "", _NO_WEIGHT
                if writer in _KERNELS[:2]:
                    weight_name, weight = names[inputs[1]], interpreter.get_tensor(inputs[1])
                nchw = np.ascontiguousarray(values.transpose(0, 3, 1, 2))
                result.append(_Tensor(names[int(index)], writer, first, weight_name, weight, nchw))
    return result


def _match(points: list[GridPoint], tensors: list[_Tensor]) -> list[tuple[GridPoint, _Tensor]]:
    """Find each grid's tensor by its values. The input may differ by a factor, see :func:`_weight_range`."""
    matched = []
    for index, point in enumerate(points):
        candidates = [t for t in tensors if point.conv is None or t.writer in _KERNELS[:2]]
        fitting = [tensor for tensor in candidates if _same(tensor.values, point.values, scaled=index == 0)]
        if not fitting:
            raise ConversionError(
                f"the place {point.name!r} (after {point.conv or 'an addition or the input'}) of the network is not in "
                "the converted file: the converter rearranged the graph; its version may have changed"
            )
        matched.append((point, fitting[-1]))
    return matched


def _same(found: FloatArray, wanted: FloatArray, *, scaled: bool) -> bool:
    if found.shape != wanted.shape:
        return False
    ratio = _ratio(found, wanted)
    if ratio <= 0 or (not scaled and abs(ratio - 1) > _MATCH_TOLERANCE):
        return False
    return bool(np.abs(found - ratio * wanted).max() <= _MATCH_TOLERANCE * max(float(np.abs(found).max()), 1e-6))


def _ratio(found: FloatArray, wanted: FloatArray) -> float:
    """The factor with which ``found`` is nearest to ``factor * wanted``; exactly 1 where that is what it means."""
    square = float((wanted.astype(np.float64) ** 2).sum())
    ratio = float((found.astype(np.float64) * wanted).sum()) / square if square > 0 else 1.0
    return 1.0 if abs(ratio - 1) < _UNITY_TOLERANCE else ratio
