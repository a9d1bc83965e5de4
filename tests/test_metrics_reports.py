"""Choosing thresholds, keeping splits apart, whole reports, videos and folds."""

from __future__ import annotations

import copy
import json
import math
import pickle

import numpy as np
import pytest

from fasedge import cards, metrics
from fasedge.errors import MetricError
from fasedge.metrics import ChosenThreshold, Criterion

NAN = float("nan")
SCORES = [0.9, 0.8, 0.7, 0.4, 0.1, 0.2, 0.6, 0.3, 0.5, 0.75]
LABELS = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
SPECIES = [None] * 4 + ["print"] * 3 + ["replay"] * 3
OTHER = [0.95, 0.85, 0.55, 0.45, 0.15, 0.25, 0.65, 0.35, 0.52, 0.7]


def _dev() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """200 bona fide scores 0.300, 0.303, … and 100 scores each of two species below and among them."""
    bona_fide = 0.300 + 0.003 * np.arange(200)
    prints, masks = 0.0005 + 0.004 * np.arange(100), 0.1005 + 0.004 * np.arange(100)
    scores = np.concatenate((bona_fide, prints, masks))
    return scores, np.repeat([1, 0], 200), ["-"] * 200 + ["print"] * 100 + ["mask"] * 100


@pytest.mark.parametrize(("criterion", "rejected"), [("bpcer1", 2), ("bpcer5", 10), ("bpcer10", 20)])
def test_a_bpcer_operating_point_rejects_as_many_bona_fide_presentations_as_allowed(
    criterion: str, rejected: int
) -> None:
    scores, labels, species = _dev()
    chosen = metrics.choose_threshold(scores, labels, species, criterion)
    # The threshold lies between the last presentation that may be rejected and the first that may not.
    assert 0.300 + 0.003 * (rejected - 1) < chosen.value <= 0.300 + 0.003 * rejected
    assert (chosen.criterion, chosen.split, chosen.n_non_response) == (criterion, "dev", 0)


@pytest.mark.parametrize(("criterion", "accepted"), [("apcer1", 1), ("apcer5", 5)])
def test_an_apcer_operating_point_holds_the_worst_species(criterion: str, accepted: int) -> None:
    scores, labels, species = _dev()
    chosen = metrics.choose_threshold(scores, labels, species, criterion)
    # Masks score higher than prints; so many of the 100 may be accepted.
    assert 0.1005 + 0.004 * (99 - accepted) < chosen.value <= 0.1005 + 0.004 * (100 - accepted)


def test_the_eer_criterion_takes_the_threshold_of_the_eer() -> None:
    chosen = metrics.choose_threshold(SCORES, LABELS, SPECIES, Criterion.EER)
    assert chosen.value == pytest.approx(0.65)
    assert chosen.value == metrics.eer(SCORES, LABELS).threshold


def test_non_responses_have_no_say_in_the_threshold_but_are_counted() -> None:
    chosen = metrics.choose_threshold([*SCORES, NAN, None], [*LABELS, 1, 0], [*SPECIES, None, "print"], "eer")
    assert chosen.value == pytest.approx(0.65)
    assert chosen.n_non_response == 2


def test_a_threshold_that_accepts_or_rejects_everything_is_not_chosen() -> None:
    inverted = ([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0])
    with pytest.raises(MetricError, match="only by accepting every presentation"):
        metrics.choose_threshold(*inverted, criterion="bpcer5")
    with pytest.raises(MetricError, match="only by rejecting every presentation"):
        metrics.choose_threshold(*inverted, criterion="apcer5")
    with pytest.raises(MetricError, match="do not separate"):
        metrics.choose_threshold([0.5, 0.5], [0, 1], criterion="eer")


def test_unknown_criteria_and_nameless_splits_are_refused() -> None:
    with pytest.raises(MetricError, match="unknown criterion 'bpcer20': expected one of eer, bpcer1"):
        metrics.choose_threshold(SCORES, LABELS, criterion="bpcer20")
    with pytest.raises(MetricError, match="name of the split"):
        metrics.choose_threshold(SCORES, LABELS, split="")
    with pytest.raises(MetricError, match="all 1 bona fide presentations are non-responses"):
        metrics.choose_threshold([NAN, 0.2], [1, 0])
    with pytest.raises(MetricError, match="must be finite"):
        ChosenThreshold(float("inf"))


def test_a_report_measures_the_test_split_at_the_threshold_of_the_dev_split() -> None:
    chosen = metrics.choose_threshold(SCORES, LABELS, SPECIES, "eer")
    result = metrics.report(OTHER, LABELS, SPECIES, chosen)
    # At 0.65: one print (0.65) and one replay (0.7) pass; 0.55 and 0.45 are rejected.
    assert {k: (r.errors, r.n) for k, r in result.apcer.per_species.items()} == {"print": (1, 3), "replay": (1, 3)}
    assert (result.bpcer.errors, result.bpcer.n) == (2, 4)
    assert result.acer == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert result.hter == result.acer_pooled == pytest.approx((2 / 6 + 1 / 2) / 2)
    assert (result.split, result.same_split) == ("test", False)


def test_max_and_pooled_acer_differ_where_species_differ() -> None:
    result = metrics.report(SCORES, LABELS, SPECIES, 0.5)
    assert result.acer == pytest.approx(0.4583, abs=5e-5)
    assert result.hter == result.acer_pooled == 0.375


def test_a_report_refuses_the_split_the_threshold_was_chosen_on() -> None:
    chosen = metrics.choose_threshold(SCORES, LABELS, SPECIES, "eer", split="dev")
    with pytest.raises(MetricError, match="split 'dev' is the one the threshold was chosen on"):
        metrics.report(OTHER, LABELS, SPECIES, chosen, split="dev")
    with pytest.raises(MetricError, match="allow_same_split=True"):
        metrics.evaluate(OTHER, LABELS, threshold=chosen, split="dev")


def test_a_report_recognises_the_same_data_under_another_name_and_in_another_order() -> None:
    chosen = metrics.choose_threshold(SCORES, LABELS, SPECIES, "eer")
    order = np.random.default_rng(0).permutation(10)
    with pytest.raises(MetricError, match="the scores of split 'test' are the very ones"):
        metrics.report(np.array(SCORES)[order], np.array(LABELS)[order], [SPECIES[i] for i in order], chosen)


def test_a_report_on_the_same_split_has_to_be_asked_for_and_says_so() -> None:
    chosen = metrics.choose_threshold(SCORES, LABELS, SPECIES, "eer")
    result = metrics.report(SCORES, LABELS, SPECIES, chosen, split="dev", allow_same_split=True)
    assert result.same_split
    assert "flatter" in result.remarks[0]
    assert not metrics.report(OTHER, LABELS, SPECIES, chosen, allow_same_split=True).same_split


def test_other_labels_or_scores_are_other_data() -> None:
    chosen = metrics.choose_threshold(SCORES, LABELS, SPECIES, "eer")
    relabelled = [1, 1, 1, 0, 1, 0, 0, 0, 0, 0]
    assert not metrics.report(SCORES, relabelled, None, chosen).same_split
    assert not metrics.report([*SCORES[:-1], 0.76], LABELS, None, chosen).same_split


def test_a_report_needs_a_threshold() -> None:
    with pytest.raises(MetricError, match="choose one on the development split"):
        metrics.report(SCORES, LABELS, SPECIES)


def test_non_responses_enter_no_error_rate_and_stay_visible() -> None:
    scores, labels = [*SCORES, NAN, NAN, NAN], [*LABELS, 1, 0, 0]
    species = [*SPECIES, None, "print", "mask"]
    result = metrics.report(scores, labels, species, 0.5)
    without = metrics.report(SCORES, LABELS, SPECIES, 0.5)
    assert (result.apcer, result.bpcer) == (without.apcer, without.bpcer)
    assert result.non_response.bpnrr is not None
    assert (result.non_response.bpnrr.errors, result.non_response.bpnrr.n) == (1, 5)
    assert (result.non_response.apnrr["print"].errors, result.non_response.apnrr["print"].n) == (1, 4)
    assert result.non_response.apnrr["mask"].value == 1
    assert any("3 of 13 presentations are non-responses" in remark for remark in result.remarks)
    assert any("no APCER for mask" in remark for remark in result.remarks)
    whole = metrics.evaluate(scores, labels, species=species, threshold=0.5)
    assert (whole.n_bona_fide, dict(whole.n_attack)) == (5, {"mask": 1, "print": 4, "replay": 3})
    assert whole.auc == pytest.approx(20 / 24)


def test_a_class_without_any_response_is_an_error_and_not_a_perfect_rate() -> None:
    with pytest.raises(MetricError, match="all 2 attack presentations are non-responses"):
        metrics.report([0.9, NAN, NAN], [1, 0, 0], None, 0.5)


def test_rates_without_errors_carry_the_rule_of_three() -> None:
    result = metrics.report([0.9] * 50 + [0.1] * 20, [1] * 50 + [0] * 20, ["print"] * 70, 0.5)
    assert any(r.startswith("APCER print: 0 errors in 20: the rate is at most 15.00%") for r in result.remarks)
    assert any(r.startswith("BPCER: 0 errors in 50: the rate is at most 6.00%") for r in result.remarks)


def test_an_evaluation_says_the_same_as_the_single_functions() -> None:
    rng = np.random.default_rng(1)
    labels = np.tile([0, 1], 60)
    scores, subjects = rng.normal(labels), np.repeat(np.arange(20), 6)
    species = rng.choice(["mask", "print"], 120).tolist()
    result = metrics.evaluate(scores, labels, species=species, subjects=subjects, threshold=0.5, seed=4)
    assert result.auc == metrics.auc(scores, labels)
    assert result.eer == metrics.eer(scores, labels)
    assert list(result.bpcer_at_apcer) == list(result.apcer_at_bpcer) == [0.1, 0.05, 0.01]
    assert result.bpcer_at_apcer[0.05] == metrics.bpcer_at_apcer(scores, labels, species, apcer=0.05)
    assert result.apcer_at_bpcer[0.01] == metrics.apcer_at_bpcer(scores, labels, species, bpcer=0.01)
    assert result.at_threshold == metrics.report(scores, labels, species, 0.5)
    assert result.intervals == metrics.bootstrap_intervals(scores, labels, subjects, species, threshold=0.5, seed=4)
    assert result.intervals is not None
    assert result.auc in result.intervals.auc


def test_an_evaluation_without_threshold_or_subjects_gives_what_needs_neither() -> None:
    result = metrics.evaluate(SCORES, LABELS)
    assert result.at_threshold is None
    assert result.intervals is None
    assert dict(result.n_attack) == {"attack": 6}


def test_subjects_of_non_responses_do_not_enter_the_bootstrap() -> None:
    subjects = ["a", "b", "c", "d"] * 2 + ["a", "b"]
    plain = metrics.evaluate(SCORES, LABELS, subjects=subjects)
    extended = metrics.evaluate([NAN, *SCORES], [1, *LABELS], subjects=["ghost", *subjects])
    assert extended.intervals == plain.intervals
    assert plain.intervals is not None
    assert plain.intervals.n_subjects == 4


def test_a_report_becomes_json_without_loss_of_names() -> None:
    result = metrics.evaluate(SCORES, LABELS, species=SPECIES, subjects=list("abcdeabcde"), threshold=0.5)
    text = json.dumps(result.as_dict(), allow_nan=False)
    read = json.loads(text)
    assert read["at_threshold"]["apcer"]["per_species"]["replay"]["errors"] == 2
    assert read["at_threshold"]["acer"] == pytest.approx(0.4583, abs=5e-5)
    assert read["at_threshold"]["worst_species"] == "replay"
    assert set(read["bpcer_at_apcer"]) == {"0.1", "0.05", "0.01"}
    assert read["intervals"]["n_resamples"] == 1000


def test_an_infinite_threshold_becomes_null_in_json() -> None:
    read = json.loads(json.dumps(metrics.evaluate([0.5, 0.5], [0, 1]).as_dict(), allow_nan=False))
    assert read["eer"]["threshold"] is None


def test_reports_can_be_copied_and_pickled() -> None:
    result = metrics.evaluate(SCORES, LABELS, species=SPECIES, threshold=0.5)
    assert copy.deepcopy(result) == result
    assert pickle.loads(pickle.dumps(result)) == result  # noqa: S301 - made on the line itself


def test_a_rate_has_the_fields_that_a_model_card_records() -> None:
    rate = metrics.bpcer(SCORES, LABELS, threshold=0.5)
    # The interval over people comes from the bootstrap.
    fields = {name: getattr(rate, name) for name in cards.Rate.__struct_fields__ if name != "people"}
    recorded = cards.Rate(**fields)
    assert (recorded.errors, recorded.people) == (1, None)


def test_the_score_of_a_video_is_the_mean_of_its_frames() -> None:
    result = metrics.aggregate_videos(
        [0.2, 0.9, 0.4, NAN, 0.7, None],
        [0, 1, 0, 0, 1, 1],
        ["a", "b", "a", "a", "b", "c"],
        species=["print", "", "print", "print", "", ""],
        subjects=[7, 8, 7, 7, 8, 9],
    )
    assert result.videos == ("a", "b", "c")
    np.testing.assert_allclose(result.scores, [0.3, 0.8, NAN])
    assert result.labels.tolist() == [0, 1, 1]
    assert result.species == ("print", "", "")
    assert result.subjects == ("7", "8", "9")
    assert result.n_frames.tolist() == [3, 2, 1]
    assert result.n_scored.tolist() == [2, 2, 0]


def test_videos_go_into_an_evaluation_with_their_non_responses() -> None:
    videos = metrics.aggregate_videos([0.2, 0.4, 0.9, NAN], [0, 0, 1, 1], ["a", "a", "b", "c"])
    result = metrics.evaluate(videos.scores, videos.labels, species=videos.species, threshold=0.5)
    assert result.n_bona_fide == 2
    assert result.non_response.total == 1
    assert videos.subjects is None


def test_frames_that_disagree_about_their_video_are_refused() -> None:
    with pytest.raises(MetricError, match=r"disagree about their label .such as 'a'"):
        metrics.aggregate_videos([0.1, 0.2], [0, 1], ["a", "a"])
    with pytest.raises(MetricError, match="disagree about their species"):
        metrics.aggregate_videos([0.1, 0.2], [0, 0], ["a", "a"], species=["print", "mask"])
    with pytest.raises(MetricError, match="disagree about their subject"):
        metrics.aggregate_videos([0.1, 0.2], [0, 0], ["a", "a"], subjects=[1, 2])
    with pytest.raises(MetricError, match="videos are missing"):
        metrics.aggregate_videos([0.1, 0.2], [0, 0], ["a", None])


def test_folds_are_summarised_with_both_standard_deviations() -> None:
    # Worked by hand: deviations -3, -1, -1, -1, 0, 0, 2, 4 around 5; squares sum to 32.
    result = metrics.summarise_folds([2, 4, 4, 4, 5, 5, 7, 9])
    assert (result.mean, result.std_population, result.n) == (5, 2, 8)
    assert result.std_sample == pytest.approx(math.sqrt(32 / 7))
    assert metrics.summarise_folds([0.3]).std_sample is None


@pytest.mark.parametrize("values", [[], [0.1, NAN], [[0.1]], ["a"]])
def test_unusable_fold_values_are_refused(values: list[float]) -> None:
    with pytest.raises(MetricError, match="fold values"):
        metrics.summarise_folds(values)
