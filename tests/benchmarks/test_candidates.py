"""Candidates are judged by their checkpoints, and the front holds those that nobody beats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import torch

from benchmarks.candidates import Candidate, app, front, logits_of, read_candidates, read_latencies
from benchmarks.edge_latency import Timed
from benchmarks.transfer import RealResult
from quantize.students import new_student
from tests.benchmarks.tiny_captures import write_captures
from tests.training.fixtures.evaluation_sets import write_set
from tests.training.fixtures.toy_sets import toy_set
from training.backbones import TRUNKS
from training.checkpoint import save_checkpoint
from training.config import InputConfig, MethodConfig, TrainConfig
from training.errors import ConfigError


def test_the_front_holds_those_that_nobody_beats() -> None:
    cost, worth = [1.0, 2.0, 3.0, 2.0, 4.0], [0.5, 0.8, 0.7, 0.8, 0.9]
    # 3.0 is dearer than 2.0 and worth less; the two equal ones are both on it.
    assert front(cost, worth) == [0, 1, 3, 4]
    assert front([1.0, 2.0], [0.5, 0.5]) == [0]
    assert front([], []) == []


def test_logits_are_those_of_the_scores() -> None:
    wanted = np.array([-3.0, 0.0, 2.0])
    found = logits_of(lambda rgb: torch.sigmoid(rgb[:, 0, 0, 0].double() - 3), np.array([0, 3, 5], np.uint8).reshape(
        3, 1, 1, 1) * np.ones((1, 2, 2, 3), np.uint8))  # fmt: skip
    np.testing.assert_allclose(found, wanted, rtol=1e-9)
    # A score of exactly 1 has a finite logit.
    assert np.isfinite(logits_of(lambda rgb: torch.ones(len(rgb)), np.zeros((2, 2, 2, 3), np.uint8))).all()


def timed(name: str, ratio: float, precision: str = "int8") -> Timed:
    return msgspec.convert(
        {"name": name, "engine": "openvino", "precision": precision, "parameters": 1, "mmac": 1.0, "kilobytes": 400,
         "fastest_ms": ratio, "median_ms": ratio, "ratio": ratio}, Timed,
    )  # fmt: skip


def candidate(name: str, side: int, crops: float) -> Candidate:
    real = tuple(
        RealResult(size=s, crop_scale=1.4, per_source=(crops, crops), pooled=crops, clip_frames=0.5, clips=None)
        for s in ("112", "112b")
    )
    return Candidate(
        name=name, trunk="plain_s", size_px=side, crop_scale=1.4, dev_auc=0.8, flips=0.031, real=real
    )  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    results, latencies = tmp_path / "candidates.jsonl", tmp_path / "latency.json"
    found = [candidate("a", 96, 0.7), candidate("a", 112, 0.8), candidate("b", 128, 0.75)]
    results.write_bytes(b"".join(msgspec.json.encode(c) + b"\n" for c in found))
    times = [timed("plain_s@96", 0.3), timed("plain_s@112", 0.4), timed("plain_s@128", 0.5),
             timed("plain_s@128", 1.5, "fp32")]  # fmt: skip
    latencies.write_bytes(msgspec.json.encode(times))
    return results, latencies


def test_the_table_lists_the_fastest_first_and_marks_the_front(
    files: tuple[Path, Path], call: Callable[..., str]
) -> None:
    lines = call("table", *map(str, files), "--markdown").splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == ["| **a**", "| **a**", "| b"]
    assert lines[1].split(" | ")[1:] == [
        "plain_s@112", "0.40", "400", "0.800", "3.1 %", "0.800", "0.800", "0.50", "- |"
    ]  # fmt: skip


def test_the_plot_is_a_picture(files: tuple[Path, Path], call: Callable[..., str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    call("plot", *map(str, files), "--out", str(tmp_path / "sub" / "plot.png"))
    picture = cv2.imread(str(tmp_path / "sub" / "plot.png"))
    assert picture is not None
    assert picture.std() > 5


def test_a_candidate_without_latency_is_named(files: tuple[Path, Path], call: Callable[..., str]) -> None:
    files[0].write_bytes(msgspec.json.encode(candidate("c", 144, 0.9)) + b"\n")
    with pytest.raises(ConfigError, match="--only plain_s@144"):
        call("table", *map(str, files))
    files[1].write_bytes(msgspec.json.encode([timed("plain_s@96", 1.0, "fp32")]))
    with pytest.raises(ConfigError, match="no INT8 file"):
        read_latencies(files[1])


@pytest.fixture
def call() -> Callable[..., str]:
    from typer.testing import CliRunner

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, list(arguments))
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    return run


def test_a_checkpoint_is_scored_at_the_sides_that_are_asked_for_and_only_once(
    tmp_path: Path, call: Callable[..., str]
) -> None:
    config = TrainConfig(
        input=InputConfig(size_px=32, crop_scale=1.2), method=MethodConfig(name="binary-trunk", trunk="plain_s")
    )
    torch.manual_seed(0)
    trunk = TRUNKS["plain_s"]()
    student = new_student("binary-trunk", trunk, trunk.out_channels)
    save_checkpoint(tmp_path / "s.safetensors", student.state_dict(), {"config": msgspec.to_builtins(config)})
    captures = write_captures(tmp_path / "captures")
    out = tmp_path / "candidates.jsonl"
    options = ("--name", "s", "--captures", str(captures), "--out", str(out))
    checkpoint, dev = str(tmp_path / "s.safetensors"), str(write_set(tmp_path / "dev", toy_set(8, split="dev")))
    call("score", checkpoint, "--dev", dev, "--sides", "48", *options)
    call("score", checkpoint, "--dev", dev, *options)
    call("score", checkpoint, "--dev", dev, "--sides", "32,48", *options)
    call("score", checkpoint, "--dev", dev, "--crop-scale", "1.5", *("tight" if o == "s" else o for o in options))
    found = read_candidates(out)
    seen = [(c.name, c.network, c.crop_scale) for c in found]
    assert seen == [("s", "plain_s@48", 1.2), ("s", "plain_s@32", 1.2), ("tight", "plain_s@32", 1.5)]
    assert all(0 <= c.flips <= 1 and c.crops("112b") in {0.0, 0.5, 1.0} for c in found)
    with pytest.raises(ConfigError, match="not scored on captures"):
        found[0].of("native")
    for wrong in ("0", "100", "a", "32,"):
        with pytest.raises(ConfigError, match="multiples of 16"):
            call("score", checkpoint, "--dev", dev, "--sides", wrong, *options)
    train = str(write_set(tmp_path / "train", toy_set(8)))
    with pytest.raises(ConfigError, match="held-out people"):
        call("score", checkpoint, "--dev", train, *options)
