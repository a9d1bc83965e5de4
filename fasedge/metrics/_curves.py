"""Measures that scan all thresholds: AUC, EER, ROC, DET, one rate at a fixed other."""

from __future__ import annotations

import statistics

import numpy as np
from numpy.typing import ArrayLike

from fasedge.errors import MetricError
from fasedge.metrics._inputs import Float64Array, SpeciesNames, check_presentations, check_rate, read_only
from fasedge.metrics._ladder import Ladder, auc_of_counts, eer_step_of_counts
from fasedge.metrics._results import DetCurve, EqualError, RocCurve, TradeOff

#: Rates are clipped to [PROBIT_CLIP, 1 - PROBIT_CLIP] on the axes of a DET curve: the probit of 0 is infinite.
PROBIT_CLIP = 1e-4


def auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve: ``P(bona fide > attack) + P(equal) / 2``, attacks pooled.

    Args:
        scores: float (n,), higher = more surely bona fide.
        labels: int (n,), 1 = bona fide, 0 = attack.

    Returns:
        In [0, 1]; 0.5 for scores that know nothing.

    Raises:
        MetricError: Unusable input, NaN scores, or only one class.

    Source: Hanley and McNeil, Radiology 143 (1982) 29-36: the area is the Wilcoxon statistic. O(n log n).
    """
    return auc_of(Ladder.of(check_presentations(scores, labels)))


def auc_of(ladder: Ladder) -> float:
    """:func:`auc` of counted presentations."""
    return float(auc_of_counts(ladder.attack.sum(axis=0), ladder.bona_fide))


def eer(scores: ArrayLike, labels: ArrayLike) -> EqualError:
    """Equal error rate: ``(FAR + FRR) / 2`` at the threshold where ``|FAR - FRR|`` is smallest.

    All midpoints between distinct scores are tried, and ±inf. Of thresholds with the same gap the one with the
    smaller sum counts, then the stricter one.

    Args:
        scores: float (n,), higher = more surely bona fide.
        labels: int (n,), 1 = bona fide, 0 = attack.

    Raises:
        MetricError: Unusable input, NaN scores, or only one class.

    Source: A-DeepPixBiS, eq. 4 prints ``|FAR - FRR| / 2``; that is the criterion of the search, not the rate.
    """
    return eer_of(Ladder.of(check_presentations(scores, labels)))


def eer_of(ladder: Ladder) -> EqualError:
    """:func:`eer` of counted presentations."""
    attack = ladder.attack.sum(axis=0)
    step, accepted, rejected = eer_step_of_counts(attack, ladder.bona_fide)
    far, frr = float(accepted / attack.sum()), float(rejected / ladder.bona_fide.sum())
    return EqualError((far + frr) / 2, float(ladder.thresholds[step]), far, frr)


def roc_curve(scores: ArrayLike, labels: ArrayLike) -> RocCurve:
    """Receiver operating characteristic with one point per distinct decision, attacks pooled.

    Args:
        scores: float (n,), higher = more surely bona fide.
        labels: int (n,), 1 = bona fide, 0 = attack.

    Raises:
        MetricError: Unusable input, NaN scores, or only one class.
    """
    ladder = Ladder.of(check_presentations(scores, labels))
    return RocCurve(
        *(read_only(axis[::-1]) for axis in (ladder.thresholds, ladder.pooled_apcer, 1 - ladder.bpcer)),
    )


def det_curve(scores: ArrayLike, labels: ArrayLike, species: SpeciesNames | None = None) -> DetCurve:
    """Detection error trade-off: BPCER against the largest APCER over the species, one point per distinct decision.

    Args:
        scores: float (n,), higher = more surely bona fide.
        labels: int (n,), 1 = bona fide, 0 = attack.
        species: (n,) name of the PAI species of each attack; without it the attacks are pooled.

    Raises:
        MetricError: Unusable input, NaN scores, or only one class.

    Source: Martin et al., Eurospeech 1997, for the probit axes.
    """
    ladder = Ladder.of(check_presentations(scores, labels, species))
    axes = (ladder.thresholds, ladder.max_apcer, ladder.bpcer)
    return DetCurve(*(read_only(axis) for axis in (*axes, probit(axes[1]), probit(axes[2]))))


def probit(rates: ArrayLike) -> Float64Array:
    """Inverse of the normal distribution function, for the axes of a DET curve.

    Args:
        rates: In [0, 1], any shape; clipped to [1e-4, 1 - 1e-4].

    Returns:
        float64 of the same shape, within ±3.72.

    Raises:
        MetricError: A rate outside [0, 1] or NaN.
    """
    values = np.asarray(rates, np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise MetricError("probit needs rates in [0, 1] (0.05 for 5 %), got values outside or NaN")
    distinct, inverse = np.unique(np.clip(values, PROBIT_CLIP, 1 - PROBIT_CLIP), return_inverse=True)
    normal = statistics.NormalDist()
    mapped = np.array([normal.inv_cdf(float(p)) for p in distinct], np.float64)
    return np.asarray(mapped[inverse].reshape(values.shape), np.float64)


def bpcer_at_apcer(
    scores: ArrayLike, labels: ArrayLike, species: SpeciesNames | None = None, *, apcer: float
) -> TradeOff:
    """BPCER at the lowest threshold where no species has an APCER above ``apcer``.

    ISO/IEC 30107-3 calls the result BPCER10, BPCER20 and BPCER100 for 10 %, 5 % and 1 %. The operating points of
    this library are named the other way round: :attr:`fasedge.metrics.Criterion.BPCER5` *holds BPCER* at 5 %.

    Args:
        scores: float (n,), higher = more surely bona fide.
        labels: int (n,), 1 = bona fide, 0 = attack.
        species: (n,) name of the PAI species of each attack; without it the attacks are pooled.
        apcer: Largest APCER allowed, in [0, 1].

    Raises:
        MetricError: Unusable input, NaN scores, only one class, or ``apcer`` outside [0, 1].
    """
    return bpcer_at_apcer_of(Ladder.of(check_presentations(scores, labels, species)), apcer)


def bpcer_at_apcer_of(ladder: Ladder, apcer: float) -> TradeOff:
    """:func:`bpcer_at_apcer` of counted presentations."""
    check_rate(apcer, "the APCER to hold")
    # APCER falls with the threshold, and at +inf it is 0: there always is a first step.
    return _trade_off(ladder, int(np.argmax(ladder.max_apcer <= apcer)))


def apcer_at_bpcer(
    scores: ArrayLike, labels: ArrayLike, species: SpeciesNames | None = None, *, bpcer: float
) -> TradeOff:
    """Largest APCER over the species at the highest threshold where BPCER is at most ``bpcer``.

    The threshold lies half-way between the two scores that bound the decision, which changes no decision here and
    leaves room on both sides elsewhere.

    Args:
        scores: float (n,), higher = more surely bona fide.
        labels: int (n,), 1 = bona fide, 0 = attack.
        species: (n,) name of the PAI species of each attack; without it the attacks are pooled.
        bpcer: Largest BPCER allowed, in [0, 1].

    Raises:
        MetricError: Unusable input, NaN scores, only one class, or ``bpcer`` outside [0, 1].
    """
    return apcer_at_bpcer_of(Ladder.of(check_presentations(scores, labels, species)), bpcer)


def apcer_at_bpcer_of(ladder: Ladder, bpcer: float) -> TradeOff:
    """:func:`apcer_at_bpcer` of counted presentations."""
    check_rate(bpcer, "the BPCER to hold")
    # BPCER rises with the threshold, and at -inf it is 0: there always is a last step.
    return _trade_off(ladder, int(np.flatnonzero(ladder.bpcer <= bpcer)[-1]))


def _trade_off(ladder: Ladder, step: int) -> TradeOff:
    return TradeOff(float(ladder.thresholds[step]), float(ladder.max_apcer[step]), float(ladder.bpcer[step]))
