"""Two processes (gloo) train as one does on the joined batch.

Batch normalisation is in evaluation mode (``optimiser.frozen_norm``): otherwise each process normalises by its own
share of the batch, which is another network.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tests.training.fixtures.toy_sets import ToyTask, toy_set
from tests.training.fixtures.two_processes import KINDS, one_step
from training import distributed
from training.checkpoint import load_checkpoint
from training.config import InputConfig, MachineConfig, OptimiserConfig, TrainConfig
from training.distributed import Processes, choose_device, mean_over_processes, processes, synchronise_norm
from training.errors import ConfigError
from training.loop import LAST, RECORD, Trainer
from training.tasks import Batch, Needs, Task


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


@pytest.mark.parametrize("kind", KINDS)
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


@pytest.fixture
def pretended_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, as far as :func:`processes` knows."""
    monkeypatch.setattr(distributed, "processes", lambda: Processes(0, 2))


def small_network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4))
    )


@pytest.mark.usefixtures("pretended_pair")
def test_synchronised_layers_keep_parameters_names_and_settings(caplog: pytest.LogCaptureFixture) -> None:
    net = small_network()
    weights, names, x = list(net.parameters()), list(net.state_dict()), torch.randn(2, 3, 8, 8)
    before = net.eval()(x)
    with caplog.at_level(logging.INFO, "training"):
        synchronise_norm(net, torch.device("cuda", 0))
    assert all(a is b for a, b in zip(net.parameters(), weights, strict=True))
    assert list(net.state_dict()) == names
    assert [type(part) for part in net.modules() if isinstance(part, _BatchNorm)] == [nn.SyncBatchNorm] * 2
    assert isinstance(net[1], nn.SyncBatchNorm)
    assert net[1].momentum == 0.3
    assert torch.equal(net(x), before)
    assert "2 layers take their statistics over 2 processes" in caplog.text


@pytest.mark.usefixtures("pretended_pair")
def test_statistics_are_not_synchronised_on_a_cpu() -> None:
    net = small_network()
    with pytest.raises(ConfigError, match=r"sync_norm works on GPUs only.*this run is on the cpu"):
        synchronise_norm(net, torch.device("cpu"))
    assert not any(isinstance(part, nn.SyncBatchNorm) for part in net.modules())


def test_a_single_process_has_nothing_to_synchronise_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    net = small_network()
    with caplog.at_level(logging.INFO, "training"):
        synchronise_norm(net, torch.device("cpu"))
    assert not any(isinstance(part, nn.SyncBatchNorm) for part in net.modules())
    assert "one process sees the whole batch" in caplog.text


class _GentleTask(ToyTask):
    """A method that learns domain by domain."""

    needs = Needs(domains=True)

    def training_step(self, batches: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        return {"total": torch.stack([self.loss(b.rgb, b.labels) for b in batches.values()]).mean()}

    def score_batch(self, batch: Batch) -> Tensor:
        return self.score(batch.rgb)


@pytest.mark.parametrize(
    ("task", "frozen", "compiled", "message"),
    [
        (_GentleTask(), False, False, "statistics of each domain on its own"),
        (ToyTask(), True, False, "no effect with optimiser.frozen_norm"),
        (ToyTask(), False, True, "torch.compile stops at each synchronised layer"),
    ],
)
def test_statistics_are_not_synchronised_where_that_would_change_a_method_or_nothing(
    task: Task, frozen: bool, compiled: bool, message: str, tmp_path: Path
) -> None:
    config = TrainConfig(
        input=InputConfig(size_px=16),
        optimiser=OptimiserConfig(batch=8, frozen_norm=frozen),
        machine=MachineConfig(device="cpu", sync_norm=True, compile=compiled),
    )
    with pytest.raises(ConfigError, match=message):
        Trainer(task, config, toy_set(16), toy_set(6, split="dev"), tmp_path / "run")


def test_a_run_may_go_on_with_statistics_synchronised() -> None:
    config = TrainConfig(input=InputConfig(size_px=16), machine=MachineConfig(device="cpu", sync_norm=True))
    assert config.learnt() == TrainConfig(input=InputConfig(size_px=16)).learnt()
