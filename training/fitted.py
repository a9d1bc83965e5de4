"""Methods that are fitted instead of trained: features of all samples first, then one solution for all of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import torch

from fasedge import metrics
from training.checkpoint import JsonValue
from training.config import TrainConfig
from training.data.samples import SampleSet
from training.distributed import choose_device, processes
from training.errors import CheckpointError, CheckpointWriteError, ConfigError, DivergedError
from training.feeds import Feed, check_dev
from training.runlog import (
    BEST,
    EpochRecord,
    add_to_history,
    hashed_people,
    keep_weights,
    surroundings,
    trim_history,
    write_record,
)
from training.scoring import score_set
from training.tasks import FittedTask


def fit_features(task: FittedTask, config: TrainConfig, feed: Feed, dev: SampleSet, out: Path) -> EpochRecord:
    """Fit a method and keep what it has learnt, as the training loop does: weights, history and run record.

    ``optimiser.epochs`` says how often the samples are looked at, each time as ``augment`` changes them; features of
    all of that are held in memory. An interrupted fit begins anew.

    Args:
        task: The method.
        config: The run.
        feed: Training samples.
        dev: Samples on which the result is measured.
        out: Folder of the run.

    Returns:
        The result; its loss, which such a method does not report, is not a number: see :func:`fitted_line`.

    Raises:
        DataError: A set lacks a class, or somebody is in both.
        ConfigError: There are several processes.
        CheckpointError: The folder holds a finished run.
        CheckpointWriteError: The folder cannot be made.
        DivergedError: Scores are not finite.
    """
    if processes().world > 1:
        raise ConfigError(f"{config.method.name} is fitted in one go: start a single process")
    if (out / BEST).is_file():
        raise CheckpointError(f"{out} holds a finished run; choose another folder")
    check_dev(feed, dev, depth=False)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointWriteError(f"{out}: cannot be made ({error.strerror or error}); name a folder") from error
    start, device = time.perf_counter(), choose_device(config.machine.device)
    task.module.to(device)
    write_record(out, _record(task, config, feed, dev, device))
    trim_history(out, 0)
    features, labels = _looked_at(task, config, feed, device)
    task.fit(features, labels)
    scores = score_set(task.score, task.module, dev, config)
    if not np.isfinite(scores).all():
        raise DivergedError("scores of the dev set are not finite: look for damaged pictures")
    auc, eer = float(metrics.auc(scores, dev.labels)), float(metrics.eer(scores, dev.labels).value)
    keep_weights(out, config, task.module, (1, auc, eer), {})
    record = EpochRecord(1, float("nan"), auc, eer, time.perf_counter() - start, 0.0)
    add_to_history(out, record)
    return record


def fitted_line(record: EpochRecord) -> str:
    """The result for the terminal; there is no loss to tell.

    Args:
        record: What :func:`fit_features` has returned.
    """
    return (
        f"fitted in one go: dev AUC {record.dev_auc:.4f}, dev EER {record.dev_eer:.4f}, {record.seconds:.0f} s "
        "(such a method has no loss)"
    )


def _looked_at(
    task: FittedTask, config: TrainConfig, feed: Feed, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and labels of everything that the feed shows."""
    features, labels = [], []
    with torch.no_grad():
        for number in range(config.optimiser.epochs):
            for named in feed.epoch(number, feed.position):
                for batch in named.values():
                    features.append(task.features(batch.rgb.to(device)))
                    # Smoothed labels mean the classes that they are nearest to.
                    labels.append((batch.labels > 0.5).to(device))
    return torch.cat(features), torch.cat(labels)


def _record(
    task: FittedTask, config: TrainConfig, feed: Feed, dev: SampleSet, device: torch.device
) -> dict[str, JsonValue]:
    return {
        "config": msgspec.to_builtins(config),
        "note": {},
        "train": feed.info,
        "dev": msgspec.to_builtins(dev.info),
        "people": cast("JsonValue", hashed_people(feed.identities)),
        "parameters": sum(p.numel() for p in task.module.parameters()),
        **surroundings(config, device, 1),
    }
