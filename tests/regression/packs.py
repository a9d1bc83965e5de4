"""The packs of the regression tests, read once, and a mistake that LiteRT files can have."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from quantize.pack import EvaluationPack

HERE = Path(__file__).parent


@cache
def evaluation_pack() -> EvaluationPack:
    """What files are scored on: people of the test split."""
    return EvaluationPack.load(HERE / "evaluation_pack.npz", HERE / "evaluation_depth.npz")


@cache
def calibration_pack() -> EvaluationPack:
    """What networks of full size are quantised on: people of the train split."""
    return EvaluationPack.load(HERE / "calibration_pack.npz", HERE / "calibration_depth.npz")


def with_coarser_weights(source: Path, target: Path, factor: float) -> Path:
    """Write a LiteRT file anew whose middle convolution has weights with steps of so many times their size."""
    content = bytearray(source.read_bytes())
    network = schema.Model.GetRootAs(content, 0)
    graph = network.Subgraphs(0)
    operators = [graph.Operators(i) for i in range(graph.OperatorsLength())]
    weights = [
        graph.Tensors(operator.Inputs(1))
        for operator in operators
        if network.OperatorCodes(operator.OpcodeIndex()).BuiltinCode() == schema.BuiltinOperator.CONV_2D
    ]
    rounded = [weight for weight in weights if weight.Type() == schema.TensorType.INT8]
    steps = rounded[len(rounded) // 2].Quantization().ScaleAsNumpy()
    steps *= np.float32(factor)  # a view of the content
    target.write_bytes(content)
    return target
