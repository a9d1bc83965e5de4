"""A-DeepPixBiS: golden values of the loss, counts, profiles, scores."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from training.backbones import Trunk, densenet161_trunk
from training.errors import BatchError, ConfigError
from training.methods.a_deeppixbis import ADeepPixBiS, ADeepPixBiSConfig, Cosines, a_bce

SIDE = 4  # cells along the map in these tests


class TinyTrunk(Trunk):
    """One strided convolution and a norm: enough for the heads to have something to read."""

    input_mean: ClassVar[tuple[float, float, float]] = (0.5, 0.5, 0.5)
    input_std: ClassVar[tuple[float, float, float]] = (0.5, 0.5, 0.5)

    def __init__(self) -> None:
        super().__init__(3, 8)
        self.conv = nn.Conv2d(3, 8, kernel_size=16, stride=16)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.norm(self.conv(x))
        return features


def tiny(**settings: object) -> ADeepPixBiS:
    torch.manual_seed(0)
    config = ADeepPixBiSConfig(map_side=SIDE, embedding=16)
    return ADeepPixBiS(TinyTrunk(), replace(config, **settings))  # type: ignore[arg-type]


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 16 * SIDE, 16 * SIDE, generator=torch.Generator().manual_seed(5))


def some_cosines(count: int = 6) -> Cosines:
    generator = torch.Generator().manual_seed(9)
    cells = torch.rand(count, SIDE, SIDE, generator=generator) * 1.8 - 0.9
    attention = torch.softmax(torch.randn(SIDE * SIDE, generator=generator), 0).reshape(SIDE, SIDE)
    return Cosines(cells, torch.rand(count, generator=generator) * 1.8 - 0.9, attention)


def test_the_full_network_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = ADeepPixBiS(densenet161_trunk())
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_300_485


def test_the_full_network_maps_224_pixels_to_14_cells() -> None:
    x = torch.empty(2, 3, 224, 224, device="meta")
    with torch.device("meta"):
        cosines = ADeepPixBiS(densenet161_trunk())(x)
    assert [tuple(part.shape) for part in cosines] == [(2, 14, 14), (2,), (14, 14)]


def test_a_128_pixel_network_has_8_cells_and_a_smaller_embedding_layer() -> None:
    model = ADeepPixBiS(densenet161_trunk(width=0.125), ADeepPixBiSConfig().for_input(128))
    assert model.image_embedding.weight.shape == (512, 64)
    assert model(torch.rand(2, 3, 128, 128)).map.shape == (2, 8, 8)


def test_outputs_are_cosines_of_the_features_with_the_filters() -> None:
    model = tiny().eval()
    x = images()
    with torch.no_grad():
        outputs = model.cosines(x)
        features = model.trunk(x)
        v = model.pixel_filter.weight.flatten()
        expected = torch.nn.functional.cosine_similarity(features.permute(0, 2, 3, 1), v, dim=-1)
        torch.testing.assert_close(outputs.map, expected)
        raw = torch.einsum("nchw,c->nhw", features, model.image_projection.weight.flatten())
        raw = (raw + model.image_projection.bias).flatten(1)
        embedding = raw @ model.image_embedding.weight.T + model.image_embedding.bias
        expected = torch.nn.functional.cosine_similarity(embedding, model.image_filter.weight, dim=1)
        torch.testing.assert_close(outputs.image, expected)


def test_length_of_the_filters_matters_only_when_they_are_not_normalised() -> None:
    for normalise in (True, False):
        model = tiny(normalise_weights=normalise).eval()
        with torch.no_grad():
            before = model(images())
            model.pixel_filter.weight *= 3.0
            model.image_filter.weight *= 3.0
            after = model(images())
        factor = 1.0 if normalise else 3.0
        torch.testing.assert_close(after.map, factor * before.map)
        torch.testing.assert_close(after.image, factor * before.image)


def test_filters_of_the_official_profile_start_with_their_uneven_length() -> None:
    torch.manual_seed(0)
    weight = ADeepPixBiS(TinyTrunk(), ADeepPixBiSConfig(map_side=SIDE)).image_filter.weight
    assert weight.norm().item() == pytest.approx(0.577, abs=0.05)  # 1/√3 for 512 uniform values in ±1/√512


def test_attention_starts_uniform_and_the_pixel_loss_is_then_the_plain_mean() -> None:
    model = tiny()
    outputs = model(images())
    labels = torch.tensor([1, 0, 1])
    torch.testing.assert_close(outputs.attention, torch.full((SIDE, SIDE), 1.0 / SIDE**2))
    cells = torch.stack([a_bce(outputs.map[i], labels[i].expand(SIDE, SIDE), model.config) for i in range(3)])
    torch.testing.assert_close(model.loss(outputs, labels).pixel, cells.mean())


def test_attention_has_no_gradient_when_all_cells_lose_the_same_and_one_when_they_do_not() -> None:
    model = tiny()
    assert model.attention is not None
    even = Cosines(torch.full((2, SIDE, SIDE), 0.3), torch.zeros(2), model.attention_weights())
    (gradient,) = torch.autograd.grad(model.loss(even, torch.tensor([1, 0])).total, model.attention)
    torch.testing.assert_close(gradient, torch.zeros(SIDE, SIDE), rtol=0.0, atol=1e-8)
    uneven = even._replace(map=torch.linspace(-0.9, 0.9, 2 * SIDE**2).reshape(2, SIDE, SIDE))
    (gradient,) = torch.autograd.grad(
        model.loss(uneven._replace(attention=model.attention_weights()), torch.tensor([1, 1])).total, model.attention
    )
    assert gradient.abs().max() > 1e-3


def test_attention_weights_the_losses_of_the_cells() -> None:
    model, outputs, labels = tiny(), some_cosines(), torch.tensor([1, 0, 1, 1, 0, 0])
    total = 0.0
    for i, label in enumerate(labels.tolist()):
        for a in range(SIDE):
            for b in range(SIDE):
                c = outputs.map[i, a, b].reshape(1)
                total += outputs.attention[a, b].item() * a_bce(c, torch.tensor([label]), model.config).item()
    assert model.loss(outputs, labels).pixel.item() == pytest.approx(total / 6.0, rel=1e-5)


def test_attention_off_has_no_parameter_and_uniform_weights() -> None:
    model = tiny(attention=False)
    assert "attention" not in dict(model.named_parameters())
    torch.testing.assert_close(model(images()).attention, torch.full((SIDE, SIDE), 1.0 / SIDE**2))


def test_total_is_the_weighted_sum_of_both_losses() -> None:
    losses = tiny(lambda_pixel=0.7).loss(some_cosines(), torch.tensor([1, 0, 1, 1, 0, 0]))
    assert losses.total.item() == pytest.approx(0.7 * losses.pixel.item() + 0.3 * losses.image.item(), rel=1e-6)


def test_sum_reduction_of_the_official_code_is_batch_size_times_the_mean() -> None:
    outputs, labels = some_cosines(6), torch.tensor([1, 0, 1, 1, 0, 0])
    mean = tiny(pixel_reduction="mean").loss(outputs, labels)
    total = tiny(pixel_reduction="sum").loss(outputs, labels)
    assert total.pixel.item() == pytest.approx(6.0 * mean.pixel.item(), rel=1e-6)
    assert total.image.item() == pytest.approx(mean.image.item(), rel=1e-6)


def test_a_sum_over_a_step_is_the_mean_of_what_its_parts_add_up() -> None:
    """Gradients of processes and passes are averaged; 2 parts of 4 images make one step of 8."""
    x, labels = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(5)), torch.arange(8) % 2
    whole, part = tiny(pixel_reduction="sum").eval(), tiny(pixel_reduction="sum", summed_images=8).eval()
    part.load_state_dict(whole.state_dict())
    expected = whole.loss(whole.cosines(x), labels)
    halves = [part.loss(part.cosines(x[k : k + 4]), labels[k : k + 4]) for k in (0, 4)]
    for name in ("total", "pixel", "image"):
        mean = sum(getattr(half, name) for half in halves) / 2
        torch.testing.assert_close(mean, getattr(expected, name))


def test_profiles_hold_the_tabulated_divergences() -> None:
    table = {
        "paper": (0.7, "plain", True, "mean"),
        "official": (0.5, "plain", False, "sum"),
        "default": (0.7, "monotone", True, "mean"),
    }
    for name, expected in table.items():
        config = ADeepPixBiSConfig.from_profile(name)  # type: ignore[arg-type]
        seen = (config.lambda_pixel, config.margin_mode, config.normalise_weights, config.pixel_reduction)
        assert seen == expected, name
        assert (config.margin, config.scale, config.embedding, config.map_side) == (0.5, 1.0, 512, 14)
    assert ADeepPixBiSConfig.from_profile("default").clamp_eps == 1e-4
    assert ADeepPixBiSConfig.from_profile("official").clamp_eps == 1e-7


@pytest.mark.parametrize(
    "settings",
    [
        {"margin": -0.1},
        {"margin": math.pi},
        {"margin": math.nan},
        {"lambda_pixel": 1.1},
        {"scale": 0.0},
        {"clamp_eps": 0.0},
        {"embedding": 0},
        {"map_side": 0},
        {"margin_mode": "cosface"},
        {"pixel_reduction": "none"},
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings: dict[str, object]) -> None:
    (name,) = settings
    with pytest.raises(ConfigError, match=name):
        ADeepPixBiSConfig(**settings)  # type: ignore[arg-type]


def test_unknown_profiles_and_uneven_input_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="papper"):
        ADeepPixBiSConfig.from_profile("papper")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="100"):
        ADeepPixBiSConfig().for_input(100)


def test_scores_are_sigmoids_of_cosines_averaged_over_the_cells() -> None:
    attention = torch.tensor([[0.7, 0.1], [0.1, 0.1]])
    outputs = Cosines(torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]), torch.tensor([-1.0]), attention)
    model = ADeepPixBiS(TinyTrunk(), ADeepPixBiSConfig(map_side=2))
    scores = {name: value.item() for name, value in model.scores(outputs).items()}
    # σ(1) = 0.731059, σ(0) = 0.5, σ(−1) = 0.268941
    assert scores["binary"] == pytest.approx(0.268941, abs=1e-6)
    assert scores["map"] == pytest.approx((0.731059 + 3 * 0.5) / 4, abs=1e-6)
    assert scores["map_att"] == pytest.approx(0.7 * 0.731059 + 0.3 * 0.5, abs=1e-6)
    assert model.primary_score in scores


def test_scores_rise_with_the_cosines_and_stay_within_a_sigmoid_of_one() -> None:
    model = tiny()
    low, high = some_cosines(), some_cosines()
    high = high._replace(map=high.map + 0.1, image=high.image + 0.1)
    for name, value in model.scores(low).items():
        assert (model.scores(high)[name] > value).all(), name
        assert ((value >= 0.2689) & (value <= 0.7311)).all(), name


def test_the_loss_does_not_clamp_what_the_scores_see() -> None:
    model = tiny(clamp_eps=0.5)
    outputs = some_cosines(1)._replace(image=torch.tensor([0.9]))
    assert model.scores(outputs)["binary"].item() == pytest.approx(1.0 / (1.0 + math.exp(-0.9)), rel=1e-6)


@pytest.mark.parametrize("shape", [(2, 3, 64, 32), (2, 3, 32, 32), (2, 1, 64, 64), (3, 64, 64)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BatchError, match=r"\(N, 3, 64, 64\)"):
        tiny()(torch.rand(shape))


def test_labels_are_given_per_image_or_per_element() -> None:
    cosines = some_cosines(2)
    per_image = a_bce(cosines.map, torch.tensor([1, 0]), ADeepPixBiSConfig())
    per_cell = torch.tensor([1.0, 0.0]).reshape(2, 1, 1).expand(2, SIDE, SIDE)
    assert torch.equal(per_image, a_bce(cosines.map, per_cell, ADeepPixBiSConfig()))
    with pytest.raises(BatchError, match="labels of shape"):
        a_bce(cosines.map, torch.ones(3), ADeepPixBiSConfig())


def test_labels_of_another_number_are_refused() -> None:
    with pytest.raises(BatchError, match=r"\(6,\)"):
        tiny().loss(some_cosines(6), torch.ones(6, 1))


def test_heads_stay_in_float32_under_autocast() -> None:
    model = tiny()
    labels = torch.tensor([1, 0, 1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(images())
        losses = model.loss(outputs, labels)
    assert {part.dtype for part in (*outputs, *losses)} == {torch.float32}
    losses.total.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_a_dead_feature_vector_gives_a_finite_gradient() -> None:
    model = tiny()
    nn.init.zeros_(model.trunk.get_parameter("norm.weight"))
    losses = model.loss(model(images()), torch.tensor([1, 0, 1]))
    losses.total.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_evaluation_of_one_image_does_not_depend_on_its_batch_and_leaves_the_norms_alone() -> None:
    model = tiny()
    model(images())  # gives the norms something to remember
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        together, alone = model(images(3)), model(images(3)[:1])
    torch.testing.assert_close(together.map[:1], alone.map)
    torch.testing.assert_close(together.image[:1], alone.image)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_network_exports_without_labels_and_computes_the_same() -> None:
    model = tiny().eval()
    program = torch.export.export(model, (images(1),)).module()
    with torch.no_grad():
        for exported, eager in zip(program(images(1)), model(images(1)), strict=True):
            torch.testing.assert_close(exported, eager)


def test_a_few_steps_separate_two_kinds_of_images() -> None:
    model = tiny()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    labels = torch.tensor([1, 0] * 4)
    x = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(1)) + labels.reshape(-1, 1, 1, 1) * 1.0
    for _ in range(15):
        optimiser.zero_grad()
        model.loss(model(x), labels).total.backward()
        optimiser.step()
    with torch.no_grad():
        scores = model.scores(model(x))
    for name, value in scores.items():
        assert value[labels == 1].min() > value[labels == 0].max(), name
