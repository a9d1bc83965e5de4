"""Scores a folder of real captures, for evaluation elsewhere.

The folder holds ``manifest.csv`` with the columns ``file, x, y, w, h`` (reference face box in pixels, empty where there
is none) and, optionally, ``size``. Captures without a licence stay where they are: only the scores leave.

    python -m benchmarks.real_captures --set DIR --out scores.csv --model a-deeppixbis
    python -m benchmarks.real_captures --set DIR --out scores.csv --checkpoint runs/student/best.safetensors

With ``--boxes reference`` the crop is cut round the manifest's box, so that a finder's misses do not hide behind the
model's; with ``--boxes finder`` the whole detector runs, quality gates as warnings, and a frame without a face is an
empty score: a non-response.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from rich.progress import track

import fasedge
from fasedge.backends import open_backend
from fasedge.cards import DEFAULT_MODEL, find_model, load_card, verified_model_path
from fasedge.engine_choice import choose_engine
from fasedge.errors import SourceError
from fasedge.geometry import box_from_xywh
from fasedge.preprocess import InputSpec, crop_face
from fasedge.types import Frame, UInt8Array

Scorer = Callable[[UInt8Array], float]


def read_capture(path: Path) -> UInt8Array:
    """Read a picture, uint8 (H, W, 3), red first.

    Raises:
        SourceError: OpenCV cannot decode it.
    """
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise SourceError(f"{path} is not a picture that OpenCV can decode")
    return np.ascontiguousarray(bgr[..., ::-1]).astype(np.uint8, copy=False)


def _artefact(model: str, engine: str, precision: str) -> tuple[Scorer, InputSpec]:
    folder = find_model(model)
    card = load_card(folder)
    item = choose_engine(card, engine, precision)
    backend = open_backend(item.engine, verified_model_path(folder, item), names=item.tensor_names())
    return lambda crop: float(backend.infer({"rgb": crop[None]})["score"].reshape(-1)[0]), card.input_spec()


def _checkpoint(path: Path) -> tuple[Scorer, InputSpec]:
    import torch

    from quantize.distill import load_task

    task, config = load_task(path)

    def score(crop: UInt8Array) -> float:
        with torch.inference_mode():
            return float(task.score(torch.from_numpy(crop[None]))[0])

    return score, config.input.spec()


def _reference_scores(folder: Path, rows: list[dict[str, str]], score: Scorer, spec: InputSpec) -> Iterator[str]:
    for row in track(rows, description="scoring"):
        if not row["x"]:
            yield ""
            continue
        box = box_from_xywh(*(float(row[c]) for c in "xywh"))
        yield f"{score(crop_face(read_capture(folder / row['file']), box, spec)):.6f}"


def _detector_scores(
    folder: Path, rows: list[dict[str, str]], model: str, engine: str, precision: str
) -> Iterator[str]:
    with fasedge.Detector(model, engine=engine, precision=precision, on_quality="warn") as detector:
        for row in track(rows, description="scoring"):
            found = detector.detect(Frame(rgb=read_capture(folder / row["file"]))).results
            score = found[0].score if found else None
            yield "" if score is None else f"{score:.6f}"


def main(
    *,
    captures: Annotated[Path, typer.Option("--set", help="Folder with manifest.csv.")],
    out: Annotated[Path, typer.Option(help="CSV to write: file, score.")],
    model: Annotated[str, typer.Option(help="Model id or folder.")] = DEFAULT_MODEL,
    engine: Annotated[str, typer.Option()] = "auto",
    precision: Annotated[str, typer.Option()] = "int8",
    checkpoint: Annotated[Path | None, typer.Option(help="Full-precision checkpoint instead of a model.")] = None,
    boxes: Annotated[str, typer.Option(help="reference or finder.")] = "reference",
    sizes: Annotated[list[str] | None, typer.Option("--size", help="Only these sizes of the manifest.")] = None,
) -> None:
    """Score every capture."""
    with (captures / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        rows = [r for r in csv.DictReader(stream) if not sizes or r.get("size") in sizes]
    if boxes == "finder":
        scores = _detector_scores(captures, rows, model, engine, precision)
    else:
        score, spec = _checkpoint(checkpoint) if checkpoint else _artefact(model, engine, precision)
        scores = _reference_scores(captures, rows, score, spec)
    with out.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "score"])
        writer.writerows(zip((r["file"] for r in rows), scores, strict=True))


if __name__ == "__main__":
    typer.run(main)
