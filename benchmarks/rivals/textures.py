"""Patterns that FAS-Aug blends over pictures: screens, blue noise, halftone."""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from fasedge.types import FloatArray, UInt8Array

#: Sub-pixels of one screen pixel, as rows of columns: r, g, b light, w white, k dark. Together they are grey.
LAYOUTS: dict[str, tuple[str, ...]] = {
    "rgb": ("rgb",),
    "bgr": ("bgr",),
    "rgb_gap": ("rgb", "rgb", "rgb", "kkk"),
    "bgr_gap": ("bgr", "bgr", "bgr", "kkk"),
    "rgbg": ("rrgbbg",),
    "rgbg_gap": ("rrgbbg", "rrgbbg", "rrgbbg", "kkkkkk"),
    "rgbw": ("rg", "bw"),
    "rgbw_gap": ("rrgg", "rrgg", "bbww", "bbww", "kkkk"),
}
_LIGHT = {"r": (255, 0, 0), "g": (0, 255, 0), "b": (0, 0, 255), "w": (255, 255, 255), "k": (0, 0, 0)}
#: A texture is drawn this much finer than the picture and then averaged, as FAS-Aug reduces its textures.
FINER = 3
#: Mean level of a texture; those of FAS-Aug have means of 100 to 147 of 255.
MEAN_LEVEL = 110


def screen(size: int, layout: str, pitch: float, rng: np.random.Generator) -> UInt8Array:
    """A screen's pixels, seen bent and sampled too coarsely, so that moire fringes arise.

    FAS-Aug holds 190 drawn pictures of such patterns, of ten layouts; here each is drawn anew.

    Args:
        size: Side in pixels.
        layout: Arrangement of the sub-pixels, a key of :data:`LAYOUTS`.
        pitch: Width of a screen pixel in thirds of a pixel of the result, > 0.
        rng: Draws the bend and the turn.

    Returns:
        uint8 (size, size, 3), red first.
    """
    fine = FINER * size
    axis = np.linspace(-1, 1, fine, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    turn = float(rng.normal(0, 0.06))
    # A bend of a few screen pixels is enough to turn straight fringes into curves. Floats, not NumPy's: those would
    # make the grids twice as wide and half as fast.
    xx, yy, xy, down_xx, down_yy, down_xy = (float(v) for v in rng.uniform(-0.04, 0.04, 6))
    across = math.cos(turn) * x - math.sin(turn) * y + xx * x * x + yy * y * y + xy * x * y
    down = math.sin(turn) * x + math.cos(turn) * y + down_xx * x * x + down_yy * y * y + down_xy * x * y
    start_across, start_down = (float(v) for v in rng.uniform(0, 1, 2))
    cells = np.array([[_LIGHT[c] for c in row] for row in LAYOUTS[layout]], np.uint8)
    row = _cell(down * (fine / 2 / pitch) + start_down, cells.shape[0])
    column = _cell(across * (fine / 2 / pitch) + start_across, cells.shape[1])
    seen = cv2.resize(cells[row, column], (size, size), interpolation=cv2.INTER_AREA).astype(np.float32)
    return np.asarray(np.rint(np.clip(seen + (MEAN_LEVEL - seen.mean()), 0, 255)), np.uint8)


def _cell(place: FloatArray, count: int) -> NDArray[np.intp]:
    """Which of ``count`` even parts of its unit each place lies in."""
    # Rounding can turn a place just below a whole number into that number.
    return np.minimum(((place - np.floor(place)) * count).astype(np.intp), count - 1)


#: Side of the blue-noise textures.
BLUE_PX = 256
#: Number of different ones.
BLUE_COUNT = 16


@lru_cache(BLUE_COUNT)
def blue_noise(number: int) -> UInt8Array:
    """One channel of blue noise: every level equally often, no coarse structure.

    FAS-Aug uses textures that were made by void-and-cluster. Alternating between the wanted spectrum and the wanted
    histogram reaches nearly the same in a hundredth of the time.

    Args:
        number: Which of the textures, in [0, :data:`BLUE_COUNT`).

    Returns:
        uint8 (256, 256); it can be tiled.
    """
    values = np.random.default_rng([20240903, number]).random((BLUE_PX, BLUE_PX))
    frequency = np.hypot(np.fft.fftfreq(BLUE_PX)[:, None], np.fft.rfftfreq(BLUE_PX)[None])
    keep = 1 - np.exp(-(frequency**2) / (2 * 0.22**2))
    levels = np.arange(BLUE_PX**2) / BLUE_PX**2
    for _ in range(12):
        filtered = np.fft.irfft2(np.fft.rfft2(values - 0.5) * keep, s=values.shape)
        values = np.empty(BLUE_PX**2)
        values[np.argsort(filtered, axis=None)] = levels
        values = values.reshape(BLUE_PX, BLUE_PX)
    return (values * 256).astype(np.uint8)


def blue_texture(size: int, colourful: bool, rng: np.random.Generator) -> UInt8Array:
    """A cut of blue noise, grey or with independent channels: uint8 (size, size, 3)."""
    numbers = rng.choice(BLUE_COUNT, 3, replace=False) if colourful else np.repeat(rng.integers(BLUE_COUNT), 3)
    top, left = (int(v) for v in rng.integers(0, BLUE_PX, 2))
    rows, columns = (np.arange(size) + top) % BLUE_PX, (np.arange(size) + left) % BLUE_PX
    return np.stack([blue_noise(int(number))[np.ix_(rows, columns)] for number in numbers], -1)


#: Order in which the dots of a 3 x 3 cell are set as it grows lighter; the cell has ten levels.
DOT_ORDER = np.array([[3, 1, 5], [8, 9, 6], [4, 7, 2]])


def halftone(grey: FloatArray) -> UInt8Array:
    """Ten-level dot halftone at a third of the picture's resolution.

    Args:
        grey: float32 (H, W), any range; the darkest place becomes level 0 and the lightest level 9.

    Returns:
        uint8 (H, W), 0 or 255.
    """
    height, width = grey.shape
    small = cv2.resize(grey, (max(1, width // 3), max(1, height // 3)), interpolation=cv2.INTER_LINEAR)
    low, high = float(small.min()), float(small.max())
    level = np.floor((small - low) * (9 / max(high - low, 1e-6)) + 1e-4)
    dots = np.kron(level, np.ones((3, 3))) >= np.tile(DOT_ORDER, small.shape)
    out = np.where(dots, 255, 0).astype(np.uint8)
    if out.shape != grey.shape:
        out = np.asarray(cv2.resize(out, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)
    return out
