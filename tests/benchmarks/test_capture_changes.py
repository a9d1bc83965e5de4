"""What each change takes out of a picture, and what it leaves."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.capture_changes import CHANGES, cells, changed
from benchmarks.transfer import RealResult

CROPS = np.random.default_rng(0).integers(60, 190, (3, 24, 24, 3), np.uint8)


def made(name: str) -> np.ndarray:
    return changed(CROPS, CHANGES[name]).astype(np.float64)


def test_nothing_changes_where_nothing_is_asked_for() -> None:
    np.testing.assert_array_equal(made("as they are"), CROPS)


def test_grey_has_no_colour_and_keeps_the_luma() -> None:
    out = made("grey")
    assert np.ptp(out, axis=3).max() == 0
    np.testing.assert_allclose(out[..., 0], CROPS @ [0.299, 0.587, 0.114], atol=0.51)


def test_a_grey_world_has_no_cast() -> None:
    tinted = np.clip(CROPS * [1.3, 1.0, 0.6], 0, 255).astype(np.uint8)
    means = changed(tinted, CHANGES["grey world"]).mean((1, 2))
    assert np.ptp(means, axis=1).max() < 1


def test_equal_contrast_hides_which_picture_was_hazy() -> None:
    hazy = (100 + 0.3 * (CROPS.astype(float) - 100)).astype(np.uint8)
    assert CROPS.std() / hazy.std() == pytest.approx(1 / 0.3, rel=0.1)
    ratio = changed(CROPS, CHANGES["equal contrast"]).std() / changed(hazy, CHANGES["equal contrast"]).std()
    assert ratio == pytest.approx(1, abs=0.05)


def test_colour_alone_has_one_luma_everywhere() -> None:
    luma = made("colour alone") @ [0.299, 0.587, 0.114]
    assert np.ptp(luma, axis=(1, 2)).max() < 3


def test_more_blur_leaves_less_detail() -> None:
    detail = [np.diff(made(f"blurred, {sigma} px"), axis=1).std() for sigma in (1, 2, 4)]
    assert detail[0] > 2 * detail[1] > 4 * detail[2]


def test_figures_of_students_are_averaged_source_by_source() -> None:
    results = [
        RealResult(size="112b", crop_scale=1.4, per_source=values, pooled=None, clip_frames=frames, clips=None)
        for values, frames in (((0.5, 1.0), 0.25), ((0.7, 0.8), 0.75))
    ]
    assert cells(results) == ["0.750", "0.60, 0.90", "0.50"]
