"""Batches made ahead in a thread, so that whoever trains does not wait for them; their order and bits stay the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from queue import Full, Queue

import torch

from training.checkpoint import JsonValue
from training.feeds import Feed
from training.tasks import Batch

_LOOK_S = 0.05


class Prefetch:
    """A feed whose next batches are made while the present one is trained on.

    Everything random in a batch follows from its number, never from when it was made. :attr:`position` follows the
    batches that were taken, not those that wait.

    Args:
        feed: Where they come from. It is used from the thread alone until the epoch ends or the feed is closed.
        ahead: Batches that may wait; 0 makes each when it is asked for.
        device: Where they go: for a GPU they wait in pinned memory.
    """

    def __init__(self, feed: Feed, ahead: int, device: torch.device) -> None:
        self._feed, self._ahead, self._device = feed, ahead, device
        self._running: _Ahead | None = None
        self.position = feed.position

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self._feed.steps

    @property
    def info(self) -> Mapping[str, JsonValue]:
        """The feed's description."""
        return self._feed.info

    @property
    def identities(self) -> set[str]:
        """Everybody in the feed."""
        return self._feed.identities

    def epoch(self, number: int, position: int, skip: int = 0) -> Iterator[Mapping[str, Batch]]:
        """Batches of an epoch, as the feed has them."""
        self._stop()
        self.position = position
        if not self._ahead:
            for named in self._feed.epoch(number, position, skip):
                self.position = self._feed.position
                yield named
            return
        self._running = _Ahead(self._feed, (number, position, skip), self._ahead, self._device)
        for named, where in self._running:
            self.position = where
            yield named

    def _stop(self) -> None:
        if self._running is not None:
            self._running.stop()
            self._running = None

    def close(self) -> None:
        """End the thread, then the feed."""
        self._stop()
        self._feed.close()


class _Ahead:
    """One epoch, made ahead."""

    def __init__(self, feed: Feed, epoch: tuple[int, int, int], ahead: int, device: torch.device) -> None:
        self._feed, self._epoch, self._device = feed, epoch, device
        # The end, and whatever went wrong, wait in the same line: batches before it are still trained on.
        self._line: Queue[tuple[Mapping[str, Batch], int] | BaseException | None] = Queue(ahead)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[tuple[Mapping[str, Batch], int]]:
        while True:
            item = self._line.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def stop(self) -> None:
        """Wait for the batch that is being made, and give up the others."""
        self._stopped.set()
        self._thread.join()

    def _work(self) -> None:
        pin = self._device.type == "cuda"
        try:
            if pin:
                # Each thread has a device of its own; the first GPU is not this process's.
                torch.cuda.set_device(self._device)
            for named in self._feed.epoch(*self._epoch):
                ready = {name: batch.pinned() for name, batch in named.items()} if pin else named
                if not self._put((ready, self._feed.position)):
                    return
            self._put(None)
        except BaseException as error:  # noqa: BLE001 - handed on to whoever takes the batches
            self._put(error)

    def _put(self, item: tuple[Mapping[str, Batch], int] | BaseException | None) -> bool:
        """Wait for room; false if nobody takes batches any more."""
        while not self._stopped.is_set():
            try:
                self._line.put(item, timeout=_LOOK_S)
            except Full:
                continue
            return True
        return False
