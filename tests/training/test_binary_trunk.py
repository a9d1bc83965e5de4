"""Binary supervision of a trunk: one logit of the mean feature, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from training.backbones import densenet161_trunk
from training.build import BinaryTask, build_task
from training.config import InputConfig, MethodConfig, TrainConfig
from training.errors import BatchError, ConfigError
from training.methods.binary_trunk import BinaryLogits, BinaryTrunk, BinaryTrunkConfig


def small(**settings: float) -> BinaryTrunk:
    torch.manual_seed(0)
    return BinaryTrunk(densenet161_trunk(width=0.125), BinaryTrunkConfig(map_side=2, **settings))  # type: ignore[arg-type]


def test_the_logit_is_that_of_the_mean_feature_and_the_mean_of_the_cells() -> None:
    model, x = small().eval(), torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        out = model(x)
        mean = model.trunk(x).mean(dim=(2, 3)).double()
        by_hand = (mean * model.last.weight.double()).sum(1) + model.last.bias.double()
    torch.testing.assert_close(out.image.double(), by_hand, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out.map.mean(dim=(1, 2)), out.image)
    assert out.map.std() > 0.001
    torch.testing.assert_close(model.scores(out)["image"].double(), 1 / (1 + torch.exp(-by_hand)), rtol=1e-5, atol=1e-6)


def test_dropout_is_for_training_alone() -> None:
    model, x = small(dropout=0.5), torch.rand(2, 3, 32, 32)
    model.trunk.eval()
    with torch.no_grad():
        features = model.trunk(x)
        assert not torch.equal(model.heads(features).image, model.heads(features).image)
        model.eval()
        assert torch.equal(model.heads(features).image, model.heads(features).image)


def test_the_loss_is_the_cross_entropy_of_the_image() -> None:
    out = BinaryLogits(torch.zeros(2, 2, 2), torch.tensor([1.0, -2.0]))
    by_hand = (math.log(1 + math.exp(-1.0)) + 0.1 * 2.0 + math.log(1 + math.exp(-2.0))) / 2
    assert small().loss(out, torch.tensor([1.0, 0.1])).total.item() == pytest.approx(by_hand, abs=1e-6)


def test_heads_stay_in_float32_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = small()(torch.rand(2, 3, 32, 32))
    assert {part.dtype for part in out} == {torch.float32}


def test_it_exports_without_labels_and_computes_the_same() -> None:
    model, x = small().eval(), torch.rand(1, 3, 32, 32)
    program = torch.export.export(model, (x,)).module()
    with torch.no_grad():
        for exported, eager in zip(program(x), model(x), strict=True):
            torch.testing.assert_close(exported, eager)


def test_pictures_of_another_size_labels_of_another_number_and_impossible_settings_are_refused() -> None:
    with pytest.raises(BatchError, match=r"\(N, 3, 32, 32\)"):
        small()(torch.rand(2, 3, 64, 64))
    with pytest.raises(BatchError, match=r"\(2,\)"):
        small().loss(BinaryLogits(torch.zeros(2, 2, 2), torch.zeros(2)), torch.ones(3))
    with pytest.raises(ConfigError, match="dropout < 1, got 1"):
        BinaryTrunkConfig(dropout=1.0)
    with pytest.raises(ConfigError, match="map_side >= 1"):
        BinaryTrunkConfig(map_side=0)


def test_the_task_scores_with_what_it_teaches() -> None:
    config = TrainConfig(
        input=InputConfig(size_px=32),
        method=MethodConfig(name="binary-trunk", width=0.125, options={"dropout": 0.1}),
    )
    task = build_task(config)
    assert isinstance(task, BinaryTask)
    assert (task.map_side, task.module.config.dropout) == (2, 0.1)
    task.module.eval()
    rgb = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        cells = task.cells_of(task.features(rgb))
        mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (task.trunk.input_mean, task.trunk.input_std))
        out = task.module((rgb.permute(0, 3, 1, 2) / 255 - mean) / std)
        torch.testing.assert_close(cells, out.map, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(task.score(rgb), torch.sigmoid(out.image), rtol=1e-4, atol=1e-5)
