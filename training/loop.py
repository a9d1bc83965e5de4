"""The training loop: one task, epochs, checkpoints that resume exactly, on one process or several."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import NotRequired, TypedDict, cast

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from fasedge import metrics
from training.checkpoint import Checkpoint, JsonValue, flatten, load_checkpoint, restore, save_checkpoint
from training.config import TrainConfig
from training.data.samples import SampleSet
from training.distributed import (
    average_buffers,
    average_gradients,
    choose_device,
    first_says,
    gathered,
    mean_of_numbers,
    processes,
    start_alike,
    synchronise_norm,
    wait_for_all,
)
from training.errors import CheckpointError, CheckpointWriteError, ConfigError, DivergedError
from training.feeds import Feed, SetFeed, check_dev
from training.keep import DevJudge
from training.precision import reduced
from training.prefetch import Prefetch
from training.runlog import (
    BEST,
    HISTORY,
    RECORD,
    EpochRecord,
    StepLog,
    StepRecord,
    add_to_history,
    hashed_people,
    keep_batch,
    keep_weights,
    read_sets,
    surroundings,
    trim_history,
    write_record,
)
from training.schedule import Averaged, freeze_norm, learning_rate
from training.scoring import score_batches, score_set
from training.tasks import TOTAL, Batch, SettlingTask, StepTask, Task, as_step_task

__all__ = [
    "BEST", "HISTORY", "LAST", "RECORD", "Averaged", "EpochRecord", "StepRecord", "Trainer", "learning_rate",
    "score_set",
]  # fmt: skip

LAST = "last.safetensors"
_LOG = logging.getLogger("training")


class _State(TypedDict):
    """What ``last.safetensors`` holds."""

    module: dict[str, Tensor]
    optimiser: dict[str, object]
    average: NotRequired[dict[str, Tensor]]


class Trainer:
    """Trains a task.

    With several processes (:mod:`training.distributed`) each makes a trainer of its own; the folder must be one that
    all of them see. Batch normalisation takes the statistics of each process's share of a batch, or, on GPUs and with
    ``machine.sync_norm``, of the whole; running statistics are averaged before the network is scored and saved.

    Args:
        task: What to train.
        config: The run.
        train: Training samples: a set, or a feed (:mod:`training.feeds`).
        dev: Samples that choose the epoch to keep, see :mod:`training.keep`.
        out: Folder of checkpoints, history, log and the run record.
        note: What else the record and the kept weights should say, such as who taught a student.
        progress: Called after every step.

    Raises:
        DataError: A set lacks a class or depth, or somebody is in both.
        ConfigError: The device is not there, or the task cannot do what the configuration asks for.
        CheckpointWriteError: The folder cannot be made.
    """

    def __init__(  # noqa: PLR0917 - the parts of a run, in their order
        self,
        task: Task | StepTask,
        config: TrainConfig,
        train: SampleSet | Feed,
        dev: SampleSet,
        out: Path,
        note: Mapping[str, str | float | bool] | None = None,
        *,
        progress: Callable[[StepRecord], None] | None = None,
    ) -> None:
        self._task, self._config, self._dev, self._out = as_step_task(task), config, dev, out
        self._note, self._progress, self._who = dict(note or {}), progress, processes()
        feed: Feed = SetFeed(train, config, self._task.needs) if isinstance(train, SampleSet) else train
        self._places = check_dev(feed, dev, depth=self._task.needs.depth)
        self._judge = DevJudge(self._task, config, dev, self._places)
        self._device = choose_device(config.machine.device)
        self._feed = Prefetch(feed, config.machine.ahead, self._device)
        self._prepare()
        self._steps = self._feed.steps
        self._epoch = self._position = 0
        #: Losses of the steps of this epoch that are done.
        self._losses: list[float] = []
        self._best, self._saved = -math.inf, time.monotonic()
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointWriteError(f"{out}: cannot be made ({error.strerror or error}); name a folder") from error

    def _prepare(self) -> None:
        """Move the network to its device, and make optimiser and average."""
        task, o, m = self._task, self._config.optimiser, self._config.machine
        if m.compile and not task.needs.compiles:
            raise ConfigError("this method cannot be compiled (it differentiates twice); set machine.compile = false")
        task.to(self._device)
        if m.sync_norm:
            self._check_sync_norm()
            # Before the optimiser and the average, which would hold on to layers that are replaced.
            synchronise_norm(task.module, self._device)
        if m.channels_last:
            # Pictures arrive as NHWC: channels-last weights save a copy per layer and are faster on CPU and GPU.
            task.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        make = AdamW if o.decoupled else Adam
        self._optimiser: Optimizer = make(task.module.parameters(), lr=o.learning_rate, weight_decay=o.weight_decay)
        start_alike(task.module)
        self._average = Averaged(task.module, o.average) if o.average else None
        if m.compile:
            task.module.compile()

    def _check_sync_norm(self) -> None:
        """Refuse synchronised statistics where they would change a method, or nothing, in however many processes."""
        o, m = self._config.optimiser, self._config.machine
        if self._task.needs.domains:
            raise ConfigError(
                "machine.sync_norm would change this method's rules of batch normalisation (statistics of each domain "
                "on its own, copies in the inner step); switch it off"
            )
        if o.frozen_norm:
            raise ConfigError("machine.sync_norm has no effect with optimiser.frozen_norm; switch one of them off")
        if m.compile:
            raise ConfigError("torch.compile stops at each synchronised layer; switch machine.sync_norm or compile off")

    def run(self) -> Iterator[EpochRecord]:
        """Train to the end, from the last checkpoint if there is one.

        Yields:
            A record after every epoch.

        Raises:
            DivergedError: Loss, gradient or scores are not finite; the batch of the step is kept for inspection.
            DataError: The simulation of samples stopped.
            CheckpointError: The checkpoint in the folder belongs to another configuration or other sets, or it cannot
                be read.
        """
        if (self._out / LAST).is_file():
            self._resume()
        wait_for_all()
        log = None
        if self._who.first:
            log = StepLog(self._out, self._config, self._epoch * self._steps + len(self._losses))
            # Only now: a run that is refused must leave the record of the one that is there.
            self._write_record()
            trim_history(self._out, self._epoch)
        try:
            while self._epoch < self._config.optimiser.epochs:
                yield self._next_epoch(log)
        finally:
            self._feed.close()
            if log is not None:
                log.close()

    def _next_epoch(self, log: StepLog | None) -> EpochRecord:
        start = time.perf_counter()
        batches = self._feed.epoch(self._epoch, self._position, len(self._losses) * self._config.optimiser.accumulate)
        self._rest_of_epoch(batches, log)
        loss, self._losses = float(np.mean(self._losses)), []
        self._epoch += 1
        record = self._evaluate(batches, loss, time.perf_counter() - start)
        self._position = self._feed.position
        if log is not None:
            measured = {"dev_auc": record.dev_auc, "dev_eer": record.dev_eer}
            measured |= {} if record.value is None else {f"dev_{record.keep}": record.value}
            log.scalars(self._epoch * self._steps, measured)
            add_to_history(self._out, record)
            self._save(LAST)
            if targets := self._task.needs.targets:
                made = ", ".join(f"{n} by {name}" for name, n in sorted(targets.used.items()))
                _LOG.info("depth targets of bona fide samples since the start: %s", made)
        wait_for_all()
        return record

    def _rest_of_epoch(self, batches: Iterator[Mapping[str, Batch]], log: StepLog | None) -> None:
        """Take the steps that this epoch still lacks, and save the run between them when it is time."""
        o, total = self._config.optimiser, self._steps * self._config.optimiser.epochs
        self._task.module.train()
        if o.frozen_norm:
            freeze_norm(self._task.module)
        if log is not None:
            log.start_epoch()
        for i in range(len(self._losses), self._steps):
            step = self._epoch * self._steps + i
            # What draws random numbers inside the network (dropout) draws the same after an interruption.
            seeds = np.random.SeedSequence([self._config.seed, step, self._who.rank])
            torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0] >> np.uint64(1)))
            rate = learning_rate(o, step, total)
            for group in self._optimiser.param_groups:
                group["lr"] = rate
            losses = self._step(batches, step)
            self._losses.append(losses[TOTAL])
            last = i + 1 == self._steps
            save = not last and self._time_to_save()
            if log is not None:
                log.add(self._epoch + 1, step + 1, rate, losses, last=last or save)
            if save:
                # Otherwise the statistics of the first process would be those of all after an interruption.
                average_buffers(self._task.module)
                if self._who.first:
                    self._save(LAST)
            if self._progress is not None:
                self._progress(StepRecord(self._epoch + 1, i + 1, self._steps, losses[TOTAL]))

    def _time_to_save(self) -> bool:
        """Whether the first process has not saved the run for long; the same answer in all."""
        return first_says(time.monotonic() - self._saved >= 60 * self._config.machine.save_minutes, self._device)

    def _passes(self, batches: Iterator[Mapping[str, Batch]]) -> Iterator[dict[str, Batch]]:
        """Batches on the task's device."""
        for named in batches:
            yield {name: batch.to(self._device) for name, batch in named.items()}

    def _step(self, batches: Iterator[Mapping[str, Batch]], step: int) -> dict[str, float]:
        """Move the weights once; return the losses, averaged over passes and processes."""
        o, module = self._config.optimiser, self._task.module
        self._optimiser.zero_grad(set_to_none=True)
        seen, rows = [], []
        for batch in self._passes(islice(batches, o.accumulate)):
            seen.append(batch)
            with reduced(o.precision, self._device):
                losses = self._task.training_step(batch)
            own = torch.stack([value.detach().float() for value in losses.values()])
            rows.append(dict(zip(losses, mean_of_numbers(own).tolist(), strict=True)))
            if not math.isfinite(rows[-1][TOTAL]):
                self._diverged([batch], step, "loss", own=bool(torch.isfinite(losses[TOTAL])))
            if not self._task.needs.gradients:
                (losses[TOTAL] / o.accumulate).backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        if self._task.needs.gradients and o.accumulate > 1:
            torch._foreach_div_(gradients, o.accumulate)
        average_gradients(gradients)
        # Without clipping too: weights that are not finite would accuse the batch of the next step.
        norm = nn.utils.get_total_norm(gradients)
        if not bool(torch.isfinite(norm)):
            self._diverged(seen, step, "gradient")
        if o.clip_norm:
            nn.utils.clip_grads_with_norm_(module.parameters(), o.clip_norm, norm)
        self._optimiser.step()
        if self._average:
            self._average.update(module, step)
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}

    def _diverged(self, seen: list[dict[str, Batch]], step: int, what: str, *, own: bool = False) -> None:
        """Stop; keep the batch, unless it is another process's that went wrong (``own`` is in order)."""
        if own and self._who.world > 1:
            raise DivergedError(f"the {what} of step {step} is not finite in another process, which keeps its batch")
        path = keep_batch(self._out, seen, step, self._who.rank)
        raise DivergedError(
            f"the {what} of step {step} is not finite; its batch is kept in {path}. Try a lower learning rate"
        )

    def _evaluate(self, batches: Iterator[Mapping[str, Batch]], loss: float, seconds: float) -> EpochRecord:
        module, live = self._task.module, None
        if self._average:
            live = copy.deepcopy(module.state_dict())
            module.load_state_dict(self._average.module.state_dict())
        if isinstance(self._task, SettlingTask) and self._task.needs.settle:
            self._task.settle(self._passes(batches))
        average_buffers(module)
        if self._average:
            # What is kept must be what was scored: settling has measured its statistics anew.
            self._average.module.load_state_dict(module.state_dict())
        scores = self._dev_scores()
        if not np.isfinite(scores).all():
            raise DivergedError(f"scores of the dev set are not finite after epoch {self._epoch}: the weights diverged")
        labels = self._dev.labels[self._places]
        auc, eer = float(metrics.auc(scores, labels)), float(metrics.eer(scores, labels).value)
        rule, value = self._judge.rule, self._judge.value(scores)
        if kept := value is None or -value > self._best:
            self._best = -math.inf if value is None else -value
            if self._who.first:
                result = (self._epoch, auc, eer)
                keep_weights(self._out, self._config, module, result, self._note, keep=(rule, value))
        if live is not None:
            module.load_state_dict(live)
        rate = float(self._optimiser.param_groups[0]["lr"])
        return EpochRecord(self._epoch, loss, auc, eer, seconds, rate, rule, value, kept)

    def _dev_scores(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Scores of the dev set; each process works out its share."""
        rank, world, task = self._who.rank, self._who.world, self._task
        places = self._places[rank::world]
        own = score_batches(task.score_batch, task.module, self._dev, self._config, needs=task.needs, places=places)
        scores = np.empty(len(self._places))
        for k, part in enumerate(gathered(own)):
            scores[k::world] = cast("np.ndarray[tuple[int], np.dtype[np.float64]]", part)
        return scores

    def _save(self, name: str) -> None:
        state = {"module": self._task.module.state_dict(), "optimiser": self._optimiser.state_dict()}
        if self._average:
            state["average"] = self._average.module.state_dict()
        tensors, skeleton = flatten(state)
        meta = {
            "skeleton": skeleton,
            "epoch": self._epoch,
            "position": self._position,
            "best": self._best if math.isfinite(self._best) else None,
            "config": msgspec.to_builtins(self._config),
            "note": self._note,
        }
        if self._losses:
            meta["losses"] = self._losses
        save_checkpoint(self._out / name, tensors, meta)
        self._saved = time.monotonic()

    def _resume(self) -> None:
        checkpoint = load_checkpoint(self._out / LAST)
        meta = checkpoint.metadata
        missing = {"config", "skeleton", "epoch", "best"} - set(meta)
        if missing:
            raise CheckpointError(f"{self._out / LAST} is not of a training run: {', '.join(sorted(missing))} missing")
        self._check_same_run(checkpoint)
        state = cast("_State", restore(meta["skeleton"], checkpoint.tensors))
        self._task.module.load_state_dict(state["module"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._restore_layout()
        if self._average:
            self._average.module.load_state_dict(state["average"])
        self._epoch = int(str(meta["epoch"]))
        self._position = int(str(meta.get("position", 0)))
        self._losses = [float(loss) for loss in cast("list[float]", meta.get("losses", []))]
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

    def _check_same_run(self, checkpoint: Checkpoint) -> None:
        """Refuse to go on with another configuration, or on other samples."""
        try:
            config = msgspec.convert(checkpoint.metadata["config"], TrainConfig)
        except msgspec.ValidationError as error:
            raise CheckpointError(
                f"{self._out} holds a run with another configuration ({error}); choose another folder"
            ) from error
        if config.learnt() != self._config.learnt():
            raise CheckpointError(f"{self._out} holds a run with another configuration; choose another folder")
        if (noted := checkpoint.metadata.get("note", self._note)) != self._note:
            raise CheckpointError(
                f"{self._out} holds a run with another note, such as other teachers ({noted}, now {self._note}); "
                "choose another folder"
            )
        before = read_sets(self._out)
        if before is not None and not (_told(before[0], self._feed.info) and _told(before[1], self._dev_info())):
            raise CheckpointError(
                f"{self._out} holds a run on other sets (train {before[0]}, dev {before[1]}); choose another folder"
            )

    def _dev_info(self) -> dict[str, JsonValue]:
        described: dict[str, JsonValue] = msgspec.to_builtins(self._dev.info)
        return described

    def _write_record(self) -> None:
        targets = self._task.needs.targets
        write_record(
            self._out,
            {
                "config": msgspec.to_builtins(self._config),
                "note": self._note,
                "train": self._feed.info,
                "dev": self._dev_info(),
                "people": cast("JsonValue", hashed_people(self._feed.identities)),
                **({"depth_targets": list(targets.names)} if targets else {}),
                "parameters": sum(p.numel() for p in self._task.module.parameters()),
                **surroundings(self._config, self._device, self._who.world),
            },
        )


def _told(before: JsonValue, now: Mapping[str, JsonValue]) -> bool:
    """Whether a record describes these samples; what it does not mention was not known yet when it was written."""
    return isinstance(before, Mapping) and all(now.get(name) == value for name, value in before.items())
