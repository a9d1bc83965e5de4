"""The training loop: one task, one set, epochs, checkpoints that resume exactly."""

from __future__ import annotations

import copy
import json
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict, cast

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from fasedge import metrics
from fasedge.types import Label
from training.build import Task
from training.checkpoint import flatten, load_checkpoint, restore, save_checkpoint
from training.config import OptimiserConfig, TrainConfig
from training.data.augment import augment
from training.data.samples import SampleSet, SetInfo
from training.errors import CheckpointError, CheckpointWriteError, DataError, DivergedError
from training.precision import reduced

LAST, BEST, HISTORY, RECORD = "last.safetensors", "best.safetensors", "history.jsonl", "run.json"
_EVALUATION_BATCH = 64


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One line of ``history.jsonl``."""

    epoch: int
    loss: float
    dev_auc: float
    dev_eer: float
    seconds: float
    learning_rate: float

    def line(self) -> str:
        """For the terminal."""
        return (
            f"epoch {self.epoch}: loss {self.loss:.4f}, dev AUC {self.dev_auc:.4f}, "
            f"dev EER {self.dev_eer:.4f}, {self.seconds:.0f} s"
        )


class Averaged:
    """Exponential moving average of a module's weights and buffers.

    Args:
        module: The module to follow.
        decay: Share of the old average kept per step.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).eval()
        self._decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Follow one step; early steps weigh more, so that the start is forgotten soon."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for old, new in zip(self.module.state_dict().values(), module.state_dict().values(), strict=True):
            if old.dtype.is_floating_point:
                old.lerp_(new, 1 - decay)
            else:
                old.copy_(new)


def score_set(
    score: Callable[[Tensor], Tensor], module: nn.Module, samples: SampleSet, config: TrainConfig
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Score a whole set on plain crops: float64 (n,)."""
    was_training = module.training
    device = next(module.parameters()).device
    module.eval()
    out = []
    with torch.inference_mode():
        for start in range(0, len(samples), _EVALUATION_BATCH):
            indices = range(start, min(start + _EVALUATION_BATCH, len(samples)))
            crops = samples.crops(indices, config.input.spec())
            out.append(score(torch.from_numpy(crops).to(device)).double().cpu().numpy())
    module.train(was_training)
    return np.concatenate(out)


def learning_rate(config: OptimiserConfig, step: int, total: int) -> float:
    """Learning rate at a step of ``total``, counted from 0: linear warm-up, then constant or half a cosine."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


class _State(TypedDict):
    """What ``last.safetensors`` holds."""

    module: dict[str, Tensor]
    optimiser: dict[str, object]
    average: NotRequired[dict[str, Tensor]]


class _SetsOfRun(msgspec.Struct, frozen=True):
    """The part of ``run.json`` that a resumed run must have in common."""

    train: SetInfo
    dev: SetInfo


def _check_sets(train: SampleSet, dev: SampleSet) -> None:
    """Refuse sets that would fail, or flatter, after the first epoch."""
    for name, samples in (("train", train), ("dev", dev)):
        if set(samples.labels.tolist()) != {int(Label.ATTACK), int(Label.BONA_FIDE)}:
            raise DataError(f"the {name} set needs bona fide presentations and attacks, got one class of the two")
    shared = {row.identity for row in train.table} & {row.identity for row in dev.table}
    if shared:
        raise DataError(
            f"{len(shared)} people are in both the train and the dev set, such as {min(shared)!r}; make the sets from "
            "different splits"
        )


class Trainer:
    """Trains a task on a sample set.

    Args:
        task: What to train.
        config: The run.
        train: Training samples.
        dev: Samples that choose the epoch to keep.
        out: Folder of checkpoints, history and the run record.
        note: What else the record and the kept weights should say, such as who taught a student.

    Raises:
        DataError: A set lacks a class, or somebody is in both.
        CheckpointWriteError: The folder cannot be made.
    """

    def __init__(  # noqa: PLR0917 - the parts of a run, in their order
        self,
        task: Task,
        config: TrainConfig,
        train: SampleSet,
        dev: SampleSet,
        out: Path,
        note: Mapping[str, str | float | bool] | None = None,
    ) -> None:
        self._task, self._config, self._train, self._dev, self._out = task, config, train, dev, out
        self._note = dict(note or {})
        _check_sets(train, dev)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        task.to(self._device)
        # Pictures arrive as NHWC: channels-last weights save a copy per layer and are faster on CPU and GPU.
        task.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        o = config.optimiser
        make = AdamW if o.decoupled else Adam
        self._optimiser: Optimizer = make(task.module.parameters(), lr=o.learning_rate, weight_decay=o.weight_decay)
        self._average = Averaged(task.module, o.average) if o.average else None
        self._steps = max(1, len(train) // o.batch)
        self._epoch = 0
        self._best = -math.inf
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointWriteError(f"{out}: cannot be made ({error.strerror or error}); name a folder") from error

    def run(self) -> Iterator[EpochRecord]:
        """Train to the end, from the last checkpoint if there is one.

        Yields:
            A record after every epoch.

        Raises:
            DivergedError: Loss, gradient or scores are not finite; the batch of the step is kept for inspection.
            CheckpointError: The checkpoint in the folder belongs to another configuration or other sets, or it cannot
                be read.
        """
        if (self._out / LAST).is_file():
            self._resume()
        # Only now: a run that is refused must leave the record of the one that is there.
        self._write_record()
        self._trim_history()
        while self._epoch < self._config.optimiser.epochs:
            start = time.perf_counter()
            loss = self._one_epoch()
            self._epoch += 1
            record = self._evaluate(loss, time.perf_counter() - start)
            with (self._out / HISTORY).open("a", encoding="utf-8") as stream:
                stream.write(msgspec.json.encode(record).decode() + "\n")
            self._save(LAST)
            yield record

    def _one_epoch(self) -> float:
        o, total = self._config.optimiser, self._steps * self._config.optimiser.epochs
        order = np.random.default_rng([self._config.seed, self._epoch]).permutation(len(self._train))
        module, losses = self._task.module, []
        module.train()
        labels = self._train.labels
        for i in range(self._steps):
            step = self._epoch * self._steps + i
            for group in self._optimiser.param_groups:
                group["lr"] = learning_rate(o, step, total)
            chosen = order[i * o.batch : (i + 1) * o.batch]
            rgb = self._batch(chosen, step).to(self._device)
            target = torch.from_numpy(labels[chosen]).float() * (1 - o.label_smoothing) + o.label_smoothing / 2
            with reduced(o.precision, self._device):
                loss = self._task.loss(rgb, target.to(self._device))
            if not bool(torch.isfinite(loss)):
                self._keep_batch(rgb, chosen, step, "loss")
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
            if o.clip_norm:
                norm = nn.utils.clip_grad_norm_(module.parameters(), o.clip_norm)
                if not bool(torch.isfinite(norm)):
                    self._keep_batch(rgb, chosen, step, "gradient")
            self._optimiser.step()
            if self._average:
                self._average.update(module, step)
            losses.append(loss.item())
        return float(np.mean(losses))

    def _batch(self, chosen: np.ndarray[tuple[int], np.dtype[np.int64]], step: int) -> Tensor:
        """Crops of one step. All randomness comes from (seed, step): a resumed run sees the same batches."""
        rng = np.random.default_rng([self._config.seed, 1, step])
        generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        a = self._config.augment
        crops = self._train.crops(chosen.tolist(), self._config.input.spec(), jitter=a.jitter(), rng=rng)
        return augment(torch.from_numpy(crops), a, generator)

    def _keep_batch(
        self, rgb: Tensor, chosen: np.ndarray[tuple[int], np.dtype[np.int64]], step: int, what: str
    ) -> None:
        path = self._out / "diverged.npz"
        np.savez_compressed(path, rgb=rgb.cpu().numpy(), indices=chosen, step=step)
        raise DivergedError(
            f"the {what} of step {step} is not finite; its batch is kept in {path}. Try a lower learning rate"
        )

    def _kept_module(self) -> nn.Module:
        return self._average.module if self._average else self._task.module

    def _evaluate(self, loss: float, seconds: float) -> EpochRecord:
        module, live = self._task.module, None
        if self._average:
            live = copy.deepcopy(module.state_dict())
            module.load_state_dict(self._average.module.state_dict())
        scores = score_set(self._task.score, module, self._dev, self._config)
        if live is not None:
            module.load_state_dict(live)
        if not np.isfinite(scores).all():
            raise DivergedError(f"scores of the dev set are not finite after epoch {self._epoch}: the weights diverged")
        auc = metrics.auc(scores, self._dev.labels)
        eer = metrics.eer(scores, self._dev.labels).value
        if -eer > self._best:
            self._best = -eer
            self._save_weights(BEST, auc, eer)
        rate = float(self._optimiser.param_groups[0]["lr"])
        return EpochRecord(self._epoch, loss, float(auc), float(eer), seconds, rate)

    def _save_weights(self, name: str, auc: float, eer: float) -> None:
        config = msgspec.to_builtins(self._config)
        meta = {"config": config, "epoch": self._epoch, "dev_auc": auc, "dev_eer": eer, "note": self._note}
        save_checkpoint(self._out / name, self._kept_module().state_dict(), meta)

    def _save(self, name: str) -> None:
        state = {"module": self._task.module.state_dict(), "optimiser": self._optimiser.state_dict()}
        if self._average:
            state["average"] = self._average.module.state_dict()
        tensors, skeleton = flatten(state)
        meta = {
            "skeleton": skeleton,
            "epoch": self._epoch,
            "best": self._best if math.isfinite(self._best) else None,
            "config": msgspec.to_builtins(self._config),
        }
        save_checkpoint(self._out / name, tensors, meta)

    def _resume(self) -> None:
        checkpoint = load_checkpoint(self._out / LAST)
        meta = checkpoint.metadata
        missing = {"config", "skeleton", "epoch", "best"} - set(meta)
        if missing:
            raise CheckpointError(f"{self._out / LAST} is not of a training run: {', '.join(sorted(missing))} missing")
        if meta["config"] != json.loads(msgspec.json.encode(self._config)):
            raise CheckpointError(f"{self._out} holds a run with another configuration; choose another folder")
        self._check_same_sets()
        state = cast("_State", restore(meta["skeleton"], checkpoint.tensors))
        self._task.module.load_state_dict(state["module"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._restore_layout()
        if self._average:
            self._average.module.load_state_dict(state["average"])
        self._epoch = int(str(meta["epoch"]))
        self._best = -math.inf if meta["best"] is None else float(str(meta["best"]))

    def _restore_layout(self) -> None:
        """Lay the optimiser's moments out in memory as their weights are.

        A checkpoint stores plain rows; next to channels-last weights, torch walks them element by element, which is
        slow, and no promise that it rounds as it does for equal layouts.
        """
        for parameter, moments in self._optimiser.state.items():
            for name, value in moments.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)

    def _check_same_sets(self) -> None:
        path = self._out / RECORD
        try:
            record = msgspec.json.decode(path.read_bytes(), type=_SetsOfRun)
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError) as error:
            raise CheckpointError(f"{path} cannot be read ({error}); choose another folder") from error
        if (record.train, record.dev) != (self._train.info, self._dev.info):
            raise CheckpointError(
                f"{self._out} holds a run on other sets ({record.train}, {record.dev}); choose another folder"
            )

    def _trim_history(self) -> None:
        """Drop the lines of epochs that were not saved any more when a run was interrupted."""
        path = self._out / HISTORY
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
        if len(lines) > self._epoch:
            path.write_text("".join(lines[: self._epoch]), encoding="utf-8")

    def _write_record(self) -> None:
        record = {
            "config": msgspec.to_builtins(self._config),
            "note": self._note,
            "train": msgspec.to_builtins(self._train.info),
            "dev": msgspec.to_builtins(self._dev.info),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "parameters": sum(p.numel() for p in self._task.module.parameters()),
        }
        (self._out / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
