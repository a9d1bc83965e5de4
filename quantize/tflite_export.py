"""TFLite files: FP32."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from quantize.bake import NamedOutputs
from quantize.errors import ConversionError
from quantize.files import complete_file
from quantize.students import ExportModel


def export_tflite_fp32(model: ExportModel, path: Path, size_px: int) -> Path:
    """Write the FP32 network.

    The batch size is 1: the converter cannot lower this graph with a free one. Convolutions are NHWC inside, without
    transposes, and the cast from uint8 is part of the graph.

    Args:
        model: Folded FP32 model.
        path: ``.tflite`` file; replaced in one step.
        size_px: Side of the input, S.

    Returns:
        ``path``. Signature ``serving_default``: input ``rgb`` uint8 (1, S, S, 3); outputs ``score`` (1,),
        ``map`` (1, m, m).

    Raises:
        ConversionError: The converter refused the network.
    """
    import litert_torch

    example = torch.from_numpy(np.full((1, size_px, size_px, 3), 128, np.uint8))
    with complete_file(path) as temporary:
        try:
            with quiet_converter():
                litert_torch.convert(NamedOutputs(model).eval(), sample_kwargs={"rgb": example}).export(str(temporary))
        except Exception as error:  # the converter raises whatever its passes raise
            raise ConversionError(f"litert-torch cannot convert the network: {error}") from error
    return path


@contextmanager
def quiet_converter() -> Iterator[None]:
    """Converter and quantiser print progress and tables, and warn about their own insides."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        previous = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(previous)
