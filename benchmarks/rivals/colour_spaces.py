"""RGB working spaces and offset presses: what the ICC profiles of FAS-Aug do to a picture, from published numbers.

The profiles themselves may not be redistributed. A matrix profile is fixed by its primaries, white and tone curve, so
those conversions are the same up to rounding. A press profile is a measured table; the Neugebauer model from the
colours of the solid inks, with dot gain, is its textbook stand-in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fasedge.types import FloatArray, UInt8Array

Matrix = NDArray[np.float64]
_D50 = (0.96422, 1.0, 0.82521)
_D65 = (0.95047, 1.0, 1.08883)
_E = (1.0, 1.0, 1.0)
#: Cone responses of the Bradford chromatic adaptation (ICC.1:2010, annex E).
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


@dataclass(frozen=True, slots=True)
class RgbSpace:
    """An RGB working space.

    Attributes:
        primaries_xy: Chromaticities of red, green and blue.
        white_xyz: White point, Y = 1.
        gamma: Exponent of the tone curve; 0 is the curve of sRGB (IEC 61966-2-1).
    """

    primaries_xy: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    white_xyz: tuple[float, float, float]
    gamma: float


_SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
_PROPHOTO = ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001))
#: Ten of the eleven working spaces of FAS-Aug (of "Max RGB" no primaries are published).
#: Source: B. Lindbloom, "RGB Working Space Information"; Adobe RGB (1998) colour image encoding; IEC 61966-2-1.
RGB_SPACES: dict[str, RgbSpace] = {
    "srgb": RgbSpace(_SRGB, _D65, 0),
    "srgb_gamma22": RgbSpace(_SRGB, _D65, 2.2),
    "adobe_1998": RgbSpace(((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), _D65, 2.2),
    "apple": RgbSpace(((0.625, 0.34), (0.28, 0.595), (0.155, 0.07)), _D65, 1.8),
    "colormatch": RgbSpace(((0.63, 0.34), (0.295, 0.605), (0.15, 0.075)), _D50, 1.8),
    "cie": RgbSpace(((0.735, 0.265), (0.274, 0.717), (0.167, 0.009)), _E, 2.2),
    "prophoto": RgbSpace(_PROPHOTO, _D50, 1.8),
    "prophoto_d65": RgbSpace(_PROPHOTO, _D65, 1.8),
    "don_4": RgbSpace(((0.696, 0.30), (0.215, 0.765), (0.13, 0.035)), _D50, 2.2),
    "best": RgbSpace(((0.7347, 0.2653), (0.215, 0.775), (0.13, 0.035)), _D50, 2.2),
}


def adaptation(white_xyz: tuple[float, float, float]) -> Matrix:
    """Bradford adaptation of XYZ from a white to D50, the white of profile connection; float64 (3, 3)."""
    scale = (_BRADFORD @ _D50) / (_BRADFORD @ white_xyz)
    return np.asarray(np.linalg.inv(_BRADFORD) @ (scale[:, None] * _BRADFORD), np.float64)


@lru_cache
def to_connection(name: str) -> Matrix:
    """Matrix from linear RGB of a working space to XYZ under D50; float64 (3, 3).

    Source: each primary's XYZ is its chromaticity, scaled so that together they give the white point.
    """
    space = RGB_SPACES[name]
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in space.primaries_xy]).T
    scaled = columns * np.linalg.solve(columns, space.white_xyz)
    return np.asarray(adaptation(space.white_xyz) @ scaled, np.float64)


def decode(codes: FloatArray, name: str) -> FloatArray:
    """Codes in [0, 1] to linear light."""
    gamma = RGB_SPACES[name].gamma
    if gamma:
        return np.asarray(codes**gamma, np.float32)
    return np.where(codes <= 0.04045, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4).astype(np.float32)


def encode(linear: FloatArray, name: str) -> UInt8Array:
    """Linear light to codes, uint8; what lies outside the space is clipped."""
    linear = np.clip(linear, 0, 1)
    gamma = RGB_SPACES[name].gamma
    if gamma:
        codes = linear ** (1 / gamma)
    else:
        codes = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(255 * codes), np.uint8)


def convert(picture: UInt8Array, source: str, target: str) -> UInt8Array:
    """Convert codes of one working space to those of another, relative colorimetric.

    Args:
        picture: uint8 (H, W, 3), red first.
        source: Space that the codes are taken to be in, a key of :data:`RGB_SPACES`.
        target: Space of the result.

    Returns:
        uint8 (H, W, 3), red first.
    """
    matrix = (np.linalg.inv(to_connection(target)) @ to_connection(source)).astype(np.float32)
    levels = decode(np.linspace(0, 1, 256, dtype=np.float32), source)
    return encode(levels[picture] @ matrix.T, target)


Lab = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Press:
    """A printing condition.

    Attributes:
        paper: CIELAB (D50) of the paper, black backing.
        cyan: Of the solid ink; likewise magenta, yellow.
        red: Of magenta over yellow.
        green: Of cyan over yellow.
        blue: Of cyan over magenta.
        three: Of all three inks.
        gain: Dot gain at half tone.
    """

    paper: Lab
    cyan: Lab
    magenta: Lab
    yellow: Lab
    red: Lab
    green: Lab
    blue: Lab
    three: Lab
    gain: float


_COATED = Press(
    paper=(93, 0, -3),
    cyan=(54, -36, -49),
    magenta=(46, 72, -5),
    yellow=(87, -6, 90),
    red=(46, 67, 47),
    green=(49, -66, 24),
    blue=(24, 16, -45),
    three=(22, 0, 0),
    gain=0.15,
)
_WEB = Press(
    paper=(87, -1, 3),
    cyan=(54, -37, -42),
    magenta=(45, 71, -2),
    yellow=(82, -6, 86),
    red=(46, 65, 45),
    green=(48, -63, 24),
    blue=(26, 17, -40),
    three=(24, 0, 0),
    gain=0.14,
)
_UNCOATED = Press(
    paper=(92, 0, -3),
    cyan=(58, -25, -43),
    magenta=(54, 58, -2),
    yellow=(86, -4, 75),
    red=(52, 53, 25),
    green=(52, -42, 13),
    blue=(37, 9, -30),
    three=(33, 0, 0),
    gain=0.21,
)
#: Stand-ins for FAS-Aug's seven press profiles (two of which are nearly the same): coated paper with three dot gains,
#: light-weight web paper, uncoated paper with two.
#: Source: aims of ISO 12647-2:2004 for paper types 1/2, 3 and 4, rounded. The dot gains were chosen so that greys and
#: skin tones come out as light as through the profiles named beside them; the mean difference is 3 to 8 of 255.
PRESSES: dict[str, Press] = {
    "coated": _COATED,  # US Sheetfed Coated
    "coated_sharp": replace(_COATED, gain=0.11),  # Euroscale Coated
    "coated_light": replace(_COATED, gain=0.06),  # Japan Standard
    "web_coated": _WEB,  # US Web Coated
    "uncoated": _UNCOATED,  # US Sheetfed Uncoated, US Web Uncoated
    "uncoated_sharp": replace(_UNCOATED, gain=0.17),  # Euroscale Uncoated
}


def _lab_to_xyz(lab: Lab) -> Matrix:
    """CIELAB to XYZ under D50 (CIE 15)."""
    fy = (lab[0] + 16) / 116
    f = np.array([fy + lab[1] / 500, fy, fy - lab[2] / 200])
    return np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * _D50


#: Yule-Nielsen's exponent: light spreads under the dots of paper.
_YULE_NIELSEN = 1.7


def printed_xyz(inks: FloatArray, press: Press) -> FloatArray:
    """Colour of a halftone, relative to the paper.

    Args:
        inks: float32 (..., 3), cover with cyan, magenta and yellow as sent to the press, in [0, 1].
        press: Printing condition.

    Returns:
        float32 (..., 3), XYZ under D50, where the paper is the white.

    Source: Neugebauer's equations with Demichel's weights and Yule-Nielsen's exponent; parabolic dot gain.
    """
    cover = inks + 4 * press.gain * inks * (1 - inks)
    c, m, y = (cover[..., i, None] for i in range(3))
    corners = (
        ((1 - c) * (1 - m) * (1 - y), press.paper),
        (c * (1 - m) * (1 - y), press.cyan),
        ((1 - c) * m * (1 - y), press.magenta),
        ((1 - c) * (1 - m) * y, press.yellow),
        ((1 - c) * m * y, press.red),
        (c * (1 - m) * y, press.green),
        (c * m * (1 - y), press.blue),
        (c * m * y, press.three),
    )
    total = sum(w * (_lab_to_xyz(lab) ** (1 / _YULE_NIELSEN)).astype(np.float32) for w, lab in corners)
    xyz = np.asarray(total, np.float32) ** np.float32(_YULE_NIELSEN)
    return np.asarray(xyz * (np.array(_D50) / _lab_to_xyz(press.paper)).astype(np.float32), np.float32)


#: Steps of the table along each ink.
_STEPS = 17


@lru_cache
def _print_table(press: str, space: str) -> FloatArray:
    axis = np.linspace(0, 1, _STEPS, dtype=np.float32)
    inks = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    linear = printed_xyz(inks, PRESSES[press]) @ np.linalg.inv(to_connection(space)).T.astype(np.float32)
    return encode(linear, space).astype(np.float32)


def print_and_read(picture: UInt8Array, press: str, space: str) -> UInt8Array:
    """Send ``255 - code`` as ink without black to a press and read the print back into a working space.

    Args:
        picture: uint8 (H, W, 3), red first.
        press: Printing condition, a key of :data:`PRESSES`.
        space: Working space of the result, a key of :data:`RGB_SPACES`.

    Returns:
        uint8 (H, W, 3), red first.
    """
    table = _print_table(press, space)
    place = (1 - picture.astype(np.float32) / 255) * (_STEPS - 1)
    low = np.minimum(place.astype(np.int32), _STEPS - 2)
    part = place - low
    out = np.zeros(picture.shape, np.float32)
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(corner, part, 1 - part), -1, keepdims=True)
        out += weight * table[tuple(low[..., i] + corner[i] for i in range(3))]
    return np.rint(out).astype(np.uint8)
