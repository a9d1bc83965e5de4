"""Error rates at a threshold that was fixed before."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fasedge.metrics._inputs import BoolArray, Presentations, Scores, SpeciesNames, check_presentations, check_threshold
from fasedge.metrics._intervals import DEFAULT_CONFIDENCE
from fasedge.metrics._results import Apcer, NonResponseRates, Rate


def apcer(
    scores: ArrayLike,
    labels: ArrayLike,
    species: SpeciesNames | None = None,
    *,
    threshold: float,
    confidence: float = DEFAULT_CONFIDENCE,
) -> Apcer:
    """Attack presentation classification error rate: share of the attacks that are accepted, per PAI species.

    Args:
        scores: float (n,), higher = more surely bona fide.
        labels: int (n,), 1 = bona fide, 0 = attack.
        species: (n,) name of the PAI species of each attack; without it all attacks are one species.
        threshold: Accept iff ``score >= threshold``.
        confidence: Of the intervals.

    Raises:
        MetricError: Unusable input, NaN scores, or no attack.

    Source: ISO/IEC 30107-3, attack presentation classification error rate; the summary is the maximum over species.
    """
    data = check_presentations(scores, labels, species, need_bona_fide=False)
    return apcer_of(data, check_threshold(threshold), confidence)


def bpcer(scores: ArrayLike, labels: ArrayLike, *, threshold: float, confidence: float = DEFAULT_CONFIDENCE) -> Rate:
    """Bona fide presentation classification error rate: share of the bona fide presentations that are rejected.

    Args:
        scores: float (n,), higher = more surely bona fide.
        labels: int (n,), 1 = bona fide, 0 = attack.
        threshold: Accept iff ``score >= threshold``.
        confidence: Of the interval.

    Raises:
        MetricError: Unusable input, NaN scores, or no bona fide presentation.

    Source: ISO/IEC 30107-3, bona fide presentation classification error rate.
    """
    data = check_presentations(scores, labels, need_attack=False)
    return bpcer_of(data, check_threshold(threshold), confidence)


def acer(scores: ArrayLike, labels: ArrayLike, species: SpeciesNames | None = None, *, threshold: float) -> float:
    """Average classification error rate ``(max APCER + BPCER) / 2``.

    Without ``species`` the attacks are pooled, and the result is the HTER.

    Args:
        scores: float (n,), higher = more surely bona fide.
        labels: int (n,), 1 = bona fide, 0 = attack.
        species: (n,) name of the PAI species of each attack.
        threshold: Accept iff ``score >= threshold``.

    Raises:
        MetricError: Unusable input, NaN scores, or only one class.

    Source: ISO/IEC 30107-3:2017, dropped from the edition of 2023; A-DeepPixBiS, eq. 2.
    """
    data = check_presentations(scores, labels, species)
    value = check_threshold(threshold)
    return (apcer_of(data, value).max + bpcer_of(data, value).value) / 2


def far(scores: ArrayLike, labels: ArrayLike, *, threshold: float, confidence: float = DEFAULT_CONFIDENCE) -> Rate:
    """False acceptance rate: APCER with all attacks pooled. See :func:`apcer`.

    Raises:
        MetricError: Unusable input, NaN scores, or no attack.
    """
    return apcer(scores, labels, threshold=threshold, confidence=confidence).pooled


def frr(scores: ArrayLike, labels: ArrayLike, *, threshold: float, confidence: float = DEFAULT_CONFIDENCE) -> Rate:
    """False rejection rate: another name of :func:`bpcer`.

    Raises:
        MetricError: Unusable input, NaN scores, or no bona fide presentation.
    """
    return bpcer(scores, labels, threshold=threshold, confidence=confidence)


def hter(scores: ArrayLike, labels: ArrayLike, *, threshold: float) -> float:
    """Half total error rate ``(FAR + FRR) / 2`` at a threshold from another split.

    Args:
        scores: float (n,), higher = more surely bona fide.
        labels: int (n,), 1 = bona fide, 0 = attack.
        threshold: Accept iff ``score >= threshold``.

    Raises:
        MetricError: Unusable input, NaN scores, or only one class.
    """
    return acer(scores, labels, threshold=threshold)


def non_response_rates(
    scores: Scores,
    labels: ArrayLike,
    species: SpeciesNames | None = None,
    *,
    confidence: float = DEFAULT_CONFIDENCE,
) -> NonResponseRates:
    """Share of the presentations that got no score, per class and species.

    Args:
        scores: float (n,); NaN or ``None`` is a non-response.
        labels: int (n,), 1 = bona fide, 0 = attack.
        species: (n,) name of the PAI species of each attack.
        confidence: Of the intervals.

    Raises:
        MetricError: Unusable input.

    Source: ISO/IEC 30107-3, APNRR and BPNRR.
    """
    data = check_presentations(
        scores, labels, species, allow_non_response=True, need_attack=False, need_bona_fide=False
    )
    return non_response_of(data, confidence)


def apcer_of(data: Presentations, threshold: float, confidence: float = DEFAULT_CONFIDENCE) -> Apcer:
    """:func:`apcer` of checked input without non-responses."""
    accepted = data.scores >= threshold
    k = len(data.species)
    of_attacks = data.species_index[~data.is_bona_fide]
    n = np.bincount(of_attacks, minlength=k)
    errors = np.bincount(of_attacks[accepted[~data.is_bona_fide]], minlength=k)
    rates = {s: Rate.from_counts(int(e), int(m), confidence) for s, e, m in zip(data.species, errors, n, strict=True)}
    return Apcer(rates, Rate.from_counts(int(errors.sum()), int(n.sum()), confidence))


def bpcer_of(data: Presentations, threshold: float, confidence: float = DEFAULT_CONFIDENCE) -> Rate:
    """:func:`bpcer` of checked input without non-responses."""
    rejected = data.bona_fide_scores < threshold
    return Rate.from_counts(int(rejected.sum()), len(rejected), confidence)


def non_response_of(data: Presentations, confidence: float = DEFAULT_CONFIDENCE) -> NonResponseRates:
    """:func:`non_response_rates` of checked input."""
    silent = ~data.responded

    def rate(members: BoolArray) -> Rate | None:
        n = int(members.sum())
        return Rate.from_counts(int((silent & members).sum()), n, confidence) if n else None

    per_species = {}
    for k, name in enumerate(data.species):
        one = rate(data.species_index == k)
        if one is not None:
            per_species[name] = one
    return NonResponseRates(per_species, rate(~data.is_bona_fide), rate(data.is_bona_fide))
