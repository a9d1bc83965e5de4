"""Thresholds and ranks that the depth student reports, against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.depth_student import bpcer_threshold


@pytest.mark.parametrize(("n", "rate"), [(100, 0.01), (99, 0.01), (437, 0.01), (40, 0.1), (5, 0.5)])
def test_a_threshold_rejects_no_more_than_its_share_of_living_people_and_the_next_score_would(
    n: int, rate: float
) -> None:
    living = np.random.default_rng(n).permutation(np.linspace(0.1, 0.9, n))
    threshold = bpcer_threshold(living, rate)
    assert (living < threshold).mean() <= rate
    higher = min(value for value in living if value > threshold)
    assert (living < higher).mean() > rate
