"""Evaluation of a score function on simulated sets: thresholds from dev, rates on test."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fasedge import metrics
from fasedge.types import Label
from training.data.samples import SampleRow, SampleSet
from training.errors import DataError

OPERATING_POINTS = ("bpcer1", "bpcer5", "bpcer10", "apcer1", "apcer5", "eer")


@dataclass(frozen=True, slots=True, eq=False)
class ScoredSet:
    """A sample set with a score for each sample.

    Attributes:
        samples: The set.
        scores: float64 (n,), higher = bona fide.
    """

    samples: SampleSet
    scores: NDArray[np.float64]

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 (n,)."""
        return self.samples.labels

    def column(self, name: str) -> list[str]:
        """A column of the set's table, as strings.

        Raises:
            DataError: The table has no such column.
        """
        if name not in SampleRow.__struct_fields__:
            raise DataError(f"no column {name!r}; expected one of {', '.join(SampleRow.__struct_fields__)}")
        return [str(getattr(row, name)) for row in self.samples.table]


def thresholds(dev: ScoredSet, names: Sequence[str] = OPERATING_POINTS) -> dict[str, metrics.ChosenThreshold]:
    """Choose the thresholds of the operating points on the development set.

    Raises:
        DataError: The set is not of the development split.
    """
    if dev.samples.info.split != "dev":
        raise DataError(f"thresholds are chosen on the dev split, got {dev.samples.info.split!r}")
    species = dev.column("species")
    return {
        name: metrics.choose_threshold(dev.scores, dev.labels, species, name, split=dev.samples.info.split)
        for name in names
    }


def auc_by(scored: ScoredSet, column: str) -> dict[str, float]:
    """AUC within each value of a column; attacks are compared with the bona fide pictures of the same value.

    For ``species`` and ``subtype``, where bona fide has no value, all bona fide pictures are compared with it.
    """
    values, labels = np.array(scored.column(column)), scored.labels
    bona_fide = labels == Label.BONA_FIDE
    shared = column in ("species", "subtype")
    out = {}
    for value in sorted(set(values[~bona_fide])):
        chosen = (values == value) | (bona_fide if shared else False)
        if len(set(labels[chosen])) == 2:
            out[str(value)] = float(metrics.auc(scored.scores[chosen], labels[chosen]))
    return out


def auc_by_edge(scored: ScoredSet) -> dict[str, float]:
    """AUC against attacks whose medium ends in the picture (``visible``) and against those whose medium fills it.

    Only attacks that say so are counted (parameter ``edge_visible`` of the simulator).
    """
    labels = scored.labels
    edges = np.array([row.params.get("edge_visible", -1) for row in scored.samples.table], np.float64)
    found = {}
    for name, value in (("hidden", 0), ("visible", 1)):
        chosen = (labels == Label.BONA_FIDE) | (edges == value)
        if len(set(labels[chosen])) == 2:
            found[name] = float(metrics.auc(scored.scores[chosen], labels[chosen]))
    return found


def evaluate_sets(dev: ScoredSet, test: ScoredSet) -> dict[str, object]:
    """Everything that is reported about a model on simulated data, as plain JSON values.

    Raises:
        DataError: ``dev`` is not of the development split.
        MetricError: ``test`` is the development split, or a class is missing.
    """
    chosen = thresholds(dev)
    subjects, species = test.column("identity"), test.column("species")
    reports = {
        name: metrics.evaluate(
            test.scores,
            test.labels,
            species=species,
            subjects=subjects,
            threshold=value,
            split=test.samples.info.split,
        ).as_dict()
        for name, value in chosen.items()
    }
    return {
        "dev_auc": float(metrics.auc(dev.scores, dev.labels)),
        "test_auc": float(metrics.auc(test.scores, test.labels)),
        "thresholds": {name: value.value for name, value in chosen.items()},
        "by_source": auc_by(test, "source"),
        "by_species": auc_by(test, "species"),
        "by_subtype": auc_by(test, "subtype"),
        "by_edge": auc_by_edge(test),
        "reports": reports,
    }


def write_evaluation(out: Path, test: ScoredSet, results: dict[str, object]) -> None:
    """Write ``metrics.json`` and ``scores.csv``.

    Raises:
        DataError: The folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(results, indent=2, allow_nan=False)
        (out / "metrics.json").write_text(text + "\n", encoding="utf-8")
        with (out / "scores.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["index", "label", "species", "subtype", "source", "identity", "score"])
            for row, score in zip(test.samples.table, test.scores, strict=True):
                fields = [row.index, row.label, row.species, row.subtype, row.source, row.identity]
                writer.writerow([*fields, f"{score:.6f}"])
    except OSError as error:
        raise DataError(f"{out}: the evaluation cannot be written ({error.strerror or error})") from error


def face_scalars(samples: SampleSet) -> dict[str, NDArray[np.float64]]:
    """Single numbers of each face region, none of which should tell the classes apart.

    Returns:
        float64 (n,) each: ``brightness`` (mean grey value), ``sharpness`` (variance of the Laplacian), ``saturation``
        (largest minus smallest channel), ``red_blue`` (ratio of the means), ``black_level`` (first percentile of the
        grey values over their mean), ``contrast`` (standard deviation over the mean) and ``clipped`` (share of the
        pixels with a channel of 250 or more).
    """
    import cv2

    names = ("brightness", "sharpness", "saturation", "red_blue", "black_level", "contrast", "clipped")
    values = np.empty((len(samples), len(names)))
    for i, row in enumerate(samples.table):
        x1, y1, x2, y2 = (round(v) for v in row.box_xyxy)
        face = samples.picture(i)[max(0, y1) : y2, max(0, x1) : x2]
        grey = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)
        brightest = face.max(2)
        spread = brightest.astype(float) - face.min(2)
        mean = face.reshape(-1, 3).mean(0)
        level = grey.mean() + 1
        tones = np.percentile(grey, 1) / level, grey.std() / level, float((brightest >= 250).mean())
        values[i] = level, cv2.Laplacian(grey, cv2.CV_64F).var(), spread.mean(), mean[0] / (mean[2] + 1), *tones
    return {name: values[:, k] for k, name in enumerate(names)}


def confounds(samples: SampleSet) -> dict[str, float]:
    """AUC of each of :func:`face_scalars`, in the direction in which it separates better.

    None of them should tell the classes apart: a model could lean on it instead of on the attack.

    Returns:
        AUC in [0.5, 1] by name.
    """
    labels = samples.labels
    found = {name: float(metrics.auc(values, labels)) for name, values in face_scalars(samples).items()}
    return {name: max(auc, 1 - auc) for name, auc in found.items()}
