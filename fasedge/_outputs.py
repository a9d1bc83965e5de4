"""From what an engine returns to one score and one map per face."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fasedge.backends._base import Array
from fasedge.errors import EngineError
from fasedge.types import FloatArray


def read_outputs(outputs: Mapping[str, Array], n: int) -> tuple[list[float], list[FloatArray | None]]:
    """Check an engine's outputs and take them apart face by face.

    Args:
        outputs: ``score`` of shape (N,) or (N, 1); ``map``, if there is one, of shape (N, m, m), (N, 1, m, m) or
            (N, m, m, 1).
        n: Number of faces that went in.

    Returns:
        The scores as the engine gave them (also NaN: :func:`fasedge.scoring.decide` judges them one by one) and a
        read-only float32 (m, m) map per face; ``None`` without maps.

    Raises:
        EngineError: No score, a wrong shape, or a map with a value that is not finite.
    """
    scores = read_scores(outputs, "score", n)
    if "map" not in outputs:
        return scores, [None] * n
    return scores, list(_read_maps(np.asarray(outputs["map"], np.float32), n))


def read_scores(outputs: Mapping[str, Array], name: str, n: int) -> list[float]:
    """Check one of an engine's scores.

    Args:
        outputs: The score, (N,) or (N, 1), by its name.
        name: Which.
        n: Number of faces that went in.

    Raises:
        EngineError: No such score, or a wrong shape.
    """
    if name not in outputs:
        raise EngineError(f"the model returned no output {name!r}, only {sorted(outputs) or 'nothing'}")
    score = np.asarray(outputs[name], np.float32)
    if score.shape not in {(n,), (n, 1)}:
        raise EngineError(f"expected scores of shape ({n},) or ({n}, 1), got {score.shape}")
    return [float(value) for value in score.reshape(n)]


def _read_maps(maps: FloatArray, n: int) -> FloatArray:
    shape = maps.shape
    if maps.ndim == 4 and shape[1] == 1:
        maps = maps[:, 0]
    elif maps.ndim == 4 and shape[3] == 1:
        maps = maps[..., 0]
    if maps.ndim != 3 or maps.shape[0] != n or maps.shape[1] != maps.shape[2]:
        raise EngineError(f"expected maps of shape ({n}, m, m), ({n}, 1, m, m) or ({n}, m, m, 1), got {shape}")
    if not np.isfinite(maps).all():
        raise EngineError("the model returned a score map with values that are not finite")
    maps = maps.copy()
    maps.flags.writeable = False
    return maps
