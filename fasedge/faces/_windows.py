"""Square windows of a picture: the whole of it, or overlapping tiles for small faces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from fasedge.faces._anchors import INPUT_PX
from fasedge.faces._detections import Detections
from fasedge.types import FloatArray, UInt8Array

#: Neighbouring tiles share at least this part of their side. A face that is cut by every tile would have to be
#: larger, and is then large enough for the next coarser pass.
TILE_OVERLAP = 0.35


@dataclass(frozen=True, slots=True)
class Window:
    """A square of the picture; may reach beyond it.

    Attributes:
        left: x of its left edge in pixels.
        top: y of its upper edge in pixels.
        side: Its side in pixels.
    """

    left: float
    top: float
    side: float


def whole(width: int, height: int) -> Window:
    """The smallest square round the whole picture, with the picture in its middle."""
    side = max(width, height)
    return Window((width - side) / 2, (height - side) / 2, side)


def tiles(width: int, height: int, side: float) -> tuple[Window, ...]:
    """Overlapping squares that cover the picture, row by row, evenly spread.

    Args:
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
        side: Side of a tile in pixels; along an axis that is shorter, the picture lies in the tile's middle.
    """
    return tuple(Window(x, y, side) for y in _starts(height, side) for x in _starts(width, side))


def _starts(length: int, side: float) -> list[float]:
    if length <= side:
        return [(length - side) / 2]
    count = math.ceil((length - side) / (side * (1 - TILE_OVERLAP))) + 1
    return [i * (length - side) / (count - 1) for i in range(count)]


def sample(rgb: UInt8Array, windows: Sequence[Window]) -> FloatArray:
    """Cut windows out as network input.

    A window's corners go to the corners of the input, interpolated linearly, black outside the picture, as
    MediaPipe's CPU path does it. The corner points pass through float32 as they do there: one part in ten million
    moves a sample to the next of OpenCV's 1/32 px steps, and that shows in the key points.

    Args:
        rgb: uint8 (H, W, 3), red first.
        windows: N windows.

    Returns:
        float32 (N, 128, 128, 3), red first, in [-1, 1].
    """
    size = np.float32(INPUT_PX)
    corners = np.array([[0, size], [0, 0], [size, 0], [size, size]], np.float32)
    batch = np.empty((len(windows), INPUT_PX, INPUT_PX, 3), np.float32)
    for window, out in zip(windows, batch, strict=True):
        center = (window.left + window.side / 2, window.top + window.side / 2)
        source = cv2.boxPoints((center, (window.side, window.side), 0.0))
        transform = cv2.getPerspectiveTransform(source, corners)
        picture = cv2.warpPerspective(
            rgb, transform, (INPUT_PX, INPUT_PX), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
        )
        np.multiply(picture, np.float32(2 / 255), out=out)
    batch -= 1
    return batch


def to_picture(found: Detections, window: Window) -> Detections:
    """Turn fractions of a window into pixels of the picture."""
    offset = np.array([window.left, window.top], np.float32)
    return Detections(found.points * np.float32(window.side) + offset, found.scores)


def drop_cut(found: Detections, window: Window, width: int, height: int) -> Detections:
    """Leave out what touches an edge at which the window, but not the picture, ends: a neighbour sees it whole.

    Args:
        found: Detections in pixels of the picture.
        window: Where they were found.
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
    """
    low = np.array([window.left, window.top], np.float32)
    high = low + np.float32(window.side)
    inner_low, inner_high = low > 0, high < np.array([width, height], np.float32)
    boxes = found.points
    cut = ((boxes[:, 0] < low) & inner_low) | ((boxes[:, 1] > high) & inner_high)
    return found.take(np.logical_not(np.any(cut, axis=1)))
