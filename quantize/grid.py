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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, cast

from torch import fx, nn

from quantize.errors import ConversionError
from quantize.rounding import WEIGHT_CODE_MAX, ActivationGrid, GridConv
from quantize.students import ExportModel
from training.backbones import FEATHERNET_B, MOBILENETV4_CONV_S, PLAIN_SIZES

__all__ = [
    "ActivationGrid",
    "GridConfig",
    "GridConv",
    "LeadingFloat",
    "conv_names",
    "float_activations",
    "grid_convs",
    "grids",
    "in_float",
    "insert_grid",
    "is_addition",
    "release",
    "set_enabled",
]


@dataclass(frozen=True, slots=True)
class GridConfig:
    """How the grid is chosen.

    Attributes:
        weight_code_max: 63 (portable) or 127 (only for CPUs with VNNI, and ARM).
        activation_range: ``minmax``; ``mse``: the range whose squared rounding and clipping error is least; or
            ``percentile``: without the outermost values on either side.
        percentile: How many per cent of the values lie below the end of the range, and as many above its beginning.
        weight_range: ``minmax`` or ``mse``, per output channel.
        bias_correction: Shift each bias so that the mean of each channel is that of the FP32 network.
        float_convs: Names of convolutions (as in the folded trunk) that stay in float.
    """

    weight_code_max: int = WEIGHT_CODE_MAX
    activation_range: str = "minmax"
    percentile: float = 99.99
    weight_range: str = "minmax"
    bias_correction: bool = True
    float_convs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        ranges = {"minmax", "mse"}
        if self.activation_range not in ranges | {"percentile"} or self.weight_range not in ranges:
            raise ValueError(f"ranges must be one of {sorted(ranges)}, or percentile of activations, got {self!r}")
        if not 50 < self.percentile <= 100:
            raise ValueError(f"percentile must lie above 50 and be at most 100, got {self.percentile}")
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


_LEADING: dict[str, LeadingFloat] = {
    **dict.fromkeys(PLAIN_SIZES, LeadingFloat(1, 2)),
    MOBILENETV4_CONV_S: LeadingFloat(1, 3),
    FEATHERNET_B: LeadingFloat(2, 5),
}


def in_float(trunk: str) -> LeadingFloat:
    """What stays in float in the models that are published.

    Args:
        trunk: Name of the network's trunk.

    Returns:
        Of networks with depthwise convolutions the weights of stem and first depthwise convolution (3 kB), and all up
        to the first layer of stride 8; the last digits in which engines differ arise there. Of plain convolutions the
        weights of the first, which reads the picture, and the first two: with activations that end
        (:func:`quantize.equalise.bound`) that changes fewer decisions than the first three did without
        (docs/results.md). One is enough for edge-rgb, not for rfmeta. MobileNetV4 and FeatherNet, not
        measured on weights of their own yet: all up to the first layer of stride 8, which is three and five.
    """
    return _LEADING.get(trunk, LeadingFloat(2, 10))


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
        model: As :func:`quantize.fitting.fit_grid` returns it.
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
