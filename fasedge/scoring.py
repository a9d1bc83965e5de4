"""From score to decision: operating points, and what overrides a score.

One score, one direction: higher is more surely bona fide, and ``score >= threshold`` is bona fide. Everything that
speaks against trusting the score makes the decision *not checked*; nothing but a sound score can make it positive.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from fasedge.cards import ModelCard
from fasedge.errors import InputError
from fasedge.types import Decision, Reason

#: What quality reasons do to a decision. ``refuse``: not checked. ``warn``: the score decides, the reasons are kept.
QualityPolicy = Literal["refuse", "warn"]
QUALITY_POLICIES: tuple[QualityPolicy, ...] = ("refuse", "warn")

#: Reasons that come from the quality gates. Only these can be waived with ``quality="warn"``.
QUALITY_REASONS = frozenset(
    {
        Reason.FACE_TOO_SMALL,
        Reason.FACE_BLURRED,
        Reason.FACE_TOO_DARK,
        Reason.FACE_OVER_EXPOSED,
        Reason.FACE_CUT_BY_FRAME,
        Reason.EXTREME_POSE,
    }
)

#: Float32 sigmoids and dequantised outputs may end this far beyond [0, 1]; anything further is a broken engine.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Threshold:
    """The threshold in force and where it came from.

    Attributes:
        value: In [0, 1].
        operating_point: Name of the card's operating point; ``None`` when the caller set the threshold.
    """

    value: float
    operating_point: str | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Decision about one score.

    Attributes:
        score: The score, in [0, 1]; ``None`` if there was none, or none that can be trusted.
        decision: What follows from it.
        reasons: Why the decision is not ``BONA_FIDE``, without repetition; with ``quality="warn"`` also the quality
            reasons that were let pass.
    """

    score: float | None
    decision: Decision
    reasons: tuple[Reason, ...]


def resolve_threshold(
    card: ModelCard,
    *,
    operating_point: str | None = None,
    threshold: float | None = None,
    precision: str = "int8",
    modalities: tuple[str, ...] = ("rgb",),
) -> Threshold:
    """Find the threshold to decide with.

    Args:
        card: The model's card.
        operating_point: Name such as ``bpcer5``; ``None`` takes the card's default.
        threshold: A threshold of the caller's own in [0, 1], in place of an operating point. The error rates in the
            card do not hold for it.
        precision: Precision of the artefact in use: a threshold is only valid for the precision it was measured with.
        modalities: What the score is made from; likewise.

    Returns:
        The threshold and its origin.

    Raises:
        InputError: Both are given, or the threshold is not a number in [0, 1].
        CardError: The card has no such operating point for this precision and these modalities.
    """
    if threshold is None:
        point = card.operating_point(operating_point, precision=precision, modalities=modalities)
        return Threshold(value=point.threshold, operating_point=point.name)
    if operating_point is not None:
        raise InputError(
            f"pass either operating_point or threshold, got operating_point={operating_point!r} "
            f"and threshold={threshold!r}"
        )
    return Threshold(value=_checked_threshold(threshold), operating_point=None)


def _checked_threshold(threshold: float) -> float:
    if not math.isfinite(threshold) or not 0 <= threshold <= 1:
        raise InputError(f"threshold must be a number in [0, 1], got {threshold!r}")
    return float(threshold)


def checked_policy(quality: str) -> QualityPolicy:
    """Validate the name of a quality policy.

    Raises:
        InputError: Not one of :data:`QUALITY_POLICIES`.
    """
    for policy in QUALITY_POLICIES:
        if quality == policy:
            return policy
    raise InputError(f"quality policy must be one of {', '.join(QUALITY_POLICIES)}, got {quality!r}")


def is_score(value: float) -> bool:
    """Whether a number can be a score: finite and in [0, 1], give or take rounding."""
    return math.isfinite(value) and -_ROUNDING <= value <= 1 + _ROUNDING


def decide(
    score: float | None,
    threshold: float,
    quality_reasons: Iterable[Reason] = (),
    *,
    quality: QualityPolicy = "refuse",
) -> Verdict:
    """Decide about one face. Fails closed.

    * A score that is missing, not finite or outside [0, 1] is a fault of the engine: *not checked*, with
      :attr:`Reason.ENGINE_FAULT`, and the score is not passed on. (1e-6 beyond the range is rounding and is clipped.)
    * Quality reasons make the decision *not checked*; the score is still reported. With ``quality="warn"`` the score
      decides and the reasons are kept beside the decision. Use that for measuring, or where another check follows:
      the error rates of an operating point were measured on faces that passed the gates.
    * Reasons that are not about quality (:attr:`Reason.DEPTH_MISSING`, say) cannot be waived.

    Args:
        score: Score of the network, higher = bona fide; ``None`` if the face was not scored.
        threshold: In [0, 1]; a score equal to it is bona fide.
        quality_reasons: What the gates found.
        quality: ``refuse`` or ``warn``.

    Returns:
        Score, decision and reasons.

    Raises:
        InputError: The threshold is not a number in [0, 1], or the policy is unknown.
    """
    threshold = _checked_threshold(threshold)
    policy = checked_policy(quality)
    reasons = tuple(dict.fromkeys(quality_reasons))
    if score is None or not is_score(score):
        return Verdict(None, Decision.NON_RESPONSE, _with(reasons, Reason.ENGINE_FAULT))
    score = min(max(float(score), 0.0), 1.0)
    blocking = reasons if policy == "refuse" else tuple(r for r in reasons if r not in QUALITY_REASONS)
    if blocking:
        return Verdict(score, Decision.NON_RESPONSE, reasons)
    if score >= threshold:
        return Verdict(score, Decision.BONA_FIDE, reasons)
    return Verdict(score, Decision.ATTACK, _with(reasons, Reason.SCORE_BELOW_THRESHOLD))


def _with(reasons: tuple[Reason, ...], reason: Reason) -> tuple[Reason, ...]:
    return tuple(dict.fromkeys((*reasons, reason)))
