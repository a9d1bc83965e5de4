"""Full-size networks: the methods as the papers have them, in FP32 and INT8, for boards that are strong enough.

They are not put on one grid for all engines as the students are (:mod:`quantize.grid`): twenty of the 39 batch
normalisations of a DenseNet trunk follow no convolution and cannot be folded, and its concatenations would each need a
grid of their own. Every engine's own quantiser makes the convolutions integer instead: weights of 8 bits, and
activations of 8 bits where a convolution reads them, over ranges measured on calibration pictures (OpenVINO, ONNX
Runtime) or found as the network runs (LiteRT). Everything between convolutions stays in float. So do the convolutions
that see the picture itself, which ``python -m quantize layers`` names as the ones that cost most, and those that make a
score. On x86 CPUs without VNNI sums of such products saturate: strong boards have it, or are ARM.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from fasedge.types import UInt8Array
from quantize.equalise_full import equalise_full
from quantize.errors import CalibrationDataError, CheckpointMismatchError, ConversionError
from quantize.export import Artefact, artefact, complete, export_fp32, is_rounded, is_student
from quantize.files import complete_file
from quantize.openvino_export import save_ir
from quantize.openvino_int8 import CONVOLUTIONS, quantized_by_nncf
from quantize.pictures import feed, parts
from quantize.students import Exportable
from quantize.tflite_export import quiet_converter
from quantize.tflite_int8 import open_interpreter
from training.build import build_task
from training.checkpoint import Checkpoint, load_checkpoint, load_exactly
from training.config import TrainConfig
from training.tasks import Batch, StepTask, as_step_task
from training.trained import config_of, without_start

_TFLITE_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation of a converted network.

    Attributes:
        name: What its engine calls it.
        reads: Names of the values that it reads.
        writes: Names of the values that it writes.
        filters: Filters of a convolution; 0 where it is none.
    """

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    filters: int = 0


def float_convolutions(operations: Iterable[Operation]) -> list[str]:
    """Names of the convolutions that stay in float: those that see a picture before any other has, and those of scores.

    Args:
        operations: All of a network, in an order in which they can be computed.

    Returns:
        Names, in that order: of convolutions with no other convolution before them, or with a single filter.
    """
    behind: set[str] = set()
    found = []
    for operation in operations:
        later = not behind.isdisjoint(operation.reads)
        if operation.filters == 1 or (operation.filters and not later):
            found.append(operation.name)
        if operation.filters or later:
            behind.update(operation.writes)
    return found


class FullNetwork(Exportable):
    """A method's network with its first layer, from pictures to the score that decides.

    Args:
        task: A trained method; it is switched to evaluation.
    """

    def __init__(self, task: StepTask) -> None:
        super().__init__()
        self._task = task
        # Registered for the converters; the task's first layer holds constants only.
        self.network = task.module.eval().requires_grad_(False)
        self.inputs = MappingProxyType({"rgb": 3, "depth": 1} if task.needs.depth else {"rgb": 3})
        self.outputs = ("score",)

    def forward(self, rgb: Tensor, depth: Tensor | None = None) -> tuple[Tensor]:
        """Score.

        Args:
            rgb: uint8 (N, S, S, 3), red first.
            depth: uint8 (N, S, S, 1) for methods that look at depth; ``None`` where ``rgb`` holds it as fourth channel.

        Returns:
            float32 (N,) in [0, 1], higher = bona fide: that of the method, not calibrated.
        """
        if self.sees_depth and depth is None:
            rgb, depth = rgb[..., :3], rgb[..., 3:]
        nobody = torch.zeros(rgb.shape[0])
        batch = Batch(rgb=rgb, labels=nobody, depth=None if depth is None else depth[..., 0])
        return (self._task.score_batch(batch),)


def float_modules(model: FullNetwork, shown: UInt8Array) -> list[str]:
    """The same for the network in PyTorch, see :func:`float_convolutions`.

    Args:
        model: The network.
        shown: A picture, uint8 (1, S, S, C): what it goes through says which convolutions see it first.

    Returns:
        Names of ``nn.Conv2d``.
    """
    convs = {name: part for name, part in model.named_modules() if isinstance(part, nn.Conv2d)}
    found = {name for name, conv in convs.items() if conv.out_channels == 1}

    # Values that have been through a convolution want a gradient, and so does whatever is made of them.
    def before(name: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor]) -> None:
            if not inputs[0].requires_grad:
                found.add(name)

        return hook

    def after(_: nn.Module, __: tuple[Tensor], output: Tensor) -> Tensor:
        return output.detach().requires_grad_().clone()

    hooks = [
        h for n, c in convs.items() for h in (c.register_forward_pre_hook(before(n)), c.register_forward_hook(after))
    ]
    try:
        with torch.enable_grad():
            model(torch.from_numpy(shown))
    finally:
        for hook in hooks:
            hook.remove()
    return [name for name in convs if name in found]


def load_full(path: Checkpoint | Path) -> tuple[FullNetwork, TrainConfig]:
    """Load a trained method from its checkpoint.

    Args:
        path: Checkpoint of ``python -m training fit``.

    Raises:
        CheckpointMismatchError: It is of a student.
        CheckpointError: The file is missing or damaged, or carries no configuration.
        StateMismatchError: Its tensors do not fit its configuration.
    """
    checkpoint = load_checkpoint(path)
    if is_rounded(checkpoint) or is_student(checkpoint):
        raise CheckpointMismatchError(f"{checkpoint.name} is a student; `python -m quantize run` makes artefacts of it")
    config = config_of(checkpoint)
    task = as_step_task(build_task(without_start(config)))
    load_exactly(task.module, checkpoint.tensors, what=checkpoint.name)
    return FullNetwork(task), config


def export_full(
    model: FullNetwork, folder: Path, size_px: int, calibration: UInt8Array, *, equalised: bool = False
) -> list[Artefact]:
    """Write a network in FP32 and INT8 for all engines.

    Args:
        model: The network.
        folder: Made if missing; files of the same names are replaced.
        size_px: Side of the input, S.
        calibration: Pictures of the train split, uint8 (n, S, S, C).
        equalised: Scale the network's channels first, in place (:mod:`quantize.equalise_full`): it computes the same.

    Raises:
        CalibrationDataError: There are no pictures.
        ConversionError: A converter or quantiser refused the network.
    """
    if not len(calibration):
        raise CalibrationDataError("a network is quantised on calibration pictures, got none")
    if equalised:
        equalise_full(model, calibration)
    float_files = export_fp32(model, folder, size_px)
    return float_files + quantize_full(float_files, folder, calibration)


def quantize_full(float_files: Iterable[Artefact], folder: Path, calibration: UInt8Array) -> list[Artefact]:
    """Write networks in INT8 from their FP32 files, each by its engine's own quantiser.

    Args:
        float_files: As :func:`quantize.export.export_fp32` wrote them.
        folder: It exists; files of the same names are replaced.
        calibration: Pictures of the train split, uint8 (n, S, S, C), at least one; LiteRT does not look at them.

    Raises:
        ConversionError: A quantiser refused a network.
    """
    writers = {"openvino": _openvino, "onnxruntime": _onnxruntime, "litert": _litert}
    made = []
    for item in float_files:
        target = artefact(folder, item.engine, "int8")
        with complete_file(target.path) as temporary:
            try:
                with quiet_converter():
                    writers[item.engine](item.path, temporary, calibration)
            except ConversionError:
                raise
            except Exception as error:  # quantisers raise whatever their passes raise
                raise ConversionError(f"the quantiser of {item.engine} refused the network: {error}") from error
        made.append(target)
    return complete(made)


def _openvino(source: Path, target: Path, calibration: UInt8Array) -> None:
    """NNCF: convolutions alone. Left to itself it rounds sums, means and sigmoids too, which moved scores by 0.2.

    Ranges span all that was seen. By default they are means over the pictures, which cuts the rare large values off.
    """
    import openvino
    from nncf import IgnoredScope
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    network = openvino.Core().read_model(source)
    in_float = IgnoredScope(
        names=float_convolutions(_openvino_operations(network)), types=_others(network), validate=False
    )
    how = AdvancedQuantizationParameters(
        overflow_fix=OverflowFix.DISABLE,
        disable_bias_correction=True,
        activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
    )
    save_ir(quantized_by_nncf(network, calibration, in_float, how), target)


def _openvino_operations(network: Any) -> Iterator[Operation]:
    for op in network.get_ordered_ops():
        name = op.get_friendly_name()
        reads = tuple(value.get_node().get_friendly_name() for value in op.input_values())
        convolves = op.get_type_name() in CONVOLUTIONS
        yield Operation(name, reads, (name,), op.output(0).get_partial_shape()[1].get_length() if convolves else 0)


def _others(network: Any) -> list[str]:
    """Types of everything that computes and is no convolution."""
    kinds = {str(op.get_type_name()) for op in network.get_ordered_ops()}
    return sorted(kinds - {"Parameter", "Constant", "Result", "Convert", *CONVOLUTIONS})


def _onnxruntime(source: Path, target: Path, calibration: UInt8Array) -> None:
    """ONNX Runtime's static quantisation of convolutions, as quantise-dequantise pairs, per channel."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the package has no types
        def __init__(self) -> None:
            self._rest: Iterator[Mapping[str, UInt8Array]] = (feed(part) for part in parts(calibration, 1))

        def get_next(self) -> Mapping[str, UInt8Array] | None:
            return next(self._rest, None)

    quantize_static(
        str(source),
        str(target),
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=float_convolutions(_onnx_operations(onnx.load(source))),
        # What a convolution writes goes on in float, as in OpenVINO: rounding it as well doubled the error.
        extra_options={"OpTypesToExcludeOutputQuantization": ["Conv"]},
    )


def _onnx_operations(network: Any) -> Iterator[Operation]:
    shapes = {item.name: list(item.dims) for item in network.graph.initializer}
    for node in network.graph.node:
        filters = 0
        if node.op_type == "Conv":
            if node.input[1] not in shapes:
                raise ConversionError(f"the filters of {node.name} are worked out as the network runs")
            filters = shapes[node.input[1]][0]
        yield Operation(node.name, tuple(node.input), tuple(node.output), filters)


def _litert(source: Path, target: Path, _: UInt8Array) -> None:
    """The quantiser of Google AI Edge: weights per channel, activations where a convolution reads them.

    An integer kernel of LiteRT that is given its ranges writes integers too, which costs more than all else
    (docs/edge.md). A kernel that finds the range of what it reads as it runs writes floats.
    """
    from ai_edge_quantizer import qtyping, quantizer

    work = quantizer.Quantizer(str(source))
    operations = list(_tflite_operations(source))
    kept = set(float_convolutions(item for item, _ in operations))
    for item, kind in operations:
        if item.filters and item.name not in kept:
            work.add_dynamic_config(
                regex=f"^{re.escape(item.name)};$", operation_name=qtyping.TFLOperationName(kind), num_bits=8
            )
    work.quantize(enable_progress_report=False).export_model(str(target), overwrite=True)


def _tflite_operations(source: Path) -> Iterator[tuple[Operation, str]]:
    """Operations, each with its kind; the quantiser knows them by the tensor that they write."""
    interpreter = open_interpreter(source)
    tensors = {int(item["index"]): item for item in interpreter.get_tensor_details()}
    for found in interpreter._get_ops_details():  # there is no public list of operations
        reads, writes = (tuple(str(tensors[int(i)]["name"]) for i in found[k] if i >= 0) for k in ("inputs", "outputs"))
        kind, filters = str(found["op_name"]), 0
        if kind in _TFLITE_CONVOLUTIONS:
            shape = tensors[int(found["inputs"][1])]["shape"]
            filters = int(shape[0] if kind == "CONV_2D" else shape[-1])
        yield Operation(writes[0], reads, writes, filters), kind
