"""Weights of a model that is published, where the checkpoint that it was made from is not at hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fasedge.cards import find_model, load_card, verified_model_path
from quantize.errors import CheckpointMismatchError
from quantize.students import Student
from training.backbones import PlainTrunk
from training.checkpoint import load_exactly


def weights_of(model: str | Path) -> dict[str, Tensor]:
    """Trunk and head of a published model, as they are in its FP32 file for ONNX Runtime.

    Args:
        model: Id of a model, or its folder.

    Returns:
        Tensors of the merged trunk, ``trunk.*``, and of the head, ``head.*``.

    Raises:
        ModelNotFoundError: There is no such model or file.
        IntegrityError: The file was altered.
        CheckpointMismatchError: The file was not written by this package.
    """
    import onnx
    from onnx import numpy_helper

    folder = find_model(model)
    path = verified_model_path(folder, load_card(folder).file("onnxruntime", "fp32"))
    constants = {item.name: numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer}
    found = {
        name: torch.from_numpy(np.array(value, np.float32))
        for name, value in constants.items()
        if name.startswith(("trunk.", "head."))
    }
    if not found:
        raise CheckpointMismatchError(f"{path} has no tensors of a trunk: it was not written by `quantize export`")
    return found


@torch.no_grad()
def begin_as_published(student: Student, tensors: Mapping[str, Tensor], seen: Tensor) -> None:
    """Give a student the weights of a published one, so that it says the same and can be trained on.

    A student of cosines takes the direction of the published logit: it ranks cells alike, but not their means.

    Args:
        student: Changed in place.
        tensors: See :func:`weights_of`.
        seen: float32 (N, 3, S, S), as :class:`training.inputs.GraphInput` makes them: what the trunk's normalisations,
            which the published file has not, are measured on.

    Raises:
        CheckpointMismatchError: The student is no network of plain convolutions, or the published one has no logit.
        StateMismatchError: The weights are of another trunk.
    """
    settled = load_plain(student.trunk, tensors)
    student.filter.weight.copy_(tensors["head.weight"])
    if student.filter.bias is not None:
        student.filter.bias.copy_(tensors["head.bias"])
    settled.settle(seen)


@torch.no_grad()
def begin_as(student: Student, other: nn.Module, what: str) -> None:
    """Give a student the weights of another one, of the same trunk; between heads of two kinds, the filter alone.

    Args:
        student: Changed in place.
        other: The other one.
        what: What it is called in messages.

    Raises:
        CheckpointMismatchError: The other one is of colour and depth.
        StateMismatchError: It has another trunk.
    """
    if not isinstance(other, Student):
        raise CheckpointMismatchError(f"{what} is of colour and depth; a student of colour cannot begin as it")
    load_exactly(student.trunk, other.trunk.state_dict(), what=f"the trunk of {what}")
    student.filter.weight.copy_(other.filter.weight)
    if student.filter.bias is not None and other.filter.bias is not None:
        student.filter.bias.copy_(other.filter.bias)


def load_plain(trunk: nn.Module, tensors: Mapping[str, Tensor]) -> PlainTrunk:
    """Give a trunk the weights of a published model with one logit, which make it the same in evaluation mode.

    Args:
        trunk: Changed in place.
        tensors: See :func:`weights_of`.

    Returns:
        The trunk.

    Raises:
        CheckpointMismatchError: One of the two is no network of plain convolutions with one logit.
        StateMismatchError: They are of another trunk.
    """
    if not isinstance(trunk, PlainTrunk) or not {"head.weight", "head.bias"} <= set(tensors):
        what = "the student" if not isinstance(trunk, PlainTrunk) else "the published model"
        raise CheckpointMismatchError(f"expected networks of plain convolutions with one logit; {what} is another")
    trunk.load_merged(
        {name.removeprefix("trunk."): value for name, value in tensors.items() if name.startswith("trunk.")}
    )
    return trunk
