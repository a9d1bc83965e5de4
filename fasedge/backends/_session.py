"""What every engine has in common: tensor names, checks, quantisation, the lock and the end of life.

An engine's own file loads a model and runs it (:class:`LoadedModel`); :class:`EngineBackend` turns that into the
public :class:`~fasedge.backends.Backend`. The numbers that go in and out are therefore treated alike in all engines.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fasedge.backends._base import Array, BackendInfo
from fasedge.errors import EngineError, EngineUnavailableError
from fasedge.types import FloatArray, TensorNames

#: A tensor as the engine sees it, of whatever type the file asks for.
RawArray: TypeAlias = NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model file.

    Attributes:
        name: Name by which the file calls it.
        dtype: Element type inside the file.
        shape: Batch first; ``None`` where any size goes.
        aliases: Further names of the same tensor, as good as the first.
        scale: Quantisation step; 0 when the tensor is not quantised.
        zero_point: Integer that stands for the real number 0.
    """

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int | None, ...]
    aliases: tuple[str, ...] = ()
    scale: float = 0.0
    zero_point: int = 0


class LoadedModel(Protocol):
    """A model inside one engine.

    Attributes:
        inputs: The file's inputs, in the order in which :meth:`run` takes them.
        outputs: The file's outputs, in the order in which :meth:`run` gives them.
        batched: Whether :meth:`run` takes any batch size; if not, it takes exactly 1.
        errors: What the engine raises when it fails.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batched: bool
    errors: tuple[type[Exception], ...]

    def run(self, arrays: Sequence[RawArray]) -> list[RawArray]:
        """Run once. The results may be views that hold only until the next call."""
        ...

    def close(self) -> None:
        """Let go of the engine's resources."""
        ...


class EngineBackend:
    """A :class:`~fasedge.backends.Backend` round a loaded model. Safe to share between threads: calls queue up.

    Args:
        model: The model inside its engine; owned from here on.
        info: What runs, and where.
        names: Logical to file names.
        origin: The file, for messages.

    Raises:
        EngineError: The names do not fit the file, or the file has a tensor that fasedge cannot feed or read.
    """

    def __init__(self, model: LoadedModel, info: BackendInfo, names: TensorNames, origin: str) -> None:
        self._model: LoadedModel | None = model
        self._info = info
        self._origin = origin
        self._lock = threading.Lock()
        try:
            _check_specs(model, origin)
            self._inputs = _bind(names.inputs, model.inputs, "input", origin)
            self._outputs = _bind(names.outputs, model.outputs, "output", origin)
            unfed = [s.name for i, s in enumerate(model.inputs) if i not in self._inputs.values()]
            if unfed:
                raise EngineError(f"{origin}: TensorNames.inputs leaves out {unfed}; an input cannot stay empty")
        except EngineError:
            self.close()
            raise

    @property
    def info(self) -> BackendInfo:
        """What runs, and where."""
        return self._info

    def infer(self, inputs: Mapping[str, Array]) -> Mapping[str, FloatArray]:
        """Run the model once.

        A float input of the file receives the values as they are (pixels: 0..255); a quantised one receives
        ``round(x / scale) + zero_point``, clipped to its integer type.

        Args:
            inputs: Logical input name to uint8 or float32 array, batch first, e.g. ``{"rgb": uint8 (N, S, S, 3)}``.

        Returns:
            Logical output name to float32 array, batch first, C-contiguous, a copy that the caller owns; quantised
            outputs are dequantised.

        Raises:
            EngineError: A wrong name, dtype, shape or batch; the engine failed; the backend was closed.
        """
        with self._lock:
            model = self._model
            if model is None:
                raise EngineError(f"{self._origin}: the backend was closed; open it again to infer")
            feed = self._encode(model, inputs)
            count = feed[0].shape[0]
            if model.batched or count == 1:
                results = self._run(model, feed)
            else:
                parts = [self._run(model, [a[i : i + 1] for a in feed]) for i in range(count)]
                results = [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]
            return {logical: results[index] for logical, index in self._outputs.items()}

    def close(self) -> None:
        """Free the engine's resources. Idempotent; waits for a running inference."""
        with self._lock:
            model, self._model = self._model, None
            if model is not None:
                model.close()

    def __enter__(self) -> EngineBackend:
        """Return the backend itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def __repr__(self) -> str:
        state = "" if self._model is not None else ", closed"
        return f"<{self._info.engine} backend of {self._origin}{state}>"

    def _encode(self, model: LoadedModel, inputs: Mapping[str, Array]) -> list[RawArray]:
        positions = [self._inputs.get(logical) for logical in inputs]
        if set(positions) != set(range(len(model.inputs))) or len(positions) != len(model.inputs):
            have = [spec.name for spec in model.inputs]
            raise EngineError(
                f"{self._origin}: expected the inputs {sorted(self._inputs)}, got {sorted(inputs)}; the file calls its "
                f"inputs {have}; map other names with TensorNames(inputs={{logical: name in the file}})"
            )
        feed: list[RawArray] = [np.empty(0)] * len(model.inputs)
        for logical, value in inputs.items():
            index = self._inputs[logical]
            feed[index] = encode(value, model.inputs[index], f"{self._origin}: input {logical!r}")
        counts = {logical: value.shape[0] for logical, value in inputs.items()}
        if len(set(counts.values())) != 1:
            raise EngineError(f"{self._origin}: all inputs need the same batch size, got {counts}")
        return feed

    def _run(self, model: LoadedModel, feed: list[RawArray]) -> list[FloatArray]:
        count = feed[0].shape[0]
        try:
            raw = model.run(feed)
        except model.errors as error:
            raise EngineError(
                f"{self._info.engine} {self._info.version} failed on {self._origin} with a batch of {count}: {error}"
            ) from error
        return [
            decode(array, spec, count, f"{self._origin}: output {spec.name!r}")
            for array, spec in zip(raw, model.outputs, strict=True)
        ]


def encode(value: object, spec: TensorSpec, where: str) -> RawArray:
    """Turn what a caller passes in into what the file wants.

    Source: the affine quantisation ``real = scale * (q - zero_point)`` of Jacob et al. 2018 (CVPR), eq. 1, inverted.

    Args:
        value: uint8 or float32, batch first.
        spec: The file's input.
        where: Start of the message.

    Returns:
        C-contiguous array of ``spec.dtype``.

    Raises:
        EngineError: Not an array, or of a dtype, shape, batch size or value that does not fit.
    """
    shape = "(" + ", ".join(["N", *("any" if d is None else str(d) for d in spec.shape[1:])]) + ")"
    if not isinstance(value, np.ndarray) or value.dtype not in (np.uint8, np.float32):
        came = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        raise EngineError(f"{where} must be a uint8 or float32 array of shape {shape}, got {came}")
    fits = value.ndim == len(spec.shape) and all(
        want is None or want == have for want, have in zip(spec.shape[1:], value.shape[1:], strict=True)
    )
    if not fits or value.shape[0] < 1:
        raise EngineError(f"{where} must have shape {shape} with N >= 1, got {value.shape}")
    if value.dtype == np.float32 and not np.isfinite(value).all():
        raise EngineError(f"{where} holds values that are not finite")
    if spec.scale > 0:
        if value.dtype == np.uint8:
            # Pixels have 256 values only: looking them up is faster than dividing each.
            return np.ascontiguousarray(_quantise(np.arange(256, dtype=np.float32), spec)[value])
        return np.ascontiguousarray(_quantise(value, spec))
    if spec.dtype == np.uint8 and value.dtype != np.uint8:
        raise EngineError(f"{where} must be uint8 because the file takes uint8 pixels, got {value.dtype}")
    return np.ascontiguousarray(value, dtype=spec.dtype)


def decode(raw: RawArray, spec: TensorSpec, count: int, where: str) -> FloatArray:
    """Turn what the engine gives back into float32 that shares no memory with it.

    Source: Jacob et al. 2018 (CVPR), eq. 1: ``real = scale * (q - zero_point)``.

    Args:
        raw: The engine's array.
        spec: The file's output.
        count: Batch size that went in.
        where: Start of the message.

    Returns:
        float32, C-contiguous, the same shape as ``raw``.

    Raises:
        EngineError: The batch does not come first, or is not the one that went in.
    """
    array = np.asarray(raw)
    if array.ndim < 1 or array.shape[0] != count:
        raise EngineError(f"{where} must have the batch of {count} first, the engine gave shape {array.shape}")
    values: FloatArray = np.array(array, dtype=np.float32, order="C", copy=True)
    if spec.scale > 0:
        values -= np.float32(spec.zero_point)
        values *= np.float32(spec.scale)
    return values


def _quantise(real: FloatArray, spec: TensorSpec) -> RawArray:
    limits = np.iinfo(spec.dtype)  # type: ignore[type-var]
    steps = np.rint(real / np.float32(spec.scale)) + spec.zero_point
    quantised: RawArray = np.clip(steps, limits.min, limits.max).astype(spec.dtype)
    return quantised


def import_engine(module: str, engine: str) -> ModuleType:
    """Import an engine's module, only when it is asked for.

    Args:
        module: Dotted name.
        engine: Name of the engine, also of the extra that installs it.

    Raises:
        EngineUnavailableError: It is not installed, or one of its system libraries is missing.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        raise EngineUnavailableError(
            f"the engine {engine!r} cannot be imported ({error}); install it with {install_command(engine)}"
        ) from error


def install_command(engine: str) -> str:
    """The pip command that installs an engine."""
    return f"pip install 'fasedge[{engine}]'"


def _bind(mapping: Mapping[str, str], specs: Sequence[TensorSpec], kind: str, origin: str) -> dict[str, int]:
    """Logical name to position in the file; an empty mapping keeps all names that the file has."""
    positions = {name: index for index, spec in enumerate(specs) for name in (spec.name, *spec.aliases)}
    if not mapping:
        return positions
    unknown = sorted(set(mapping.values()) - set(positions))
    if unknown:
        raise EngineError(
            f"{origin} has no {kind} called {', '.join(map(repr, unknown))}; it has {[s.name for s in specs]}; "
            f"correct TensorNames.{kind}s"
        )
    bound = {logical: positions[name] for logical, name in mapping.items()}
    if len(set(bound.values())) != len(bound):
        raise EngineError(f"{origin}: TensorNames.{kind}s gives one {kind} of the file to two names: {dict(mapping)}")
    return bound


def _check_specs(model: LoadedModel, origin: str) -> None:
    if not model.inputs or not model.outputs:
        raise EngineError(f"{origin} needs at least one input and one output")
    for spec in (*model.inputs, *model.outputs):
        is_pixels = spec in model.inputs and spec.dtype == np.uint8
        if not (spec.dtype in (np.float32, np.float16) or spec.scale > 0 or is_pixels):
            raise EngineError(
                f"{origin}: tensor {spec.name!r} is {spec.dtype} and the engine states no quantisation scale for it; "
                "expected float, uint8 pixels going in, or integers with scale and zero point "
                "(open a quantised .tflite with the engine 'litert')"
            )
        if not spec.shape:
            raise EngineError(f"{origin}: tensor {spec.name!r} is a scalar; expected the batch as its first dimension")
    fixed = {s.name: s.shape[0] for s in model.inputs if s.shape[0] not in (None, 1)}
    if fixed and not model.batched:
        raise EngineError(f"{origin} has a fixed batch size {fixed}; export it with batch size 1 or a free one")
