"""Annotated pictures: what was decided, drawn onto the picture."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from fasedge.cli._output import DECISION_WORDS, REASON_WORDS, judged_by
from fasedge.errors import OutputError
from fasedge.types import Decision, Frame, Observation, PadResult, Reason, UInt8Array

#: Blue, vermilion and grey of Okabe and Ito's palette, which stay apart for every kind of colour vision; blue first.
COLOURS_BGR = {
    Decision.BONA_FIDE: (178, 114, 0),
    Decision.ATTACK: (0, 94, 213),
    Decision.NON_RESPONSE: (100, 100, 100),
}
_WHITE = (255, 255, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
#: Smaller pictures are enlarged first, or no word would fit into them.
_MIN_SIDE_PX = 320
_MAX_SIDE_PX = 8000
_JPEG_QUALITY = 92


def annotate(frame: Frame, observation: Observation) -> UInt8Array:
    """Draw boxes, scores, decisions, reasons and small score maps onto a copy of the picture.

    Args:
        frame: The picture.
        observation: What was found out about it.

    Returns:
        uint8 (H', W', 3), blue first, as ``cv2.imwrite`` takes it; a small picture is enlarged.
    """
    canvas = np.ascontiguousarray(frame.rgb[..., ::-1])
    zoom = _zoom(frame.width, frame.height)
    if zoom != 1:
        size = (max(1, round(frame.width * zoom)), max(1, round(frame.height * zoom)))
        canvas = np.asarray(cv2.resize(canvas, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    pen = _Pen(canvas)
    many = len(observation.results) > 1
    for result in observation.results:
        pen.box(result, zoom)
    pen.maps(observation.results)
    for number, result in enumerate(observation.results, start=1):
        pen.face_label(result, zoom, f"{number}: " if many else "")
    if observation.reasons or not observation.results:
        why = "; ".join(_words(observation.reasons)) or "no face found"
        pen.label([f"{DECISION_WORDS[Decision.NON_RESPONSE]}: {why}"], 0, 0, COLOURS_BGR[Decision.NON_RESPONSE])
    return canvas


def _zoom(width: int, height: int) -> float:
    """Enlarge small pictures by a whole factor, unless that would make a thin strip huge."""
    factor = -(-_MIN_SIDE_PX // min(width, height))
    return max(1, min(factor, _MAX_SIDE_PX // max(width, height)))


def _words(reasons: Sequence[Reason]) -> list[str]:
    return [REASON_WORDS.get(reason, reason.value).split(":")[0] for reason in reasons]


class _Pen:
    """Draws on one canvas, in sizes that suit it."""

    def __init__(self, canvas: UInt8Array) -> None:
        self._canvas = canvas
        self._height, self._width = canvas.shape[:2]
        self._scale = min(max(min(self._width, self._height) / 800, 0.4), 4.0)
        self._line = max(2, round(self._scale * 2))
        self._pad = max(2, round(self._scale * 8))
        self._taken: list[tuple[int, int, int, int]] = []  # labels and maps that no other label may cover

    def box(self, result: PadResult, zoom: float) -> None:
        """Draw the face box in the colour of the decision, with a white rim for dark and busy pictures."""
        x1, y1, x2, y2 = _corners(result, zoom)
        cv2.rectangle(self._canvas, (x1, y1), (x2, y2), _WHITE, self._line + 2)
        cv2.rectangle(self._canvas, (x1, y1), (x2, y2), COLOURS_BGR[result.decision], self._line)

    def face_label(self, result: PadResult, zoom: float, prefix: str) -> None:
        """Write decision, score and reasons above the box, or where there is room."""
        x1, y1, _, y2 = _corners(result, zoom)
        lines = [prefix + _headline(result)]
        if words := [w for w in _words(result.reasons) if w != REASON_WORDS[Reason.SCORE_BELOW_THRESHOLD]]:
            lines.append(", ".join(words))
        width, height, _ = self._label_size(lines)
        places = [self._moved_in(x1, top, width, height) for top in (y1 - height, y2, y1 - 2 * height, y2 + height, y1)]
        left, top = next((place for place in places if self._is_free(*place, width, height)), places[0])
        self.label(lines, left, top, COLOURS_BGR[result.decision])

    def label(self, lines: list[str], left: int, top: int, colour: tuple[int, int, int]) -> None:
        """Write lines on a filled ground, moved and shrunk so that nothing leaves the picture."""
        width, height, scale = self._label_size(lines)
        left, top = self._moved_in(left, top, width, height)
        self._taken.append((left, top, left + width, top + height))
        cv2.rectangle(self._canvas, (left, top), (left + width, top + height), colour, -1)
        step = (height - self._pad) // len(lines)
        for index, line in enumerate(lines, start=1):
            at = (left + self._pad, top + index * step - self._pad // 3)
            cv2.putText(self._canvas, line, at, _FONT, scale, _WHITE, max(1, round(scale * 2)), cv2.LINE_AA)

    def _moved_in(self, left: int, top: int, width: int, height: int) -> tuple[int, int]:
        return min(max(left, 0), max(self._width - width, 0)), min(max(top, 0), max(self._height - height, 0))

    def _is_free(self, left: int, top: int, width: int, height: int) -> bool:
        return not any(
            left < x2 and x1 < left + width and top < y2 and y1 < top + height for x1, y1, x2, y2 in self._taken
        )

    def _label_size(self, lines: list[str]) -> tuple[int, int, float]:
        scale = self._scale
        widest = max(self._text_width(line, scale) for line in lines)
        room = max(1, self._width - 2 * self._pad)
        if widest > room:
            scale *= room / widest
            widest = room
        line_height = round(scale * 24) + self._pad
        return widest + 2 * self._pad, line_height * len(lines) + self._pad, scale

    def _text_width(self, text: str, scale: float) -> int:
        return int(cv2.getTextSize(text, _FONT, scale, max(1, round(scale * 2)))[0][0])

    def maps(self, results: Sequence[PadResult]) -> None:
        """Put the score maps side by side into the lower right corner: yellow bona fide, dark blue attack."""
        side = min(self._width, self._height) // 5
        right = self._width - self._pad
        for number, result in enumerate(results, start=1):
            if result.score_map is None or right - side < self._pad:
                continue
            levels = np.round(np.clip(np.nan_to_num(result.score_map), 0, 1) * 255).astype(np.uint8)
            coloured = cv2.applyColorMap(levels, cv2.COLORMAP_CIVIDIS)
            picture = cv2.resize(coloured, (side, side), interpolation=cv2.INTER_NEAREST)
            top = self._height - self._pad - side
            self._canvas[top : top + side, right - side : right] = picture
            cv2.rectangle(self._canvas, (right - side, top), (right, top + side), _WHITE, self._line)
            if len(results) > 1:
                at = (right - side + self._pad, top + side - self._pad)
                cv2.putText(self._canvas, str(number), at, _FONT, self._scale, _WHITE, self._line, cv2.LINE_AA)
            self._taken.append((right - side, top, right, top + side))
            right -= side + self._pad


def _corners(result: PadResult, zoom: float) -> tuple[int, int, int, int]:
    """Corners of the face box on the canvas, within what OpenCV's drawing takes."""
    x1, y1, x2, y2 = (round(float(np.clip(v * zoom, -32000, 32000))) for v in result.face.box.xyxy)
    return x1, y1, x2, y2


def _headline(result: PadResult) -> str:
    word = DECISION_WORDS[result.decision]
    if result.score is None:
        return word
    note = f", {alone}" if (alone := judged_by(result)) else ""
    return f"{word}  {result.score:.2f} (needs {result.threshold:.2f}{note})"


class AnnotationWriter:
    """Writes annotated pictures into a folder, each one whole or not at all.

    Args:
        folder: Where to write; is made if it does not exist.
        inputs: What is read, as for :func:`fasedge.sources.open_source`; none of it may lie where is written.
        recursive: Whether folders among the inputs are read with their subfolders.

    Raises:
        OutputError: The folder cannot be made or written, or the input lies in it.
    """

    def __init__(self, folder: Path, inputs: Sequence[str] = (), *, recursive: bool = False) -> None:
        self.folder = folder
        self._used: set[str] = set()
        for text in inputs:
            _check_apart(folder, text, recursive=recursive)
        make_folder(folder)

    def save(self, frame: Frame, observation: Observation) -> Path:
        """Write the annotated picture of a frame as ``<name>-annotated.jpg``.

        Raises:
            OutputError: It cannot be written.
        """
        ok, data = cv2.imencode(".jpg", annotate(frame, observation), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        if not ok:
            raise OutputError(f"the annotated picture of {frame.name} cannot be encoded as JPEG")
        path = self.folder / self._free_name(frame.name)
        write_atomically(path, data.tobytes())
        return path

    def _free_name(self, name: str) -> str:
        video, hash_sign, number = name.rpartition("#")
        stem = Path(video).name + f"-{int(number):06d}" if hash_sign and number.isdigit() else Path(name).stem
        stem = re.sub(r"[^\w.-]+", "_", stem)[:150] or "frame"
        candidate, n = f"{stem}-annotated.jpg", 2
        while candidate.casefold() in self._used:
            candidate, n = f"{stem}-annotated-{n}.jpg", n + 1
        self._used.add(candidate.casefold())
        return candidate


def _check_apart(folder: Path, source: str, *, recursive: bool) -> None:
    """Refuse to write among the inputs: a picture called ``x-annotated.jpg`` there would be overwritten."""
    try:
        if not folder.is_dir() or not any(folder.iterdir()):
            return  # nothing there that could be an input
        place = folder.resolve()
        clash = any(place == read or (recursive and place.is_relative_to(read)) for read in _folders_read(source))
    except (OSError, ValueError):
        return  # whatever is wrong with these paths is reported where they are opened
    if clash:
        raise OutputError(
            f"{folder} also holds pictures that are read, which must not be overwritten: write into another folder"
        )


def _folders_read(source: str) -> set[Path]:
    path = Path(source)
    if path.is_dir():
        return {path.resolve()}
    files = [source] if path.exists() else glob.glob(source, recursive=True)  # noqa: PTH207 - absolute patterns
    return {Path(name).resolve().parent for name in files}


def make_folder(folder: Path) -> None:
    """Make a folder, if need be, and make sure that it can be written to.

    Raises:
        OutputError: It cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".fasedge-{os.getpid()}.tmp"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise OutputError(f"cannot write into the folder {folder}: {error.strerror or error}") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OutputError: It cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
