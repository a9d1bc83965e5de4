"""Batches made ahead: the same ones, in the same order, and nothing runs on when nobody takes them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch

from tests.training.fixtures.toy_sets import ToyTask, toy_set
from training.checkpoint import JsonValue, load_checkpoint
from training.config import AugmentConfig, InputConfig, MachineConfig, OptimiserConfig, TrainConfig
from training.errors import DataError
from training.loop import LAST, Trainer
from training.prefetch import Prefetch
from training.tasks import MIXED, Batch

CPU = torch.device("cpu")


class CountingFeed:
    """Six batches, numbered; the position is that of the batch made last."""

    steps, identities = 6, frozenset[str]()
    info: Mapping[str, JsonValue] = {}

    def __init__(self, breaks_at: int | None = None) -> None:
        self.position, self._breaks_at, self.closed = 0, breaks_at, False
        self.made: list[int] = []
        self.threads: set[int] = set()

    def epoch(self, number: int, position: int, skip: int = 0) -> Iterator[Mapping[str, Batch]]:
        for i in range(position, position + self.steps):
            if i == self._breaks_at:
                raise DataError("the stream broke")
            self.position = i + 1
            self.made.append(i)
            self.threads.add(threading.get_ident())
            yield {MIXED: Batch(torch.zeros(1), torch.tensor([float(i)]))}

    def close(self) -> None:
        self.closed = True


def running() -> int:
    return sum(thread.name == "batches" for thread in threading.enumerate())


@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_batches_come_in_order_and_the_position_is_that_of_the_batch_that_was_taken(ahead: int) -> None:
    feed = CountingFeed()
    prefetch = Prefetch(feed, ahead, CPU)  # type: ignore[arg-type]
    seen = [(int(named[MIXED].labels[0]), prefetch.position) for named in prefetch.epoch(0, 2)]
    assert seen == [(i, i + 1) for i in range(2, 8)]
    assert (threading.get_ident() in feed.threads) == (ahead == 0)
    prefetch.close()
    assert feed.closed
    assert running() == 0


def test_no_more_batches_are_made_than_may_wait() -> None:
    feed = CountingFeed()
    prefetch = Prefetch(feed, 2, CPU)  # type: ignore[arg-type]
    batches = prefetch.epoch(0, 0)
    next(batches)
    prefetch.close()
    # One is taken, two wait, and one more is in the thread's hand.
    assert len(feed.made) <= 4
    assert running() == 0


def test_an_epoch_that_is_not_finished_is_given_up_when_the_next_begins() -> None:
    prefetch = Prefetch(CountingFeed(), 3, CPU)  # type: ignore[arg-type]
    next(prefetch.epoch(0, 0))
    assert [int(named[MIXED].labels[0]) for named in prefetch.epoch(1, 10)] == [10, 11, 12, 13, 14, 15]
    prefetch.close()


@pytest.mark.parametrize("ahead", [0, 3])
def test_what_goes_wrong_in_the_thread_is_raised_after_the_batches_before_it(ahead: int) -> None:
    prefetch, seen = Prefetch(CountingFeed(breaks_at=3), ahead, CPU), []  # type: ignore[arg-type]
    with pytest.raises(DataError, match="the stream broke"):
        seen.extend(int(named[MIXED].labels[0]) for named in prefetch.epoch(0, 0))
    prefetch.close()
    prefetch, seen = Prefetch(CountingFeed(breaks_at=3), ahead, CPU), []  # type: ignore[arg-type]
    batches = prefetch.epoch(0, 0)
    assert [int(next(batches)[MIXED].labels[0]) for _ in range(3)] == [0, 1, 2]
    prefetch.close()


def test_losses_and_weights_are_the_same_with_and_without_the_thread(tmp_path: Path) -> None:
    found = []
    for ahead in (0, 3):
        config = TrainConfig(
            input=InputConfig(size_px=16, crop_scale=1.5),
            optimiser=OptimiserConfig(batch=8, epochs=2, learning_rate=1e-2),
            augment=AugmentConfig(noise=5, shift=0.05, erase=0.5),
            machine=MachineConfig(device="cpu", ahead=ahead, log_every=1),
        )
        out, losses = tmp_path / str(ahead), []
        progress = lambda record, losses=losses: losses.append(record.loss)  # noqa: E731
        list(Trainer(ToyTask(), config, toy_set(32), toy_set(8, split="dev"), out, progress=progress).run())
        found.append((losses, load_checkpoint(out / LAST).tensors))
    (without, one), (with_thread, two) = found
    assert len(without) == 8
    assert with_thread == without
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert running() == 0


def test_a_run_that_is_stopped_leaves_no_thread_behind(tmp_path: Path) -> None:
    config = TrainConfig(
        input=InputConfig(size_px=16, crop_scale=1.5),
        optimiser=OptimiserConfig(batch=4, epochs=1),
        machine=MachineConfig(device="cpu"),
    )

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(Trainer(ToyTask(), config, toy_set(32), toy_set(8, split="dev"), tmp_path, progress=stop).run())
    assert running() == 0
