"""The expected performance curve: what a decision does elsewhere whose threshold was chosen for a price of errors."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fasedge.errors import MetricError
from fasedge.metrics._inputs import Float64Array, Presentations, Scores, SpeciesNames, check_presentations, read_only
from fasedge.metrics._ladder import Ladder
from fasedge.metrics._results import ExpectedPerformance

#: Weights of the APCER at which the curve is worked out unless others are wanted: 0, 0.01 … 1.
ALPHAS = tuple(k / 100 for k in range(101))
#: Costs nearer than this are equal: their difference is rounding, for rates are shares of some thousands.
_TIE = 1e-12


def expected_performance(  # noqa: PLR0917 - two sets of the same three
    dev_scores: Scores,
    dev_labels: ArrayLike,
    dev_species: SpeciesNames | None,
    test_scores: Scores,
    test_labels: ArrayLike,
    test_species: SpeciesNames | None,
    *,
    alphas: ArrayLike = ALPHAS,
) -> ExpectedPerformance:
    """Expected performance curve (EPC): error rates of test at thresholds that dev would choose.

    For each weight ``alpha`` the threshold minimises ``alpha * APCER + (1 - alpha) * BPCER`` on dev, and the rates are
    those of test there. With species the APCER is the largest over them, and half the sum is the ACER; without, attacks
    are pooled, and it is the HTER. DET and ROC curves take each threshold from the very scores that they show; two
    systems that look alike on them may differ here, where one's threshold does not transfer.

    All midpoints between distinct scores of dev are tried, and ±inf. Of thresholds that cost the same the one with the
    smaller sum of rates counts, then the stricter one: at 0 and at 1, where one rate is free, the other is as low as it
    can be.

    Args:
        dev_scores: float (n,), higher = more surely bona fide; NaN (non-response) has no say.
        dev_labels: int (n,), 1 = bona fide, 0 = attack.
        dev_species: (n,) name of the PAI species of each attack, or ``None``: pooled.
        test_scores: float (m,), likewise; NaN enters no rate.
        test_labels: int (m,).
        test_species: (m,), or ``None``; both or neither.
        alphas: float (k,) in [0, 1]: share of the price that an accepted attack has; 0.5 asks for the lowest ACER.

    Raises:
        MetricError: Unusable input, one class only, species of one set alone, an alpha outside [0, 1], or test is the
            very data of dev.

    Source: Bengio, Mariéthoz and Keller, "The Expected Performance Curve", ICML 2005 workshop on ROC analysis in
    machine learning: a convex combination of two errors as the criterion, FAR and FRR here, and the HTER as the
    measure. The APCER of the worst species and the choice among equal thresholds are ours.
    """
    weights = _checked_alphas(alphas)
    if (dev_species is None) != (test_species is None):
        raise MetricError("expected species of both sets or of neither: rates would not be of the same kind")
    dev = check_presentations(dev_scores, dev_labels, dev_species, allow_non_response=True)
    test = check_presentations(test_scores, test_labels, test_species, allow_non_response=True)
    if dev.fingerprint() == test.fingerprint():
        raise MetricError(
            "dev and test are the very same scores: the curve would show what thresholds do where they were chosen; "
            "measure on another split"
        )
    chosen = _thresholds(Ladder.of(dev.responses()), weights)
    apcer, bpcer = _rates(test.responses(), chosen)
    half = (apcer + bpcer) / 2
    return ExpectedPerformance(*(read_only(axis) for axis in (weights, chosen, apcer, bpcer, half)))


def _checked_alphas(alphas: ArrayLike) -> Float64Array:
    weights = np.array(alphas, np.float64)
    if weights.ndim != 1 or not len(weights) or not ((weights >= 0) & (weights <= 1)).all():
        raise MetricError("alphas must be one-dimensional, at least one, each in [0, 1], and not NaN")
    return weights


def _thresholds(ladder: Ladder, weights: Float64Array) -> Float64Array:
    """The cheapest threshold for each weight."""
    apcer, bpcer = ladder.max_apcer, ladder.bpcer
    total, thresholds = apcer + bpcer, ladder.thresholds
    out = np.empty(len(weights))
    for k, alpha in enumerate(weights):
        cost = alpha * apcer + (1 - alpha) * bpcer
        tied = np.flatnonzero(cost <= cost.min() + _TIE)
        best = tied[total[tied] <= total[tied].min() + _TIE]
        out[k] = thresholds[best[-1]]
    return out


def _rates(test: Presentations, thresholds: Float64Array) -> tuple[Float64Array, Float64Array]:
    ladder = Ladder.of(test)
    # As many distinct scores lie below a threshold as steps lead up to it.
    steps = np.searchsorted(ladder.scores, thresholds, side="left")
    return ladder.max_apcer[steps], ladder.bpcer[steps]
