"""``python -m training fit``, killed by the system and started again: the same bytes as without."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.training.fixtures.evaluation_sets import write_set
from tests.training.fixtures.toy_sets import toy_set
from training.loop import HISTORY, LAST
from training.runlog import LOG

CONFIG = """
[input]
size_px = 32
crop_scale = 1.5
[method]
trunk = "densenet161"
width = 0.0625
[optimiser]
batch = 4
epochs = 2
average = 0.9
[augment]
noise = 5.0
shift = 0.05
[machine]
device = "cpu"
log_every = 1
"""
_PATIENCE_S = 120


def epochs_logged(out: Path) -> set[str]:
    """Epochs of which a step stands in the log."""
    lines = (out / LOG).read_text().splitlines()[1:] if (out / LOG).is_file() else []
    return {line.split(",", 1)[0] for line in lines}


def kill_in_epoch_two(command: Sequence[str], out: Path, environment: dict[str, str]) -> None:
    """Start a run and kill it as soon as it has made a step of its second epoch."""
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        until = time.monotonic() + _PATIENCE_S
        while "2" not in epochs_logged(out):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.002)
        process.kill()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_run_that_the_system_killed_ends_with_the_same_bytes(tmp_path: Path, repository: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(CONFIG)
    sets = [write_set(tmp_path / split, toy_set(n, split=split)) for split, n in (("train", 160), ("dev", 24))]
    environment = os.environ | {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    fit = [
        sys.executable,
        "-m",
        "training",
        "fit",
        str(config),
        "--train",
        str(sets[0]),
        "--dev",
        str(sets[1]),
        "--out",
    ]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    subprocess.run([*fit, str(whole)], env=environment, stdout=subprocess.DEVNULL, check=True)
    kill_in_epoch_two([*fit, str(parts)], parts, environment)
    assert len((parts / HISTORY).read_text().splitlines()) == 1
    before = (parts / LAST).read_bytes()
    subprocess.run([*fit, str(parts)], env=environment, stdout=subprocess.DEVNULL, check=True)
    assert (parts / LAST).read_bytes() == (whole / LAST).read_bytes() != before
    assert len((parts / HISTORY).read_text().splitlines()) == 2
