"""Processes that simulate ahead of whoever writes or trains: chunks of samples, in their order, few at a time.

A simulator is not sent to a process, it is made there from a :class:`Recipe`: the tiles are mapped, not copied.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for_futures
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import TypedDict, TypeVar

import numpy as np
import torch

from fasedge.types import UInt8Array, UInt16Array
from training.data.manifest import Split, read_manifest
from training.data.simulate import Sample, Simulator
from training.data.simulate.compose import CANVAS_SCALE
from training.data.simulate.mesh import build_meshes
from training.data.simulate.scene import LARGEST_TILE_PX, TILE_PX, build_tiles, read_backgrounds
from training.data.simulate.simulator import PICTURE_PX
from training.data.table import SampleRow, SetInfo
from training.errors import DataError

#: Seconds between two looks at whether workers are alive.
_LOOK_S = 1.0
Result = TypeVar("Result")
#: Something that a worker does with a chunk; a function of a module, so that its name can be sent.
Job = Callable[[Simulator, Sequence[int]], Result]


class View(TypedDict):
    """What of the scene is on a picture, and how finely; keywords of whatever makes pictures.

    Attributes:
        picture_px: Side of the pictures.
        canvas_scale: Side of the pictures over the side of the face box.
    """

    picture_px: int
    canvas_scale: float


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a simulator is made from; small enough to be sent to a process.

    Attributes:
        data: Folder of the face pack.
        cache: Folder where tiles are kept.
        split: Which identities.
        seed: Seed of the set.
        depth: Simulate a depth camera too.
        picture_px: Side of the pictures.
        canvas_scale: Side of the pictures over the side of the face box.
    """

    data: Path
    cache: Path
    split: Split
    seed: int
    depth: bool = False
    picture_px: int = PICTURE_PX
    canvas_scale: float = CANVAS_SCALE

    def simulator(self) -> Simulator:
        """Make the simulator; the first time, its tiles are cut and cached.

        Raises:
            DataError: The pack or one of its pictures cannot be read, or the canvas is too narrow or too wide.
        """
        return make_simulator(
            self.data,
            self.cache,
            self.split,
            self.seed,
            depth=self.depth,
            picture_px=self.picture_px,
            canvas_scale=self.canvas_scale,
        )

    def describe(self, n: int, *, stored: str = "npy") -> SetInfo:
        """Description of a set of ``n`` samples, ``stored`` as :attr:`SetInfo.format` says."""
        return SetInfo(
            split=self.split,
            seed=self.seed,
            n=n,
            depth=self.depth,
            format=stored,
            picture_px=self.picture_px,
            canvas_scale=self.canvas_scale,
        )


def tile_px_for(picture_px: int) -> int:
    """Side of the tiles for pictures of this side, even: as fine as 320 px are for 192 px, 640 px at most."""
    return min(2 * round(TILE_PX * picture_px / PICTURE_PX / 2), LARGEST_TILE_PX)


def make_simulator(
    data: Path,
    cache: Path,
    split: Split,
    seed: int,
    *,
    depth: bool = False,
    picture_px: int = PICTURE_PX,
    canvas_scale: float = CANVAS_SCALE,
) -> Simulator:
    """A simulator over one split of the face pack; tiles and meshes are cached under ``cache``.

    Sensors and tiles grow with the pictures, so that larger ones show more.

    Raises:
        DataError: The pack or one of its pictures cannot be read, or the canvas is too narrow or too wide.
    """
    pictures = read_manifest(data, [split])
    tile_px = tile_px_for(picture_px)
    name = f"tiles_{split}.npy" if tile_px == TILE_PX else f"tiles_{split}_{tile_px}.npy"
    tiles = build_tiles(pictures, cache / name, tile_px=tile_px)
    meshes = build_meshes(data, pictures, cache / f"meshes_{split}.npy")
    rooms = read_backgrounds(data)
    return Simulator(
        pictures,
        tiles,
        rooms,
        seed=seed,
        meshes=meshes,
        depth=depth,
        picture_px=picture_px,
        canvas_scale=canvas_scale,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Consecutive samples as arrays.

    Attributes:
        pictures: uint8 (k, P, P, 3), red first.
        depth_mm: uint16 (k, P, P), 0 where nothing returns, or ``None``.
        rows: A row per sample.
    """

    pictures: UInt8Array
    depth_mm: UInt16Array | None
    rows: list[SampleRow]


def make_block(simulator: Simulator, indices: Sequence[int], *, depth: bool = False) -> Block:
    """Simulate samples by their numbers.

    Raises:
        DataError: Depth is asked for, but the simulator makes none.
    """
    samples = simulator.samples(indices)
    rows = [row_of(simulator, index, sample) for index, sample in zip(indices, samples, strict=True)]
    maps = [made for sample in samples if (made := depth_of(sample)) is not None] if depth else []
    if depth and len(maps) != len(samples):
        raise DataError(f"depth was asked for, but the simulator made it for {len(maps)} of {len(samples)} samples")
    return Block(np.stack([s.picture for s in samples]), np.stack(maps) if maps else None, rows)


def depth_of(sample: Sample) -> UInt16Array | None:
    """The sample's depth map, uint16 (P, P) in millimetres, or ``None`` where depth is not simulated."""
    return sample.depth_mm


def row_of(simulator: Simulator, index: int, sample: Sample) -> SampleRow:
    """The row that goes beside a sample."""
    picture = simulator.pictures[sample.source]
    return SampleRow(
        index=index,
        box_xyxy=tuple(round(v, 3) for v in sample.box_xyxy),  # type: ignore[arg-type]  # four in, four out
        label=sample.label,
        species=sample.species,
        subtype=sample.subtype,
        source=picture.source,
        identity=picture.identity,
        picture=picture.key,
        split=picture.split,
        params=sample.params,
    )


_WORKER: dict[str, Simulator] = {}


def _start_worker(recipe: Recipe) -> None:
    # A stop from the keyboard reaches every process; the parent ends the workers, without a traceback from each.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _WORKER["simulator"] = recipe.simulator()


def _end_with_parent() -> None:
    """End this process when its parent is gone: one that was killed cannot shut its workers down."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _apart(job: Job[Result], indices: Sequence[int]) -> Result:
    return job(_WORKER["simulator"], indices)


@contextmanager
def in_order(
    job: Job[Result],
    chunks: Iterable[Sequence[int]],
    recipe: Recipe,
    workers: int,
    *,
    simulator: Simulator | None = None,
    ahead: int | None = None,
) -> Iterator[Iterator[Result]]:
    """Results of the chunks in their order; what is not yet made when the block is left is given up.

    Args:
        job: What to do with each chunk, a function of a module.
        chunks: Numbers of samples; may be endless.
        recipe: What the workers make their simulators from.
        workers: Processes; with none, the calling process does the work when it is asked for a result.
        simulator: The one to use when the calling process does the work; made from the recipe if not given.
        ahead: Chunks that may be under way or waiting to be fetched; by default two per worker.

    Yields:
        The results.

    Raises:
        BrokenProcessPool: A worker died.
    """
    if workers < 1:
        own = simulator or recipe.simulator()
        yield (job(own, indices) for indices in chunks)
        return
    # Not multiprocessing.Pool: it waits for ever for a worker that the system has killed.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(recipe,)
    )
    try:
        yield _bounded(pool, job, iter(chunks), ahead or 2 * workers)
    finally:
        pool.shutdown(cancel_futures=True)


def _bounded(
    pool: ProcessPoolExecutor, job: Job[Result], chunks: Iterator[Sequence[int]], ahead: int
) -> Iterator[Result]:
    waiting: deque[Future[Result]] = deque()
    for indices in chunks:
        waiting.append(pool.submit(_apart, job, indices))
        if len(waiting) >= ahead:
            yield _fetched(pool, waiting.popleft())
    while waiting:
        yield _fetched(pool, waiting.popleft())


def _fetched(pool: ProcessPoolExecutor, future: Future[Result]) -> Result:
    """Wait for a result, and look now and then whether there is still somebody to make it.

    A worker that is killed while it hands a result over leaves the pool waiting for the rest of it for ever. With all
    workers gone and its own end of their pipe closed, it sees the end and says that it is broken.
    """
    while not wait_for_futures([future], timeout=_LOOK_S).done:
        workers = list((pool._processes or {}).values())
        if any(worker.exitcode is not None for worker in workers):
            for worker in workers:
                worker.kill()
            with suppress(OSError):
                pool._result_queue._writer.close()  # type: ignore[attr-defined]  # typeshed does not know it
    return future.result()
