"""Pictures: decode one, read one, read a folder of them.

What is decided here about the odd cases:

* The Exif orientation is applied, so that a phone's portrait photo stands upright.
* 16-bit pictures are scaled to 8 bit by 1/257 (65535 becomes 255), grey ones are repeated into three channels, and
  transparency is laid over mid grey (128), because what is invisible must not be scored.
* A file with several pictures (animated GIF, WebP or PNG, TIFF with pages) is refused: scoring the first one and
  passing over the rest in silence would let anything hide behind it.
* The size is read from the header before anything is decoded; see :data:`MAX_PIXELS`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np

from fasedge.errors import FrameError, SourceError
from fasedge.sources._headers import ImageHeader, read_header
from fasedge.types import MAX_SIDE_PX, Frame, UInt8Array, UInt16Array

#: Endings under which a folder looks for pictures.
IMAGE_ENDINGS = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"})
#: No picture may have more pixels; with :data:`fasedge.types.MAX_SIDE_PX` it bounds the memory of one picture.
MAX_PIXELS = 100_000_000
#: No picture file may be larger: 100 megapixels of 16-bit RGBA without compression fit.
MAX_FILE_BYTES = 1 << 30

_Pixels: TypeAlias = UInt8Array | UInt16Array
_GREY = 128
_COLOUR_SUFFIX = "_rgb"
_DEPTH_SUFFIX = "_depth_mm.png"


def read_bytes(path: Path) -> bytes:
    """Read a whole file.

    Raises:
        SourceError: It does not exist, is a folder or a device, is too large, or may not be read.
    """
    try:
        if path.is_dir():
            raise SourceError(f"{path} is a folder, not a picture")
        if not path.is_file():
            what = "is not a regular file" if path.exists() else "does not exist: check the spelling and the folder"
            raise SourceError(f"{path} {what}")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise SourceError(f"{path} has {size:,} bytes; a picture file may have at most {MAX_FILE_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error


def decode_image(data: bytes, *, name: str = "picture") -> UInt8Array:
    """Decode a picture file.

    Args:
        data: Content of a JPEG, PNG, BMP, WebP, TIFF or GIF file.
        name: What to call it in messages.

    Returns:
        uint8 (H, W, 3), red first, upright.

    Raises:
        SourceError: Empty, incomplete, damaged, too large, several pictures in one file, or no picture at all.
    """
    header = read_header(data, name)
    _check_header(header, name)
    pixels = _decode(data, header, name)
    upright = pixels if header.kind == "TIFF" else _turn_upright(pixels, header.orientation)
    return _to_rgb8(upright, name)


def _check_header(header: ImageHeader, name: str) -> None:
    if header.pictures > 1:
        raise SourceError(
            f"{name} holds {header.pictures} pictures (an animation, or a document with pages): save the one you mean "
            "as a still picture, or convert the animation to a video"
        )
    size = f"{header.width}x{header.height}"
    if min(header.width, header.height) < 1:
        raise SourceError(f"{name} states an impossible size of {size} px: the file is damaged")
    if max(header.width, header.height) > MAX_SIDE_PX or header.width * header.height > MAX_PIXELS:
        raise SourceError(
            f"{name} is {size} px; at most {MAX_SIDE_PX} px per side and {MAX_PIXELS // 10**6} megapixels are read: "
            "make it smaller first"
        )


def _decode(data: bytes, header: ImageHeader, name: str) -> _Pixels:
    damaged = f"{name} is damaged: it starts like a {header.kind} file, but its content cannot be decoded"
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise SourceError(damaged) from error
    if pixels is None or {*pixels.shape[:2]} != {header.width, header.height}:
        raise SourceError(damaged)
    if pixels.dtype == np.uint8:
        return np.asarray(pixels, np.uint8)
    if pixels.dtype == np.uint16:
        return np.asarray(pixels, np.uint16)
    raise SourceError(f"{name} has {pixels.dtype} pixels; expected 8 or 16 bits per channel: convert it to PNG")


def _turn_upright(pixels: _Pixels, orientation: int) -> _Pixels:
    """Undo the Exif orientation. Source: Exif 2.32, tag 274."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels.copy()


def _to_rgb8(pixels: _Pixels, name: str) -> UInt8Array:
    if pixels.dtype == np.uint16:
        pixels = np.asarray(cv2.convertScaleAbs(pixels, alpha=1 / 257), np.uint8)
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels == 1:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB), np.uint8)
    if channels == 3:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
    if channels == 4:
        return _over_grey(np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA), np.uint8))
    raise SourceError(f"{name} has {channels} channels; expected grey, colour, or colour with transparency")


def _over_grey(rgba: UInt8Array) -> UInt8Array:
    """Lay a transparent picture over mid grey: ``(a * c + (255 - a) * 128) / 255``, rounded."""
    rgb = np.empty((*rgba.shape[:2], 3), np.uint8)
    alpha = rgba[..., 3].astype(np.uint32)
    for channel in range(3):  # one channel at a time keeps the peak of a large picture low
        mixed = alpha * rgba[..., channel] + (255 - alpha) * _GREY
        rgb[..., channel] = (mixed + 127) // 255
    return rgb


def load_image(path: str | Path, *, depth: bool = True) -> Frame:
    """Read a still picture, with its depth where a depth picture lies beside it.

    Beside ``name_rgb.png`` (any picture ending) the depth is ``name_depth_mm.png``: a 16-bit grey PNG in millimetres,
    0 where nothing came back. A coarser depth grid is spread over the colour picture by repeating its values, if both
    sides are the same whole fraction.

    Args:
        path: The colour picture.
        depth: Load the depth picture if there is one.

    Raises:
        SourceError: A file cannot be read or decoded; see :func:`decode_image`.
        FrameError: The depth picture does not fit the colour picture.
    """
    path = Path(path)
    data = read_bytes(path)
    rgb = decode_image(data, name=str(path))
    partner = depth_partner(path) if depth else None
    if partner is None:
        return Frame(rgb=rgb, name=str(path))
    if read_header(data, str(path)).orientation != 1:
        raise FrameError(
            f"{path} carries a rotation mark, so it is not known whether {partner.name} is turned too: "
            "save the colour picture upright and without the mark"
        )
    return Frame(rgb=rgb, depth_mm=_fit_depth(load_depth(partner), rgb, partner), name=str(path))


def depth_partner(path: Path) -> Path | None:
    """The depth picture that belongs to a colour picture, if it exists."""
    if not path.stem.endswith(_COLOUR_SUFFIX):
        return None
    partner = path.with_name(path.stem.removesuffix(_COLOUR_SUFFIX) + _DEPTH_SUFFIX)
    return partner if partner.exists() else None


def is_depth_picture(path: Path) -> bool:
    """Whether a file's name says that it holds depth, not colour."""
    return path.name.endswith(_DEPTH_SUFFIX)


def load_depth(path: Path) -> UInt16Array:
    """Read a depth picture.

    Returns:
        uint16 (H, W) in millimetres, 0 = no return.

    Raises:
        SourceError: The file cannot be read or decoded.
        FrameError: It is not a 16-bit picture with one channel.
    """
    data = read_bytes(path)
    header = read_header(data, str(path))
    _check_header(header, str(path))
    pixels = _decode(data, header, str(path))
    if pixels.dtype != np.uint16 or pixels.ndim != 2:
        raise FrameError(
            f"{path} must be a grey picture with 16 bits per pixel (millimetres), got {pixels.dtype} {pixels.shape}"
        )
    return np.asarray(pixels, np.uint16)


def _fit_depth(depth: UInt16Array, rgb: UInt8Array, path: Path) -> UInt16Array:
    height, width = rgb.shape[:2]
    factor = width // depth.shape[1]
    if factor < 1 or (depth.shape[0] * factor, depth.shape[1] * factor) != (height, width):
        raise FrameError(
            f"{path} is {depth.shape[1]}x{depth.shape[0]} px, its colour picture {width}x{height}; expected the same "
            "size or a whole fraction of it: align the depth to the colour when recording"
        )
    if factor == 1:
        return depth
    return np.repeat(np.repeat(depth, factor, axis=0), factor, axis=1)
