"""Error rates and curves against hand-worked tables, brute force and scikit-learn."""

from __future__ import annotations

import copy
import pickle
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from fasedge import metrics
from fasedge.errors import FasEdgeError, MetricError
from fasedge.metrics._ladder import Ladder
from fasedge.types import Label

# Worked by hand: four bona fide presentations, three prints, three replays.
SCORES = [0.9, 0.8, 0.7, 0.4, 0.1, 0.2, 0.6, 0.3, 0.5, 0.75]
LABELS = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
SPECIES = [None] * 4 + ["print"] * 3 + ["replay"] * 3


def _random(seed: int, n: int = 60, levels: int | None = None) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    labels = np.concatenate(([0, 1], rng.integers(0, 2, n - 2)))
    scores = rng.normal(labels * 1.0)
    if levels:
        scores = np.round(scores * levels) / levels
    return scores, labels, [str(s) for s in rng.choice(["mask", "print", "replay"], n)]


def _brute_auc(scores: np.ndarray, labels: np.ndarray) -> Fraction:
    pairs = [(b, a) for b in scores[labels == 1] for a in scores[labels == 0]]
    return sum((Fraction(int(b > a)) + Fraction(int(b == a), 2) for b, a in pairs), Fraction()) / len(pairs)


def _brute_rates(scores: np.ndarray, labels: np.ndarray) -> list[tuple[Fraction, Fraction]]:
    """FAR and FRR for a threshold below everything and just above each score, in exact arithmetic."""
    attacks, bona_fide = scores[labels == 0].tolist(), scores[labels == 1].tolist()
    rates = [(Fraction(1), Fraction(0))]
    for cut in sorted(set(scores.tolist())):
        accepted, rejected = sum(s > cut for s in attacks), sum(s <= cut for s in bona_fide)
        rates.append((Fraction(accepted, len(attacks)), Fraction(rejected, len(bona_fide))))
    return rates


def test_rates_at_one_half_match_the_table_worked_by_hand() -> None:
    rates = metrics.apcer(SCORES, LABELS, SPECIES, threshold=0.5)
    assert rates.per_species["print"].value == pytest.approx(1 / 3)
    assert rates.per_species["replay"].value == pytest.approx(2 / 3)
    assert (rates.per_species["replay"].errors, rates.per_species["replay"].n) == (2, 3)
    assert rates.max == pytest.approx(2 / 3)
    assert rates.worst_species == "replay"
    assert rates.pooled.value == 0.5
    assert metrics.bpcer(SCORES, LABELS, threshold=0.5).value == 0.25
    assert metrics.acer(SCORES, LABELS, SPECIES, threshold=0.5) == pytest.approx(0.4583, abs=5e-5)
    assert metrics.hter(SCORES, LABELS, threshold=0.5) == 0.375


def test_rates_at_another_threshold_match_the_table_worked_by_hand() -> None:
    rates = metrics.apcer(SCORES, LABELS, SPECIES, threshold=0.65)
    assert rates.per_species["print"].value == 0
    assert rates.per_species["replay"].value == pytest.approx(1 / 3)
    assert rates.pooled.value == pytest.approx(1 / 6)
    assert metrics.far(SCORES, LABELS, threshold=0.65) == rates.pooled
    assert metrics.frr(SCORES, LABELS, threshold=0.65).value == 0.25
    assert metrics.acer(SCORES, LABELS, SPECIES, threshold=0.65) == pytest.approx(0.2917, abs=5e-5)
    assert metrics.hter(SCORES, LABELS, threshold=0.65) == pytest.approx(0.2083, abs=5e-5)


def test_auc_and_eer_match_the_table_worked_by_hand() -> None:
    assert metrics.auc(SCORES, LABELS) == pytest.approx(20 / 24)
    found = metrics.eer(SCORES, LABELS)
    # FAR 1/3 with FRR 1/4 and FAR 1/6 with FRR 1/4 have the same gap; the smaller sum counts.
    assert found.value == pytest.approx((1 / 6 + 1 / 4) / 2)
    assert found.threshold == pytest.approx(0.65)
    assert (found.far, found.frr) == (pytest.approx(1 / 6), 0.25)


def test_a_score_equal_to_the_threshold_is_accepted() -> None:
    assert metrics.far([0.5, 0.9], [Label.ATTACK, Label.BONA_FIDE], threshold=0.5).value == 1
    assert metrics.frr([0.1, 0.5], [Label.ATTACK, Label.BONA_FIDE], threshold=0.5).value == 0


def test_infinite_thresholds_accept_or_reject_everything() -> None:
    assert metrics.hter(SCORES, LABELS, threshold=float("-inf")) == 0.5
    assert metrics.far(SCORES, LABELS, threshold=float("-inf")).value == 1
    assert metrics.frr(SCORES, LABELS, threshold=float("inf")).value == 1


def test_without_species_all_attacks_are_one_species() -> None:
    rates = metrics.apcer(SCORES, LABELS, threshold=0.5)
    assert dict(rates.per_species) == {"attack": rates.pooled}


def test_the_worst_species_is_not_hidden_by_a_frequent_easy_one() -> None:
    scores = [0.9] + [0.1] * 98 + [0.8, 0.2]
    labels = [1] + [0] * 100
    species = ["-"] + ["print"] * 98 + ["mask"] * 2
    rates = metrics.apcer(scores, labels, species, threshold=0.5)
    assert rates.pooled.value == 0.01
    assert rates.max == 0.5
    assert metrics.acer(scores, labels, species, threshold=0.5) == 0.25


@pytest.mark.parametrize("levels", [None, 1, 4])
@pytest.mark.parametrize("seed", range(4))
def test_auc_equals_the_count_over_all_pairs(seed: int, levels: int | None) -> None:
    scores, labels, _ = _random(seed, levels=levels)
    assert metrics.auc(scores, labels) == pytest.approx(float(_brute_auc(scores, labels)), abs=1e-14)


@pytest.mark.parametrize("levels", [None, 3])
def test_auc_equals_the_one_of_scikit_learn(levels: int | None) -> None:
    scores, labels, _ = _random(7, n=3000, levels=levels)
    assert metrics.auc(scores, labels) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize("levels", [None, 3])
def test_the_roc_curve_equals_the_one_of_scikit_learn(levels: int | None) -> None:
    scores, labels, _ = _random(8, n=500, levels=levels)
    far, tar, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
    curve = metrics.roc_curve(scores, labels)
    np.testing.assert_allclose(curve.far, far, atol=1e-12)
    np.testing.assert_allclose(curve.tar, tar, atol=1e-12)


def test_each_point_of_the_roc_curve_is_what_its_threshold_gives() -> None:
    scores, labels, _ = _random(9, n=40, levels=3)
    curve = metrics.roc_curve(scores, labels)
    for threshold, far, tar in zip(curve.thresholds, curve.far, curve.tar, strict=True):
        assert metrics.far(scores, labels, threshold=threshold).value == pytest.approx(far)
        assert 1 - metrics.frr(scores, labels, threshold=threshold).value == pytest.approx(tar)


def test_the_det_curve_goes_through_every_point_of_the_one_of_scikit_learn() -> None:
    scores, labels, _ = _random(10, n=200, levels=5)
    far, frr, _ = sk.det_curve(labels, scores)
    curve = metrics.det_curve(scores, labels)
    ours = {(round(a, 9), round(b, 9)) for a, b in zip(curve.apcer, curve.bpcer, strict=True)}
    assert {(round(float(a), 9), round(float(b), 9)) for a, b in zip(far, frr, strict=True)} <= ours


def test_the_det_curve_shows_the_worst_species_at_each_threshold() -> None:
    scores, labels, species = _random(11, n=50)
    curve = metrics.det_curve(scores, labels, species)
    for threshold, apcer, bpcer in zip(curve.thresholds, curve.apcer, curve.bpcer, strict=True):
        assert metrics.apcer(scores, labels, species, threshold=threshold).max == apcer
        assert metrics.bpcer(scores, labels, threshold=threshold).value == bpcer
    np.testing.assert_allclose(curve.apcer_probit, stats.norm.ppf(np.clip(curve.apcer, 1e-4, 1 - 1e-4)), atol=1e-9)
    np.testing.assert_allclose(curve.bpcer_probit, stats.norm.ppf(np.clip(curve.bpcer, 1e-4, 1 - 1e-4)), atol=1e-9)


def test_curves_cannot_be_written_to() -> None:
    curve = metrics.det_curve(SCORES, LABELS)
    with pytest.raises(ValueError, match="read-only"):
        curve.apcer[0] = 0.5


def test_the_probit_equals_the_normal_quantile_of_scipy_and_is_clipped_at_the_ends() -> None:
    rates = np.array([[0.0, 1e-5, 1e-4], [0.3, 0.5, 1.0]])
    expected = stats.norm.ppf([[1e-4, 1e-4, 1e-4], [0.3, 0.5, 1 - 1e-4]])
    np.testing.assert_allclose(metrics.probit(rates), expected, atol=1e-9)
    assert metrics.probit(0.5).shape == ()


@pytest.mark.parametrize("levels", [None, 1, 3])
@pytest.mark.parametrize("seed", range(6))
def test_eer_equals_a_search_over_all_thresholds_in_exact_arithmetic(seed: int, levels: int | None) -> None:
    scores, labels, _ = _random(seed, n=35, levels=levels)
    far, frr = min(_brute_rates(scores, labels), key=lambda r: (abs(r[0] - r[1]), r[0] + r[1]))
    found = metrics.eer(scores, labels)
    assert found.value == pytest.approx(float((far + frr) / 2), abs=1e-14)
    assert found.far == pytest.approx(metrics.far(scores, labels, threshold=found.threshold).value)
    assert found.frr == pytest.approx(metrics.frr(scores, labels, threshold=found.threshold).value)


def test_eer_of_separable_inverted_and_constant_scores() -> None:
    separable = metrics.eer([0.2, 0.4, 0.6, 0.8], [0, 0, 1, 1])
    assert (separable.value, separable.threshold) == (0, pytest.approx(0.5))
    assert metrics.eer([0.2, 0.4, 0.6, 0.8], [1, 1, 0, 0]).value == 1
    constant = metrics.eer([0.5, 0.5, 0.5], [0, 1, 1])
    assert constant.value == 0.5
    assert constant.threshold == float("inf")  # of two useless thresholds the strict one


def test_neighbouring_floats_and_huge_spans_are_still_separated() -> None:
    low = 0.7
    high = float(np.nextafter(low, 1))
    assert metrics.eer([low, high], [0, 1]).value == 0
    assert metrics.far([low, high], [0, 1], threshold=metrics.eer([low, high], [0, 1]).threshold).value == 0
    huge = metrics.eer([-1.7e308, 1.7e308], [0, 1])
    assert huge.value == 0
    assert -1.7e308 < huge.threshold <= 1.7e308


def test_one_rate_at_a_fixed_other_matches_the_table_worked_by_hand() -> None:
    third = metrics.bpcer_at_apcer(SCORES, LABELS, SPECIES, apcer=1 / 3)
    assert (third.threshold, third.apcer, third.bpcer) == (pytest.approx(0.55), pytest.approx(1 / 3), 0.25)
    none = metrics.bpcer_at_apcer(SCORES, LABELS, SPECIES, apcer=0)
    assert (none.threshold, none.apcer, none.bpcer) == (pytest.approx(0.775), 0, 0.5)
    quarter = metrics.apcer_at_bpcer(SCORES, LABELS, SPECIES, bpcer=0.25)
    assert (quarter.threshold, quarter.apcer, quarter.bpcer) == (pytest.approx(0.65), pytest.approx(1 / 3), 0.25)
    zero = metrics.apcer_at_bpcer(SCORES, LABELS, SPECIES, bpcer=0)
    assert (zero.threshold, zero.apcer, zero.bpcer) == (pytest.approx(0.35), pytest.approx(2 / 3), 0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("held", [0.0, 0.01, 0.05, 0.2, 0.5])
def test_one_rate_at_a_fixed_other_is_the_best_over_all_thresholds(seed: int, held: float) -> None:
    scores, labels, species = _random(seed, n=80, levels=6)
    cuts = [*sorted(set(scores.tolist())), float("inf")]
    points = [
        (
            metrics.apcer(scores, labels, species, threshold=c).max,
            metrics.bpcer(scores, labels, threshold=c).value,
        )
        for c in cuts
    ]
    by_apcer = metrics.bpcer_at_apcer(scores, labels, species, apcer=held)
    assert by_apcer.bpcer == min(b for a, b in points if a <= held)
    assert by_apcer.apcer <= held
    by_bpcer = metrics.apcer_at_bpcer(scores, labels, species, bpcer=held)
    assert by_bpcer.apcer == min([a for a, b in points if b <= held] or [1.0])
    assert by_bpcer.bpcer <= held


def test_holding_a_rate_uses_the_exact_fraction() -> None:
    # One of twenty is 5 %, not a little more.
    scores = [i / 100 for i in range(20)] + [-1.0]
    assert metrics.apcer_at_bpcer(scores, [1] * 20 + [0], bpcer=0.05).bpcer == 0.05


def test_non_responses_are_counted_per_class_and_species() -> None:
    rates = metrics.non_response_rates([0.9, None, 0.1, None, None], [1, 1, 0, 0, 0], ["", "", "a", "a", "b"])
    assert rates.bpnrr is not None
    assert (rates.bpnrr.errors, rates.bpnrr.n) == (1, 2)
    assert (rates.apnrr["a"].value, rates.apnrr["b"].value) == (0.5, 1.0)
    assert rates.apnrr_pooled is not None
    assert rates.apnrr_pooled.value == pytest.approx(2 / 3)
    assert rates.total == 3


def test_results_can_be_copied_and_pickled_but_not_changed() -> None:
    rates = metrics.apcer(SCORES, LABELS, SPECIES, threshold=0.5)
    assert copy.deepcopy(rates) == rates
    assert pickle.loads(pickle.dumps(rates)) == rates  # noqa: S301 - made on the line itself
    with pytest.raises(TypeError):
        rates.per_species["print"] = rates.pooled  # type: ignore[index]
    with pytest.raises(AttributeError):
        rates.pooled = rates.per_species["print"]  # type: ignore[misc]


_NAN, _INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("scores", "labels", "species", "message"),
    [
        ([], [], None, "empty"),
        ([0.1, _NAN], [0, 1], None, "non-responses"),
        ([0.1, None], [0, 1], None, "non-responses"),
        ([0.1, _INF], [0, 1], None, "infinite"),
        ([0.1, 0.2], [0, 0], None, "no bona fide"),
        ([0.1, 0.2], [1, 1], None, "no attack"),
        ([0.1, 0.2, 0.3], [0, 1], None, "one entry per score, 3"),
        ([[0.1], [0.2]], [0, 1], None, "one-dimensional"),
        (["a", "b"], [0, 1], None, "real numbers"),
        (["0.1", None], [0, 1], None, "real numbers"),
        ([0.1, 1j], [0, 1], None, "real numbers"),
        ([0.1, 0.2], [0, [1]], None, "labels must be"),
        ([0.1, [0.2, 0.3]], [0, 1], None, "real numbers"),
        ([0.1, 0.2], [-1, 1], None, "0 .attack. or 1 .bona fide., got -1"),
        ([0.1, 0.2], ["0", "1"], None, "0 .attack. or 1"),
        ([0.1, 0.2], [0, _NAN], None, "0 .attack. or 1"),
        ([0.1, 0.2], [0, 1], ["print"], "species must have one entry per score, 2, got 1"),
        ([0.1, 0.2], [0, 1], "print", "single string"),
        ([0.1, 0.2], [0, 1], [None, "print"], "attack presentation 0 needs the name"),
        ([0.1, 0.2], [0, 1], [" ", ""], "attack presentation 0 needs the name"),
        ([0.1, 0.2], [0, 1], [3, 4], "attack presentation 0 needs the name"),
    ],
)
def test_unusable_input_is_refused_with_a_reason(
    scores: list[float], labels: list[int], species: list[str], message: str
) -> None:
    with pytest.raises(MetricError, match=message):
        metrics.acer(scores, labels, species, threshold=0.5)
    with pytest.raises(MetricError, match=message):
        metrics.det_curve(scores, labels, species)


def test_a_metric_error_is_a_value_error_and_one_of_ours() -> None:
    with pytest.raises(ValueError, match="empty") as caught:
        metrics.auc([], [])
    assert isinstance(caught.value, FasEdgeError)


def test_a_rate_of_one_class_does_not_need_the_other() -> None:
    assert metrics.far([0.1, 0.9], [0, 0], threshold=0.5).value == 0.5
    assert metrics.frr([0.1, 0.9], [1, 1], threshold=0.5).value == 0.5
    with pytest.raises(MetricError, match="no attack"):
        metrics.far([0.1, 0.9], [1, 1], threshold=0.5)
    with pytest.raises(MetricError, match="no bona fide"):
        metrics.frr([0.1, 0.9], [0, 0], threshold=0.5)


def test_impossible_arguments_are_refused() -> None:
    with pytest.raises(MetricError, match="threshold is NaN"):
        metrics.hter(SCORES, LABELS, threshold=_NAN)
    with pytest.raises(MetricError, match=r"0\.05 for 5 %"):
        metrics.bpcer_at_apcer(SCORES, LABELS, apcer=5)
    with pytest.raises(MetricError, match=r"0\.05 for 5 %"):
        metrics.apcer_at_bpcer(SCORES, LABELS, bpcer=_NAN)
    with pytest.raises(MetricError, match="probit"):
        metrics.probit([0.5, _NAN])
    with pytest.raises(MetricError, match="confidence"):
        metrics.bpcer(SCORES, LABELS, threshold=0.5, confidence=95)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_any_float_type_and_boolean_labels_are_understood(kind: type) -> None:
    scores = np.array([0.25, 0.5, 0.75], kind)
    assert metrics.auc(scores, np.array([False, False, True])) == 1
    assert metrics.auc(scores, [0.0, 1.0, 0.0]) == 0.5


def test_the_ladder_counts_each_presentation_once() -> None:
    scores, labels, species = _random(3, n=70, levels=2)
    ladder = Ladder.of(metrics._inputs.check_presentations(scores, labels, species))
    assert ladder.attack.sum() + ladder.bona_fide.sum() == 70
    assert (np.diff(ladder.thresholds) > 0).all()
    np.testing.assert_array_equal(ladder.scores[ladder.rung], scores)


def test_every_public_name_is_exported_once_and_exists() -> None:
    assert len(set(metrics.__all__)) == len(metrics.__all__)
    assert all(hasattr(metrics, name) for name in metrics.__all__)
