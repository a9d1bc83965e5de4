"""Choosing the INT8 grid: ranges from calibration pictures, and biases that make up for what rounding shifts."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import Tensor, fx, nn

from fasedge.types import UInt8Array
from quantize.grid import GridConfig, grid_convs, grids, insert_grid, set_enabled
from quantize.pictures import parts
from quantize.rounding import ActivationGrid, GridConv
from quantize.students import ExportModel

_CLIP_STEPS = 40
_SAMPLES_PER_BATCH = 10_000
_CORRECTION_CROPS = 96


def fit_grid(model: ExportModel, crops: UInt8Array, config: GridConfig, *, batch: int = 32) -> ExportModel:
    """Choose the INT8 grid of a model.

    Args:
        model: Folded FP32 model; not changed.
        crops: Calibration pictures, uint8 (n, S, S, C).
        config: How the grid is chosen.
        batch: Crops per forward pass.

    Returns:
        A copy on the grid. Differentiable (straight-through), so it can be fine-tuned as it is.

    Raises:
        ConversionError: See :func:`insert_grid`.
    """
    result = insert_grid(model, config)
    for conv in grid_convs(result).values():
        if config.weight_range == "mse":
            _fit_weight_scale(conv)
    set_enabled(result, False)
    _fit_activations(result, crops, config, batch)
    set_enabled(result, True)
    for conv in grid_convs(result).values():
        conv.fit_bias()
    if config.bias_correction:
        correct_biases(result, crops)
    return result


def _fit_activations(model: ExportModel, crops: UInt8Array, config: GridConfig, batch: int) -> None:
    samples: dict[str, list[Tensor]] = {name: [] for name in grids(model)}
    generator = torch.Generator().manual_seed(0)

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor], _output: Tensor) -> None:
            flat = inputs[0].detach().flatten()
            index = torch.randint(flat.numel(), (min(_SAMPLES_PER_BATCH, flat.numel()),), generator=generator)
            samples[name].append(torch.cat([flat[index], flat.min()[None], flat.max()[None]]))

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in grids(model).items()]
    try:
        with torch.no_grad():
            for part in parts(crops, batch):
                model.features(torch.from_numpy(part))
    finally:
        for handle in handles:
            handle.remove()
    for name, module in grids(model).items():
        values = torch.cat(samples[name])
        low, high = float(values.min()), float(values.max())
        if config.activation_range == "mse":
            low, high = _least_squares_range(values, low, high)
        elif config.activation_range == "percentile":
            # Without the extremes of each part: one in ten thousand is not their share.
            drawn = torch.cat([part[:-2] for part in samples[name]])
            low, high = percentile_range(drawn, config.percentile)
        module.set_range(low, high)


def percentile_range(values: Tensor, percentile: float) -> tuple[float, float]:
    """The range that leaves out ``100 - percentile`` per cent of the values on either side."""
    share = percentile / 100
    low, high = np.quantile(values.numpy(), [1 - share, share])
    return float(low), float(high)


def _least_squares_range(values: Tensor, low: float, high: float) -> tuple[float, float]:
    """The shrunken ``[low, high]`` with the least squared error of rounding and clipping."""
    low, high = min(low, 0.0), max(high, 0.0)
    best, best_error = (low, high), float("inf")
    grid = ActivationGrid()
    for step in range(_CLIP_STEPS):
        ratio = 1.0 - step / (2 * _CLIP_STEPS)
        grid.set_range(low * ratio, high * ratio)
        error = float(((grid(values) - values) ** 2).mean())
        if error < best_error:
            best, best_error = (low * ratio, high * ratio), error
    return best


def _fit_weight_scale(conv: GridConv) -> None:
    """Per channel, the scale with the least squared error of the weights."""
    scale = cast(Tensor, conv.scale)
    peak_scale, best = scale.clone(), scale.clone()
    weight = conv.conv.weight.detach()
    best_error = torch.full_like(scale, float("inf"))
    for step in range(_CLIP_STEPS):
        scale.copy_(peak_scale * (1.0 - step / (2 * _CLIP_STEPS)))
        error = ((conv.rounded_weight().detach() - weight) ** 2).sum(dim=(1, 2, 3))
        better = error < best_error
        best, best_error = torch.where(better, scale, best), torch.where(better, error, best_error)
    scale.copy_(best)


def correct_biases(model: ExportModel, crops: UInt8Array) -> None:
    """Shift the bias of each convolution so that its channel means are those of the FP32 network. In place.

    Both networks run side by side, node by node, so that each correction sees the ones before it.

    Args:
        model: A model on a grid; its own float weights are the reference.
        crops: Calibration pictures, uint8 (n, S, S, C); at most 96 of them are used.

    Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019,
    section 4.2, with measured instead of computed expectations (appendix D there).
    """
    trunk = cast(fx.GraphModule, model.trunk)
    step = max(1, len(crops) // _CORRECTION_CROPS)
    with torch.no_grad():
        streams = iter(model.streams(torch.from_numpy(np.ascontiguousarray(crops[::step][:_CORRECTION_CROPS]))))
        float_values: dict[fx.Node, Tensor] = {}
        grid_values: dict[fx.Node, Tensor] = {}
        unread = {node: len(node.users) for node in trunk.graph.nodes}
        for node in trunk.graph.nodes:
            if node.op == "output":
                break
            if node.op == "placeholder":
                x = next(streams)
                float_values[node], grid_values[node] = x.clone(), x.clone()
                continue
            set_enabled(model, False)
            float_values[node] = _run_node(trunk, node, float_values)
            set_enabled(model, True)
            grid_values[node] = _run_node(trunk, node, grid_values)
            module = trunk.get_submodule(str(node.target)) if node.op == "call_module" else None
            if isinstance(module, GridConv):
                shift = (float_values[node] - grid_values[node]).mean(dim=(0, 2, 3))
                _shift_bias(module.conv, shift)
                grid_values[node] = grid_values[node] + shift[:, None, None]
            for source in node.all_input_nodes:
                unread[source] -= 1
                if unread[source] == 0:
                    del float_values[source], grid_values[source]


def _run_node(trunk: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Tensor]) -> Tensor:
    arguments = fx.node.map_arg(node.args, lambda source: values[source])
    keywords = fx.node.map_arg(node.kwargs, lambda source: values[source])
    call = trunk.get_submodule(str(node.target)) if node.op == "call_module" else node.target
    return cast("Callable[..., Tensor]", call)(*arguments, **keywords)


def _shift_bias(conv: nn.Conv2d, shift: Tensor) -> None:
    if conv.bias is None:
        conv.bias = nn.Parameter(shift, requires_grad=False)
    else:
        conv.bias.data.add_(shift)
