"""The seam between fasedge and whatever delivers frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from fasedge.errors import FasEdgeError
from fasedge.types import Frame


@dataclass(frozen=True, slots=True)
class BadItem:
    """One item of a source that could not be read: the source goes on after it.

    Attributes:
        name: File name, or video name and frame number.
        error: What went wrong.
    """

    name: str
    error: FasEdgeError


@runtime_checkable
class FrameSource(Protocol):
    """An iterable of frames. A context manager; ``close`` may be called twice.

    Iterating yields a :class:`~fasedge.types.Frame` for each readable item and a :class:`BadItem` for each item that
    is not, so that one broken file neither ends a run nor vanishes from the report.
    """

    @property
    def name(self) -> str:
        """What was opened, for reports."""
        ...

    def __iter__(self) -> Iterator[Frame | BadItem]:
        """Deliver the items in a stable order."""
        ...

    def close(self) -> None:
        """Free resources. Idempotent."""
        ...
