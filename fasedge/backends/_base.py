"""The seam between fasedge and an inference engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

#: A tensor at the seam: uint8 pixels going in, float32 coming out.
Array: TypeAlias = NDArray[np.uint8] | NDArray[np.float32]

#: Engines in the order in which ``engine="auto"`` tries them.
ENGINES = ("openvino", "litert", "onnxruntime")


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """What runs, and where.

    Attributes:
        engine: ``openvino``, ``litert`` or ``onnxruntime``; fakes may use another word.
        version: Version of the engine, with the distribution's name where several can serve (``ai-edge-litert 2.3.0``).
        device: Device in the engine's own words (``CPU``).
        threads: Number of threads asked for; 0 means that the engine chooses.
        batched: Whether several faces are really one call to the engine.
    """

    engine: str
    version: str
    device: str
    threads: int
    batched: bool


@runtime_checkable
class Backend(Protocol):
    """One loaded model in one engine. A context manager; ``close`` may be called twice."""

    @property
    def info(self) -> BackendInfo:
        """What runs, and where."""
        ...

    def infer(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run the model once.

        Args:
            inputs: Logical input name to array with the batch first, e.g. ``{"rgb": uint8 (N, S, S, 3)}``, N >= 1.

        Returns:
            Logical output name to float32 array with the same N first, e.g. ``score`` (N,), ``map`` (N, m, m).

        Raises:
            EngineError: The engine failed, or the inputs do not fit the model.
        """
        ...

    def close(self) -> None:
        """Free the engine's resources. Idempotent."""
        ...
