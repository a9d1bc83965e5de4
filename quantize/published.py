"""Weights of a model that is published, where the checkpoint that it was made from is not at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fasedge.cards import find_model, load_card, verified_model_path
from quantize.errors import CheckpointMismatchError


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
