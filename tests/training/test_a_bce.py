"""The angular-margin cross-entropy: golden values, slopes, monotony, behaviour at the ends of the range."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.methods.a_deeppixbis import ADeepPixBiSConfig, MarginMode, a_bce, margin_cosine


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


def test_without_normalised_weights_attacks_are_clamped_too_as_released() -> None:
    # The released code takes the arc cosine of every value: 1.7 counts as cos 0 and -1.7 as cos π.
    values, attacks = torch.tensor([1.7, -1.7], requires_grad=True), torch.zeros(2)
    losses = a_bce(values, attacks, ADeepPixBiSConfig.from_profile("official"))
    losses.sum().backward()
    assert losses.tolist() == pytest.approx([math.log1p(math.e), math.log1p(1 / math.e)], abs=1e-6)
    assert values.grad is not None
    assert values.grad.tolist() == [0.0, 0.0]


def test_the_worst_attacks_keep_their_slope_where_weights_are_normalised() -> None:
    worst = torch.ones(1, requires_grad=True)
    a_bce(worst, torch.zeros(1), ADeepPixBiSConfig()).sum().backward()
    assert worst.grad is not None
    assert worst.grad.item() == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-6)


def test_scale_multiplies_the_logits() -> None:
    config = ADeepPixBiSConfig(scale=8.0, margin_mode="none")
    c = torch.tensor([0.25])
    assert a_bce(c, torch.ones(1), config).item() == pytest.approx(math.log1p(math.exp(-2.0)), rel=1e-6)
    assert a_bce(c, torch.zeros(1), config).item() == pytest.approx(math.log1p(math.exp(2.0)), rel=1e-6)
