"""One quantisation for all engines: which values the network may take, decided once, in torch.

Each engine's own quantiser chooses its own ranges, so three INT8 files of the same network are three different
networks whose scores drift apart. Here the INT8 grid (a scale per weight channel, a scale and a zero point per
activation, biases on the grid of the accumulator) is fixed once on the folded FP32 network; the converters only carry
it over. What remains between two engines is the rounding of ties.

The placement follows what integer kernels do: the picture after normalisation, the output of every convolution with
its ReLU6, the output of every addition. The head after the trunk stays in float.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, fx, nn

from fasedge.types import UInt8Array
from quantize.errors import ConversionError
from quantize.rounding import WEIGHT_CODE_MAX, ActivationGrid, GridConv
from quantize.students import ExportModel
from training.backbones import PLAIN_SIZES

__all__ = [
    "ActivationGrid",
    "GridConfig",
    "GridConv",
    "LeadingFloat",
    "batches",
    "conv_names",
    "correct_biases",
    "fit_grid",
    "float_activations",
    "grid_convs",
    "grids",
    "in_float",
    "insert_grid",
    "is_addition",
    "release",
    "set_enabled",
]

_CLIP_STEPS = 40
_SAMPLES_PER_BATCH = 10_000
_CORRECTION_CROPS = 96


@dataclass(frozen=True, slots=True)
class GridConfig:
    """How the grid is chosen.

    Attributes:
        weight_code_max: 63 (portable) or 127 (only for CPUs with VNNI, and ARM).
        activation_range: ``minmax``, or ``mse``: the range whose squared rounding and clipping error is least.
        weight_range: Likewise, per output channel.
        bias_correction: Shift each bias so that the mean of each channel is that of the FP32 network.
        float_convs: Names of convolutions (as in the folded trunk) that stay in float.
    """

    weight_code_max: int = WEIGHT_CODE_MAX
    activation_range: str = "minmax"
    weight_range: str = "minmax"
    bias_correction: bool = True
    float_convs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        ranges = {"minmax", "mse"}
        if self.activation_range not in ranges or self.weight_range not in ranges:
            raise ValueError(f"ranges must be one of {sorted(ranges)}, got {self!r}")
        if self.weight_code_max not in (63, 127):
            raise ValueError(f"weight_code_max must be 63 or 127, got {self.weight_code_max}")


class LeadingFloat(NamedTuple):
    """How many convolutions at the start of a network stay in float. What is rounded early moves the score most.

    Attributes:
        weights: Their weights are not rounded either.
        convs: They compute in float in the INT8 files.
    """

    weights: int
    convs: int


def in_float(trunk: str) -> LeadingFloat:
    """What stays in float in the models that are published.

    Args:
        trunk: Name of the network's trunk.

    Returns:
        Of networks with depthwise convolutions the weights of stem and first depthwise convolution (3 kB), and all up
        to the first layer of stride 8; the last digits in which engines differ arise there. Of plain convolutions the
        weights of the first, which reads the picture, and the first two (11 kB; edge-rgb 0.2.0 changes 0.55 % of its
        decisions with one and 0.35 % with two).
    """
    return LeadingFloat(1, 2) if trunk in PLAIN_SIZES else LeadingFloat(2, 10)


def insert_grid(model: ExportModel, config: GridConfig) -> ExportModel:
    """Copy of an export model whose trunk is on a grid, ranges not chosen yet.

    Args:
        model: Folded FP32 model; not changed.
        config: How the grid will be chosen.

    Raises:
        ConversionError: The trunk holds a batch normalisation that could not be folded, or an operation between
            convolutions for which no integer kernel is known.
    """
    result = copy.deepcopy(model)
    trunk = result.trunk
    if not isinstance(trunk, fx.GraphModule):
        raise ConversionError(f"expected a folded trunk (fx.GraphModule), got {type(trunk).__name__}")
    modules = dict(trunk.named_modules())
    unknown = set(config.float_convs) - {n for n, m in modules.items() if isinstance(m, nn.Conv2d)}
    if unknown:
        raise ConversionError(f"float_convs names no convolution of the trunk: {sorted(unknown)}")
    count = 0
    for node in list(trunk.graph.nodes):
        kind = _kind(node, modules)
        if kind == "conv" and str(node.target) not in config.float_convs:
            trunk.set_submodule(
                str(node.target), GridConv(cast(nn.Conv2d, modules[str(node.target)]), config.weight_code_max)
            )
        if not _needs_grid(node, kind, modules, config):
            continue
        name = f"grid_{count}"
        count += 1
        trunk.add_submodule(name, ActivationGrid())
        with trunk.graph.inserting_after(node):
            grid = trunk.graph.call_module(name, (node,))
        node.replace_all_uses_with(grid, delete_user_cb=lambda user, grid=grid: user is not grid)
    trunk.recompile()
    for name, source in _sources(result).items():
        grid_convs(result)[name].reads(source)
    return result


def _sources(model: ExportModel) -> dict[str, ActivationGrid]:
    """Grid of the values that each rounded convolution reads, looking through padding."""
    trunk = cast(fx.GraphModule, model.trunk)
    convs, points, result = grid_convs(model), grids(model), {}
    for node in trunk.graph.nodes:
        if str(node.target) not in convs:
            continue
        source = node.args[0]
        while str(source.target) not in points:
            source = source.all_input_nodes[0]
        result[str(node.target)] = points[str(source.target)]
    return result


def _kind(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    """Role of a graph node: ``input``, ``conv``, ``relu``, ``add``, ``pass`` (moves values only) or ``output``."""
    if node.op in ("placeholder", "output"):
        return "input" if node.op == "placeholder" else "output"
    module = modules.get(str(node.target)) if node.op == "call_module" else None
    if isinstance(module, nn.Conv2d):
        return "conv"
    if isinstance(module, (nn.ReLU6, nn.ReLU)) or node.target in (nn.functional.relu6, nn.functional.relu):
        return "relu"
    if isinstance(module, (nn.ZeroPad2d, nn.Identity)) or node.target is nn.functional.pad:
        return "pass"
    if is_addition(node):
        return "add"
    what = type(module).__name__ if module is not None else node.target
    raise ConversionError(
        f"the trunk holds {what} at {node.name!r}; the INT8 grid knows convolutions, ReLU, ReLU6, zero padding and "
        "additions (a batch normalisation here means that it does not follow a convolution and could not be folded)"
    )


def is_addition(node: fx.Node) -> bool:
    """Whether a graph node adds tensors."""
    return getattr(node.target, "__name__", "") in ("add", "iadd")


def _needs_grid(node: fx.Node, kind: str, modules: dict[str, nn.Module], config: GridConfig) -> bool:
    users = list(node.users)
    if kind in ("pass", "output"):
        return False
    if kind == "conv" and len(users) == 1 and _kind(users[0], modules) == "relu":
        return False  # the kernel applies the activation before it rounds
    return not all(_reads_float(user, modules, config) for user in users)


def _reads_float(user: fx.Node, modules: dict[str, nn.Module], config: GridConfig) -> bool:
    """Whether a reader takes float anyway, so that rounding for it would be waste."""
    if user.op == "output":
        return False  # the head reads float, but the integer kernel before it still writes codes
    kind = _kind_of_grid(user, modules)
    if kind in ("pass", "add", "grid"):
        # An addition computes in float where nothing but float reads the sum.
        return bool(user.users) and all(_reads_float(reader, modules, config) for reader in user.users)
    return kind == "conv" and str(user.target) in config.float_convs


def _kind_of_grid(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    if str(node.target).startswith("grid_"):
        return "grid"
    module = modules.get(str(node.target)) if node.op == "call_module" else None
    return "conv" if isinstance(module, GridConv) else _kind(node, modules)


def release(model: ExportModel, convs: Sequence[str]) -> ExportModel:
    """Copy of a model on a grid in which further convolutions compute in float, with the same rounded weights.

    Args:
        model: As :func:`fit_grid` returns it.
        convs: Names of convolutions; those that are in float already stay so.

    Returns:
        A model that is nearer to the one with float activations: grids that only these convolutions read are gone.

    Raises:
        ConversionError: A name is of no convolution.
    """
    result = copy.deepcopy(model)
    unknown = set(convs) - set(conv_names(result))
    if unknown:
        raise ConversionError(f"no convolution of the trunk has these names: {sorted(unknown)}")
    trunk = cast(fx.GraphModule, result.trunk)
    for name, conv in grid_convs(result).items():
        if name in convs:
            trunk.set_submodule(name, conv.plain())
    modules = dict(trunk.named_modules())
    in_float = tuple(name for name in conv_names(result) if isinstance(modules[name], nn.Conv2d))
    config = GridConfig(float_convs=in_float)
    for node in list(trunk.graph.nodes):
        if _kind_of_grid(node, modules) == "grid" and all(_reads_float(user, modules, config) for user in node.users):
            node.replace_all_uses_with(node.args[0])
            trunk.graph.erase_node(node)
            trunk.delete_submodule(str(node.target))
    trunk.recompile()
    return result


def conv_names(model: ExportModel, leading: int | None = None) -> list[str]:
    """Names of the trunk's convolutions, in order of execution.

    Args:
        model: A folded model, on a grid or not.
        leading: Only that many behind each input of the trunk.
    """
    trunk = cast(fx.GraphModule, model.trunk)
    behind: dict[fx.Node, fx.Node] = {}
    found: dict[fx.Node, list[str]] = {}
    names = []
    for node in trunk.graph.nodes:
        if node.op == "placeholder":
            behind[node], found[node] = node, []
        elif node.op != "output" and node.all_input_nodes:
            start = behind[node] = behind[node.all_input_nodes[0]]
            if node.op == "call_module" and isinstance(trunk.get_submodule(str(node.target)), (nn.Conv2d, GridConv)):
                found[start].append(str(node.target))
                if leading is None or len(found[start]) <= leading:
                    names.append(str(node.target))
    return names


def grids(model: ExportModel) -> dict[str, ActivationGrid]:
    """Activation grids of a model by name, in order of execution."""
    trunk = cast(fx.GraphModule, model.trunk)
    found = ((str(n.target), trunk.get_submodule(str(n.target))) for n in trunk.graph.nodes if n.op == "call_module")
    return {name: module for name, module in found if isinstance(module, ActivationGrid)}


def grid_convs(model: ExportModel) -> dict[str, GridConv]:
    """Rounded convolutions of a model by name, in order of execution."""
    trunk = cast(fx.GraphModule, model.trunk)
    found = ((str(n.target), trunk.get_submodule(str(n.target))) for n in trunk.graph.nodes if n.op == "call_module")
    return {name: module for name, module in found if isinstance(module, GridConv)}


def set_enabled(model: ExportModel, enabled: bool) -> None:
    """Switch all rounding on or off."""
    for module in model.modules():
        if isinstance(module, (ActivationGrid, GridConv)):
            module.enabled = enabled


@contextmanager
def float_activations(model: ExportModel) -> Iterator[None]:
    """Within this context the activations of a model stay in float; its weights are rounded as before."""
    switched = [grid for grid in grids(model).values() if grid.enabled]
    for grid in switched:
        grid.enabled = False
    try:
        yield
    finally:
        for grid in switched:
            grid.enabled = True


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


def batches(crops: UInt8Array, batch: int) -> Iterator[Tensor]:
    """Crops in their order, ``batch`` at a time, as tensors."""
    for start in range(0, len(crops), batch):
        yield torch.from_numpy(np.ascontiguousarray(crops[start : start + batch]))


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
            for rgb in batches(crops, batch):
                model.features(rgb)
    finally:
        for handle in handles:
            handle.remove()
    for name, module in grids(model).items():
        values = torch.cat(samples[name])
        low, high = float(values.min()), float(values.max())
        if config.activation_range == "mse":
            low, high = _least_squares_range(values, low, high)
        module.set_range(low, high)


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
