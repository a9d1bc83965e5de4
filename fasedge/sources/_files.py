"""Several files as one source: a single picture, a folder, a glob.

In a folder, hidden files and folders are passed over, pictures and videos are read by their endings in natural order
(``2.jpg`` before ``10.jpg``), a depth picture travels with its colour picture, and whatever is neither picture nor
video is listed in :attr:`FilesSource.skipped`, so that nothing vanishes in silence.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from fasedge.errors import FasEdgeError, SourceError
from fasedge.sources._base import BadItem
from fasedge.sources._images import IMAGE_ENDINGS, depth_partner, is_depth_picture, load_image
from fasedge.sources._video import VIDEO_ENDINGS, VideoSource
from fasedge.types import Frame

_DIGITS = re.compile(r"(\d+)")


def natural_key(text: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key under which numbers in names count as numbers and case does not matter."""
    parts = _DIGITS.split(text.casefold())
    return tuple((0, int(part)) if index % 2 else (1, part) for index, part in enumerate(parts))


def _path_key(path: Path) -> tuple[tuple[tuple[tuple[int, int | str], ...], ...], str]:
    return tuple(natural_key(part) for part in path.parts), str(path)


@dataclass(frozen=True, slots=True)
class Listing:
    """What was found in a folder or under a glob.

    Attributes:
        items: Pictures and videos to read, and what is known to be unreadable, in the order of delivery.
        skipped: Other files that are not read.
    """

    items: tuple[Path | BadItem, ...]
    skipped: tuple[str, ...] = ()


def sort_out(paths: Iterable[Path], broken: Iterable[BadItem] = ()) -> Listing:
    """Divide files into those that are read, those that cannot be, and those that are passed over."""
    items: list[Path | BadItem] = list(broken)
    skipped: list[str] = []
    for path in sorted(paths, key=_path_key):
        ending = path.suffix.lower()
        if is_depth_picture(path):
            if not _has_colour(path):
                error = SourceError(f"{path} is a depth picture without its colour picture (*_rgb.png) beside it")
                items.append(BadItem(str(path), error))
        elif ending not in IMAGE_ENDINGS | VIDEO_ENDINGS:
            skipped.append(str(path))
        elif path.is_dir():
            error = SourceError(f"{path} is a folder although its name ends like a picture")
            items.append(BadItem(str(path), error))
        else:
            items.append(path)
    return Listing(tuple(items), tuple(skipped))


def _has_colour(depth: Path) -> bool:
    stem = depth.name.removesuffix("_depth_mm.png")
    candidates = (depth.with_name(f"{stem}_rgb{ending}") for ending in IMAGE_ENDINGS)
    return any(candidate.exists() and depth_partner(candidate) == depth for candidate in candidates)


def list_folder(folder: Path, *, recursive: bool = False) -> Listing:
    """Pictures and videos in a folder.

    Args:
        folder: The folder.
        recursive: Go into subfolders, too (symbolic links to folders are not followed).

    Raises:
        SourceError: The folder cannot be read, or holds neither pictures nor videos.
    """
    found: list[Path] = []
    broken: list[BadItem] = []

    def unreadable(error: OSError) -> None:
        where = str(error.filename or folder)
        broken.append(BadItem(where, SourceError(f"{where} cannot be read: {error.strerror or error}")))

    subfolders = False
    for root, names, files in os.walk(folder, onerror=unreadable):
        names[:] = [name for name in names if not name.startswith(".")]
        found += [Path(root) / name for name in files if not name.startswith(".")]
        if not recursive:
            subfolders = bool(names)
            found += [Path(root) / name for name in names if Path(name).suffix.lower() in IMAGE_ENDINGS]
            break
    listing = sort_out(found, broken)
    if not listing.items:
        hint = "; it has subfolders: add --recursive (recursive=True) to read them" if subfolders else ""
        raise SourceError(f"{folder} holds no pictures ({_endings(IMAGE_ENDINGS)}) or videos{hint}")
    return listing


def _endings(endings: frozenset[str]) -> str:
    return " ".join(sorted(endings))


class FilesSource:
    """Frames of several files, one after the other. A broken file becomes a :class:`BadItem`; the rest goes on.

    Args:
        name: What was opened, for reports.
        listing: The files.
        depth: Load the depth picture beside ``*_rgb.png``.
        every: Of a video, deliver every n-th frame.
        max_frames: Of a video, deliver at most so many frames.

    Attributes:
        name: What was opened, for reports.
        skipped: Files that are neither pictures nor videos and are not read.
    """

    def __init__(
        self, name: str, listing: Listing, *, depth: bool = True, every: int = 1, max_frames: int | None = None
    ) -> None:
        self.name = name
        self.skipped = listing.skipped
        self._items = listing.items
        self._depth = depth
        self._every = every
        self._max_frames = max_frames
        self._video: VideoSource | None = None
        self._closed = False

    def __len__(self) -> int:
        """Number of files."""
        return len(self._items)

    def __iter__(self) -> Iterator[Frame | BadItem]:
        """Deliver the frames in natural order of the file names.

        Raises:
            SourceError: The source was closed.
        """
        for item in self._items:
            if self._closed:
                raise SourceError(f"{self.name} was closed: open it again")
            if isinstance(item, BadItem):
                yield item
            elif item.suffix.lower() in VIDEO_ENDINGS:
                yield from self._video_frames(item)
            else:
                yield self._picture(item)

    def _picture(self, path: Path) -> Frame | BadItem:
        try:
            return load_image(path, depth=self._depth)
        except FasEdgeError as error:
            return BadItem(str(path), error)

    def _video_frames(self, path: Path) -> Iterator[Frame | BadItem]:
        try:
            video = VideoSource(path, every=self._every, max_frames=self._max_frames)
        except FasEdgeError as error:
            yield BadItem(str(path), error)
            return
        self._video = video
        try:
            yield from video
        finally:
            video.close()

    def close(self) -> None:
        """Close a video that is being read. Idempotent."""
        self._closed = True
        if self._video is not None:
            self._video.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()
