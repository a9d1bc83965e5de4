"""The expected performance curve against brute force in exact arithmetic and a table worked by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest

from fasedge import metrics
from fasedge.errors import MetricError

DEV = [0.9, 0.8, 0.7, 0.4, 0.1, 0.2, 0.6, 0.3, 0.5, 0.75]
TEST = [0.95, 0.62, 0.72, 0.3, 0.1, 0.2, 0.66, 0.3, 0.55, 0.85]
LABELS = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
SPECIES = [None] * 4 + ["print"] * 3 + ["replay"] * 3


def rates(
    scores: Sequence[float], labels: Sequence[int], species: Sequence[str] | None, cut: float
) -> tuple[Fraction, Fraction]:
    """Largest (or pooled) APCER and BPCER, counted one by one."""
    names = ["all"] * len(scores) if species is None else species
    kinds = {name for name, label in zip(names, labels, strict=True) if label == 0}
    shares = []
    for kind in kinds:
        own = [s for s, y, name in zip(scores, labels, names, strict=True) if y == 0 and name == kind]
        shares.append(Fraction(sum(s >= cut for s in own), len(own)))
    bona_fide = [s for s, y in zip(scores, labels, strict=True) if y == 1]
    return max(shares), Fraction(sum(s < cut for s in bona_fide), len(bona_fide))


def brute(
    dev: tuple[list[float], list[int], list[str] | None], test: tuple[list[float], list[int], list[str] | None],
    alpha: Fraction,
) -> float:  # fmt: skip
    """Try a threshold below everything, between all neighbours and above everything; half total error of test."""
    ordered = sorted(set(dev[0]))
    cuts = [-math.inf, *((a + b) / 2 for a, b in itertools.pairwise(ordered)), math.inf]
    priced = []
    for cut in cuts:
        apcer, bpcer = rates(*dev, cut)
        priced.append((alpha * apcer + (1 - alpha) * bpcer, apcer + bpcer, -cut, cut))
    apcer, bpcer = rates(*test, min(priced)[3])
    return float((apcer + bpcer) / 2)


def drawn(seed: int, n: int, levels: int) -> tuple[list[float], list[int], list[str]]:
    rng = np.random.default_rng(seed)
    labels = [0, 1, *rng.integers(0, 2, n - 2).tolist()]
    scores = np.round(rng.normal(labels) * levels) / levels
    return scores.tolist(), labels, rng.choice(["mask", "print", "replay"], n).tolist()


@pytest.mark.parametrize("by_species", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_the_curve_is_that_of_a_search_over_all_thresholds_in_exact_arithmetic(seed: int, by_species: bool) -> None:
    dev, test = drawn(seed, 40, 4), drawn(seed + 100, 50, 4)
    named = [(s, y, k if by_species else None) for s, y, k in (dev, test)]
    alphas = [Fraction(k, 12) for k in range(13)]
    found = metrics.expected_performance(*named[0], *named[1], alphas=[float(a) for a in alphas])
    expected = [brute(named[0], named[1], alpha) for alpha in alphas]
    np.testing.assert_allclose(found.half_total, expected, atol=1e-12)
    assert len(set(np.round(expected, 6))) > 2  # the search has something to choose between


def test_the_curve_is_that_of_the_table_worked_by_hand() -> None:
    found = metrics.expected_performance(DEV, LABELS, SPECIES, TEST, LABELS, SPECIES, alphas=[0.0, 0.5, 1.0])
    # Bona fide of dev .9 .8 .7 .4, print .1 .2 .6, replay .3 .5 .75. Free attacks: reject none of the bona fide, and as
    # many attacks as that allows: between .3 and .4. Alike: 0 + 2/4 at .75 to .8 and 1/3 + 1/4 at .6 to .7: the former.
    # Free bona fide: no attack, so the same.
    assert found.thresholds.tolist() == pytest.approx([0.35, 0.775, 0.775])
    # Test at .35: replay .55 and .85 of three, bona fide .3 of four. At .775: replay .85; bona fide .62 .72 .3.
    assert found.apcer.tolist() == pytest.approx([2 / 3, 1 / 3, 1 / 3])
    assert found.bpcer.tolist() == pytest.approx([0.25, 0.75, 0.75])
    assert found.half_total.tolist() == pytest.approx([11 / 24, 13 / 24, 13 / 24])
    pooled = metrics.expected_performance(DEV, LABELS, None, TEST, LABELS, None, alphas=[0.5])
    # Pooled, 1/6 + 1/4 between .6 and .7 is cheapest; test lets .66 and .85 of six in and rejects .62 and .3 of four.
    assert pooled.thresholds.tolist() == pytest.approx([0.65])
    assert pooled.half_total.tolist() == pytest.approx([(2 / 6 + 2 / 4) / 2])


def test_separable_scores_that_transfer_cost_nothing_at_any_price() -> None:
    found = metrics.expected_performance([0.1, 0.9], [0, 1], None, [0.2, 0.8], [0, 1], None)
    assert len(found.alphas) == 101
    assert not found.half_total.any()
    np.testing.assert_allclose(found.thresholds, 0.5)


def test_scores_that_know_nothing_are_all_accepted_or_all_rejected() -> None:
    found = metrics.expected_performance([0.5, 0.5], [0, 1], None, [0.2, 0.8], [0, 1], None, alphas=[0.2, 0.8])
    assert found.thresholds.tolist() == [-math.inf, math.inf]
    assert (found.apcer.tolist(), found.bpcer.tolist()) == ([1.0, 0.0], [0.0, 1.0])


def test_presentations_without_a_score_have_no_say() -> None:
    plain = metrics.expected_performance(DEV, LABELS, SPECIES, TEST, LABELS, SPECIES)
    more = ([*DEV, math.nan], [*LABELS, 0], [*SPECIES, "mask"], [*TEST, math.nan], [*LABELS, 1], [*SPECIES, None])
    np.testing.assert_array_equal(metrics.expected_performance(*more).half_total, plain.half_total)


def test_what_makes_no_curve_is_refused() -> None:
    with pytest.raises(MetricError, match="very same scores"):
        metrics.expected_performance(DEV, LABELS, SPECIES, DEV[::-1], LABELS[::-1], SPECIES[::-1])
    with pytest.raises(MetricError, match="species of both sets or of neither"):
        metrics.expected_performance(DEV, LABELS, SPECIES, TEST, LABELS, None)
    with pytest.raises(MetricError, match="no bona fide"):
        metrics.expected_performance([0.1], [0], None, TEST, LABELS, None)
    for alphas in ([], [1.5], [-0.1], [math.nan], [[0.5]]):
        with pytest.raises(MetricError, match="alphas must be"):
            metrics.expected_performance(DEV, LABELS, None, TEST, LABELS, None, alphas=alphas)


def test_the_curve_cannot_be_written_to() -> None:
    found = metrics.expected_performance(DEV, LABELS, None, TEST, LABELS, None)
    with pytest.raises(ValueError, match="read-only"):
        found.half_total[0] = 0.0
