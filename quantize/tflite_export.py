"""TFLite files: FP32."""

from __future__ import annotations

import contextlib
import io
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from quantize.bake import NamedOutputs
from quantize.errors import ConversionError
from quantize.files import complete_file
from quantize.students import Exportable

_WORKER = """
import sys
import torch, litert_torch
program = torch.export.load(sys.argv[1])
litert_torch.convert(program.module(), sample_kwargs=dict(program.example_inputs[1])).export(sys.argv[2])
"""


def export_tflite_fp32(model: Exportable, path: Path, size_px: int) -> Path:
    """Write the FP32 network.

    The batch size is 1: the converter cannot lower this graph with a free one. Convolutions are NHWC inside, without
    transposes, and the cast from uint8 is part of the graph.

    Args:
        model: Folded FP32 model.
        path: ``.tflite`` file; replaced in one step.
        size_px: Side of the input, S.

    Returns:
        ``path``. Signature ``serving_default``: the model's inputs and outputs by their names, such as ``rgb`` uint8
        (1, S, S, 3) and ``score`` (1,), ``map`` (1, m, m).

    Raises:
        ConversionError: The converter refused the network.
    """
    with complete_file(path) as temporary:
        captured = temporary.with_name("captured.pt2")
        try:
            with quiet_converter():
                program = torch.export.export(NamedOutputs(model).eval(), (), model.example(1, size_px))
                torch.export.save(program, captured)
        except Exception as error:  # graph capture raises whatever the network's code raises
            raise ConversionError(f"torch cannot capture the network for TFLite: {error}") from error
        _convert_apart(captured, temporary)
    return path


def _convert_apart(captured: Path, target: Path) -> None:
    """Convert in a process of its own: the converter brings JAX along, whose threads forbid any later fork."""
    done = subprocess.run(
        [sys.executable, "-c", _WORKER, str(captured), str(target)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ConversionError(
            f"litert-torch cannot convert the network: {last}; install the dependency group 'quantize' if it is missing"
        )


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
