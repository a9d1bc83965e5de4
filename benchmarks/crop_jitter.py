"""How often a decision depends on where exactly the face was found.

    python -m benchmarks.crop_jitter sets/test --model a-deeppixbis --model edge-rgb
    python -m benchmarks.crop_jitter CAPTURES --size 112b --model edge-rgb

Every picture is cut at its reference box and, several times, at a box moved and resized as an uncertain finder would do
it (by default 6 % of its side to either side, 12 % in size). A *flip* is a moved crop whose decision is not that of the
reference crop, at a threshold of the model's card. The INT8 file is scored in OpenVINO, or where there is none in the
engine that the SDK would choose. With ``--views 2`` or ``4`` the score is the mean over so many crops round the box,
every second of them mirrored: what steadiness can be bought for twice or four times the time.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.progress import track

from benchmarks.real_captures import read_capture
from benchmarks.transfer import show
from fasedge.backends import Backend, open_backend
from fasedge.cards import find_model, load_card, verified_model_path
from fasedge.engine_choice import choose_engine
from fasedge.geometry import box_from_xywh
from fasedge.preprocess import InputSpec, crop_face
from fasedge.types import Box, FloatArray, UInt8Array
from quantize.pictures import feed, pictures, usable_part
from training.data.samples import CropJitter, SampleSet, jittered
from training.errors import DataError

_BATCH = 32
#: Labels, scores of the reference crops (n,) and of moved ones (n, k).
Scores = tuple[Sequence[int], FloatArray, FloatArray]
#: Crops that are averaged: how far each is moved to the right and down, in sides of the box.
_VIEWS: Mapping[int, Sequence[tuple[float, float]]] = {
    1: ((0.0, 0.0),),
    2: ((-0.02, -0.02), (0.02, 0.02)),
    4: ((-0.04, -0.04), (0.04, 0.04), (-0.04, 0.04), (0.04, -0.04)),
}


@dataclass(frozen=True, slots=True)
class Flips:
    """What moved boxes did to the decisions at one threshold.

    Attributes:
        share: Moved crops whose decision differs from that of the reference crop, in [0, 1].
        of_bona_fide: The same of bona fide presentations alone.
        of_attacks: The same of attacks alone.
        any_of: Pictures with at least one such crop, in [0, 1].
    """

    share: float
    of_bona_fide: float
    of_attacks: float
    any_of: float


def count_flips(reference: FloatArray, moved: FloatArray, labels: Sequence[int], threshold: float) -> Flips:
    """Compare decisions.

    Args:
        reference: Scores of the reference crops, (n,).
        moved: Scores of moved crops, (n, k).
        labels: 1 bona fide, 0 attack; both must be there.
        threshold: ``score >= threshold`` is bona fide.

    Raises:
        DataError: The shapes do not fit, or a class is missing.
    """
    truth = np.asarray(labels)
    if moved.ndim != 2 or not len(reference) == len(moved) == len(truth) or set(truth.tolist()) != {0, 1}:
        raise DataError(
            f"flips need scores (n,), scores (n, k) and n labels of both classes, got {reference.shape}, {moved.shape} "
            f"and {len(truth)} labels"
        )
    flipped = (moved >= threshold) != (reference >= threshold)[:, None]
    return Flips(
        share=float(flipped.mean()),
        of_bona_fide=float(flipped[truth == 1].mean()),
        of_attacks=float(flipped[truth == 0].mean()),
        any_of=float(flipped.any(axis=1).mean()),
    )


def jittered_scores(
    samples: SampleSet,
    backend: Backend,
    spec: InputSpec,
    *,
    depth: bool,
    jitter: CropJitter,
    times: int,
    seed: int,
    views: int = 1,
) -> tuple[FloatArray, FloatArray]:
    """Scores of the reference crops, (n,), and of moved ones, (n, times); depth moves with colour.

    Raises:
        DataError: So many views are not known.
    """
    if views not in _VIEWS:
        raise DataError(f"views must be one of {', '.join(map(str, _VIEWS))}, got {views}")
    rng = np.random.default_rng(seed)

    def scores(part: Sequence[int], boxes: Sequence[Box]) -> FloatArray:
        said = []
        for number, (right, down) in enumerate(_VIEWS[views]):
            shown = pictures(samples, part, spec, depth=depth, boxes=[_shifted(box, right, down) for box in boxes])
            said.append(_scores(backend, shown[:, :, ::-1] if number % 2 else shown))
        return np.asarray(np.mean(said, axis=0), np.float32)

    reference, moved = np.empty(len(samples), np.float32), np.empty((len(samples), times), np.float32)
    for first in track(range(0, len(samples), _BATCH), description="scoring", transient=True):
        part = range(first, min(first + _BATCH, len(samples)))
        chosen = slice(first, part.stop)
        reference[chosen] = scores(part, samples.boxes(part))
        for turn in range(times):
            boxes = samples.boxes(part, jitter=jitter, rng=rng)
            moved[chosen, turn] = scores(part, boxes)
    return reference, moved


def capture_scores(
    captures: Sequence[tuple[Path, Box]],
    backend: Backend,
    spec: InputSpec,
    *,
    jitter: CropJitter,
    times: int,
    seed: int,
) -> tuple[FloatArray, FloatArray]:
    """The same of real captures, each with its reference box."""
    rng = np.random.default_rng(seed)
    reference, moved = np.empty(len(captures), np.float32), np.empty((len(captures), times), np.float32)
    for k, (path, box) in enumerate(track(captures, description="scoring", transient=True)):
        picture = read_capture(path)
        boxes = [box, *(jittered(box, jitter, rng) for _ in range(times))]
        reference[k], *moved[k] = _scores(backend, np.stack([crop_face(picture, b, spec) for b in boxes]))
    return reference, moved


def read_captures(folder: Path, size: str, kind: str) -> tuple[list[tuple[Path, Box]], list[int]]:
    """Captures that have a reference box, and their labels.

    Raises:
        DataError: There are none of that size and kind.
    """
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        rows = [r for r in csv.DictReader(stream) if (r["size"], r["kind"]) == (size, kind) and r["x"]]
    if not rows:
        raise DataError(f"{folder} has no captures of the size {size!r} and the kind {kind!r} with a box")
    boxes = [box_from_xywh(*(float(row[c]) for c in "xywh")) for row in rows]
    return [(folder / r["file"], box) for r, box in zip(rows, boxes, strict=True)], [r["label"] == "live" for r in rows]


def _shifted(box: Box, right: float, down: float) -> Box:
    x, y = right * box.width, down * box.height
    return Box(box.x1 + x, box.y1 + y, box.x2 + x, box.y2 + y)


def _scores(backend: Backend, shown: UInt8Array) -> FloatArray:
    return np.asarray(backend.infer(feed(np.ascontiguousarray(shown)))["score"], np.float32).reshape(len(shown))


def flips_of(
    model: str, scored: Callable[[Backend, InputSpec, bool], Scores]
) -> tuple[Mapping[str, tuple[float, Flips]], float]:
    """Flips of a published model.

    Args:
        model: Its id or folder.
        scored: Gives labels, scores of the reference crops and those of moved ones, from an engine, the input that it
            wants and whether it looks at depth.

    Returns:
        Operating point to its threshold and its flips; and the standard deviation of the score over the moved crops of
        a picture.
    """
    folder = find_model(model)
    card = load_card(folder)
    item = choose_engine(card, "auto", "int8")
    path = verified_model_path(folder, item)
    seen = tuple(i.modality for i in card.inputs)
    with closing(open_backend(item.engine, path, names=item.tensor_names())) as backend:
        labels, reference, moved = scored(backend, card.input_spec(), "depth" in seen)
    points = {p.name: p.threshold for p in card.operating_points if (p.precision, p.modalities) == ("int8", seen)}
    found = {name: (value, count_flips(reference, moved, labels, value)) for name, value in points.items()}
    return found, float(np.sqrt(moved.var(axis=1, ddof=1).mean()))


def main(
    samples: Annotated[Path, typer.Argument(help="Sample set, not of the train split; or real captures.")],
    *,
    model: Annotated[list[str], typer.Option("--model", "-m", help="Models or their folders.")],
    shift: Annotated[float, typer.Option(min=0, help="Largest shift, share of the box's side.")] = CropJitter().shift,
    scale: Annotated[float, typer.Option(min=0, help="Largest relative change of the side.")] = CropJitter().scale,
    times: Annotated[int, typer.Option(min=2, help="Moved crops of each picture.")] = 4,
    views: Annotated[int, typer.Option(help="Crops that are averaged to a score: 1, 2 or 4.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the moves.")] = 0,
    size: Annotated[str, typer.Option(help="Real captures of this size of their manifest.")] = "",
    kind: Annotated[str, typer.Option(help="And of this kind: crop or clip_frame.")] = "crop",
    markdown: Annotated[bool, typer.Option(help="Print Markdown.")] = False,
) -> None:
    """Print a row per model and operating point."""
    jitter = CropJitter(shift, scale)
    if size:
        if views > 1:
            raise DataError("the crops of real captures are not averaged; leave --views out")
        captures, living = read_captures(samples, size, kind)

        def scored(backend: Backend, spec: InputSpec, depth: bool) -> Scores:
            return living, *capture_scores(captures, backend, spec, jitter=jitter, times=times, seed=seed)

    else:
        held_out = SampleSet.load(samples)
        if held_out.info.split == "train":
            raise DataError("flips are counted on held-out pictures, got a set of the train split")

        def scored(backend: Backend, spec: InputSpec, depth: bool) -> Scores:
            part = usable_part(held_out, depth=depth)
            found = jittered_scores(
                part, backend, spec, depth=depth, jitter=jitter, times=times, seed=seed, views=views
            )
            return part.labels.tolist(), *found

    rows = []
    for name in model:
        found, deviation = flips_of(name, scored)
        rows += [
            [name, point, f"{threshold:.3f}", *(f"{100 * value:.2f} %" for value in (
                flips.share, flips.of_bona_fide, flips.of_attacks, flips.any_of)), f"{deviation:.4f}"]
            for point, (threshold, flips) in found.items()
        ]  # fmt: skip
    head = ["model", "operating point", "threshold", "flips", "of bona fide", "of attacks",
            f"pictures with any of {times}", "deviation of the score"]  # fmt: skip
    show(head, rows, markdown=markdown)


if __name__ == "__main__":
    typer.run(main)
