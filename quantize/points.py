"""Operating points of a model for its card: thresholds from dev, rates on test.

Each rate has an exact interval, for which presentations are independent, and one over people, for which they are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fasedge import metrics
from fasedge.cards import OperatingPoint, Precision, Rate, Span
from fasedge.types import Label
from quantize.errors import CalibrationDataError
from training.evaluate import OPERATING_POINTS, ScoredSet, thresholds

DEFAULT_POINT = "bpcer5"
_CRITERIA = {
    "bpcer1": "highest threshold with BPCER <= 1 % on simulated dev data",
    "bpcer5": "highest threshold with BPCER <= 5 % on simulated dev data",
    "bpcer10": "highest threshold with BPCER <= 10 % on simulated dev data",
    "apcer1": "lowest threshold with APCER <= 1 % for each species on simulated dev data",
    "apcer5": "lowest threshold with APCER <= 5 % for each species on simulated dev data",
    "eer": "equal error rate on simulated dev data",
}
#: What a rate counts: the source of the portraits, or ``_ALL`` sources; and a species, or ``_BONA_FIDE``.
_Part: TypeAlias = tuple[str, str]
_ALL, _BONA_FIDE = "", ""


def check_point(name: str) -> None:
    """Refuse a name of no operating point, before hours are spent.

    Raises:
        CalibrationDataError: There is no such operating point.
    """
    if name not in OPERATING_POINTS:
        raise CalibrationDataError(
            f"no operating point {name!r} to be the default; one of {', '.join(OPERATING_POINTS)}"
        )


def fp32_point(points: Sequence[OperatingPoint], name: str, modalities: tuple[str, ...]) -> OperatingPoint:
    """The operating point of that name at full precision, which parity and the cost of rounding are measured at.

    Args:
        points: Those of a model.
        name: Of the point.
        modalities: What its score is made from.

    Raises:
        CalibrationDataError: There is none.
    """
    for point in points:
        if (point.name, point.precision, point.modalities) == (name, "fp32", modalities):
            return point
    raise CalibrationDataError(f"no operating point {name!r} at full precision was measured")


def operating_points(
    dev: ScoredSet,
    test: ScoredSet,
    precision: Precision,
    names: Sequence[str] = OPERATING_POINTS,
    *,
    modalities: tuple[str, ...] = ("rgb",),
) -> list[OperatingPoint]:
    """Thresholds from dev, rates on test, for one precision and what the score is made from.

    Args:
        dev: Where thresholds come from.
        test: What is measured, by species, by source and over identities.
        precision: Of the network that gave the scores.
        names: Of the operating points.
        modalities: What the scores are made from.

    Raises:
        DataError: ``dev`` is not of the development split.
        MetricError: ``test`` is of it, a class is missing, or too few people carry one for an interval over people.
    """
    parts = _parts(test)
    points = []
    for name, chosen in thresholds(dev, names).items():
        found = metrics.report(test.scores, test.labels, test.column("species"), chosen, split=test.samples.info.split)
        rates = _rates(test, chosen.value, parts)
        points.append(
            OperatingPoint(
                name=name,
                threshold=float(chosen.value),
                criterion=_CRITERIA[name],
                modalities=modalities,
                precision=precision,
                apcer=_of_attacks(rates[_ALL]),
                apcer_max=float(found.apcer.max),
                bpcer=rates[_ALL][_BONA_FIDE],
                acer=float(found.acer),
                acer_people=_acer_over_people(test, found),
                apcer_by_source={s: _of_attacks(of) for s, of in rates.items() if s != _ALL and _of_attacks(of)},
                bpcer_by_source={s: of[_BONA_FIDE] for s, of in rates.items() if s != _ALL and _BONA_FIDE in of},
            )
        )
    return points


def _parts(test: ScoredSet) -> dict[_Part, NDArray[np.bool_]]:
    """Which presentations each rate counts, bool (n,); those that would count none are left out."""
    sources = np.array(test.column("source"))
    kinds = np.where(test.labels == Label.BONA_FIDE, _BONA_FIDE, test.column("species"))
    return {
        (source, kind): members
        for source in (_ALL, *np.unique(sources).tolist())
        for kind in np.unique(kinds).tolist()
        if (members := (kinds == kind) & ((sources == source) | (source == _ALL))).any()
    }


def _rates(test: ScoredSet, threshold: float, parts: Mapping[_Part, NDArray[np.bool_]]) -> dict[str, dict[str, Rate]]:
    """The rates of all parts by source and kind, with both intervals."""
    wrong = (test.scores >= threshold) != (test.labels == Label.BONA_FIDE)
    people = metrics.bootstrap_rates(wrong, test.column("identity"), parts)
    rates: dict[str, dict[str, Rate]] = {}
    for (source, kind), members in parts.items():
        found = metrics.Rate.from_counts(int(wrong[members].sum()), int(members.sum()))
        rates.setdefault(source, {})[kind] = Rate(
            value=found.value,
            errors=found.errors,
            n=found.n,
            low=found.low,
            high=found.high,
            people=_span(people[source, kind]),
        )
    return rates


def _of_attacks(rates: Mapping[str, Rate]) -> dict[str, Rate]:
    return {kind: rate for kind, rate in rates.items() if kind != _BONA_FIDE}


def _acer_over_people(test: ScoredSet, whole: metrics.ThresholdReport) -> Span | None:
    """The interval of the ACER; none where the bootstrap would shrink to a point."""
    if whole.acer in {0.0, 1.0}:
        return None
    # Rates depend on decisions only, and two distinct scores are counted faster than thousands.
    decisions = (test.scores >= whole.threshold.value).astype(np.float64)
    identities, species = test.column("identity"), test.column("species")
    return _span(metrics.bootstrap_intervals(decisions, test.labels, identities, species, threshold=0.5).acer)


def _span(found: metrics.Interval | None) -> Span | None:
    return None if found is None else Span(low=found.low, high=found.high)
