"""One door to all sources."""

from __future__ import annotations

import glob
import re
from pathlib import Path

from fasedge.errors import InputError, SourceError
from fasedge.sources._base import FrameSource
from fasedge.sources._files import FilesSource, Listing, list_folder, sort_out
from fasedge.sources._headers import looks_like_picture
from fasedge.sources._images import IMAGE_ENDINGS, is_depth_picture
from fasedge.sources._video import VIDEO_ENDINGS, VideoSource, check_sampling
from fasedge.sources._webcam import WebcamSource

_CAMERA = re.compile(r"(?:webcam:|/dev/video)(\d+)")
_NETWORK = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_GLOB = re.compile(r"[*?\[]")


def open_source(
    spec: str | Path | int,
    *,
    recursive: bool = False,
    depth: bool = True,
    every: int = 1,
    max_frames: int | None = None,
) -> FrameSource:
    """Open pictures, a video or a camera as a source of frames.

    Args:
        spec: A picture; a folder; a pattern such as ``photos/*.jpg`` (``**`` goes into subfolders); a video
            (``.mp4 .avi .mkv .mov .webm``); or a camera as ``webcam:0``, ``/dev/video0`` or the bare int ``0``.
        recursive: For a folder: go into subfolders, too.
        depth: Load ``name_depth_mm.png`` (16 bit, millimetres) beside ``name_rgb.png`` where it exists.
        every: Of a video or camera, deliver every n-th frame.
        max_frames: Of each video or camera, deliver at most so many frames.

    Returns:
        A source; use it as a context manager. A file that turns out to be broken is delivered as a
        :class:`~fasedge.sources.BadItem`.

    Raises:
        InputError: ``every`` or ``max_frames`` is not positive, or the camera's number is negative.
        SourceError: There is nothing to read: no such file, nothing under the pattern, an empty folder, a file that
            is neither picture nor video, a video without a single decodable frame, a camera that does not open.
    """
    check_sampling(every, max_frames)
    if isinstance(spec, int):
        return WebcamSource(spec, every=every, max_frames=max_frames)
    text = str(spec)
    if isinstance(spec, str) and (camera := _CAMERA.fullmatch(text)):
        return WebcamSource(int(camera[1]), every=every, max_frames=max_frames)
    listing = _list(text, recursive=recursive)
    if listing is None:
        return VideoSource(text, every=every, max_frames=max_frames)
    return FilesSource(text, listing, depth=depth, every=every, max_frames=max_frames)


def _list(text: str, *, recursive: bool) -> Listing | None:
    """The files behind a path or pattern; ``None`` for a single video."""
    if not text or "\0" in text:
        raise InputError(f"expected a picture, folder, pattern, video or camera, got {text!r}")
    path = Path(text)
    try:
        if path.is_dir():
            return list_folder(path, recursive=recursive)
        if not path.exists():
            return _list_pattern(text)
        if path.suffix.lower() in VIDEO_ENDINGS:
            return None
        if path.suffix.lower() not in IMAGE_ENDINGS:
            _check_start(path)
    except OSError as error:
        raise SourceError(f"{text} cannot be read: {error.strerror or error}") from error
    if is_depth_picture(path):
        raise SourceError(f"{path} is a depth picture: give the colour picture (*_rgb.png) that lies beside it")
    return Listing((path,))


def _list_pattern(text: str) -> Listing:
    if _NETWORK.match(text):
        raise SourceError(f"{text} is a network address; frames come from files and local cameras only")
    if not _GLOB.search(text):
        raise SourceError(f"{text} does not exist: check the spelling and the folder; a camera is written webcam:0")
    listing = sort_out(Path(found) for found in glob.glob(text, recursive=True))  # noqa: PTH207 - absolute patterns
    if not listing.items:
        raise SourceError(f"no picture or video matches {text}")
    return listing


def _check_start(path: Path) -> None:
    """A file without a known ending may be a picture all the same; look at its first bytes."""
    if not path.is_file():
        raise SourceError(f"{path} is not a regular file")
    with path.open("rb") as stream:
        start = stream.read(16)
    if not looks_like_picture(start):
        raise SourceError(
            f"{path} is neither a picture ({' '.join(sorted(IMAGE_ENDINGS))}) "
            f"nor a video ({' '.join(sorted(VIDEO_ENDINGS))})"
        )
