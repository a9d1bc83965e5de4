"""Writes tiny .tflite models: ``python make_tflite.py FOLDER``. A program, so that torch and jax stay out of the tests.

All compute, from float values p of shape (N, 8, 8, 3): ``map = relu(W · p / 255)``, (N, 8, 8, 1), a 1x1 convolution
with the weights below, and ``score = mean of map``, (N, 1).

* ``float.tflite``, ``int8.tflite``: a batch size of 1, as the converter makes them;
* ``free.tflite``, ``free_int8.tflite``: the batch size declared as free;
* ``lying.tflite``: the batch size declared as free, but constant inside the graph.
"""

import sys
from pathlib import Path

import flatbuffers
import litert_torch
import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_quantizer import calibrator, quantizer, recipe
from ai_edge_quantizer.utils import qsv_utils

WEIGHTS = (0.5, 0.25, -0.125)


class Tiny(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.nn.Conv2d(3, 1, 1, bias=False)
        self.mix.weight.data = torch.tensor(WEIGHTS).view(1, 3, 1, 1) / 255

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        score_map = torch.relu(self.mix(pixels))
        return score_map.mean((2, 3)), score_map


def quantize(source: Path, target: Path) -> None:
    pictures = np.random.default_rng(0).uniform(0, 255, (16, 8, 8, 3)).astype(np.float32)
    pictures[0, ..., :2], pictures[0, ..., 2], pictures[1] = 255, 0, 0  # the extremes
    quant = quantizer.Quantizer(str(source))
    quant.load_quantization_recipe(recipe.static_wi8_ai8())
    calib = calibrator.Calibrator(str(source), num_threads=1, qsv_update_func=qsv_utils.min_max_update)
    calib.calibrate({"serving_default": [{"args_0": p[None]} for p in pictures]}, quant._recipe_manager)
    quant.quantize(calib.get_model_qsvs()).export_model(str(target), overwrite=True)


def free_the_batch(source: Path, target: Path, *, constants: bool) -> None:
    """Declare the batch as free; with ``constants`` also in the target shapes of reshapes, so that it really is."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(source.read_bytes()), 0))
    graph = model.subgraphs[0]
    for tensor in graph.tensors:
        if model.buffers[tensor.buffer].data is None and len(tensor.shape) > 0 and tensor.shape[0] == 1:
            tensor.shapeSignature = [-1, *list(tensor.shape)[1:]]
    for operator in graph.operators:
        kind = model.operatorCodes[operator.opcodeIndex].builtinCode
        if constants and kind == schema.BuiltinOperator.RESHAPE:
            buffer = model.buffers[graph.tensors[operator.inputs[1]].buffer]
            shape = np.frombuffer(bytes(buffer.data), np.int32).copy()
            shape[0] = -1
            buffer.data = np.frombuffer(shape.tobytes(), np.uint8)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    target.write_bytes(bytes(builder.Output()))


def main(folder: Path) -> None:
    module = litert_torch.to_channel_last_io(Tiny().eval(), args=[0], outputs=[1]).eval()
    litert_torch.convert(module, (torch.zeros(1, 8, 8, 3),)).export(str(folder / "float.tflite"))
    quantize(folder / "float.tflite", folder / "int8.tflite")
    free_the_batch(folder / "float.tflite", folder / "free.tflite", constants=True)
    free_the_batch(folder / "int8.tflite", folder / "free_int8.tflite", constants=True)
    free_the_batch(folder / "float.tflite", folder / "lying.tflite", constants=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
