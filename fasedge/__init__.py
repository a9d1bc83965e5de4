"""fasedge tells, on the device itself, whether the face in front of a camera is a living person or an attack.

>>> import fasedge
>>> "Detector" in fasedge.__all__
True

Importing the package is cheap: no inference engine, camera driver or plotting library is loaded before it is used.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING

from fasedge import errors
from fasedge.cards import DEFAULT_MODEL, list_models
from fasedge.quality import QualityLimits
from fasedge.types import (
    Box,
    Decision,
    Face,
    Frame,
    Intrinsics,
    Label,
    Observation,
    PadResult,
    Reason,
    Timings,
)

if TYPE_CHECKING:
    from fasedge.detector import Detector
    from fasedge.sources import open_source

try:
    __version__ = metadata.version("fasedge")
except metadata.PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+unknown"

__all__ = [
    "DEFAULT_MODEL",
    "Box",
    "Decision",
    "Detector",
    "Face",
    "Frame",
    "Intrinsics",
    "Label",
    "Observation",
    "PadResult",
    "QualityLimits",
    "Reason",
    "Timings",
    "__version__",
    "errors",
    "list_models",
    "open_source",
]

#: Public names whose modules pull in more than NumPy and OpenCV's core; loaded on first use.
_LAZY = {"Detector": "fasedge.detector", "open_source": "fasedge.sources"}


def __getattr__(name: str) -> object:
    """Load a lazy public name (PEP 562)."""
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'fasedge' has no attribute {name!r}")
    value: object = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Name the lazy names too."""
    return sorted(set(globals()) | set(__all__))
