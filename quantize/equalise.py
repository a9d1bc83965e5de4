"""Channels of one tensor brought nearer to one range, and activations that end where hardly any value is larger.

An activation grid has one step for all channels of a tensor, and for all its values. Where one channel is fifty times
wider than another, the narrow one is left with a handful of codes; where one value in ten thousand is three times the
others, all of them have steps three times as wide.

**Equalised**: between linear layers a channel may be scaled by any factor if what reads it is scaled back; a ReLU lets
positive factors through. Tensors that are added to each other share their factors. The function stays the same.

**Bounded**: a ReLU that convolutions alone read becomes a ReLU6, scaled so that 6 is where the tail begins. That is
another function, slightly: it is the same in FP32 and in INT8 though, where the end of the grid clips anyway.

Sources: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.1,
applied to measured activation ranges, and across residual additions; Xiao et al., "SmoothQuant", ICML 2023, equation 4
(the square root: half of the difference is left to the activations, so that weights keep steps too).
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, fx, nn

from fasedge.types import UInt8Array
from quantize.errors import ConversionError
from quantize.grid import is_addition
from quantize.pictures import parts
from quantize.students import ExportModel

#: No channel is widened by more than this: a channel that hardly moves would only amplify rounding of its writer.
MAX_FACTOR = 64.0
#: Of the values of a channel behind a ReLU, how many may lie beyond what counts as its range, and beyond the bound.
TAIL = 1e-4
_BOUND = 6.0
_SMALLEST_RANGE = 1e-6


@dataclass(slots=True, eq=False)
class _Group:
    """Tensors that have to share their factors.

    Attributes:
        writers: Convolutions that write them.
        readers: Convolutions that read them.
        tensors: The tensors whose ranges count: behind the ReLU where there is one.
        relus: ReLUs between them.
        fixed: Whether something else reads or writes one of them.
    """

    writers: list[nn.Conv2d] = field(default_factory=list)
    readers: list[nn.Conv2d] = field(default_factory=list)
    tensors: list[fx.Node] = field(default_factory=list)
    relus: list[fx.Node] = field(default_factory=list)
    fixed: bool = False

    @property
    def free(self) -> bool:
        """Whether its channels may be scaled."""
        return not self.fixed and bool(self.writers) and bool(self.readers)

    @property
    def tail(self) -> float:
        """Share of the values that do not count for the range of a channel."""
        return TAIL if self.relus else 0.0

    @torch.no_grad()
    def scale(self, factors: Tensor) -> None:
        """Multiply what is written by ``factors``, (C,), and divide what is read."""
        for writer in self.writers:
            writer.weight.mul_(factors[:, None, None, None])
            if writer.bias is not None:
                writer.bias.mul_(factors)
        for reader in self.readers:
            # A depthwise filter has its channel first, any other convolution second.
            reader.weight.div_(factors.view((-1, 1, 1, 1) if reader.groups > 1 else (1, -1, 1, 1)))


def equalise(model: ExportModel, crops: UInt8Array, *, batch: int = 32) -> ExportModel:
    """Scale the channels of the trunk's tensors so that their ranges are more alike; the outputs stay the same.

    Channels of a linear tensor get the range of the widest one. Behind a ReLU, where the range is what all but
    :data:`TAIL` of the values stay below, they get the geometric mean of that and their own. A tensor is left alone
    where something other than a convolution, an addition or a ReLU reads or writes it: a ReLU6 bends at a fixed value,
    and the head compares the trunk's features as they are.

    Args:
        model: Folded FP32 model; not changed.
        crops: Pictures on which ranges are measured, uint8 (n, S, S, C).
        batch: Crops per forward pass.

    Returns:
        A copy with other weights and the same outputs.

    Raises:
        ConversionError: The trunk is not folded.
    """
    result, groups = _copy_and_groups(model)
    for group, peak in zip(groups, _ranges(result, groups, crops, batch), strict=True):
        factors = widening(peak)
        group.scale(factors.sqrt() if group.relus else factors)
    return result


def widening(peak: Tensor) -> Tensor:
    """What channels have to be multiplied by to have the range of the widest one, from their ranges: both (C,)."""
    return (peak.max() / peak.clamp(min=_SMALLEST_RANGE)).clamp(1.0, MAX_FACTOR)


def bound(model: ExportModel, crops: UInt8Array, *, batch: int = 32) -> tuple[ExportModel, tuple[str, ...]]:
    """Let ReLUs end where, in every channel, all but :data:`TAIL` of the values end.

    Such a ReLU becomes a ReLU6, and the weights around it are scaled so that 6 is that value. One whose values are
    added to others is left alone.

    Args:
        model: Folded FP32 model, equalised or not; not changed.
        crops: Pictures on which ranges are measured, uint8 (n, S, S, C).
        batch: Crops per forward pass.

    Returns:
        A copy, whose outputs differ where values were larger, and the names of the activations that are bounded.

    Raises:
        ConversionError: The trunk is not folded.
    """
    result, groups = _copy_and_groups(model)
    groups = [group for group in groups if group.relus and group.tensors == group.relus and _called_once(result, group)]
    for group, peak in zip(groups, _ranges(result, groups, crops, batch), strict=True):
        group.scale(torch.full_like(peak, _BOUND / max(float(peak.max()), _SMALLEST_RANGE)))
    names = tuple(str(relu.target) for group in groups for relu in group.relus)
    return with_bounds(result, names), names


def with_bounds(model: ExportModel, names: Iterable[str]) -> ExportModel:
    """Put ReLU6 in the place of ReLUs, in place.

    Args:
        model: Folded model.
        names: Modules of its trunk, see :func:`bound`.

    Returns:
        The model.

    Raises:
        ConversionError: One of them is no ReLU of the trunk.
    """
    modules = dict(model.trunk.named_modules())
    for name in names:
        if not isinstance(modules.get(name), nn.ReLU):
            raise ConversionError(f"the trunk has no ReLU of the name {name!r} that could be bounded")
        model.trunk.set_submodule(name, nn.ReLU6())
    return model


def _copy_and_groups(model: ExportModel) -> tuple[ExportModel, list[_Group]]:
    """A copy, and what may be scaled in it."""
    result = copy.deepcopy(model)
    trunk = result.trunk
    if not isinstance(trunk, fx.GraphModule):
        raise ConversionError(f"expected a folded trunk (fx.GraphModule), got {type(trunk).__name__}")
    return result, [group for group in _groups(trunk) if group.free]


def _groups(trunk: fx.GraphModule) -> list[_Group]:
    """Partition of the tensors between convolutions."""
    group_of: dict[fx.Node, _Group] = {}
    for node in trunk.graph.nodes:
        module = _module(trunk, node)
        if isinstance(module, nn.Conv2d):
            group_of[node] = _Group(writers=[module], tensors=[node])
        elif isinstance(module, nn.ReLU) and node.all_input_nodes[0] in group_of:
            source = node.all_input_nodes[0]
            group = group_of[node] = group_of[source]
            group.relus.append(node)
            if len(source.users) == 1:
                group.tensors.remove(source)
            group.tensors.append(node)
        elif is_addition(node):
            parts = [group_of[source] for source in node.all_input_nodes if source in group_of]
            joined = _join(parts, group_of)
            joined.tensors.append(node)
            # A constant, or a tensor that no convolution wrote, cannot be scaled along.
            joined.fixed |= len(parts) < len(node.args)
            group_of[node] = joined
    for node, group in group_of.items():
        for user in node.users:
            reader = _module(trunk, user)
            if isinstance(reader, nn.Conv2d) and reader.groups in (1, reader.in_channels):
                group.readers.append(reader)
            elif not is_addition(user) and not isinstance(reader, nn.ReLU):
                group.fixed = True
    return list({id(group): group for group in group_of.values()}.values())


def _join(parts: list[_Group], group_of: dict[fx.Node, _Group]) -> _Group:
    joined = _Group()
    for part in {id(part): part for part in parts}.values():
        joined.writers += part.writers
        joined.tensors += part.tensors
        joined.relus += part.relus
        joined.fixed |= part.fixed
    for node, group in group_of.items():
        if any(group is part for part in parts):
            group_of[node] = joined
    return joined


def _called_once(model: ExportModel, group: _Group) -> bool:
    """Whether no ReLU of a group is a module that stands in several places."""
    calls = Counter(str(node.target) for node in cast(fx.GraphModule, model.trunk).graph.nodes)
    return all(calls[str(relu.target)] == 1 for relu in group.relus)


def _module(trunk: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return trunk.get_submodule(str(node.target)) if node.op == "call_module" else None


class Largest:
    """The largest absolute values of each channel, over parts of a set of pictures.

    Args:
        tail: Share of the values that do not count for the range.
        n: Pictures of the whole set.
    """

    def __init__(self, tail: float, n: int) -> None:
        self._tail, self._n = tail, n
        self._values: Tensor | None = None

    def add(self, x: Tensor) -> None:
        """Look at a part, (N, C, H, W)."""
        values = x.abs().transpose(0, 1).flatten(1)
        beyond = int(self._tail * self._n * values.shape[1] / len(x))
        every = values if self._values is None else torch.cat([self._values, values], dim=1)
        self._values = every.topk(min(beyond + 1, every.shape[1]), dim=1).values

    def range(self) -> Tensor:
        """What all values but the tail stay below, (C,)."""
        return cast(Tensor, self._values)[:, -1]


def _ranges(model: ExportModel, groups: Sequence[_Group], crops: UInt8Array, batch: int) -> list[Tensor]:
    """Absolute value of each channel that all but the group's tail stay below, in any of its tensors: float32 (C,)."""
    found = [{node: Largest(group.tail, len(crops)) for node in group.tensors} for group in groups]
    watched = {node: largest for group in found for node, largest in group.items()}

    class _Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            value = super().run_node(n)
            if n in watched:
                watched[n].add(cast(Tensor, value))
            return value

    with torch.no_grad():
        for part in parts(crops, batch):
            _Watch(cast(fx.GraphModule, model.trunk)).run(*model.streams(torch.from_numpy(part)))
    return [torch.stack([largest.range() for largest in group.values()]).amax(dim=0) for group in found]
