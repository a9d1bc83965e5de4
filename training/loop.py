"""The training loop: one task, one set, epochs, checkpoints that resume exactly."""

from __future__ import annotations

import copy
import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from fasedge import metrics
from training.build import Task
from training.checkpoint import flatten, load_checkpoint, restore, save_checkpoint
from training.config import OptimiserConfig, TrainConfig
from training.data.augment import augment
from training.data.samples import SampleSet
from training.errors import CheckpointError, DivergedError

LAST, BEST, HISTORY = "last.safetensors", "best.safetensors", "history.jsonl"
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
    module.eval()
    out = []
    with torch.inference_mode():
        for start in range(0, len(samples), _EVALUATION_BATCH):
            indices = range(start, min(start + _EVALUATION_BATCH, len(samples)))
            crops = samples.crops(indices, config.input.spec())
            out.append(score(torch.from_numpy(crops)).double().numpy())
    module.train(was_training)
    return np.concatenate(out)


def learning_rate(config: OptimiserConfig, step: int, total: int) -> float:
    """Learning rate at a step: linear warm-up, then constant or half a cosine."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


class Trainer:
    """Trains a task on a sample set.

    Args:
        task: What to train.
        config: The run.
        train: Training samples.
        dev: Samples that choose the epoch to keep.
        out: Folder of checkpoints, history and the run record.
    """

    def __init__(self, task: Task, config: TrainConfig, train: SampleSet, dev: SampleSet, out: Path) -> None:
        self._task, self._config, self._train, self._dev, self._out = task, config, train, dev, out
        # Pictures arrive as NHWC: channels-last weights save a copy per layer and are faster on CPU and GPU.
        task.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        o = config.optimiser
        make = AdamW if o.decoupled else Adam
        self._optimiser: Optimizer = make(task.module.parameters(), lr=o.learning_rate, weight_decay=o.weight_decay)
        self._average = Averaged(task.module, o.average) if o.average else None
        self._steps = max(1, len(train) // o.batch)
        self._epoch = 0
        self._best = -math.inf
        out.mkdir(parents=True, exist_ok=True)

    def run(self) -> Iterator[EpochRecord]:
        """Train to the end, from the last checkpoint if there is one.

        Yields:
            A record after every epoch.

        Raises:
            DivergedError: The loss is not finite; the batch is kept for inspection.
            CheckpointError: The checkpoint in the folder belongs to another configuration.
        """
        self._write_record()
        if (self._out / LAST).is_file():
            self._resume()
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
            rgb = self._batch(chosen, step)
            target = torch.from_numpy(labels[chosen]).float() * (1 - o.label_smoothing) + o.label_smoothing / 2
            loss = self._task.loss(rgb, target)
            if not bool(torch.isfinite(loss)):
                self._keep_batch(rgb, chosen, step)
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
            if o.clip_norm:
                nn.utils.clip_grad_norm_(module.parameters(), o.clip_norm)
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

    def _keep_batch(self, rgb: Tensor, chosen: np.ndarray[tuple[int], np.dtype[np.int64]], step: int) -> None:
        path = self._out / "diverged.npz"
        np.savez_compressed(path, rgb=rgb.numpy(), indices=chosen, step=step)
        raise DivergedError(f"the loss of step {step} is not finite; its batch is kept in {path}")

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
        auc = metrics.auc(scores, self._dev.labels)
        eer = metrics.eer(scores, self._dev.labels).value
        if -eer > self._best:
            self._best = -eer
            self._save_weights(BEST, auc, eer)
        rate = float(self._optimiser.param_groups[0]["lr"])
        return EpochRecord(self._epoch, loss, float(auc), float(eer), seconds, rate)

    def _save_weights(self, name: str, auc: float, eer: float) -> None:
        meta = {"config": msgspec.to_builtins(self._config), "epoch": self._epoch, "dev_auc": auc, "dev_eer": eer}
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
        if meta["config"] != json.loads(msgspec.json.encode(self._config)):
            raise CheckpointError(f"{self._out} holds a run with another configuration; choose another folder")
        state = restore(meta["skeleton"], checkpoint.tensors)
        assert isinstance(state, dict)
        self._task.module.load_state_dict(state["module"])  # type: ignore[arg-type]
        self._optimiser.load_state_dict(state["optimiser"])  # type: ignore[arg-type]
        if self._average:
            self._average.module.load_state_dict(state["average"])  # type: ignore[arg-type]
        self._epoch = int(str(meta["epoch"]))
        self._best = -math.inf if meta["best"] is None else float(str(meta["best"]))

    def _write_record(self) -> None:
        record = {
            "config": msgspec.to_builtins(self._config),
            "train": msgspec.to_builtins(self._train.info),
            "dev": msgspec.to_builtins(self._dev.info),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "parameters": sum(p.numel() for p in self._task.module.parameters()),
        }
        (self._out / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
