"""ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from fasedge.backends._session import RawArray, TensorSpec, import_engine
from fasedge.errors import EngineError

SUFFIXES = (".onnx", ".ort")
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(uint16)": np.uint16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(double)": np.float64,
    "tensor(bool)": np.bool_,
}
_SEVERITY_ERROR = 3


class OnnxRuntimeModel:
    """A model in ONNX Runtime. It is ``batched`` when the file leaves the first dimension of each tensor free.

    Args:
        path: ``.onnx`` or ``.ort``.
        threads: Number of threads inside an operator; ``None`` leaves it to the engine.
        device: ``CPU``, ``GPU`` (CUDA), or the full name of an execution provider.

    Raises:
        EngineUnavailableError: ONNX Runtime cannot be imported.
        EngineError: The file cannot be loaded, or there is no such device.
    """

    def __init__(self, path: Path, threads: int | None, device: str) -> None:
        ort = import_engine("onnxruntime", "onnxruntime")
        self.errors: tuple[type[Exception], ...] = _engine_errors()
        provider = _provider(ort, device)
        options = ort.SessionOptions()
        options.log_severity_level = _SEVERITY_ERROR
        if threads is not None:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        try:
            self._session: Any = ort.InferenceSession(path, options, providers=[provider])
            self.inputs = tuple(_spec(item) for item in self._session.get_inputs())
            self.outputs = tuple(_spec(item) for item in self._session.get_outputs())
        except self.errors as error:
            raise EngineError(f"ONNX Runtime cannot load {path} on {device}: {error}") from error
        if self._session.get_providers()[0] != provider:
            # The engine would go on with the CPU and say so in its log only.
            raise EngineError(f"ONNX Runtime could not start {provider} for {path}; check its libraries or use CPU")
        self._session.disable_fallback()
        self.batched = all(spec.shape[:1] == (None,) for spec in (*self.inputs, *self.outputs))

    def run(self, arrays: Sequence[RawArray]) -> list[RawArray]:
        """Run once; see :class:`~fasedge.backends._session.LoadedModel`."""
        feed = {spec.name: array for spec, array in zip(self.inputs, arrays, strict=True)}
        results: list[RawArray] = self._session.run([spec.name for spec in self.outputs], feed)
        return results

    def close(self) -> None:
        """Let go of the session."""
        self._session = None


def _provider(ort: ModuleType, device: str) -> str:
    available: list[str] = ort.get_available_providers()
    wanted = {"CPU": "CPUExecutionProvider", "GPU": "CUDAExecutionProvider"}.get(device.upper(), device)
    if wanted not in available:
        raise EngineError(f"ONNX Runtime has no device {device!r} here; expected CPU, GPU or one of {available}")
    return wanted


def _engine_errors() -> tuple[type[Exception], ...]:
    """The engine's exceptions share no base class of their own, so they are collected from its module."""
    state = import_engine("onnxruntime.capi.onnxruntime_pybind11_state", "onnxruntime")
    found = [item for item in vars(state).values() if isinstance(item, type) and issubclass(item, Exception)]
    return (*found, RuntimeError, ValueError, TypeError)


def _spec(item: Any) -> TensorSpec:
    if item.type not in _DTYPES:
        raise ValueError(f"{item.name!r} is {item.type}; expected a tensor of numbers")
    shape = tuple(d if isinstance(d, int) else None for d in item.shape)
    dtype: np.dtype[np.generic] = np.dtype(_DTYPES[item.type])
    return TensorSpec(name=item.name, dtype=dtype, shape=shape)
