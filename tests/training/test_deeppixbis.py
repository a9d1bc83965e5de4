"""DeepPixBiS: count, shapes, loss and scores worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from training.backbones import densenet161_trunk
from training.errors import BatchError, ConfigError
from training.methods.baselines import DeepPixBiS, DeepPixBiSConfig, PixelLogits


def small(side: int = 2, **settings: float) -> DeepPixBiS:
    torch.manual_seed(0)
    return DeepPixBiS(densenet161_trunk(width=0.125), DeepPixBiSConfig(map_side=side, **settings))  # type: ignore[arg-type]


def test_deeppixbis_has_the_published_number_of_parameters_and_maps_224_pixels_to_14_cells() -> None:
    with torch.device("meta"):
        model = DeepPixBiS(densenet161_trunk())
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_198_726
    logits = model(torch.empty(2, 3, 224, 224, device="meta"))
    assert [tuple(part.shape) for part in logits] == [(2, 14, 14), (2,)]


def test_deeppixbis_exports_without_labels_and_computes_the_same() -> None:
    model, x = small().eval(), torch.rand(1, 3, 32, 32)
    program = torch.export.export(model, (x,)).module()
    with torch.no_grad():
        for exported, eager in zip(program(x), model(x), strict=True):
            torch.testing.assert_close(exported, eager)


def test_deeppixbis_heads_stay_in_float32_under_autocast() -> None:
    model = small()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(torch.rand(2, 3, 32, 32))
        losses = model.loss(outputs, torch.tensor([1, 0]))
    assert {part.dtype for part in (*outputs, *losses)} == {torch.float32}


def test_deeppixbis_refuses_images_of_another_size_and_labels_of_another_number() -> None:
    model = small()
    with pytest.raises(BatchError, match=r"\(N, 3, 32, 32\)"):
        model(torch.rand(2, 3, 64, 64))
    with pytest.raises(BatchError, match=r"\(2,\)"):
        model.loss(PixelLogits(torch.zeros(2, 2, 2), torch.zeros(2)), torch.ones(3))


def test_deeppixbis_reads_the_map_after_its_sigmoid() -> None:
    model = small().eval()
    with torch.no_grad():
        outputs = model(torch.rand(2, 3, 32, 32))
        probabilities = 1.0 / (1.0 + torch.exp(-outputs.map.flatten(1)))
        expected = probabilities @ model.image_head.weight[0] + model.image_head.bias
    torch.testing.assert_close(outputs.image, expected)


def test_deeppixbis_loss_is_the_weighted_cross_entropy_worked_by_hand() -> None:
    # one bona fide and one attack; every cell says 0.8 (logit ln 4), the image says 0.5
    outputs = PixelLogits(torch.full((2, 2, 2), math.log(4.0)), torch.zeros(2))
    labels = torch.tensor([1, 0])
    for smoothing, pixel in (
        (0.0, (-math.log(0.8) - math.log(0.2)) / 2),
        (0.01, (-math.log(0.8) - math.log(0.2)) / 2),  # symmetric labels: smoothing cancels in the mean
    ):
        model = small(pixel_smoothing=smoothing)
        losses = model.loss(outputs, labels)
        assert losses.pixel.item() == pytest.approx(pixel, rel=1e-6)
        assert losses.image.item() == pytest.approx(math.log(2.0), rel=1e-6)
        assert losses.total.item() == pytest.approx((pixel + math.log(2.0)) / 2, rel=1e-6)
    smoothed = small().loss(PixelLogits(outputs.map[:1], outputs.image[:1]), torch.ones(1))
    assert smoothed.pixel.item() == pytest.approx(-0.99 * math.log(0.8) - 0.01 * math.log(0.2), rel=1e-6)


def test_deeppixbis_scores_are_the_mean_of_the_map_the_image_and_both() -> None:
    outputs = PixelLogits(torch.tensor([[[0.0, math.log(3.0)]]]), torch.tensor([math.log(4.0)]))
    scores = small().scores(outputs)
    assert scores["map"].item() == pytest.approx((0.5 + 0.75) / 2)
    assert scores["binary"].item() == pytest.approx(0.8)
    assert scores["combined"].item() == pytest.approx((0.625 + 0.8) / 2)


@pytest.mark.parametrize("settings", [{"lambda_pixel": -0.1}, {"pixel_smoothing": 0.5}, {"map_side": 0}])
def test_deeppixbis_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        DeepPixBiSConfig(**settings)  # type: ignore[arg-type]
