"""What a model of colour and depth says of the face pack's three real portraits, and of the same with a flat map.

    python -m benchmarks.depth_portraits --model edge-rgbd --data PACK

The portraits were taken with an iPhone's TrueDepth camera. *Flat* puts the median of the map everywhere: what a depth
camera would measure of a print that is held straight. The INT8 file is scored, cut at the reference boxes and
without quality gates (two of the three look up).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer

from benchmarks.depth_sets import REAL_BOXES, real_portraits
from benchmarks.transfer import show
from fasedge.backends import open_backend
from fasedge.cards import find_model, load_card, verified_model_path
from fasedge.detector import Detector
from fasedge.engine_choice import choose_engine
from fasedge.errors import SourceError
from fasedge.faces import FaceFinder
from fasedge.types import Box, Face, Frame, UInt8Array, UInt16Array


class Known:
    """A finder that knows where the face is.

    Args:
        box_xyxy: There; may be changed.
    """

    name = "reference"

    def __init__(self, box_xyxy: tuple[float, float, float, float]) -> None:
        self.box_xyxy = box_xyxy

    def find(self, rgb: UInt8Array) -> tuple[Face, ...]:
        """The face."""
        return (Face(Box(*self.box_xyxy)),)

    def close(self) -> None:
        """Nothing to let go of."""


def colour(data: Path, name: str, shape: tuple[int, ...]) -> UInt8Array:
    """The picture of a portrait at the size of its depth map, uint8 (H, W, 3), red first.

    Raises:
        SourceError: It cannot be read.
    """
    path = data / "rgbd" / f"{name}_rgb.png"
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise SourceError(f"{path} cannot be read; restore the file")
    small = cv2.resize(bgr, (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(small[..., ::-1]).astype(np.uint8)


def scores(detector: Detector, rgb: UInt8Array, depth_mm: UInt16Array) -> tuple[float, float, float]:
    """Scores of both together, of colour and of depth; NaN where a face was not judged."""
    (result,) = detector.detect(Frame(rgb=rgb, depth_mm=depth_mm)).results
    found = (result.score, result.heads.get("rgb"), result.heads.get("depth"))
    a, b, c = (float("nan") if value is None else value for value in found)
    return a, b, c


def main(
    *,
    model: Annotated[str, typer.Option(help="Model id or folder.")] = "edge-rgbd",
    data: Annotated[Path, typer.Option(help="Folder of the face pack.", envvar="FASEDGE_DATA")],
    markdown: Annotated[bool, typer.Option(help="Print Markdown.")] = False,
) -> None:
    """Print a row per portrait."""
    card = load_card(find_model(model))
    limits = {p.name: p.threshold for p in card.operating_points if (p.precision, len(p.modalities)) == ("int8", 2)}
    folder = find_model(model)
    file = choose_engine(card, "auto", "int8")
    rows = []
    for item in real_portraits(data):
        finder: FaceFinder = Known(REAL_BOXES[item.name])
        rgb = colour(data, item.name, item.depth_mm.shape)
        flat = np.full_like(item.depth_mm, np.median(item.depth_mm[item.depth_mm > 0]))
        backend = open_backend(file.engine, verified_model_path(folder, file), names=file.tensor_names())
        with Detector.from_parts(backend, finder, card, quality=None) as detector:
            real, even = scores(detector, rgb, item.depth_mm), scores(detector, rgb, flat)
        accepted = ", ".join(name for name, limit in limits.items() if real[0] >= limit) or "none"
        rows.append([item.name, *(f"{v:.3f}" for v in real), accepted, f"{even[0]:.5f}"])
    show(
        ["portrait", "score", "colour alone", "depth alone", "bona fide at", "score, flat map"], rows, markdown=markdown
    )


if __name__ == "__main__":
    typer.run(main)
