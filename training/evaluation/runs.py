"""Finished runs: the folder that ``fit`` writes, read back as a network that scores."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn

from training.build import FITTED, build_fitted, build_task
from training.checkpoint import Checkpoint, JsonValue, load_checkpoint, load_exactly, restore
from training.config import MethodConfig, TrainConfig
from training.data.titles import title_of
from training.errors import CheckpointError, CheckpointNotFoundError, ConfigError
from training.evaluation.document import RunRecord
from training.loop import BEST, LAST
from training.methods.meta_baselines import BASELINES as RFMETA_ROWS
from training.runlog import RECORD
from training.tasks import Batch, FittedTask, Needs, StepTask, as_step_task
from training.trained import config_of, without_start

CheckpointName = Literal["best", "last"]
#: ``auto`` is what a method's authors keep.
CheckpointChoice = Literal["auto", "best", "last"]
_FILES: Mapping[CheckpointName, str] = {"best": BEST, "last": LAST}


@dataclass(frozen=True, slots=True, eq=False)
class LoadedRun:
    """A trained network.

    Attributes:
        task: What scores, in evaluation mode.
        config: What it was trained by.
        record: The same for ``metrics.json``.
        trained_on: Descriptions of its train and dev sets; empty where the run does not say.
        people: Fingerprints of everybody in its training samples (:func:`training.runlog.fingerprint`);
            empty where the run does not say, as older ones do not.
    """

    task: StepTask
    config: TrainConfig
    record: RunRecord
    trained_on: Mapping[str, Mapping[str, JsonValue]]
    people: frozenset[str] = frozenset()


def load_run(folder: Path, choice: CheckpointChoice = "auto") -> LoadedRun:
    """Read a run.

    Args:
        folder: What ``fit --out`` named.
        choice: ``best``: the epoch that ``optimiser.keep`` chose on the training's dev set. ``last``: the last epoch.
            ``auto``: ``last`` for RFMeta and its rows, ``best`` for everything else.

    Raises:
        CheckpointNotFoundError: There is no such folder, or no checkpoint in it.
        CheckpointError: The checkpoint is damaged, of something else than a run, or does not fit its own configuration.
        ConfigError: Its configuration names a method that is not there any more.
    """
    path = folder / _FILES["best" if choice == "auto" else choice]
    if not path.is_file():
        there = "the folder has none" if folder.is_dir() else "there is no such folder"
        raise CheckpointNotFoundError(
            f"expected the checkpoint {path}, but {there}; name the folder of `python -m training fit --out …`, after "
            "its first epoch"
        )
    checkpoint = load_checkpoint(path)
    config = config_of(checkpoint)
    if choice == "auto" and config.method.name in RFMETA_ROWS:
        return load_run(folder, "last")
    which: CheckpointName = "best" if choice == "auto" else choice
    with _without_start_warnings():
        task = _build(without_start(config))
    load_exactly(task.module, _weights(checkpoint, path, which), what=str(path))
    task.module.eval()
    record = _read_record(folder)
    described = _record(folder, which, checkpoint, config, task.module, record)
    return LoadedRun(task, config, described, _sets(record), _people(record))


class FittedScores:
    """A fitted method, to score with; nothing here trains it.

    Args:
        task: The method.
    """

    needs = Needs()

    def __init__(self, task: FittedTask) -> None:
        self._task = task

    @property
    def module(self) -> nn.Module:
        """What the method has learnt."""
        return self._task.module

    def to(self, device: torch.device) -> None:
        """Move the method."""
        self._task.module.to(device)

    def training_step(self, batches: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        """There is none.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("a fitted method has no training steps; see training.fitted")

    def score_batch(self, batch: Batch) -> Tensor:
        """The method's score."""
        return self._task.score(batch.rgb)


def _build(config: TrainConfig) -> StepTask:
    if config.method.name in FITTED:
        return FittedScores(build_fitted(config))
    return as_step_task(build_task(config))


@contextmanager
def _without_start_warnings() -> Iterator[None]:
    """Keep back the warning that a trunk starts from nothing: its weights are about to be loaded."""
    log = logging.getLogger("training")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _weights(checkpoint: Checkpoint, path: Path, which: CheckpointName) -> dict[str, Tensor]:
    if which == "best":
        return checkpoint.tensors
    if "skeleton" not in checkpoint.metadata:
        raise CheckpointError(f"{path} does not hold the state of a training run; was it made by `fit`?")
    state = cast("Mapping[str, Mapping[str, Tensor]]", restore(checkpoint.metadata["skeleton"], checkpoint.tensors))
    # What is scored while training goes on is the average, where there is one.
    return dict(state.get("average", state["module"]))


def _read_record(folder: Path) -> Mapping[str, JsonValue]:
    """``run.json``; nothing where it is missing, for it is not needed to score."""
    try:
        found: JsonValue = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _sets(record: Mapping[str, JsonValue]) -> dict[str, Mapping[str, JsonValue]]:
    named = {name: record.get(name) for name in ("train", "dev")}
    return {name: value for name, value in named.items() if isinstance(value, Mapping)}


def _titles(sets: Mapping[str, Mapping[str, JsonValue]]) -> dict[str, str]:
    return {name: title_of(str(described["origin"])) for name, described in sets.items() if "origin" in described}


def _people(record: Mapping[str, JsonValue]) -> frozenset[str]:
    found = record.get("people")
    return frozenset(str(one) for one in found) if isinstance(found, list) else frozenset()


def _name_of(method: MethodConfig) -> str:
    """What tables call a method; one on another trunk than its own says so."""
    return f"{method.name} on {method.trunk}" if method.options.get("extractor") == "trunk" else method.name


def _record(  # noqa: PLR0917 - private
    folder: Path,
    which: CheckpointName,
    checkpoint: Checkpoint,
    config: TrainConfig,
    module: nn.Module,
    record: Mapping[str, JsonValue],
) -> RunRecord:
    return RunRecord(
        folder=str(folder),
        checkpoint=which,
        epoch=int(str(checkpoint.metadata.get("epoch", 0))),
        method=_name_of(config.method),
        profile=config.method.profile,
        width=config.method.width,
        seed=config.seed,
        parameters=sum(p.numel() for p in module.parameters()),
        commit=str(record.get("commit") or ""),
        trunk_weights=str(record.get("trunk_weights") or ""),
        people=len(_people(record)),
        trained_on=_titles(_sets(record)).get("train", ""),
    )
