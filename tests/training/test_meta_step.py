"""The step of RFMeta: closed form, finite differences, batch-norm rules, switches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.training.fixtures.domain_batches import distance, domain, domains, gradients, slopes, statistics, tiny
from training.errors import BatchError, ConfigError, DataError
from training.methods.meta_step import (
    MetaStep,
    MetaStepConfig,
    forward_with,
    inner_step,
    merged,
    meta_losses,
    reestimate_norm,
)
from training.methods.rfmeta import class_loss

ALPHA = 0.3


def test_the_gradient_through_a_linear_learner_is_one_minus_alpha_hessian_times_the_gradient() -> None:
    generator = torch.Generator().manual_seed(1)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    (x, y), (u, v), theta = (randn(7, 3), randn(7)), (randn(5, 3), randn(5)), randn(3).requires_grad_()
    for second_order in (True, False):
        loss = 0.5 * (x @ theta - y).square().mean()
        moved = inner_step({"theta": theta}, loss, ALPHA, second_order=second_order)["theta"]
        (gradient,) = torch.autograd.grad(0.5 * (u @ moved - v).square().mean(), theta)
        hessian = x.T @ x / 7
        after = theta.detach() - ALPHA * (hessian @ theta.detach() - x.T @ y / 7)
        torch.testing.assert_close(moved.detach(), after)
        there = u.T @ (u @ after - v) / 5
        expected = (torch.eye(3, dtype=torch.float64) - ALPHA * hessian) @ there if second_order else there
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("aggregated", [False, True])
def test_second_order_gradients_of_the_whole_step_are_those_of_its_value(aggregated: bool) -> None:
    config = MetaStepConfig(inner_rate=ALPHA, domains="aggregated" if aggregated else "separate")
    model, batches = tiny(dtype=torch.float64), domains(dtype=torch.float64)
    slope, difference = slopes(model, lambda: meta_losses(model, batches, config).total)
    assert slope == pytest.approx(difference, rel=1e-5)


def test_first_order_gradients_are_not_those_of_the_value() -> None:
    config = MetaStepConfig(inner_rate=ALPHA, order="first")
    model, batches = tiny(dtype=torch.float64), domains(dtype=torch.float64)
    slope, difference = slopes(model, lambda: meta_losses(model, batches, config).total)
    assert slope != pytest.approx(difference, rel=1e-3)


def test_gradcheck_accepts_the_step_through_a_smooth_learner() -> None:
    learner = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0)).double()
    names = [name for name, _ in learner.named_parameters()]
    generator = torch.Generator().manual_seed(2)
    one, other = (torch.randn(6, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.tensor([0, 1, 0, 1, 0, 1])

    def outer(features: Tensor, *values: Tensor) -> Tensor:
        parameters = dict(zip(names, values, strict=True))
        loss = class_loss(forward_with(learner, parameters, features), labels)
        moved = inner_step(parameters, loss, ALPHA, second_order=True)
        return class_loss(forward_with(learner, moved, other), labels)

    values = [p.detach().clone().requires_grad_() for p in learner.parameters()]
    assert torch.autograd.gradcheck(outer, (one.requires_grad_(), *values))


def test_first_and_second_order_have_the_same_losses_but_other_gradients() -> None:
    found = {}
    for order in ("second", "first"):
        model = tiny()
        losses = MetaStep(model, MetaStepConfig(order=order)).backward(domains())  # type: ignore[arg-type]
        found[order] = losses, gradients(model)
    for one, other in zip(found["second"][0], found["first"][0], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    for part in ("learner", "extractor"):
        second, first = ({k: v for k, v in found[o][1].items() if k.startswith(part)} for o in ("second", "first"))
        assert 1e-5 < distance(second, first) < 0.2, part
    depth = [{k: v for k, v in found[o][1].items() if k.startswith("estimator")} for o in ("second", "first")]
    assert distance(*depth) < 1e-6  # no path leads from the inner gradient to D


def test_the_objective_is_the_sum_of_losses_computed_one_by_one() -> None:
    batches, model = domains(dtype=torch.float64), tiny(dtype=torch.float64)
    losses = meta_losses(model, batches, MetaStepConfig(inner_rate=ALPHA, meta_test_weight=0.5))
    by_hand, classes, depths, tests = tiny(dtype=torch.float64), [], [], []
    for batch in batches:
        part = by_hand.loss(by_hand(batch.images), batch.labels, batch.depth)
        classes.append(part.binary.item())
        depths.append(part.depth.item())
    for batch in batches[:2]:
        # A plain optimiser on a network of its own, F standing still.
        other = tiny(dtype=torch.float64)
        optimiser = torch.optim.SGD(other.learner.parameters(), lr=ALPHA)
        class_loss(other.classify(batch.images), batch.labels).backward()
        optimiser.step()
        tests.append(class_loss(other.classify(batches[2].images), batches[2].labels).item())
    assert losses.train_class.tolist() == pytest.approx(classes[:2])
    assert losses.train_depth.tolist() == pytest.approx(depths[:2])
    assert losses.test_class.tolist() == pytest.approx(tests)
    assert losses.test_depth.tolist() == pytest.approx(depths[2:])
    total = sum(classes[:2]) + 10 * sum(depths[:2]) + 0.5 * (sum(tests) + 10 * depths[2])
    assert losses.total.item() == pytest.approx(total)


def test_the_learner_s_running_statistics_never_see_the_meta_test_domain() -> None:
    batches = domains()
    seen = []
    for test in (domain(77), domain(78)):
        model = tiny()
        MetaStep(model).backward([*batches[:2], test])
        seen.append((statistics(model.learner), statistics(model.extractor)))
    assert distance(seen[0][0], seen[1][0]) == 0.0
    assert distance(seen[0][1], seen[1][1]) > 1e-3  # F runs on the meta-test domain and does see it
    plain = tiny()
    for batch in batches[:2]:
        plain(batch.images)
    assert distance(seen[0][0], statistics(plain.learner)) < 1e-6


def test_with_momentum_one_the_learner_keeps_the_last_meta_train_batch_only() -> None:
    model = tiny(learner_norm_momentum=1.0)
    MetaStep(model).backward(domains())
    alone = tiny(learner_norm_momentum=1.0)
    alone(domains()[1].images)
    counters = [name for name, _ in model.learner.named_buffers() if name.endswith("num_batches_tracked")]
    one, other = statistics(model.learner), statistics(alone.learner)
    for name in counters:
        assert (one.pop(name).item(), other.pop(name).item()) == (2, 1)
    assert distance(one, other) < 1e-6


def test_the_inner_step_moves_the_learner_s_parameters_only_and_none_in_place() -> None:
    model, (batch, *_) = tiny(), domains()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    parameters = dict(model.learner.named_parameters())
    loss = class_loss(model.classify(batch.images), batch.labels)
    moved = inner_step(parameters, loss, ALPHA, second_order=True)
    assert moved.keys() == parameters.keys()
    # All but the convolutions' biases, which a batch norm takes away again.
    still = [name for name in moved if torch.allclose(moved[name], parameters[name], rtol=0, atol=1e-7)]
    assert all(name.endswith(".0.bias") for name in still)
    MetaStep(model).backward(domains())
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())


def test_without_an_inner_step_all_meta_test_losses_are_equal() -> None:
    losses = meta_losses(tiny(), domains(4), MetaStepConfig(inner_rate=0.0))
    assert losses.test_class.shape == (3,)
    torch.testing.assert_close(losses.test_class, losses.test_class[0].expand(3), rtol=0, atol=0)
    moved = meta_losses(tiny(), domains(4), MetaStepConfig(inner_rate=ALPHA)).test_class
    assert len(set(moved.tolist())) == 3


def test_aggregation_is_the_step_with_one_joined_meta_train_domain() -> None:
    batches, found = domains(), []
    for step, config in (
        (batches, MetaStepConfig(domains="aggregated")),
        ([merged(batches[:2]), batches[2]], MetaStepConfig()),
    ):
        model = tiny()
        losses = MetaStep(model, config).backward(step)
        assert (len(losses.train_class), len(losses.test_class)) == (1, 1)
        found.append((losses.total.item(), gradients(model)))
    assert found[0][0] == found[1][0]
    assert distance(found[0][1], found[1][1]) == 0.0


def test_without_meta_learning_the_step_is_plain_training_on_every_domain() -> None:
    model, plain = tiny(), tiny()
    losses = MetaStep(model, MetaStepConfig(order="none")).backward(domains())
    assert losses.test_class.shape == losses.test_depth.shape == (0,)
    total = sum(plain.loss(plain(b.images), b.labels, b.depth).total for b in domains())
    assert isinstance(total, Tensor)
    total.backward()  # type: ignore[no-untyped-call]
    assert losses.total.item() == pytest.approx(total.item(), rel=1e-6)
    assert distance(gradients(model), gradients(plain)) < 1e-6


def test_without_a_depth_weight_no_depth_is_asked_for_and_the_estimator_gets_no_gradient() -> None:
    model = tiny(depth_weight=0.0)
    losses = MetaStep(model).backward(domains(depth=False))
    assert losses.total.item() == pytest.approx((losses.train_class.sum() + losses.test_class.sum()).item(), rel=1e-6)
    assert not any(name.startswith("estimator") for name in gradients(model))


def test_the_same_seed_gives_the_same_step_to_the_bit() -> None:
    found = []
    for _ in range(2):
        model = tiny()
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
        for _ in range(3):
            optimiser.zero_grad()
            losses = MetaStep(model).backward(domains())
            optimiser.step()
        found.append((losses.total.item(), model.state_dict()))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(found[0][1][name], found[1][1][name]) for name in found[0][1])


def test_training_learns_what_the_domains_have_in_common() -> None:
    model = tiny()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    first = last = float("nan")
    for step in range(15):
        optimiser.zero_grad()
        losses = MetaStep(model).backward(domains())
        optimiser.step()
        last = losses.total.item()
        first = last if step == 0 else first
    assert last < 0.7 * first


def test_under_autocast_losses_are_float32_and_close_to_those_without() -> None:
    plain, mixed = tiny(), tiny()
    expected = MetaStep(plain).backward(domains())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = meta_losses(mixed, domains(), MetaStepConfig())
    assert all(value.dtype == torch.float32 for value in losses)
    losses.total.backward()  # type: ignore[no-untyped-call]
    assert losses.total.item() == pytest.approx(expected.total.item(), rel=0.05)
    assert all(torch.isfinite(value).all() for value in gradients(mixed).values())


def test_reestimated_statistics_are_the_plain_average_over_the_batches() -> None:
    model = tiny()
    MetaStep(model).backward(domains())
    model.eval()
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    batches = [merged(domains()).images, merged([domain(5), domain(6)]).images, domain(9, count=6).images]
    assert reestimate_norm(model, batches) == 3
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(weights[name], value) for name, value in model.named_parameters())
    norm = model.extractor.stem[1]
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        seen = [model.extractor.stem[0](x) for x in batches]
    mean = torch.stack([x.mean(dim=(0, 2, 3)) for x in seen]).mean(0)
    variance = torch.stack([x.transpose(0, 1).flatten(1).var(dim=1) for x in seen]).mean(0)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, variance)
    assert norm.momentum == 0.1


def test_reestimation_without_a_batch_says_so_and_changes_nothing() -> None:
    model = tiny()
    MetaStep(model).backward(domains())
    before = statistics(model)
    with pytest.raises(DataError, match="at least one batch"):
        reestimate_norm(model, [])
    assert distance(before, statistics(model)) == 0.0
    assert model.training


def test_too_few_domains_and_missing_depth_are_refused() -> None:
    with pytest.raises(BatchError, match="at least 2 domains"):
        meta_losses(tiny(), domains(1), MetaStepConfig())
    with pytest.raises(BatchError, match="depth targets"):
        meta_losses(tiny(), domains(depth=False), MetaStepConfig())
    with pytest.raises(BatchError, match="for all 2 domains"):
        merged([domain(0), domain(1, depth=False)])
    with pytest.raises(BatchError, match="at least one"):
        merged([])


@pytest.mark.parametrize(
    "settings", [{"order": "third"}, {"domains": "both"}, {"inner_rate": -1.0}, {"meta_test_weight": float("nan")}]
)
def test_settings_out_of_range_are_refused_by_name(settings: dict[str, object]) -> None:
    (name,) = settings
    with pytest.raises(ConfigError, match=name):
        MetaStepConfig(**settings)  # type: ignore[arg-type]
