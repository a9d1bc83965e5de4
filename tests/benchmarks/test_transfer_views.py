"""Several crops together, and directions in features that no training has touched."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from typer.testing import CliRunner

from benchmarks import frozen_features, transfer_views
from benchmarks.students import Student, StudentOptions, crop_logits, save_student
from benchmarks.transfer import Cutter, cut, read_captures, summarise
from benchmarks.transfer_views import Joint, Member, parse_member
from fasedge.preprocess import InputSpec
from training.errors import CheckpointError, ConfigError


@pytest.fixture
def captures(tmp_path: Path) -> Path:
    """Twelve noisy pictures of two sources, with a face box each."""
    rng = np.random.default_rng(4)
    with (tmp_path / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "label", "source", "kind", "clip", "size", "x", "y", "w", "h"])
        for i in range(12):
            cv2.imwrite(str(tmp_path / f"{i}.png"), rng.integers(0, 256, (40, 40, 3)).astype(np.uint8))
            writer.writerow([f"{i}.png", ("live", "spoof")[i % 2], "ab"[i // 6], "crop", "", "112", 10, 10, 20, 20])
    return tmp_path


def made(path: Path, seed: int) -> Student:
    torch.manual_seed(seed)
    student = Student(pretrained=False).eval()
    save_student(student, path, StudentOptions(size_px=16, seed=seed))
    return student


def test_a_member_is_a_file_and_its_scales() -> None:
    assert parse_member("a@b/s_{seed}.safetensors@1.0,2.4") == Member("a@b/s_{seed}.safetensors", (1.0, 2.4))
    for wrong in ("file", "file@", "@1.0", "file@wide", "file@0", "file@1,-2", "file@nan"):
        with pytest.raises(ConfigError, match="FILE@SCALE,SCALE"):
            parse_member(wrong)


def test_the_score_of_several_views_is_the_mean_of_the_members_mean_logits(captures: Path) -> None:
    first, second = made(captures / "first_7.safetensors", 1), made(captures / "second_7.safetensors", 2)
    out = captures / "views.jsonl"
    command = ["score", f"{captures}/first_{{seed}}.safetensors@1.0,1.5", f"{captures}/second_{{seed}}.safetensors@2.0"]
    options = ["--name", "both", "--captures", str(captures), "--out", str(out), "--seeds", "7", "--sizes", "112"]
    for _ in range(2):  # the second time there is nothing left to do
        assert CliRunner().invoke(transfer_views.app, [*command, *options]).exit_code == 0
    (joint,) = transfer_views.read_joints(out)

    real = read_captures(captures, ["112"])
    seen = {s: cut(captures, real, InputSpec(size_px=16, crop_scale=s)) for s in (1.0, 1.5, 2.0)}
    tight = (crop_logits(first, seen[1.0]) + crop_logits(first, seen[1.5])) / 2
    (expected,) = summarise(real, (tight + crop_logits(second, seen[2.0])) / 2, 0.0)
    assert (joint.name, joint.seed, joint.real) == ("both", 7, (expected,))
    assert len(expected.per_source) == 2


def test_a_row_gives_mean_and_range_over_the_seeds_of_a_name(captures: Path) -> None:
    real = read_captures(captures, ["112"])
    logits = np.array([1.0, 0.0] * 6)
    joints = [
        Joint(name="x", seed=seed, members=(), real=tuple(summarise(real, sign * logits, 0.0)))
        for seed, sign in ((1, 1.0), (2, -1.0))
    ]
    assert transfer_views.rows(joints, ["112"]) == [["x", "2", "0.500 (0.00 to 1.00)", "-", "-"]]


def test_a_file_that_is_no_student_is_named(captures: Path) -> None:
    from safetensors.torch import save_file

    path = captures / "other.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="other"):
        transfer_views.member_logits(Member(str(path), (1.0,)), 1, Cutter(captures, []))


def test_a_large_shrinkage_gives_fishers_discriminant_and_none_the_difference_of_the_means() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 4000)
    mixing = np.eye(5) + 0.6 * rng.normal(size=(5, 5))
    features = rng.normal(size=(4000, 5)) @ mixing + labels[:, None] * np.array([0.5, -0.2, 0.0, 0.3, 0.1])
    difference = frozen_features.direction(features, labels, 0)
    np.testing.assert_allclose(difference, features[labels == 1].mean(0) - features[labels == 0].mean(0))
    fisher = LinearDiscriminantAnalysis().fit(features, labels).coef_[0]
    found = frozen_features.direction(features, labels, 1e9)
    cosine = found @ fisher / (np.linalg.norm(found) * np.linalg.norm(fisher))
    assert cosine == pytest.approx(1, abs=1e-6)
    assert difference @ fisher / (np.linalg.norm(difference) * np.linalg.norm(fisher)) < 0.99


def test_block_features_are_those_of_the_trunk() -> None:
    torch.manual_seed(0)
    student = Student(pretrained=False).eval()
    crops = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    found = frozen_features.block_features(student, crops)
    with torch.inference_mode():
        last = student.trunk(student.input(torch.from_numpy(crops)))
    channels = last.shape[1]
    np.testing.assert_allclose(found[:, -2 * channels : -channels], last.mean((2, 3)).numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[:, -channels:], last.std((2, 3)).numpy(), rtol=1e-4, atol=1e-5)
    assert found.shape == (3, 2 * (16 + 2 * 24 + 2 * 40 + 3 * 80 + 3 * 112))
