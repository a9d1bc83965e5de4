"""``python -m quantize layers``: which convolution costs what at INT8."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from fasedge.cards import sha256_of
from fasedge.types import UInt8Array
from quantize.calibrate import DEFAULT_CROPS, calibration_crops
from quantize.equalise import bound, equalise
from quantize.errors import CalibrationDataError
from quantize.export import AnyStudent, is_student, load_trained
from quantize.full import FullNetwork, float_modules, load_full
from quantize.grid import conv_names, in_float
from quantize.layers import LayerReport, Layers, measure_layers, write_layers
from quantize.options import CropsOption, DevOption, TrainOption
from quantize.parity import pooled_means
from quantize.pictures import pictures, usable_part
from quantize.platt import fit_platt
from quantize.rgbd import RgbdStudent
from quantize.rounded import UNCALIBRATED
from quantize.students import Exportable, ExportModel
from training.checkpoint import load_checkpoint
from training.config import TrainConfig
from training.data.samples import SampleSet


def layers(
    checkpoint: Annotated[
        Path, typer.Argument(help="Student that `distil` left, or a method's checkpoint of `training fit`.")
    ],
    *,
    train: TrainOption,
    dev: DevOption,
    crops: CropsOption = DEFAULT_CROPS,
    n: Annotated[int, typer.Option("-n", min=1, help="Pictures of the dev set.")] = 240,
    bits: Annotated[
        int | None, typer.Option(min=7, max=8, help="Of the weights; default: 7 for students, 8 for full size.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Rows to show; all are in the file.")] = 10,
    out: Annotated[Path | None, typer.Option("--out", help="JSON file to write.")] = None,
) -> None:
    """Round each convolution alone and say what that does to the score: the guilty layer first.

    Convolutions that the files keep in float are rounded here too, and marked: that is why they stay.
    """
    dev_set, train_set = SampleSet.load(dev), SampleSet.load(train)
    if dev_set.info.split != "dev":
        raise CalibrationDataError(f"layers are compared on the dev split, got {dev_set.info.split!r}")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
    read = load_checkpoint(checkpoint)
    student = is_student(read)
    network, config = load_trained(read) if student else load_full(read)
    spec = config.input.spec()
    depth = network.sees_depth if isinstance(network, FullNetwork) else isinstance(network, RgbdStudent)
    calibration = calibration_crops(usable_part(train_set, depth=depth), spec, crops, depth=depth)
    held_out = usable_part(dev_set, depth=depth)
    places = np.unique(np.linspace(0, len(held_out) - 1, min(n, len(held_out))).round().astype(int)).tolist()
    shown = pictures(held_out, places, spec, depth=depth)
    model: Exportable
    if isinstance(network, FullNetwork):
        model, kept = network, float_modules(network, shown[:1])
    else:
        model = exported = _calibrated(network, config, calibration, shown, held_out.labels[places])
        kept = [f"trunk.{name}" for name in conv_names(exported, in_float(config.method.trunk).convs)]
    console = Console(width=160)

    def progress(names: Sequence[str]) -> Iterable[str]:
        return track(names, description="rounding", console=console, transient=True)

    with Layers(model, calibration, bits or (7 if student else 8), in_float=kept) as found:
        report = measure_layers(found, shown, progress=progress)
    report = msgspec.structs.replace(report, checkpoint_sha256=sha256_of(checkpoint))
    console.print(table_of(report, top))
    worst = report.guilty
    console.print(
        f"{worst.name} does most{', and stays in float' * worst.stays_in_float}: alone {worst.alone.mean:.4f}; all "
        f"{len(report.layers)} {report.everything.mean:.4f} (99th percentile {report.everything.p99:.4f}); as in the "
        f"files {report.as_in_files.mean:.4f} ({report.as_in_files.p99:.4f})"
    )
    if report.unused:
        console.print(f"no picture reaches {', '.join(report.unused)}")
    if out is not None:
        write_layers(out, report)
        console.print(str(out))


def _calibrated(
    student: AnyStudent, config: TrainConfig, calibration: UInt8Array, shown: UInt8Array, labels: NDArray[np.int64]
) -> ExportModel:
    """A student as it is before it is rounded, with a score that is fitted to the pictures that will be compared."""
    plain = student.exported(UNCALIBRATED, config.input.normalisation())
    platt = fit_platt(pooled_means(plain, shown), labels)
    return bound(equalise(student.exported(platt, config.input.normalisation()), calibration), calibration)[0]


def table_of(report: LayerReport, top: int) -> Table:
    """The guiltiest convolutions."""
    head = ("convolution", "weights", "in files", "alone: mean", "p99", "all but it: mean", "p99")
    table = Table(*head, title=f"Difference of the score, {report.bits}-bit weights, {report.n} pictures")
    for layer in report.layers[:top]:
        rest = ("", "") if layer.without is None else (f"{layer.without.mean:.4f}", f"{layer.without.p99:.4f}")
        kept = "float" if layer.stays_in_float else "INT8"
        table.add_row(
            layer.name, f"{layer.weights:,}", kept, f"{layer.alone.mean:.4f}", f"{layer.alone.p99:.4f}", *rest
        )
    return table
