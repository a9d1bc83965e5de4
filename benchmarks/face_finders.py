"""Face finders side by side: latency, agreement with MediaPipe, small faces, false faces.

Latency is measured on drawn pictures. The rest needs the bona fide picture set named by ``FASEDGE_DATA``:

1. how far boxes and key points of ``blazeface`` without zoom lie from MediaPipe's,
2. the share of faces that is found by size of the face, with and without zoom, and
3. how many pictures of rooms without people show false faces, by the score that faces of tiles need.

Run from the root of the repository: ``FASEDGE_DATA=... python -m benchmarks.face_finders``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.quality_limits import Sample, read_manifest
from fasedge.backends import available_engines
from fasedge.errors import EngineUnavailableError
from fasedge.faces import FaceFinder, _blazeface, open_finder
from fasedge.geometry import iou
from fasedge.testing import synthetic_face, synthetic_frame
from fasedge.types import Box, Face, UInt8Array

_GREY = 110


@dataclass(frozen=True)
class Entry:
    """One finder of the comparison."""

    label: str
    finder: FaceFinder


@contextlib.contextmanager
def _opened(threads: Sequence[int]) -> Iterator[list[Entry]]:
    with contextlib.ExitStack() as stack:
        entries = []
        for count in threads:
            for engine in available_engines():
                for zoom in (False, True):
                    finder = open_finder("blazeface", engine=engine, threads=count, zoom=zoom)
                    stack.callback(finder.close)
                    label = f"{finder.name}, {count} thread{'s' * (count > 1)}{', zoom' * zoom}"
                    entries.append(Entry(label, finder))
        with contextlib.suppress(EngineUnavailableError):
            finder = open_finder("mediapipe")
            stack.callback(finder.close)
            entries.append(Entry("mediapipe, its own number of threads", finder))
        yield entries


def latency(console: Console, rounds: int, size: tuple[int, int]) -> None:
    """Time every finder on the same pictures, in turns, so that a busy machine hurts all alike."""
    width, height = size
    middle = (width / 2, height / 2)
    pictures = {
        "large face": synthetic_frame(width, height, faces=(synthetic_face(middle, 0.4 * height),)).rgb,
        "small face": synthetic_frame(width, height, faces=(synthetic_face(middle, 0.12 * width),)).rgb,
        "empty": np.full((height, width, 3), _GREY, np.uint8),
    }
    table = Table(
        "finder", *(f"{name}: least / median / 90 %" for name in pictures), title=f"ms per picture of {width}x{height}"
    )
    with _opened((1, 2)) as entries:
        times: dict[tuple[str, str], list[float]] = {(e.label, n): [] for e in entries for n in pictures}
        for turn in range(rounds + 5):
            for entry in entries:
                for name, rgb in pictures.items():
                    start = time.perf_counter()
                    entry.finder.find(rgb)
                    taken = time.perf_counter() - start
                    if turn >= 5:
                        times[entry.label, name].append(1e3 * taken)
        for entry in entries:
            cells = [np.percentile(times[entry.label, name], [0, 50, 90]) for name in pictures]
            table.add_row(entry.label, *(f"{least:.1f} / {median:.1f} / {high:.1f}" for least, median, high in cells))
    console.print(table)


def _spread(samples: list[Sample], count: int) -> list[Sample]:
    """The same number from each source, evenly spread over it."""
    sources = sorted({s.source for s in samples})
    picked = []
    for source in sources:
        group = [s for s in samples if s.source == source]
        picked += [
            group[i] for i in np.linspace(0, len(group) - 1, min(-(-count // len(sources)), len(group))).astype(int)
        ]
    return picked


def _read(path: Path) -> UInt8Array:
    bgr = cv2.imread(str(path))
    if bgr is None:
        raise SystemExit(f"cannot read {path}")
    return np.ascontiguousarray(bgr[..., ::-1]).astype(np.uint8)


def agreement(console: Console, samples: list[Sample]) -> None:
    """Distances between the two finders' boxes and key points."""
    boxes, points, other_number = [], [], 0
    with open_finder("blazeface", zoom=False) as ours, open_finder("mediapipe") as theirs:
        for sample in samples:
            rgb = _read(sample.path)
            mine, reference = ours.find(rgb), theirs.find(rgb)
            if len(mine) != len(reference):
                other_number += 1
                continue
            for a, b in zip(mine, reference, strict=True):
                boxes.append(np.abs(np.subtract(a.box.xyxy, b.box.xyxy)).max())
                if a.key_points is not None and b.key_points is not None:
                    points.append(np.abs(a.key_points - b.key_points).max())
    table = Table(
        "px", "median", "largest", title=f"blazeface - mediapipe, {len(boxes)} faces, {len(samples)} pictures"
    )
    table.add_row("box (MediaPipe's in whole px)", f"{np.median(boxes):.3f}", f"{np.max(boxes):.3f}")
    table.add_row("key points", f"{np.median(points):.6f}", f"{np.max(points):.6f}")
    console.print(table, f"pictures with another number of faces: {other_number}")


def _pasted(
    sample: Sample, size: tuple[int, int], part: float, rng: np.random.Generator
) -> tuple[UInt8Array, Box] | None:
    """The face's surroundings, shrunk so that the face takes ``part`` of the width, on grey; its box."""
    width, height = size
    rgb, box = _read(sample.path), sample.face.box
    factor = part * width / box.width
    if factor > 1:
        return None
    x1, y1 = max(0, round(box.x1 - 0.6 * box.width)), max(0, round(box.y1 - 0.6 * box.height))
    patch = rgb[y1 : round(box.y2 + 0.6 * box.height), x1 : round(box.x2 + 0.6 * box.width)]
    small = cv2.resize(patch, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)[:height, :width]
    left, top = (int(rng.integers(0, n - m + 1)) for n, m in zip((width, height), small.shape[1::-1], strict=True))
    picture = np.full((height, width, 3), _GREY, np.uint8)
    picture[top : top + small.shape[0], left : left + small.shape[1]] = small
    corners = [(v - o) * factor + p for v, o, p in zip(box.xyxy, (x1, y1) * 2, (left, top) * 2, strict=True)]
    return picture, Box(*corners)


def small_faces(console: Console, samples: list[Sample]) -> None:
    """Share of faces that is found, by their part of the picture's width."""
    parts = (0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.3)
    table = Table(
        "picture", "zoom", *(f"{p:.1%}" for p in parts), title="faces found, by width over the picture's width"
    )
    for size in ((640, 480), (1280, 960)):
        for zoom in (False, True):
            cells = []
            with open_finder("blazeface", zoom=zoom) as finder:
                for part in parts:
                    rng = np.random.default_rng(0)
                    tries = [t for s in samples if (t := _pasted(s, size, part, rng)) is not None]
                    hits = sum(_hit(finder.find(picture), box) for picture, box in tries)
                    cells.append(f"{hits}/{len(tries)}")
            table.add_row("{}x{}".format(*size), "on" if zoom else "off", *cells)
    console.print(table)


def _hit(faces: Sequence[Face], box: Box) -> bool:
    return any(iou(face.box, box) > 0.4 for face in faces)


def false_faces(console: Console, root: Path) -> None:
    """Rooms without people in which a face is found, by the score that tiles need."""
    rooms = [_read(path) for path in sorted((root / "backgrounds").glob("*.jpg"))]
    enlarge: Callable[[UInt8Array], UInt8Array] = lambda rgb: np.asarray(  # noqa: E731
        cv2.resize(rgb, (1280, round(1280 * rgb.shape[0] / rgb.shape[1]))), np.uint8
    )
    table = Table("score of tiles", "as they are", "1280 px wide", title=f"pictures of {len(rooms)} with a false face")
    shipped = _blazeface.MIN_TILE_SCORE
    try:
        for limit in (None, 0.5, 0.6, 0.7, 0.75, 0.8):
            _blazeface.MIN_TILE_SCORE = shipped if limit is None else limit
            with open_finder("blazeface", zoom=limit is not None) as finder:
                counts = [sum(bool(finder.find(make(rgb))) for rgb in rooms) for make in (np.asarray, enlarge)]
            table.add_row("without zoom" if limit is None else f"{limit}", *(str(n) for n in counts))
    finally:
        _blazeface.MIN_TILE_SCORE = shipped
    console.print(table)


def main() -> None:
    """Run everything and print tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.face_finders", description="Compare face finders.")
    parser.add_argument("--rounds", type=int, default=100, help="timed pictures per finder")
    parser.add_argument("--size", type=int, nargs=2, default=(640, 480), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--only-latency", action="store_true")
    arguments = parser.parse_args()
    console = Console()
    latency(console, arguments.rounds, tuple(arguments.size))
    root = os.environ.get("FASEDGE_DATA")
    if arguments.only_latency or not root:
        console.print("agreement, small and false faces: set FASEDGE_DATA" if not root else "")
        return
    samples = _spread(read_manifest(Path(root)), 100)
    agreement(console, samples)
    small_faces(console, samples)
    false_faces(console, Path(root))


if __name__ == "__main__":
    main()
