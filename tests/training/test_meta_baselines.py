"""RFMeta's baselines: each against the same thing done in a plainer way."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from tests.training.fixtures.domain_batches import distance, domains, gradients, slopes, statistics, tiny
from tests.training.fixtures.meta_processes import all_gradients, worker
from training.errors import BatchError, ConfigError
from training.methods.meta_baselines import (
    BASELINES,
    Mldg,
    MldgConfig,
    Reptile,
    ReptileConfig,
    build_baseline,
    objective,
)
from training.methods.meta_step import MetaStepConfig, merged
from training.methods.rfmeta import RFMeta, RFMetaConfig, class_loss

RATE = 0.05


def classifier(dtype: torch.dtype = torch.float32) -> RFMeta:
    return tiny(dtype=dtype, depth_head=False, depth_weight=0.0)


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_every_row_gives_gradients_to_everything_that_it_trains(name: str) -> None:
    torch.manual_seed(0)
    model, trained = build_baseline(name, RFMetaConfig(input_side=32, width=1 / 16))
    losses = trained.backward(domains())
    assert torch.isfinite(losses.total)
    assert not losses.total.requires_grad
    expected = {n for n, _ in model.named_parameters() if name != "rfmeta-without-depth" or "estimator" not in n}
    found = gradients(model)
    assert found.keys() == expected
    assert all(torch.isfinite(value).all() for value in found.values())


def test_rows_differ_as_the_tables_of_the_paper_say() -> None:
    steps = {name: row.step for name, row in BASELINES.items()}
    assert steps["rfmeta"] == MetaStepConfig(order="second", domains="separate", inner_rate=1e-3)
    assert steps["rfmeta-first-order"] == MetaStepConfig(order="first")
    assert steps["rfmeta-aggregation"] == MetaStepConfig(domains="aggregated")
    depth = {name: build_baseline(name, RFMetaConfig().for_cpu())[0].estimator is not None for name in BASELINES}
    assert {name for name, there in depth.items() if not there} == {"binary-cnn", "mldg", "reptile"}


def test_the_binary_network_is_f_and_m_with_cross_entropy_on_the_pooled_domains() -> None:
    model, plain = classifier(), classifier()
    losses = objective(model, BASELINES["binary-cnn"].step).backward(domains(depth=False))
    pooled = merged(domains(depth=False))
    loss = class_loss(plain.classify(pooled.images), pooled.labels)
    loss.backward()
    assert losses.total.item() == pytest.approx(loss.item(), rel=1e-6)
    assert distance(gradients(model), gradients(plain)) < 1e-6


def test_mldg_is_the_loss_of_the_train_domains_plus_that_of_the_test_domain_after_a_step_of_the_whole_network() -> None:
    batches, model = domains(dtype=torch.float64), classifier(torch.float64)
    losses = Mldg(model, MldgConfig(inner_rate=RATE, meta_test_weight=0.5)).backward(batches)
    plain = classifier(torch.float64)
    train = [class_loss(plain.classify(b.images), b.labels) for b in batches[:2]]
    mean = (train[0] + train[1]) / 2
    mean.backward()  # type: ignore[no-untyped-call]
    torch.optim.SGD(plain.parameters(), lr=RATE).step()
    test = class_loss(plain.classify(batches[2].images), batches[2].labels)
    assert losses.train_class.tolist() == pytest.approx([loss.item() for loss in train])
    assert losses.test_class.tolist() == pytest.approx([test.item()])
    assert losses.total.item() == pytest.approx(mean.item() + 0.5 * test.item())


def test_mldg_s_second_order_gradient_is_that_of_its_value() -> None:
    batches, model = domains(dtype=torch.float64), classifier(torch.float64)
    mldg = Mldg(model, MldgConfig(inner_rate=RATE))
    slope, difference = slopes(model, lambda: mldg.losses(batches).total)
    assert slope == pytest.approx(difference, rel=1e-5)


def test_mldg_of_first_order_has_another_gradient_and_leaves_the_statistics_to_the_train_domains() -> None:
    found = []
    for second_order in (True, False):
        model = classifier()
        Mldg(model, MldgConfig(inner_rate=RATE, second_order=second_order)).backward(domains())
        found.append(gradients(model))
    assert distance(*found) > 1e-4
    plain = classifier()
    for batch in domains()[:2]:
        plain(batch.images)
    assert distance(statistics(model), statistics(plain)) < 1e-6


def test_reptile_points_from_where_sgd_ends_on_each_domain_to_the_start() -> None:
    batches, model = domains(dtype=torch.float64), classifier(torch.float64)
    expected = [torch.zeros_like(p) for p in model.parameters()]
    for batch in batches:
        walker: nn.Module = copy.deepcopy(model)
        optimiser = torch.optim.SGD(walker.parameters(), lr=RATE)
        for _ in range(3):
            optimiser.zero_grad()
            class_loss(walker(batch.images).logit, batch.labels).backward()
            optimiser.step()
        for total, start, end in zip(expected, model.parameters(), walker.parameters(), strict=True):
            total.add_((start - end).detach() / RATE / len(batches))
    Reptile(model, ReptileConfig(inner_rate=RATE, inner_steps=3)).backward(batches)
    for parameter, value in zip(model.parameters(), expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, value, rtol=1e-8, atol=1e-10)


def test_reptile_with_one_step_is_joint_training_and_adds_to_gradients_that_are_there() -> None:
    model, plain = classifier(), classifier()
    reptile = Reptile(model, ReptileConfig(inner_steps=1))
    losses = reptile.backward(domains())
    reptile.backward(domains())
    total = torch.stack([class_loss(plain.classify(b.images), b.labels) for b in domains()]).mean()
    (2.0 * total).backward()  # type: ignore[no-untyped-call]
    assert losses.total.item() == pytest.approx(total.item(), rel=1e-6)
    assert distance(gradients(model), gradients(plain)) < 1e-5


def test_two_processes_find_the_gradients_of_one_on_the_joined_batch(tmp_path: Path) -> None:
    mp.spawn(worker, args=(2, str(tmp_path)), nprocs=2)
    shared = torch.load(tmp_path / "gradients.pt", weights_only=True)
    alone = all_gradients(0, 1)
    assert shared.keys() == alone.keys() == {"second", "first", "mldg", "reptile"}
    for name, expected in alone.items():
        assert distance(expected, shared[name]) < 1e-9, name
    assert distance(alone["second"], alone["first"]) > 1e-6


def test_impossible_rows_settings_and_batches_are_refused() -> None:
    with pytest.raises(ConfigError, match="maml"):
        build_baseline("maml")
    for settings in (MldgConfig(), ReptileConfig()):
        with pytest.raises(ConfigError, match="depth_head=False"):
            objective(tiny(), settings)
    with pytest.raises(ConfigError, match="inner_rate"):
        MldgConfig(inner_rate=-1.0)
    with pytest.raises(ConfigError, match="inner_rate"):
        ReptileConfig(inner_rate=0.0)
    with pytest.raises(ConfigError, match="inner_steps"):
        ReptileConfig(inner_steps=0)
    with pytest.raises(BatchError, match="two domains"):
        Mldg(classifier()).backward(domains(1))
    with pytest.raises(BatchError, match="one domain"):
        Reptile(classifier()).backward([])
