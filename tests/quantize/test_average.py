"""Means of students' weights: what is averaged, what is kept of their notes, what is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from typer.testing import CliRunner

from fasedge.cards import sha256_of
from quantize.__main__ import app
from quantize.average import mean_of
from quantize.distill import load_task
from quantize.errors import CheckpointMismatchError
from quantize.export import empty_student
from quantize.facts import network_notes
from training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.config import InputConfig, MethodConfig, TrainConfig

CONFIG = TrainConfig(
    method=MethodConfig(name="binary-trunk", trunk="plain_xs"), input=InputConfig(size_px=64, crop_scale=1.1)
)


def student(path: Path, seed: int, *, config: TrainConfig = CONFIG, **note: str | float) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = empty_student(config)
    metadata = {"config": msgspec.to_builtins(config), "epoch": 2, "dev_auc": 0.7, "dev_eer": 0.3, "note": note}
    save_checkpoint(path, network.state_dict(), metadata)
    return path


def test_every_tensor_is_the_weighted_mean_and_counters_are_the_firsts(tmp_path: Path) -> None:
    one, two = (load_checkpoint(student(tmp_path / f"{seed}.safetensors", seed)) for seed in (1, 2))
    counters = [name for name, tensor in one.tensors.items() if not tensor.is_floating_point()]
    for name in counters:
        two.tensors[name] += 5
    tensors, _ = mean_of([one, two], [3.0, 1.0])
    assert tensors.keys() == one.tensors.keys()
    assert len(counters) < len(tensors)
    for name, tensor in tensors.items():
        expected = one.tensors[name] if name in counters else 0.75 * one.tensors[name] + 0.25 * two.tensors[name]
        torch.testing.assert_close(tensor, expected)
        assert tensor.dtype == one.tensors[name].dtype


def test_the_command_writes_a_student_that_says_what_it_is_the_mean_of(tmp_path: Path) -> None:
    one = student(tmp_path / "1.safetensors", 1, teacher_sha256="a, b", alpha=1.0, steady=0.6)
    two = student(tmp_path / "2.safetensors", 2, teacher_sha256="b, c", alpha=1.0, steady=0.4)
    out = tmp_path / "mean.safetensors"
    result = CliRunner().invoke(app, ["average", str(one), str(two), "--out", str(out)])
    assert result.exit_code == 0, result.output
    task, config = load_task(out)
    assert config == CONFIG
    crops = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    assert torch.isfinite(task.pooled(crops)).all()
    metadata = load_checkpoint(out).metadata
    assert metadata["note"] == {
        "alpha": 1.0,
        "teacher_sha256": "a, b, c",
        "averaged_sha256": f"{sha256_of(one)}, {sha256_of(two)}",
        "averaged_weights": "0.5, 0.5",
        "averaged_seeds": "42, 42",
        "averaged_epochs": "2, 2",
    }
    # Measured on one of them.
    assert not {"dev_auc", "dev_eer"} & metadata.keys()
    notes = network_notes(config.method, msgspec.convert(metadata["note"], dict[str, str | float | bool]))
    assert "taught by 3 full-precision networks" in notes
    assert "the mean of the weights of 2 students" in notes


def test_a_student_averaged_with_itself_stays_what_it_is(tmp_path: Path) -> None:
    one = load_checkpoint(student(tmp_path / "1.safetensors", 1))
    tensors, _ = mean_of([one, one, one])
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, one.tensors[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (msgspec.structs.replace(CONFIG, input=InputConfig(size_px=80, crop_scale=1.1)), "sees other pictures"),
        (msgspec.structs.replace(CONFIG, method=MethodConfig(name="binary-trunk", trunk="plain_s")), "another network"),
    ],
)
def test_other_networks_and_inputs_are_refused(tmp_path: Path, config: TrainConfig, message: str) -> None:
    paths = [student(tmp_path / "1.safetensors", 1), student(tmp_path / "2.safetensors", 2, config=config)]
    with pytest.raises(CheckpointMismatchError, match=message):
        mean_of([load_checkpoint(path) for path in paths])


def test_other_tensors_are_refused(tmp_path: Path) -> None:
    one = load_checkpoint(student(tmp_path / "1.safetensors", 1))
    other = Checkpoint({**one.tensors, "more": torch.zeros(1)}, one.metadata, tmp_path / "other")
    with pytest.raises(CheckpointMismatchError, match="other tensors: more"):
        mean_of([one, other])


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_impossible_weights_are_refused(tmp_path: Path, weights: list[float]) -> None:
    one = load_checkpoint(student(tmp_path / "1.safetensors", 1))
    with pytest.raises(CheckpointMismatchError, match="positive --weight"):
        mean_of([one, one], weights)


def test_one_student_is_no_average(tmp_path: Path) -> None:
    with pytest.raises(CheckpointMismatchError, match="at least two"):
        mean_of([load_checkpoint(student(tmp_path / "1.safetensors", 1))])
