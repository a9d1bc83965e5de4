"""From a network on the INT8 grid to the forms that converters can read."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from fasedge.types import FloatArray, UInt8Array
from quantize.grid import grid_convs, grids, is_addition
from quantize.rounding import ACTIVATION_CODE_MAX, ActivationGrid, GridConv
from quantize.students import Exportable, ExportModel


class NamedOutputs(nn.Module):
    """An export model whose outputs carry their names: converters take them from the dictionary's keys."""

    def __init__(self, model: Exportable) -> None:
        super().__init__()
        self.model = model

    def forward(self, rgb: Tensor, depth: Tensor | None = None) -> dict[str, Tensor]:
        """The model's inputs, by their names, to its outputs."""
        found = self.model(rgb) if depth is None else self.model(rgb, depth)
        return dict(zip(self.model.outputs, found, strict=True))


class CodeConv(nn.Module):
    """A convolution that holds int8 codes and multiplies them by their scale: OpenVINO keeps this form in the file.

    Args:
        source: The rounded convolution.
    """

    def __init__(self, source: GridConv) -> None:
        super().__init__()
        self.conv = source.plain()
        self.register_buffer("codes", torch.from_numpy(weight_codes(source)))
        self.register_buffer("step", cast(Tensor, source.scale).detach().clone()[:, None, None, None])
        del self.conv.weight

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        weight = cast(Tensor, self.codes).to(torch.float32) * cast(Tensor, self.step)
        conv = self.conv
        return nn.functional.conv2d(
            x,
            weight,
            conv.bias,
            cast("tuple[int, int]", conv.stride),
            cast("tuple[int, int]", conv.padding),
            cast("tuple[int, int]", conv.dilation),
            conv.groups,
        )


class FixedGrid(nn.Module):
    """An activation grid with constants instead of buffers: graph capture cannot read a buffer's value.

    Args:
        source: The grid.
    """

    def __init__(self, source: ActivationGrid) -> None:
        super().__init__()
        self.scale = float(cast(Tensor, source.scale))
        self.zero_point = int(cast(Tensor, source.zero_point))

    def forward(self, x: Tensor) -> Tensor:
        """Round to the grid; same shape."""
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, 0, ACTIVATION_CODE_MAX)


class SpelledGrid(nn.Module):
    """An activation grid as plain arithmetic: no engine takes it for something that may be left out.

    Args:
        source: The grid.
    """

    def __init__(self, source: ActivationGrid) -> None:
        super().__init__()
        self.scale = float(cast(Tensor, source.scale))
        zero_point = int(cast(Tensor, source.zero_point))
        self.lowest, self.highest = -zero_point, ACTIVATION_CODE_MAX - zero_point

    def forward(self, x: Tensor) -> Tensor:
        """Round to the grid; same shape."""
        return torch.round(x * (1.0 / self.scale)).clamp(self.lowest, self.highest) * self.scale


def weight_codes(conv: GridConv) -> NDArray[np.int8]:
    """The integer codes of a convolution's weights, shape of the weights."""
    scale = cast(Tensor, conv.scale)[:, None, None, None]
    return np.asarray(torch.round(conv.rounded_weight().detach() / scale).to(torch.int8).numpy(), np.int8)


def with_plain_convs(model: ExportModel) -> ExportModel:
    """Copy with ordinary convolutions that hold the rounded weights, and constant activation grids."""
    result = _with_fixed_grids(model)
    trunk = cast(fx.GraphModule, result.trunk)
    for name, module in grid_convs(result).items():
        trunk.set_submodule(name, module.plain())
    return result


def with_code_convs(model: ExportModel) -> ExportModel:
    """Copy with convolutions that hold int8 codes, and constant activation grids: the form for OpenVINO.

    Between a convolution and a residual addition the rounding is spelled out. There OpenVINO fuses convolution,
    ``FakeQuantize`` and addition into one kernel, which adds the values before they are rounded.
    """
    result = _with_fixed_grids(model)
    trunk = cast(fx.GraphModule, result.trunk)
    for name in _before_additions(model):
        trunk.set_submodule(name, SpelledGrid(grids(model)[name]))
    for name, module in grid_convs(result).items():
        trunk.set_submodule(name, CodeConv(module))
    return result


def _before_additions(model: ExportModel) -> list[str]:
    """Names of the grids that only an addition reads."""
    trunk, known = cast(fx.GraphModule, model.trunk), grids(model)
    return [
        str(node.target)
        for node in trunk.graph.nodes
        if str(node.target) in known and all(is_addition(user) for user in node.users)
    ]


def _with_fixed_grids(model: ExportModel) -> ExportModel:
    result = copy.deepcopy(model)
    trunk = cast(fx.GraphModule, result.trunk)
    for name, module in grids(result).items():
        trunk.set_submodule(name, FixedGrid(module))
    return result


def without_activation_grids(model: ExportModel) -> ExportModel:
    """Copy with rounded weights and float activations: what a converter gets that inserts the activations itself."""
    result = copy.deepcopy(model)
    trunk = cast(fx.GraphModule, result.trunk)
    for name, module in grid_convs(result).items():
        trunk.set_submodule(name, module.plain())
    for grid in grids(result).values():
        grid.enabled = False
    return result


@dataclass(frozen=True, slots=True, eq=False)
class GridPoint:
    """A place of the network where values are rounded.

    Attributes:
        name: Name of the grid.
        low: Value of code 0.
        high: Value of code 255.
        conv: Name of the convolution that writes here; ``None`` for an addition or the input.
        code_peak: float32 (out,), largest absolute weight code of that convolution per output channel; ``None``
            likewise, or when it stays in float.
        weight_scale: float32 (out,), step of the weights; ``None`` likewise.
        values: float32 (1, C, h, w), what a sample picture gives here without rounding of activations.
    """

    name: str
    low: float
    high: float
    conv: str | None
    code_peak: FloatArray | None
    weight_scale: FloatArray | None
    values: FloatArray


def grid_points(model: ExportModel, sample: UInt8Array) -> list[GridPoint]:
    """Describe all grids of a model, in order of execution.

    Args:
        model: A model on a grid.
        sample: One picture, uint8 (1, S, S, C), by whose values the places can be found again in a converted file.
    """
    probe = without_activation_grids(model)
    seen: dict[str, FloatArray] = {}
    handles = [
        module.register_forward_hook(
            lambda _m, inputs, _o, name=name: seen.__setitem__(name, inputs[0].detach().numpy().copy())
        )
        for name, module in grids(probe).items()
    ]
    with torch.no_grad():
        probe.features(torch.from_numpy(sample))
    for handle in handles:
        handle.remove()
    convs, writers = grid_convs(model), _writers(model)
    points = []
    for name, grid in grids(model).items():
        low, high = grid.limits
        conv = writers[name]
        peak, scale = None, None
        if conv in convs:
            peak = np.abs(weight_codes(convs[conv])).max(axis=(1, 2, 3)).astype(np.float32)
            scale = cast(Tensor, convs[conv].scale).detach().numpy().copy()
        points.append(GridPoint(name, low, high, conv, peak, scale, seen[name]))
    return points


def _writers(model: ExportModel) -> dict[str, str | None]:
    """Name of each grid to the convolution before it, looking through activations."""
    trunk = cast(fx.GraphModule, model.trunk)
    result: dict[str, str | None] = {}
    for node in trunk.graph.nodes:
        if node.op != "call_module" or not isinstance(trunk.get_submodule(str(node.target)), ActivationGrid):
            continue
        source = node.args[0]
        found: str | None = None
        while isinstance(source, fx.Node) and source.op != "placeholder" and len(source.all_input_nodes) == 1:
            if source.op == "call_module":
                module = trunk.get_submodule(str(source.target))
                if isinstance(module, ActivationGrid):
                    break
                if isinstance(module, (GridConv, nn.Conv2d)):
                    found = str(source.target)
                    break
            source = source.all_input_nodes[0]
        result[str(node.target)] = found
    return result
