"""Checks of what callers pass to a face finder."""

from __future__ import annotations

import numpy as np

from fasedge.errors import FrameError, InputError
from fasedge.types import MAX_SIDE_PX, UInt8Array


def check_min_score(min_score: float) -> None:
    """Check a score limit.

    Raises:
        InputError: It does not lie in [0, 1].
    """
    if not 0 <= min_score <= 1:
        raise InputError(f"min_score must lie in [0, 1], got {min_score}")


def check_rgb(rgb: UInt8Array) -> None:
    """Check a picture.

    Raises:
        FrameError: It is not uint8 (H, W, 3), has no pixel, or a side beyond :data:`fasedge.types.MAX_SIDE_PX`.
    """
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        got = f"{rgb.dtype} {rgb.shape}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
        raise FrameError(f"a face finder needs rgb as uint8 (H, W, 3), got {got}")
    height, width = rgb.shape[:2]
    if min(height, width) < 1 or max(height, width) > MAX_SIDE_PX:
        raise FrameError(f"a picture's sides must lie in 1..{MAX_SIDE_PX} px, got {width}x{height}")
