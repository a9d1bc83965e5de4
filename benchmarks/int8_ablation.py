"""What each decision about the INT8 grid is worth, before any fine-tuning.

Scores are those of PyTorch's simulation of the grid on held-out pictures, with one calibration for all rows. Two
differences are told apart: what rounding the weights changes against the student, and what rounding the activations
changes against the same rounded weights. Flips are decisions at the threshold that rejects 5 % of the bona fide
presentations.

    python -m benchmarks.int8_ablation runs/student/best.safetensors --train sets/train --dev sets/dev
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from fasedge.types import UInt8Array
from quantize.calibrate import calibration_crops
from quantize.equalise import bound, equalise
from quantize.export import load_trained
from quantize.fitting import fit_grid
from quantize.grid import GridConfig, conv_names, float_activations, in_float
from quantize.parity import pooled_means
from quantize.pictures import pictures, usable_part
from quantize.platt import fit_platt
from quantize.rounded import UNCALIBRATED
from quantize.students import ExportModel, Platt
from training.data.samples import SampleSet

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Variant:
    """One row: a change to how the student is rounded."""

    name: str
    equalised: bool = True
    bounded: bool = True
    leading_float: int | None = None
    weight_code_max: int = 63
    bias_correction: bool = True
    activation_range: str = "minmax"
    percentile: float = 99.99

    def model(self, plain: ExportModel, crops: UInt8Array) -> ExportModel:
        """The model that is put on a grid."""
        model = equalise(plain, crops) if self.equalised else plain
        return bound(model, crops)[0] if self.bounded else model

    def grid(self, model: ExportModel, usual: int) -> GridConfig:
        """How the grid of a model is chosen; ``usual`` leading convolutions are in float where the row says no more."""
        return GridConfig(
            weight_code_max=self.weight_code_max,
            activation_range=self.activation_range,
            percentile=self.percentile,
            bias_correction=self.bias_correction,
            float_convs=tuple(conv_names(model, usual if self.leading_float is None else self.leading_float)),
        )


VARIANTS = (
    Variant("as the student is rounded"),
    Variant("channels not equalised", equalised=False),
    Variant("activations not bounded", bounded=False),
    Variant("neither", equalised=False, bounded=False),
    Variant("neither, first 3 convolutions in float", equalised=False, bounded=False, leading_float=3),
    Variant("no convolution in float", leading_float=0),
    Variant("first 10 convolutions in float", leading_float=10),
    Variant("biases not corrected", bias_correction=False),
    Variant("ranges of least squared error", activation_range="mse"),
    Variant("ranges without the outermost 0.1 %", activation_range="percentile", percentile=99.9),
    Variant("ranges without the outermost 0.01 %", activation_range="percentile", percentile=99.99),
    Variant("8-bit weights (saturate without VNNI)", weight_code_max=127),
)


def _calibrated(means: Scores, platt: Platt) -> Scores:
    return np.asarray(1 / (1 + np.exp(-(platt.scale * means + platt.bias))), np.float64)


def _difference(scores: Scores, reference: Scores, labels: NDArray[np.int64]) -> list[str]:
    delta = np.abs(scores - reference)
    threshold = np.quantile(reference[labels == 1], 0.05)
    flips = 100 * float(((scores >= threshold) != (reference >= threshold)).mean())
    return [f"{delta.mean():.4f}", f"{np.quantile(delta, 0.99):.4f}", f"{flips:.2f}"]


def main(
    student: Annotated[Path, typer.Argument(help="Checkpoint of a student that has not been rounded.")],
    *,
    train: Annotated[Path, typer.Option(help="Sample set of the train split, for the ranges.")],
    dev: Annotated[Path, typer.Option(help="Sample set of the dev split, for the differences.")],
    n: Annotated[int, typer.Option("-n", help="Pictures of the dev set.")] = 480,
    crops: Annotated[int, typer.Option(help="Calibration crops.")] = 256,
) -> None:
    """Print a row per variant."""
    network, config = load_trained(student)
    spec = config.input.spec()
    plain = network.exported(UNCALIBRATED, config.input.normalisation())
    samples = usable_part(SampleSet.load(dev), depth=plain.sees_depth)
    indices = range(min(n, len(samples)))
    shown, labels = pictures(samples, indices, spec, depth=plain.sees_depth), samples.labels[: len(indices)]
    learnt = usable_part(SampleSet.load(train), depth=plain.sees_depth)
    calibration = calibration_crops(learnt, spec, crops, depth=plain.sees_depth)
    usual = in_float(config.method.trunk).weights
    reference = pooled_means(plain, shown)
    platt = fit_platt(reference, labels)
    exact = _calibrated(reference, platt)
    kinds = ("weights", "activations", "both")
    table = Table("variant", *(f"{kind}: {figure}" for kind in kinds for figure in ("mean", "p99", "flips %")))
    models: dict[tuple[bool, bool], ExportModel] = {}
    for variant in track(VARIANTS, transient=True):
        if (made := (variant.equalised, variant.bounded)) not in models:
            models[made] = variant.model(plain, calibration)
        model = models[made]
        grid = fit_grid(model, calibration, variant.grid(model, usual))
        both = _calibrated(pooled_means(grid, shown), platt)
        with float_activations(grid):
            weights = _calibrated(pooled_means(grid, shown), platt)
        pairs = ((weights, exact), (both, weights), (both, exact))
        table.add_row(variant.name, *(cell for a, b in pairs for cell in _difference(a, b, labels)))
    Console(width=200).print(table)


if __name__ == "__main__":
    typer.run(main)
