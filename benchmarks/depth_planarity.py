"""How flat faces are: residuals of a plane and of a quadric over the face box, simulated and real.

python -m benchmarks.depth_planarity --data PACK --cache FOLDER --out planarity.json
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from sklearn.metrics import roc_auc_score

from benchmarks.depth_sets import DepthItem, crop_mm, real_portraits, simulated
from training.data.simulate.species import BONA_FIDE
from training.data.work import make_simulator

#: Side of the grid over the middle of the face box.
_GRID = 48
#: Part of the face box that is looked at: corners of the box are not face.
_INNER = 0.7
FITS = ("plane", "quadric")


def residual(item: DepthItem, fit: str) -> float:
    """Root mean square distance in millimetres between a face and the best plane or quadric through it.

    The tenth of the points that fit worst is left out: hair, edges, holes.

    Args:
        item: The depth map.
        fit: ``plane`` (3 terms) or ``quadric`` (6 terms).

    Returns:
        Millimetres; NaN where fewer than a fifth of the points return.
    """
    z = crop_mm(item, _INNER, _GRID)
    v, u = (np.mgrid[:_GRID, :_GRID] + 0.5) / _GRID * 2 - 1
    there = z > 0
    if there.mean() < 0.2:
        return float("nan")
    terms = [np.ones_like(u), u, v]
    if fit == "quadric":
        terms += [u * u, u * v, v * v]
    design, values = np.stack(terms, -1)[there], z[there].astype(np.float64)
    keep = np.ones(len(values), bool)
    for _ in range(4):
        weights, *_ = np.linalg.lstsq(design[keep], values[keep], rcond=None)
        off = np.abs(design @ weights - values)
        keep = off <= np.quantile(off, 0.9)
    return float(np.sqrt((off[keep] ** 2).mean()))


def summary(items: Iterable[DepthItem], real: Iterable[DepthItem]) -> dict[str, object]:
    """AUC of each residual per species and sub-type against bona fide, quantiles, values of the real portraits."""
    values: dict[str, dict[str, list[float]]] = {fit: defaultdict(list) for fit in FITS}
    for item in items:
        for fit in FITS:
            values[fit][item.name].append(residual(item, fit))
            if item.name != BONA_FIDE:
                values[fit][f"{item.name}/{item.subtype}"].append(residual(item, fit))
    portraits = list(real)
    return {fit: _of_fit(values[fit]) | {"real": {p.name: residual(p, fit) for p in portraits}} for fit in FITS}


def _of_fit(values: dict[str, list[float]]) -> dict[str, object]:
    # What does not return is no face.
    known = {name: np.nan_to_num(np.array(found), nan=0.0) for name, found in values.items()}
    living = known[BONA_FIDE]
    out: dict[str, object] = {}
    for name, found in sorted(known.items()):
        low, middle, high = (round(float(q), 2) for q in np.quantile(found, (0.05, 0.5, 0.95)))
        auc = None
        if name != BONA_FIDE:
            labels = np.r_[np.ones(len(living)), np.zeros(len(found))]
            auc = round(float(roc_auc_score(labels, np.r_[living, found])), 3)
        out[name] = {"n": len(found), "mm_5_50_95": [low, middle, high], "auc": auc}
    out["bona_fide_range"] = [round(float(living.min()), 2), round(float(living.max()), 2)]
    return out


def main(
    data: Annotated[Path, typer.Option(help="Folder of the face pack.", envvar="FASEDGE_DATA")],
    cache: Annotated[Path, typer.Option(help="Folder for tiles and meshes.")],
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    n: Annotated[int, typer.Option(help="Samples.")] = 300,
    seed: Annotated[int, typer.Option(help="Seed of the set.")] = 17,
) -> None:
    """Measure how well residuals of a plane and of a quadric tell faces from attacks."""
    simulator = make_simulator(data, cache, "dev", seed, depth=True)
    text = json.dumps(summary(simulated(simulator, range(n), 192), real_portraits(data)), indent=1)
    if out is not None:
        out.write_text(text, encoding="utf-8")
    typer.echo(text)


if __name__ == "__main__":
    typer.run(main)
