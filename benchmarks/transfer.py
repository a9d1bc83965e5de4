"""Does training on a simulation help on real captures? One small student per seed, scored on both.

    python -m benchmarks.transfer run --train sets/train --dev sets/dev --captures DIR --out transfer.jsonl \
        --name "simulator 3" --seeds 1,2,3
    python -m benchmarks.transfer table transfer.jsonl

``DIR/manifest.csv`` has the columns ``file, label`` (live or spoof), ``source, kind`` (crop or clip_frame), ``clip,
size, x, y, w, h`` (reference face box in pixels, empty where there is none). Captures without a licence stay where they
are: only aggregates leave. What is done already is not done again.
"""

from __future__ import annotations

import csv
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.real_captures import read_capture
from benchmarks.records import add_record, read_records
from benchmarks.students import StudentOptions, crop_logits, save_student, train_student
from fasedge import metrics
from fasedge.errors import SourceError
from fasedge.geometry import box_from_xywh
from fasedge.preprocess import InputSpec, crop_face
from fasedge.types import UInt8Array
from training.data.joined import joined
from training.data.samples import SampleSet
from training.errors import ConfigError

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


class Capture(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one real capture."""

    file: str
    label: int
    source: str
    kind: str
    clip: str
    size: str
    box: tuple[float, float, float, float]


class RealResult(msgspec.Struct, frozen=True, kw_only=True):
    """Aggregates over the captures of one size, at one crop scale; nothing in it shows anybody.

    Attributes:
        size: Size of the captures, as their manifest names it.
        crop_scale: Side of the crop over the side of the face box.
        per_source: AUC within each source of crops that has both classes, in the order of their names.
        pooled: AUC over all crops.
        clip_frames: AUC over the frames of the clips.
        clips: AUC over the clips, each the mean of its frames' logits.
    """

    size: str
    crop_scale: float
    per_source: tuple[float, ...]
    pooled: float | None
    clip_frames: float | None
    clips: float | None


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One student: what it was trained on, what came of it."""

    name: str
    options: StudentOptions
    train: str
    n_train: int
    seconds: float
    dev_auc: float
    dev_by_species: dict[str, float]
    real: tuple[RealResult, ...] = ()


def read_captures(folder: Path, sizes: Sequence[str]) -> list[Capture]:
    """Captures that have a reference box, in the order of their manifest.

    Raises:
        SourceError: There is no manifest, or it lacks a column.
    """
    path = folder / "manifest.csv"
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = [r for r in csv.DictReader(stream) if r["x"] and (not sizes or r["size"] in sizes)]
        return [
            Capture(
                file=r["file"],
                label=int(r["label"] == "live"),
                source=r["source"],
                kind=r["kind"],
                clip=r["clip"],
                size=r["size"],
                box=(float(r["x"]), float(r["y"]), float(r["w"]), float(r["h"])),
            )
            for r in rows
        ]
    except (OSError, KeyError, ValueError) as error:
        raise SourceError(f"{path} is not a manifest of captures ({error!r}); see the head of this file") from error


def cut(folder: Path, captures: Sequence[Capture], spec: InputSpec) -> UInt8Array:
    """Network inputs of captures, uint8 (n, S, S, 3), red first."""
    out = np.empty((len(captures), spec.size_px, spec.size_px, 3), np.uint8)
    for place, item in enumerate(track(captures, description=f"cutting at {spec.crop_scale:g}", transient=True)):
        out[place] = crop_face(read_capture(folder / item.file), box_from_xywh(*item.box), spec)
    return out


class Cutter:
    """Cuts captures once for every size of input and scale.

    Args:
        folder: Folder of the captures.
        captures: What is cut, in this order; kept as an attribute.
    """

    def __init__(self, folder: Path, captures: Sequence[Capture]) -> None:
        self._folder, self.captures = folder, captures
        self._kept: dict[InputSpec, UInt8Array] = {}

    def __call__(self, spec: InputSpec) -> UInt8Array:
        """Network inputs of all captures, uint8 (n, S, S, 3), red first."""
        if spec not in self._kept:
            self._kept[spec] = cut(self._folder, self.captures, spec)
        return self._kept[spec]


def auc(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float | None:
    """Area under the ROC curve, or nothing where a class is missing; only the order of the logits counts."""
    if len(set(labels.tolist())) != 2:
        return None
    # Metrics want scores in [0, 1]: ranks, equal where the logits are.
    unique, place = np.unique(logits, return_inverse=True)
    return float(metrics.auc(place / max(1, len(unique) - 1), labels))


def summarise(captures: Sequence[Capture], logits: NDArray[np.float64], crop_scale: float) -> list[RealResult]:
    """Aggregate the logits of captures by their size."""
    results = []
    for size in dict.fromkeys(c.size for c in captures):
        crops, frames = ([i for i, c in enumerate(captures) if c.size == size and c.kind == kind] for kind in _KINDS)
        labels = np.array([c.label for c in captures], np.int64)
        sources = sorted({captures[i].source for i in crops})
        found = [auc(logits[k], labels[k]) for k in ([i for i in crops if captures[i].source == s] for s in sources)]
        clips: dict[tuple[str, int], list[float]] = defaultdict(list)
        for i in frames:
            clips[captures[i].clip, captures[i].label].append(float(logits[i]))
        means = np.array([np.mean(v) for v in clips.values()], np.float64)
        results.append(
            RealResult(
                size=size,
                crop_scale=crop_scale,
                per_source=tuple(round(v, 4) for v in found if v is not None),
                pooled=auc(logits[crops], labels[crops]),
                clip_frames=auc(logits[frames], labels[frames]),
                clips=auc(means, np.array([label for _, label in clips], np.int64)),
            )
        )
    return results


_KINDS = ("crop", "clip_frame")


def by_species(samples: SampleSet, logits: NDArray[np.float64]) -> dict[str, float]:
    """AUC of each attack species against all bona fide presentations."""
    out = {}
    for species in sorted({row.species for row in samples.table if not row.label}):
        chosen = [i for i, row in enumerate(samples.table[: len(logits)]) if row.label or row.species == species]
        value = auc(logits[chosen], samples.labels[chosen])
        if value is not None:
            out[species] = round(value, 4)
    return out


def read_runs(path: Path) -> list[Run]:
    """Runs that are on record."""
    return read_records(path, Run)


@app.command()
def run(
    *,
    name: Annotated[str, typer.Option(help="What is tried, for the table.")],
    train: Annotated[list[Path], typer.Option(help="Sample set to train on; repeat to join several.")],
    dev: Annotated[Path, typer.Option(help="Simulated sample set to score.")],
    out: Annotated[Path, typer.Option(help="JSON lines to add to.")],
    captures: Annotated[Path | None, typer.Option(help="Folder of real captures.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, with commas.")] = "1,2,3",
    sizes: Annotated[str, typer.Option(help="Sizes of captures.")] = "112,112b",
    crop_scales: Annotated[str, typer.Option(help="Crops on which captures are scored.")] = "1.0,1.3",
    options: Annotated[str, typer.Option(help="Options of the student as JSON.")] = "{}",
    keep: Annotated[Path | None, typer.Option(help="Folder for the students' weights.")] = None,
) -> None:
    """Train one student per seed and score it."""
    samples, simulated = joined([SampleSet.load(folder) for folder in train]), SampleSet.load(dev)
    real = read_captures(captures, sizes.split(",")) if captures else []
    done = {(r.name, r.options.seed) for r in read_runs(out)}
    scales = [float(v) for v in crop_scales.split(",")]
    crops = Cutter(captures, real) if captures else None
    for seed in (int(s) for s in seeds.split(",")):
        if (name, seed) in done:
            continue
        try:
            o = msgspec.convert(msgspec.json.decode(options) | {"seed": seed}, StudentOptions)
        except msgspec.MsgspecError as error:
            raise ConfigError(f"--options {options!r}: {error}") from error
        start = time.perf_counter()
        student = train_student(samples, options=o)
        seconds = time.perf_counter() - start
        if keep:
            save_student(student, keep / f"{name.replace(' ', '_')}_{seed}.safetensors", o)
        logits = crop_logits(student, simulated.crops(range(len(simulated)), o.scoring_spec()))
        found: list[RealResult] = []
        if crops is not None and real:
            for scale in scales:
                seen = crops(InputSpec(size_px=o.size_px, crop_scale=scale))
                found += summarise(real, crop_logits(student, seen), scale)
        record = Run(
            name=name,
            options=o,
            train=" + ".join(folder.name for folder in train),
            n_train=len(samples),
            seconds=round(seconds, 1),
            dev_auc=round(auc(logits, simulated.labels) or 0.0, 4),
            dev_by_species=by_species(simulated, logits),
            real=tuple(found),
        )
        add_record(out, record)
        print(_line(record))


def _line(record: Run) -> str:
    real = ", ".join(
        f"{r.size}@{r.crop_scale:g} {np.mean(r.per_source):.3f} (frames {r.clip_frames:.2f})"
        for r in record.real
        if r.per_source and r.clip_frames is not None
    )
    return f"{record.name}, seed {record.options.seed}, {record.seconds:.0f} s: dev {record.dev_auc:.3f}; {real}"


def spread(values: Sequence[float]) -> str:
    """Mean and, from two values on, the lowest and the highest."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{np.mean(values):.3f} ({min(values):.2f} to {max(values):.2f})"


def rows(runs: Sequence[Run], sizes: Sequence[str]) -> list[list[str]]:
    """Cells of the table: a row per name and crop scale, the mean over seeds (lowest to highest)."""
    groups: dict[tuple[str, float], list[Run]] = defaultdict(list)
    for r in runs:
        for scale in dict.fromkeys(x.crop_scale for x in r.real):
            groups[r.name, scale].append(r)
    out = []
    for (name, scale), group in groups.items():
        cells = [name, f"{scale:g}", str(len(group)), spread([r.dev_auc for r in group])]
        for size in sizes:
            found = [x for r in group for x in r.real if x.size == size and x.crop_scale == scale]
            cells.append(spread([float(np.mean(x.per_source)) for x in found if x.per_source]))
        last = [x for r in group for x in r.real if x.size == sizes[-1] and x.crop_scale == scale]
        cells.append(spread([x.clip_frames for x in last if x.clip_frames is not None]))
        cells.append(spread([x.clips for x in last if x.clips is not None]))
        out.append(cells)
    return out


def heads(sizes: Sequence[str]) -> list[str]:
    """Column heads of :func:`rows`."""
    return ["what", "crop", "seeds", "simulated dev AUC", *(f"real, {s}" for s in sizes), "clip frames", "clips"]


@app.command()
def table(
    results: Annotated[Path, typer.Argument(help="JSON lines of `run`.")],
    sizes: Annotated[str, typer.Option(help="Sizes of captures.")] = "112,112b",
    *,
    markdown: Annotated[bool, typer.Option(help="Print Markdown.")] = False,
) -> None:
    """Show the mean over seeds (lowest to highest): real = mean over sources of the AUC within a source."""
    names = sizes.split(",")
    show(heads(names), rows(read_runs(results), names), markdown=markdown)


def show(top: Sequence[str], cells: Sequence[Sequence[str]], *, markdown: bool) -> None:
    """Print a table, for the eye or for a page."""
    if markdown:
        for line in (top, ["---"] * len(top), *cells):
            print("| " + " | ".join(line) + " |")
        return
    shown = Table(*top)
    for line in cells:
        shown.add_row(*line)
    Console().print(shown)


if __name__ == "__main__":
    app()
