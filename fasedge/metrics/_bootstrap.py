"""Bootstrap over subjects: what another draw of people would have changed."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from fasedge.errors import MetricError
from fasedge.metrics._inputs import (
    BoolArray,
    Float64Array,
    IntArray,
    Presentations,
    SpeciesNames,
    check_flags,
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
_Name = TypeVar("_Name", bound=Hashable)


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


def bootstrap_rates(
    wrong: ArrayLike,
    subjects: ArrayLike,
    groups: Mapping[_Name, ArrayLike],
    *,
    n_resamples: int = MIN_RESAMPLES,
    seed: int = 0,
    confidence: float = DEFAULT_CONFIDENCE,
) -> dict[_Name, Interval | None]:
    """Percentile intervals over resampled subjects for the share of wrong decisions in groups of presentations.

    A group is what an error rate counts: the attacks of a species (APCER), the bona fide presentations (BPCER), either
    of one collection only. Groups may share presentations. Subjects are drawn as :func:`bootstrap_intervals` draws
    them: equal seeds give the same resamples.

    Args:
        wrong: bool (n,), whether the decision on a presentation is an error.
        subjects: (n,) identifier of the person in front of the camera; for an attack, of the person it shows.
        groups: bool (n,) by name, which presentations belong to the group.
        n_resamples: At least 1000.
        seed: Of the random generator.
        confidence: Of the intervals.

    Returns:
        Interval by the name of the group; ``None`` where the bootstrap says nothing: the group shows fewer than two
        subjects or is missing from more than a tenth of the resamples, or no decision in it is wrong, or every one is,
        so that the interval would shrink to a point.

    Raises:
        MetricError: Arrays of other shapes or types, fewer than two subjects, fewer than 1000 resamples, or an
            impossible confidence.

    Source: as for :func:`bootstrap_intervals`.
    """
    index, n_subjects = check_groups(subjects, np.size(wrong), "subjects")
    errors = check_flags(wrong, len(index), "wrong")
    _check_bootstrap(n_subjects, n_resamples, confidence)
    if not groups:
        return {}
    members = np.stack([check_flags(flags, len(index), f"group {name!r}") for name, flags in groups.items()], axis=1)
    n_of, wrong_of = (_per_subject(m, index, n_subjects) for m in (members, members & errors[:, None]))
    shares = []
    for draws in _draws(n_subjects, n_resamples, seed, _MAX_CELLS // n_subjects):
        # Floats hold whole numbers below 2 ** 53 exactly, and their products are much faster.
        drawn_wrong, drawn = (draws.astype(np.float64) @ table for table in (wrong_of, n_of))
        shares.append(np.divide(drawn_wrong, drawn, out=np.full_like(drawn, np.nan), where=drawn > 0))
    values = np.concatenate(shares)
    n_used = n_resamples - np.isnan(values).sum(axis=0)
    n_wrong, n_all = wrong_of.sum(axis=0), n_of.sum(axis=0)
    says = ((n_of > 0).sum(axis=0) > 1) & (n_used >= _MIN_USED * n_resamples) & (n_wrong > 0) & (n_wrong < n_all)
    return {
        name: _interval(column[~np.isnan(column)], confidence) if usable else None
        for name, column, usable in zip(groups, values.T, says, strict=True)
    }


def _interval(values: Float64Array, confidence: float) -> Interval:
    """Percentile interval of the values of resamples, (m,)."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high), confidence)


def _check_bootstrap(n_subjects: int, n_resamples: int, confidence: float) -> None:
    check_confidence(confidence)
    if n_subjects < 2:
        raise MetricError(f"a bootstrap over subjects needs at least 2 subjects, got {n_subjects}")
    if n_resamples < MIN_RESAMPLES:
        raise MetricError(f"a bootstrap needs at least {MIN_RESAMPLES} resamples, got {n_resamples}")


def _draws(n_subjects: int, n_resamples: int, seed: int, rows: int) -> Iterator[IntArray]:
    """How often each subject is drawn, int64 (rows, n_subjects) at a time, ``n_resamples`` rows in all."""
    generator, chances = np.random.default_rng(seed), np.full(n_subjects, 1 / n_subjects)
    rows = max(1, rows)
    for start in range(0, n_resamples, rows):
        yield generator.multinomial(n_subjects, chances, size=min(rows, n_resamples - start)).astype(np.int64)


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
    n_subjects = subjects[1]
    _check_bootstrap(n_subjects, n_resamples, confidence)
    values = _resampled(data, subjects, threshold, n_resamples, seed)
    used = values[~np.isnan(values[:, 0])]
    if len(used) < _MIN_USED * n_resamples:
        raise MetricError(
            f"{n_resamples - len(used)} of {n_resamples} resamples of {n_subjects} subjects lack one of the classes: "
            "too few subjects carry it for an interval; collect more, or report the exact intervals of the rates"
        )
    auc, eer, *rates = (_interval(column, confidence) for column in used.T)
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
    rows = _MAX_CELLS // max(len(index), n_subjects)
    drawn = _draws(n_subjects, n_resamples, seed, rows)
    return np.concatenate([_block(data, ladder, index, tables, draws) for draws in drawn])


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
    members = column[:, None] == np.arange(len(data.species) + 1)
    wrong = (data.scores >= threshold) != data.is_bona_fide
    return _per_subject(members & wrong[:, None], index, n_subjects), _per_subject(members, index, n_subjects)


def _per_subject(flags: BoolArray, index: IntArray, n_subjects: int) -> IntArray:
    """Flags of presentations, bool (n, k), counted per subject: int64 (subjects, k)."""
    counts = np.zeros((n_subjects, flags.shape[1]), np.int64)
    np.add.at(counts, index, flags)
    return counts


def _rates(draws: IntArray, errors: IntArray, totals: IntArray) -> tuple[Float64Array, ...]:
    """What ``_RATES`` names, float64 (resamples,) each."""
    wrong, n = draws @ errors, draws @ totals
    rates = wrong / np.maximum(n, 1)  # a missing species counts 0 and so never raises the maximum
    worst, bpcer = rates[:, :-1].max(axis=1), rates[:, -1]
    pooled = wrong[:, :-1].sum(axis=1) / n[:, :-1].sum(axis=1)
    return worst, pooled, bpcer, (worst + bpcer) / 2, (pooled + bpcer) / 2
