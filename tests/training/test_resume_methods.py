"""Two epochs in one go are one epoch, a kill in the second, and another start: to the bit, for every kind of step.

Where the run is saved after every step, nothing is done twice.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from tests.training.fixtures.rgbd_sets import rgbd_set
from training import meta_task
from training.build import build_task
from training.checkpoint import load_checkpoint
from training.config import AugmentConfig, InputConfig, MachineConfig, MethodConfig, OptimiserConfig, TrainConfig
from training.evaluation.runs import load_run
from training.loop import HISTORY, LAST, RECORD, EpochRecord, StepRecord, Trainer
from training.runlog import LOG
from training.scoring import score_batches
from training.tasks import as_step_task

TRAIN, DEV = rgbd_set(16), rgbd_set(6, "dev")


def settings(name: str, *, save_minutes: float = 10) -> TrainConfig:
    return TrainConfig(
        input=InputConfig(size_px=64, crop_scale=1.2),
        method=MethodConfig(name=name, width=0.125),
        optimiser=OptimiserConfig(batch=8, epochs=2, learning_rate=1e-3),
        augment=AugmentConfig(shift=0.1, zoom=0.1),
        machine=MachineConfig(device="cpu", save_minutes=save_minutes, log_every=1),
    )


def run(config: TrainConfig, out: Path, seed: int, stop_at: tuple[int, int] | None = None) -> list[float]:
    """Losses of the steps; the process ends, as far as the run can tell, after one of them."""
    losses = []

    def note(record: StepRecord) -> None:
        losses.append(record.loss)
        if (record.epoch, record.step) == stop_at:
            raise KeyboardInterrupt

    torch.manual_seed(seed)
    trainer = Trainer(as_step_task(build_task(config)), config, TRAIN, DEV, out, progress=note)
    if stop_at is None:
        list(trainer.run())
    else:
        with pytest.raises(KeyboardInterrupt):
            list(trainer.run())
    return losses


def history(out: Path) -> list[EpochRecord]:
    return [msgspec.json.decode(line, type=EpochRecord) for line in (out / HISTORY).read_bytes().splitlines()]


def steps_logged(out: Path) -> list[str]:
    return [line.split(",")[1] for line in (out / LOG).read_text().splitlines()[1:]]


@pytest.mark.parametrize("name", ["a-deeppixbis", "cmfl", "rfmeta", "cdcn"])
@pytest.mark.parametrize("within", [False, True], ids=["from the epoch's start", "from the last step"])
def test_a_run_that_was_killed_ends_with_the_same_losses_and_weights(
    tmp_path: Path, name: str, within: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meta_task, "REESTIMATION_BATCHES", 2)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    config, whole, parts = settings(name, save_minutes=0 if within else 10), tmp_path / "whole", tmp_path / "parts"
    losses = run(config, whole, seed=0)
    assert len(losses) == len(set(losses)) == 4
    assert run(config, parts, seed=0, stop_at=(2, 1)) == losses[:3]
    # Other first weights: all that counts comes from the checkpoint.
    assert run(config, parts, seed=1) == losses[3 if within else 2 :]
    one, two = (load_checkpoint(folder / LAST) for folder in (whole, parts))
    assert one.metadata == two.metadata
    assert [r.loss for r in history(parts)] == [r.loss for r in history(whole)]
    assert steps_logged(parts) == steps_logged(whole) == ["1", "2", "3", "4"]
    assert all(torch.equal(value, two.tensors[key]) for key, value in one.tensors.items())
    assert ("depth_targets" in (whole / RECORD).read_text()) == (name in {"rfmeta", "cdcn"})
    torch.set_num_threads(before)


def test_the_last_epoch_of_averaged_weights_is_stored_with_the_statistics_that_it_was_scored_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch normalisation is measured anew before an epoch is scored; read back, the scores are the same."""
    monkeypatch.setattr(meta_task, "REESTIMATION_BATCHES", 2)
    config = settings("rfmeta")
    config = msgspec.structs.replace(config, optimiser=msgspec.structs.replace(config.optimiser, average=0.5))
    scored: list[np.ndarray] = []

    class Listening(Trainer):
        def _dev_scores(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
            scored.append(super()._dev_scores())
            return scored[-1]

    torch.manual_seed(0)
    list(Listening(as_step_task(build_task(config)), config, TRAIN, DEV, tmp_path).run())
    loaded = load_run(tmp_path)
    assert loaded.record.checkpoint == "last"
    scores = score_batches(loaded.task.score_batch, loaded.task.module, DEV, config)
    np.testing.assert_allclose(scores, scored[-1], atol=1e-6)
