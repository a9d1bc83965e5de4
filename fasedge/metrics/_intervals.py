"""Exact confidence intervals for error rates, from the standard library alone.

SciPy has all of this, but the SDK runs without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fasedge.errors import MetricError

#: Confidence of every interval unless another is asked for.
DEFAULT_CONFIDENCE = 0.95

_TINY = 1e-300  # stands in for a denominator of zero in the continued fraction
_PRECISION = 1e-16
_MAX_STEPS = 400


@dataclass(frozen=True, slots=True)
class Interval:
    """A two-sided confidence interval.

    Attributes:
        low: Lower limit.
        high: Upper limit.
        confidence: Nominal coverage in (0, 1).
    """

    low: float
    high: float
    confidence: float = DEFAULT_CONFIDENCE

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def check_confidence(confidence: float) -> None:
    """Raise MetricError unless ``0 < confidence < 1``."""
    if not 0 < confidence < 1:
        raise MetricError(f"confidence must lie between 0 and 1 (0.95 for 95 %), got {confidence}")


def regularised_incomplete_beta(a: float, b: float, x: float) -> float:
    """Cumulative distribution function of the Beta(a, b) distribution at ``x``.

    Args:
        a: First shape parameter, > 0.
        b: Second shape parameter, > 0.
        x: In [0, 1].

    Raises:
        MetricError: A parameter lies outside its range.

    Source: NIST Digital Library of Mathematical Functions, 8.17.2, 8.17.4 and 8.17.22.
    """
    if not (a > 0 and b > 0 and 0 <= x <= 1 and math.isfinite(a) and math.isfinite(b)):
        raise MetricError(f"the incomplete beta function needs a > 0, b > 0 and 0 <= x <= 1, got a={a}, b={b}, x={x}")
    if x in (0.0, 1.0):
        return x
    # The fraction converges fast on the near side of the mode; the far side is the mirror image.
    if x > (a + 1) / (a + b + 2):
        return 1.0 - _near_side(b, a, 1.0 - x, _log_density(a, b, x) + math.log(x) + math.log1p(-x))
    return _near_side(a, b, x, _log_density(a, b, x) + math.log(x) + math.log1p(-x))


def _log_density(a: float, b: float, x: float) -> float:
    """Logarithm of the Beta(a, b) density at 0 < x < 1."""
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    return (a - 1) * math.log(x) + (b - 1) * math.log1p(-x) - log_beta


def _near_side(a: float, b: float, x: float, log_front: float) -> float:
    """``exp(log_front) / a`` over the continued fraction of DLMF 8.17.22, by the modified Lentz recurrence."""
    fraction, numerator, denominator = 1.0, 1.0, 0.0
    # The number of terms grows with the square root of the larger parameter.
    for term in range(1, 200 + 40 * math.isqrt(int(max(a, b)))):
        m = term // 2
        if term % 2:
            weight = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            weight = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        denominator = 1.0 / ((1.0 + weight * denominator) or _TINY)
        numerator = (1.0 + weight / numerator) or _TINY
        change = numerator * denominator
        fraction *= change
        if abs(change - 1.0) < _PRECISION:
            break
    return math.exp(log_front) / (a * fraction)


def beta_quantile(probability: float, a: float, b: float) -> float:
    """Inverse of :func:`regularised_incomplete_beta` in ``x``.

    Newton's method inside a bracket: a step that leaves the bracket, or that does not at least halve the one before,
    is replaced by a bisection, so that it ends for every input.

    Args:
        probability: In [0, 1].
        a: First shape parameter, > 0.
        b: Second shape parameter, > 0.

    Returns:
        ``x`` in [0, 1] with ``I_x(a, b) = probability``.

    Raises:
        MetricError: A parameter lies outside its range.
    """
    if not 0 <= probability <= 1:
        raise MetricError(f"a probability must lie in [0, 1], got {probability}")
    if probability in (0.0, 1.0):
        return probability
    low, high, x = 0.0, 1.0, a / (a + b)
    last_step = 1.0
    for _ in range(_MAX_STEPS):
        excess = regularised_incomplete_beta(a, b, x) - probability
        if excess == 0:
            break
        low, high = (low, x) if excess > 0 else (x, high)
        slope = math.exp(min(_log_density(a, b, x), 700.0))
        newton = x - excess / slope if slope > 0 else low
        usable = low < newton < high and abs(newton - x) <= last_step / 2
        following = newton if usable else (low + high) / 2
        last_step, x = abs(following - x), following
        if last_step <= _PRECISION * x or x in (0.0, 1.0):  # 0 or 1: closer to the end than floats can tell
            break
    return x


def clopper_pearson(errors: int, n: int, confidence: float = DEFAULT_CONFIDENCE) -> Interval:
    """Exact (Clopper-Pearson) interval for a binomial proportion.

    It covers the true rate with at least the stated confidence, provided the trials are independent. Frames of one
    video are not: give it videos, or use :func:`fasedge.metrics.bootstrap_intervals`.

    Args:
        errors: Number of errors, 0 … n.
        n: Number of trials, >= 1.
        confidence: Coverage in (0, 1).

    Returns:
        Limits in [0, 1]; 0 is the lower limit for no error, 1 the upper for nothing but errors.

    Raises:
        MetricError: ``n < 1``, ``errors`` outside 0 … n, or an impossible confidence.

    Source: Clopper and Pearson, Biometrika 26 (1934) 404-413.
    """
    check_confidence(confidence)
    if n < 1 or not 0 <= errors <= n:
        raise MetricError(f"a rate needs n >= 1 trials and 0 <= errors <= n, got {errors} errors in {n}")
    tail = (1 - confidence) / 2
    # Both limits are solved in the small tail, where the probability keeps all its digits.
    if errors == 0:
        low = 0.0
    elif errors == n:
        low = math.exp(math.log(tail) / n)
    else:
        low = beta_quantile(tail, errors, n - errors + 1)
    if errors == n:
        high = 1.0
    elif errors == 0:
        high = -math.expm1(math.log(tail) / n)
    else:
        high = 1.0 - beta_quantile(tail, n - errors, errors + 1)
    return Interval(low, high, confidence)


def rule_of_three(n: int) -> float:
    """Upper limit (95 %, one-sided) of a rate of which no case was seen in ``n`` trials: ``3 / n``, at most 1.

    Args:
        n: Number of trials, >= 1.

    Raises:
        MetricError: ``n < 1``.

    Source: Hanley and Lippman-Hand, JAMA 249 (1983) 1743-1745: ``0.05 ** (1 / n)`` is close to ``1 - 3 / n``.
    """
    if n < 1:
        raise MetricError(f"the rule of three needs n >= 1 trials, got {n}")
    return min(1.0, 3.0 / n)
