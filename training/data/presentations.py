"""Frames of a presentation, wherever they are stored: videos, pictures, and the HDF5 files of WMCA and HQ-WMCA.

Frames are picked evenly: the middles of ``n`` equal parts of the recording. What cannot be read is said frame by frame,
so that one broken frame does not cost the rest.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fasedge.errors import FrameError, SourceError
from fasedge.sources._video import VideoSource
from fasedge.types import Frame
from training.data.protocols.record import Record
from training.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class Picked:
    """One frame of a presentation.

    Attributes:
        index: Number of the frame, from 0.
        frame: Colour, and depth where it is wanted; ``None`` if it cannot be read.
        problem: Why not; empty otherwise.
        prepared: The frame is already an aligned crop, and its depth is already normalised to 0…255.
    """

    index: int
    frame: Frame | None
    problem: str = ""
    prepared: bool = False


def evenly(total: int, wanted: int) -> list[int]:
    """Numbers of the frames at the middles of ``wanted`` equal parts; all frames of a shorter recording.

    >>> evenly(10, 2)
    [2, 7]
    """
    if total <= wanted:
        return list(range(total))
    return [int((i + 0.5) * total / wanted) for i in range(wanted)]


def check_readable(record: Record, *, depth: bool = False) -> str:
    """Open a presentation and decode a frame, with its depth if wanted; say what is wrong, or nothing."""
    try:
        first = next(read_frames(record, 1, depth=depth), None)
    except (SourceError, DataError) as error:
        return str(error)
    if first is None:
        return f"{record.rgb} has no frame"
    return first.problem


def read_frames(record: Record, wanted: int, *, depth: bool) -> Iterator[Picked]:
    """Read frames of a presentation, evenly spread.

    Args:
        record: The presentation.
        wanted: How many frames.
        depth: Read depth too.

    Yields:
        The frames, in their order.

    Raises:
        SourceError: The video cannot be opened.
        DataError: Another file cannot be read, has no depth where depth is wanted, or needs a package (h5py) that is
            not installed.
    """
    if depth and record.depth is None:
        raise DataError(f"{record.rgb} comes without depth, which this method needs")
    if record.reader == "video":
        yield from _video(record, wanted, depth=depth)
    elif record.reader == "picture":
        yield _picture(record, depth=depth)
    else:
        yield from _hdf5(record, wanted, depth=depth)


def _video(record: Record, wanted: int, *, depth: bool) -> Iterator[Picked]:
    with VideoSource(record.rgb):  # opens it once, and says in words what is wrong with it
        pass
    maps = _depth_of_video(record.depth) if depth and record.depth is not None else None
    capture = cv2.VideoCapture(str(record.rgb))
    try:
        total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if total <= 0:  # some containers state no number
            total = sum(1 for _ in iter(capture.grab, False))
            capture.release()
            capture = cv2.VideoCapture(str(record.rgb))
        if maps is not None and len(maps) != total:
            raise DataError(
                f"{record.depth} has {len(maps)} maps, {record.rgb} has {total} frames; one of each is needed"
            )
        position = 0
        for index in evenly(total, wanted):
            while position <= index and capture.grab():
                position += 1
            if position <= index:
                yield Picked(index, None, f"{record.rgb} breaks off after frame {position} of {total}")
                continue
            ok, bgr = capture.retrieve()
            if not ok or bgr is None:
                yield Picked(index, None, f"frame {index} of {record.rgb} cannot be decoded")
            else:
                yield _picked(record, index, np.asarray(bgr, np.uint8), None if maps is None else maps[index])
    finally:
        capture.release()


def _picked(
    record: Record, index: int, bgr: NDArray[np.uint8], depth_mm: NDArray[np.uint16] | None, *, prepared: bool = False
) -> Picked:
    try:
        frame = Frame.from_bgr(bgr, depth_mm=depth_mm, name=f"{record.video_id}#{index}")
    except FrameError as error:
        return Picked(index, None, f"frame {index} of {record.rgb}: {error}")
    return Picked(index, frame, prepared=prepared)


def _depth_of_video(path: Path) -> NDArray[np.uint16]:
    try:
        maps = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        # NumPy's own words advise to load Python objects, which could run code.
        raise DataError(f"{path}: not a .npy file of depth maps, or cut off; write one with numpy.save") from error
    if maps.dtype != np.uint16 or maps.ndim != 3:
        raise DataError(
            f"{path}: depth of a video must be uint16 (frames, height, width), got {maps.dtype} {maps.shape}"
        )
    return np.asarray(maps)


def _picture(record: Record, *, depth: bool) -> Picked:
    bgr = _decode(record.rgb, cv2.IMREAD_COLOR)
    if bgr is None:
        return Picked(0, None, f"{record.rgb} is not a picture that can be decoded")
    depth_mm = None
    if depth and record.depth is not None:
        depth_mm = _decode(record.depth, cv2.IMREAD_UNCHANGED)
        if depth_mm is None or depth_mm.dtype != np.uint16 or depth_mm.ndim != 2:
            came = "no picture" if depth_mm is None else f"{depth_mm.dtype} {depth_mm.shape}"
            return Picked(0, None, f"{record.depth}: depth must be a 16-bit picture with one channel, got {came}")
    return _picked(record, 0, bgr, depth_mm)


def _decode(path: Path, flags: int) -> NDArray[Any] | None:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:
        return None


def _hdf5(record: Record, wanted: int, *, depth: bool) -> Iterator[Picked]:
    try:
        h5py: Any = importlib.import_module("h5py")
    except ImportError as error:
        raise DataError(f"{record.rgb}: HDF5 files need the package h5py; install it: pip install h5py") from error
    read = {"wmca_h5": _wmca, "hq_wmca_h5": _hq_wmca, "bob_hdf5": _bob}[record.reader]
    try:
        with h5py.File(record.rgb, "r") as file:
            yield from read(record, file, wanted, depth)
    except (OSError, KeyError, RuntimeError) as error:
        raise DataError(f"{record.rgb}: not a readable recording ({error})") from error


def _need(record: Record, file: Any, name: str, dimensions: int) -> Any:
    """A data set of a file, checked."""
    if name not in file:
        raise DataError(f"{record.rgb}: has no {name}; it holds {', '.join(sorted(file)) or 'nothing'}")
    found = file[name]
    if len(getattr(found, "shape", ())) != dimensions:
        raise DataError(
            f"{record.rgb}: {name} must have {dimensions} dimensions, got {getattr(found, 'shape', 'a group')}"
        )
    return found


def _stamps(stream: Any) -> NDArray[np.float64] | None:
    """Time stamps of a stream, if it has one for each frame."""
    for name in ("timestamps", "timestamp"):
        if name in stream.attrs and len(np.ravel(stream.attrs[name])) == len(stream):
            return np.ravel(np.asarray(stream.attrs[name], np.float64))
    return None


def _partner(rgb: Any, depth: Any, index: int) -> int:
    """Number of the depth frame that was taken nearest to a colour frame, by time stamps, else by place."""
    mine, theirs = _stamps(rgb), _stamps(depth)
    if mine is not None and theirs is not None:
        return int(np.abs(theirs - mine[index]).argmin())
    return min(len(depth) - 1, round(index * (len(depth) - 1) / max(1, len(rgb) - 1)))


def _wmca(record: Record, file: Any, wanted: int, depth: bool) -> Iterator[Picked]:
    rgb = _need(record, file, "intelsr300_bgr", 4)
    maps = _need(record, file, "intelsr300_depth", 3) if depth else None
    warp = _warp_of_day(dict(record.tags)) if depth else None
    for index in evenly(len(rgb), wanted):
        bgr = np.asarray(rgb[index], np.uint8)
        registered = None
        if maps is not None and warp is not None:
            source = _millimetres(np.asarray(maps[_partner(rgb, maps, index)], np.uint16))
            # Nearest neighbour: a mean of face and wall is a distance where nothing is.
            size = (bgr.shape[1], bgr.shape[0])
            registered = np.asarray(cv2.warpPerspective(source, warp, size, flags=cv2.INTER_NEAREST), np.uint16)
        yield _picked(record, index, bgr, registered)


def _millimetres(depth: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Depth of an Intel SR300, which counts in eighths of a millimetre; 0 stays 0.

    Source: librealsense, depth scale 0.000125 m of the SR300. WMCA's useful range of 2000 to 4000 is 250 to 500 mm.
    """
    return ((depth.astype(np.uint32) + 4) // 8).astype(np.uint16)


def _warp_of_day(tags: dict[str, str]) -> NDArray[np.float64]:
    path, day = Path(tags["warp"]), tags["day"]
    try:
        warps = json.loads(path.read_text(encoding="utf-8"))
        matrix = np.asarray(warps[day], np.float64)
    except KeyError as error:
        raise DataError(f"{path}: no warp for the day {day}") from error
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: not a table of warps by day ({error})") from error
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        raise DataError(f"{path}: the warp of {day} must be a 3x3 matrix, got {matrix.shape}")
    return matrix


def _hq_wmca(record: Record, file: Any, wanted: int, depth: bool) -> Iterator[Picked]:
    tags = dict(record.tags)
    rgb = _need(record, file, tags["rgb_stream"], 4)
    if rgb.shape[1] != 3:
        raise DataError(f"{record.rgb}: {tags['rgb_stream']} must be (frames, 3, height, width), got {rgb.shape}")
    maps = _need(record, file, tags["depth_stream"], 3) if depth else None
    if maps is not None and maps.shape[1:] != rgb.shape[2:]:
        raise DataError(
            f"{record.rgb}: depth is {maps.shape[1:]} and colour {rgb.shape[2:]}; name a depth stream in hq_wmca.toml "
            "that is registered to colour: the stereo calibration is not known to fasedge"
        )
    for index in evenly(len(rgb), wanted):
        bgr = np.ascontiguousarray(np.moveaxis(np.asarray(rgb[index], np.uint8), 0, 2))
        depth_mm = None if maps is None else np.asarray(maps[_partner(rgb, maps, index)], np.uint16)
        yield _picked(record, index, bgr, depth_mm)


def _bob(record: Record, file: Any, wanted: int, depth: bool) -> Iterator[Picked]:
    names: Sequence[str] = sorted((n for n in file if n.startswith("Frame_")), key=lambda n: int(n.split("_")[1]))
    for place in evenly(len(names), wanted):
        array = np.asarray(_need(record, file[names[place]], "array", 3))
        number = int(names[place].split("_")[1])
        if array.dtype != np.uint8 or array.shape[0] not in (3, 4):
            yield Picked(
                number,
                None,
                f"{record.rgb}: {names[place]} must be uint8 (3 or 4, S, S), got {array.dtype} {array.shape}",
            )
        elif depth and array.shape[0] == 3:
            yield Picked(number, None, f"{record.rgb}: {names[place]} has no depth channel")
        else:
            bgr = np.ascontiguousarray(np.moveaxis(array[2::-1], 0, 2))
            yield _picked(record, number, bgr, array[3].astype(np.uint16) if depth else None, prepared=True)
