"""From the student's mean over the cells to a score that reads as a probability."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quantize.errors import CalibrationDataError
from quantize.students import Platt

_STEPS = 100
_TINY = 1e-9


def fit_platt(means: NDArray[np.float64], labels: NDArray[np.int64]) -> Platt:
    """Fit ``P(bona fide) = sigmoid(scale·mean + bias)`` by maximum likelihood.

    Both classes get the same total weight, so that the score does not depend on how many attacks happen to be in the
    set; targets are ``(n+1)/(n+2)`` and ``1/(n+2)`` so that a perfect separation stays finite.

    Args:
        means: float64 (n,), mean over the cells of each sample: cosines or logits.
        labels: int64 (n,), 1 bona fide, 0 attack.

    Raises:
        CalibrationDataError: A class is missing, a value is not finite, or bona fide samples lie below attacks.

    Source: Platt, "Probabilistic outputs for support vector machines", 1999, section 2.2, solved by Newton's method.
    """
    positive = labels == 1
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if min(n_positive, n_negative) == 0 or not np.isfinite(means).all():
        raise CalibrationDataError(
            f"calibration needs finite values of both classes, got {n_positive} bona fide and {n_negative} attacks"
        )
    target = np.where(positive, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))
    weight = np.where(positive, 0.5 / n_positive, 0.5 / n_negative)
    design = np.stack([means, np.ones_like(means)], 1)
    theta = np.zeros(2)
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-design @ theta))
        gradient = design.T @ (weight * (p - target))
        hessian = (design * (weight * p * (1 - p))[:, None]).T @ design + _TINY * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        theta -= step
        if np.abs(step).max() < 1e-10 * (1 + np.abs(theta).max()):
            break
    if not np.isfinite(theta).all() or theta[0] <= 0:
        raise CalibrationDataError(
            f"the values do not rise with the label (slope {theta[0]:.3g}): is the student trained, are labels right?"
        )
    return Platt(float(theta[0]), float(theta[1]))
