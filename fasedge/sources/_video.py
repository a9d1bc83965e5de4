"""Video files, frame by frame."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np

from fasedge.errors import InputError, SourceError
from fasedge.sources._base import BadItem
from fasedge.sources._images import MAX_PIXELS
from fasedge.types import MAX_SIDE_PX, Frame

#: Endings under which a file is opened as a video.
VIDEO_ENDINGS = frozenset({".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v"})


def check_sampling(every: int, max_frames: int | None) -> None:
    """Check the options that thin out a video or camera.

    Raises:
        InputError: One of them is not a positive whole number.
    """
    if every < 1:
        raise InputError(f"every must be 1 (each frame) or more, got {every}")
    if max_frames is not None and max_frames < 1:
        raise InputError(f"max_frames must be 1 or more, got {max_frames}")


class VideoSource:
    """Frames of a video file. Each iteration starts at the first frame.

    A frame is called ``clip.mp4#13``, counted from 1 in the file; its timestamp is the video's own. A phone's rotation
    mark is applied by OpenCV. If the file breaks off before the number of frames that it states, a
    :class:`BadItem` after the last frame says so.

    Args:
        path: The file.
        every: Deliver every n-th frame, starting with the first.
        max_frames: Deliver at most so many frames.

    Attributes:
        name: Path of the file.

    Raises:
        InputError: ``every`` or ``max_frames`` is not positive.
        SourceError: The file cannot be read, is no video, or no frame of it can be decoded.
    """

    def __init__(self, path: str | Path, *, every: int = 1, max_frames: int | None = None) -> None:
        check_sampling(every, max_frames)
        self.name = str(path)
        self._path = Path(path)
        self._every = every
        self._max_frames = max_frames
        self._closed = False
        self._open_now: set[cv2.VideoCapture] = set()
        capture = self._open()
        try:
            if not capture.grab():
                raise SourceError(
                    f"{path} has no frame that can be decoded: it is damaged, was not copied completely, or uses a "
                    "codec that this OpenCV lacks; convert it, for instance to H.264 in .mp4"
                )
        finally:
            self._release(capture)

    def _open(self) -> cv2.VideoCapture:
        self._check_file()
        try:
            capture = cv2.VideoCapture(str(self._path))
            # OpenCV would also take "clip01.mp4" for the first of a series of pictures.
            opened = capture.isOpened() and capture.getBackendName() != "CV_IMAGES"
        except cv2.error as error:
            raise SourceError(f"{self.name} cannot be opened as a video: {error}") from error
        if not opened:
            capture.release()
            raise SourceError(
                f"{self.name} cannot be opened as a video: it is damaged, was not copied completely, or is no video"
            )
        self._open_now.add(capture)
        size = [int(capture.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)]
        if max(size) > MAX_SIDE_PX or size[0] * size[1] > MAX_PIXELS:
            self._release(capture)
            raise SourceError(f"{self.name} is {size[0]}x{size[1]} px: too large; convert it to a usual size")
        return capture

    def _check_file(self) -> None:
        path = self._path
        try:
            if path.is_dir():
                raise SourceError(f"{path} is a folder, not a video")
            with path.open("rb") as stream:
                if not stream.read(1):
                    raise SourceError(f"{path} is empty (0 bytes): it was probably not copied completely")
        except FileNotFoundError as error:
            raise SourceError(f"{path} does not exist: check the spelling and the folder") from error
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error

    def _release(self, capture: cv2.VideoCapture) -> None:
        self._open_now.discard(capture)
        capture.release()

    def __iter__(self) -> Iterator[Frame | BadItem]:
        """Deliver the frames in the order of the file.

        Raises:
            SourceError: The source was closed.
        """
        if self._closed:
            raise SourceError(f"{self.name} was closed: open it again")
        capture = self._open()
        try:
            yield from self._frames(capture)
        finally:
            self._release(capture)

    def _frames(self, capture: cv2.VideoCapture) -> Iterator[Frame | BadItem]:
        read = delivered = 0
        while delivered != self._max_frames and not self._closed:
            if not capture.grab():
                yield from self._early_end(read, capture.get(cv2.CAP_PROP_FRAME_COUNT))
                return
            read += 1
            if (read - 1) % self._every:
                continue
            timestamp_s = max(0.0, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
            ok, bgr = capture.retrieve()
            name = f"{self.name}#{read}"
            delivered += 1
            if not ok or bgr is None:
                yield BadItem(name, SourceError(f"frame {read} of {self.name} cannot be decoded"))
                continue
            yield Frame.from_bgr(np.asarray(bgr, np.uint8), timestamp_s=timestamp_s, name=name)

    def _early_end(self, read: int, stated: float) -> Iterator[BadItem]:
        """Say that the video breaks off.

        Some containers hold a duration instead of a count, and the count is then rounded: one frame, or 2 % of a long
        video, is no evidence.
        """
        if self._closed or not math.isfinite(stated) or read >= stated - max(1.0, math.ceil(0.02 * stated)):
            return
        message = f"{self.name} breaks off after frame {read} of {round(stated)}: the rest was not checked"
        yield BadItem(f"{self.name}#{read + 1}", SourceError(message))

    def close(self) -> None:
        """Release the file. Idempotent; an iteration under way ends."""
        self._closed = True
        for capture in tuple(self._open_now):
            self._release(capture)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()
