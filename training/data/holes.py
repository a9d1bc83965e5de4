"""Holes in depth: parts of a face from which nothing returns.

Dark, glossy and slanting surfaces swallow the light of depth cameras, and an attacker can choose such surfaces: a black
rim round a print leaves a hole where the relief of a face would show that there is none. Whoever learns from depth must
have seen holes of every shape, in attacks as often as in living people.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fasedge.types import Box, UInt16Array

_Kind: TypeAlias = Literal["rim", "frame", "side", "patch"]
KINDS: tuple[_Kind, ...] = ("rim", "frame", "side", "patch")
#: Smallest share of the box that is left.
_LEAST = 0.25


def with_hole(depth_mm: UInt16Array, box: Box, rng: np.random.Generator) -> UInt16Array:
    """Take a part of a face's depth away.

    Four kinds are drawn alike: *rim*, all but a disc; *frame*, all but a rectangle; *side*, all beyond a straight line;
    and *patch*, a rectangle.

    Args:
        depth_mm: uint16 (H, W), millimetres; not changed.
        box: The face.
        rng: Source of every random number; as many are drawn whatever the kind.

    Returns:
        The same with 0 in the hole; the map itself where less than a quarter of the box would keep its depth.
    """
    kind = KINDS[int(rng.integers(len(KINDS)))]
    place = rng.uniform(-1, 1, 2)
    size = rng.uniform(0, 1, 3)
    height, width = depth_mm.shape
    (cx, cy), side = box.center, box.width
    # Places relative to the middle of the box, in box widths.
    x: NDArray[np.float64] = ((np.arange(width, dtype=np.float64) + 0.5 - cx) / side)[None, :]
    y: NDArray[np.float64] = ((np.arange(height, dtype=np.float64) + 0.5 - cy) / side)[:, None]
    made = np.where(_hole(kind, x, y, place, size), 0, depth_mm).astype(np.uint16)
    inside = (np.abs(x) <= 0.5) & (np.abs(y) <= 0.5)
    kept = np.count_nonzero(made[inside]) if inside.any() else 0
    return made if kept >= _LEAST * np.count_nonzero(inside) and kept else depth_mm


def _hole(
    kind: _Kind, x: NDArray[np.float64], y: NDArray[np.float64], place: NDArray[np.float64], size: NDArray[np.float64]
) -> NDArray[np.bool_]:
    dx, dy = 0.1 * place
    if kind == "rim":
        return np.asarray((x - dx) ** 2 + (y - dy) ** 2 > (0.28 + 0.3 * size[0]) ** 2)
    if kind == "frame":
        half_x, half_y = 0.26 + 0.24 * size[:2]
        return np.asarray((np.abs(x - dx) > half_x) | (np.abs(y - dy) > half_y))
    if kind == "side":
        angle = np.pi * place[0]
        return np.asarray(x * np.cos(angle) + y * np.sin(angle) > 0.4 * size[0])
    x0, y0 = 0.5 * place
    half_x, half_y = 0.05 + 0.25 * size[:2]
    return np.asarray((np.abs(x - x0) < half_x) & (np.abs(y - y0) < half_y))
