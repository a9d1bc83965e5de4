"""Which epoch is kept: by equal error rate, ACER, the method's own loss, or the last one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from tests.training.fixtures.rgbd_sets import rgbd_set
from tests.training.fixtures.toy_sets import ToyTask, toy_row, toy_set
from training import keep, loop
from training.build import build_task
from training.checkpoint import load_checkpoint, save_checkpoint
from training.config import InputConfig, MachineConfig, MethodConfig, OptimiserConfig, TrainConfig
from training.data.batches import plain_batch
from training.data.samples import SampleSet, SetInfo
from training.distributed import Processes
from training.errors import ConfigError, DataError, DivergedError
from training.keep import DevJudge
from training.loop import BEST, LAST, EpochRecord, Trainer
from training.tasks import Needs, StepTask, as_step_task

TRAIN, DEV = toy_set(32), toy_set(24, split="dev")


@pytest.fixture(autouse=True)
def one_cpu_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def settings(rule: str, epochs: int = 3, name: str = "a-deeppixbis") -> TrainConfig:
    return TrainConfig(
        input=InputConfig(size_px=32, crop_scale=1.5),
        method=MethodConfig(name=name, width=0.125),
        optimiser=OptimiserConfig(batch=8, epochs=epochs, learning_rate=1e-2, keep=rule),  # type: ignore[arg-type]
        machine=MachineConfig(device="cpu"),
    )


def judged(config: TrainConfig, dev: SampleSet, task: StepTask | None = None) -> DevJudge:
    return DevJudge(task or as_step_task(build_task(config)), config, dev, range(len(dev)))


def test_acer_is_that_of_the_worst_species_at_the_threshold_of_the_equal_error_rate() -> None:
    labels, species = [1] * 4 + [0] * 8, ["bona_fide"] * 4 + ["print"] * 6 + ["replay"] * 2
    rows = [toy_row(i, label, species=name) for i, (label, name) in enumerate(zip(labels, species, strict=True))]
    dev = SampleSet(np.zeros((12, 48, 48, 3), np.uint8), rows, SetInfo(split="dev", seed=0, n=12))
    scores = np.array([0.9, 0.8, 0.7, 0.2, *[0.1] * 6, 0.85, 0.75])
    # One of 4 bona fide is rejected and 2 of 8 attacks are accepted, both replays: 25 % against 25 %.
    assert judged(settings("eer"), dev).value(scores) == 0.25
    assert judged(settings("acer"), dev).value(scores) == (2 / 2 + 1 / 4) / 2
    assert judged(settings("last"), dev).value(scores) is None


def test_the_loss_is_the_methods_own_over_the_whole_dev_set_in_evaluation_mode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = settings("loss")
    task = build_task(config)
    monkeypatch.setattr(keep, "_AT_ONCE", 5)
    before = {name: value.clone() for name, value in task.module.state_dict().items()}
    found = judged(config, DEV, as_step_task(task)).value(np.zeros(24))
    assert task.module.training
    assert all(torch.equal(value, before[name]) for name, value in task.module.state_dict().items())
    task.module.eval()
    with torch.no_grad():
        whole = plain_batch(DEV, range(24), config, Needs())
        wanted = float(task.loss(whole.rgb, whole.labels))  # type: ignore[union-attr]
    assert found == pytest.approx(wanted, rel=1e-5)


def test_the_loss_of_a_method_that_learns_depth_compares_depth() -> None:
    config, dev = settings("loss", name="cdcn"), rgbd_set(6, "dev")
    task = as_step_task(build_task(config))
    found = judged(config, dev, task).value(np.zeros(6))
    assert found is not None
    assert 0 < found < math.inf
    with pytest.raises(DataError, match="the dev set has none"):
        judged(config, DEV, task)


def test_every_process_adds_its_share_to_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings("loss")
    task = as_step_task(build_task(config))
    dev = toy_set(7, split="dev")
    alone = judged(config, dev, task).value(np.zeros(7))
    shares: list[float] = []
    for rank in (0, 1):
        monkeypatch.setattr(keep, "processes", lambda rank=rank: Processes(rank, 2))
        monkeypatch.setattr(keep, "gathered", lambda own: shares.append(own) or [own])
        judged(config, dev, task).value(np.zeros(7))
    monkeypatch.setattr(keep, "gathered", lambda _: shares)
    assert judged(config, dev, task).value(np.zeros(7)) == pytest.approx(alone, rel=1e-5)


def test_a_step_that_makes_its_own_gradients_has_no_loss_of_the_dev_set() -> None:
    with pytest.raises(ConfigError, match=r"keep = 'loss' is not for rfmeta: .* choose 'last', 'eer' or 'acer'"):
        judged(settings("loss", name="rfmeta"), rgbd_set(6, "dev"))


def test_a_loss_that_is_no_number_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    task = ToyTask()
    monkeypatch.setattr(task, "loss", lambda *_: torch.tensor(math.nan))
    with pytest.raises(DivergedError, match="loss of the dev set"):
        judged(settings("loss"), DEV, as_step_task(task)).value(np.zeros(24))


@pytest.mark.parametrize(
    ("rule", "kept", "value"), [("loss", [True, True, False, True], 0.3), ("last", [True] * 4, None)]
)
def test_rule_and_value_stand_in_history_and_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str, kept: list[bool], value: float | None
) -> None:
    losses = iter([0.7, 0.5, 0.5, 0.3])
    monkeypatch.setattr(DevJudge, "_loss", lambda _: next(losses))
    records = list(Trainer(ToyTask(), settings(rule, epochs=4), TRAIN, DEV, tmp_path).run())
    assert [record.kept for record in records] == kept
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [line["keep"] for line in lines] == [rule] * 4
    assert lines[-1]["value"] == value
    meta = load_checkpoint(tmp_path / BEST).metadata
    assert (meta["epoch"], meta["keep"], meta["keep_value"]) == (4, rule, value)
    assert ("dev loss 0.3000" in records[-1].line()) == (rule == "loss")


@pytest.mark.parametrize("rule", ["acer", "loss", "last"])
def test_a_resumed_run_keeps_the_same_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    """The second epoch is the best: who forgot it would keep the third."""
    values = {"whole": iter([0.5, 0.1, 0.3]), "parts": iter([0.5, 0.1, 0.3])}
    for name, stops in (("whole", [3]), ("parts", [2, 3])):
        monkeypatch.setattr(DevJudge, "value", lambda *_, n=name: None if rule == "last" else next(values[n]))
        for stop in stops:
            for record in Trainer(ToyTask(), settings(rule), TRAIN, DEV, tmp_path / name).run():
                if record.epoch == stop:
                    break
    whole, parts = (load_checkpoint(tmp_path / name / BEST) for name in ("whole", "parts"))
    assert whole.metadata == parts.metadata
    assert whole.metadata["epoch"] == (3 if rule == "last" else 2)
    assert all(torch.equal(value, parts.tensors[name]) for name, value in whole.tensors.items())
    last = [load_checkpoint(tmp_path / name / LAST).metadata for name in ("whole", "parts")]
    assert last[0] == last[1]


def test_a_run_from_before_there_was_a_choice_goes_on_with_the_equal_error_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "score_batches", lambda *_, **__: np.linspace(0, 1, len(DEV)))
    config = settings("eer", epochs=2)
    next(Trainer(ToyTask(), config, TRAIN, DEV, tmp_path).run())
    old = load_checkpoint(tmp_path / LAST)
    meta = json.loads(json.dumps(old.metadata))
    del meta["config"]["optimiser"]["keep"]
    save_checkpoint(tmp_path / LAST, old.tensors, meta)
    line = json.loads((tmp_path / "history.jsonl").read_text())
    for name in ("keep", "value", "kept"):
        del line[name]
    assert msgspec.convert(line, EpochRecord).keep == ""
    (record,) = Trainer(ToyTask(), config, TRAIN, DEV, tmp_path).run()
    # Equal to the first, which stays.
    assert (record.epoch, record.keep, record.kept) == (2, "eer", False)
    assert load_checkpoint(tmp_path / BEST).metadata["epoch"] == 1
