"""Webcams through OpenCV."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Protocol, Self

import cv2
import numpy as np

from fasedge.errors import InputError, SourceError
from fasedge.sources._base import BadItem
from fasedge.sources._video import check_sampling
from fasedge.types import Frame, UInt8Array

#: Cameras drop single frames, above all while they start; this many in a row mean that the camera is gone.
MAX_MISSES = 30


class Capture(Protocol):
    """The part of ``cv2.VideoCapture`` that a webcam needs."""

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        """Whether the device was opened."""
        ...

    def grab(self) -> bool:
        """Take the next frame from the device."""
        ...

    def retrieve(self) -> tuple[bool, UInt8Array | None]:
        """Decode the frame that was grabbed: uint8 (H, W, 3), blue first."""
        ...

    def set(self, key: int, value: float) -> bool:
        """Set a property."""
        ...

    def release(self) -> None:
        """Let go of the device."""
        ...


def _open_camera(index: int) -> Capture:
    capture: Capture = cv2.VideoCapture(index)  # type: ignore[assignment]  # OpenCV's stubs say ndarray of anything
    return capture


class WebcamSource:
    """Live frames of a webcam, without end unless ``max_frames`` is given.

    Args:
        index: Number of the camera, 0 for the first.
        every: Deliver every n-th frame.
        max_frames: Deliver at most so many frames.
        size: Width and height in pixels to ask of the camera; it may deliver another size. ``None``: its default.
        opener: Opens the device; tests pass a fake.
        clock: Seconds for the timestamps.

    Attributes:
        name: ``webcam:0``.

    Raises:
        InputError: A number is out of range.
        SourceError: The camera cannot be opened.
    """

    def __init__(
        self,
        index: int = 0,
        *,
        every: int = 1,
        max_frames: int | None = None,
        size: tuple[int, int] | None = None,
        opener: Callable[[int], Capture] = _open_camera,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_sampling(every, max_frames)
        if index < 0:
            raise InputError(f"a camera's number is 0 or more, got {index}")
        self.name = f"webcam:{index}"
        self._every = every
        self._max_frames = max_frames
        self._clock = clock
        self._closed = False
        self._capture = self._open(opener, index)
        # The newest frame is wanted, not the oldest in the driver's queue; cameras that cannot do it refuse.
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        if size is not None:
            self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
            self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])

    def _open(self, opener: Callable[[int], Capture], index: int) -> Capture:
        try:
            capture = opener(index)
            opened = capture.isOpened()
        except cv2.error as error:
            raise SourceError(f"camera {index} cannot be opened: {error}") from error
        if not opened:
            capture.release()
            raise SourceError(
                f"camera {index} cannot be opened: check that it is plugged in, that no other program uses it, and "
                "that you may use it (on Linux: the group 'video'; on macOS: Privacy & Security > Camera)"
            )
        return capture

    def __iter__(self) -> Iterator[Frame | BadItem]:
        """Deliver frames as they come; end with a :class:`BadItem` when the camera stops.

        Raises:
            SourceError: The source was closed.
        """
        if self._closed:
            raise SourceError(f"{self.name} was closed: open it again")
        taken = delivered = misses = 0
        while delivered != self._max_frames and not self._closed:
            bgr = self._take(skip=taken % self._every != 0)
            if bgr is None:
                misses += 1
                if misses < MAX_MISSES:
                    continue
                message = f"{self.name} stopped after {taken} frames: was it unplugged or taken by another program?"
                yield BadItem(f"{self.name}#{taken + 1}", SourceError(message))
                return
            misses = 0
            taken += 1
            if bgr.size == 0:
                continue
            delivered += 1
            yield Frame.from_bgr(bgr, timestamp_s=self._clock(), name=f"{self.name}#{taken}")

    def _take(self, *, skip: bool) -> UInt8Array | None:
        """Take one frame: ``None`` if none came, an empty array if it was taken only to be skipped."""
        try:
            if not self._capture.grab():
                return None
            if skip:
                return np.empty((0, 0, 3), np.uint8)
            ok, bgr = self._capture.retrieve()
        except cv2.error as error:
            raise SourceError(f"{self.name} failed: {error}") from error
        return bgr if ok and bgr is not None and bgr.size else None

    def close(self) -> None:
        """Let go of the camera. Idempotent."""
        if not self._closed:
            self._closed = True
            self._capture.release()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()
