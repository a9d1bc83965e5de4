"""The seam between fasedge and a face finder."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from fasedge.types import Face, UInt8Array

#: Names that ``open_finder`` takes beside ``auto``.
FINDERS = ("mediapipe", "blazeface")


@runtime_checkable
class FaceFinder(Protocol):
    """Finds faces in a picture. A context manager; ``close`` may be called twice."""

    @property
    def name(self) -> str:
        """Name of the finder, e.g. ``blazeface(openvino)``."""
        ...

    def find(self, rgb: UInt8Array) -> tuple[Face, ...]:
        """Find every face.

        Args:
            rgb: uint8 (H, W, 3), red first.

        Returns:
            The faces, largest box first; empty when there is none.

        Raises:
            EngineError: The engine under the finder failed.
        """
        ...

    def close(self) -> None:
        """Free resources. Idempotent."""
        ...
