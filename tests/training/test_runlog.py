"""What a run leaves behind beside its checkpoints: the log of its steps, TensorBoard where there is one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.training.fixtures.toy_sets import ToyTask, toy_set
from training.config import InputConfig, MachineConfig, OptimiserConfig, TrainConfig
from training.errors import ConfigError
from training.loop import StepRecord, Trainer

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
