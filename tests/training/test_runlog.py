"""What a run leaves behind beside its checkpoints: the log of its steps, TensorBoard where there is one."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from tests.training.fixtures.toy_sets import ToyTask, toy_set
from training.config import InputConfig, MachineConfig, MethodConfig, OptimiserConfig, TrainConfig
from training.errors import ConfigError
from training.loop import StepRecord, Trainer
from training.runlog import hashed_people, surroundings
from training.tasks import MIXED, Batch, Needs


class Writer:
    """What stands in for TensorBoard's writer: keeps what it is told."""

    made: list[Writer]

    def __init__(self, folder: str) -> None:
        self.folder, self.told, self.closed = folder, list[tuple[str, float, int]](), 0
        self.made.append(self)

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        assert not self.closed
        self.told.append((tag, value, step))

    def close(self) -> None:
        self.closed += 1


class TwoLosses(ToyTask):
    """Logs more than its total."""

    needs = Needs()

    def training_step(self, batches: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        total = self.loss(batches[MIXED].rgb, batches[MIXED].labels)
        return {"total": total, "half": total / 2}

    def score_batch(self, batch: Batch) -> Tensor:
        return self.score(batch.rgb)


TRAIN, DEV = toy_set(32), toy_set(24, split="dev")


def settings(machine: MachineConfig) -> TrainConfig:
    o = OptimiserConfig(batch=8, epochs=2, learning_rate=1e-2)
    return TrainConfig(input=InputConfig(size_px=16, crop_scale=1.5), optimiser=o, machine=machine)


def test_the_log_has_a_line_for_some_steps_and_for_the_end_of_an_epoch(tmp_path: Path) -> None:
    told: list[StepRecord] = []
    config = settings(MachineConfig(device="cpu", log_every=3))
    records = list(Trainer(ToyTask(), config, TRAIN, DEV, tmp_path, progress=told.append).run())
    header, *rows = (line.split(",") for line in (tmp_path / "log.csv").read_text().splitlines())
    assert header == ["epoch", "step", "learning_rate", "samples_per_s", "loss"]
    assert [(row[0], row[1]) for row in rows] == [("1", "3"), ("1", "4"), ("2", "7"), ("2", "8")]
    losses = [record.loss for record in told]
    assert [(t.epoch, t.step, t.steps) for t in told] == [(e, s, 4) for e in (1, 2) for s in (1, 2, 3, 4)]
    # Means over the steps of a line, in the order of the steps.
    wanted = [sum(losses[:3]) / 3, losses[3], sum(losses[4:7]) / 3, losses[7]]
    assert [float(row[4]) for row in rows] == pytest.approx(wanted)
    assert records[0].loss == pytest.approx(sum(losses[:4]) / 4)


def test_tensorboard_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    config = settings(MachineConfig(device="cpu", tensorboard=True))
    with pytest.raises(ConfigError, match="pip install tensorboard"):
        list(Trainer(ToyTask(), config, TRAIN, DEV, tmp_path).run())


def test_the_record_tells_who_was_trained_on_by_the_hash_of_their_names(tmp_path: Path) -> None:
    # `printf %s "$name" | sha256sum | cut -c-12`
    assert hashed_people(["Zoë", "abc", "abc"]) == ["ba7816bf8f01", "c6a12698582f"]
    list(Trainer(ToyTask(), settings(MachineConfig(device="cpu")), TRAIN, DEV, tmp_path).run())
    people = json.loads((tmp_path / "run.json").read_text())["people"]
    assert people == hashed_people(f"train_{i}" for i in range(5))
    assert not set(people) & set(hashed_people(row.identity for row in DEV.table))


@pytest.mark.parametrize(
    ("method", "told"),
    [
        (MethodConfig(), "none: trained from scratch, not as the paper does"),
        (MethodConfig(name="score-fusion"), "none: trained from scratch, not as the paper does"),
        (MethodConfig(name="rfmeta"), "not applicable"),
        (MethodConfig(name="mldg"), "not applicable"),
        (MethodConfig(name="cdcn"), "not applicable"),
        (MethodConfig(name="lbp-svm"), "not applicable"),
        (MethodConfig(trunk="efficientnet_lite0", pretrained=True), "ImageNet"),
    ],
)
def test_the_record_tells_what_the_trunk_started_from(method: MethodConfig, told: str) -> None:
    around = surroundings(TrainConfig(method=method), torch.device("cpu"), 1)
    assert around["trunk_weights"] == told
    assert "trunk_weights_sha256" not in around


def test_a_file_of_weights_is_told_with_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"abc")
    method = MethodConfig(weights=str(path))
    around = surroundings(TrainConfig(method=method), torch.device("cpu"), 1)
    # NIST's example for SHA-256.
    wanted = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (around["trunk_weights"], around["trunk_weights_sha256"]) == (str(path), wanted)


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[Writer]:
    """Writers that are made while TensorBoard seems to be installed."""
    Writer.made = []
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return Writer.made


def test_tensorboard_gets_the_figures_of_the_log_and_of_the_history_and_is_closed(
    tmp_path: Path, writers: list[Writer]
) -> None:
    config = settings(MachineConfig(device="cpu", log_every=3, tensorboard=True))
    list(Trainer(TwoLosses(), config, TRAIN, DEV, tmp_path).run())
    (writer,) = writers
    assert (Path(writer.folder), writer.closed) == (tmp_path / "tensorboard", 1)
    with (tmp_path / "log.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["step"]) for row in rows] == [3, 4, 7, 8]
    wanted = [
        (tag, float(row[tag]), int(row["step"]))
        for row in rows
        for tag in ("learning_rate", "samples_per_s", "loss", "loss_half")
    ]
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    # Epochs of four steps: dev is told at the step that it was scored after.
    wanted += [(tag, epoch[tag], 4 * epoch["epoch"]) for epoch in history for tag in ("dev_auc", "dev_eer")]
    assert sorted(writer.told) == sorted(wanted)
    assert len(writer.told) == 4 * 4 + 2 * 2


def test_tensorboard_gets_nothing_unless_it_is_asked_for(tmp_path: Path, writers: list[Writer]) -> None:
    list(Trainer(ToyTask(), settings(MachineConfig(device="cpu")), TRAIN, DEV, tmp_path).run())
    assert not writers
