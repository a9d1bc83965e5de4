"""Rebuilds the BlazeFace network of MediaPipe as ONNX, from the tensors of its .tflite file.

    python -m quantize.blazeface_onnx fasedge/assets/face_detection_short_range.tflite out.onnx

ONNX Runtime reads no .tflite file, and the .tflite file runs one picture at a time: its last reshapes carry a fixed
batch of one. The graph built here is the same network, layer by layer, with a free batch axis. The weights stay
float16 as in the original and are cast to float32 where they are used, so that the arithmetic is the same.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantize.errors import ConversionError, ParityError

#: Opset 17 and file format 8 are read by every ONNX Runtime since 1.12.
OPSET = 17
IR_VERSION = 8
#: Largest difference from LiteRT that is allowed, absolute up to 1 and relative above.
TOLERANCE = 1e-4

_TFLITE_DTYPES = {0: np.float32, 1: np.float16, 2: np.int32}
_PADDING_SAME = 0
_NO_ACTIVATION = 0


class _Flatbuffer:
    """The parts of a .tflite file that the conversion needs."""

    def __init__(self, data: bytes) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.model = schema.ModelT.InitFromPackedBuf(data, 0)
        if len(self.model.subgraphs) != 1:
            raise ConversionError(f"expected a .tflite file with one subgraph, got {len(self.model.subgraphs)}")
        self.graph = self.model.subgraphs[0]
        codes = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
        # Old files hold the operator in the 8-bit field, new ones in the wide one; the larger of both is right.
        self.op_names = [codes[max(c.builtinCode, c.deprecatedBuiltinCode)] for c in self.model.operatorCodes]

    def shape(self, index: int) -> list[int]:
        """Shape of a tensor."""
        return [int(n) for n in self.graph.tensors[index].shape]

    def name(self, index: int) -> str:
        """Name of a tensor."""
        return str(self.graph.tensors[index].name.decode())

    def constant(self, index: int) -> NDArray[Any] | None:
        """Values of a constant tensor; ``None`` for one that is computed."""
        tensor = self.graph.tensors[index]
        data = self.model.buffers[tensor.buffer].data
        if data is None or len(data) == 0:
            return None
        return np.frombuffer(bytes(data), _TFLITE_DTYPES[tensor.type]).reshape(self.shape(index))


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Padding before and after one axis, as TensorFlow's ``SAME`` places it: the odd element goes behind.

    Source: TensorFlow, ``tf.nn.convolution``, section on padding.
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class _Builder:
    """Turns one operator after another into ONNX nodes. Pictures are NHWC outside and NCHW inside."""

    def __init__(self, source: _Flatbuffer) -> None:
        self.source = source
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.widened: dict[int, int] = {}  # float32 tensor -> the float16 constant that it comes from

    def add(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        """Append a node."""
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, [output], name=f"{op}_{len(self.nodes)}", **attributes))
        return output

    def weight(self, index: int, arrange: Callable[[NDArray[Any]], NDArray[Any]]) -> str:
        """Store a constant as float16 and widen it to float32 in the graph."""
        from onnx import TensorProto, numpy_helper

        values = self.source.constant(self.widened.get(index, index))
        if values is None or values.dtype != np.float16:
            raise ConversionError(f"expected tensor {index} to be a float16 constant")
        name = f"w{index}"
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(arrange(values)), f"{name}_f16"))
        return self.add("Cast", [f"{name}_f16"], name, to=TensorProto.FLOAT)

    def integers(self, name: str, values: list[int]) -> str:
        """Store a list of int64."""
        from onnx import numpy_helper

        self.initializers.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def pads(self, op: Any, index: int, kernel: tuple[int, int]) -> list[int]:
        """``pads`` attribute of a windowed operator."""
        options = op.builtinOptions
        if options.padding != _PADDING_SAME:
            return [0, 0, 0, 0]
        _, height, width, _ = self.source.shape(index)
        top, bottom = same_padding(height, kernel[0], options.strideH)
        left, right = same_padding(width, kernel[1], options.strideW)
        return [top, left, bottom, right]


def _tensor(index: int) -> str:
    return f"t{index}"


def _convolve(builder: _Builder, op: Any) -> None:
    picture, kernel, bias = (int(i) for i in op.inputs)
    depthwise = builder.source.op_names[op.opcodeIndex] == "DEPTHWISE_CONV_2D"
    # TFLite keeps (O, h, w, I), for depthwise (1, h, w, C); ONNX wants (O, I, h, w), for depthwise (C, 1, h, w).
    order = (3, 0, 1, 2) if depthwise else (0, 3, 1, 2)
    _, height, width, _ = builder.source.shape(kernel)
    builder.add(
        "Conv",
        [
            _tensor(picture),
            builder.weight(kernel, lambda w: w.transpose(order)),
            builder.weight(bias, lambda b: b),
        ],
        _tensor(int(op.outputs[0])),
        kernel_shape=[height, width],
        strides=[op.builtinOptions.strideH, op.builtinOptions.strideW],
        pads=builder.pads(op, picture, (height, width)),
        group=builder.source.shape(picture)[3] if depthwise else 1,
    )


def _max_pool(builder: _Builder, op: Any) -> None:
    options = op.builtinOptions
    window = (options.filterHeight, options.filterWidth)
    builder.add(
        "MaxPool",
        [_tensor(int(op.inputs[0]))],
        _tensor(int(op.outputs[0])),
        kernel_shape=list(window),
        strides=[options.strideH, options.strideW],
        pads=builder.pads(op, int(op.inputs[0]), window),
    )


def _pad_channels(builder: _Builder, op: Any) -> None:
    amounts = builder.source.constant(int(op.inputs[1]))
    if amounts is None or amounts[:3].any():
        raise ConversionError("expected PAD to add channels only")
    before, after = (int(n) for n in amounts[3])
    output = int(op.outputs[0])
    pads = builder.integers(f"pads{output}", [0, before, 0, 0, 0, after, 0, 0])
    builder.add("Pad", [_tensor(int(op.inputs[0])), pads], _tensor(output))


def _reshape(builder: _Builder, op: Any) -> None:
    output = int(op.outputs[0])
    # The heads leave the network per place: back to NHWC first. 0 keeps the batch axis, whatever its length.
    nhwc = builder.add("Transpose", [_tensor(int(op.inputs[0]))], f"nhwc{output}", perm=[0, 2, 3, 1])
    _, rows, columns = builder.source.shape(output)
    builder.add("Reshape", [nhwc, builder.integers(f"shape{output}", [0, rows, columns])], _tensor(output))


def _plain(onnx_op: str, **attributes: object) -> Callable[[_Builder, Any], None]:
    def build(builder: _Builder, op: Any) -> None:
        builder.add(onnx_op, [_tensor(int(i)) for i in op.inputs], _tensor(int(op.outputs[0])), **attributes)

    return build


def _dequantize(builder: _Builder, op: Any) -> None:
    builder.widened[int(op.outputs[0])] = int(op.inputs[0])


_OPERATORS: dict[str, Callable[[_Builder, Any], None]] = {
    "DEQUANTIZE": _dequantize,
    "CONV_2D": _convolve,
    "DEPTHWISE_CONV_2D": _convolve,
    "RELU": _plain("Relu"),
    "ADD": _plain("Add"),
    "MAX_POOL_2D": _max_pool,
    "PAD": _pad_channels,
    "RESHAPE": _reshape,
    "CONCATENATION": _plain("Concat", axis=1),
}


def convert(tflite: bytes) -> bytes:
    """Build the ONNX file.

    Args:
        tflite: Content of ``face_detection_short_range.tflite``.

    Returns:
        Content of the .onnx file: input ``input`` float32 (N, 128, 128, 3) in [-1, 1]; outputs ``regressors``
        float32 (N, 896, 16) and ``classificators`` float32 (N, 896, 1).

    Raises:
        ConversionError: The file holds an operator that the conversion does not know.
    """
    from onnx import TensorProto, checker, helper

    source = _Flatbuffer(tflite)
    builder = _Builder(source)
    entry = int(source.graph.inputs[0])
    builder.add("Transpose", [source.name(entry)], _tensor(entry), perm=[0, 3, 1, 2])
    for op in source.graph.operators:
        name = source.op_names[op.opcodeIndex]
        if name not in _OPERATORS:
            raise ConversionError(f"the conversion knows {', '.join(sorted(_OPERATORS))}; the file holds {name}")
        if getattr(op.builtinOptions, "fusedActivationFunction", _NO_ACTIVATION) != _NO_ACTIVATION:
            raise ConversionError(f"expected {name} without a fused activation")
        _OPERATORS[name](builder, op)
    for index in source.graph.outputs:
        builder.add("Identity", [_tensor(int(index))], source.name(int(index)))

    def value(index: int) -> Any:
        return helper.make_tensor_value_info(source.name(index), TensorProto.FLOAT, ["N", *source.shape(index)[1:]])

    graph = helper.make_graph(
        builder.nodes,
        "blazeface_short_range",
        [value(entry)],
        [value(int(i)) for i in source.graph.outputs],
        builder.initializers,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="fasedge", ir_version=IR_VERSION
    )
    model.metadata_props.add(key="source_sha256", value=hashlib.sha256(tflite).hexdigest())
    model.metadata_props.add(key="licence", value="Apache-2.0, Copyright The MediaPipe Authors")
    checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def largest_deviation(tflite: bytes, onnx_file: bytes, *, pictures: int = 4, seed: int = 0) -> float:
    """Largest difference between the outputs of LiteRT and of ONNX Runtime on random pictures.

    The difference is absolute for values up to 1 and relative above.

    Args:
        tflite: Content of the .tflite file, run one picture at a time.
        onnx_file: Content of the .onnx file, run in one batch.
        pictures: How many pictures.
        seed: Seed of the pictures.
    """
    import onnxruntime
    from ai_edge_litert.interpreter import Interpreter

    batch = np.random.default_rng(seed).uniform(-1, 1, (pictures, 128, 128, 3)).astype(np.float32)
    interpreter = Interpreter(model_content=tflite, num_threads=1)
    interpreter.allocate_tensors()
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    found = session.run(["regressors", "classificators"], {"input": batch})
    by_name = {d["name"]: d["index"] for d in interpreter.get_output_details()}
    worst = 0.0
    for i in range(pictures):
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], batch[i : i + 1])
        interpreter.invoke()
        for name, output in zip(("regressors", "classificators"), found, strict=True):
            wanted = interpreter.get_tensor(by_name[name])[0]
            worst = max(worst, float((np.abs(wanted - output[i]) / np.maximum(np.abs(wanted), 1)).max()))
    return worst


def main(argv: list[str] | None = None) -> int:
    """Convert, compare with LiteRT, write.

    Raises:
        ConversionError: The .tflite file is not BlazeFace.
        ParityError: The converted network is farther from LiteRT than :data:`TOLERANCE`; nothing is written.
    """
    parser = argparse.ArgumentParser(prog="python -m quantize.blazeface_onnx", description=__doc__.splitlines()[0])
    parser.add_argument("tflite", type=Path)
    parser.add_argument("onnx", type=Path)
    arguments = parser.parse_args(argv)
    tflite = arguments.tflite.read_bytes()
    converted = convert(tflite)
    deviation = largest_deviation(tflite, converted)
    sys.stdout.write(f"largest deviation from LiteRT {deviation:.2e}, {len(converted)} bytes\n")
    if not deviation <= TOLERANCE:
        raise ParityError(f"expected a deviation of at most {TOLERANCE} from LiteRT, got {deviation}")
    arguments.onnx.write_bytes(converted)
    sys.stdout.write(f"sha256 {hashlib.sha256(converted).hexdigest()}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
