"""Choosing a threshold on the development split."""

from __future__ import annotations

import enum
import math

from numpy.typing import ArrayLike

from fasedge.errors import MetricError
from fasedge.metrics._curves import apcer_at_bpcer_of, bpcer_at_apcer_of, eer_of
from fasedge.metrics._inputs import Scores, SpeciesNames, check_presentations
from fasedge.metrics._ladder import Ladder
from fasedge.metrics._results import ChosenThreshold


class Criterion(enum.StrEnum):
    """Named operating points.

    The name says which rate is *held*: ``bpcer5`` takes the highest threshold whose BPCER is at most 5 %, and
    ``apcer5`` the lowest whose APCER is at most 5 % for each species. Two other conventions use similar names:
    in ISO/IEC 30107-3 BPCER20 is the BPCER *where APCER is held* at 1/20 (see
    :func:`fasedge.metrics.bpcer_at_apcer`), and in bob ``apcer20`` holds BPCER at 1/20.
    """

    EER = "eer"
    BPCER1 = "bpcer1"
    BPCER5 = "bpcer5"
    BPCER10 = "bpcer10"
    APCER1 = "apcer1"
    APCER5 = "apcer5"


_HELD_BPCER = {Criterion.BPCER1: 0.01, Criterion.BPCER5: 0.05, Criterion.BPCER10: 0.10}
_HELD_APCER = {Criterion.APCER1: 0.01, Criterion.APCER5: 0.05}


def choose_threshold(
    dev_scores: Scores,
    dev_labels: ArrayLike,
    dev_species: SpeciesNames | None = None,
    criterion: Criterion | str = Criterion.BPCER5,
    *,
    split: str = "dev",
) -> ChosenThreshold:
    """Choose the threshold of an operating point.

    Args:
        dev_scores: float (n,), higher = more surely bona fide; NaN (non-response) has no say and is counted.
        dev_labels: int (n,), 1 = bona fide, 0 = attack.
        dev_species: (n,) name of the PAI species of each attack; used where the APCER is held.
        criterion: A :class:`Criterion` or its name.
        split: Name of the split; :func:`fasedge.metrics.report` refuses to measure on it.

    Raises:
        MetricError: Unusable input, only one class, no split name, an unknown criterion, or one that only accepting
            (or rejecting) everything would meet.
    """
    if not split:
        raise MetricError("choose_threshold needs the name of the split, such as 'dev'")
    try:
        wanted = Criterion(criterion)
    except ValueError as error:
        names = ", ".join(c.value for c in Criterion)
        raise MetricError(f"unknown criterion {str(criterion)!r}: expected one of {names}") from error
    data = check_presentations(dev_scores, dev_labels, dev_species, allow_non_response=True)
    ladder = Ladder.of(data.responses())
    value = _threshold(ladder, wanted)
    if math.isinf(value):
        what = "accepting" if value < 0 else "rejecting"
        raise MetricError(
            f"{wanted.value} can be met only by {what} every presentation of split {split!r}: the scores do not "
            "separate attacks from bona fide presentations there; check the direction of the scores and the labels, "
            "or choose a criterion that asks for less"
        )
    return ChosenThreshold(value, wanted.value, split, data.fingerprint(), int((~data.responded).sum()))


def _threshold(ladder: Ladder, criterion: Criterion) -> float:
    if criterion in _HELD_BPCER:
        return apcer_at_bpcer_of(ladder, _HELD_BPCER[criterion]).threshold
    if criterion in _HELD_APCER:
        return bpcer_at_apcer_of(ladder, _HELD_APCER[criterion]).threshold
    return eer_of(ladder).threshold
