"""``python -m quantize full``: a network of full size for all engines, in FP32 and INT8."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from quantize.calibrate import DEFAULT_CROPS, calibration_crops
from quantize.errors import ParityError
from quantize.facts import as_scored
from quantize.full import export_full, load_full
from quantize.options import CropsOption, DevOption, FolderOption, PointOption, TestOption, TrainOption
from quantize.parity import Limits, Presentations, excesses, measure, reference_scores, write_parity
from quantize.pictures import pictures, usable_part
from quantize.points import DEFAULT_POINT, check_point
from training.data.samples import SampleSet
from training.evaluate import thresholds


def full(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of `python -m training fit`.")],
    *,
    train: TrainOption,
    dev: DevOption,
    test: TestOption,
    out: FolderOption,
    crops: CropsOption = DEFAULT_CROPS,
    default_point: PointOption = DEFAULT_POINT,
    equalise: Annotated[
        bool, typer.Option("--equalise", help="Bring channels behind ReLUs nearer to one range first; helps RFMeta.")
    ] = False,
) -> None:
    """Write a network of full size for all engines and compare INT8 with full precision; nothing is published.

    Each engine's own quantiser chooses the ranges. The threshold of the comparison is that of the default operating
    point on the dev set. Files and parity.json stay in the folder also when a figure exceeds what models that are
    published may have; the exit code is 3 then.
    """
    check_point(default_point)
    model, config = load_full(checkpoint)
    spec, depth, console = config.input.spec(), model.sees_depth, Console(width=160)
    sets = {
        name: usable_part(SampleSet.load(path), depth=depth)
        for name, path in (("train", train), ("dev", dev), ("test", test))
    }
    if sets["test"].info.split == "train":
        raise ParityError("parity is measured on held-out samples, got a set of the train split")
    if sets["dev"].info.split != "dev":
        raise ParityError(f"the threshold is chosen on the dev split, got {sets['dev'].info.split!r}")
    calibration = calibration_crops(sets["train"], spec, crops, depth=depth)
    shown = {
        name: pictures(samples, range(len(samples)), spec, depth=depth)
        for name, samples in sets.items()
        if name != "train"
    }
    reference = {name: reference_scores(model, some) for name, some in shown.items()}
    threshold = float(thresholds(as_scored(sets["dev"], reference["dev"]), [default_point])[default_point].value)
    species = [row.species for row in sets["test"].table]
    data = Presentations(shown["test"], sets["test"].labels, species, threshold)
    report = measure(export_full(model, out, spec.size_px, calibration, equalised=equalise), reference["test"], data)
    console.print(report.table())
    console.print(f"threshold of {default_point}: {threshold:.4f}; {write_parity(out, report)}")
    # Two engines have two quantisers here: what each differs from full precision is what counts.
    beyond = [line for result in report.results for line in excesses(result, Limits())]
    if beyond:
        raise ParityError(
            f"{'; '.join(beyond)}. The files are written; whether that is near enough is for whoever uses them to say"
        )
