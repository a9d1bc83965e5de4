"""Summarises scores of real captures as evaluations for a model card.

    python -m benchmarks.real_summary --set DIR --scores scores.csv --out real.json
    python -m benchmarks.real_summary --set DIR --scores scores.csv --out real.json --model edge-rgb

``DIR/manifest.csv`` has the columns ``file, label`` (live or spoof), ``source, kind`` (crop or clip_frame), ``size``.
The AUC is pooled over all captures of a size; its interval is a bootstrap over sources, because captures of one source
are alike. Only these aggregates leave the folder. With ``--model`` the thresholds of a card, which were chosen on
simulated data, are tried on the captures; the scores must be those of the model's INT8 file.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer

from benchmarks.transfer import show
from fasedge import metrics
from fasedge.cards import Evaluation, OperatingPoint, find_model, load_card
from fasedge.types import Label
from quantize.readme import format_rate

_LABELS = {"live": Label.BONA_FIDE, "spoof": Label.ATTACK}
_KINDS = {"crop": "face crops", "clip_frame": "frames of clips"}


def evaluation(rows: list[dict[str, str]], scores: dict[str, float], kind: str, size: str) -> Evaluation:
    """Evaluate the captures of one kind and size."""
    labels = np.array([int(_LABELS[r["label"]]) for r in rows])
    values = np.array([scores.get(r["file"], np.nan) for r in rows])
    responded = np.isfinite(values)
    sources = np.array([r["source"] for r in rows])
    # Four clips, each the only one of its source, carry no interval; the card then says 0 to 1.
    subjects = list(sources) if kind == "crop" else None
    report = metrics.evaluate(values, labels, subjects=subjects, split="real")
    by_source = {}
    for i, source in enumerate(sorted(set(sources)), start=1):
        chosen = responded & (sources == source)
        if len(set(labels[chosen])) == 2:
            by_source[f"source {i}"] = round(float(metrics.auc(values[chosen], labels[chosen])), 4)
    mean = f"mean AUC within sources {np.mean(list(by_source.values())):.3f}; " if by_source else ""
    unseen = [int((labels[~responded] == label).sum()) for label in (1, 0)]
    interval = None if report.intervals is None else report.intervals.auc
    return Evaluation(
        dataset=f"real development captures, {_KINDS[kind]}, size {size} (screen replays only)",
        kind="real",
        n_bona_fide=int((labels[responded] == 1).sum()),
        n_attack=int((labels[responded] == 0).sum()),
        auc=float(report.auc),
        auc_low=float(interval.low) if interval else 0.0,
        auc_high=float(interval.high) if interval else 1.0,
        eer=float(report.eer.value),
        by_source_auc=by_source,
        notes=f"AUC pooled over sources; {mean}{len(set(sources))} sources; reference boxes; "
        f"not counted for want of a box: {unseen[0]} bona fide, {unseen[1]} attack",
        n_non_response=sum(unseen),
    )


def rates(
    rows: list[dict[str, str]], scores: dict[str, float], points: Sequence[OperatingPoint]
) -> list[tuple[str, float, metrics.Rate, metrics.Rate]]:
    """What thresholds cost on captures; those without a score are left out.

    Returns:
        Operating point, threshold, APCER and BPCER.

    Raises:
        MetricError: A class is missing.
    """
    scored = [row for row in rows if row["file"] in scores]
    labels = np.array([int(_LABELS[row["label"]]) for row in scored])
    values = np.array([scores[row["file"]] for row in scored])
    return [
        (
            point.name,
            point.threshold,
            metrics.apcer(values, labels, ["attack"] * len(scored), threshold=point.threshold).per_species["attack"],
            metrics.bpcer(values, labels, threshold=point.threshold),
        )
        for point in points
    ]


def main(
    *,
    captures: Annotated[Path, typer.Option("--set", help="Folder with manifest.csv.")],
    scores: Annotated[Path, typer.Option(help="CSV of benchmarks.real_captures.")],
    out: Annotated[Path, typer.Option(help="JSON to write: evaluations for `python -m quantize facts`.")],
    model: Annotated[str | None, typer.Option(help="Model whose thresholds are tried.")] = None,
) -> None:
    """Summarise."""
    with scores.open(newline="", encoding="utf-8") as stream:
        found = {r["file"]: float(r["score"]) for r in csv.DictReader(stream) if r["score"]}
    groups: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    with (captures / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            groups[row["kind"], row["size"]].append(row)
    scored = [(*key, rows) for key, rows in sorted(groups.items()) if any(r["file"] in found for r in rows)]
    results = [evaluation(rows, found, kind, size) for kind, size, rows in scored]
    out.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")
    for item in results:
        print(f"{item.dataset}: AUC {item.auc:.3f} [{item.auc_low:.3f}, {item.auc_high:.3f}]; {item.notes}")
    if model is not None:
        points = [p for p in load_card(find_model(model)).operating_points if p.precision == "int8"]
        cells = [
            [_KINDS[kind], size, name, f"{threshold:.3f}", format_rate(apcer), format_rate(bpcer)]
            for kind, size, rows in scored
            for name, threshold, apcer, bpcer in rates(rows, found, points)
        ]
        show(["captures", "size", "operating point", "threshold", "APCER", "BPCER"], cells, markdown=True)


if __name__ == "__main__":
    typer.run(main)
