"""Real captures: what is aggregated, and that nothing but aggregates is written."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks import transfer
from benchmarks.students import StudentOptions
from benchmarks.transfer import Capture, RealResult, Run
from fasedge.errors import SourceError
from fasedge.preprocess import InputSpec


def capture(source: str, label: int, kind: str = "crop", clip: str = "", size: str = "112") -> Capture:
    return Capture(
        file=f"{source}{label}", label=label, source=source, kind=kind, clip=clip, size=size, box=(0.0, 0.0, 8.0, 8.0)
    )


def result(size: str, scale: float, *values: float) -> RealResult:
    return RealResult(size=size, crop_scale=scale, per_source=values, pooled=0.5, clip_frames=0.25, clips=0.0)


def run(name: str, seed: int, *real: RealResult) -> Run:
    return Run(
        name=name,
        options=StudentOptions(seed=seed),
        train="train",
        n_train=10,
        seconds=1.0,
        dev_auc=0.9 + seed / 100,
        dev_by_species={},
        real=real,
    )


def test_the_area_under_the_curve_agrees_with_scikit_learn_also_for_ties_and_logits_beyond_one() -> None:
    rng = np.random.default_rng(3)
    logits = np.round(rng.normal(size=200) * 8)
    labels = rng.integers(0, 2, 200)
    assert transfer.auc(logits, labels) == pytest.approx(roc_auc_score(labels, logits))
    assert transfer.auc(logits, np.ones(200, np.int64)) is None


def test_each_source_counts_once_and_clips_are_means_of_their_frames() -> None:
    captures = [
        *(capture("a", label) for label in (1, 0)),
        *(capture("b", label) for label in (1, 0, 0, 0)),
        capture("c", 1),  # no attack: no area of its own
        *(capture("d", 1, "clip_frame", "one") for _ in range(2)),
        *(capture("e", 0, "clip_frame", "two") for _ in range(2)),
    ]
    logits = np.array([2.0, -1.0, 0.0, -2.0, 1.0, 3.0, 9.0, -4.0, 5.0, 0.0, 0.4])
    (found,) = transfer.summarise(captures, logits, 1.3)
    assert found.per_source == (1.0, round(1 / 3, 4))
    # Live crops 2, 0, 9 against attacks -1, -2, 1, 3: 3 + 2 + 4 of 12 pairs.
    assert found.pooled == pytest.approx(9 / 12)
    assert found.clip_frames == pytest.approx(2 / 4)
    assert found.clips == 1.0  # 0.5 against 0.2


def test_sizes_are_summarised_apart() -> None:
    captures = [capture("a", label, size=size) for size in ("112", "112b") for label in (1, 0)]
    found = transfer.summarise(captures, np.array([1.0, 0.0, 0.0, 1.0]), 1.0)
    assert [(r.size, r.per_source, r.clips) for r in found] == [("112", (1.0,), None), ("112b", (0.0,), None)]


def test_a_row_of_the_table_tells_mean_and_range_over_seeds() -> None:
    runs = [run("x", 1, result("112", 1.0, 0.5, 0.7), result("112b", 1.0, 0.8)), run("x", 2, result("112", 1.0, 0.8))]
    (row,) = transfer.rows(runs, ["112", "112b"])
    assert row == ["x", "1", "2", "0.915 (0.91 to 0.92)", "0.700 (0.60 to 0.80)", "0.800", "0.250", "0.000"]


def test_a_record_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    whole = msgspec.json.encode(run("x", 1)) + b"\n"
    path.write_bytes(whole + whole[:40])
    assert [r.options.seed for r in transfer.read_runs(path)] == [1]
    assert transfer.read_runs(tmp_path / "absent") == []


def test_captures_without_a_box_are_left_out_and_the_others_are_cut(tmp_path: Path) -> None:
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[10:30, 10:30, 2] = 200  # red, as OpenCV stores it
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    with (tmp_path / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "label", "source", "kind", "clip", "size", "x", "y", "w", "h"])
        writer.writerow(["a.png", "live", "s", "crop", "", "112", 10, 10, 20, 20])
        writer.writerow(["b.png", "spoof", "s", "crop", "", "112", "", "", "", ""])
    found = transfer.read_captures(tmp_path, ["112"])
    assert [(c.file, c.label) for c in found] == [("a.png", 1)]
    crops = transfer.cut(tmp_path, found, InputSpec(size_px=16, crop_scale=1.0))
    assert crops.shape == (1, 16, 16, 3)
    assert (crops[0].reshape(-1, 3).min(0).tolist(), crops[0].reshape(-1, 3).max(0).tolist()) == ([200, 0, 0],) * 2


def test_a_folder_without_a_manifest_and_a_picture_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"manifest\.csv is not a manifest of captures"):
        transfer.read_captures(tmp_path, [])
    with pytest.raises(SourceError, match="a1 is not a picture"):
        transfer.cut(tmp_path, [capture("a", 1)], InputSpec(size_px=16, crop_scale=1.0))
