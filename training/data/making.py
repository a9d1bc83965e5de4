"""Making sets of simulated samples: an interrupted one goes on where it stopped, the same seed gives the same set.

What a set is made of stands in :mod:`training.data.samples`.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np

from training.data.manifest import Split
from training.data.simulate.cache import check_room, replacing, reserve
from training.data.simulate.compose import CANVAS_SCALE
from training.data.simulate.simulator import PICTURE_PX
from training.data.table import DEPTH, INFO, PICTURES, TABLE, SampleRow, SetInfo
from training.data.work import Block, Recipe, in_order, make_block
from training.errors import DataError

_CHUNK = 32
#: What to do about an error of the system, by its numbers.
_CURES = {
    (errno.ENOSPC, errno.EDQUOT): "free disk or choose another folder",
    (errno.EROFS, errno.EACCES, errno.EPERM): "choose a folder that you may write to",
    (errno.EEXIST, errno.ENOTDIR, errno.EISDIR): "something else has that name: choose another folder or move it away",
}
_Pictures: TypeAlias = np.memmap[tuple[int, ...], np.dtype[np.uint8]]
_Depth: TypeAlias = np.memmap[tuple[int, ...], np.dtype[np.uint16]]
_Arrays: TypeAlias = tuple[_Pictures, _Depth | None]


def make_set(
    data: Path,
    out: Path,
    split: Split,
    n: int,
    *,
    seed: int,
    workers: int | None = None,
    depth: bool = False,
    picture_px: int = PICTURE_PX,
    canvas_scale: float = CANVAS_SCALE,
) -> Iterator[tuple[int, int]]:
    """Make a set, in parallel; an interrupted one goes on where it stopped.

    Args:
        data: Folder of the face pack.
        out: Folder of the set; tiles are cached in its parent.
        split: Which identities.
        n: Number of samples, at least 1.
        seed: Seed of the set, not negative.
        workers: Processes; the number of cores by default. One works in the calling process. The set is the same
            for any number.
        depth: Simulate a depth camera too.
        picture_px: Side of the pictures; tiles and sensors grow with it.
        canvas_scale: Side of the pictures over the side of the face box, 2.0 to 2.6.

    Yields:
        ``(done, n)`` after every chunk, for a progress bar.

    Raises:
        DataError: A parameter is out of range, ``out`` holds a set made with other parameters, the disk is full, or a
            worker died.
    """
    workers = check_request(n, seed, workers)
    recipe = Recipe(data, out.parent, split, seed, depth, picture_px, canvas_scale)
    info = recipe.describe(n)
    with written(out):
        check_claim(out, info, [TABLE, PICTURES, DEPTH])
        _check_room(out, info)
        # Before anything is claimed: an unknown split or a missing picture must not leave a folder behind. It also
        # builds the tiles once, before the workers map them.
        simulator = recipe.simulator()
        arrays, done = _open_set(out, info)
        chunks = [list(range(start, min(start + _CHUNK, n))) for start in range(done, n, _CHUNK)]
        with (
            in_order(
                partial(make_block, depth=depth), chunks, recipe, processes(workers, chunks), simulator=simulator
            ) as blocks,
            (out / TABLE).open("ab") as table,
        ):
            for indices, block in zip(chunks, blocks, strict=True):
                _store(arrays, indices, block)
                table.write(b"".join(msgspec.json.encode(row) + b"\n" for row in block.rows))
                table.flush()
                yield indices[-1] + 1, n


def check_request(n: int, seed: int, workers: int | None) -> int:
    """Refuse impossible numbers; say how many processes to use."""
    if n < 1 or seed < 0 or (workers is not None and workers < 1):
        raise DataError(f"a set needs n >= 1, seed >= 0 and workers >= 1, got {n}, {seed} and {workers}")
    return workers or os.cpu_count() or 1


def processes(workers: int, chunks: Sequence[object]) -> int:
    """Processes to start for some chunks; none where the calling process can do the work alone."""
    workers = min(workers, len(chunks))
    return workers if workers > 1 else 0


@contextmanager
def written(out: Path) -> Iterator[None]:
    """Turn what stops a set from being written into errors that say what to do."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{out}: cannot write the set: {explained(error)}, and run it again") from error
    except BrokenProcessPool as error:
        raise DataError(
            f"{out}: a worker process died, often for want of memory; run it again with fewer workers, it goes on "
            "where it stopped"
        ) from error


def explained(error: OSError) -> str:
    """What the system says, of which file, and what to do about it."""
    cure = next((cure for numbers, cure in _CURES.items() if error.errno in numbers), "choose another folder")
    return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}; {cure}"


def check_claim(out: Path, info: SetInfo, files: Sequence[str]) -> None:
    """Refuse a folder that holds a set made with other parameters, or files of somebody else.

    Args:
        out: Folder of the set.
        info: What the set is to be.
        files: Names that its files have. The description is written before any of them: without one they are not ours.
    """
    path = out / INFO
    if not path.is_file():
        foreign = [name for name in files if (out / name).exists()]
        if foreign:
            raise DataError(
                f"{out} holds {foreign[0]} but no {INFO}, so it is no set of `simulate`, and would be overwritten; "
                f"choose another folder, or move away: {', '.join(foreign[:10])}"
            )
        return
    try:
        found = msgspec.json.decode(path.read_bytes(), type=type(info))
    except msgspec.MsgspecError as error:
        raise DataError(f"{path} is damaged ({error}); choose another folder or delete it") from error
    if found != info:
        raise DataError(f"{out} holds another set ({found}); choose another folder or delete it")


def claim(out: Path, info: SetInfo) -> None:
    """Make the folder of a set and say in it what the set is made from."""
    out.mkdir(parents=True, exist_ok=True)
    (out / INFO).write_text(json.dumps(msgspec.to_builtins(info), indent=2) + "\n", encoding="utf-8")


def _store(arrays: _Arrays, indices: Sequence[int], block: Block) -> None:
    pictures, depth_mm = arrays
    pictures[indices[0] : indices[-1] + 1] = block.pictures
    # Pictures first: a row on disk promises that its picture is there, also after a power cut.
    pictures.flush()
    if depth_mm is not None and block.depth_mm is not None:
        depth_mm[indices[0] : indices[-1] + 1] = block.depth_mm
        depth_mm.flush()


def _wanted(out: Path, info: SetInfo) -> dict[Path, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Array files of a set, with the type and the shape of each."""
    shape = (info.n, info.picture_px, info.picture_px)
    wanted: dict[Path, tuple[np.dtype[Any], tuple[int, ...]]] = {out / PICTURES: (np.dtype(np.uint8), (*shape, 3))}
    if info.depth:
        wanted[out / DEPTH] = (np.dtype(np.uint16), shape)
    return wanted


def _check_room(out: Path, info: SetInfo) -> None:
    """Refuse a disk that is too small for what is not there yet."""
    wanted = _wanted(out, info)
    if not all(path.is_file() for path in wanted):
        check_room(out, sum(dtype.itemsize * math.prod(shape) for dtype, shape in wanted.values()))


def _open_set(out: Path, info: SetInfo) -> tuple[_Arrays, int]:
    """Claim the folder, open its arrays for writing, and say how many samples are done."""
    claim(out, info)
    table, wanted = out / TABLE, _wanted(out, info)
    done = 0
    if table.is_file() and all(path.is_file() for path in wanted):
        for path, (dtype, shape) in wanted.items():
            _check_whole(path, dtype, shape)
        rows = _sound_rows(table)[: info.n]
        done = len(rows) if len(rows) == info.n else len(rows) - len(rows) % _CHUNK
        table.write_bytes(b"".join(rows[:done]))
    else:
        table.write_bytes(b"")
        # Under other names until all have their sizes: files that are there are ones that can be mapped.
        with ExitStack() as stack:
            for path, (dtype, shape) in wanted.items():
                reserve(stack.enter_context(replacing(path)), dtype, shape)
    pictures = np.load(out / PICTURES, mmap_mode="r+", allow_pickle=False)
    return (pictures, np.load(out / DEPTH, mmap_mode="r+", allow_pickle=False) if info.depth else None), done


def _check_whole(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Refuse an array file that is damaged; one that is too short would be filled up with zeros where it is mapped."""
    try:
        # Not to be written to: a map of too short a file is an error then.
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (EOFError, ValueError) as error:
        raise DataError(
            f"{path} is damaged ({error}); delete it and run `simulate` again, which makes all anew"
        ) from error
    if (found.dtype, found.shape) != (dtype, shape):
        raise DataError(
            f"{path} holds {found.dtype} {found.shape}, the set needs {dtype} {shape}; delete it and run `simulate` "
            "again, which makes all anew"
        )


def _sound_rows(table: Path) -> list[bytes]:
    """Lines of a table up to the first that is damaged or was cut off while it was written."""
    rows = []
    for number, line in enumerate(table.read_bytes().splitlines(keepends=True)):
        try:
            sound = line.endswith(b"\n") and msgspec.json.decode(line, type=SampleRow).index == number
        except msgspec.MsgspecError:
            sound = False
        if not sound:
            break
        rows.append(line)
    return rows
