"""What an attacker gains by holes in depth: a rim from which nothing returns hides that a face is flat.

    python -m benchmarks.depth_holes sets/test --model edge-rgbd

A black or glossy border round a print swallows the light of a depth camera. Here all depth outside a disc round the
middle of the face is taken away, of attacks and of living people alike, and the whole detector judges what is left,
with its own rules about how much of a face must have depth. Boxes are those of the set; quality gates are off. The INT8
file is scored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.progress import track

from benchmarks.depth_portraits import Known
from benchmarks.transfer import show
from fasedge.backends import open_backend
from fasedge.cards import find_model, load_card, verified_model_path
from fasedge.detector import Detector
from fasedge.engine_choice import choose_engine
from fasedge.types import Box, Decision, Frame, UInt16Array
from training.data.samples import SampleSet
from training.data.simulate.species import BONA_FIDE

_FLAT = ("print", "replay")
_RADII = "0,0.5,0.46,0.42,0.38"


def rimmed(depth_mm: UInt16Array, box: Box, radius: float) -> UInt16Array:
    """Depth inside a disc alone.

    Args:
        depth_mm: uint16 (H, W), millimetres; not changed.
        box: The face.
        radius: Of the disc, in box widths; 0 leaves everything.
    """
    if not radius:
        return depth_mm
    (cx, cy), (height, width) = box.center, depth_mm.shape
    x = (np.arange(width) + 0.5 - cx)[None, :] / box.width
    y = (np.arange(height) + 0.5 - cy)[:, None] / box.width
    return np.where(x**2 + y**2 <= radius**2, depth_mm, 0).astype(np.uint16)


def decisions(
    detector: Detector, finder: Known, samples: SampleSet, chosen: Sequence[int], radius: float
) -> Counter[Decision]:
    """How often which decision."""
    found: Counter[Decision] = Counter()
    for index in track(chosen, description=f"radius {radius:g}", transient=True):
        box = Box(*samples.table[index].box_xyxy)
        finder.box_xyxy = box.xyxy
        frame = Frame(rgb=samples.picture(index), depth_mm=rimmed(samples.depth_mm(index), box, radius))
        found[detector.detect(frame).decision] += 1
    return found


def main(
    samples: Annotated[Path, typer.Argument(help="Sample set with depth, not of the train split.")],
    *,
    model: Annotated[str, typer.Option(help="Model id or folder.")] = "edge-rgbd",
    radii: Annotated[str, typer.Option(help="Radii of the disc in box widths, with commas; 0: no hole.")] = _RADII,
    n: Annotated[int, typer.Option(help="Presentations of each kind.")] = 300,
    operating_point: Annotated[str | None, typer.Option(help="Default: the model's.")] = None,
    markdown: Annotated[bool, typer.Option(help="Print Markdown.")] = False,
) -> None:
    """Print a row per radius."""
    held_out, folder = SampleSet.load(samples), find_model(model)
    card = load_card(folder)
    file = choose_engine(card, "auto", "int8")
    kinds = {
        "prints and screens": [i for i, row in enumerate(held_out.table) if row.species in _FLAT][:n],
        "living people": [i for i, row in enumerate(held_out.table) if row.species == BONA_FIDE][:n],
    }
    finder = Known((0.0, 0.0, 1.0, 1.0))
    rows = []
    backend = open_backend(file.engine, verified_model_path(folder, file), names=file.tensor_names())
    with Detector.from_parts(backend, finder, card, operating_point=operating_point, quality=None) as detector:
        for radius in (float(r) for r in radii.split(",")):
            cells = []
            for chosen in kinds.values():
                counts = decisions(detector, finder, held_out, chosen, radius)
                cells += [f"{100 * counts[d] / len(chosen):.1f} %" for d in (Decision.BONA_FIDE, Decision.NON_RESPONSE)]
            rows.append([f"{radius:g}" if radius else "no hole", *cells])
    head = ["radius", *(f"{kind}: {what}" for kind in kinds for what in ("accepted", "not checked"))]
    show(head, rows, markdown=markdown)


if __name__ == "__main__":
    typer.run(main)
