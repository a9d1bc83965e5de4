"""Confidence intervals against SciPy, published tables and exact coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special, stats

from fasedge import metrics
from fasedge.errors import MetricError


@pytest.mark.parametrize("a", [0.5, 1, 2, 17.5, 400, 30_000])
@pytest.mark.parametrize("b", [0.5, 1, 3, 250, 1_000_000])
def test_the_incomplete_beta_function_equals_the_one_of_scipy(a: float, b: float) -> None:
    mean = a / (a + b)
    spread = math.sqrt(mean * (1 - mean) / (a + b + 1))
    for x in np.clip(mean + spread * np.array([-4, -2, -0.5, 0, 0.5, 2, 4]), 1e-12, 1 - 1e-12):
        expected = special.betainc(a, b, float(x))
        assert metrics.regularised_incomplete_beta(a, b, float(x)) == pytest.approx(expected, rel=1e-7, abs=1e-12)


def test_the_incomplete_beta_function_is_known_where_it_has_a_closed_form() -> None:
    assert metrics.regularised_incomplete_beta(1, 1, 0.3) == pytest.approx(0.3, rel=1e-14)
    assert metrics.regularised_incomplete_beta(2, 1, 0.3) == pytest.approx(0.09, rel=1e-14)
    assert metrics.regularised_incomplete_beta(1, 3, 0.3) == pytest.approx(1 - 0.7**3, rel=1e-14)
    assert metrics.regularised_incomplete_beta(5, 5, 0.5) == pytest.approx(0.5, rel=1e-14)
    assert metrics.regularised_incomplete_beta(4, 9, 0) == 0
    assert metrics.regularised_incomplete_beta(4, 9, 1) == 1


@pytest.mark.parametrize("a", [0.3, 1, 5, 90, 20_000])
@pytest.mark.parametrize("b", [0.3, 1, 8, 1_500])
@pytest.mark.parametrize("probability", [1e-9, 0.005, 0.025, 0.5, 0.975, 1 - 1e-6])
def test_the_beta_quantile_equals_the_one_of_scipy(a: float, b: float, probability: float) -> None:
    expected = special.betaincinv(a, b, probability)
    assert metrics.beta_quantile(probability, a, b) == pytest.approx(expected, rel=1e-8, abs=1e-14)


# Upper and lower 95 % limits in per cent as printed in common tables of exact binomial limits.
@pytest.mark.parametrize(
    ("errors", "n", "low", "high"),
    [(0, 10, 0.0, 30.85), (1, 10, 0.25, 44.50), (5, 10, 18.71, 81.29), (10, 10, 69.15, 100.0), (3, 100, 0.62, 8.52)],
)
def test_exact_limits_equal_the_printed_tables(errors: int, n: int, low: float, high: float) -> None:
    interval = metrics.clopper_pearson(errors, n)
    assert 100 * interval.low == pytest.approx(low, abs=0.005)
    assert 100 * interval.high == pytest.approx(high, abs=0.005)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 47, 240, 1000, 100_000])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_exact_limits_equal_the_beta_quantiles_of_scipy(n: int, confidence: float) -> None:
    tail = (1 - confidence) / 2
    for errors in sorted({0, 1, n // 20, n // 3, n // 2, n - 1, n}):
        interval = metrics.clopper_pearson(errors, n, confidence)
        low = stats.beta.ppf(tail, errors, n - errors + 1) if errors else 0
        high = stats.beta.isf(tail, errors + 1, n - errors) if errors < n else 1
        assert interval.low == pytest.approx(low, rel=1e-8, abs=1e-14)
        assert interval.high == pytest.approx(high, rel=1e-8)


def test_the_lower_limit_for_a_single_error_among_a_million_keeps_its_digits() -> None:
    expected = -math.expm1(math.log1p(-0.025) / 1_000_000)  # closed form for one error
    assert metrics.clopper_pearson(1, 1_000_000).low == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("n", [5, 20, 90])
def test_exact_limits_cover_every_true_rate_at_least_as_often_as_promised(n: int) -> None:
    intervals = [metrics.clopper_pearson(k, n, 0.9) for k in range(n + 1)]
    coverages = []
    for rate in np.linspace(0.001, 0.999, 211):
        chances = stats.binom.pmf(np.arange(n + 1), n, rate)
        coverages.append(sum(p for p, i in zip(chances, intervals, strict=True) if rate in i))
    assert min(coverages) >= 0.9 - 1e-12
    assert np.mean(coverages) < 0.99  # and is not bought with intervals that are far too wide


def test_limits_mirror_each_other_when_errors_and_successes_are_swapped() -> None:
    for errors in range(12):
        one, other = metrics.clopper_pearson(errors, 11), metrics.clopper_pearson(11 - errors, 11)
        assert one.low == pytest.approx(1 - other.high, abs=1e-13)


def test_no_error_is_reported_with_the_rule_of_three() -> None:
    assert metrics.rule_of_three(60) == 0.05
    assert metrics.rule_of_three(2) == 1
    # The rule approximates the one-sided exact limit.
    assert metrics.rule_of_three(500) == pytest.approx(1 - 0.05 ** (1 / 500), rel=0.01)
    assert "at most 5.00%" in metrics.Rate.from_counts(0, 60).remark
    assert metrics.Rate.from_counts(1, 60).remark == ""


def test_a_rate_prints_with_its_basis() -> None:
    assert str(metrics.Rate.from_counts(1, 10)) == "10.00% (1/10, 95% CI 0.25%-44.50%)"
    assert "99.9% CI" in str(metrics.Rate.from_counts(1, 10, 0.999))


@pytest.mark.parametrize(("errors", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(errors: int, n: int) -> None:
    with pytest.raises(MetricError, match="0 <= errors <= n"):
        metrics.clopper_pearson(errors, n)


def test_impossible_parameters_are_refused() -> None:
    with pytest.raises(MetricError, match="confidence"):
        metrics.clopper_pearson(1, 5, 1.0)
    with pytest.raises(MetricError, match="incomplete beta"):
        metrics.regularised_incomplete_beta(0, 1, 0.5)
    with pytest.raises(MetricError, match="incomplete beta"):
        metrics.regularised_incomplete_beta(1, 1, float("nan"))
    with pytest.raises(MetricError, match="probability"):
        metrics.beta_quantile(1.5, 1, 1)
    with pytest.raises(MetricError, match="rule of three"):
        metrics.rule_of_three(0)


def _people(seed: int, n_people: int = 12, per_person: int = 6) -> tuple[np.ndarray, ...]:
    """Scores of people who differ from each other: half of each one's presentations are attacks."""
    rng = np.random.default_rng(seed)
    subjects = np.repeat(np.arange(n_people), per_person)
    labels = np.tile([0, 1], n_people * per_person // 2)
    scores = np.round(rng.normal(1.2 * labels + rng.normal(0, 0.8, n_people)[subjects]), 1)
    return scores, labels, subjects, rng.choice(["mask", "print"], len(scores))


def test_the_bootstrap_equals_literal_resampling_of_subjects() -> None:
    scores, labels, subjects, species = _people(5)
    found = metrics.bootstrap_intervals(scores, labels, subjects, species, threshold=0.6, seed=3)
    draws = np.random.default_rng(3).multinomial(12, np.full(12, 1 / 12), size=1000)
    values = []
    for draw in draws:
        rows = np.concatenate([np.tile(np.flatnonzero(subjects == person), times) for person, times in enumerate(draw)])
        s, y, kinds = scores[rows], labels[rows], species[rows]
        worst = max((s[(y == 0) & (kinds == k)] >= 0.6).mean() for k in set(kinds[y == 0]))
        pooled, bpcer = (s[y == 0] >= 0.6).mean(), (s[y == 1] < 0.6).mean()
        cuts = [-np.inf, *(np.unique(s) + 1e-9)]
        far, frr = min(
            (((s[y == 0] >= c).mean(), (s[y == 1] < c).mean()) for c in cuts),
            key=lambda r: (round(abs(r[0] - r[1]), 12), r[0] + r[1]),
        )
        pairs = s[y == 1][:, None] - s[y == 0]
        auc = (pairs > 0).mean() + (pairs == 0).mean() / 2
        values.append((auc, (far + frr) / 2, worst, pooled, bpcer, (worst + bpcer) / 2, (pooled + bpcer) / 2))
    expected = np.quantile(values, [0.025, 0.975], axis=0)
    names = ("auc", "eer", "apcer_max", "apcer_pooled", "bpcer", "acer", "hter")
    for name, (low, high) in zip(names, expected.T, strict=True):
        interval = getattr(found, name)
        assert (interval.low, interval.high) == (pytest.approx(low, abs=1e-12), pytest.approx(high, abs=1e-12)), name
    assert (found.n_subjects, found.n_resamples, found.n_used, found.seed) == (12, 1000, 1000, 3)


def test_the_bootstrap_does_not_depend_on_how_it_is_cut_into_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, labels, subjects, species = _people(6)
    whole = metrics.bootstrap_intervals(scores, labels, subjects, species, threshold=0.6)
    monkeypatch.setattr("fasedge.metrics._bootstrap._MAX_CELLS", 72 * 37)
    assert metrics.bootstrap_intervals(scores, labels, subjects, species, threshold=0.6) == whole


def test_equal_seeds_give_equal_intervals_and_other_seeds_others() -> None:
    scores, labels, subjects, _ = _people(7)
    one, same, other = (metrics.bootstrap_intervals(scores, labels, subjects, seed=s) for s in (1, 1, 2))
    assert one == same
    assert one.auc != other.auc
    assert (one.apcer_max, one.apcer_pooled, one.bpcer, one.acer, one.hter) == (None,) * 5


def test_intervals_over_subjects_are_wider_than_over_presentations_when_people_differ() -> None:
    # Each person only attacks or only is bona fide, and nearly all of the noise lies between people.
    subjects = np.repeat(np.arange(15), 20)
    labels = (subjects + 1) % 2
    rng = np.random.default_rng(0)
    scores = labels + rng.normal(0, 1, 15)[subjects] + rng.normal(0, 0.1, len(subjects))
    people = metrics.bootstrap_intervals(scores, labels, subjects).auc
    presentations = metrics.bootstrap_intervals(scores, labels, np.arange(len(scores))).auc
    assert people.high - people.low > 2 * (presentations.high - presentations.low)


def test_the_bootstrap_interval_covers_the_true_auc_about_as_often_as_promised() -> None:
    # 60 people with one bona fide presentation and one attack each; unit normal scores, 1 apart, no person effect.
    true_auc = stats.norm.cdf(1 / math.sqrt(2))
    covered = 0
    for trial in range(60):
        rng = np.random.default_rng(1000 + trial)
        labels = np.tile([0, 1], 60)
        scores = rng.normal(labels)
        covered += true_auc in metrics.bootstrap_intervals(scores, labels, np.repeat(np.arange(60), 2), seed=trial).auc
    assert 52 <= covered <= 60


def test_resamples_without_one_class_are_left_out_and_counted() -> None:
    scores = [0.9, 0.8, 0.7, 0.1, 0.2, 0.3]
    result = metrics.bootstrap_intervals(scores, [1, 1, 1, 0, 0, 0], ["a", "b", "c", "d", "e", "f"])
    # A class is missing with chance 2 * (1/2) ** 6 = 1/32.
    assert 1000 - result.n_used == pytest.approx(1000 / 32, abs=4 * math.sqrt(1000 / 32))
    assert result.n_used < 1000


def test_a_bootstrap_that_cannot_say_anything_is_refused() -> None:
    scores, labels, subjects, _ = _people(9)
    with pytest.raises(MetricError, match="at least 2 subjects"):
        metrics.bootstrap_intervals(scores, labels, np.zeros(len(scores)))
    with pytest.raises(MetricError, match="at least 1000 resamples"):
        metrics.bootstrap_intervals(scores, labels, subjects, n_resamples=999)
    with pytest.raises(MetricError, match="lack one of the classes"):
        metrics.bootstrap_intervals([0.9, 0.1, 0.2, 0.3], [1, 0, 0, 0], ["a", "b", "c", "d"])
    with pytest.raises(MetricError, match="one identifier per score"):
        metrics.bootstrap_intervals(scores, labels, subjects[:-1])
    with pytest.raises(MetricError, match="1 of 2 subjects are missing"):
        metrics.bootstrap_intervals([0.1, 0.9], [0, 1], ["a", float("nan")])
    with pytest.raises(MetricError, match="confidence"):
        metrics.bootstrap_intervals(scores, labels, subjects, confidence=0)


def test_intervals_of_groups_equal_literal_resampling_of_subjects(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, labels, subjects, species = _people(5)
    wrong = (scores >= 0.6) != (labels == 1)
    groups = {kind: (labels == 0) & (species == kind) for kind in ("mask", "print")}
    groups |= {"bona fide": labels == 1, "everything": np.ones(len(labels), bool)}
    found = metrics.bootstrap_rates(wrong, subjects, groups, seed=3)
    draws = np.random.default_rng(3).multinomial(12, np.full(12, 1 / 12), size=1000)
    for name, members in groups.items():
        values = []
        for draw in draws:
            n = errors = 0
            for flag, of_group, person in zip(wrong, members, subjects, strict=True):
                n += draw[person] * of_group
                errors += draw[person] * (of_group and flag)
            values.append(errors / n)
        low, high = np.quantile(values, [0.025, 0.975])
        assert found[name] == metrics.Interval(pytest.approx(low), pytest.approx(high))
    at_threshold = metrics.bootstrap_intervals(scores, labels, subjects, species, threshold=0.6, seed=3)
    assert found["bona fide"] == at_threshold.bpcer
    monkeypatch.setattr("fasedge.metrics._bootstrap._MAX_CELLS", 12 * 37)
    assert metrics.bootstrap_rates(wrong, subjects, groups, seed=3) == found


def test_people_who_are_always_mistaken_widen_the_interval_over_people_but_not_the_exact_one() -> None:
    subjects = np.repeat(np.arange(40), 25)
    everyone = {"all": np.ones(1000, bool)}
    clustered = metrics.bootstrap_rates(subjects < 4, subjects, everyone)["all"]
    spread = metrics.bootstrap_rates(np.arange(1000) % 10 == 0, subjects, everyone)["all"]
    exact = metrics.clopper_pearson(100, 1000)
    assert clustered.high - clustered.low > 3 * (exact.high - exact.low)
    assert spread.high - spread.low < exact.high - exact.low


def test_groups_of_which_a_bootstrap_says_nothing_have_no_interval() -> None:
    subjects = np.repeat(np.arange(30), 2)
    wrong = np.arange(60) % 2 == 0
    groups = {
        "one person": subjects == 3,
        "two people, often not drawn": subjects < 2,
        "no error": ~wrong,
        "nothing but errors": wrong,
        "nobody": subjects > 30,
        "enough": (subjects < 5) & (np.arange(60) > 0),
    }
    found = metrics.bootstrap_rates(wrong, subjects, groups)
    assert [name for name, interval in found.items() if interval is not None] == ["enough"]
    assert metrics.bootstrap_rates(wrong, subjects, {}) == {}


def test_intervals_of_groups_refuse_what_they_cannot_count() -> None:
    wrong, subjects = np.array([True, False, True]), ["a", "b", "c"]
    everyone = {"all": np.ones(3, bool)}
    with pytest.raises(MetricError, match="wrong must have one bool per presentation, 3, got int64"):
        metrics.bootstrap_rates(wrong.astype(np.int64), subjects, everyone)
    with pytest.raises(MetricError, match=r"group 'few' must have .* got bool of shape \(2,\)"):
        metrics.bootstrap_rates(wrong, subjects, {"few": np.ones(2, bool)})
    with pytest.raises(MetricError, match="one identifier per score"):
        metrics.bootstrap_rates(wrong, subjects[:2], everyone)
    with pytest.raises(MetricError, match="at least 2 subjects"):
        metrics.bootstrap_rates(wrong, ["a"] * 3, everyone)
    with pytest.raises(MetricError, match="at least 1000 resamples"):
        metrics.bootstrap_rates(wrong, subjects, everyone, n_resamples=10)
    with pytest.raises(MetricError, match="confidence"):
        metrics.bootstrap_rates(wrong, subjects, everyone, confidence=1.0)
