"""ONNX files: FP32, and INT8 as quantise-dequantise pairs from the network's INT8 grid."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, fx, nn

from quantize.bake import weight_codes
from quantize.errors import ConversionError
from quantize.files import complete_file
from quantize.grid import ActivationGrid, GridConv, grid_convs, grids
from quantize.students import Exportable, ExportModel

#: Version of the operator set. 18 is what torch's exporter writes without conversion; ONNX Runtime reads it from 1.14.
OPSET = 18


class _QuantizePair(nn.Module):
    """``QuantizeLinear`` and ``DequantizeLinear`` of an activation."""

    def __init__(self, source: ActivationGrid) -> None:
        super().__init__()
        self.register_buffer("scale", cast(Tensor, source.scale).detach().clone())
        self.register_buffer("zero_point", cast(Tensor, source.zero_point).detach().to(torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        arguments = (cast(Tensor, self.scale), cast(Tensor, self.zero_point))
        codes = torch.onnx.ops.symbolic("QuantizeLinear", (x, *arguments), dtype=torch.uint8, shape=x.shape)
        return torch.onnx.ops.symbolic("DequantizeLinear", (codes, *arguments), dtype=torch.float32, shape=x.shape)


class _CodedConv(nn.Module):
    """Convolution whose weights and bias are stored as int8 and int32 behind ``DequantizeLinear``."""

    def __init__(self, source: GridConv) -> None:
        super().__init__()
        conv, scale = source.conv, cast(Tensor, source.scale).detach()
        self.options = (conv.stride, conv.padding, conv.dilation, conv.groups)
        self.register_buffer("codes", torch.from_numpy(weight_codes(source)))
        self.register_buffer("scale", scale.clone())
        self.register_buffer("zero_point", torch.zeros_like(scale, dtype=torch.int8))
        # onnxruntime fuses to an integer kernel only when the bias lies on the grid of the accumulator.
        self.register_buffer("bias_scale", source.bias_step().detach())
        self.register_buffer("bias_codes", source.bias_codes())

    def forward(self, x: Tensor) -> Tensor:
        codes, bias = cast(Tensor, self.codes), cast(Tensor, self.bias_codes)
        weight = torch.onnx.ops.symbolic(
            "DequantizeLinear",
            (codes, cast(Tensor, self.scale), cast(Tensor, self.zero_point)),
            {"axis": 0},
            dtype=torch.float32,
            shape=codes.shape,
        )
        shift = torch.onnx.ops.symbolic(
            "DequantizeLinear",
            (bias, cast(Tensor, self.bias_scale)),
            {"axis": 0},
            dtype=torch.float32,
            shape=bias.shape,
        )
        stride, padding, dilation, groups = self.options
        return nn.functional.conv2d(
            x,
            weight,
            shift,
            cast("tuple[int, int]", stride),
            cast("tuple[int, int]", padding),
            cast("tuple[int, int]", dilation),
            groups,
        )


def export_onnx_fp32(model: Exportable, path: Path, size_px: int) -> Path:
    """Write the FP32 network.

    Args:
        model: Folded FP32 model.
        path: ``.onnx`` file; replaced in one step.
        size_px: Side of the input, S.

    Returns:
        ``path``. The model's inputs and outputs, such as ``rgb`` uint8 (N, S, S, 3) and ``score`` (N,), ``map``
        (N, m, m); N is free.

    Raises:
        ConversionError: The exporter refused the network.
    """
    return _export(model, path, size_px)


def export_onnx_int8(model: ExportModel, path: Path, size_px: int) -> Path:
    """Write a network on an INT8 grid, as quantise-dequantise pairs. The head stays in float.

    Args:
        model: As :func:`quantize.fitting.fit_grid` returns it.
        path: ``.onnx`` file; replaced in one step.
        size_px: Side of the input, S.

    Returns:
        ``path``; inputs and outputs as for :func:`export_onnx_fp32`.

    Raises:
        ConversionError: The model is on no grid, or the exporter refused it.
    """
    if not grids(model):
        raise ConversionError("export_onnx_int8 needs a model on an INT8 grid; call quantize.fitting.fit_grid first")
    result = copy.deepcopy(model)
    trunk = cast(fx.GraphModule, result.trunk)
    replaced: list[tuple[str, nn.Module]] = [(name, _CodedConv(conv)) for name, conv in grid_convs(result).items()]
    replaced += [(name, _QuantizePair(grid)) for name, grid in grids(result).items()]
    for name, module in replaced:
        trunk.set_submodule(name, module)
    return _export(result, path, size_px)


def _export(model: Exportable, path: Path, size_px: int) -> Path:
    example, batch = model.example(2, size_px), torch.export.Dim("n", min=1)
    with complete_file(path) as temporary:
        try:
            with _quiet():
                torch.onnx.export(
                    model.eval(),
                    tuple(example.values()),
                    str(temporary),
                    dynamo=True,
                    input_names=list(model.inputs),
                    output_names=list(model.outputs),
                    opset_version=OPSET,
                    dynamic_shapes={name: {0: batch} for name in example},
                    external_data=False,
                    verbose=False,
                )
            _strip(temporary)
        except Exception as error:  # the exporter raises whatever its passes raise
            raise ConversionError(f"torch cannot write {path.name} as ONNX: {_first_line(error)}") from error
    return path


def _strip(path: Path) -> None:
    """Take out what the exporter notes about the source code: a third of the file, with paths of this machine."""
    import onnx

    model = onnx.load(path)
    graph = model.graph
    for item in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        for field in ("metadata_props", "doc_string"):
            item.ClearField(field)
    graph.ClearField("value_info")
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints progress, and warns about its own insides."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        previous = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(previous)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
