"""Which engines there are, and how one is opened."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fasedge.backends import _litert, _onnxruntime, _openvino
from fasedge.backends._base import ENGINES, Backend, BackendInfo
from fasedge.backends._session import EngineBackend, LoadedModel, install_command
from fasedge.errors import EngineError, EngineUnavailableError, InputError, ModelNotFoundError
from fasedge.types import TensorNames


@dataclass(frozen=True, slots=True)
class _Provider:
    """A distribution that can serve an engine, and the module that it installs."""

    distribution: str
    module: str


_LITERT = _Provider("ai-edge-litert", "ai_edge_litert")
_TFLITE_RUNTIME = _Provider("tflite-runtime", "tflite_runtime")
_PROVIDERS: Mapping[str, tuple[_Provider, ...]] = {
    "openvino": (_Provider("openvino", "openvino"),),
    "litert": (_LITERT, _TFLITE_RUNTIME),
    "onnxruntime": tuple(
        _Provider(name, "onnxruntime") for name in ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml")
    ),
}
_SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "openvino": _openvino.SUFFIXES,
    "litert": _litert.SUFFIXES,
    "onnxruntime": _onnxruntime.SUFFIXES,
}


def available_engines() -> Mapping[str, str]:
    """Engines that are installed, without importing any.

    Returns:
        Engine to version, in the order of :data:`fasedge.backends.ENGINES`; the version carries the distribution's
        name where that is not the engine's (``{"litert": "ai-edge-litert 2.3.0"}``).
    """
    return {engine: found[1] for engine in ENGINES if not isinstance(found := _find(engine), str)}


def missing_engines() -> Mapping[str, str]:
    """Engines that cannot be used, without importing any.

    Returns:
        Engine to the reason and what to do about it.
    """
    return {engine: found for engine in ENGINES if isinstance(found := _find(engine), str)}


def open_backend(
    engine: str,
    path: Path | str,
    *,
    names: TensorNames = TensorNames(),  # noqa: B008  (immutable)
    threads: int | None = None,
    device: str = "CPU",
) -> Backend:
    """Load a model into an engine.

    Args:
        engine: ``openvino`` (``.xml``, ``.onnx``, float ``.tflite``), ``litert`` (``.tflite``) or ``onnxruntime``
            (``.onnx``, ``.ort``).
        path: The model file. Its hash is not checked here; see :func:`fasedge.cards.verified_model_path`.
        names: Logical tensor names to the file's; empty mappings keep the file's names. A mapping of outputs returns
            those outputs only; a mapping of inputs must name them all.
        threads: Number of threads, >= 1; ``None`` leaves it to the engine.
        device: Device in the engine's own words: OpenVINO ``CPU``, ``GPU``, ``AUTO``, …; ONNX Runtime ``CPU``,
            ``GPU`` or the name of an execution provider; LiteRT ``CPU``.

    Returns:
        The backend, a context manager. ``info.batched`` tells whether several faces are one call to the engine; a file
        whose batch size is fixed to 1 runs them one after the other, with the same results.

    Raises:
        InputError: There is no such engine, or ``threads`` is not a positive whole number.
        ModelNotFoundError: There is no such file, or its weights file is missing.
        EngineUnavailableError: The engine is not installed.
        EngineError: The engine cannot load the file or has no such device, or ``names`` does not fit the file.
    """
    if engine not in ENGINES:
        raise InputError(f"unknown engine {engine!r}; expected one of {', '.join(ENGINES)}")
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise InputError(f"threads must be a whole number >= 1, or None to let the engine choose, got {threads!r}")
    path = _checked_path(engine, Path(path))
    found = _find(engine)
    if isinstance(found, str):
        raise EngineUnavailableError(found)
    provider, version = found
    model = _load(engine, provider, path, threads, device)
    info = BackendInfo(engine=engine, version=version, device=device, threads=threads or 0, batched=model.batched)
    return EngineBackend(model, info, names, str(path))


def _load(engine: str, provider: _Provider, path: Path, threads: int | None, device: str) -> LoadedModel:
    if engine == "openvino":
        return _openvino.OpenVINOModel(path, threads, device)
    if engine == "litert":
        return _litert.LiteRTModel(path, f"{provider.module}.interpreter", threads, device)
    return _onnxruntime.OnnxRuntimeModel(path, threads, device)


def _checked_path(engine: str, path: Path) -> Path:
    if path.suffix.lower() not in _SUFFIXES[engine]:
        raise EngineError(f"{engine} reads {', '.join(_SUFFIXES[engine])} files, got {path}")
    if not path.is_file():
        raise ModelNotFoundError(f"there is no model file at {path}")
    if path.stat().st_size == 0:
        raise EngineError(f"the model file {path} is empty; copy or export it again")
    return path


def _find(engine: str) -> tuple[_Provider, str] | str:
    """The provider that serves an engine with its version, or the reason why there is none."""
    reason = f"the engine {engine!r} is not installed; install it with {install_command(engine)}"
    for provider, version in _installed(engine):
        complaint = _litert.numpy_complaint() if provider is _TFLITE_RUNTIME else ""
        if not complaint:
            return provider, version if provider.distribution == engine else f"{provider.distribution} {version}"
        reason = f"the engine {engine!r} cannot be used: {complaint}"
    return reason


def _installed(engine: str) -> list[tuple[_Provider, str]]:
    present = [p for p in _PROVIDERS[engine] if importlib.util.find_spec(p.module) is not None]
    found: list[tuple[_Provider, str]] = []
    for provider in present:
        try:
            found.append((provider, importlib.metadata.version(provider.distribution)))
        except importlib.metadata.PackageNotFoundError:
            continue
    # Engines built from source or unpacked from an archive carry no metadata.
    return found or [(provider, "(unknown version)") for provider in present[:1]]
