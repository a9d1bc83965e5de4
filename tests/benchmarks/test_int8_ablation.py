"""Each row of the ablation is another grid, and says which."""

from __future__ import annotations

from torch import nn

from benchmarks.int8_ablation import VARIANTS
from quantize.grid import conv_names
from quantize.students import ExportModel, PixelCosineStudent, Platt
from training.inputs import BrightnessNorm


def _model() -> ExportModel:
    trunk = nn.Sequential(*(nn.Conv2d(channels, 8, 3) for channels in (3, *[8] * 11)))
    return ExportModel(PixelCosineStudent(trunk, 8).eval(), Platt(1.0, 0.0), BrightnessNorm())


def test_every_variant_is_another_grid_but_the_one_that_is_not_equalised() -> None:
    model = _model()
    found = {variant.name: variant.grid(model) for variant in VARIANTS}
    assert len(found) == len(VARIANTS)
    assert len(set(found.values())) == len(VARIANTS) - 1
    assert found["channels not equalised"] == found["as the student is rounded"]
    assert len(found["first 10 convolutions in float"].float_convs) == 10
    assert set(found["as the student is rounded"].float_convs) == set(conv_names(model, 2))


def test_two_variants_leave_out_outermost_activations() -> None:
    ranges = [v.grid(_model()) for v in VARIANTS if v.activation_range == "percentile"]
    assert [(r.activation_range, r.percentile) for r in ranges] == [("percentile", 99.9), ("percentile", 99.99)]
