"""What a picture file says about itself before a single pixel is decoded.

OpenCV allocates as soon as it decodes, so size, orientation, number of pictures and completeness are read here from
the bytes. Only what a camera, a phone or a screenshot tool writes is understood; everything else is refused.

Sources: JPEG: ITU-T T.81, Annex B. PNG: W3C PNG Specification, third edition, clauses 5 and 11. GIF: GIF89a. WebP:
RFC 9649. TIFF: TIFF 6.0, section 2. Orientation: Exif 2.32, tag 274.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

from fasedge.errors import SourceError

_UPRIGHT = 1
_ORIENTATION_TAG = 274
_MAX_DIRECTORIES = 64

#: Start-of-frame markers: C0..CF without DHT (C4), JPG (C8) and DAC (CC).
_JPEG_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE_MARKERS = frozenset({0x01, 0xD8, *range(0xD0, 0xD8)})
#: Within coded data FF is followed by 00 or by a restart marker; anything else ends the scan.
_JPEG_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the header of a picture file says.

    Attributes:
        kind: ``JPEG``, ``PNG``, ``BMP``, ``WebP``, ``TIFF`` or ``GIF``.
        width: Stored width in pixels, before the orientation is applied.
        height: Stored height in pixels.
        orientation: Exif orientation 1..8; 1 is upright.
        pictures: Number of pictures in the file; more than one is an animation or a document with pages.
    """

    kind: str
    width: int
    height: int
    orientation: int = _UPRIGHT
    pictures: int = 1


def read_header(data: bytes, name: str) -> ImageHeader:
    """Read the header of a picture file.

    Args:
        data: The whole file.
        name: File name, for the message.

    Raises:
        SourceError: The file is empty, breaks off, or is no picture of a kind that is read.
    """
    if not data:
        raise SourceError(f"{name} is empty (0 bytes): it was probably not copied completely")
    reader = _reader_for(data)
    if reader is None:
        raise SourceError(f"{name} {_what_it_is(data)}")
    try:
        return reader(data)
    except (struct.error, IndexError) as error:
        raise SourceError(
            f"{name} breaks off in the middle: it has {len(data)} bytes and its end is missing; copy it again"
        ) from error


def _reader_for(data: bytes) -> Callable[[bytes], ImageHeader] | None:
    if data[:4] == b"RIFF":
        return _webp if data[8:12] == b"WEBP" else None
    for signature, reader in _SIGNATURES.items():
        if data.startswith(signature):
            return reader
    return None


def looks_like_picture(start: bytes) -> bool:
    """Whether the first bytes of a file (16 are enough) are those of a picture that is read."""
    return _reader_for(start) is not None


def _what_it_is(data: bytes) -> str:
    """Say what an unreadable file seems to be, and what to do."""
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    if brand in (b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis", b"heim", b"heis", b"hevc"):
        return "is a HEIC or AVIF photo, which is not read: export it as JPEG or PNG"
    if brand or data[:4] == b"\x1aE\xdf\xa3" or (data[:4] == b"RIFF" and data[8:12] == b"AVI "):
        return "is a video with the ending of something else: give it its own ending (.mp4, .avi, .mkv, .mov, .webm)"
    if data[:4] in (b"II+\0", b"MM\0+"):
        return "is a BigTIFF, which is not read: save it as TIFF or PNG"
    return "is not a picture, whatever its ending says: expected JPEG, PNG, BMP, WebP, TIFF or GIF"


def _jpeg(data: bytes) -> ImageHeader:
    width = height = 0
    orientation = _UPRIGHT
    position = 2
    while True:
        # Decoders skip stray bytes between segments, and some cameras write them.
        while data[position] != 0xFF:
            position += 1
        while data[position] == 0xFF:
            position += 1
        marker = data[position]
        position += 1
        if marker == 0xD9:  # end of image
            return ImageHeader("JPEG", width, height, orientation)
        if marker in _JPEG_BARE_MARKERS:
            continue
        (length,) = struct.unpack_from(">H", data, position)
        if marker in _JPEG_FRAME_MARKERS:
            height, width = struct.unpack_from(">HH", data, position + 3)
        elif marker == 0xE1 and data[position + 2 : position + 8] == b"Exif\0\0":
            orientation = _exif_orientation(data[position + 8 : position + length])
        position += length
        if marker == 0xDA:  # start of scan: coded data follow up to the next true marker
            end = _JPEG_SCAN_END.search(data, position)
            if end is None:
                raise IndexError("no end of scan")
            position = end.start()


def _png(data: bytes) -> ImageHeader:
    width, height = struct.unpack_from(">II", data, 16)
    orientation, pictures = _UPRIGHT, 1
    position = 8
    while True:
        length, kind = struct.unpack_from(">I4s", data, position)
        body = position + 8
        if body + length + 4 > len(data):
            raise IndexError("a chunk is cut off")
        if kind == b"IEND":
            return ImageHeader("PNG", width, height, orientation, pictures)
        if kind == b"acTL":
            (pictures,) = struct.unpack_from(">I", data, body)
        elif kind == b"eXIf":
            orientation = _exif_orientation(data[body : body + length])
        position = body + length + 4


def _gif(data: bytes) -> ImageHeader:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + _gif_table_size(flags)
    pictures = 0
    while True:
        block = data[position]
        if block == 0x3B:  # trailer
            return ImageHeader("GIF", width, height, pictures=pictures)
        if block == 0x2C:  # image descriptor
            pictures += 1
            left, top, w, h, flags = struct.unpack_from("<HHHHB", data, position + 1)
            width, height = max(width, left + w), max(height, top + h)
            position += 10 + _gif_table_size(flags) + 1
        else:  # extension
            position += 2
        while data[position]:
            position += data[position] + 1
        position += 1


def _gif_table_size(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _webp(data: bytes) -> ImageHeader:
    (stated,) = struct.unpack_from("<I", data, 4)
    if len(data) < stated + 8:
        raise IndexError("shorter than its RIFF header says")
    width = height = 0
    orientation, pictures = _UPRIGHT, 0
    position, end = 12, stated + 8
    while position + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, position)
        body = position + 8
        if kind == b"VP8X":
            width = int.from_bytes(data[body + 4 : body + 7], "little") + 1
            height = int.from_bytes(data[body + 7 : body + 10], "little") + 1
        elif kind in (b"VP8 ", b"VP8L"):
            pictures += 1
            size = _webp_still_size(data, kind, body)
            width, height = max(width, size[0]), max(height, size[1])
        elif kind == b"ANMF":
            pictures += 1
        elif kind == b"EXIF":
            orientation = _exif_orientation(data[body : body + length].removeprefix(b"Exif\0\0"))
        position = body + length + (length & 1)
    return ImageHeader("WebP", width, height, orientation, pictures)


def _webp_still_size(data: bytes, kind: bytes, body: int) -> tuple[int, int]:
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, body + 1)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, body + 6)
    return width & 0x3FFF, height & 0x3FFF


def _bmp(data: bytes) -> ImageHeader:
    (header_size,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header_size == 12 else "<ii", data, 18)
    return ImageHeader("BMP", abs(width), abs(height))  # a negative height means: stored from top to bottom


def _tiff(data: bytes) -> ImageHeader:
    directories = _tiff_directories(data)
    first = directories[0]
    # Bit 0 of NewSubfileType (254) marks a thumbnail of another picture in the file.
    pictures = sum(1 for directory in directories if not directory.get(254, 0) & 1)
    orientation = first.get(_ORIENTATION_TAG, _UPRIGHT)
    return ImageHeader("TIFF", first.get(256, 0), first.get(257, 0), _valid_orientation(orientation), pictures)


def _exif_orientation(block: bytes) -> int:
    """Orientation in an Exif block; a broken block is no reason to refuse a good picture."""
    try:
        directories = _tiff_directories(block)
    except (struct.error, IndexError):
        return _UPRIGHT
    return _valid_orientation(directories[0].get(_ORIENTATION_TAG, _UPRIGHT))


def _valid_orientation(value: int) -> int:
    return value if 1 <= value <= 8 else _UPRIGHT


def _tiff_directories(data: bytes) -> list[dict[int, int]]:
    """Tags with a single whole number, directory by directory; at least one directory."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        raise IndexError("no byte order")
    (offset,) = struct.unpack_from(order + "I", data, 4)
    directories: list[dict[int, int]] = []
    seen: set[int] = set()
    # A chain of directories may loop in a hostile file.
    while offset and offset not in seen and len(directories) < _MAX_DIRECTORIES:
        seen.add(offset)
        (count,) = struct.unpack_from(order + "H", data, offset)
        tags: dict[int, int] = {}
        for entry in range(offset + 2, offset + 2 + 12 * count, 12):
            tag, kind, number = struct.unpack_from(order + "HHI", data, entry)
            if number == 1 and kind in (3, 4):
                (tags[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, entry + 8)
        directories.append(tags)
        (offset,) = struct.unpack_from(order + "I", data, offset + 2 + 12 * count)
    if not directories:
        raise IndexError("no directory")
    return directories


_SIGNATURES: dict[bytes, Callable[[bytes], ImageHeader]] = {
    b"\xff\xd8\xff": _jpeg,
    b"\x89PNG\r\n\x1a\n": _png,
    b"GIF87a": _gif,
    b"GIF89a": _gif,
    b"II*\0": _tiff,
    b"MM\0*": _tiff,
    b"BM": _bmp,
}
