"""Operating points of the card: thresholds from dev, rates on test, by species, by source and over people."""

import numpy as np
import pytest

from quantize.facts import as_scored
from quantize.points import operating_points
from tests.quantize.sample_sets import sample_set, set_of
from training.errors import DataError


def test_thresholds_come_from_dev_and_rates_from_test() -> None:
    dev, test = sample_set("dev"), sample_set("test")
    dev_scores = np.where(dev.labels == 1, 0.8, 0.2) + np.linspace(0, 0.1, 40)
    test_scores = np.where(test.labels == 1, 0.9, 0.1)
    test_scores[0] = 0.95  # one of ten replays passes
    point = operating_points(as_scored(dev, dev_scores), as_scored(test, test_scores), "int8", ["bpcer5"])[0]
    assert 0.3 < point.threshold < 0.9
    assert point.apcer["replay"].errors == 1
    assert point.apcer["replay"].n == 10
    assert point.apcer["print"].errors == 0
    assert point.apcer_max == pytest.approx(0.1)
    assert point.bpcer.errors == 0
    assert point.acer == pytest.approx(0.05)


def test_thresholds_are_not_chosen_on_another_split() -> None:
    test = as_scored(sample_set("test"), np.linspace(0, 1, 40))
    with pytest.raises(DataError, match="dev"):
        operating_points(test, test, "int8")


def mixed(split, seed=0, n=600, n_people=40):
    """People of two sources who differ from each other in how they score; the second source has no masks."""
    rng = np.random.default_rng(seed)
    people = rng.integers(n_people, size=n)
    sources = np.where(people % 4 == 0, "lab", "street")
    species = rng.choice(["bona_fide", "bona_fide", "print", "mask"], n)
    species[(species == "mask") & (sources == "street")] = "replay"
    samples = set_of(split, species.tolist(), sources.tolist(), [f"p{k}" for k in people], ["a.jpg"] * n)
    scores = 0.3 + 0.3 * (species == "bona_fide") + rng.normal(0, 0.12, n_people)[people] + rng.normal(0, 0.05, n)
    return as_scored(samples, np.clip(scores, 0, 1))


def test_rates_by_source_and_their_intervals_over_people_equal_a_loop_written_out():
    dev, test = mixed("dev", seed=1), mixed("test")
    (point,) = operating_points(dev, test, "int8", ["bpcer10"])
    rows = test.samples.table
    rejected = [row.label == 1 and score < point.threshold for row, score in zip(rows, test.scores, strict=True)]
    accepted = [row.label == 0 and score >= point.threshold for row, score in zip(rows, test.scores, strict=True)]

    def check(rate, wrong, species, source):
        counted = [
            (bad, row.identity)
            for bad, row in zip(wrong, rows, strict=True)
            if row.species == species and source in (None, row.source)
        ]
        assert (rate.errors, rate.n) == (sum(bad for bad, _ in counted), len(counted))
        assert rate.value == rate.errors / rate.n
        everyone = list(dict.fromkeys(row.identity for row in rows))
        draws = np.random.default_rng(0).multinomial(len(everyone), np.full(len(everyone), 1 / len(everyone)), 1000)
        values = []
        for draw in draws:
            times = dict(zip(everyone, draw.tolist(), strict=True))
            n = sum(times[who] for _, who in counted)
            values += [sum(times[who] for bad, who in counted if bad) / n] if n else []
        low, high = np.quantile(values, [0.025, 0.975])
        assert (rate.people.low, rate.people.high) == (pytest.approx(low), pytest.approx(high))

    check(point.bpcer, rejected, "bona_fide", None)
    for species, rate in point.apcer.items():
        check(rate, accepted, species, None)
    assert {source: sorted(rates) for source, rates in point.apcer_by_source.items()} == {
        "lab": ["mask", "print"],
        "street": ["print", "replay"],
    }
    for source, rate in point.bpcer_by_source.items():
        check(rate, rejected, "bona_fide", source)
        for species, of_attacks in point.apcer_by_source[source].items():
            check(of_attacks, accepted, species, source)


def test_sources_add_up_to_all_at_every_point_and_two_runs_agree():
    dev, test = mixed("dev", seed=1), mixed("test")
    points = operating_points(dev, test, "fp32")
    assert points == operating_points(dev, test, "fp32")
    for point in points:
        assert sum(rate.errors for rate in point.bpcer_by_source.values()) == point.bpcer.errors
        assert sum(rate.n for rate in point.bpcer_by_source.values()) == point.bpcer.n
        for species, rate in point.apcer.items():
            parts = [of[species] for of in point.apcer_by_source.values() if species in of]
            assert (sum(r.errors for r in parts), sum(r.n for r in parts)) == (rate.errors, rate.n)


def test_people_who_differ_widen_the_intervals_over_people():
    points = operating_points(mixed("dev", seed=1), mixed("test"), "int8", ["bpcer10", "eer"])
    for point in points:
        for rate in (point.bpcer, point.apcer["print"]):
            assert rate.people.high - rate.people.low > rate.high - rate.low
        assert point.acer_people.low < point.acer < point.acer_people.high


def test_without_any_error_there_is_no_interval_over_people():
    dev, test = sample_set("dev"), sample_set("test")
    (point,) = operating_points(as_scored(dev, dev.labels * 1.0), as_scored(test, test.labels * 0.9), "int8", ["eer"])
    assert (point.bpcer.people, point.apcer["print"].people, point.acer_people) == (None, None, None)


def test_a_source_without_people_or_without_attacks_has_rates_of_the_other_alone():
    n = 40
    species, sources = ["bona_fide", "print"] * (n // 2), ["faces", "posters"] * (n // 2)
    dev, test = (set_of(s, species, sources, [f"p{i}" for i in range(n)], ["a.jpg"] * n) for s in ("dev", "test"))
    scores = np.linspace(0, 1, n)
    (point,) = operating_points(as_scored(dev, scores), as_scored(test, scores[::-1]), "int8", ["eer"])
    assert (list(point.bpcer_by_source), list(point.apcer_by_source)) == (["faces"], ["posters"])
