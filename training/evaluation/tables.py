"""Scores of a set with everything that is known about its samples, frame by frame or video by video."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fasedge import metrics
from training.config import TrainConfig
from training.data.batches import usable
from training.data.samples import SampleSet
from training.data.table import SampleRow
from training.errors import DataError, DivergedError
from training.meta_task import DomainTask
from training.scoring import named_score_batches
from training.tasks import Batch, MethodStep, StepTask

Level = Literal["frame", "video"]
#: Name of the score of tasks that have only one.
ONLY = "score"


@dataclass(frozen=True, slots=True, eq=False)
class Presentations:
    """What the metrics get, one entry per presentation.

    Attributes:
        scores: float64 (n,), higher = bona fide; NaN where there is none (a non-response).
        labels: int64 (n,), 1 bona fide, 0 attack.
        species: PAI species; that of bona fide presentations means nothing.
        subtypes: Kinds of instrument, likewise.
        subjects: Who is shown.
    """

    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    species: Sequence[str]
    subtypes: Sequence[str]
    subjects: Sequence[str]

    def answered(self) -> Presentations:
        """Those that got a score."""
        kept = np.flatnonzero(~np.isnan(self.scores)).tolist()
        if len(kept) == len(self.scores):
            return self
        species, subtypes, subjects = (
            [names[i] for i in kept] for names in (self.species, self.subtypes, self.subjects)
        )
        return Presentations(self.scores[kept], self.labels[kept], species, subtypes, subjects)


@dataclass(frozen=True, slots=True, eq=False)
class ScoreTable:
    """A set and the scores of its samples.

    Attributes:
        rows: The set's table.
        split: Its split.
        scores: float64 (n,) by name, the method's own score first; NaN for faces that the network cannot look at.
    """

    rows: Sequence[SampleRow]
    split: str
    scores: Mapping[str, NDArray[np.float64]]

    @property
    def levels(self) -> tuple[Level, ...]:
        """``frame``, and ``video`` where frames say which video they are from."""
        return ("frame", "video") if has_videos(self.rows) else ("frame",)

    def at(self, level: Level, score: str) -> Presentations:
        """One score, frame by frame or video by video; the score of a video is the mean of its frames'.

        Raises:
            MetricError: Frames of one video disagree about label, species or subject.
        """
        scores = self.scores[score]
        labels = np.array([row.label for row in self.rows], np.int64)
        species, subtypes = [row.species for row in self.rows], [row.subtype for row in self.rows]
        subjects = [row.identity for row in self.rows]
        if level == "frame":
            return Presentations(scores, labels, species, subtypes, subjects)
        names = [video_of(row) for row in self.rows]
        found = metrics.aggregate_videos(scores, labels, names, species=species, subjects=subjects)
        finer = metrics.aggregate_videos(scores, labels, names, species=subtypes)
        return Presentations(found.scores, found.labels, found.species or (), finer.species or (), found.subjects or ())

    @property
    def n_videos(self) -> int:
        """Recordings; 0 where frames belong to none."""
        return len({video_of(row) for row in self.rows}) if has_videos(self.rows) else 0


def video_of(row: SampleRow) -> str:
    """Recording of a frame; empty where there is none."""
    return str(row.params.get("video", ""))


def frame_of(row: SampleRow) -> str:
    """Number of a frame in its recording; empty where there is none."""
    # The simulator's draws may have any name, this one too.
    return str(row.params.get("frame", "")) if video_of(row) else ""


def has_videos(rows: Sequence[SampleRow]) -> bool:
    """Whether frames say which recording they are from.

    Raises:
        DataError: Only some do.
    """
    without = sum(1 for row in rows if not video_of(row))
    if 0 < without < len(rows):
        raise DataError(
            f"{without} of {len(rows)} samples name no video in params, the others do: they cannot be joined to "
            "videos; give each sample its video, or none"
        )
    return bool(rows) and not without


def named_scorer(task: StepTask) -> tuple[str, Callable[[Batch], Mapping[str, Tensor]]]:
    """What a task calls its own score, and a function that gives all its scores by name."""
    if isinstance(task, MethodStep):
        return task.primary_score, task.named_scores
    if isinstance(task, DomainTask):
        model, see = task.module, task.see
        with_depth = model.estimator is not None and model.config.depth_weight > 0

        def scores(batch: Batch) -> Mapping[str, Tensor]:
            # An estimator that nothing has trained is not asked.
            return model.scores(model(see(batch.rgb))) if with_depth else {"binary": task.score_batch(batch)}

        return "binary", scores
    return ONLY, lambda batch: {ONLY: task.score_batch(batch)}


def score_table(
    task: StepTask, samples: SampleSet, config: TrainConfig, progress: Callable[[int], None] | None = None
) -> tuple[str, ScoreTable]:
    """Score a set.

    Args:
        task: The network, on its device.
        samples: The set, not empty.
        config: Whose crops.
        progress: Called with the number of samples that are done.

    Returns:
        The name of the method's own score, and the table. Where the network looks at depth, faces without any have no
        score: zeros in its place would be taken for something very near.

    Raises:
        DataError: The network looks at depth and the set has none.
        DivergedError: A score is not finite.
    """
    primary, scorer = named_scorer(task)
    places = usable(samples, measured=task.needs.depth)
    if not places:
        raise DataError("no face of the set has measured depth, which the network looks at; prepare it again")
    named = named_score_batches(
        scorer, task.module, samples, config, needs=task.needs, places=places, progress=progress
    )
    for name, values in named.items():
        if not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).sum())
            raise DivergedError(
                f"{bad} of {len(values)} scores {name!r} are not finite: the weights of the run diverged"
            )
    order = sorted(named, key=lambda name: name != primary)
    scores = {name: np.full(len(samples), np.nan) for name in order}
    for name, values in scores.items():
        values[places] = named[name]
    return primary, ScoreTable(samples.table, samples.info.split, scores)


def write_scores(path: Path, tables: Sequence[ScoreTable]) -> None:
    """Write ``scores.csv``: a line per sample, with every score.

    Raises:
        OSError: The file cannot be written.
    """
    names = list(tables[0].scores)
    columns = ["dataset", "split", "subject", "video", "frame", "label", "species", "subtype", "index"]
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow([*columns, *names])
        for table in tables:
            for i, row in enumerate(table.rows):
                about = [row.source, table.split, row.identity, video_of(row), frame_of(row)]
                # All digits: whoever works the rates out again from this file must get the same.
                scores = [_digits(table.scores[name][i]) for name in names]
                writer.writerow([*about, row.label, row.species, row.subtype, row.index, *scores])


def _digits(score: float) -> str:
    """A score to its last bit; empty where there is none."""
    return "" if np.isnan(score) else repr(float(score))


def choose_threads(threads: int | None) -> None:
    """Set the number of threads of the network, if one is wanted."""
    if threads:
        torch.set_num_threads(threads)
