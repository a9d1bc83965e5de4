"""Command line: ``python -m benchmarks.rivals OUT --kind fas-aug|spsc|spsc-sdsc``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, cast, get_args

import typer
from rich.progress import track

from benchmarks.rivals.sets import CHUNK, BonaFide, Kind, Recipe, make_rival_set
from training.data.manifest import Split, data_folder
from training.data.simulate.simulator import PICTURE_PX
from training.program import run_program

app = typer.Typer(add_completion=False)


@app.command()
def main(
    out: Annotated[Path, typer.Argument(help="Folder of the set; tiles are cached beside it.")],
    *,
    kind: Annotated[str, typer.Option(help=f"Method: {', '.join(get_args(Kind))}.")],
    split: Annotated[str, typer.Option(help="Identities: train, dev or test.")] = "train",
    n: Annotated[int, typer.Option("-n", help="Number of samples.")] = 9000,
    seed: Annotated[int, typer.Option(help="Seed of the set; the same seed gives the same set.")] = 411,
    bona_fide: Annotated[str, typer.Option(help=f"Bona fide pictures: {', '.join(get_args(BonaFide))}.")] = "untouched",
    picture_px: Annotated[
        int, typer.Option(help="Side of the pictures; above 228 they are larger and not sharper.")
    ] = PICTURE_PX,
    data: Annotated[Path | None, typer.Option(help="Folder of the face pack; default: $FASEDGE_DATA.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
) -> None:
    """Make a sample set whose attacks come from a rival method, in the format of `python -m training simulate`."""
    recipe = Recipe(
        data=data_folder(data),
        cache=out.parent,
        split=cast(Split, split),
        kind=cast(Kind, kind),
        seed=seed,
        bona_fide=cast(BonaFide, bona_fide),
        picture_px=picture_px,
    )
    steps = make_rival_set(recipe, out, n, workers=workers)
    for _ in track(steps, description=f"{kind} {split}", total=-(-n // CHUNK)):
        pass


if __name__ == "__main__":
    sys.exit(run_program(app))
