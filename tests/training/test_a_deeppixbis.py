"""A-DeepPixBiS and its baseline: golden values of the loss, counts, profiles, scores."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from training.backbones import Trunk, densenet161_trunk
from training.errors import BatchError, ConfigError
from training.methods.a_deeppixbis import ADeepPixBiS, ADeepPixBiSConfig, Cosines, MarginMode, a_bce, margin_cosine
from training.methods.baselines import DeepPixBiS, DeepPixBiSConfig, PixelLogits

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


def config_with(mode: MarginMode) -> ADeepPixBiSConfig:
    return ADeepPixBiSConfig(margin_mode=mode)


# cos θ, plain z⁺, ℓ(y=1) plain, monotone, arcface, ℓ(y=0), at m = 0.5; worked out by hand and tabulated
GOLDEN = [
    (0.9, 0.580848, 0.444317, 0.444317, 0.444317, 1.241154),
    (0.5, 0.023597, 0.681418, 0.681418, 0.681418, 0.974077),
    (0.0, -0.479426, 0.961320, 0.961320, 0.961320, 0.693147),
    (-0.5, -0.853986, 1.208659, 1.208659, 1.208659, 0.474077),
    (-0.9, -0.998801, 1.312385, 1.314138, 1.417277, 0.341154),
    (-0.99, -0.936438, 1.267195, 1.360122, 1.486196, 0.315961),
]


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: f"cos={row[0]}")
def test_losses_equal_the_golden_table(row: tuple[float, ...]) -> None:
    cos, z, plain, monotone, arcface, attack = row
    c = torch.tensor([cos])
    bona_fide, spoof = torch.ones(1), torch.zeros(1)
    assert margin_cosine(c, config_with("plain")).item() == pytest.approx(z, abs=2e-6)
    for mode, expected in (("plain", plain), ("monotone", monotone), ("arcface", arcface)):
        config = config_with(mode)  # type: ignore[arg-type]
        assert a_bce(c, bona_fide, config).item() == pytest.approx(expected, abs=2e-6), mode
        assert a_bce(c, spoof, config).item() == pytest.approx(attack, abs=2e-6), mode
    without = a_bce(c, bona_fide, config_with("none")).item()
    assert without == pytest.approx(math.log1p(math.exp(-cos)), abs=2e-6)


def test_at_the_turning_point_plain_and_monotone_agree_and_arcface_has_jumped() -> None:
    # cos(π − 0.5) = −0.877583; the table's arcface value is that behind the jump, so step over it by a hair
    c = torch.tensor([-0.877583 - 2e-6], dtype=torch.float64)
    losses = {m: a_bce(c, torch.ones(1), config_with(m)).item() for m in ("plain", "monotone", "arcface")}  # type: ignore[arg-type]
    assert losses["plain"] == pytest.approx(1.313262, abs=2e-6)
    assert losses["monotone"] == pytest.approx(1.313262, abs=2e-6)
    assert losses["arcface"] == pytest.approx(1.400340, abs=4e-6)
    assert a_bce(c, torch.zeros(1), config_with("plain")).item() == pytest.approx(0.347685, abs=2e-6)


@pytest.mark.parametrize(
    ("cos", "slope"), [(0.5, -0.5704), (0.0, -0.5420), (-0.5, -0.4214), (-0.9, 0.0821), (-0.99, 1.7866)]
)
def test_plain_margin_has_the_golden_slopes_including_the_wrong_sign_beyond_the_turning_point(
    cos: float, slope: float
) -> None:
    c = torch.tensor([cos], dtype=torch.float64, requires_grad=True)
    a_bce(c, torch.ones(1), config_with("plain")).sum().backward()
    assert c.grad is not None
    assert c.grad.item() == pytest.approx(slope, abs=6e-5)


@pytest.mark.parametrize("cos", [0.9, 0.5, 0.0, -0.5, -0.87, -0.88, -0.9, -0.99, -0.999])
@pytest.mark.parametrize("mode", ["none", "monotone", "arcface"])
def test_bona_fide_is_always_pulled_and_attack_pushed_when_the_margin_is_monotone(cos: float, mode: MarginMode) -> None:
    c = torch.tensor([cos, cos], requires_grad=True)
    a_bce(c, torch.tensor([1, 0]), config_with(mode)).sum().backward()
    assert c.grad is not None
    assert c.grad[0] < 0.0 < c.grad[1]


@given(theta=st.floats(0.0, math.pi), step=st.floats(1e-3, 0.5), margin=st.floats(0.0, 1.5))
def test_monotone_margin_never_rises_with_the_angle(theta: float, step: float, margin: float) -> None:
    angles = torch.tensor([theta, min(theta + step, math.pi)], dtype=torch.float64)
    first, second = margin_cosine(torch.cos(angles), ADeepPixBiSConfig(margin=margin)).tolist()
    assert second <= first + 1e-12


def test_monotone_margin_falls_strictly_and_plain_does_not() -> None:
    angles = torch.linspace(0.02, math.pi - 0.02, 2000, dtype=torch.float64)
    assert (margin_cosine(torch.cos(angles), config_with("monotone")).diff() < 0).all()
    assert (margin_cosine(torch.cos(angles), config_with("plain")).diff() > 0).any()


def test_monotone_margin_is_continuous_with_matching_slope_at_the_turning_point() -> None:
    turn, h = math.pi - 0.5, 1e-6
    angles = torch.tensor([turn - 2 * h, turn - h, turn + h, turn + 2 * h], dtype=torch.float64)
    before2, before, after, after2 = margin_cosine(torch.cos(angles), config_with("monotone")).tolist()
    assert before == pytest.approx(-1.0, abs=1e-9)
    assert after == pytest.approx(-1.0, abs=1e-9)
    assert (before - before2) / h == pytest.approx((after2 - after) / h, abs=1e-5)  # both ≈ 0


@pytest.mark.parametrize("profile", ["default", "paper", "official"])
@pytest.mark.parametrize("cos", [1.0, -1.0, 1.0 - 6e-8])
def test_gradients_are_finite_at_the_ends_of_the_range(profile: str, cos: float) -> None:
    c = torch.tensor([cos, cos], requires_grad=True)
    loss = a_bce(c, torch.tensor([1.0, 0.0]), ADeepPixBiSConfig.from_profile(profile))  # type: ignore[arg-type]
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert c.grad is not None
    assert torch.isfinite(c.grad).all()


def test_default_clamp_bounds_the_slope_of_the_loss() -> None:
    c = torch.linspace(-0.99989, 0.99989, 4001, requires_grad=True)
    a_bce(c, torch.ones(4001), ADeepPixBiSConfig()).sum().backward()
    assert c.grad is not None
    # (cos m + c sin m / √(1 − c²)) · σ(−z) at c = ±0.9999: 34.8 · 0.295 and 33.0 · 0.757
    assert c.grad[-1].item() == pytest.approx(-10.3, rel=0.06)
    assert c.grad[0].item() == pytest.approx(-25.0, rel=0.06)
    assert c.grad.abs().max().item() <= 25.5


def test_loss_floors_are_those_of_a_sigmoid_of_a_cosine() -> None:
    config = ADeepPixBiSConfig(clamp_eps=1e-7)
    assert a_bce(torch.tensor([1.0]), torch.ones(1), config).item() == pytest.approx(0.3477, abs=3e-4)
    assert a_bce(torch.tensor([-1.0]), torch.zeros(1), config).item() == pytest.approx(0.3133, abs=5e-5)


def test_scale_multiplies_the_logits() -> None:
    config = ADeepPixBiSConfig(scale=8.0, margin_mode="none")
    c = torch.tensor([0.25])
    assert a_bce(c, torch.ones(1), config).item() == pytest.approx(math.log1p(math.exp(-2.0)), rel=1e-6)
    assert a_bce(c, torch.zeros(1), config).item() == pytest.approx(math.log1p(math.exp(2.0)), rel=1e-6)


def test_labels_are_given_per_image_or_per_element() -> None:
    cosines = some_cosines(2)
    per_image = a_bce(cosines.map, torch.tensor([1, 0]), ADeepPixBiSConfig())
    per_cell = torch.tensor([1.0, 0.0]).reshape(2, 1, 1).expand(2, SIDE, SIDE)
    assert torch.equal(per_image, a_bce(cosines.map, per_cell, ADeepPixBiSConfig()))
    with pytest.raises(BatchError, match="labels of shape"):
        a_bce(cosines.map, torch.ones(3), ADeepPixBiSConfig())


def test_full_networks_have_the_published_numbers_of_parameters() -> None:
    with torch.device("meta"):
        methods = [ADeepPixBiS(densenet161_trunk()), DeepPixBiS(densenet161_trunk())]
    assert [sum(p.numel() for p in m.parameters()) for m in methods] == [3_300_485, 3_198_726]


def test_full_networks_map_224_pixels_to_14_cells() -> None:
    x = torch.empty(2, 3, 224, 224, device="meta")
    with torch.device("meta"):
        cosines = ADeepPixBiS(densenet161_trunk())(x)
        logits = DeepPixBiS(densenet161_trunk())(x)
    assert [tuple(part.shape) for part in cosines] == [(2, 14, 14), (2,), (14, 14)]
    assert [tuple(part.shape) for part in logits] == [(2, 14, 14), (2,)]


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
    model = tiny()
    baseline = DeepPixBiS(TinyTrunk(), DeepPixBiSConfig(map_side=SIDE))
    for method in (model, baseline):
        with pytest.raises(BatchError, match=r"\(N, 3, 64, 64\)"):
            method(torch.rand(shape))


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


def test_networks_export_without_labels_and_compute_the_same() -> None:
    for method in (tiny().eval(), DeepPixBiS(TinyTrunk(), DeepPixBiSConfig(map_side=SIDE)).eval()):
        program = torch.export.export(method, (images(1),)).module()
        with torch.no_grad():
            for exported, eager in zip(program(images(1)), method(images(1)), strict=True):
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


def test_deeppixbis_reads_the_map_after_its_sigmoid() -> None:
    torch.manual_seed(0)
    model = DeepPixBiS(TinyTrunk(), DeepPixBiSConfig(map_side=SIDE)).eval()
    with torch.no_grad():
        outputs = model(images())
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
        model = DeepPixBiS(TinyTrunk(), DeepPixBiSConfig(map_side=2, pixel_smoothing=smoothing))
        losses = model.loss(outputs, labels)
        assert losses.pixel.item() == pytest.approx(pixel, rel=1e-6)
        assert losses.image.item() == pytest.approx(math.log(2.0), rel=1e-6)
        assert losses.total.item() == pytest.approx((pixel + math.log(2.0)) / 2, rel=1e-6)
    smoothed = DeepPixBiS(TinyTrunk(), DeepPixBiSConfig(map_side=2)).loss(
        PixelLogits(outputs.map[:1], outputs.image[:1]), torch.ones(1)
    )
    assert smoothed.pixel.item() == pytest.approx(-0.99 * math.log(0.8) - 0.01 * math.log(0.2), rel=1e-6)


def test_deeppixbis_scores_are_the_mean_of_the_map_the_image_and_both() -> None:
    outputs = PixelLogits(torch.tensor([[[0.0, math.log(3.0)]]]), torch.tensor([math.log(4.0)]))
    scores = DeepPixBiS(TinyTrunk()).scores(outputs)
    assert scores["map"].item() == pytest.approx((0.5 + 0.75) / 2)
    assert scores["binary"].item() == pytest.approx(0.8)
    assert scores["combined"].item() == pytest.approx((0.625 + 0.8) / 2)


@pytest.mark.parametrize("settings", [{"lambda_pixel": -0.1}, {"pixel_smoothing": 0.5}, {"map_side": 0}])
def test_deeppixbis_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        DeepPixBiSConfig(**settings)  # type: ignore[arg-type]
