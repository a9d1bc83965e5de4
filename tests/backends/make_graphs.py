"""Writes tiny OpenVINO and ONNX models: ``python make_graphs.py FOLDER``. A program, so that engines stay out of tests.

All compute, from uint8 pixels p of shape (N, 4, 4, 3): ``map = mean over colours of p / 255``, (N, 4, 4), and
``score = mean of map``, (N, 1).
"""

import sys
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
from onnx import TensorProto, helper, numpy_helper
from openvino import opset13 as op


def openvino_model(batch: int, stuck: bool = False) -> ov.Model:
    """With ``stuck`` the graph holds its batch size of 1 as a constant."""
    rgb = op.parameter([batch, 4, 4, 3], ov.Type.u8, name="rgb")
    rgb.output(0).tensor.set_names({"rgb", "pixels"})
    scaled = op.multiply(op.convert(rgb, "f32"), op.constant(np.float32(1 / 255)))
    pixel_map = op.reduce_mean(scaled, op.constant([3]), keep_dims=False)
    if stuck:
        pixel_map = op.reshape(pixel_map, op.constant([1, 4, 4]), special_zero=False)
    flat = op.reduce_mean(pixel_map, op.constant([1, 2]), keep_dims=False)
    score = op.unsqueeze(flat, op.constant([1]))
    pixel_map.output(0).tensor.set_names({"map"})
    score.output(0).tensor.set_names({"score"})
    return ov.Model([op.result(score), op.result(pixel_map)], [rgb], "tiny")


def openvino_two_inputs() -> ov.Model:
    """``score = mean(rgb) + mean(depth)``, depth being float32 (N, 2)."""
    rgb = op.parameter([-1, 2, 2, 3], ov.Type.u8, name="rgb")
    depth = op.parameter([-1, 2], ov.Type.f32, name="depth")
    rgb.output(0).tensor.set_names({"rgb"})
    depth.output(0).tensor.set_names({"depth"})
    total = op.add(
        op.reduce_mean(op.convert(rgb, "f32"), op.constant([1, 2, 3]), keep_dims=False),
        op.reduce_mean(depth, op.constant([1]), keep_dims=False),
    )
    total.output(0).tensor.set_names({"score"})
    return ov.Model([op.result(total)], [rgb, depth], "two")


def openvino_scalar() -> ov.Model:
    """A graph without a batch in its output."""
    rgb = op.parameter([1, 4, 4, 3], ov.Type.u8, name="rgb")
    rgb.output(0).tensor.set_names({"rgb"})
    score = op.reduce_mean(op.convert(rgb, "f32"), op.constant([0, 1, 2, 3]), keep_dims=False)
    score.output(0).tensor.set_names({"score"})
    return ov.Model([op.result(score)], [rgb], "scalar")


def onnx_model(batch: int | str, pixels: int = TensorProto.UINT8) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["rgb"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["real", "step"], ["scaled"]),
        helper.make_node("ReduceMean", ["scaled", "colours"], ["map"], keepdims=0),
        helper.make_node("ReduceMean", ["map", "places"], ["flat"], keepdims=0),
        helper.make_node("Unsqueeze", ["flat", "column"], ["score"]),
    ]
    constants = [
        numpy_helper.from_array(np.array(1 / 255, np.float32), "step"),
        numpy_helper.from_array(np.array([3]), "colours"),
        numpy_helper.from_array(np.array([1, 2]), "places"),
        numpy_helper.from_array(np.array([1]), "column"),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("rgb", pixels, [batch, 4, 4, 3])],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, [batch, 1]),
            helper.make_tensor_value_info("map", TensorProto.FLOAT, [batch, 4, 4]),
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def main(folder: Path) -> None:
    ov.save_model(openvino_model(1), folder / "tiny.xml", compress_to_fp16=False)
    ov.save_model(openvino_model(1, stuck=True), folder / "stuck.xml", compress_to_fp16=False)
    ov.save_model(openvino_two_inputs(), folder / "two.xml", compress_to_fp16=False)
    ov.save_model(openvino_scalar(), folder / "scalar.xml", compress_to_fp16=False)
    onnx.save(onnx_model("n"), folder / "tiny.onnx")
    onnx.save(onnx_model(1), folder / "fixed1.onnx")
    onnx.save(onnx_model(4), folder / "fixed4.onnx")
    onnx.save(onnx_model("n", TensorProto.INT8), folder / "int8.onnx")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
