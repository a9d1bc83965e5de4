"""OpenVINO IR: INT8."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

from fasedge.types import UInt8Array
from quantize.bake import with_code_convs
from quantize.errors import CalibrationDataError, ConversionError
from quantize.grid import grids
from quantize.openvino_export import save_ir, to_openvino
from quantize.pictures import feed, parts
from quantize.students import ExportModel

#: Types of convolutions in OpenVINO.
CONVOLUTIONS = ("Convolution", "GroupConvolution")


def export_openvino_int8(model: ExportModel, path: Path, size_px: int) -> Path:
    """Write a network on an INT8 grid: int8 weights, one ``FakeQuantize`` per activation grid, the head in float.

    Args:
        model: As :func:`quantize.fitting.fit_grid` returns it. With 7-bit weights (its default) the file gives the same
            on CPUs without VNNI, like NNCF's ``OverflowFix.ENABLE``.
        path: ``.xml`` file; the ``.bin`` is written beside it.
        size_px: Side of the input, S.

    Returns:
        ``path``; see :func:`quantize.openvino_export.export_openvino_fp32`.

    Raises:
        ConversionError: The model is on no grid, or OpenVINO refused it.
    """
    if not grids(model):
        raise ConversionError(
            "export_openvino_int8 needs a model on an INT8 grid; call quantize.fitting.fit_grid first"
        )
    network = to_openvino(with_code_convs(model), size_px, inputs=model.inputs, outputs=model.outputs)
    return save_ir(network, path)


def quantize_with_nncf(model: ExportModel, crops: UInt8Array, path: Path, size_px: int) -> Path:
    """Let NNCF choose its own ranges: for comparison, and for CPUs on which only OpenVINO runs.

    The scores of this file differ from those of the other engines' INT8 files more than those of
    :func:`export_openvino_int8`, which shares their grid.

    Args:
        model: Folded FP32 model.
        crops: Calibration crops, uint8 (n, S, S, 3).
        path: ``.xml`` file; the ``.bin`` is written beside it.
        size_px: Side of the input, S.

    Raises:
        CalibrationDataError: There are no crops.
        ConversionError: NNCF refused the network.
    """
    from nncf import IgnoredScope
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

    if len(crops) == 0:
        raise CalibrationDataError("quantize_with_nncf needs calibration crops, got none")
    network = to_openvino(model, size_px)
    convolutions = [op.get_friendly_name() for op in network.get_ordered_ops() if op.get_type_name() in CONVOLUTIONS]
    in_float = IgnoredScope(names=convolutions[-1:])  # the head's filter
    how = AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE)
    return save_ir(quantized_by_nncf(network, crops, in_float, how), path)


def quantized_by_nncf(network: Any, calibration: UInt8Array, in_float: Any, how: Any) -> Any:
    """Quantise a network of OpenVINO with NNCF's own ranges.

    Args:
        network: ``openvino.Model``.
        calibration: Pictures that ranges are measured on, uint8 (n, S, S, C), C = 4 with depth.
        in_float: ``nncf.IgnoredScope``, of what is left alone.
        how: ``AdvancedQuantizationParameters``.

    Returns:
        ``openvino.Model``.

    Raises:
        ConversionError: NNCF refused the network.
    """
    import nncf

    previous = nncf.common.logging.logger.nncf_logger.level
    nncf.set_log_level(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return nncf.quantize(
                network,
                nncf.Dataset([feed(part) for part in parts(calibration, 1)]),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(calibration),
                ignored_scope=in_float,
                advanced_parameters=how,
            )
    except Exception as error:  # NNCF raises whatever its passes raise
        raise ConversionError(f"NNCF cannot quantise the network: {error}") from error
    finally:
        nncf.set_log_level(previous)
