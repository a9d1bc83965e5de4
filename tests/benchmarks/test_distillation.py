"""Every way of teaching gets as many samples, runs that are on record are left alone, and the table groups them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from typer.testing import CliRunner

from benchmarks.candidates import Candidate, read_candidates
from benchmarks.distillation import WAYS, app, rows, samples_of
from benchmarks.transfer import RealResult
from tests.benchmarks.tiny_captures import write_captures
from tests.training.fixtures.evaluation_sets import write_set
from tests.training.fixtures.toy_sets import toy_set
from training.build import BinaryTask
from training.checkpoint import save_checkpoint
from training.config import InputConfig, MethodConfig, TrainConfig
from training.data.joined import joined

_CONFIG = """
seed = 1
[input]
size_px = 32
[method]
name = "binary-trunk"
trunk = "plain_s"
[optimiser]
batch = 4
keep = "last"
[machine]
ahead = 0
[augment]
brightness = {brightness}
"""


def test_every_way_gets_as_many_samples() -> None:
    train, other = toy_set(16), toy_set(10, seed=1)
    everything = joined([train, other])
    assert samples_of(WAYS["no teacher"], train, everything, 1) is train
    mixed = samples_of(WAYS["the same, and other pictures"], train, everything, 1)
    assert len(mixed) == 16
    assert 0 < sum(row in set(map(id, other.table)) for row in map(id, mixed.table)) < 16
    again = samples_of(WAYS["the same, and other pictures"], train, everything, 1)
    assert [row.index for row in mixed.table] == [row.index for row in again.table]


def test_rows_of_a_table_are_means_over_seeds() -> None:
    def one(name: str, crops: float) -> Candidate:
        real = (RealResult(size="112b", crop_scale=1.4, per_source=(crops,), pooled=crops, clip_frames=crops, clips=1),)
        return Candidate(name=name, trunk="t", size_px=32, crop_scale=1.4, dev_auc=0.5, flips=0.1, real=real)

    found = rows([one("a, seed 1", 0.6), one("a, seed 2", 0.8), one("b, more, seed 1", 0.7)])
    assert [row[:2] for row in found] == [["a", "2"], ["b, more", "1"]]
    assert found[0][4:] == ["0.700 (0.60 to 0.80)"] * 2


@pytest.mark.slow
def test_students_are_taught_scored_and_not_taught_again(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    torch.manual_seed(0)
    config = TrainConfig(input=InputConfig(size_px=32), method=MethodConfig(name="binary-trunk", trunk="plain_s"))
    save_checkpoint(
        tmp_path / "teacher.safetensors",
        BinaryTask(config).module.state_dict(),
        {"config": msgspec.to_builtins(config)},
    )
    for name, brightness in (("plain", 0.0), ("diverse", 0.5)):
        (tmp_path / f"{name}.toml").write_text(_CONFIG.format(brightness=brightness))
    train, others = write_set(tmp_path / "train", toy_set(8)), write_set(tmp_path / "others", toy_set(8, seed=1))
    dev, captures = write_set(tmp_path / "dev", toy_set(8, split="dev")), write_captures(tmp_path / "captures")
    out = tmp_path / "out.jsonl"
    arguments = [
        "run", tmp_path / "plain.toml", "--train", train, "--dev", dev, "--captures", captures,
        "--teacher", tmp_path / "teacher.safetensors", "--diverse", tmp_path / "diverse.toml",
        "--diverse-train", others, "--out", out, "--runs", tmp_path / "runs", "--epochs", 1, "--warmup-steps", 0,
        "--seeds", "1", "--only", "no teacher", "--only", "the same, and steady answers",
    ]  # fmt: skip
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    names = [c.name for c in read_candidates(out)]
    assert names == ["no teacher, seed 1", "the same, and steady answers, seed 1"]
    before = out.read_bytes()
    assert CliRunner().invoke(app, list(map(str, arguments))).exit_code == 0
    assert out.read_bytes() == before
    wrong = CliRunner().invoke(app, [*map(str, arguments), "--only", "osmosis"])
    assert "osmosis" in str(wrong.exception)
