"""Which face finder there is, and how one is opened."""

from __future__ import annotations

import importlib.util

from fasedge.backends import ENGINES, available_engines, open_backend
from fasedge.backends._session import install_command
from fasedge.errors import EngineUnavailableError, InputError
from fasedge.faces._assets import BLAZEFACE_ONNX, BLAZEFACE_TFLITE, verified_asset
from fasedge.faces._base import FINDERS
from fasedge.faces._blazeface import BLAZEFACE_NAMES, BlazeFaceFinder
from fasedge.faces._checks import check_min_score
from fasedge.faces._mediapipe import MediaPipeFinder

#: OpenVINO reads both files; only the .onnx one lets it take all tiles of a picture in one call.
_FILES = {"openvino": BLAZEFACE_ONNX, "litert": BLAZEFACE_TFLITE, "onnxruntime": BLAZEFACE_ONNX}


def open_finder(
    finder: str = "auto",
    *,
    engine: str = "auto",
    min_score: float = 0.5,
    threads: int | None = None,
    zoom: bool = True,
) -> BlazeFaceFinder | MediaPipeFinder:
    """Open a face finder.

    Args:
        finder: ``blazeface``: BlazeFace in one of fasedge's engines. ``mediapipe``: MediaPipe's own face detector, the
            same network. ``auto``: ``blazeface`` when an engine is installed, else ``mediapipe``.
        engine: Engine of ``blazeface``: ``openvino``, ``litert``, ``onnxruntime``, or ``auto`` for the first of these
            that is installed.
        min_score: Faces below this confidence are left out, in [0, 1].
        threads: Number of threads of ``blazeface``, >= 1; ``None`` leaves it to the engine. MediaPipe takes no number.
        zoom: Let ``blazeface`` look at overlapping tiles too when a picture shows no large face, see
            :class:`fasedge.faces.BlazeFaceFinder`. Without it, ``blazeface`` finds what MediaPipe finds, which has no
            such thing.

    Returns:
        The finder, a context manager.

    Raises:
        InputError: There is no such finder or engine, or an engine was asked for beside ``mediapipe``; ``min_score``
            or ``threads`` is out of range.
        EngineUnavailableError: What was asked for is not installed.
        EngineError: The engine cannot load the network.
        ModelNotFoundError: The network file is missing.
        IntegrityError: The network file was altered.
    """
    if finder not in ("auto", *FINDERS):
        raise InputError(f"unknown face finder {finder!r}; expected auto, {' or '.join(FINDERS)}")
    if engine not in ("auto", *ENGINES):
        raise InputError(f"unknown engine {engine!r}; expected auto, {', '.join(ENGINES)}")
    check_min_score(min_score)
    if finder == "auto":
        finder = "blazeface" if engine != "auto" else _pick_finder()
    if finder == "mediapipe":
        if engine != "auto":
            raise InputError(f"the finder mediapipe brings its own engine; leave engine at auto, got {engine!r}")
        return MediaPipeFinder(min_score=min_score)
    engine = _pick_engine() if engine == "auto" else engine
    path = verified_asset(_FILES[engine])
    backend = open_backend(engine, path, names=BLAZEFACE_NAMES, threads=threads)
    return BlazeFaceFinder(backend, min_score=min_score, zoom=zoom)


def _pick_finder() -> str:
    if available_engines():
        return "blazeface"
    if importlib.util.find_spec("mediapipe") is not None:
        return "mediapipe"
    raise EngineUnavailableError(
        "no face finder can be opened: neither an inference engine nor MediaPipe is installed; install one with "
        + " or ".join(install_command(extra) for extra in (*ENGINES, "mediapipe"))
    )


def _pick_engine() -> str:
    for engine in ENGINES:
        if engine in available_engines():
            return engine
    raise EngineUnavailableError(
        "the face finder blazeface needs an inference engine, and none is installed; install one with "
        + " or ".join(install_command(engine) for engine in ENGINES)
    )
