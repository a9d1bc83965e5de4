"""Every error that fasedge raises on purpose.

The tree::

    FasEdgeError
    ├── InputError            what was passed in cannot be used (also a ValueError)
    │   ├── FrameError        an image or depth array of the wrong shape, type or size
    │   └── SourceError       a file, folder, video or camera cannot be opened or breaks off
    ├── ModelError            a model cannot be used
    │   ├── ModelNotFoundError   no such model, engine file or card
    │   ├── CardError            the card is malformed or misses what is asked of it
    │   └── IntegrityError       a file does not match the SHA-256 in its card
    ├── EngineError           an inference engine failed
    │   └── EngineUnavailableError   the engine or one of its parts is not installed
    ├── OutputError           a result cannot be written
    └── MetricError           a rate is undefined for the given data (also a ValueError)

A message names what was expected, what came and what to do about it. Errors of engines and cameras are
turned into these once, where the engine is called, and keep the original as ``__cause__``.
"""

from __future__ import annotations


class FasEdgeError(Exception):
    """Base class of every error that fasedge raises on purpose."""


class InputError(FasEdgeError, ValueError):
    """What was passed in cannot be used."""


class FrameError(InputError):
    """An image or depth array has the wrong shape, type or size."""


class SourceError(InputError):
    """A file, folder, video or camera cannot be opened or breaks off."""


class ModelError(FasEdgeError):
    """A model cannot be used."""


class ModelNotFoundError(ModelError):
    """There is no such model, engine file or card."""


class CardError(ModelError):
    """A model card is malformed or misses what is asked of it."""


class IntegrityError(ModelError):
    """A model file does not match the SHA-256 that its card states."""


class EngineError(FasEdgeError):
    """An inference engine failed."""


class EngineUnavailableError(EngineError):
    """An inference engine, or a part of it, is not installed."""


class OutputError(FasEdgeError):
    """A result cannot be written."""


class MetricError(FasEdgeError, ValueError):
    """A rate is undefined for the given data."""
