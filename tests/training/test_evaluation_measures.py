"""Measures of an evaluation, held to a table worked by hand and to scikit-learn."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc

from fasedge import metrics
from fasedge.errors import MetricError
from tests.training.fixtures.toy_sets import toy_row
from training.data.table import SampleRow
from training.errors import DataError
from training.evaluation.measure import CRITERIA, mean_of, measure_levels, numbers
from training.evaluation.plots import draw_det
from training.evaluation.tables import Presentations, ScoreTable, frame_of, write_scores


def table(rows: list[SampleRow], scores: list[float], split: str) -> ScoreTable:
    return ScoreTable(rows, split, {"score": np.array(scores)})


def hand_made(split: str, scores: list[float] | None = None) -> ScoreTable:
    """Ten presentations of five people, frame by frame: four bona fide, three prints, three replays."""
    kinds = ["bona_fide"] * 4 + ["print"] * 3 + ["replay"] * 3
    rows = [
        toy_row(i, int(kind == "bona_fide"), split=split, species=kind, subtype=kind, identity=f"{split}{i % 5}")
        for i, kind in enumerate(kinds)
    ]
    return table(rows, scores or [0.9, 0.8, 0.7, 0.4, 0.1, 0.2, 0.6, 0.3, 0.5, 0.75], split)


def test_rates_are_those_of_the_table_worked_by_hand() -> None:
    # Bona fide .9 .8 .7 .4; print .1 .2 .6; replay .3 .5 .75. At .5: print 1/3, replay 2/3, pooled 3/6, BPCER 1/4.
    dev = hand_made("dev", [0.91, 0.81, 0.71, 0.41, 0.11, 0.21, 0.61, 0.31, 0.51, 0.76])
    found = measure_levels(dev, hand_made("test"), fixed=0.5, resamples=0)["frame"]["score"]
    fixed = found.at["fixed"]
    assert fixed.apcer["print"].value == pytest.approx(1 / 3)
    assert fixed.apcer["replay"].value == pytest.approx(2 / 3)
    assert (fixed.apcer_max, fixed.worst_species) == (pytest.approx(2 / 3), "replay")
    assert (fixed.apcer_pooled.value, fixed.bpcer.value) == (0.5, 0.25)
    assert fixed.acer == pytest.approx(0.4583, abs=5e-5)
    assert (fixed.hter, fixed.acer_pooled) == (0.375, 0.375)
    assert found.auc == pytest.approx(0.8333, abs=5e-5)
    # |FAR - FRR| is 1/12 at .6 and at .65; the smaller sum counts: (1/6 + 1/4) / 2.
    assert found.eer == pytest.approx(0.2083, abs=5e-5)
    assert (fixed.chosen_on, found.at["eer"].chosen_on) == ("", "dev")
    # Dev differs from test by .01 upwards: its EER threshold lies between .61 and .71.
    assert found.at["eer"].threshold == pytest.approx(0.66)
    assert found.at["eer"].acer == pytest.approx(0.2917, abs=5e-5)


def test_thresholds_do_not_depend_on_the_test_set() -> None:
    dev = hand_made("dev", [0.91, 0.81, 0.71, 0.41, 0.11, 0.21, 0.61, 0.31, 0.51, 0.76])
    other = hand_made("test", [0.2, 0.3, 0.5, 0.1, 0.9, 0.8, 0.7, 0.6, 0.4, 0.05])
    one, two = (measure_levels(dev, test, fixed=0.5, resamples=0) for test in (hand_made("test"), other))
    for name in (*CRITERIA, "fixed"):
        if name in one["frame"]["score"].at:
            assert one["frame"]["score"].at[name].threshold == two["frame"]["score"].at[name].threshold
    assert one["frame"]["score"].missing == two["frame"]["score"].missing


def overlapping(split: str, seed: int, *, n: int = 240, videos: bool = False) -> ScoreTable:
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        label = i // 4 % 2
        params: dict[str, object] = {"video": f"{split}/{i // 4}", "frame": i % 4} if videos else {}
        species = "bona_fide" if label else ("print", "replay")[i // 8 % 2]
        person = f"{split}{i // 4 % 12}"
        rows.append(toy_row(i, label, split=split, species=species, subtype=species, identity=person, params=params))
    return table(rows, [float(rng.normal(0.4 + 0.2 * row.label, 0.15)) for row in rows], split)


def test_auc_and_eer_agree_with_scikit_learn() -> None:
    dev, test = overlapping("dev", 1), overlapping("test", 2)
    found = measure_levels(dev, test, fixed=0.5, resamples=0)["frame"]["score"]
    labels = [row.label for row in test.rows]
    assert found.auc == pytest.approx(roc_auc_score(labels, test.scores["score"]), abs=1e-12)
    far, tar, _ = sklearn_roc(labels, test.scores["score"], drop_intermediate=False)
    k = int(np.argmin(np.abs(far - (1 - tar))))
    assert found.eer == pytest.approx((far[k] + 1 - tar[k]) / 2, abs=1e-12)
    for species, area in found.auc_by_species.items():
        chosen = [i for i, row in enumerate(test.rows) if row.species in (species, "bona_fide")]
        expected = roc_auc_score([labels[i] for i in chosen], test.scores["score"][chosen])
        assert area == pytest.approx(expected, abs=1e-12)


def test_the_score_of_a_video_is_the_mean_of_its_frames() -> None:
    dev, test = overlapping("dev", 1, videos=True), overlapping("test", 2, videos=True)
    found = measure_levels(dev, test, fixed=0.5, resamples=0)
    assert set(found) == {"frame", "video"}
    video = found["video"]["score"]
    means = test.scores["score"].reshape(-1, 4).mean(axis=1)
    labels = [row.label for row in test.rows][::4]
    assert video.n_bona_fide + sum(video.n_attack.values()) == len(means) == 60
    assert video.auc == pytest.approx(roc_auc_score(labels, means), abs=1e-12)
    below = sum(1 for mean, label in zip(means, labels, strict=True) if label and mean < 0.5)
    assert video.at["fixed"].bpcer.errors == below


def test_intervals_of_rates_are_those_of_the_scores_themselves() -> None:
    dev, test = overlapping("dev", 1), overlapping("test", 2)
    found = measure_levels(dev, test, fixed=0.5)["frame"]["score"]
    given = test.at("frame", "score")
    for name in ("eer", "bpcer5", "fixed"):
        whole = metrics.bootstrap_intervals(
            given.scores, given.labels, given.subjects, given.species, threshold=found.at[name].threshold
        )
        for rate in ("apcer_max", "apcer_pooled", "bpcer", "acer", "hter"):
            span, expected = getattr(found.at[name], f"{rate}_span"), getattr(whole, rate)
            assert (span.low, span.high) == (expected.low, expected.high), rate
        assert found.auc_span is not None
        assert (found.auc_span.low, found.auc_span.high) == (whole.auc.low, whole.auc.high)
    assert found.auc_span is not None
    assert found.auc_span.low < found.auc < found.auc_span.high


def test_too_few_people_cost_the_intervals_and_nothing_else() -> None:
    dev, test = overlapping("dev", 1), overlapping("test", 2)
    alone = ScoreTable([toy_row(r.index, r.label, species=r.species, identity="one") for r in test.rows], "test",
                       test.scores)  # fmt: skip
    found = measure_levels(dev, alone, fixed=0.5)["frame"]["score"]
    assert (found.auc_span, found.at["eer"].acer_span, found.at["eer"].bpcer_span) == (None, None, None)
    assert any("at least 2 subjects" in text for text in found.remarks)
    assert found.auc == pytest.approx(roc_auc_score([r.label for r in test.rows], test.scores["score"]))


def test_a_criterion_that_dev_cannot_meet_is_named_and_the_others_stand() -> None:
    # An attack has the highest score of dev: no threshold holds APCER at 1 % without rejecting everybody.
    dev = hand_made("dev", [0.9, 0.8, 0.7, 0.4, 0.1, 0.2, 0.95, 0.3, 0.5, 0.75])
    found = measure_levels(dev, hand_made("test"), fixed=0.5, resamples=0)["frame"]["score"]
    assert set(found.missing) == {"apcer1", "apcer5"}
    assert "rejecting every presentation" in found.missing["apcer1"]
    assert set(found.at) == {"eer", "bpcer1", "bpcer5", "bpcer10", "fixed"}


def test_presentations_without_a_score_enter_no_rate_and_are_counted() -> None:
    dev = overlapping("dev", 1)
    test = overlapping("test", 2)
    test.scores["score"][[0, 5]] = np.nan
    found = measure_levels(dev, test, fixed=0.5, resamples=0)["frame"]["score"]
    kept = [i for i in range(len(test.rows)) if i not in (0, 5)]
    assert found.n_non_response == 2
    assert found.auc == pytest.approx(
        roc_auc_score([test.rows[i].label for i in kept], test.scores["score"][kept]), abs=1e-12
    )
    attacks = sum(rate.n for rate in found.at["fixed"].apcer.values())
    assert attacks + found.at["fixed"].bpcer.n == len(kept)
    assert any("2 of 240 presentations are non-responses" in text for text in found.remarks)


def test_test_scores_that_are_those_of_dev_are_refused() -> None:
    test = hand_made("test")
    with pytest.raises(MetricError, match="the very ones"):
        measure_levels(hand_made("dev"), test, fixed=0.5, resamples=0)


def test_both_standard_deviations_are_given() -> None:
    # 2, 4, 4, 4, 5, 5, 7, 9: mean 5, squares of deviations sum to 32.
    found = mean_of([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0])
    assert (found.mean, found.std_population, found.n) == (5.0, 2.0, 8)
    assert found.std_sample == pytest.approx((32 / 7) ** 0.5)
    assert mean_of([0.25]).std_sample is None


def test_every_rate_has_a_flat_name() -> None:
    dev = hand_made("dev", [0.91, 0.81, 0.71, 0.41, 0.11, 0.21, 0.61, 0.31, 0.51, 0.76])
    found = numbers(measure_levels(dev, hand_made("test"), fixed=0.5, resamples=0)["frame"]["score"])
    assert found["at_fixed.apcer.replay"] == pytest.approx(2 / 3)
    assert found["at_fixed.bpcer"] == 0.25
    # To hold every species at 10 %, .75 must be refused: .4 and .7 go with it.
    assert found["bpcer_at_apcer.0.1"] == 0.5
    assert found["auc"] == pytest.approx(0.8333, abs=5e-5)


def test_frames_with_and_without_a_video_are_not_mixed() -> None:
    whole = overlapping("test", 2, videos=True)
    rows = [toy_row(0, whole.rows[0].label), *whole.rows[1:]]
    with pytest.raises(DataError, match="1 of 240 samples name no video"):
        _ = ScoreTable(rows, "test", whole.scores).levels


def test_the_scores_file_has_every_sample_and_every_bit(tmp_path: Path) -> None:
    test = overlapping("test", 2, videos=True)
    test.scores["score"][3] = np.nan
    write_scores(tmp_path / "scores.csv", [overlapping("dev", 1, videos=True), test])
    with (tmp_path / "scores.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    assert list(rows[0]) == [
        "dataset", "split", "subject", "video", "frame", "label", "species", "subtype", "index", "score",
    ]  # fmt: skip
    read = np.array([float(row["score"]) if row["score"] else np.nan for row in rows])
    assert np.array_equal(read, test.scores["score"], equal_nan=True)
    assert [row["video"] for row in rows[3:5]] == ["test/0", "test/1"]
    assert rows[5]["subject"] == test.rows[5].identity


def test_the_expected_performance_is_that_of_the_threshold_which_is_cheapest_on_dev() -> None:
    dev = hand_made("dev", [0.91, 0.81, 0.71, 0.41, 0.11, 0.21, 0.61, 0.31, 0.51, 0.76])
    found = measure_levels(dev, hand_made("test"), fixed=0.5, resamples=0)["frame"]["score"]
    assert list(found.acer_at_alpha) == ["0", *(f"0.{k}" for k in range(1, 10)), "1"] == list(found.hter_at_alpha)
    # Pooled, alike: 1/6 + 1/4 of dev between .61 and .71; .66 lets .75 of test in and rejects .4.
    assert found.hter_at_alpha["0.5"] == pytest.approx((1 / 6 + 1 / 4) / 2)
    # By species 0 + 2/4 between .76 and .81 is cheaper than 1/3 + 1/4: .785 lets no attack in and rejects .7 and .4.
    assert found.acer_at_alpha["0.5"] == pytest.approx(0.25)
    # Attacks for nothing: the highest threshold that rejects no bona fide presentation of dev is .36: .6 .5 .75 pass.
    assert found.acer_at_alpha["0"] == pytest.approx((2 / 3) / 2)


def test_what_a_simulator_calls_a_frame_is_no_number_of_a_frame() -> None:
    rows = [toy_row(0, 1, params={"frame": 1.0}), toy_row(1, 0, params={"frame": 7, "video": "clip"})]
    assert [frame_of(row) for row in rows] == ["", "7"]


def test_a_score_that_is_always_wrong_is_seen_in_the_detection_error_tradeoff(tmp_path: Path) -> None:
    """Its curve runs along the far ends of the axes."""
    labels = np.repeat([1, 0], 20)
    species = ["print"] * 40
    found = Presentations(np.linspace(0, 1, 40), labels, species, species, [str(i) for i in range(40)])
    draw_det(tmp_path / "det.png", {"map": found}, "frame")
    picture = cv2.imread(str(tmp_path / "det.png")).astype(int)
    blue = (picture[..., 0] - picture[..., 2] > 100).mean(axis=0)
    # A horizontal line from one end to the other, and a vertical one on the right.
    assert (blue > 0).sum() > 0.8 * picture.shape[1]
    assert blue.max() > 0.7
