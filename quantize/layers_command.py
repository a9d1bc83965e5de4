"""``python -m quantize layers``: which convolution costs what at INT8."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from fasedge.types import UInt8Array
from quantize.calibrate import DEFAULT_CROPS, calibration_crops
from quantize.equalise import equalise
from quantize.export import AnyStudent, is_student, load_trained
from quantize.full import FullNetwork, load_full
from quantize.layers import LayerReport, Layers, measure_layers, write_layers
from quantize.options import CropsOption, DevOption, TrainOption
from quantize.pictures import parts, pictures, usable_part
from quantize.platt import fit_platt
from quantize.rgbd import RgbdStudent
from quantize.rounded import UNCALIBRATED
from quantize.students import ExportModel
from training.checkpoint import load_checkpoint
from training.config import TrainConfig
from training.data.samples import SampleSet

_BATCH = 32


def layers(
    checkpoint: Annotated[
        Path, typer.Argument(help="Student that `distil` left, or a method's checkpoint of `training fit`.")
    ],
    *,
    train: TrainOption,
    dev: DevOption,
    crops: CropsOption = DEFAULT_CROPS,
    n: Annotated[int, typer.Option("-n", min=1, help="Pictures of the dev set.")] = 240,
    bits: Annotated[int | None, typer.Option(help="Of the weights; default: 7 for students, 8 for full size.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Rows to show; all are in the file.")] = 10,
    out: Annotated[Path | None, typer.Option("--out", help="JSON file to write.")] = None,
) -> None:
    """Round each convolution alone and say what that does to the score: the guilty layer first."""
    dev_set, train_set = SampleSet.load(dev), SampleSet.load(train)
    student = is_student(load_checkpoint(checkpoint))
    network, config = load_trained(checkpoint) if student else load_full(checkpoint)
    spec = config.input.spec()
    depth = network.sees_depth if isinstance(network, FullNetwork) else isinstance(network, RgbdStudent)
    calibration = calibration_crops(usable_part(train_set, depth=depth), spec, crops, depth=depth)
    held_out = usable_part(dev_set, depth=depth)
    shown = pictures(held_out, range(min(n, len(held_out))), spec, depth=depth)
    model = (
        network
        if isinstance(network, FullNetwork)
        else _calibrated(network, config, calibration, shown, held_out.labels[: len(shown)])
    )
    console = Console(width=160)

    def progress(names: Sequence[str]) -> Iterable[str]:
        return track(names, description="rounding", console=console, transient=True)

    with Layers(model, calibration, bits or (7 if student else 8)) as found:
        report = measure_layers(found, shown, progress=progress)
    console.print(table_of(report, top))
    worst = report.guilty
    console.print(
        f"{worst.name} does most: alone {worst.alone.mean:.4f}, all {len(report.layers)} together "
        f"{report.together.mean:.4f} (99th percentile {report.together.p99:.4f})"
    )
    if out is not None:
        write_layers(out, report)
        console.print(str(out))


def _calibrated(
    student: AnyStudent, config: TrainConfig, calibration: UInt8Array, shown: UInt8Array, labels: NDArray[np.int64]
) -> ExportModel:
    """A student as it is before it is rounded, with a score that is fitted to the pictures that will be compared."""
    plain = student.exported(UNCALIBRATED, config.input.normalisation())
    with torch.inference_mode():
        found = [plain.pooled_heads(torch.from_numpy(part))["score"] for part in parts(shown, _BATCH)]
    platt = fit_platt(torch.cat(found).double().numpy(), labels)
    return equalise(student.exported(platt, config.input.normalisation()), calibration)


def table_of(report: LayerReport, top: int) -> Table:
    """The guiltiest convolutions."""
    head = ("convolution", "weights", "alone: mean", "p99", "all but it: mean", "p99")
    table = Table(*head, title=f"Difference of the score, {report.bits}-bit weights, {report.n} pictures")
    for layer in report.layers[:top]:
        rest = ("", "") if layer.without is None else (f"{layer.without.mean:.4f}", f"{layer.without.p99:.4f}")
        table.add_row(layer.name, f"{layer.weights:,}", f"{layer.alone.mean:.4f}", f"{layer.alone.p99:.4f}", *rest)
    return table
