"""Flips are counted against the decision at the reference box, and a score that sees only the middle never flips."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.crop_jitter import capture_scores, count_flips, jittered_scores, read_captures
from fasedge.preprocess import InputSpec
from fasedge.types import FloatArray
from tests.benchmarks.tiny_captures import write_captures
from training.data.samples import CropJitter, SampleRow, SampleSet, SetInfo
from training.errors import DataError

_REFERENCE = np.array([0.9, 0.2, 0.6, 0.4], np.float32)
_MOVED = np.array([[0.8, 0.4], [0.1, 0.1], [0.4, 0.4], [0.5, 0.3]], np.float32)


def test_flips_are_counted_as_by_hand() -> None:
    found = count_flips(_REFERENCE, _MOVED, [1, 1, 0, 0], 0.5)
    # Of the first picture one of two, of the second none, of the third both, of the fourth one (0.5 reaches 0.5).
    assert (found.share, found.of_bona_fide, found.of_attacks, found.any_of) == (4 / 8, 1 / 4, 3 / 4, 3 / 4)


@pytest.mark.parametrize(
    ("moved", "labels"), [(_MOVED[:2], [1, 1, 0, 0]), (_MOVED[:, 0], [1, 1, 0, 0]), (_MOVED, [1, 1, 1, 1])]
)
def test_scores_that_do_not_fit_are_refused(moved: FloatArray, labels: list[int]) -> None:
    with pytest.raises(DataError, match="both classes"):
        count_flips(_REFERENCE, moved, labels, 0.5)


class _Scorer:
    """Scores a crop by one of its pixels."""

    def __init__(self, row: int, column: int) -> None:
        self._place = row, column

    def infer(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        row, column = self._place
        return {"score": inputs["rgb"][:, row, column, 0].astype(np.float32)}

    def close(self) -> None:
        pass


def test_boxes_are_moved_as_asked() -> None:
    """A picture whose columns brighten evenly: the left edge of a crop tells where its box is."""
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None], (3, 200, 200, 3))
    rows = [
        SampleRow(
            index=i, box_xyxy=(60.0, 60.0, 140.0, 140.0), label=i % 2, species="bona_fide" if i % 2 else "print",
            subtype="any", source="a", identity=str(i), picture=str(i), split="test", params={},
        )
        for i in range(3)
    ]  # fmt: skip
    samples = SampleSet(ramp, rows, SetInfo(split="test", seed=0, n=3))
    spec = InputSpec(size_px=80, crop_scale=1.0)

    def scores(shift: float, scale: float, times: int, views: int = 1) -> tuple[FloatArray, FloatArray]:
        jitter, scorer = CropJitter(shift, scale), _Scorer(40, 0)
        return jittered_scores(samples, scorer, spec, depth=False, jitter=jitter, times=times, seed=0, views=views)

    still, moved = scores(0.0, 0.0, 2)
    assert still == pytest.approx(60, abs=1)
    assert (moved == still[:, None]).all()
    _, moved = scores(0.06, 0.0, 40)
    assert moved.min() == pytest.approx(60 - 4.8, abs=1.5)
    assert moved.max() == pytest.approx(60 + 4.8, abs=1.5)
    _, moved = scores(0.0, 0.12, 40)
    assert moved.min() == pytest.approx(100 - 40 * 1.12, abs=1.5)
    assert moved.max() == pytest.approx(100 - 40 / 1.12, abs=1.5)
    # The left edge of one view, moved by 1.6 pixels to the left, and the right edge of the other, which is mirrored.
    still, _ = scores(0.0, 0.0, 2, views=2)
    assert still == pytest.approx((60 - 1.6 + 139 + 1.6) / 2, abs=1)
    with pytest.raises(DataError, match="views must be one of 1, 2, 4, got 3"):
        scores(0.0, 0.0, 2, views=3)


def test_real_captures_are_cut_at_their_box_and_beside_it(tmp_path: Path) -> None:
    captures, living = read_captures(write_captures(tmp_path / "captures"), "112b", "crop")
    assert living == [True, False]
    spec, jitter = InputSpec(size_px=80, crop_scale=1.0), CropJitter(0.1, 0.0)
    ramp = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None] * 6, (40, 40, 3))
    for path, _ in captures:
        cv2.imwrite(str(path), ramp)
    reference, moved = capture_scores(captures, _Scorer(40, 40), spec, jitter=jitter, times=8, seed=0)  # type: ignore[arg-type]
    # The middle of the box from 10 to 30 is at 20; it moves by up to a tenth of 20 pixels.
    assert reference == pytest.approx([120, 120], abs=3)
    assert moved.shape == (2, 8)
    assert 4 < np.abs(moved - 120).max() <= 15
    with pytest.raises(DataError, match="no captures of the size '80'"):
        read_captures(tmp_path / "captures", "80", "crop")
