"""How far each artefact is from the FP32 network, on the same pictures, through the engines that users run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

from fasedge import metrics
from fasedge.backends import open_backend
from fasedge.cards import ParityRecord
from fasedge.types import FloatArray, UInt8Array
from quantize.about import read_about, write_about
from quantize.errors import ParityError
from quantize.export import Artefact
from quantize.pictures import feed, parts
from quantize.students import Exportable, ExportModel

PARITY_NAME = "parity.json"
_BATCH = 32


@dataclass(frozen=True, slots=True)
class Limits:
    """What an artefact may differ by.

    Attributes:
        flips_percent: Decisions that change against FP32, in per cent of the pictures.
        acer_points: Rise or fall of the ACER, in percentage points.
        score_p99: 99th percentile of the difference of a score.
        auc: Rise or fall of the AUC.
        apcer_points: Rise of the APCER of a PAI species, in percentage points.
        cross_engine: Largest difference of a score between two engines at the same precision.
        fp32_score: Largest difference of a score between an FP32 artefact and torch.
    """

    flips_percent: float = 0.5
    acer_points: float = 0.3
    score_p99: float = 0.05
    auc: float = 0.002
    apcer_points: float = 1.0
    cross_engine: float = 0.02
    fp32_score: float = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Presentations:
    """Pictures with ground truth.

    Attributes:
        crops: Pictures, uint8 (n, S, S, C).
        labels: int (n,), 1 bona fide, 0 attack.
        species: PAI species of each picture; of bona fide ones anything.
        threshold: ``score >= threshold`` is bona fide.
        output: Name of the score.
    """

    crops: UInt8Array
    labels: NDArray[np.int64]
    species: Sequence[str]
    threshold: float
    output: str = "score"


@dataclass(frozen=True, slots=True, eq=False)
class ArtefactParity:
    """What was found about one artefact.

    Attributes:
        artefact: Which.
        record: As it goes into the card.
        score_abs_diff_mean: Mean difference of the scores.
        apcer_change_points: PAI species to the change of its APCER in percentage points.
        scores: float32 (n,).
    """

    artefact: Artefact
    record: ParityRecord
    score_abs_diff_mean: float
    apcer_change_points: Mapping[str, float] = field(repr=False)
    scores: FloatArray = field(repr=False)


@dataclass(frozen=True, slots=True)
class ParityReport:
    """What was found about all artefacts.

    Attributes:
        results: One per artefact.
        cross_engine: ``(artefact, artefact)`` of the same precision to the largest difference of a score.
    """

    results: tuple[ArtefactParity, ...]
    cross_engine: Mapping[tuple[str, str], float]

    def check(self, limits: Limits | None = None) -> None:
        """Hold every figure against its limit.

        Raises:
            ParityError: Artefacts exceed limits; the message names each with its figure.
        """
        limits = limits or Limits()
        found = [line for result in self.results for line in excesses(result, limits)]
        found += [
            f"{a} and {b} differ by up to {value:.4f} (limit {limits.cross_engine})"
            for (a, b), value in self.cross_engine.items()
            if not value <= limits.cross_engine
        ]
        if found:
            raise ParityError(
                f"{'; '.join(found)}. Nothing was published; keep more of the network in float, calibrate on more "
                "pictures or fine-tune on the grid"
            )

    def table(self) -> Table:
        """For the terminal."""
        table = Table(*_COLUMNS, title=self.results[0].record.output)
        for result in self.results:
            table.add_row(*_cells(result))
        return table

    def markdown(self) -> str:
        """For documents."""
        lines = [_COLUMNS, ["---"] * len(_COLUMNS), *(_cells(result) for result in self.results)]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


_COLUMNS = ["artefact", "n", "mean", "p99", "max", "AUC", "ACER points", "flips %", "worst APCER change", "kB"]


def _cells(result: ArtefactParity) -> list[str]:
    record, change = result.record, result.apcer_change_points
    worst = max(change, key=lambda name: abs(change[name])) if change else ""
    return [
        result.artefact.name,
        str(record.n),
        f"{result.score_abs_diff_mean:.4f}",
        f"{record.score_abs_diff_p99:.4f}",
        f"{record.score_abs_diff_max:.4f}",
        f"{record.auc:.4f} ({record.auc - record.auc_reference:+.4f})",
        f"{record.acer_points:.2f} ({record.acer_points - record.acer_points_reference:+.2f})",
        f"{record.decision_flips_percent:.2f}",
        f"{worst} {change[worst]:+.2f}" if worst else "",
        f"{result.artefact.bytes / 1000:.0f}",
    ]


#: A rise from 0.12 to 0.13 is a hundredth, not more, whatever binary fractions make of it.
_ROUNDING = 1e-9


def excesses(result: ArtefactParity, limits: Limits | None = None) -> list[str]:
    """What of an artefact is beyond its limits, a line each; nothing if it holds."""
    limits = limits or Limits()
    record, name = result.record, result.artefact.name
    figures = [
        ("decision flips", record.decision_flips_percent, limits.flips_percent, "%"),
        ("change of ACER", abs(record.acer_points - record.acer_points_reference), limits.acer_points, " points"),
        ("99th percentile of the difference of a score", record.score_abs_diff_p99, limits.score_p99, ""),
        ("change of AUC", abs(record.auc - record.auc_reference), limits.auc, ""),
    ]
    figures += [
        (f"rise of the APCER of {species}", change, limits.apcer_points, " points")
        for species, change in sorted(result.apcer_change_points.items())
    ]
    if record.precision == "fp32":
        figures.append(("difference of a score", record.score_abs_diff_max, limits.fp32_score, ""))
    # `not <=` also catches NaN.
    return [
        f"{name}: {what} {value:.4g}{unit} (limit {limit})"
        for what, value, limit, unit in figures
        if not value <= limit + _ROUNDING
    ]


def reference_scores(model: Exportable, crops: UInt8Array, output: str = "score") -> FloatArray:
    """Scores of the torch FP32 network, float32 (n,)."""
    place = [str(name) for name in model.outputs].index(output)
    with torch.inference_mode():
        found = [model(torch.from_numpy(part))[place] for part in parts(crops, _BATCH)]
    return np.asarray(torch.cat(found).numpy(), np.float32)


def pooled_means(model: ExportModel, crops: UInt8Array) -> NDArray[np.float64]:
    """Means over the cells from which the torch network's score is calibrated, float64 (n,)."""
    with torch.inference_mode():
        found = [model.pooled_heads(torch.from_numpy(part))["score"] for part in parts(crops, _BATCH)]
    return np.asarray(torch.cat(found).numpy(), np.float64)


def artefact_scores(
    item: Artefact, crops: UInt8Array, output: str = "score", *, threads: int | None = None
) -> FloatArray:
    """Scores of an artefact in its engine, float32 (n,).

    Raises:
        EngineError: The engine cannot load or run it.
    """
    with closing(open_backend(item.engine, item.path, threads=threads)) as backend:
        found = [backend.infer(feed(part))[output] for part in parts(crops, _BATCH)]
    return np.concatenate(found).astype(np.float32).reshape(len(crops))


def measure(
    items: Sequence[Artefact], reference: FloatArray, data: Presentations, *, threads: int | None = None
) -> ParityReport:
    """Score every artefact and compare.

    Args:
        items: Artefacts.
        reference: As :func:`reference_scores`, on the same crops.
        data: The pictures; not those of calibration.
        threads: For the engines.

    Raises:
        ParityError: There are no pictures or no artefacts, or the lengths do not fit.
        EngineError: An engine cannot load or run an artefact.
        MetricError: A class is missing.
    """
    n = len(data.crops)
    if not items or not n == len(reference) == len(data.labels) == len(data.species) > 0:
        raise ParityError(
            f"parity needs artefacts and one score, label and species per picture; got {len(items)} artefacts, "
            f"{n} pictures, {len(reference)} scores, {len(data.labels)} labels, {len(data.species)} species"
        )
    results = tuple(
        compare(item, artefact_scores(item, data.crops, data.output, threads=threads), reference, data)
        for item in items
    )
    pairs = combinations(results, 2)
    cross = {
        (a.artefact.name, b.artefact.name): float(np.abs(a.scores - b.scores).max())
        for a, b in pairs
        if a.artefact.precision == b.artefact.precision
    }
    return ParityReport(results, cross)


def compare(
    item: Artefact,
    scores: FloatArray,
    reference: FloatArray,
    data: Presentations,
    *,
    own_threshold: float | None = None,
) -> ArtefactParity:
    """Figures of one artefact from its scores.

    Args:
        item: Which.
        scores: Its own.
        reference: Those of full precision.
        data: The pictures, with the threshold of full precision.
        own_threshold: What is applied to the artefact's scores; ``None`` takes the same.

    Raises:
        MetricError: A class is missing, or a score is NaN.
    """
    difference = np.abs(scores.astype(np.float64) - reference)
    own = data.threshold if own_threshold is None else own_threshold
    flips = (scores >= own) != (reference >= data.threshold)
    species = list(data.species)
    before, after = (
        metrics.apcer(s, data.labels, species, threshold=threshold).per_species
        for s, threshold in ((reference, data.threshold), (scores, own))
    )
    record = ParityRecord(
        engine=item.engine,
        precision=item.precision,
        n=len(scores),
        score_abs_diff_p99=float(np.quantile(difference, 0.99)),
        score_abs_diff_max=float(difference.max()),
        auc=float(metrics.auc(scores, data.labels)),
        auc_reference=float(metrics.auc(reference, data.labels)),
        acer_points=100 * float(metrics.acer(scores, data.labels, species, threshold=own)),
        acer_points_reference=100 * float(metrics.acer(reference, data.labels, species, threshold=data.threshold)),
        decision_flips_percent=100 * float(flips.mean()),
        output=data.output,
    )
    change = {name: 100 * (after[name].value - before[name].value) for name in before}
    return ArtefactParity(item, record, float(difference.mean()), change, scores)


def write_parity(folder: Path, *reports: ParityReport) -> Path:
    """Write ``parity.json``; for models that will be published only after :meth:`ParityReport.check`.

    Args:
        folder: Of the artefacts.
        reports: One for each score that decides, about the same artefacts.
    """
    results = [result for report in reports for result in report.results]
    items = list(dict.fromkeys(result.artefact for result in results))
    return write_about(folder / PARITY_NAME, items, [result.record for result in results])


def read_parity(folder: Path, items: Sequence[Artefact]) -> tuple[ParityRecord, ...]:
    """Read ``parity.json`` and make sure that it is about these files.

    Raises:
        ParityError: It is missing or malformed, or a file has changed since.
    """
    return read_about(folder / PARITY_NAME, items, ParityRecord, ParityError)
