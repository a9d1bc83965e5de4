"""Which network for the edge: what candidates cost, and what they are worth on simulated and on real captures.

    python -m benchmarks.candidates score runs/edge/best.safetensors --name "plain_m, diverse" --captures DIR \
        --dev sets/dev --out candidates.jsonl --sides 96,112,128
    python -m benchmarks.edge_latency --only plain_m@96 --only plain_m@112 … --out latency.json
    python -m benchmarks.candidates table candidates.jsonl latency.json --markdown
    python -m benchmarks.candidates plot candidates.jsonl latency.json --out docs/images/candidates.png

A candidate is a checkpoint and a side of its input: networks without dense layers answer to pictures of any side.
Accuracy is that of the checkpoint at full precision, latency and size are those of its trunk at INT8 in OpenVINO with
random weights. On the *front* are the candidates that no other beats in latency and in the AUC on real crops at once.
As in ``benchmarks.transfer``, only aggregates over the captures leave.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import torch
import typer
from numpy.typing import NDArray

from benchmarks.crop_jitter import count_flips
from benchmarks.edge_latency import YARDSTICK, Timed
from benchmarks.records import add_record, read_records
from benchmarks.transfer import Cutter, RealResult, auc, read_captures, show, summarise
from fasedge import metrics
from fasedge.preprocess import InputSpec
from fasedge.types import UInt8Array
from quantize.distill import load_task
from training.data.samples import CropJitter, SampleSet
from training.errors import ConfigError

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
_BATCH = 64
_SIZES = ("112", "112b")


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkpoint is worth at one side of its input.

    Attributes:
        name: How it is called in table and plot.
        trunk: Its trunk.
        size_px: Side of the input.
        crop_scale: Side of the crop over the side of the face box.
        dev_auc: On a simulated set.
        flips: Decisions that change when the crop moves (6 % of the box's side, 12 % in size), in [0, 1], there, at the
            threshold of equal errors.
        real: On real captures.
    """

    name: str
    trunk: str
    size_px: int
    crop_scale: float
    dev_auc: float
    flips: float
    real: tuple[RealResult, ...]

    @property
    def network(self) -> str:
        """As ``benchmarks.edge_latency`` names it."""
        return f"{self.trunk}@{self.size_px}"

    def crops(self, size: str) -> float:
        """Mean over sources of the AUC within a source.

        Raises:
            ConfigError: There are no captures of that size, or no source among them has both classes.
        """
        found = self.of(size).per_source
        if not found:
            raise ConfigError(f"{self.name}: no source of the captures of the size {size} has both classes")
        return float(np.mean(found))

    def of(self, size: str) -> RealResult:
        """Results on captures of one size.

        Raises:
            ConfigError: There are none.
        """
        for result in self.real:
            if result.size == size:
                return result
        raise ConfigError(f"{self.name} was not scored on captures of the size {size}")


def logits_of(score: Callable[[torch.Tensor], torch.Tensor], crops: UInt8Array) -> NDArray[np.float64]:
    """Logits of the scores of crops, (n,); scores are kept a millionth off 0 and 1."""
    with torch.inference_mode():
        parts = [score(torch.from_numpy(crops[i : i + _BATCH])).double() for i in range(0, len(crops), _BATCH)]
    return np.asarray(torch.logit(torch.cat(parts), eps=1e-6).numpy(), np.float64)


def judge(
    checkpoint: Path, name: str, dev: SampleSet, crops: Cutter, *, side: int | None = None, crop: float | None = None
) -> Candidate:
    """Score a checkpoint.

    Args:
        checkpoint: Method, student or rounded student.
        name: For the table.
        dev: Simulated set, not of the train split.
        crops: Of the real captures.
        side: Of the input; ``None`` for that of its training.
        crop: Side of the crop over that of the face box; ``None`` likewise.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    task, config = load_task(checkpoint)
    task.module.eval()
    spec = InputSpec(size_px=side or config.input.size_px, crop_scale=crop or config.input.crop_scale)
    everything = range(len(dev))
    still = logits_of(task.score, dev.crops(everything, spec))
    jittered = dev.crops(everything, spec, jitter=CropJitter(), rng=np.random.default_rng(0))
    reference, moved = (1 / (1 + np.exp(-z)) for z in (still, logits_of(task.score, jittered)))
    threshold = float(metrics.eer(reference, dev.labels).threshold)
    flips = count_flips(reference.astype(np.float32), moved.astype(np.float32)[:, None], dev.labels.tolist(), threshold)
    real = summarise(crops.captures, logits_of(task.score, crops(spec)), spec.crop_scale)
    return Candidate(
        name=name, trunk=config.method.trunk, size_px=spec.size_px, crop_scale=spec.crop_scale,
        dev_auc=round(auc(still, dev.labels) or 0.0, 4), flips=round(flips.share, 4), real=tuple(real),
    )  # fmt: skip


def parse_sides(text: str) -> list[int]:
    """Read ``96,112``; nothing of an empty text.

    Raises:
        ConfigError: A side is not a positive multiple of 16.
    """
    found = [int(v) if v.strip().isdecimal() else 0 for v in text.split(",")] if text else []
    if not all(side > 0 and side % 16 == 0 for side in found):
        raise ConfigError(f"expected sides of the input, multiples of 16 with commas between them, got {text!r}")
    return found


def read_candidates(path: Path) -> list[Candidate]:
    """Candidates that are on record."""
    return read_records(path, Candidate)


def read_latencies(path: Path) -> dict[str, Timed]:
    """What ``benchmarks.edge_latency --out`` wrote: network to its INT8 file in OpenVINO.

    Raises:
        ConfigError: It is malformed, or has no such file.
    """
    try:
        timed = msgspec.json.decode(path.read_bytes(), type=list[Timed])
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"{path} is not what benchmarks.edge_latency writes: {error}") from error
    found = {t.name: t for t in timed if (t.engine, t.precision) == ("openvino", "int8")}
    if not found:
        raise ConfigError(f"{path} has no INT8 file in OpenVINO")
    return found


def front(cost: Sequence[float], worth: Sequence[float]) -> list[int]:
    """Positions of those that nobody beats: none is at most as dear and worth more, or cheaper and worth as much."""
    pairs = list(zip(cost, worth, strict=True))
    return [
        i
        for i, (c, w) in enumerate(pairs)
        if not any((other <= c and value > w) or (other < c and value >= w) for other, value in pairs)
    ]


@app.command()
def score(
    checkpoint: Annotated[Path, typer.Argument(help="Method, student or rounded student.")],
    *,
    name: Annotated[str, typer.Option(help="For the table; one that is there already is not scored again.")],
    captures: Annotated[Path, typer.Option(help="Folder of real captures.")],
    dev: Annotated[Path, typer.Option(help="Simulated sample set, not of the train split.")],
    out: Annotated[Path, typer.Option(help="JSON lines to add to.")],
    sides: Annotated[str, typer.Option(help="Sides of the input, with commas; default: that of the training.")] = "",
    crop_scale: Annotated[
        float | None, typer.Option(min=0.1, help="Side of the crop over that of the face box; default: the training's.")
    ] = None,
) -> None:
    """Score a checkpoint at one or several sides of its input."""
    simulated = SampleSet.load(dev)
    if simulated.info.split == "train":
        raise ConfigError("candidates are compared on held-out people, got a set of the train split")
    crops = Cutter(captures, read_captures(captures, _SIZES))
    for side in parse_sides(sides) or [load_task(checkpoint)[1].input.size_px]:
        if any((c.name, c.size_px) == (name, side) for c in read_candidates(out)):
            continue
        record = judge(checkpoint, name, simulated, crops, side=side, crop=crop_scale)
        add_record(out, record)
        print(f"{name}, {record.network}: dev {record.dev_auc:.3f}, real {record.crops('112b'):.3f}")


@app.command()
def table(
    results: Annotated[Path, typer.Argument(help="JSON lines of `score`.")],
    latencies: Annotated[Path, typer.Argument(help="JSON of benchmarks.edge_latency.")],
    *,
    markdown: Annotated[bool, typer.Option(help="Print Markdown.")] = False,
) -> None:
    """Show all candidates, the fastest first."""
    timed = read_latencies(latencies)
    found = sorted(read_candidates(results), key=lambda c: _timed(timed, c).ratio)
    best = front([_timed(timed, c).ratio for c in found], [c.crops("112b") for c in found])
    rows = [
        [
            f"**{c.name}**" if i in best else c.name, c.network, f"{_timed(timed, c).ratio:.2f}",
            str(_timed(timed, c).kilobytes), f"{c.dev_auc:.3f}", f"{100 * c.flips:.1f} %",
            f"{c.crops('112'):.3f}", f"{c.crops('112b'):.3f}", *(
                "-" if value is None else f"{value:.2f}" for value in (c.of("112b").clip_frames, c.of("112b").clips)
            ),
        ]
        for i, c in enumerate(found)
    ]  # fmt: skip
    head = ["network", "trunk and side", f"latency / {YARDSTICK}", "kB", "simulated AUC", "flips by crop", "real, 112",
            "real, 112b", "clip frames", "clips"]  # fmt: skip
    show(head, rows, markdown=markdown)


def _timed(timed: dict[str, Timed], candidate: Candidate) -> Timed:
    if candidate.network not in timed:
        raise ConfigError(f"no latency of {candidate.network}; time it with --only {candidate.network}")
    return timed[candidate.network]


@app.command()
def plot(
    results: Annotated[Path, typer.Argument(help="JSON lines of `score`.")],
    latencies: Annotated[Path, typer.Argument(help="JSON of benchmarks.edge_latency.")],
    *,
    out: Annotated[Path, typer.Option(help="PNG to write.")],
) -> None:
    """Draw latency against accuracy on real crops, frames of clips and simulated samples; areas are sizes in kB."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    timed, found = read_latencies(latencies), read_candidates(results)
    cost = [_timed(timed, c).ratio for c in found]
    area = [_timed(timed, c).kilobytes / 3 for c in found]
    figure = Figure(figsize=(13, 5.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels: tuple[tuple[str, list[float | None]], ...] = (
        ("real face crops, 112b: mean AUC within sources", [c.crops("112b") for c in found]),
        ("real clips, 112b: AUC of frames", [c.of("112b").clip_frames for c in found]),
        ("simulated dev set: AUC", [c.dev_auc for c in found]),
    )
    groups = list(dict.fromkeys(c.name for c in found))
    palette = colormaps["tab10" if len(groups) <= 10 else "tab20"]
    for axes, (title, worth) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        known = {i: value for i, value in enumerate(worth) if value is not None}
        for number, group in enumerate(groups):
            chosen = [i for i, c in enumerate(found) if c.name == group and i in known]
            axes.scatter(
                [cost[i] for i in chosen], [known[i] for i in chosen], [area[i] for i in chosen],
                color=palette(number), alpha=0.75, label=group,
            )  # fmt: skip
            for i in chosen:
                axes.annotate(str(found[i].size_px), (cost[i], known[i]), fontsize=7, ha="center", va="center")
        places = list(known)
        best = [places[i] for i in front([cost[i] for i in places], list(known.values()))]
        line = sorted(best, key=lambda i: cost[i])
        axes.plot([cost[i] for i in line], [known[i] for i in line], color="0.4", linewidth=1, zorder=0)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(f"INT8 latency / {YARDSTICK} FP32 (OpenVINO)")
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9, markerscale=0.4)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, metadata={"Software": None})


if __name__ == "__main__":
    app()
