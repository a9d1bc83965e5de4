"""Two processes (gloo) train as one does on the joined batch.

Batch normalisation is in evaluation mode (``optimiser.frozen_norm``): otherwise each process normalises by its own
share of the batch, which is another network.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.fixtures.two_processes import one_step
from training.checkpoint import load_checkpoint
from training.distributed import choose_device, mean_over_processes, processes
from training.errors import ConfigError
from training.loop import LAST, RECORD


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """Folder with what two processes left behind."""
    out = tmp_path_factory.mktemp("pair")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.training.fixtures.two_processes", str(out)],
            cwd=repository,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": str(repository)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=500)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(said)
    return out


@pytest.mark.parametrize("kind", ["a-deeppixbis", "meta"])
def test_two_processes_have_the_gradients_of_one_on_the_joined_batch(pair: Path, tmp_path: Path, kind: str) -> None:
    found = [load_file(pair / kind / f"gradients_{rank}.safetensors") for rank in range(2)]
    before = torch.get_num_threads()
    expected = one_step(kind, tmp_path)
    torch.set_num_threads(before)
    assert found[0].keys() == found[1].keys() == expected.keys()
    assert len(expected) >= 8
    for name, gradient in expected.items():
        assert torch.equal(found[0][name], found[1][name]), name
        scale = float(gradient.abs().max())
        assert float((found[0][name] - gradient).abs().max()) <= 2e-5 * scale + 1e-9, name
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-3


def test_the_first_process_writes_one_run_and_says_how_many_there_were(pair: Path) -> None:
    folder = pair / "meta"
    assert {path.name for path in folder.iterdir()} == {
        "best.safetensors", "gradients_0.safetensors", "gradients_1.safetensors", "history.jsonl", "last.safetensors",
        "log.csv", "run.json",
    }  # fmt: skip
    assert '"processes": 2' in (folder / RECORD).read_text()
    assert load_checkpoint(folder / LAST).metadata["epoch"] == 1


def test_a_single_process_averages_nothing() -> None:
    value = torch.tensor([3.0])
    assert (processes().rank, processes().world) == (0, 1)
    assert mean_over_processes(value) is value


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match="GPU 1, but 0 can be used"):
        choose_device("cuda:1")


def test_every_process_of_a_machine_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 2)
