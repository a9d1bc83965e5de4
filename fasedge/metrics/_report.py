"""The whole report in one call."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fasedge.errors import MetricError
from fasedge.metrics._bootstrap import MIN_RESAMPLES, bootstrap_of
from fasedge.metrics._curves import apcer_at_bpcer_of, auc_of, bpcer_at_apcer_of, eer_of
from fasedge.metrics._inputs import Presentations, Scores, SpeciesNames, check_groups, check_presentations
from fasedge.metrics._intervals import DEFAULT_CONFIDENCE
from fasedge.metrics._ladder import Ladder
from fasedge.metrics._rates import apcer_of, bpcer_of, non_response_of
from fasedge.metrics._results import Apcer, BootstrapIntervals, ChosenThreshold, PadReport, Rate, ThresholdReport

#: Rates at which the other one is reported; BPCER10, BPCER20, BPCER100 of ISO/IEC 30107-3 for APCER.
HELD_RATES = (0.10, 0.05, 0.01)


def report(
    scores: Scores,
    labels: ArrayLike,
    species: SpeciesNames | None = None,
    threshold: ChosenThreshold | float | None = None,
    *,
    split: str = "test",
    allow_same_split: bool = False,
    confidence: float = DEFAULT_CONFIDENCE,
) -> ThresholdReport:
    """Error rates at a threshold that was chosen elsewhere.

    Args:
        scores: float (n,), higher = more surely bona fide; NaN or ``None`` is a non-response, counted apart.
        labels: int (n,), 1 = bona fide, 0 = attack.
        species: (n,) name of the PAI species of each attack.
        threshold: From :func:`fasedge.metrics.choose_threshold`; a plain number is taken as fixed from outside, and
            then nobody can check that it was not chosen on these scores.
        split: Name of the split that the scores belong to.
        allow_same_split: Report on the split that the threshold was chosen on; the report then says so.
        confidence: Of the intervals.

    Raises:
        MetricError: Unusable input, only one class, no threshold, a class of which no presentation got a score, or
            the threshold was chosen on this split (by its name, or because the data is the same).
    """
    if threshold is None:
        raise MetricError("report needs a threshold: choose one on the development split with choose_threshold()")
    data = check_presentations(scores, labels, species, allow_non_response=True)
    return _report_of(data, _as_chosen(threshold), split, allow_same_split, confidence)


def evaluate(
    scores: Scores,
    labels: ArrayLike,
    *,
    species: SpeciesNames | None = None,
    subjects: ArrayLike | None = None,
    threshold: ChosenThreshold | float | None = None,
    split: str = "test",
    allow_same_split: bool = False,
    confidence: float = DEFAULT_CONFIDENCE,
    n_resamples: int = MIN_RESAMPLES,
    seed: int = 0,
) -> PadReport:
    """Everything about one set of scores: AUC, EER, trade-offs, non-responses, rates at a threshold, intervals.

    Args:
        scores: float (n,), higher = more surely bona fide; NaN or ``None`` is a non-response, counted apart.
        labels: int (n,), 1 = bona fide, 0 = attack.
        species: (n,) name of the PAI species of each attack; without it all attacks are one species.
        subjects: (n,) identifier of the person; with it, bootstrap intervals over subjects are added.
        threshold: See :func:`report`; without it only measures that need none are given.
        split: See :func:`report`.
        allow_same_split: See :func:`report`.
        confidence: Of all intervals.
        n_resamples: See :func:`fasedge.metrics.bootstrap_intervals`.
        seed: See :func:`fasedge.metrics.bootstrap_intervals`.

    Raises:
        MetricError: As for :func:`report` and :func:`fasedge.metrics.bootstrap_intervals`.
    """
    data = check_presentations(scores, labels, species, allow_non_response=True)
    chosen = None if threshold is None else _as_chosen(threshold)
    at_threshold = None if chosen is None else _report_of(data, chosen, split, allow_same_split, confidence)
    responses = data.responses()
    ladder = Ladder.of(responses)
    intervals: BootstrapIntervals | None = None
    if subjects is not None:
        everyone, _ = check_groups(subjects, len(data.scores), "subjects")
        intervals = bootstrap_of(
            responses,
            check_groups(everyone[data.responded], len(responses.scores), "subjects"),
            threshold=None if chosen is None else chosen.value,
            n_resamples=n_resamples,
            seed=seed,
            confidence=confidence,
        )
    return PadReport(
        split=split,
        n_bona_fide=int(data.is_bona_fide.sum()),
        n_attack={name: int((data.species_index == k).sum()) for k, name in enumerate(data.species)},
        auc=auc_of(ladder),
        eer=eer_of(ladder),
        bpcer_at_apcer={rate: bpcer_at_apcer_of(ladder, rate) for rate in HELD_RATES},
        apcer_at_bpcer={rate: apcer_at_bpcer_of(ladder, rate) for rate in HELD_RATES},
        non_response=non_response_of(data, confidence),
        at_threshold=at_threshold,
        intervals=intervals,
    )


def _as_chosen(threshold: ChosenThreshold | float) -> ChosenThreshold:
    return threshold if isinstance(threshold, ChosenThreshold) else ChosenThreshold(float(threshold))


def _report_of(
    data: Presentations, threshold: ChosenThreshold, split: str, allow_same_split: bool, confidence: float
) -> ThresholdReport:
    same_name = bool(threshold.split) and threshold.split == split
    same_data = bool(threshold.fingerprint) and threshold.fingerprint == data.fingerprint()
    if (same_name or same_data) and not allow_same_split:
        why = f"split {split!r} is the one" if same_name else f"the scores of split {split!r} are the very ones"
        raise MetricError(
            f"{why} the threshold was chosen on ({threshold.criterion}, {threshold.split!r}): rates measured there "
            "flatter; measure on another split, or pass allow_same_split=True and say so"
        )
    responses = data.responses()
    apcer = apcer_of(responses, threshold.value, confidence)
    bpcer = bpcer_of(responses, threshold.value, confidence)
    same = same_name or same_data
    return ThresholdReport(
        threshold=threshold,
        split=split,
        apcer=apcer,
        bpcer=bpcer,
        non_response=non_response_of(data, confidence),
        same_split=same,
        remarks=_remarks(data, apcer, bpcer, same),
    )


def _remarks(data: Presentations, apcer: Apcer, bpcer: Rate, same_split: bool) -> tuple[str, ...]:
    remarks = []
    if same_split:
        remarks.append("the threshold was chosen on the data it is measured on: the rates flatter")
    silent = int(np.isnan(data.scores).sum())
    if silent:
        remarks.append(f"{silent} of {len(data.scores)} presentations are non-responses and not part of the rates")
    unseen = sorted(set(data.species) - set(apcer.per_species))
    if unseen:
        remarks.append(f"no APCER for {', '.join(unseen)}: every presentation was a non-response")
    named = {f"APCER {name}": rate for name, rate in apcer.per_species.items()} | {"BPCER": bpcer}
    remarks += [f"{name}: {rate.remark}" for name, rate in named.items() if rate.remark]
    return tuple(remarks)
