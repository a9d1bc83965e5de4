"""Bootstrap over subjects: what another draw of people would have changed."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fasedge.errors import MetricError
from fasedge.metrics._inputs import (
    BoolArray,
    Float64Array,
    IntArray,
    Presentations,
    SpeciesNames,
    check_groups,
    check_presentations,
    check_threshold,
)
from fasedge.metrics._intervals import DEFAULT_CONFIDENCE, Interval, check_confidence
from fasedge.metrics._ladder import Ladder, auc_of_counts, eer_step_of_counts
from fasedge.metrics._results import BootstrapIntervals

#: Fewer resamples leave the ends of a 95 % interval to chance.
MIN_RESAMPLES = 1000

_MAX_CELLS = 1_000_000  # of one block of resamples; keeps the memory below about 100 MB
_MIN_USED = 0.9
_RATES = ("apcer_max", "apcer_pooled", "bpcer", "acer", "hter")


def bootstrap_intervals(
    scores: ArrayLike,
    labels: ArrayLike,
    subjects: ArrayLike,
    species: SpeciesNames | None = None,
    *,
    threshold: float | None = None,
    n_resamples: int = MIN_RESAMPLES,
    seed: int = 0,
    confidence: float = DEFAULT_CONFIDENCE,
) -> BootstrapIntervals:
    """Percentile intervals for AUC, EER and the rates at a threshold from resampled subjects.

    Presentations of one person resemble each other, so whole subjects are drawn with replacement, each with all its
    presentations. The draws are ``numpy.random.default_rng(seed).multinomial``: equal seeds give equal intervals.
    Resamples without one of the classes are left out and counted; a species that is missing from a resample does not
    enter its maximum. Where the scores separate perfectly every resample does, and the interval shrinks to a point:
    then read the exact intervals of the rates instead.

    Args:
        scores: float (n,), higher = more surely bona fide.
        labels: int (n,), 1 = bona fide, 0 = attack.
        subjects: (n,) identifier of the person in front of the camera; for an attack, of the person it shows.
        species: (n,) name of the PAI species of each attack.
        threshold: For the rates, from another split; they are left out without it.
        n_resamples: At least 1000.
        seed: Of the random generator.
        confidence: Of the intervals.

    Raises:
        MetricError: Unusable input, NaN scores, only one class, fewer than two subjects, fewer than 1000 resamples,
            or one of the classes missing from more than a tenth of the resamples.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), ch. 13; clusters: Field and Welsh,
    J. R. Stat. Soc. B 69 (2007) 369-390.
    """
    data = check_presentations(scores, labels, species)
    index, n_subjects = check_groups(subjects, len(data.scores), "subjects")
    return bootstrap_of(
        data,
        (index, n_subjects),
        threshold=None if threshold is None else check_threshold(threshold),
        n_resamples=n_resamples,
        seed=seed,
        confidence=confidence,
    )


def bootstrap_of(
    data: Presentations,
    subjects: tuple[IntArray, int],
    *,
    threshold: float | None,
    n_resamples: int,
    seed: int,
    confidence: float,
) -> BootstrapIntervals:
    """:func:`bootstrap_intervals` of checked input without non-responses."""
    check_confidence(confidence)
    n_subjects = subjects[1]
    if n_subjects < 2:
        raise MetricError(f"a bootstrap over subjects needs at least 2 subjects, got {n_subjects}")
    if n_resamples < MIN_RESAMPLES:
        raise MetricError(f"a bootstrap needs at least {MIN_RESAMPLES} resamples, got {n_resamples}")
    values = _resampled(data, subjects, threshold, n_resamples, seed)
    used = values[~np.isnan(values[:, 0])]
    if len(used) < _MIN_USED * n_resamples:
        raise MetricError(
            f"{n_resamples - len(used)} of {n_resamples} resamples of {n_subjects} subjects lack one of the classes: "
            "too few subjects carry it for an interval; collect more, or report the exact intervals of the rates"
        )
    tail = (1 - confidence) / 2
    low, high = np.quantile(used, [tail, 1 - tail], axis=0)
    auc, eer, *rates = (Interval(float(lo), float(hi), confidence) for lo, hi in zip(low, high, strict=True))
    at_threshold = dict.fromkeys(_RATES) if threshold is None else dict(zip(_RATES, rates, strict=True))
    return BootstrapIntervals(
        auc, eer, **at_threshold, n_subjects=n_subjects, n_resamples=n_resamples, n_used=len(used), seed=seed
    )


def _resampled(
    data: Presentations, subjects: tuple[IntArray, int], threshold: float | None, n_resamples: int, seed: int
) -> Float64Array:
    """float64 (n_resamples, 2 or 7): AUC, EER and :func:`_rates` of each resample; NaN where a class is missing."""
    index, n_subjects = subjects
    ladder = Ladder.of(data)
    tables = None if threshold is None else _error_tables(data, index, n_subjects, threshold)
    generator = np.random.default_rng(seed)
    chances = np.full(n_subjects, 1 / n_subjects)
    rows = max(1, _MAX_CELLS // max(len(index), n_subjects))
    blocks = []
    for start in range(0, n_resamples, rows):
        draws = generator.multinomial(n_subjects, chances, size=min(rows, n_resamples - start))
        blocks.append(_block(data, ladder, index, tables, draws.astype(np.int64)))
    return np.concatenate(blocks)


def _block(
    data: Presentations, ladder: Ladder, index: IntArray, tables: tuple[IntArray, IntArray] | None, draws: IntArray
) -> Float64Array:
    attack = _counts_per_score(draws, index, ladder, ~data.is_bona_fide)
    bona_fide = _counts_per_score(draws, index, ladder, data.is_bona_fide)
    n_attack, n_bona_fide = attack.sum(axis=1), bona_fide.sum(axis=1)
    usable = (n_attack > 0) & (n_bona_fide > 0)
    auc = auc_of_counts(attack[usable], bona_fide[usable])
    _, accepted, rejected = eer_step_of_counts(attack[usable], bona_fide[usable])
    eer = (accepted / n_attack[usable] + rejected / n_bona_fide[usable]) / 2
    found = [auc, eer, *(() if tables is None else _rates(draws[usable], *tables))]
    values = np.full((len(draws), len(found)), np.nan)
    values[usable] = np.stack(found, axis=1)
    return values


def _counts_per_score(draws: IntArray, index: IntArray, ladder: Ladder, members: BoolArray) -> IntArray:
    """int64 (resamples, m): how often presentations of one class stand on each rung."""
    chosen = np.flatnonzero(members)
    chosen = chosen[np.argsort(ladder.rung[chosen], kind="stable")]
    rungs, starts = np.unique(ladder.rung[chosen], return_index=True)
    counts = np.zeros((len(draws), len(ladder.scores)), np.int64)
    counts[:, rungs] = np.add.reduceat(draws[:, index[chosen]], starts, axis=1)
    return counts


def _error_tables(data: Presentations, index: IntArray, n_subjects: int, threshold: float) -> tuple[IntArray, IntArray]:
    """Errors and presentations per subject, int64 (subjects, species + 1) each; the last column is bona fide."""
    column = np.where(data.is_bona_fide, len(data.species), data.species_index)
    wrong = (data.scores >= threshold) != data.is_bona_fide
    errors = np.zeros((n_subjects, len(data.species) + 1), np.int64)
    totals = np.zeros_like(errors)
    np.add.at(errors, (index[wrong], column[wrong]), 1)
    np.add.at(totals, (index, column), 1)
    return errors, totals


def _rates(draws: IntArray, errors: IntArray, totals: IntArray) -> tuple[Float64Array, ...]:
    """What ``_RATES`` names, float64 (resamples,) each."""
    wrong, n = draws @ errors, draws @ totals
    rates = wrong / np.maximum(n, 1)  # a missing species counts 0 and so never raises the maximum
    worst, bpcer = rates[:, :-1].max(axis=1), rates[:, -1]
    pooled = wrong[:, :-1].sum(axis=1) / n[:, :-1].sum(axis=1)
    return worst, pooled, bpcer, (worst + bpcer) / 2, (pooled + bpcer) / 2
