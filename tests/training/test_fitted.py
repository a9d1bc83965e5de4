"""Methods that are fitted in one go: what they leave behind, and what they refuse."""

from __future__ import annotations

import json
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from tests.training.fixtures.toy_sets import toy_row, toy_set
from training import fitted
from training.build import build_fitted, build_task
from training.checkpoint import load_checkpoint
from training.config import InputConfig, MachineConfig, MethodConfig, OptimiserConfig, TrainConfig
from training.data.samples import SampleSet, SetInfo
from training.distributed import Processes
from training.errors import CheckpointError, ConfigError, DataError
from training.feeds import SetFeed
from training.fitted import fit_features, fitted_line
from training.runlog import BEST, HISTORY, RECORD
from training.scoring import score_set
from training.tasks import Needs


def textured(n: int, split: str) -> SampleSet:
    """Bona fide: noise of every pixel; attacks: the same noise in blocks, as a coarse screen would show it."""
    rng, pictures = np.random.default_rng(n), np.empty((n, 48, 48, 3), np.uint8)
    for i in range(n):
        fine = rng.integers(90, 160, (48, 48, 3))
        pictures[i] = fine if i % 2 else np.kron(fine[:12, :12], np.ones((4, 4, 1), int))
    rows = [toy_row(i, i % 2, split=split) for i in range(n)]
    return SampleSet(pictures, rows, SetInfo(split=split, seed=0, n=n))


def settings(**options: float) -> TrainConfig:
    return TrainConfig(
        input=InputConfig(size_px=24, crop_scale=1.0),
        method=MethodConfig(name="lbp-svm", options=options),
        optimiser=OptimiserConfig(batch=8, epochs=2, label_smoothing=0.1),
        machine=MachineConfig(device="cpu"),
    )


TRAIN, DEV = textured(24, "train"), textured(12, "dev")


def test_a_fit_leaves_weights_history_and_record_and_scores_the_same_when_it_is_loaded(tmp_path: Path) -> None:
    config = settings(grid=2)
    record = fit_features(build_fitted(config), config, SetFeed(TRAIN, config, Needs()), DEV, tmp_path)
    assert (record.dev_auc, record.dev_eer) == (1.0, 0.0)
    assert len(json.loads((tmp_path / RECORD).read_text())["people"]) == 5
    assert math.isnan(record.loss)
    said = fitted_line(record)
    assert "dev AUC 1.0000, dev EER 0.0000" in said
    assert "nan" not in said
    assert {path.name for path in tmp_path.iterdir()} == {BEST, HISTORY, RECORD}
    written = json.loads((tmp_path / RECORD).read_text())
    # 4 parts, 6 channels and 59 patterns, and an intercept.
    assert (written["parameters"], written["train"]["n"], written["dev"]["split"]) == (4 * 6 * 59 + 1, 24, "dev")
    kept = load_checkpoint(tmp_path / BEST)
    again = build_fitted(msgspec.convert(kept.metadata["config"], TrainConfig))
    again.module.load_state_dict(kept.tensors)
    scores = score_set(again.score, again.module, DEV, config)
    assert min(scores[1::2]) > 0.5 > max(scores[::2])
    with pytest.raises(CheckpointError, match="holds a finished run"):
        fit_features(again, config, SetFeed(TRAIN, config, Needs()), DEV, tmp_path)


def test_every_sample_is_looked_at_as_often_as_there_are_epochs(tmp_path: Path) -> None:
    class Counting:
        module = torch.nn.Linear(1, 1)
        seen: tuple[int, int] = (0, 0)

        def features(self, rgb: torch.Tensor) -> torch.Tensor:
            return rgb.float().mean(dim=(1, 2, 3)).unsqueeze(1)

        def fit(self, features: torch.Tensor, labels: torch.Tensor) -> int:
            self.seen = (len(features), int(labels.sum()))
            return 1

        def score(self, rgb: torch.Tensor) -> torch.Tensor:
            return self.features(rgb).squeeze(1) / 255

    task, config = Counting(), settings()
    fit_features(task, config, SetFeed(TRAIN, config, Needs(every=True)), DEV, tmp_path)
    # Smoothed labels of 0.05 and 0.95 are attacks and bona fide presentations.
    assert task.seen == (48, 24)


def test_what_cannot_be_fitted_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings()
    feed = SetFeed(TRAIN, config, Needs())
    with pytest.raises(DataError, match="people are in both"):
        fit_features(build_fitted(config), config, feed, TRAIN, tmp_path)
    with pytest.raises(DataError, match="one class of the two"):
        fit_features(build_fitted(config), config, feed, toy_set(1, split="dev"), tmp_path)
    with pytest.raises(ConfigError, match="1 <= grid <= 16"):
        build_fitted(settings(grid=0))
    with pytest.raises(ConfigError, match="lbp-svm is fitted"):
        build_task(config)
    with pytest.raises(ConfigError, match=r"must be one of lbp-svm, got 'cmfl'"):
        build_fitted(msgspec.structs.replace(config, method=MethodConfig(name="cmfl")))
    monkeypatch.setattr(fitted, "processes", lambda: Processes(0, 2))
    with pytest.raises(ConfigError, match="single process"):
        fit_features(build_fitted(config), config, feed, DEV, tmp_path)
    assert not list(tmp_path.iterdir())
