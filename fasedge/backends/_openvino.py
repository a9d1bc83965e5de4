"""OpenVINO."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from fasedge.backends._session import RawArray, TensorSpec, import_engine
from fasedge.errors import EngineError, ModelNotFoundError

SUFFIXES = (".xml", ".onnx", ".tflite")
_ERRORS = (RuntimeError, ValueError, TypeError)


class OpenVINOModel:
    """A model in OpenVINO.

    A single face, by far the most frequent case, runs through a network compiled for exactly that, because static
    shapes are faster; the network for any other number of faces is compiled when a picture first needs it. A graph
    that holds its batch size as a constant (a reshape to ``[1, ...]``) cannot take several faces at once and is not
    ``batched``.

    Args:
        path: ``.xml`` with its ``.bin`` beside it, ``.onnx`` or ``.tflite``.
        threads: Number of threads; ``None`` leaves it to the engine.
        device: Device in OpenVINO's words.

    Raises:
        EngineUnavailableError: OpenVINO cannot be imported.
        ModelNotFoundError: The ``.bin`` of an ``.xml`` is missing.
        EngineError: The file cannot be read or compiled, or there is no such device.
    """

    errors: tuple[type[Exception], ...] = _ERRORS

    def __init__(self, path: Path, threads: int | None, device: str) -> None:
        weights = path.with_suffix(".bin")
        if path.suffix.lower() == ".xml" and not weights.is_file():
            raise ModelNotFoundError(f"the weights of {path} are missing: expected {weights.name} beside it")
        self._ov: ModuleType = import_engine("openvino", "openvino")
        self._device = device
        self._config = _config(threads, device)
        self._core = self._ov.Core()
        try:
            model = self._core.read_model(path)
            self.inputs = tuple(_spec(port) for port in model.inputs)
            self.outputs = tuple(_spec(port) for port in model.outputs)
            self._free = self._with_free_batch(self._core.read_model(path))
            self.batched = self._free is not None
            single = _with_batch(self._ov, model, 1) if self._takes_one() else model
            self._single: Any = self._compile(single)
        except _ERRORS as error:
            raise EngineError(f"OpenVINO cannot load {path} on {device}: {error}") from error
        self._many: Any = None

    def run(self, arrays: Sequence[RawArray]) -> list[RawArray]:
        """Run once; see :class:`~fasedge.backends._session.LoadedModel`."""
        request = self._single
        if self.batched and arrays[0].shape[0] != 1:
            if self._many is None:
                self._many = self._compile(self._free)
            request = self._many
        # Without a copy on either side: the caller copies results before the next run.
        results = request.infer(list(arrays), share_inputs=True, share_outputs=True)
        return [np.asarray(results[i]) for i in range(len(self.outputs))]

    def close(self) -> None:
        """Let go of the networks."""
        self._single = self._many = self._free = self._core = None

    def _takes_one(self) -> bool:
        return self.batched or all(spec.shape[:1] == (None,) for spec in self.inputs)

    def _compile(self, model: Any) -> Any:
        return self._core.compile_model(model, self._device, self._config).create_infer_request()

    def _with_free_batch(self, model: Any) -> Any | None:
        try:
            model = _with_batch(self._ov, model, -1)
        except _ERRORS:
            return None
        ranks_and_batches = [port.get_partial_shape() for port in model.outputs]
        follows = all(s.rank.is_static and len(s) > 0 and s[0].is_dynamic for s in ranks_and_batches)
        return model if follows else None


def _with_batch(ov: ModuleType, model: Any, batch: int) -> Any:
    shapes = {i: ov.PartialShape([batch, *list(port.get_partial_shape())[1:]]) for i, port in enumerate(model.inputs)}
    model.reshape(shapes)
    return model


def _config(threads: int | None, device: str) -> dict[str, str | int]:
    config: dict[str, str | int] = {"PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    if device.upper() == "CPU":
        # Some CPUs would otherwise compute floats in 16 bits, and scores would differ from one machine to the next.
        config["INFERENCE_PRECISION_HINT"] = "f32"
    return config


def _spec(port: Any) -> TensorSpec:
    names = sorted(port.get_names()) or [port.get_node().get_friendly_name()]
    shape = port.get_partial_shape()
    if not shape.rank.is_static:
        raise ValueError(f"tensor {names[0]!r} has an unknown number of dimensions")
    sizes = tuple(None if d.is_dynamic else int(d.get_length()) for d in shape)
    dtype: np.dtype[np.generic] = np.dtype(port.get_element_type().to_dtype())
    return TensorSpec(name=names[0], aliases=tuple(names[1:]), dtype=dtype, shape=sizes)
