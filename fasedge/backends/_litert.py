"""LiteRT, through ``ai_edge_litert`` or, on boards that still carry it, ``tflite_runtime``."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fasedge.backends._session import RawArray, TensorSpec, import_engine
from fasedge.errors import EngineError, EngineUnavailableError

SUFFIXES = (".tflite",)
_ERRORS = (RuntimeError, ValueError, TypeError)
#: Batch sizes that a file must really run before several faces are sent to it in one call.
_PROBES = (2, 3)


class LiteRTModel:
    """A model in LiteRT.

    It is ``batched`` when the file declares its first dimension as free *and* runs when that is resized: converters
    write files that declare it but hold the batch size as a constant further down, and most files (all that come from
    a conversion with a fixed example) do not declare it at all. Those run one face after the other; on a CPU that
    costs little, because the work grows with the number of faces either way.

    Args:
        path: ``.tflite``.
        module: Dotted name of the interpreter's module.
        threads: Number of threads; ``None`` leaves it to the engine.
        device: Only ``CPU``.

    Raises:
        EngineUnavailableError: The interpreter cannot be imported, or needs another NumPy.
        EngineError: The file cannot be loaded, or another device than the CPU is asked for.
    """

    errors: tuple[type[Exception], ...] = _ERRORS

    def __init__(self, path: Path, module: str, threads: int | None, device: str) -> None:
        if device.upper() != "CPU":
            raise EngineError(f"litert runs on the device CPU only, got {device!r}")
        self._factory = _interpreter_class(module)
        self._path = path
        self._threads = threads
        self._shapes: list[tuple[int, ...]] = []
        try:
            with quiet_native_log():
                self._interpreter: Any = self._create()
                self.inputs, self.outputs, self._in, self._out = _tensors(self._interpreter)
                self.batched = self._runs_in_batches()
                if not self.batched:
                    # A failed resize leaves an interpreter behind that may not be used any more.
                    self._interpreter = self._create()
                    self._interpreter.allocate_tensors()
                    self._shapes = self._allocated_shapes()
        except _ERRORS as error:
            raise EngineError(f"LiteRT cannot load {path}: {error}") from error

    def run(self, arrays: Sequence[RawArray]) -> list[RawArray]:
        """Run once; see :class:`~fasedge.backends._session.LoadedModel`."""
        interpreter = self._interpreter
        shapes = [array.shape for array in arrays]
        if shapes != self._shapes:
            self._shapes = []
            for index, shape in zip(self._in, shapes, strict=True):
                interpreter.resize_tensor_input(index, list(shape), strict=True)
            interpreter.allocate_tensors()
            self._shapes = shapes
        for index, array in zip(self._in, arrays, strict=True):
            interpreter.set_tensor(index, array)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in self._out]

    def close(self) -> None:
        """Let go of the interpreter."""
        self._interpreter = None

    def _create(self) -> Any:
        return self._factory(model_path=str(self._path), num_threads=self._threads)

    def _allocated_shapes(self) -> list[tuple[int, ...]]:
        return [tuple(int(d) for d in item["shape"]) for item in self._interpreter.get_input_details()]

    def _runs_in_batches(self) -> bool:
        if any(spec.shape[:1] != (None,) or None in spec.shape[1:] for spec in self.inputs):
            return False
        try:
            for count in (*_PROBES, 1):
                zeros = [np.zeros((count, *(d or 1 for d in s.shape[1:])), s.dtype) for s in self.inputs]
                if any(array.ndim < 1 or array.shape[0] != count for array in self.run(zeros)):
                    return False
        except _ERRORS:
            return False
        return True


def _interpreter_class(module: str) -> Any:
    if module.startswith("tflite_runtime"):
        complaint = numpy_complaint()
        if complaint:
            raise EngineUnavailableError(complaint)
    return import_engine(module, "litert").Interpreter


def numpy_complaint() -> str:
    """Why ``tflite_runtime`` cannot run beside the NumPy in use; empty when it can.

    Its native part was built for NumPy 1: with NumPy 2 it can be imported and then crashes on the first model.
    """
    if int(np.__version__.split(".")[0]) < 2:
        return ""
    return (
        f"tflite-runtime needs numpy<2, this is numpy {np.__version__}; "
        "run pip install 'fasedge[litert]' (recommended), or pip install 'numpy<2'"
    )


def _tensors(interpreter: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], list[int], list[int]]:
    """Inputs, outputs and their indices. Signature names come first: tensor names vary with the converter."""
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    friendly: dict[int, str] = {}
    signatures = interpreter.get_signature_list()
    if len(signatures) == 1:
        runner = interpreter.get_signature_runner(next(iter(signatures)))
        for name, detail in (*runner.get_input_details().items(), *runner.get_output_details().items()):
            friendly[int(detail["index"])] = name
    return (
        tuple(_spec(item, friendly) for item in inputs),
        tuple(_spec(item, friendly) for item in outputs),
        [int(item["index"]) for item in inputs],
        [int(item["index"]) for item in outputs],
    )


def _spec(detail: Any, friendly: dict[int, str]) -> TensorSpec:
    own = str(detail["name"])
    name = friendly.get(int(detail["index"]), own)
    signature = detail["shape_signature"] if len(detail["shape_signature"]) else detail["shape"]
    scale, zero_point = detail["quantization"]
    return TensorSpec(
        name=name,
        aliases=(own,) if own != name else (),
        dtype=np.dtype(detail["dtype"]),
        shape=tuple(None if d < 0 else int(d) for d in signature),
        scale=float(scale),
        zero_point=int(zero_point),
    )


_log_lock = threading.Lock()


@contextlib.contextmanager
def quiet_native_log() -> Iterator[None]:
    """Keep the interpreter's ``INFO:`` lines off standard error; everything else is passed on afterwards.

    The interpreter writes to file descriptor 2 itself and offers Python no way to set its log level, so the
    descriptor is turned aside for as long as a model is loaded.
    """
    with _log_lock, contextlib.ExitStack() as stack:
        try:
            saved = os.dup(2)
        except OSError:  # no standard error at all, e.g. in a service
            yield
            return
        stack.callback(os.close, saved)
        aside = stack.enter_context(tempfile.TemporaryFile())
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(aside.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            aside.seek(0)
            for line in aside:
                if not line.startswith(b"INFO:"):
                    os.write(2, line)
