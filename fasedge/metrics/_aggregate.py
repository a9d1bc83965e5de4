"""From frames to videos, from folds to one number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fasedge.errors import MetricError
from fasedge.metrics._inputs import (
    Float64Array,
    IntArray,
    Scores,
    SpeciesNames,
    check_groups,
    check_presentations,
    check_scores,
)
from fasedge.metrics._results import FoldSummary


@dataclass(frozen=True, slots=True, eq=False)
class VideoScores:
    """One entry per video, in the order in which the videos first appear.

    Attributes:
        videos: Identifiers.
        scores: float64 (v,), mean over the frames that got a score; NaN (non-response) where none did.
        labels: int64 (v,), 1 = bona fide, 0 = attack.
        species: Name of the PAI species, empty for bona fide; ``None`` if none were given.
        subjects: Identifiers of the subjects; ``None`` if none were given.
        n_frames: int64 (v,), frames.
        n_scored: int64 (v,), frames that got a score.
    """

    videos: tuple[str, ...]
    scores: Float64Array
    labels: IntArray
    species: tuple[str, ...] | None
    subjects: tuple[str, ...] | None
    n_frames: IntArray
    n_scored: IntArray


def aggregate_videos(
    scores: Scores,
    labels: ArrayLike,
    videos: ArrayLike,
    *,
    species: SpeciesNames | None = None,
    subjects: ArrayLike | None = None,
) -> VideoScores:
    """Score of a video: the mean score of its frames.

    Frames without a score (NaN) do not enter the mean, but ``n_frames`` and ``n_scored`` keep count of them.

    Args:
        scores: float (n,) per frame; NaN or ``None`` is a non-response.
        labels: int (n,), 1 = bona fide, 0 = attack.
        videos: (n,) identifier of the video of each frame, unique over the whole set.
        species: (n,) name of the PAI species of each attack.
        subjects: (n,) identifier of the subject.

    Raises:
        MetricError: Unusable input, or frames of one video that disagree about label, species or subject.
    """
    data = check_presentations(
        scores, labels, species, allow_non_response=True, need_attack=False, need_bona_fide=False
    )
    index, n_videos = check_groups(videos, len(data.scores), "videos")
    first = np.unique(index, return_index=True)[1]
    names = tuple(str(v) for v in np.asarray(videos, dtype=object)[first].tolist())
    _check_constant(data.is_bona_fide.astype(np.int64), index, first, names, "label")
    _check_constant(data.species_index, index, first, names, "species")
    people = None
    if subjects is not None:
        person, _ = check_groups(subjects, len(data.scores), "subjects")
        _check_constant(person, index, first, names, "subject")
        people = tuple(str(s) for s in np.asarray(subjects, dtype=object)[first].tolist())
    n_frames = np.bincount(index, minlength=n_videos).astype(np.int64)
    n_scored = np.bincount(index[data.responded], minlength=n_videos).astype(np.int64)
    kinds = None if species is None else tuple("" if k < 0 else data.species[k] for k in data.species_index[first])
    return VideoScores(
        videos=names,
        scores=_mean_per_group(data.scores, index, n_scored),
        labels=data.is_bona_fide[first].astype(np.int64),
        species=kinds,
        subjects=people,
        n_frames=n_frames,
        n_scored=n_scored,
    )


def _mean_per_group(scores: Float64Array, index: IntArray, n_scored: IntArray) -> Float64Array:
    """Mean of the finite scores of each group; NaN for a group without any."""
    sums = np.bincount(index, weights=np.nan_to_num(scores, nan=0.0), minlength=len(n_scored))
    return np.where(n_scored > 0, sums / np.maximum(n_scored, 1), np.nan)


def _check_constant(values: IntArray, index: IntArray, first: IntArray, names: tuple[str, ...], what: str) -> None:
    differing = np.unique(index[values != values[first][index]])
    if len(differing):
        shown = ", ".join(repr(names[i]) for i in differing[:3])
        raise MetricError(
            f"the frames of {len(differing)} videos disagree about their {what} (such as {shown}); "
            "give each video an identifier of its own"
        )


def summarise_folds(values: ArrayLike) -> FoldSummary:
    """Mean over the folds of a protocol with both standard deviations.

    Args:
        values: float (n,), one rate per fold.

    Raises:
        MetricError: Empty, not one-dimensional, NaN or infinite.
    """
    folds = check_scores(values, "fold values")
    if np.isnan(folds).any():
        raise MetricError(
            f"{int(np.isnan(folds).sum())} of {len(folds)} fold values are NaN; expected one rate per fold"
        )
    sample = float(folds.std(ddof=1)) if len(folds) > 1 else None
    return FoldSummary(float(folds.mean()), float(folds.std()), sample, len(folds))
