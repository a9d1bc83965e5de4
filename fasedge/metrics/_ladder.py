"""Counts over every distinct decision that a threshold can make; what all curves and searches stand on.

Only the order of the scores matters, so m distinct scores allow m + 1 distinct decisions. Step k of the ladder
rejects the k lowest distinct scores: step 0 accepts everything (threshold -inf), step m nothing (+inf), and each
step between has its threshold half-way between two neighbouring scores.

Counts carry any number of leading axes: the single evaluation and all resamples of a bootstrap run the same code.
Comparisons are made on integers, so that ties are ties.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fasedge.metrics._inputs import Float64Array, IntArray, Presentations


@dataclass(frozen=True, slots=True, eq=False)
class Ladder:
    """Presentations counted by distinct score.

    Attributes:
        scores: float64 (m,), distinct scores, ascending.
        rung: int64 (n,), index into ``scores`` for each presentation.
        attack: int64 (species, m), attacks per species and score.
        bona_fide: int64 (m,), bona fide presentations per score.
    """

    scores: Float64Array
    rung: IntArray
    attack: IntArray
    bona_fide: IntArray

    @classmethod
    def of(cls, data: Presentations) -> Ladder:
        """Count presentations, none of which may be a non-response."""
        scores, rung = np.unique(data.scores, return_inverse=True)
        m = len(scores)
        attack = np.zeros((len(data.species), m), np.int64)
        for k in range(len(data.species)):
            attack[k] = np.bincount(rung[data.species_index == k], minlength=m)
        bona_fide = np.bincount(rung[data.is_bona_fide], minlength=m)
        return cls(scores, rung.astype(np.int64), attack, bona_fide.astype(np.int64))

    @property
    def thresholds(self) -> Float64Array:
        """float64 (m + 1,), ascending: -inf, the midpoints, +inf."""
        low, high = self.scores[:-1], self.scores[1:]
        with np.errstate(over="ignore"):
            middle = low + (high - low) / 2
        # Neighbouring floats have no middle, and huge spans overflow: the upper score separates too (accept iff >=).
        middle = np.where((middle > low) & (middle <= high), middle, high)
        return np.concatenate(([-np.inf], middle, [np.inf]))

    @property
    def max_apcer(self) -> Float64Array:
        """float64 (m + 1,), the largest APCER over the species at each step."""
        accepted = accepted_at_steps(self.attack)
        return np.asarray((accepted / self.attack.sum(axis=1, keepdims=True)).max(axis=0), np.float64)

    @property
    def pooled_apcer(self) -> Float64Array:
        """float64 (m + 1,), APCER over all attacks at each step."""
        pooled = self.attack.sum(axis=0)
        return np.asarray(accepted_at_steps(pooled) / pooled.sum(), np.float64)

    @property
    def bpcer(self) -> Float64Array:
        """float64 (m + 1,), BPCER at each step."""
        return np.asarray(rejected_at_steps(self.bona_fide) / self.bona_fide.sum(), np.float64)


def rejected_at_steps(counts: IntArray) -> IntArray:
    """How many are rejected at each step: int64 (…, m) counts per score to int64 (…, m + 1)."""
    steps = np.zeros((*counts.shape[:-1], counts.shape[-1] + 1), np.int64)
    np.cumsum(counts, axis=-1, out=steps[..., 1:])
    return steps


def accepted_at_steps(counts: IntArray) -> IntArray:
    """How many are accepted at each step: int64 (…, m) counts per score to int64 (…, m + 1)."""
    rejected = rejected_at_steps(counts)
    return rejected[..., -1:] - rejected


def auc_of_counts(attack: IntArray, bona_fide: IntArray) -> Float64Array:
    """AUC from counts per score, int64 (…, m) each: ``P(bona fide > attack) + P(equal) / 2``."""
    rejected = rejected_at_steps(attack)
    twice = (bona_fide * (rejected[..., :-1] + rejected[..., 1:])).sum(axis=-1)
    pairs = attack.sum(axis=-1) * bona_fide.sum(axis=-1)
    return np.asarray(twice / (2 * pairs), np.float64)


def eer_step_of_counts(attack: IntArray, bona_fide: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Step of the EER from counts per score, int64 (…, m) each.

    Returns:
        Per leading index: the step, the attacks accepted and the bona fide presentations rejected there.
    """
    accepted, rejected = accepted_at_steps(attack), rejected_at_steps(bona_fide)
    n_attack, n_bona_fide = accepted[..., :1], rejected[..., -1:]
    # FAR and FRR over their common denominator n_attack * n_bona_fide.
    far, frr = accepted * n_bona_fide, rejected * n_attack
    gap = np.abs(far - frr)
    total = np.where(gap == gap.min(axis=-1, keepdims=True), far + frr, np.iinfo(np.int64).max)
    # Searched from the top: of steps that are equal in everything, the strictest.
    step = total.shape[-1] - 1 - np.argmin(total[..., ::-1], axis=-1)
    index = np.expand_dims(step, -1)
    return (
        np.asarray(step, np.int64),
        np.take_along_axis(accepted, index, axis=-1)[..., 0],
        np.take_along_axis(rejected, index, axis=-1)[..., 0],
    )
