"""Parts of ``benchmarks.training_speed``: the peak of a device, the operations of a step, and the loops that run it."""

from __future__ import annotations

import gc
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW
from torch.utils.flop_counter import FlopCounterMode

from training.build import build_task
from training.checkpoint import JsonValue
from training.config import TrainConfig
from training.data.samples import SampleRow, SampleSet, SetInfo
from training.data.simulate.profiles import PROFILES
from training.feeds import SetFeed
from training.loop import Trainer
from training.runlog import StepRecord
from training.tasks import TOTAL, Batch, Needs, as_step_task

#: Sides of the matrices whose product is timed.
SIDES: Mapping[str, tuple[int, ...]] = {"cuda": (4096, 8192, 16384), "cpu": (512, 1024, 2048)}
_PICTURE_PX = 192
_FACE = (48.0, 48.0, 144.0, 144.0)


def synchronise(device: torch.device) -> None:
    """Wait for what an accelerator still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_peak(device: torch.device, sides: Sequence[int] | None = None, seconds: float = 0.5) -> float:
    """Operations per second of bf16 matrix products, 2 s³ for matrices of side s; the fastest side.

    Args:
        device: Where.
        sides: Sides to try; by default what suits the device.
        seconds: How long each is repeated, at least.
    """
    best = 0.0
    for side in sides or SIDES[device.type]:
        a, b = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
        out = a @ b
        synchronise(device)
        # A group that is long enough for launches not to count, and is waited for as a whole.
        done, group, start = 0, 10 if device.type == "cuda" else 1, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds or not done:
            for _ in range(group):
                torch.mm(a, b, out=out)
            synchronise(device)
            done += group
        elapsed = time.perf_counter() - start
        best = max(best, 2.0 * side**3 * done / elapsed)
    return best


def count_flops(step: Callable[[], object]) -> int:
    """Operations of the convolutions and matrix products that a call executes, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


@contextmanager
def without_tf32() -> Iterator[None]:
    """Products and convolutions of float32 in float32; on GPUs, PyTorch's convolutions round to TF32 by default."""
    parts = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]  # its stub lacks it
    before = [part.fp32_precision for part in parts]
    for part in parts:
        part.fp32_precision = "ieee"
    try:
        yield
    finally:
        for part, value in zip(parts, before, strict=True):
            part.fp32_precision = value


def noise_set(n: int, split: str) -> SampleSet:
    """Noise with depth: alternating labels, the simulated cameras in turn, everybody of one split."""
    rng = np.random.default_rng([n, len(split)])
    cameras = sorted(PROFILES)
    rows = [
        SampleRow(
            index=i,
            box_xyxy=_FACE,
            label=(i + 1) % 2,
            species="replay" if i % 2 else "bona_fide",
            subtype="phone" if i % 2 else "bona_fide",
            source="noise",
            identity=f"{split}{i}",
            picture=str(i),
            split=split,
            params={"camera": cameras[i // 2 % len(cameras)]},
        )
        for i in range(n)
    ]
    pictures = rng.integers(0, 256, (n, _PICTURE_PX, _PICTURE_PX, 3), np.uint8)
    depth = rng.integers(550, 650, (n, _PICTURE_PX, _PICTURE_PX), np.uint16)
    return SampleSet(pictures, rows, SetInfo(split=split, seed=0, n=n, depth=True), depth)


class MemoryFeed:
    """The batches of one step, again and again.

    Args:
        config: The run.
        needs: What the task looks at.
        steps: Steps of an epoch.
        device: A GPU's batches wait in pinned memory, as prefetched ones do.

    Raises:
        ConfigError: The batch cannot be shared out among the domains.
    """

    position = 0
    info: Mapping[str, JsonValue] = {"split": "noise"}

    def __init__(self, config: TrainConfig, needs: Needs, steps: int, device: torch.device) -> None:
        self.steps, self._accumulate = steps, config.optimiser.accumulate
        # Every domain and class, however small the batch.
        n = max(config.optimiser.batch * self._accumulate, 2 * len(PROFILES))
        feed = SetFeed(noise_set(n, "train"), config, needs)
        self.identities = feed.identities
        made = itertools.islice(feed.epoch(0, 0), self._accumulate)
        pin = device.type == "cuda"
        self._batches = [{name: b.pinned() if pin else b for name, b in named.items()} for named in made]

    def epoch(self, number: int, position: int, skip: int = 0) -> Iterator[Mapping[str, Batch]]:
        """The batches of an epoch."""
        for _ in range(self.steps):
            yield from self._batches

    def close(self) -> None:
        """There is nothing under way."""


class _DoneError(Exception):
    """All steps are timed: what comes after an epoch is not wanted."""


class _Clock:
    """Times the steps of a trainer after the first few, and ends it."""

    def __init__(self, device: torch.device, warmup: int, steps: int) -> None:
        self._device, self._warmup, self._last = device, warmup, warmup + steps
        self._since = time.perf_counter()
        self.start_s = self.timed_s = 0.0

    def __call__(self, record: StepRecord) -> None:
        if record.step == self._warmup:
            self.start_s = self._lap()
        if record.step == self._last:
            self.timed_s = self._lap()
            raise _DoneError

    def _lap(self) -> float:
        synchronise(self._device)
        before, self._since = self._since, time.perf_counter()
        return self._since - before


def time_ours(config: TrainConfig, device: torch.device, warmup: int, steps: int) -> tuple[float, float]:
    """Seconds of a step of the trainer, and of its start."""
    task = as_step_task(build_task(config))
    clock = _Clock(device, warmup, steps)
    with tempfile.TemporaryDirectory() as folder:
        feed = MemoryFeed(config, task.needs, warmup + steps, device)
        trainer = Trainer(task, config, feed, noise_set(2, "dev"), Path(folder), progress=clock)
        with suppress(_DoneError):
            list(trainer.run())
    return clock.timed_s / steps, clock.start_s


def time_plain(config: TrainConfig, device: torch.device, warmup: int, steps: int) -> tuple[float, int, int]:
    """Seconds of the same step in a plain loop, operations of a step, and parameters of the network."""
    task = as_step_task(build_task(config))
    task.to(device)
    task.module.train()
    rows_first(task.module)
    feed, o = MemoryFeed(config, task.needs, 1, device), config.optimiser
    optimiser = (AdamW if o.decoupled else Adam)(
        task.module.parameters(), lr=o.learning_rate, weight_decay=o.weight_decay
    )

    def step() -> None:
        optimiser.zero_grad()
        for named in feed.epoch(0, 0):
            losses = task.training_step({name: batch.to(device) for name, batch in named.items()})
            if not task.needs.gradients:
                (losses[TOTAL] / o.accumulate).backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    with without_tf32():
        flops = count_flops(step)
        for _ in range(warmup - 1):
            step()
        synchronise(device)
        start = time.perf_counter()
        for _ in range(steps):
            step()
        synchronise(device)
    seconds = (time.perf_counter() - start) / steps
    return seconds, flops, sum(p.numel() for p in task.module.parameters())


def rows_first(module: nn.Module) -> None:
    """Give a network and its parts what they read in PyTorch's usual layout: pictures arrive as channels-last."""

    def relay(_: nn.Module, arguments: tuple[object, ...]) -> tuple[object, ...]:
        return tuple(a.contiguous() if isinstance(a, Tensor) else a for a in arguments)

    for part in (module, *module.children()):
        part.register_forward_pre_hook(relay)


def free(device: torch.device, *, compiled: bool) -> None:
    """Give back the memory and the compiled code of what was measured before."""
    if compiled:
        torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
