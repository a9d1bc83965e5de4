"""Channels of networks of full size brought nearer to one range, exactly, before they are quantised.

As :mod:`quantize.equalise` does it to students, but these networks are not folded: what writes a tensor is a
convolution or the affine half of a batch normalisation, and where ReLUs stand is read from the captured graph, which
shows every reader of every tensor. Only a tensor that goes through a ReLU, and poolings of its largest values, to
convolutions alone is scaled.

It is a choice, not the rule: RFMeta's own network is nearer to full precision with it, CMFL's on DenseNet trunks is
farther, since filters have one step for all channels that they read (docs/edge.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from fasedge.types import UInt8Array
from quantize.equalise import TAIL, Largest, widening
from quantize.pictures import parts
from quantize.students import Exportable

_ATEN = torch.ops.aten
_RELUS = {_ATEN.relu.default, _ATEN.relu_.default}
_POOLS = {_ATEN.max_pool2d.default}


@dataclass(frozen=True, slots=True)
class Chain:
    """What may be scaled together.

    Attributes:
        writers: Names of the parameters by whose channels the tensor is written: of a convolution, or of a batch
            normalisation.
        readers: Names of the filters that read it.
    """

    writers: tuple[str, ...]
    readers: tuple[str, ...]


def chains(model: Exportable, shown: UInt8Array) -> list[Chain]:
    """Find what may be scaled.

    Args:
        model: In evaluation mode.
        shown: A picture, uint8 (1, S, S, C), to capture the graph with.

    Returns:
        A chain for each ReLU that only convolutions read.
    """
    captured = torch.export.export(model, (torch.from_numpy(shown),))
    names = captured.graph_signature.inputs_to_parameters
    found = []
    for relu in captured.graph.nodes:
        if relu.target not in _RELUS or len((source := relu.args[0]).users) != 1:
            continue
        readers = [_filter_of(user, names) for user in _readers(relu)]
        writers = tuple(names[node.name] for node in _parameters(source) if node.name in names)
        if writers and readers and all(readers):
            found.append(Chain(writers, tuple(name for name in readers if name)))
    return found


def equalise_full(model: Exportable, crops: UInt8Array, *, batch: int = 8) -> int:
    """Scale channels behind ReLUs, in place; what the network computes stays the same.

    Args:
        model: In evaluation mode.
        crops: Pictures on which ranges are measured, uint8 (n, S, S, C).
        batch: Pictures per forward pass.

    Returns:
        How many tensors were scaled.
    """
    found = chains(model, crops[:1])
    parameters = dict(model.named_parameters())
    ranges = _ranges(model, [chain.readers[0] for chain in found], crops, batch)
    with torch.no_grad():
        for chain in found:
            factors = widening(ranges[chain.readers[0]]).sqrt()
            for name in chain.writers:
                parameters[name].mul_(factors.view(-1, *[1] * (parameters[name].dim() - 1)))
            for name in chain.readers:
                parameters[name].div_(factors.view(1, -1, 1, 1))
    return len(found)


def _parameters(node: fx.Node) -> list[fx.Node]:
    """Weight and bias of a convolution or a batch normalisation; nothing where it is another, or they are shared."""
    if node.target not in (_ATEN.conv2d.default, _ATEN.batch_norm.default):
        return []
    found = [value for value in node.args[1:3] if isinstance(value, fx.Node)]
    return found if all(len(value.users) == 1 for value in found) else []


def _readers(node: fx.Node) -> Iterable[fx.Node]:
    """What reads a value, behind poolings of its largest values."""
    for user in node.users:
        if user.target in _POOLS:
            yield from _readers(user)
        else:
            yield user


def _filter_of(node: fx.Node, names: dict[str, str]) -> str | None:
    """Name of a convolution's filters; ``None`` where a node is no convolution of all channels, or they are shared."""
    groups = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)
    if node.target is not _ATEN.conv2d.default or groups != 1:
        return None
    weight = node.args[1]
    return names.get(weight.name) if isinstance(weight, fx.Node) and len(weight.users) == 1 else None


def _ranges(model: Exportable, readers: Iterable[str], crops: UInt8Array, batch: int) -> dict[str, Tensor]:
    """For filters by name: of each channel that they read, the value that all but the tail stay below, float32 (C,)."""
    found = {name: Largest(TAIL, len(crops)) for name in readers}
    hooks = []
    for name, largest in found.items():
        conv = model.get_submodule(name.rpartition(".")[0])
        hooks.append(conv.register_forward_pre_hook(_watch(largest)))
    try:
        with torch.no_grad():
            for part in parts(crops, batch):
                model(torch.from_numpy(part))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: largest.range() for name, largest in found.items()}


def _watch(largest: Largest) -> Callable[[nn.Module, tuple[Tensor]], None]:
    def hook(_: nn.Module, inputs: tuple[Tensor]) -> None:
        largest.add(inputs[0])

    return hook
