"""Channels of one tensor brought to one range, exactly: the network computes the same function as before.

An activation grid has one step for all channels of a tensor. Where one channel is fifty times wider than another, the
narrow one is left with a handful of codes. Between linear layers a channel may be scaled by any factor if what reads
it is scaled back; tensors that are added to each other share their factors.

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.1,
applied to measured activation ranges, and across residual additions.
"""

from __future__ import annotations

import copy
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


@dataclass(slots=True, eq=False)
class _Group:
    """Tensors that have to share their factors."""

    writers: list[nn.Conv2d] = field(default_factory=list)
    readers: list[nn.Conv2d] = field(default_factory=list)
    tensors: list[fx.Node] = field(default_factory=list)
    fixed: bool = False


def equalise(model: ExportModel, crops: UInt8Array, *, batch: int = 32) -> ExportModel:
    """Scale the channels of every linear tensor of the trunk so that all have the range of the widest one.

    A tensor is left alone where something other than a convolution or an addition reads or writes it: an activation
    function bends at a fixed value, and the head compares the trunk's features as they are.

    Args:
        model: Folded FP32 model; not changed.
        crops: Pictures on which ranges are measured, uint8 (n, S, S, C).
        batch: Crops per forward pass.

    Returns:
        A copy with other weights and the same outputs.

    Raises:
        ConversionError: The trunk is not folded.
    """
    result = copy.deepcopy(model)
    trunk = result.trunk
    if not isinstance(trunk, fx.GraphModule):
        raise ConversionError(f"expected a folded trunk (fx.GraphModule), got {type(trunk).__name__}")
    groups = [group for group in _groups(trunk) if not group.fixed and group.writers and group.readers]
    ranges = _ranges(result, [group.tensors for group in groups], crops, batch)
    with torch.no_grad():
        for group, peak in zip(groups, ranges, strict=True):
            factors = (peak.max() / peak.clamp(min=1e-6)).clamp(1.0, MAX_FACTOR)
            for writer in group.writers:
                writer.weight.mul_(factors[:, None, None, None])
                if writer.bias is not None:
                    writer.bias.mul_(factors)
            for reader in group.readers:
                # A depthwise filter has its channel first, any other convolution second.
                shape = (-1, 1, 1, 1) if reader.groups > 1 else (1, -1, 1, 1)
                reader.weight.div_(factors.view(shape))
    return result


def _groups(trunk: fx.GraphModule) -> list[_Group]:
    """Partition of the tensors between convolutions."""
    group_of: dict[fx.Node, _Group] = {}
    for node in trunk.graph.nodes:
        module = _module(trunk, node)
        if isinstance(module, nn.Conv2d):
            group_of[node] = _Group(writers=[module], tensors=[node])
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
            elif not is_addition(user):
                group.fixed = True
    return list({id(group): group for group in group_of.values()}.values())


def _join(parts: list[_Group], group_of: dict[fx.Node, _Group]) -> _Group:
    joined = _Group()
    for part in {id(part): part for part in parts}.values():
        joined.writers += part.writers
        joined.tensors += part.tensors
        joined.fixed |= part.fixed
    for node in joined.tensors:
        group_of[node] = joined
    return joined


def _module(trunk: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return trunk.get_submodule(str(node.target)) if node.op == "call_module" else None


def _ranges(model: ExportModel, groups: list[list[fx.Node]], crops: UInt8Array, batch: int) -> list[Tensor]:
    """Largest absolute value of each channel over all tensors of a group: float32 (C,) each."""
    trunk = cast(fx.GraphModule, model.trunk)
    wanted = {node: place for place, group in enumerate(groups) for node in group}
    found: list[Tensor | None] = [None] * len(groups)

    class _Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            value = super().run_node(n)
            if n in wanted:
                peak, place = cast(Tensor, value).abs().amax(dim=(0, 2, 3)), wanted[n]
                known = found[place]
                found[place] = peak if known is None else torch.maximum(known, peak)
            return value

    with torch.no_grad():
        for part in parts(crops, batch):
            _Watch(trunk).run(*model.streams(torch.from_numpy(part)))
    return [cast(Tensor, peak) for peak in found]
