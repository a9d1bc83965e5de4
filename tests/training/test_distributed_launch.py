"""``torchrun … -m training fit``: two processes from the command line, from the start and from a checkpoint.

Batch normalisation keeps its statistics and nothing is augmented, so two processes learn what one does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from tests.training.fixtures.toy_sets import toy_set
from training.build import build_task
from training.checkpoint import load_checkpoint
from training.config import load_config
from training.data.samples import SampleSet
from training.loop import HISTORY, LAST, RECORD, StepRecord, Trainer

pytestmark = pytest.mark.slow  # interpreters that import torch: four workers and two launchers

CONFIG = """
seed = 5
[input]
size_px = 32
crop_scale = 1.5
[method]
trunk = "densenet161"
width = 0.05
[optimiser]
batch = 6
epochs = 2
frozen_norm = true
[augment]
flip = 0.0
brightness = 0.0
contrast = 0.0
saturation = 0.0
[machine]
log_every = 1
save_minutes = 0
"""


def written(samples: SampleSet, folder: Path) -> Path:
    """A set on disk."""
    folder.mkdir(parents=True)
    np.save(folder / "pictures.npy", np.stack([samples.picture(i) for i in range(len(samples))]))
    (folder / "table.jsonl").write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in samples.table))
    (folder / "set.json").write_bytes(msgspec.json.encode(samples.info))
    return folder


class Runs:
    """Sets, a configuration, and how to train on them.

    Args:
        folder: Where they are.
        repository: Root of the checkout.
    """

    def __init__(self, folder: Path, repository: Path) -> None:
        self._folder, self._repository = folder, repository
        self._train = written(toy_set(12), folder / "train")
        self._dev = written(toy_set(6, split="dev"), folder / "dev")
        self.config = folder / "run.toml"
        self.config.write_text(CONFIG)

    def alone(self, name: str, stop_at: tuple[int, int] | None = None) -> Path:
        """Train in this process; after a step of an epoch, stop as if killed."""

        def stop(record: StepRecord) -> None:
            if (record.epoch, record.step) == stop_at:
                raise KeyboardInterrupt

        config, out = load_config(self.config), self._folder / name
        torch.manual_seed(config.seed)
        sets = (SampleSet.load(self._train), SampleSet.load(self._dev))
        with suppress(KeyboardInterrupt):
            list(Trainer(build_task(config), config, *sets, out, progress=stop).run())
        return out

    def launched(self, name: str) -> Path:
        """Train in two processes that ``torchrun`` starts."""
        out = self._folder / name
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        fit = ["-m", "training", "fit", self.config, "--train", self._train, "--dev", self._dev, "--out", out]
        done = subprocess.run(
            [*launcher, *fit, "--device", "cpu"],
            cwd=self._repository,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(self._repository)},
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
        )
        # The launcher fails if any of its processes does.
        assert done.returncode == 0, done.stderr
        # One process talks.
        assert done.stdout.count("epoch 2: loss") == 1
        return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Runs:
    return Runs(tmp_path_factory.mktemp("launch"), repository)


@pytest.fixture(scope="module")
def expected(runs: Runs) -> list[float]:
    """Losses of each epoch, of one process."""
    return losses(runs.alone("alone"))


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / HISTORY).read_text().splitlines()]


def test_torchrun_trains_one_run_in_two_processes_and_learns_what_one_process_does(
    runs: Runs, expected: list[float]
) -> None:
    out = runs.launched("pair")
    assert {path.name for path in out.iterdir()} == {
        "best.safetensors", "last.safetensors", "history.jsonl", "log.csv", "run.json",
    }  # fmt: skip
    record = json.loads((out / RECORD).read_text())
    assert (record["processes"], record["device"]) == (2, "cpu")
    assert load_checkpoint(out / LAST).metadata["epoch"] == 2
    # A header, and a line for each of two epochs' two steps.
    assert len((out / "log.csv").read_text().splitlines()) == 1 + 2 * 2
    assert losses(out) == pytest.approx(expected, rel=1e-5)
    assert abs(expected[0] - expected[1]) > 1e-2 * expected[0]


def test_torchrun_goes_on_within_an_epoch_of_an_interrupted_run(runs: Runs, expected: list[float]) -> None:
    out = runs.alone("interrupted", stop_at=(2, 1))
    (first,) = (out / HISTORY).read_text().splitlines()
    assert json.loads((out / RECORD).read_text())["processes"] == 1
    assert runs.launched("interrupted") == out
    assert (out / HISTORY).read_text().splitlines()[0] == first
    # The loss of the first step of the second epoch is that of the one process; the other step is of two.
    assert len((out / "log.csv").read_text().splitlines()) == 1 + 2 * 2
    # An optimiser that had lost its moments would be a thousandth off in the second epoch.
    assert losses(out) == pytest.approx(expected, rel=1e-5)
    assert json.loads((out / RECORD).read_text())["processes"] == 2
    assert load_checkpoint(out / LAST).metadata["epoch"] == 2
