"""From scores of dev and test to measures: thresholds from dev, rates from test. All formulas are fasedge's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fasedge import metrics
from fasedge.errors import MetricError
from fasedge.types import Label
from training.evaluation.document import AtThreshold, Mean, Measures, RunResult, Share, Span
from training.evaluation.tables import Level, Presentations, ScoreTable

#: Thresholds that are chosen on dev.
CRITERIA = tuple(criterion.value for criterion in metrics.Criterion)
FIXED = "fixed"
#: Weights of the APCER for which ``metrics.json`` has the expected performance.
_ALPHAS = tuple(k / 10 for k in range(11))


def measure_levels(
    dev: ScoreTable, test: ScoreTable, *, fixed: float, resamples: int = metrics.MIN_RESAMPLES
) -> dict[str, dict[str, Measures]]:
    """Measure every score, frame by frame and, where both sets have videos, video by video.

    Args:
        dev: Where thresholds come from.
        test: What is measured.
        fixed: A threshold that comes from neither.
        resamples: Of the bootstrap over subjects; 0 leaves its intervals out.

    Returns:
        Measures by level and score.

    Raises:
        MetricError: A class is missing, dev and test hold the very same scores, or frames of one video disagree about
            what they show.
    """
    levels = [level for level in dev.levels if level in test.levels]
    return {
        level: {
            name: _measure(dev.at(level, name), test.at(level, name), level, fixed, resamples) for name in dev.scores
        }
        for level in levels
    }


def _measure(dev: Presentations, test: Presentations, level: Level, fixed: float, resamples: int) -> Measures:
    chosen, missing = choose_thresholds(dev)
    chosen[FIXED] = metrics.ChosenThreshold(fixed)
    whole = metrics.evaluate(test.scores, test.labels, species=test.species, split="test")
    answered = test.answered()
    spans, problem = _spans(answered, answered.scores, 0.0, resamples)
    remarks = [problem] if problem else []
    at = {}
    for name, threshold in chosen.items():
        # The rates of a resample depend on decisions only: with these for scores their intervals are the same, and
        # thousands of distinct scores need not be counted again for every threshold.
        decisions = (answered.scores >= threshold.value).astype(np.float64)
        at[name] = _at(test, threshold, _spans(answered, decisions, 0.5, 0 if spans is None else resamples)[0])
    report = metrics.report(test.scores, test.labels, test.species, chosen.get("eer", chosen[FIXED]), split="test")
    remarks += [f"{'eer' if 'eer' in chosen else FIXED}: {text}" for text in report.remarks]
    if level == "video":
        remarks.append("the score of a video is the mean score of its frames")
    return Measures(
        n_bona_fide=whole.n_bona_fide,
        n_attack=dict(whole.n_attack),
        n_subjects=len(set(test.subjects)),
        n_non_response=len(test.scores) - len(answered.scores),
        auc=whole.auc,
        auc_span=_span(spans, "auc"),
        auc_by_species=_auc_by_species(answered),
        eer=whole.eer.value,
        eer_span=_span(spans, "eer"),
        dev_auc=metrics.auc(dev.answered().scores, dev.answered().labels),
        dev_eer=metrics.eer(dev.answered().scores, dev.answered().labels).value,
        bpcer_at_apcer={f"{rate:g}": found.bpcer for rate, found in whole.bpcer_at_apcer.items()},
        apcer_at_bpcer={f"{rate:g}": found.apcer for rate, found in whole.apcer_at_bpcer.items()},
        at=at,
        missing=missing,
        remarks=remarks,
        acer_at_alpha=_expected(dev, test, by_species=True),
        hter_at_alpha=_expected(dev, test, by_species=False),
    )


def _expected(dev: Presentations, test: Presentations, *, by_species: bool) -> dict[str, float]:
    """A few points of the expected performance curve; the picture has all of it."""
    found = expected_curve(dev, test, by_species=by_species, alphas=_ALPHAS)
    return {f"{alpha:g}": value for alpha, value in zip(_ALPHAS, found.half_total.tolist(), strict=True)}


def expected_curve(
    dev: Presentations, test: Presentations, *, by_species: bool, alphas: Sequence[float] = metrics.ALPHAS
) -> metrics.ExpectedPerformance:
    """Expected performance curve of a score: ACER by the worst species, or HTER with attacks pooled.

    Raises:
        MetricError: See :func:`fasedge.metrics.expected_performance`.
    """
    named = (dev.species, test.species) if by_species else (None, None)
    return metrics.expected_performance(
        dev.scores, dev.labels, named[0], test.scores, test.labels, named[1], alphas=alphas
    )


def choose_thresholds(dev: Presentations) -> tuple[dict[str, metrics.ChosenThreshold], dict[str, str]]:
    """Choose the threshold of every criterion; those that the scores of dev cannot meet are named with the reason.

    Raises:
        MetricError: A class is missing.
    """
    # What concerns all criteria is an error; what concerns one is a finding.
    metrics.auc(dev.answered().scores, dev.answered().labels)
    chosen, missing = {}, {}
    for name in CRITERIA:
        try:
            chosen[name] = metrics.choose_threshold(dev.scores, dev.labels, dev.species, name, split="dev")
        except MetricError as error:
            missing[name] = str(error)
    return chosen, missing


def _at(
    test: Presentations, threshold: metrics.ChosenThreshold, spans: metrics.BootstrapIntervals | None
) -> AtThreshold:
    found = metrics.report(test.scores, test.labels, test.species, threshold, split="test")
    finer = metrics.report(test.scores, test.labels, test.subtypes, threshold, split="test")
    return AtThreshold(
        threshold=threshold.value,
        chosen_on=threshold.split,
        apcer={name: _share(rate) for name, rate in found.apcer.per_species.items()},
        apcer_max=found.apcer.max,
        worst_species=found.apcer.worst_species,
        apcer_pooled=_share(found.apcer.pooled),
        bpcer=_share(found.bpcer),
        acer=found.acer,
        acer_pooled=found.acer_pooled,
        hter=found.hter,
        acer_span=_span(spans, "acer"),
        apcer_subtype={name: _share(rate) for name, rate in finer.apcer.per_species.items()},
        acer_subtype=finer.acer,
        apcer_max_span=_span(spans, "apcer_max"),
        apcer_pooled_span=_span(spans, "apcer_pooled"),
        bpcer_span=_span(spans, "bpcer"),
        hter_span=_span(spans, "hter"),
    )


def _spans(
    test: Presentations, scores: NDArray[np.float64], threshold: float, resamples: int
) -> tuple[metrics.BootstrapIntervals | None, str]:
    """Intervals over subjects; without them, why."""
    if not resamples:
        return None, "no intervals over subjects: they were switched off"
    try:
        found = metrics.bootstrap_intervals(
            scores, test.labels, test.subjects, test.species, threshold=threshold, n_resamples=resamples
        )
    except MetricError as error:
        # Too few people is a property of the data; the rates and their exact intervals still stand.
        return None, f"no intervals over subjects: {error}"
    return found, ""


def _auc_by_species(test: Presentations) -> dict[str, float]:
    species, labels = np.asarray(test.species, dtype=object), test.labels
    bona_fide = labels == Label.BONA_FIDE
    return {
        name: metrics.auc(test.scores[chosen], labels[chosen])
        for name in sorted(set(species[~bona_fide].tolist()))
        for chosen in [bona_fide | ((species == name) & ~bona_fide)]
    }


def _share(rate: metrics.Rate) -> Share:
    return Share(value=rate.value, errors=rate.errors, n=rate.n, low=rate.low, high=rate.high)


def _span(found: metrics.BootstrapIntervals | None, name: str) -> Span | None:
    interval: metrics.Interval | None = getattr(found, name, None)
    return None if interval is None else Span(low=interval.low, high=interval.high)


def numbers(measures: Measures) -> dict[str, float]:
    """All rates by a flat name, such as ``auc``, ``bpcer_at_apcer.0.05`` and ``at_bpcer1.apcer.print``.

    Rates at thresholds begin with ``at_`` and the criterion.
    """
    out = {name: getattr(measures, name) for name in ("auc", "eer", "dev_auc", "dev_eer")}
    for name in ("auc_by_species", "bpcer_at_apcer", "apcer_at_bpcer"):
        out |= {f"{name}.{key}": value for key, value in getattr(measures, name).items()}
    for criterion, found in measures.at.items():
        plain = {name: getattr(found, name) for name in ("apcer_max", "acer", "acer_pooled", "hter", "acer_subtype")}
        plain |= {"apcer_pooled": found.apcer_pooled.value, "bpcer": found.bpcer.value}
        plain |= {f"apcer.{name}": rate.value for name, rate in found.apcer.items()}
        out |= {f"at_{criterion}.{name}": value for name, value in plain.items()}
    return out


def summarise(runs: Sequence[RunResult]) -> dict[str, dict[str, dict[str, Mean]]]:
    """Mean and both standard deviations over runs, of every rate that all of them have.

    Returns:
        Means by level, score and the names of :func:`numbers`.
    """
    levels = _common([run.levels for run in runs])
    return {
        level: {
            score: means(numbers(run.levels[level][score]) for run in runs)
            for score in _common([run.levels[level] for run in runs])
        }
        for level in levels
    }


def means(rows: Iterable[Mapping[str, float]]) -> dict[str, Mean]:
    """Mean of each number that all rows have."""
    rows = list(rows)
    return {name: mean_of([row[name] for row in rows]) for name in _common(rows)}


def mean_of(values: Sequence[float]) -> Mean:
    """Mean and both standard deviations."""
    found = metrics.summarise_folds(values)
    return Mean(mean=found.mean, std_population=found.std_population, std_sample=found.std_sample, n=found.n)


def _common(mappings: Sequence[Mapping[str, object]]) -> list[str]:
    """Keys that all mappings have, in the order of the first."""
    return [key for key in mappings[0] if all(key in mapping for mapping in mappings)] if mappings else []
