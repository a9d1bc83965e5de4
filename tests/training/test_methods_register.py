"""The seam between methods and the loop: a method of one's own, and every registered one for a step."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest
import torch
from torch import Tensor, nn

from tests.training.fixtures.rgbd_sets import rgbd_set
from tests.training.fixtures.toy_sets import ToyTask, toy_set
from training.build import METHODS, build_task, looks_at_depth, method_settings, with_options
from training.config import AugmentConfig, InputConfig, MachineConfig, MethodConfig, OptimiserConfig, TrainConfig
from training.errors import ConfigError
from training.loop import Trainer
from training.meta_task import DomainTask
from training.methods.cmfl import CMFLConfig
from training.methods.meta_step import MetaStep, MetaStepConfig
from training.tasks import Batch, MethodStep, Needs, as_step_task


@pytest.fixture(autouse=True)
def one_cpu_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def settings(name: str = "fake", **parts: object) -> TrainConfig:
    defaults: dict[str, object] = {
        "input": InputConfig(size_px=32, crop_scale=1.5),
        "method": MethodConfig(name=name, width=0.125),
        "optimiser": OptimiserConfig(batch=8, epochs=1, learning_rate=1e-3),
        "machine": MachineConfig(device="cpu"),
    }
    return TrainConfig(**(defaults | parts))


class Fake(ToyTask):
    """A method of its own: sees colour and depth of each domain, makes its own gradients, settles before scoring."""

    needs = Needs(depth=True, domains=True, gradients=True, settle=2)

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Mapping[str, Batch]] = []
        self.settled: list[int] = []

    def training_step(self, batches: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        self.seen.append(batches)
        losses = {name: super(Fake, self).loss(batch.rgb, batch.labels) for name, batch in batches.items()}
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        return {"total": total.detach()} | {name: loss.detach() for name, loss in losses.items()}

    def settle(self, batches: Iterator[Mapping[str, Batch]]) -> None:
        self.settled.append(len([*batches]))

    def score_batch(self, batch: Batch) -> Tensor:
        assert batch.depth is not None
        return self.score(batch.rgb)


def test_a_method_with_a_step_of_its_own_gets_what_it_asks_for(tmp_path: Path) -> None:
    task, train, dev = Fake(), rgbd_set(16), rgbd_set(8, "dev")
    before = {name: value.clone() for name, value in task.module.named_parameters()}
    list(Trainer(task, settings(), train, dev, tmp_path).run())
    # Two domains of 8, half of each class: 4 of each per step.
    assert len(task.seen) == 2
    assert task.settled == [2]
    for batches in task.seen:
        assert set(batches) == {"office", "studio"}
        for name, batch in batches.items():
            assert (set(batch.domains), batch.labels.sum()) == ({name}, 2)
            assert batch.depth is not None
            assert tuple(batch.depth.shape) == (4, 32, 32)
    assert any(not torch.equal(value, before[name]) for name, value in task.module.named_parameters())
    header, *rows = (tmp_path / "log.csv").read_text().splitlines()
    assert header == "epoch,step,learning_rate,samples_per_s,loss,loss_office,loss_studio"
    assert len(rows) == 1
    total, *parts = (float(value) for value in rows[0].split(",")[4:])
    assert total == pytest.approx(sum(parts), rel=1e-5)


def test_gradients_that_a_step_makes_itself_are_averaged_over_the_passes(tmp_path: Path) -> None:
    class Constant(Fake):
        needs = Needs(gradients=True)
        passes = 0

        def training_step(self, batches: Mapping[str, Batch]) -> Mapping[str, Tensor]:
            self.passes += 1
            for parameter in self.module.parameters():
                own = torch.full_like(parameter, float(self.passes))
                parameter.grad = own if parameter.grad is None else parameter.grad + own
            return {"total": torch.tensor(1.0)}

        def score_batch(self, batch: Batch) -> Tensor:
            return self.score(batch.rgb)

    task, o = Constant(), OptimiserConfig(batch=4, epochs=1, accumulate=3)
    list(Trainer(task, settings(optimiser=o), toy_set(12), toy_set(8, split="dev"), tmp_path).run())
    assert task.passes == 3
    # (1 + 2 + 3) / 3
    assert all(bool((p.grad == 2).all()) for p in task.module.parameters() if p.grad is not None)


def test_accumulated_gradients_are_those_of_the_joined_batch(tmp_path: Path) -> None:
    """Without augmentation, and with frozen batch normalisation, where a batch is no more than its samples."""
    still, found = AugmentConfig(flip=0, brightness=0, contrast=0, saturation=0), []
    for batch, accumulate in ((12, 1), (4, 3)):
        o = OptimiserConfig(batch=batch, accumulate=accumulate, epochs=1, frozen_norm=True)
        task, config = ToyTask(), settings(optimiser=o, augment=still)
        (record,) = Trainer(task, config, toy_set(12), toy_set(8, split="dev"), tmp_path / str(batch)).run()
        found.append((record.loss, {name: p.grad for name, p in task.module.named_parameters()}))
    (one_loss, one), (three_loss, three) = found
    assert three_loss == pytest.approx(one_loss, rel=1e-6)
    for name, gradient in one.items():
        assert gradient is not None
        torch.testing.assert_close(three[name], gradient, rtol=1e-4, atol=1e-7)
        assert gradient.any()


def test_a_plain_task_sees_mixed_batches(tmp_path: Path) -> None:
    step = as_step_task(ToyTask())
    assert step.needs == Needs()
    assert as_step_task(step) is step


def test_a_method_that_cannot_be_compiled_says_so(tmp_path: Path) -> None:
    task = Fake()
    task.needs = Needs(depth=True, compiles=False)  # type: ignore[misc]
    config = settings(machine=MachineConfig(device="cpu", compile=True))
    with pytest.raises(ConfigError, match=r"machine\.compile = false"):
        Trainer(task, config, rgbd_set(8), rgbd_set(8, "dev"), tmp_path)


def test_compiling_is_asked_of_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, *_, **__: asked.append(self))
    task = ToyTask()
    Trainer(task, settings(machine=MachineConfig(device="cpu", compile=True)), toy_set(8), toy_set(8, split="dev"),
            tmp_path)  # fmt: skip
    assert asked == [task.module]


#: A step of each kind; the others differ in configuration only.
@pytest.mark.parametrize("name", ["deeppixbis", "cmfl", "mc-pixbis", "deeppixbis-depth", "rfmeta", "reptile", "cdcn"])
def test_a_registered_method_trains_in_the_loop(tmp_path: Path, name: str) -> None:
    options = {"reestimate_norm": False} if name in {"rfmeta", "reptile"} else {}
    config = settings(method=MethodConfig(name=name, width=0.125, options=options))
    task = as_step_task(build_task(config))
    before = {key: value.clone() for key, value in task.module.named_parameters()}
    (record,) = Trainer(task, config, rgbd_set(8), rgbd_set(8, "dev"), tmp_path).run()
    assert record.loss > 0
    moved = [key for key, value in task.module.named_parameters() if not torch.equal(value, before[key])]
    assert len(moved) > len(before) / 2


@pytest.mark.parametrize("name", METHODS)
def test_which_networks_look_at_depth_is_known_before_they_are_made(name: str) -> None:
    assert as_step_task(build_task(settings(name))).needs.depth == looks_at_depth(name)


def test_unknown_methods_and_options_are_named() -> None:
    with pytest.raises(ConfigError, match=r"method.name must be one of a-deeppixbis, .*cmfl.*, got 'cdcnx'"):
        build_task(settings("cdcnx"))
    wrong = MethodConfig(name="cmfl", options={"gama": 2.0})
    with pytest.raises(ConfigError, match=r"options\.gama is unknown to cmfl; it has .*gamma"):
        build_task(settings(method=wrong))
    with pytest.raises(ConfigError, match="expected a run of the method 'a-deeppixbis'"):
        method_settings(settings("cmfl"))
    with pytest.raises(ConfigError, match="cmfl is built on densenet161"):
        build_task(settings(method=MethodConfig(name="cmfl", trunk="efficientnet_lite0")))


def test_options_change_a_methods_settings_and_are_checked_by_it() -> None:
    changed = with_options(CMFLConfig(), MethodConfig(name="cmfl", options={"gamma": 0, "detach_weight": True}))
    assert (changed.gamma, changed.detach_weight, changed.beta) == (0.0, True, 0.5)
    with pytest.raises(ConfigError, match="Expected `float`, got `str`"):
        with_options(CMFLConfig(), MethodConfig(name="cmfl", options={"gamma": "much"}))
    with pytest.raises(ConfigError, match="beta"):
        with_options(CMFLConfig(), MethodConfig(name="cmfl", options={"beta": 2.0}))


@pytest.mark.parametrize(
    ("method", "more", "named"),
    [
        (MethodConfig(name="rfmeta", trunk="efficientnet_lite0"), {}, "method.trunk"),
        (MethodConfig(name="rfmeta", weights="a.pth", margin=0.5), {}, "method.weights, method.margin"),
        (MethodConfig(name="cmfl", scale=4.0), {}, "method.scale"),
        (MethodConfig(name="deeppixbis", profile="paper"), {}, "method.profile"),
        (MethodConfig(name="cdcn", pretrained=True), {}, "method.pretrained"),
        (MethodConfig(name="binary-cnn"), {"input": InputConfig(size_px=32, brightness=True)}, "input.brightness"),
    ],
)
def test_settings_that_a_method_would_not_read_are_refused(
    method: MethodConfig, more: dict[str, object], named: str
) -> None:
    with pytest.raises(ConfigError, match=f"{method.name} does not read {named}; leave it out"):
        build_task(settings(method=method, **more))


def test_options_of_rfmeta_reach_its_step_and_its_network() -> None:
    def parts(name: str, **options: float) -> DomainTask:
        task = build_task(settings(method=MethodConfig(name=name, width=0.125, options=options)))
        assert isinstance(task, DomainTask)
        return task

    moved = parts("rfmeta-first-order", inner_rate=0.25, meta_test_weight=2, depth_weight=3.0)
    assert isinstance(moved.objective, MetaStep)
    assert moved.objective.config == MetaStepConfig(order="first", inner_rate=0.25, meta_test_weight=2.0)
    assert moved.module.config.depth_weight == 3.0
    assert parts("reptile", inner_steps=5).objective.config.inner_steps == 5  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="inner_steps is unknown to rfmeta"):
        parts("rfmeta", inner_steps=5)


def test_the_register_has_the_methods_of_the_papers_and_they_log_missing_weights(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert {"a-deeppixbis", "cmfl", "rfmeta", "deeppixbis", "mc-pixbis", "binary-cnn"} <= set(METHODS)
    with caplog.at_level(logging.WARNING, logger="training"):
        task = build_task(settings("late-fusion"))
    assert isinstance(task, MethodStep)
    assert "from scratch" in caplog.text
    assert msgspec.to_builtins(settings("cmfl"))["method"]["options"] == {}
