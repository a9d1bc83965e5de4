"""Each row of the ablation is another grid, and says which."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from benchmarks.int8_ablation import VARIANTS
from quantize.grid import conv_names
from quantize.students import ExportModel, PixelCosineStudent, Platt
from training.inputs import BrightnessNorm


def _model() -> ExportModel:
    layers = [layer for channels in (3, *[8] * 11) for layer in (nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU())]
    return ExportModel(PixelCosineStudent(nn.Sequential(*layers[:-1]), 8).eval(), Platt(1.0, 0.0), BrightnessNorm())


def test_every_variant_is_another_grid_but_those_of_another_model() -> None:
    model = _model()
    found = {variant.name: variant.grid(model, 2) for variant in VARIANTS}
    assert len(found) == len(VARIANTS)
    assert len(set(found.values())) == len(VARIANTS) - 3
    for name in ("channels not equalised", "activations not bounded", "neither"):
        assert found[name] == found["as the student is rounded"]
    assert len(found["first 10 convolutions in float"].float_convs) == 10
    assert set(found["as the student is rounded"].float_convs) == set(conv_names(model, 2))


def test_variants_put_other_models_on_their_grids() -> None:
    torch.manual_seed(0)
    plain, crops = _model(), np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
    made = {variant.name: variant.model(plain, crops) for variant in VARIANTS}
    assert made["neither"] is plain
    kinds = {
        name: (bounded, torch.equal(model.trunk.get_submodule("0").weight, plain.trunk.get_submodule("0").weight))
        for name, model in made.items()
        for bounded in [any(isinstance(layer, nn.ReLU6) for layer in model.trunk.modules())]
    }
    assert kinds["as the student is rounded"] == (True, False)
    assert kinds["channels not equalised"] == (True, False)  # scaled as a whole, so that it ends at 6
    assert kinds["activations not bounded"] == (False, False)
    assert kinds["neither"] == (False, True)


def test_two_variants_leave_out_outermost_activations() -> None:
    ranges = [v.grid(_model(), 2) for v in VARIANTS if v.activation_range == "percentile"]
    assert [(r.activation_range, r.percentile) for r in ranges] == [("percentile", 99.9), ("percentile", 99.99)]
