"""What do students see in real captures? Take one property out of all of them and look where the figures fall.

    python -m benchmarks.capture_changes students/tight_1.safetensors students/tight_2.safetensors --captures DIR

Each crop is changed the same way, living people and attacks alike; what a network no longer separates rested on what
was taken away. Students named together are averaged by their figures, not by their logits. Only aggregates leave.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer

from benchmarks.students import crop_logits, load_student
from benchmarks.transfer import Cutter, RealResult, read_captures, show, summarise
from fasedge.preprocess import InputSpec
from fasedge.types import FloatArray, UInt8Array
from training.data.clues import luma
from training.errors import CheckpointError

#: Standard deviation that all crops get when their contrast is made equal.
_CONTRAST = 45.0


def grey(crop: FloatArray) -> FloatArray:
    """No colour: the luma in every channel."""
    return np.repeat(luma(crop), 3, axis=2)


def grey_world(crop: FloatArray) -> FloatArray:
    """No colour cast: all channels get the same mean."""
    means = crop.mean((0, 1))
    return np.asarray(crop * (means.mean() / np.maximum(means, 1.0)), np.float32)


def equal_contrast(crop: FloatArray) -> FloatArray:
    """No difference of contrast between crops: one standard deviation, the means of the channels kept."""
    means = crop.mean((0, 1))
    return np.asarray((crop - means) / max(float(crop.std()), 1.0) * _CONTRAST + means, np.float32)


def colour_alone(crop: FloatArray) -> FloatArray:
    """No light and shade: every pixel gets the mean luma and keeps its differences of colour."""
    shade = luma(crop)
    return np.asarray(crop - shade + shade.mean(), np.float32)


def softened(sigma: float) -> Callable[[FloatArray], FloatArray]:
    """No detail: a Gaussian blur of so many pixels of the network's input."""

    def blur(crop: FloatArray) -> FloatArray:
        return np.asarray(cv2.GaussianBlur(crop, (0, 0), sigma), np.float32)

    return blur


CHANGES: Mapping[str, Callable[[FloatArray], FloatArray]] = {
    "as they are": lambda crop: crop,
    "grey": grey,
    "grey world": grey_world,
    "equal contrast": equal_contrast,
    "colour alone": colour_alone,
    "blurred, 1 px": softened(1.0),
    "blurred, 2 px": softened(2.0),
    "blurred, 4 px": softened(4.0),
}


def changed(crops: UInt8Array, change: Callable[[FloatArray], FloatArray]) -> UInt8Array:
    """Change every crop; uint8 (n, S, S, 3), red first, in and out."""
    out = [np.clip(np.rint(change(crop.astype(np.float32))), 0, 255).astype(np.uint8) for crop in crops]
    return np.stack(out)


def main(
    students: Annotated[list[Path], typer.Argument(help="Students of benchmarks.transfer.")],
    *,
    captures: Annotated[Path, typer.Option(help="Folder of real captures.")],
    size: Annotated[str, typer.Option(help="Size of the captures.")] = "112b",
    crop_scale: Annotated[float, typer.Option(help="Side of the crop over the side of the face box.")] = 1.4,
    markdown: Annotated[bool, typer.Option(help="Print Markdown.")] = False,
) -> None:
    """Print a row per change: AUC per source, their mean, and that of the frames of clips."""
    loaded = [load_student(path) for path in students]
    if None in loaded:
        raise CheckpointError(f"{students[loaded.index(None)]} is no student of benchmarks.transfer")
    members = [found for found in loaded if found is not None]
    real = read_captures(captures, [size])
    cut, rows = Cutter(captures, real), []
    for name, change in CHANGES.items():
        results = []
        for student, options in members:
            crops = changed(cut(InputSpec(size_px=options.size_px, crop_scale=crop_scale)), change)
            results += summarise(real, crop_logits(student, crops), crop_scale)
        rows.append([name, *cells(results)])
    show(["captures", "mean of the sources", "per source", "clip frames"], rows, markdown=markdown)


def cells(results: list[RealResult]) -> list[str]:
    """Figures of several students, averaged."""
    per_source = np.mean([r.per_source for r in results], axis=0)
    frames = [r.clip_frames for r in results if r.clip_frames is not None]
    shown = f"{np.mean(frames):.2f}" if frames else "-"
    return [f"{per_source.mean():.3f}", ", ".join(f"{v:.2f}" for v in per_source), shown]


if __name__ == "__main__":
    typer.run(main)
