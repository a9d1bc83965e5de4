"""Samples made while training goes on: worker processes simulate a few batches ahead, nothing is written.

Batch ``k`` of a stream holds the samples ``start_index + k·batch`` …, so a stream goes on exactly where another one
stopped, and no sample comes twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from functools import partial
from itertools import count
from types import TracebackType

from training.data.samples import SampleSet
from training.data.work import Block, Recipe, in_order, make_block
from training.errors import DataError


class SimulatedStream:
    """An endless stream of batches, made ahead by worker processes.

    Iterate over it inside a ``with`` block, or call :meth:`close`: the workers end with it. Each batch is a
    :class:`training.data.samples.SampleSet` in memory: pictures, boxes, labels, every drawn parameter, crops.

    Args:
        recipe: What the simulators are made from.
        batch: Samples per batch, at least 1.
        start_index: Number of the first sample: :attr:`position` of the stream that this one continues.
        workers: Processes; see :func:`default_workers` for the default. 0 makes each batch when it is asked for, in the
            calling process.
        ahead: Batches that may be under way or waiting; by default two per worker.

    Attributes:
        position: Number of the first sample of the next batch; keep it to go on from there.

    Raises:
        DataError: A number is out of range, or the pack cannot be read.
    """

    def __init__(
        self,
        recipe: Recipe,
        batch: int,
        start_index: int = 0,
        *,
        workers: int | None = None,
        ahead: int | None = None,
    ) -> None:
        workers = default_workers() if workers is None else workers
        if batch < 1 or start_index < 0 or workers < 0 or (ahead is not None and ahead < 1):
            raise DataError(
                f"a stream needs batch >= 1, start_index >= 0, workers >= 0 and ahead >= 1, got {batch}, "
                f"{start_index}, {workers} and {ahead}"
            )
        self.position = start_index
        self._recipe, self._batch = recipe, batch
        # Made here even where only the workers use it: tiles are cut, and a bad picture is found, before they start.
        simulator = recipe.simulator()
        self._stack = ExitStack()
        chunks = (range(start, start + batch) for start in count(start_index, batch))
        job = partial(make_block, depth=recipe.depth)
        self._blocks: Iterator[Block] = self._stack.enter_context(
            in_order(job, chunks, recipe, workers, simulator=simulator, ahead=ahead)
        )
        self._closed = False

    def __iter__(self) -> SimulatedStream:
        return self

    def __next__(self) -> SampleSet:
        """The next batch.

        Raises:
            StopIteration: The stream is closed.
            DataError: A worker died.
        """
        if self._closed:
            raise StopIteration
        try:
            block = next(self._blocks)
        except BrokenProcessPool as error:
            self.close()
            raise DataError(
                f"a worker process of the simulation died at sample {self.position}, often for want of memory; go on "
                "with fewer workers"
            ) from error
        self.position += self._batch
        info = self._recipe.describe(self._batch)
        return SampleSet(block.pictures, block.rows, info, block.depth_mm)

    def __enter__(self) -> SimulatedStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; what they made ahead is given up. May be called twice."""
        self._closed = True
        self._stack.close()


def default_workers() -> int:
    """All cores but one, which trains; of a machine that trains in several processes, each has its share of the cores.

    How many there are says ``LOCAL_WORLD_SIZE``, as ``torchrun`` sets it.
    """
    beside = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, (os.cpu_count() or 1) // (int(beside) if beside.isdecimal() and int(beside) else 1) - 1)
