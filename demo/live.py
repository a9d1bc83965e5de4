"""A window with the live picture and what fasedge says about it: ``python -m demo.live [SOURCE]``.

Nothing is recorded. The program uses public names of :mod:`fasedge` only, so that it can be copied as a start for an
application.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

import fasedge
from fasedge.sources import BadItem

#: Blue first, as OpenCV draws. The words beside the box say the same, for people who do not tell red from green.
COLOURS_BGR = {
    fasedge.Decision.BONA_FIDE: (90, 205, 90),
    fasedge.Decision.ATTACK: (80, 80, 240),
    fasedge.Decision.NON_RESPONSE: (200, 200, 200),
}
_WORDS = {
    fasedge.Decision.BONA_FIDE: "bona fide",
    fasedge.Decision.ATTACK: "ATTACK",
    fasedge.Decision.NON_RESPONSE: "not checked",
}
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_ESCAPE_KEY = 27


class Screen(Protocol):
    """Shows pictures to a person."""

    def show(self, picture_bgr: NDArray[np.uint8]) -> bool:
        """Show a picture; return False when the person wants to stop."""
        ...


class Window:
    """An OpenCV window; close it after use.

    Args:
        title: Title of the window.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)

    def show(self, picture_bgr: NDArray[np.uint8]) -> bool:
        """Show a picture; return False after `q`, Escape, or when the window was closed."""
        cv2.imshow(self._title, picture_bgr)
        key = cv2.waitKey(1) & 0xFF
        return key not in (ord("q"), _ESCAPE_KEY) and cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1

    def close(self) -> None:
        """Close the window. Idempotent."""
        cv2.destroyAllWindows()


def caption(result: fasedge.PadResult) -> str:
    """One line about one face: the decision, the score if there is one, the reasons that are not the score itself."""
    parts = [_WORDS[result.decision]]
    if result.score is not None:
        parts.append(f"{result.score:.2f}")
    text = " ".join(parts)
    reasons = [r.replace("_", " ") for r in result.reasons if r is not fasedge.Reason.SCORE_BELOW_THRESHOLD]
    return f"{text}: {', '.join(reasons)}" if reasons else text


def draw(frame: fasedge.Frame, observation: fasedge.Observation) -> NDArray[np.uint8]:
    """Draw an observation into a copy of its frame.

    Args:
        frame: The frame.
        observation: What the detector said about it.

    Returns:
        uint8 (H, W, 3), blue first, ready for ``cv2.imshow``.
    """
    picture = np.ascontiguousarray(frame.rgb[..., ::-1])
    size = max(0.4, frame.height / 900)
    thick = max(1, round(2 * size))
    for result in observation.results:
        colour = COLOURS_BGR[result.decision]
        x1, y1, x2, y2 = (round(v) for v in result.face.box.xyxy)
        cv2.rectangle(picture, (x1, y1), (x2, y2), colour, 2 * thick)
        _write(picture, caption(result), (x1, y1 - 6 * thick), size, colour)
    status = f"{observation.timings.total_ms:.0f} ms"
    if not observation.results:
        status += "  " + ", ".join(r.replace("_", " ") for r in observation.reasons)
    _write(picture, status, (6 * thick, frame.height - 6 * thick), size, (255, 255, 255))
    return picture


def _write(
    picture: NDArray[np.uint8], text: str, at: tuple[int, int], size: float, colour: tuple[int, int, int]
) -> None:
    """Write a line with a dark edge, moved so that it stays inside the picture where it fits at all."""
    thick = max(1, round(2 * size))
    (width, height), _ = cv2.getTextSize(text, _FONT, size, thick)
    x = max(0, min(at[0], picture.shape[1] - width))
    y = max(height, min(at[1], picture.shape[0] - 1))
    cv2.putText(picture, text, (x, y), _FONT, size, (0, 0, 0), 3 * thick, cv2.LINE_AA)
    cv2.putText(picture, text, (x, y), _FONT, size, colour, thick, cv2.LINE_AA)


def run(detector: fasedge.Detector, items: Iterable[fasedge.Frame | BadItem], screen: Screen) -> int:
    """Judge and show frames until the source ends or the person stops.

    Returns:
        How many frames were judged.

    Raises:
        FasEdgeError: The source broke off in a way that it cannot report as an item.
    """
    judged = 0
    for item in items:
        if isinstance(item, BadItem):
            sys.stderr.write(f"{item.name}: {item.error}\n")
            continue
        observation = detector.detect(item)
        judged += 1
        if not screen.show(draw(item, observation)):
            break
    return judged


def can_open_a_window() -> bool:
    """Whether there is a screen.

    Asked first, because OpenCV's window code (on Linux: Qt for X11) ends the whole process when there is none.
    """
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m demo.live",
        description="Shows a camera or video with what fasedge says about each face. Ends with q or Escape.",
    )
    parser.add_argument("source", nargs="?", default="webcam:0", help="webcam:N, a video, pictures (default: webcam:0)")
    parser.add_argument(
        "--model", default=fasedge.DEFAULT_MODEL, help="id of a model or its folder (default: %(default)s)"
    )
    parser.add_argument("--engine", default="auto", help="auto, openvino, litert or onnxruntime (default: %(default)s)")
    parser.add_argument("--operating-point", help="name of a threshold in the model's card (default: the card's own)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Returns:
        0 when it was ended, 3 on an error.
    """
    options = _parser().parse_args(argv)
    if not can_open_a_window():
        sys.stderr.write("error: there is no screen to open a window on; use `fasedge detect` instead\n")
        return 3
    try:
        with (
            fasedge.Detector(options.model, engine=options.engine, operating_point=options.operating_point) as detector,
            contextlib.closing(fasedge.open_source(options.source)) as source,
            contextlib.closing(Window(f"fasedge: {source.name}")) as window,
        ):
            run(detector, source, window)
    except fasedge.errors.FasEdgeError as error:
        sys.stderr.write(f"error: {error}\n")
        return 3
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
