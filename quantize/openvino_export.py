"""OpenVINO IR: FP32."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import torch
from torch import nn

from quantize.errors import ConversionError
from quantize.files import complete_file
from quantize.students import Exportable


def export_openvino_fp32(model: Exportable, path: Path, size_px: int) -> Path:
    """Write the FP32 network.

    Args:
        model: Folded FP32 model.
        path: ``.xml`` file; the ``.bin`` is written beside it. Both are replaced.
        size_px: Side of the input, S.

    Returns:
        ``path``. The model's inputs and outputs, such as ``rgb`` uint8 (N, S, S, 3) and ``score`` (N,), ``map``
        (N, m, m); N is free.

    Raises:
        ConversionError: OpenVINO refused the network.
    """
    return save_ir(to_openvino(model, size_px, inputs=model.inputs, outputs=model.outputs), path)


def to_openvino(
    model: nn.Module,
    size_px: int,
    *,
    inputs: Mapping[str, int] = Exportable.inputs,
    outputs: Sequence[str] = Exportable.outputs,
) -> Any:
    """Convert a model that reads pictures, uint8 (N, S, S, C).

    Args:
        model: By default with inputs and outputs of :class:`~quantize.students.Exportable`.
        size_px: S.
        inputs: Names of its inputs and the channels of each, in order.
        outputs: Their names, in order.

    Returns:
        An ``openvino.Model`` with a free batch size.

    Raises:
        ConversionError: OpenVINO refused the network.
    """
    import openvino

    shapes = [(size_px, size_px, channels) for channels in inputs.values()]
    example = tuple(torch.full((2, *shape), 128, dtype=torch.uint8) for shape in shapes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about tracing; parity measures what they warn of
            result = openvino.convert_model(
                model.eval(), example_input=example, input=[[-1, *shape] for shape in shapes]
            )
    except Exception as error:  # the converter raises whatever its front end raises
        raise ConversionError(f"OpenVINO cannot convert the network: {error}") from error
    for tensor, name in zip(result.inputs, inputs, strict=True):
        tensor.set_names({name})
    for output, name in zip(result.outputs, outputs, strict=True):
        output.set_names({name})
    return result


def save_ir(model: Any, path: Path) -> Path:
    """Write an ``openvino.Model`` without what is not needed to run it.

    Names of layers inside and the history of the conversion make up a third of the ``.xml`` of a small network.

    Raises:
        ConversionError: The files are incomplete, or cannot be written.
    """
    import openvino

    for index, node in enumerate(model.get_ordered_ops()):
        if node.get_type_name() not in ("Parameter", "Result"):
            node.set_friendly_name(f"n{index}")
    with complete_file(path) as temporary:
        try:
            openvino.save_model(model, str(temporary), compress_to_fp16=False)
        except RuntimeError as error:
            raise ConversionError(f"OpenVINO could not write {path}: {error}; is the disk full?") from error
        _shrink(temporary)
    return path


def _shrink(path: Path) -> None:
    tree = ET.parse(path)  # noqa: S314 - OpenVINO has just written it
    root = tree.getroot()
    for tag in ("rt_info", "meta_data"):
        for parent in root.iter():
            for child in parent.findall(tag):
                parent.remove(child)
    for element in root.iter():
        element.text = (element.text or "").strip() or None
        element.tail = None
    tree.write(path, encoding="utf-8", xml_declaration=True)
