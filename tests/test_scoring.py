"""Decisions fail closed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasedge.errors import CardError, InputError
from fasedge.scoring import QUALITY_REASONS, decide, resolve_threshold
from fasedge.testing import fake_card
from fasedge.types import Decision, Reason

_GATES = sorted(QUALITY_REASONS)
_ANY_SCORE = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))


@pytest.mark.parametrize(
    ("score", "decision", "reasons"),
    [
        (0.9, Decision.BONA_FIDE, ()),
        (0.6, Decision.BONA_FIDE, ()),
        (0.5999, Decision.ATTACK, (Reason.SCORE_BELOW_THRESHOLD,)),
        (0.0, Decision.ATTACK, (Reason.SCORE_BELOW_THRESHOLD,)),
        (1.0, Decision.BONA_FIDE, ()),
    ],
)
def test_a_sound_score_is_compared_with_the_threshold(score, decision, reasons):
    verdict = decide(score, 0.6)
    assert (verdict.score, verdict.decision, verdict.reasons) == (score, decision, reasons)


@pytest.mark.parametrize("score", [None, math.nan, math.inf, -math.inf, -0.1, 1.1, 255.0])
@pytest.mark.parametrize("policy", ["refuse", "warn"])
def test_an_impossible_score_is_an_engine_fault_and_never_passed_on(score, policy):
    verdict = decide(score, 0.0, quality=policy)
    assert (verdict.score, verdict.decision, verdict.reasons) == (None, Decision.NON_RESPONSE, (Reason.ENGINE_FAULT,))


@pytest.mark.parametrize(("score", "clipped"), [(1 + 1e-7, 1.0), (-1e-7, 0.0)])
def test_rounding_beyond_the_range_is_clipped(score, clipped):
    assert decide(score, 0.5).score == clipped


@pytest.mark.parametrize("reason", _GATES)
@pytest.mark.parametrize("score", [0.0, 1.0])
def test_a_quality_reason_makes_the_decision_not_checked_but_keeps_the_score(reason, score):
    verdict = decide(score, 0.5, (reason,))
    assert (verdict.score, verdict.decision, verdict.reasons) == (score, Decision.NON_RESPONSE, (reason,))


@pytest.mark.parametrize("reason", _GATES)
def test_warn_lets_the_score_decide_and_keeps_the_quality_reason(reason):
    good, bad = decide(0.9, 0.5, (reason,), quality="warn"), decide(0.1, 0.5, (reason,), quality="warn")
    assert (good.decision, good.reasons) == (Decision.BONA_FIDE, (reason,))
    assert (bad.decision, bad.reasons) == (Decision.ATTACK, (reason, Reason.SCORE_BELOW_THRESHOLD))


@pytest.mark.parametrize("reason", [Reason.DEPTH_MISSING, Reason.ENGINE_FAULT, Reason.UNUSABLE_IMAGE, Reason.NO_FACE])
def test_reasons_that_are_not_about_quality_cannot_be_waived(reason):
    verdict = decide(1.0, 0.5, (Reason.FACE_BLURRED, reason), quality="warn")
    assert verdict.decision is Decision.NON_RESPONSE
    assert verdict.reasons == (Reason.FACE_BLURRED, reason)


def test_a_faulty_score_keeps_the_quality_reasons_and_names_each_reason_once():
    verdict = decide(math.nan, 0.5, (Reason.FACE_BLURRED, Reason.FACE_BLURRED, Reason.ENGINE_FAULT))
    assert verdict.reasons == (Reason.FACE_BLURRED, Reason.ENGINE_FAULT)


@given(_ANY_SCORE, st.floats(0, 1), st.lists(st.sampled_from(list(Reason))))
def test_bona_fide_needs_a_score_at_or_above_the_threshold_and_no_reason(score, threshold, reasons):
    verdict = decide(score, threshold, reasons)
    sound = score is not None and -1e-6 <= score <= 1 + 1e-6
    assert (verdict.decision is Decision.BONA_FIDE) == (sound and min(max(score, 0), 1) >= threshold and not reasons)
    assert (verdict.decision is Decision.BONA_FIDE) == (not verdict.reasons)


@pytest.mark.parametrize("threshold", [math.nan, math.inf, -0.1, 1.1])
def test_an_impossible_threshold_is_refused(threshold):
    with pytest.raises(InputError, match="threshold"):
        decide(0.5, threshold)
    with pytest.raises(InputError, match="threshold"):
        resolve_threshold(fake_card(), threshold=threshold)


def test_an_unknown_policy_is_refused():
    with pytest.raises(InputError, match="refuse, warn"):
        decide(0.5, 0.5, quality="ignore")


def test_the_cards_default_operating_point_is_used_unless_another_is_named():
    card = fake_card(threshold=0.4)
    default, named = resolve_threshold(card), resolve_threshold(card, operating_point="bpcer10")
    assert (default.value, default.operating_point) == (0.4, "bpcer5")
    assert (named.value, named.operating_point) == (pytest.approx(0.6), "bpcer10")


def test_an_own_threshold_replaces_the_operating_point():
    own = resolve_threshold(fake_card(), threshold=0.123)
    assert (own.value, own.operating_point) == (0.123, None)


def test_a_threshold_beside_an_operating_point_is_refused():
    with pytest.raises(InputError, match="either"):
        resolve_threshold(fake_card(), operating_point="bpcer5", threshold=0.5)


def test_a_threshold_of_another_precision_is_not_taken():
    with pytest.raises(CardError, match="fp32"):
        resolve_threshold(fake_card(precisions=("int8",)), precision="fp32")
