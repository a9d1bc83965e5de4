"""What must hold for any scores whatever."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from fasedge import metrics
from fasedge.errors import MetricError

# Few levels make many ties; whole numbers keep the transforms below exact.
_LEVELS = st.integers(-20, 20)
_ROWS = st.lists(st.tuples(_LEVELS, st.booleans(), st.sampled_from(["mask", "print", "replay"])), max_size=40)
_QUICK = settings(max_examples=60, deadline=None)

Rows = list[tuple[int, bool, str]]


def _columns(rows: Rows) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Scores, labels and species, with one presentation of each class added so that every rate is defined."""
    rows = [*rows, (1, True, "-"), (0, False, "print")]
    return np.array([r[0] for r in rows], float), np.array([r[1] for r in rows], int), [r[2] for r in rows]


@_QUICK
@given(_ROWS, _LEVELS, _LEVELS)
def test_a_higher_threshold_never_accepts_more(rows: Rows, one: int, other: int) -> None:
    scores, labels, species = _columns(rows)
    low, high = sorted((one, other))
    strict = metrics.apcer(scores, labels, species, threshold=high)
    lax = metrics.apcer(scores, labels, species, threshold=low)
    assert all(strict.per_species[k].value <= lax.per_species[k].value for k in lax.per_species)
    assert metrics.bpcer(scores, labels, threshold=high).value >= metrics.bpcer(scores, labels, threshold=low).value


@_QUICK
@given(_ROWS, _LEVELS)
def test_the_pooled_rate_lies_between_the_rates_of_the_species(rows: Rows, threshold: int) -> None:
    rates = metrics.apcer(*_columns(rows), threshold=threshold)
    values = [r.value for r in rates.per_species.values()]
    assert min(values) - 1e-12 <= rates.pooled.value <= max(values) + 1e-12
    assert rates.max == max(values)
    assert rates.pooled.n == sum(r.n for r in rates.per_species.values())


@_QUICK
@given(_ROWS)
def test_measures_depend_only_on_the_order_of_the_scores(rows: Rows) -> None:
    scores, labels, species = _columns(rows)
    for transformed in (scores * 3 - 7, scores**3, np.arctan(scores)):
        assert metrics.auc(transformed, labels) == metrics.auc(scores, labels)
        assert metrics.eer(transformed, labels).value == metrics.eer(scores, labels).value
        one, other = metrics.det_curve(transformed, labels, species), metrics.det_curve(scores, labels, species)
        np.testing.assert_array_equal(one.apcer, other.apcer)
        np.testing.assert_array_equal(one.bpcer, other.bpcer)
        for held in (0.0, 0.1, 0.5):
            a = metrics.bpcer_at_apcer(transformed, labels, species, apcer=held)
            b = metrics.bpcer_at_apcer(scores, labels, species, apcer=held)
            assert (a.apcer, a.bpcer) == (b.apcer, b.bpcer)


@_QUICK
@given(_ROWS, st.randoms(use_true_random=False))
def test_the_order_of_the_presentations_does_not_matter(rows: Rows, random: object) -> None:
    scores, labels, species = _columns(rows)
    order = list(range(len(scores)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = metrics.evaluate(scores[order], labels[order], species=[species[i] for i in order], threshold=2)
    assert shuffled == metrics.evaluate(scores, labels, species=species, threshold=2)


@_QUICK
@given(_ROWS)
def test_doubling_every_presentation_changes_no_measure(rows: Rows) -> None:
    scores, labels, species = _columns(rows)
    twice = (np.tile(scores, 2), np.tile(labels, 2), species * 2)
    assert metrics.auc(*twice[:2]) == pytest.approx(metrics.auc(scores, labels), abs=1e-14)
    assert metrics.eer(*twice[:2]) == metrics.eer(scores, labels)
    assert metrics.bpcer_at_apcer(*twice, apcer=0.1) == metrics.bpcer_at_apcer(scores, labels, species, apcer=0.1)


@_QUICK
@given(_ROWS)
def test_turning_the_scores_and_labels_round_keeps_the_auc(rows: Rows) -> None:
    scores, labels, _ = _columns(rows)
    assert metrics.auc(-scores, 1 - labels) == pytest.approx(metrics.auc(scores, labels), abs=1e-14)
    assert metrics.auc(-scores, labels) == pytest.approx(1 - metrics.auc(scores, labels), abs=1e-14)


@_QUICK
@given(_ROWS)
def test_no_threshold_has_a_smaller_gap_than_that_of_the_eer(rows: Rows) -> None:
    scores, labels, _ = _columns(rows)
    found = metrics.eer(scores, labels)
    for cut in (*(scores - 0.5), *(scores + 0.5), -np.inf, np.inf):
        far = metrics.far(scores, labels, threshold=cut).value
        frr = metrics.frr(scores, labels, threshold=cut).value
        assert abs(found.far - found.frr) <= abs(far - frr) + 1e-12


@_QUICK
@given(_ROWS)
def test_raising_a_bona_fide_score_never_lowers_the_auc(rows: Rows) -> None:
    scores, labels, _ = _columns(rows)
    raised = scores.copy()
    raised[np.flatnonzero(labels)[0]] += 3
    assert metrics.auc(raised, labels) >= metrics.auc(scores, labels)


@_QUICK
@given(_ROWS, st.integers(0, 30))
def test_each_presentation_is_counted_once_whether_it_responds_or_not(rows: Rows, n_silent: int) -> None:
    scores, labels, species = _columns(rows)
    silent = scores.copy()
    silent[: min(n_silent, len(rows))] = np.nan  # the two added rows always respond
    result = metrics.evaluate(silent, labels, species=species, threshold=2)
    assert result.at_threshold is not None
    measured = result.at_threshold.apcer.pooled.n + result.at_threshold.bpcer.n
    assert measured + result.non_response.total == len(scores)
    assert result.n_bona_fide + sum(result.n_attack.values()) == len(scores)


@_QUICK
@given(_ROWS, st.sampled_from(list(metrics.Criterion)))
def test_a_chosen_threshold_keeps_its_promise_on_its_own_split(rows: Rows, criterion: metrics.Criterion) -> None:
    scores, labels, species = _columns(rows)
    try:
        chosen = metrics.choose_threshold(scores, labels, species, criterion)
    except MetricError:  # these scores cannot meet the criterion; another test holds when that is so
        reject()
    result = metrics.report(scores, labels, species, chosen, split="dev", allow_same_split=True)
    held = int(criterion.value.lstrip("abpcer") or 100) / 100
    if criterion.value.startswith("bpcer"):
        assert result.bpcer.value <= held
    elif criterion.value.startswith("apcer"):
        assert result.apcer.max <= held
    else:
        assert result.hter == metrics.eer(scores, labels).value


@given(st.integers(1, 3000), st.data())
@settings(max_examples=80, deadline=None)
def test_an_exact_interval_holds_its_rate_and_moves_with_it(n: int, data: st.DataObject) -> None:
    errors = data.draw(st.integers(0, n))
    rate = metrics.Rate.from_counts(errors, n)
    assert 0 <= rate.low <= rate.value <= rate.high <= 1
    wider = metrics.clopper_pearson(errors, n, 0.99)
    assert wider.low <= rate.low <= rate.high <= wider.high
    if errors < n:
        following = metrics.clopper_pearson(errors + 1, n)
        assert following.low > rate.low
        assert following.high > rate.high or rate.high == 1


@_QUICK
@given(st.lists(st.tuples(st.sampled_from("abcd"), _LEVELS), min_size=1, max_size=30))
def test_video_scores_are_the_means_of_their_frames(frames: list[tuple[str, int]]) -> None:
    videos = [v for v, _ in frames]
    result = metrics.aggregate_videos([s for _, s in frames], np.zeros(len(frames)), videos)
    assert set(result.videos) == set(videos)
    for name, score in zip(result.videos, result.scores, strict=True):
        assert score == pytest.approx(np.mean([s for v, s in frames if v == name]))
