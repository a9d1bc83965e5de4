"""CMFL: golden values and slopes of the loss, network, profiles, scores, colour without depth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, binary_cross_entropy_with_logits

from training.backbones import Trunk, densenet161_trunk
from training.errors import BatchError, ConfigError
from training.methods.cmfl import (
    CMFL,
    CMFLConfig,
    StreamLogits,
    cross_modal_focal_loss,
    densenet_cmfl,
    log_cross_weight,
)

# p, q, y, w(p_t, q_t), w(q_t, p_t), CMFL_p, CMFL_q, half their sum, its slope in p, its slope in q
GOLDEN = [
    (0.9, 0.6, 1, 0.432000, 0.648000, 0.019307, 0.022279, 0.020793, -0.20729, -0.15660),
    (0.6, 0.9, 1, 0.648000, 0.432000, 0.022279, 0.019307, 0.020793, -0.15660, -0.20729),
    (0.1, 0.1, 1, 0.010000, 0.010000, 2.234196, 2.234196, 2.234196, -5.52852, -5.52852),
    (0.99, 0.01, 1, 0.000198, 0.019602, 0.010044, 4.339632, 2.174838, -0.63753, -60.00234),
    (0.2, 0.3, 0, 0.522667, 0.597333, 0.024269, 0.023287, 0.023778, 0.18622, 0.17343),
    (0.5, 0.5, 1, 0.250000, 0.250000, 0.292421, 0.292421, 0.292421, -1.00672, -1.00672),
]
DEFAULT = CMFLConfig()


class TinyTrunk(Trunk):
    """One strided convolution: enough for the heads to have something to read."""

    def __init__(self, in_channels: int) -> None:
        super().__init__(in_channels, 8)
        self.conv = nn.Conv2d(in_channels, 8, kernel_size=16, stride=16)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.conv(x)
        return features


def small(**settings: object) -> CMFL:
    torch.manual_seed(0)
    return densenet_cmfl(CMFLConfig(**settings), width=0.0625)  # type: ignore[arg-type]


def images(count: int = 3, side: int = 32) -> Tensor:
    return torch.rand(count, 4, side, side, generator=torch.Generator().manual_seed(5))


def some_logits(count: int = 6) -> StreamLogits:
    generator = torch.Generator().manual_seed(9)
    return StreamLogits(*(torch.randn(count, generator=generator) * 2.0 for _ in range(3)))


LABELS = torch.tensor([1, 0, 1, 1, 0, 0])


def by_the_formula(p: float, q: float, y: int, gamma: float = 3.0) -> float:
    """The loss in plain numbers, straight from the formula in probabilities."""
    pt, qt = (p, q) if y else (1 - p, 1 - q)
    return -((1 - qt * 2 * pt * qt / (pt + qt)) ** gamma) * math.log(pt)


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: f"p={row[0]},q={row[1]},y={row[2]}")
def test_weights_losses_and_slopes_equal_the_golden_table(row: tuple[float, ...]) -> None:
    p, q, y, w_pq, w_qp, loss_p, loss_q, half, slope_p, slope_q = row
    ps = torch.tensor([p], dtype=torch.float64, requires_grad=True)
    qs = torch.tensor([q], dtype=torch.float64, requires_grad=True)
    log_pt, log_qt = (ps.log(), qs.log()) if y else (torch.log1p(-ps), torch.log1p(-qs))
    assert log_cross_weight(log_pt, log_qt).exp().item() == pytest.approx(w_pq, abs=6e-7)
    assert log_cross_weight(log_qt, log_pt).exp().item() == pytest.approx(w_qp, abs=6e-7)
    labels = torch.tensor([y])
    first = cross_modal_focal_loss(torch.logit(ps), torch.logit(qs), labels, DEFAULT)
    second = cross_modal_focal_loss(torch.logit(qs), torch.logit(ps), labels, DEFAULT)
    assert first.item() == pytest.approx(loss_p, abs=6e-7)
    assert second.item() == pytest.approx(loss_q, abs=6e-7)
    mean = 0.5 * first + 0.5 * second
    assert mean.item() == pytest.approx(half, abs=6e-7)
    mean.sum().backward()
    assert ps.grad is not None
    assert qs.grad is not None
    assert ps.grad.item() == pytest.approx(slope_p, abs=6e-6)
    assert qs.grad.item() == pytest.approx(slope_q, abs=6e-6)


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: f"p={row[0]},q={row[1]},y={row[2]}")
def test_float32_reaches_the_golden_table_too(row: tuple[float, ...]) -> None:
    p, q, y, *_, half, slope_p, slope_q = row
    z = torch.logit(torch.tensor([p, q])).requires_grad_()
    labels = torch.tensor([y])
    first = cross_modal_focal_loss(z[:1], z[1:], labels, DEFAULT)
    mean = 0.5 * first + 0.5 * cross_modal_focal_loss(z[1:], z[:1], labels, DEFAULT)
    assert mean.item() == pytest.approx(half, rel=1e-4)
    mean.sum().backward()
    assert z.grad is not None
    # dp/dz = p (1 − p)
    assert z.grad.tolist() == pytest.approx([slope_p * p * (1 - p), slope_q * q * (1 - q)], rel=1e-4)


@given(p=st.floats(1e-3, 1 - 1e-3), q=st.floats(1e-3, 1 - 1e-3), y=st.integers(0, 1), gamma=st.floats(0.0, 5.0))
def test_the_loss_from_logits_is_the_formula_in_probabilities(p: float, q: float, y: int, gamma: float) -> None:
    z = torch.logit(torch.tensor([[p], [q]], dtype=torch.float64))
    got = cross_modal_focal_loss(z[0], z[1], torch.tensor([y]), CMFLConfig(gamma=gamma)).item()
    assert got == pytest.approx(by_the_formula(p, q, y, gamma), rel=1e-7, abs=1e-12)


@pytest.mark.parametrize("settings", [{}, {"gamma": 0.5}, {"gamma": 1.0}, {"attack_only": True}, {"alpha": 0.25}])
def test_slopes_are_those_of_finite_differences(settings: dict[str, float]) -> None:
    config = CMFLConfig(**settings)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(3)
    z, other = (torch.randn(12, dtype=torch.float64, generator=generator).mul(3).requires_grad_() for _ in range(2))
    labels = torch.tensor([0.0, 1.0, 0.3] * 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: cross_modal_focal_loss(a, b, labels, config), (z, other))


def test_slopes_are_right_where_both_branches_agree_exactly() -> None:
    z = torch.linspace(-4, 4, 9, dtype=torch.float64)
    a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
    labels = torch.tensor([1.0, 0.0, 1.0] * 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x, y: cross_modal_focal_loss(x, y, labels, DEFAULT), (a, b))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("size", [20.0, 100.0, 1e4])
def test_hopeless_and_saturated_logits_have_finite_losses_and_slopes(size: float, gamma: float) -> None:
    z = torch.tensor([size, size, -size, -size]).requires_grad_()
    other = torch.tensor([size, -size, size, -size]).requires_grad_()
    for label in (0.0, 1.0):
        losses = cross_modal_focal_loss(z, other, torch.full((4,), label), CMFLConfig(gamma=gamma))
        losses.sum().backward()
        assert torch.isfinite(losses).all()
        # With γ = 0 nothing depends on the other branch.
        for slopes in (z.grad, other.grad) if gamma else (z.grad,):
            assert slopes is not None
            assert torch.isfinite(slopes).all()
    # What is quite wrong is not discounted at all: the loss is that of the logit.
    wrong = cross_modal_focal_loss(torch.tensor([-size]), torch.tensor([-size]), torch.ones(1), CMFLConfig(gamma=gamma))
    assert wrong.item() == pytest.approx(size, rel=1e-6)


def test_float32_keeps_the_digits_of_branches_that_are_almost_sure() -> None:
    z = torch.tensor([9.0, 12.0, 15.0], dtype=torch.float64)
    exact = cross_modal_focal_loss(z, z - 1.0, torch.ones(3), DEFAULT)
    torch.testing.assert_close(
        cross_modal_focal_loss(z.float(), z.float() - 1.0, torch.ones(3), DEFAULT).double(), exact, rtol=1e-5, atol=0.0
    )


def test_gamma_zero_is_binary_cross_entropy() -> None:
    outputs = some_logits()
    assert outputs.depth is not None
    losses = small(gamma=0.0).loss(outputs, LABELS)
    for loss, logits in ((losses.rgb, outputs.rgb), (losses.depth, outputs.depth)):
        assert loss.item() == pytest.approx(
            binary_cross_entropy(torch.sigmoid(logits), LABELS.float()).item(), rel=1e-5
        )


def test_branches_and_classes_can_be_exchanged() -> None:
    outputs = some_logits()
    assert outputs.depth is not None
    model = small()
    losses = model.loss(outputs, LABELS)
    exchanged = model.loss(StreamLogits(outputs.depth, outputs.rgb, outputs.joint), LABELS)
    assert (exchanged.rgb, exchanged.depth, exchanged.total) == (losses.depth, losses.rgb, losses.total)
    mirrored = model.loss(StreamLogits(-outputs.rgb, -outputs.depth, -outputs.joint), 1 - LABELS)  # type: ignore[operator]
    assert mirrored.total.item() == pytest.approx(losses.total.item(), rel=1e-6)


def test_the_other_branch_has_a_slope_unless_its_weight_is_detached() -> None:
    z, other = torch.tensor([0.3]).requires_grad_(), torch.tensor([0.8]).requires_grad_()
    cross_modal_focal_loss(z, other, torch.ones(1), DEFAULT).sum().backward()
    attached = z.grad
    assert attached is not None
    assert other.grad is not None
    assert other.grad.item() < -1e-2
    z.grad = other.grad = None
    detached = cross_modal_focal_loss(z, other, torch.ones(1), replace(DEFAULT, detach_weight=True))
    assert detached.item() == cross_modal_focal_loss(z, other, torch.ones(1), DEFAULT).item()
    detached.sum().backward()
    assert other.grad is None
    # The branch's own probability inside w stays attached: the flag stops the other branch only.
    torch.testing.assert_close(z.grad, attached)


def test_attack_only_leaves_bona_fide_presentations_their_cross_entropy() -> None:
    config = replace(DEFAULT, attack_only=True)
    z, other = torch.tensor([0.4, 0.4]), torch.tensor([-1.0, -1.0])
    bona_fide, attack = cross_modal_focal_loss(z, other, torch.tensor([1, 0]), config).tolist()
    p, q = 1 / (1 + math.exp(-0.4)), 1 / (1 + math.exp(1.0))
    assert bona_fide == pytest.approx(-math.log(p), rel=1e-5)
    assert attack == pytest.approx(by_the_formula(p, q, 0), rel=1e-5)


def test_a_smoothed_label_mixes_the_losses_of_both_classes() -> None:
    z, other = torch.tensor([0.4]), torch.tensor([-1.0])
    p, q = 1 / (1 + math.exp(-0.4)), 1 / (1 + math.exp(1.0))
    expected = 0.9 * by_the_formula(p, q, 1) + 0.1 * by_the_formula(p, q, 0)
    assert cross_modal_focal_loss(z, other, torch.tensor([0.9]), DEFAULT).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("profile", "branch_weight"), [("default", 0.5), ("official", 0.5), ("paper", 1.0)])
def test_total_weighs_branches_and_joint_head_as_the_profile_says(profile: str, branch_weight: float) -> None:
    config = CMFLConfig.from_profile(profile)  # type: ignore[arg-type]
    assert (config.alpha, config.gamma, config.beta, config.branch_weight) == (1.0, 3.0, 0.5, branch_weight)
    assert (config.detach_weight, config.attack_only) == (False, False)
    assert (config.embed_act, config.normalisation, config.score_head) == ("sigmoid", "unit", "joint")
    outputs = some_logits()
    assert outputs.joint is not None
    losses = CMFL(densenet161_trunk(3, 0.0625), densenet161_trunk(1, 0.0625), config).loss(outputs, LABELS)
    joint = binary_cross_entropy_with_logits(outputs.joint, LABELS.float()).item()
    assert losses.joint.item() == pytest.approx(joint, rel=1e-6)
    expected = 0.5 * branch_weight * (losses.rgb.item() + losses.depth.item()) + 0.5 * joint
    assert losses.total.item() == pytest.approx(expected, rel=1e-6)


def test_the_full_network_has_the_published_number_of_parameters_and_three_logits_per_image() -> None:
    with torch.device("meta"):
        model = densenet_cmfl()
    assert sum(parameter.numel() for parameter in model.parameters()) == 6_388_419
    assert [tuple(part.shape) for part in model(torch.empty(2, 4, 224, 224, device="meta"))] == [(2,)] * 3


def test_heads_read_the_squashed_mean_of_the_features() -> None:
    for act, squash in (("sigmoid", torch.sigmoid), ("identity", lambda x: x)):
        model, x = small(embed_act=act).eval(), images()
        _check_heads(model, x, squash)


def _check_heads(model: CMFL, x: Tensor, squash: Callable[[Tensor], Tensor]) -> None:
    with torch.no_grad():
        outputs = model(x)
        e = squash(model.rgb_trunk(x[:, :3]).flatten(2).mean(2))
        d = squash(model.depth_trunk(x[:, 3:]).flatten(2).mean(2))
        for got, head, embedding in (
            (outputs.rgb, model.rgb_head, e),
            (outputs.depth, model.depth_head, d),
            (outputs.joint, model.joint_head, torch.cat([e, d], 1)),
        ):
            torch.testing.assert_close(got, (embedding * head.weight[0]).sum(1) + head.bias)


def test_imagenet_weights_load_into_both_trunks_and_depth_gets_the_mean_over_colour() -> None:
    torch.manual_seed(1)
    weights = densenet161_trunk().state_dict()
    model = densenet_cmfl(weights=weights)
    conv0 = weights["features.conv0.weight"]
    assert torch.equal(model.rgb_trunk.get_parameter("features.conv0.weight"), conv0)
    red, green, blue = conv0.unbind(1)
    depth = model.depth_trunk.get_parameter("features.conv0.weight")
    torch.testing.assert_close(depth, ((red + green + blue) / 3)[:, None])
    for name, value in weights.items():
        if name != "features.conv0.weight":
            assert torch.equal(model.depth_trunk.state_dict()[name], value), name


def test_leaving_depth_out_does_not_change_what_colour_says() -> None:
    model, x = small().eval(), images()
    with torch.no_grad():
        both, alone = model(x), model.logits(x[:, :3], None)
        other_depth = model(torch.cat([x[:, :3], 1 - x[:, 3:]], 1))
    assert torch.equal(both.rgb, alone.rgb)
    assert torch.equal(both.rgb, other_depth.rgb)
    assert not torch.allclose(both.joint, other_depth.joint)
    assert (alone.depth, alone.joint) == (None, None)
    assert set(model.scores(alone)) == {"rgb"}


def test_missing_depth_is_never_papered_over() -> None:
    model, x = small().eval(), images()
    with pytest.raises(BatchError, match=r"logits\(rgb, None\)"):
        model(x[:, :3])
    with torch.no_grad():
        alone = model.logits(x[:, :3], None)
    with pytest.raises(BatchError, match="needs depth"):
        model.score(alone)
    with pytest.raises(BatchError, match="without depth"):
        model.loss(alone, torch.ones(3))
    rgb_only = small(score_head="rgb").eval()
    assert torch.equal(rgb_only.score(alone), torch.sigmoid(alone.rgb))


def test_scores_are_probabilities_and_their_means() -> None:
    outputs = StreamLogits(torch.tensor([0.0]), torch.tensor([math.log(3)]), torch.tensor([-math.log(4)]))
    model = small()
    # σ(0) = 1/2, σ(ln 3) = 3/4, σ(−ln 4) = 1/5
    expected = {"rgb": 0.5, "depth": 0.75, "joint": 0.2, "both": 0.625, "mean3": 1.45 / 3}
    got = {name: value.item() for name, value in model.scores(outputs).items()}
    assert got == pytest.approx(expected, rel=1e-6)
    assert model.primary_score == "joint"
    for name, value in expected.items():
        assert small(score_head=name).score(outputs).item() == pytest.approx(value, rel=1e-6)


def test_heads_that_learn_nothing_give_no_scores() -> None:
    outputs = some_logits()
    assert set(small(beta=0.0).scores(outputs)) == {"joint"}
    assert set(small(beta=1.0, score_head="both").scores(outputs)) == {"rgb", "depth", "both"}
    with pytest.raises(ConfigError, match="score_head is 'joint'"):
        CMFLConfig(beta=1.0)
    with pytest.raises(ConfigError, match="score_head is 'mean3'"):
        CMFLConfig(beta=0.0, score_head="mean3")


@pytest.mark.parametrize(
    "settings",
    [
        {"alpha": 0.0},
        {"gamma": -1.0},
        {"gamma": math.nan},
        {"beta": 1.5},
        {"branch_weight": 0.0},
        {"embed_act": "relu"},
        {"normalisation": "none"},
        {"score_head": "best"},
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings: dict[str, object]) -> None:
    (name,) = settings
    with pytest.raises(ConfigError, match=name):
        CMFLConfig(**settings)  # type: ignore[arg-type]


def test_unknown_profiles_and_exchanged_trunks_are_refused() -> None:
    with pytest.raises(ConfigError, match="papper"):
        CMFLConfig.from_profile("papper")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="got 1 and 3"):
        CMFL(densenet161_trunk(1, 0.0625), densenet161_trunk(3, 0.0625))


def test_wrong_shapes_are_refused() -> None:
    model = small()
    with pytest.raises(BatchError, match=r"\(N, 3, H, W\)"):
        model(torch.rand(2, 4, 32, 40))
    with pytest.raises(BatchError, match=r"\(N, 1, H, W\)"):
        model.logits(torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32))
    with pytest.raises(BatchError, match="got 1 for 2"):
        model.logits(torch.rand(2, 3, 32, 32), torch.rand(1, 1, 32, 32))
    with pytest.raises(BatchError, match=r"\(6,\)"):
        model.loss(some_logits(), torch.ones(6, 1))
    with pytest.raises(BatchError, match="one shape"):
        cross_modal_focal_loss(torch.ones(3), torch.ones(3), torch.ones(1), DEFAULT)


def test_heads_and_losses_stay_in_float32_under_autocast() -> None:
    model = small()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(images())
        losses = model.loss(outputs, LABELS[:3])
        halves = StreamLogits(*(part.bfloat16() for part in some_logits()))
        raised = model.loss(halves, LABELS)
    assert {part.dtype for part in (*outputs, *losses, *raised)} == {torch.float32}
    losses.total.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_the_network_exports_without_labels_and_computes_the_same() -> None:
    torch.manual_seed(0)
    model = CMFL(TinyTrunk(3), TinyTrunk(1)).eval()
    program = torch.export.export(model, (images(1),)).module()
    with torch.no_grad():
        for exported, eager in zip(program(images(1)), model(images(1)), strict=True):
            torch.testing.assert_close(exported, eager)
