"""How the default quality limits and the constants of the head pose were found.

Reads the bona fide picture set named by ``FASEDGE_DATA`` (``manifest.csv`` with boxes, key points and mesh poses) and
prints

1. the fit of :func:`fasedge.geometry.head_pose_deg` on the training split, with its errors on all splits,
2. the distribution of each measure of :mod:`fasedge.quality` per source,
3. the share of good pictures that each default limit refuses, and
4. the share that is refused after the same pictures were spoilt on purpose (shrunk, blurred, darkened, bleached, cut).

Run from the root of the repository: ``FASEDGE_DATA=... python -m benchmarks.quality_limits``.
"""

from __future__ import annotations

import csv
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fasedge.geometry import box_from_xywh, head_pose_deg, scale_points
from fasedge.quality import QualityMeasures, QualityReport, assess
from fasedge.types import Box, Face, Frame, UInt8Array

_POINTS = ("reye", "leye", "nose", "mouth", "rear", "lear")
#: A level face has this pitch in the manifest, by its README.
_LEVEL_PITCH_DEG = 5.0


@dataclass(frozen=True)
class Sample:
    """One picture of the manifest."""

    path: Path
    source: str
    split: str
    face: Face
    pose_deg: tuple[float, float, float]


def read_manifest(root: Path) -> list[Sample]:
    """Read every row of ``manifest.csv``."""
    samples = []
    with (root / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            box = box_from_xywh(*(float(row[f"face_{k}"]) for k in "xywh"))
            points = np.array([[float(row[f"{p}_x"]), float(row[f"{p}_y"])] for p in _POINTS], np.float32)
            pose = (float(row["yaw"]), float(row["pitch"]) - _LEVEL_PITCH_DEG, float(row["roll"]))
            face = Face(box, float(row["face_score"]), points)
            samples.append(Sample(root / row["path"], row["source"], row["split"], face, pose))
    return samples


def _ratios(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nose between the ears in [-1, 1] and between eye line (0) and mouth (1), for points (N, 6, 2)."""
    right_eye, left_eye, nose, mouth, right_ear, left_ear = points.transpose(1, 0, 2)
    x_axis = left_eye - right_eye
    x_axis /= np.linalg.norm(x_axis, axis=1, keepdims=True)
    y_axis = np.stack([-x_axis[:, 1], x_axis[:, 0]], axis=1)
    eyes = (right_eye + left_eye) / 2
    a, b = ((nose - right_ear) * x_axis).sum(1), ((left_ear - nose) * x_axis).sum(1)
    place = ((nose - eyes) * y_axis).sum(1) / ((mouth - eyes) * y_axis).sum(1)
    return (a - b) / np.maximum(a + b, 1e-9), place


def fit_pose(samples: list[Sample]) -> None:
    """Fit the constants of the head pose by least absolute error on the training split and print errors."""
    train = [s for s in samples if s.split == "train"]
    side, place = _ratios(np.array([s.face.key_points for s in train], np.float64))
    truth = np.array([s.pose_deg for s in train])
    yaw = {c: np.abs(np.degrees(np.arctan(c * side)) - truth[:, 0]).mean() for c in np.arange(0.3, 0.9, 0.01)}
    pitch = {
        (level, k): np.abs(np.degrees(np.arctan((place - level) / k)) - truth[:, 1]).mean()
        for level in np.arange(0.45, 0.65, 0.005)
        for k in np.arange(0.3, 1.2, 0.05)
    }
    best_yaw, best_pitch = min(yaw, key=lambda c: yaw[c]), min(pitch, key=lambda c: pitch[c])
    print(f"fit on {len(train)} training pictures: ears per nose {best_yaw:.2f}; ", end="")
    print(f"level nose place {best_pitch[0]:.3f}, mouth per nose {best_pitch[1]:.2f}")
    for split in ("train", "dev", "test"):
        rows = [s for s in samples if s.split == split]
        found = np.array([head_pose_deg(s.face.key_points) for s in rows if s.face.key_points is not None])
        error = np.abs(found - np.array([s.pose_deg for s in rows]))
        for axis, name in enumerate(("yaw", "pitch", "roll")):
            q = np.quantile(error[:, axis], [0.5, 0.9, 0.99])
            print(
                f"  {split:5s} n={len(rows):4d} {name:5s} |error| deg p50 {q[0]:4.1f} p90 {q[1]:4.1f} p99 {q[2]:5.1f}"
            )


def load(sample: Sample) -> Frame:
    """Read one picture."""
    bgr = cv2.imread(str(sample.path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise SystemExit(f"cannot read {sample.path}")
    return Frame.from_bgr(np.asarray(bgr, np.uint8))


def _shrink(frame: Frame, face: Face, face_px: float) -> tuple[Frame, Face]:
    factor = face_px / min(face.box.width, face.box.height)
    size = (max(1, round(frame.width * factor)), max(1, round(frame.height * factor)))
    small = np.asarray(cv2.resize(frame.rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    points = None if face.key_points is None else scale_points(face.key_points, factor, factor)
    box = Box(*(v * factor for v in face.box.xyxy))
    return Frame(rgb=small), Face(box, face.score, points)


def _blur(frame: Frame, face: Face, sigma_at_128: float) -> tuple[Frame, Face]:
    small, at = _shrink(frame, face, 128.0)
    return Frame(rgb=np.asarray(cv2.GaussianBlur(small.rgb, (0, 0), sigma_at_128), np.uint8)), at


def _light(frame: Frame, face: Face, gain: float) -> tuple[Frame, Face]:
    linear = np.clip(frame.rgb.astype(np.float32) * gain, 0, 255)
    return Frame(rgb=linear.astype(np.uint8)), face


def _cut(frame: Frame, face: Face, share: float) -> tuple[Frame, Face]:
    start = max(0, round(face.box.x1 + share * face.box.width))
    rgb: UInt8Array = np.ascontiguousarray(frame.rgb[:, start:])
    return Frame(rgb=rgb), Face(Box(face.box.x1 - start, face.box.y1, face.box.x2 - start, face.box.y2))


SPOILT: dict[str, Callable[[Frame, Face], tuple[Frame, Face]]] = {
    "face shrunk to 128 px": lambda f, a: _shrink(f, a, 128.0),
    "face shrunk to 96 px": lambda f, a: _shrink(f, a, 96.0),
    "face shrunk to 72 px": lambda f, a: _shrink(f, a, 72.0),
    "face shrunk to 48 px": lambda f, a: _shrink(f, a, 48.0),
    "blur sigma 1 px at 128": lambda f, a: _blur(f, a, 1.0),
    "blur sigma 2 px at 128": lambda f, a: _blur(f, a, 2.0),
    "blur sigma 3 px at 128": lambda f, a: _blur(f, a, 3.0),
    "light x 0.15": lambda f, a: _light(f, a, 0.15),
    "light x 3": lambda f, a: _light(f, a, 3.0),
    "left fifth cut off": lambda f, a: _cut(f, a, 0.2),
}


def _reports(samples: list[Sample]) -> Iterator[tuple[Sample, Frame, QualityReport]]:
    for sample in samples:
        frame = load(sample)
        yield sample, frame, assess(frame, sample.face)


def measure_all(samples: list[Sample]) -> None:
    """Print distributions of the measures, refusals of good pictures and refusals of spoilt ones."""
    good: list[tuple[str, QualityReport]] = []
    spoilt: dict[str, Counter[str]] = {name: Counter() for name in SPOILT}
    n_spoilt = 0
    for index, (sample, frame, report) in enumerate(_reports(samples)):
        good.append((sample.source, report))
        if index % 8:
            continue
        n_spoilt += 1
        for name, spoil in SPOILT.items():
            reasons = assess(*spoil(frame, sample.face)).reasons
            spoilt[name].update([str(r) for r in reasons] + (["any"] if reasons else []))
    _print_distributions(good)
    refused = Counter(str(r) for _, report in good for r in report.reasons)
    any_refused = sum(1 for _, report in good if report.reasons)
    print(f"\ngood pictures refused: {any_refused} of {len(good)} ({100 * any_refused / len(good):.2f} %)")
    for reason, count in sorted(refused.items()):
        sources = Counter(source for source, report in good if reason in report.reasons)
        print(f"  {reason:20s} {count:4d} {100 * count / len(good):5.2f} %  {dict(sources)}")
    print(f"\nspoilt pictures refused (n = {n_spoilt} each), percent")
    for name, counts in spoilt.items():
        parts = ", ".join(f"{r} {100 * c / n_spoilt:.1f}" for r, c in counts.most_common())
        print(f"  {name:24s} {parts or 'none'}")


def _print_distributions(good: list[tuple[str, QualityReport]]) -> None:
    names = [f.name for f in fields(QualityMeasures)]
    print("\nmeasure, source: n, then quantiles 0, 0.5, 1, 50, 99, 99.5, 100 %")
    for name in names:
        for source in ("all", *sorted({s for s, _ in good})):
            values = [
                r.measures.as_dict()[name] for s, r in good if source in ("all", s) and name in r.measures.as_dict()
            ]
            q = np.quantile(values, [0, 0.005, 0.01, 0.5, 0.99, 0.995, 1])
            print(f"  {name:17s} {source:10s} {len(values):5d} " + " ".join(f"{v:8.2f}" for v in q))


def main() -> int:
    """Run everything."""
    root = os.environ.get("FASEDGE_DATA")
    if not root:
        print("set FASEDGE_DATA to the folder of the bona fide pictures (with manifest.csv)", file=sys.stderr)
        return 2
    samples = read_manifest(Path(root))
    fit_pose(samples)
    measure_all(samples)
    return 0


if __name__ == "__main__":
    sys.exit(main())
