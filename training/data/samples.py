"""Sets of simulated samples on disk: made once, mapped by training, calibration and evaluation.

A set is a folder with ``pictures.npy`` (uint8 (n, P, P, 3)), where depth is simulated ``depth.npy`` (uint16 (n, P, P),
millimetres, 0 where nothing returns), ``table.jsonl`` (a line per sample: box, label, species, source, identity, split
and every drawn parameter) and ``set.json`` (seed, split, version). Making a set can be interrupted and goes on where it
stopped; the same seed gives the same set.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np

from fasedge.preprocess import InputSpec, crop_face
from fasedge.types import Box, UInt8Array, UInt16Array
from training.data.frames import Frames
from training.data.manifest import Split
from training.data.relief import RELIEF, read_relief
from training.data.simulate.cache import check_room, replacing, reserve
from training.data.simulate.compose import CANVAS_SCALE
from training.data.simulate.simulator import PICTURE_PX
from training.data.table import INFO, SIMULATOR_VERSION, SampleRow, SetInfo, check_folder
from training.data.work import Block, Recipe, in_order, make_block, make_simulator
from training.errors import DataError

__all__ = ["CropJitter", "SampleRow", "SampleSet", "SetInfo", "make_set", "make_simulator"]

_CHUNK = 32
_TABLE, _PICTURES, _DEPTH = "table.jsonl", "pictures.npy", "depth.npy"
#: What to do about an error of the system, by its numbers.
_CURES = {
    (errno.ENOSPC, errno.EDQUOT): "free disk or choose another folder",
    (errno.EROFS, errno.EACCES, errno.EPERM): "choose a folder that you may write to",
    (errno.EEXIST, errno.ENOTDIR, errno.EISDIR): "something else has that name: choose another folder or move it away",
}
_Pictures: TypeAlias = np.memmap[tuple[int, ...], np.dtype[np.uint8]]
_Depth: TypeAlias = np.memmap[tuple[int, ...], np.dtype[np.uint16]]
_Arrays: TypeAlias = tuple[_Pictures, _Depth | None]


@dataclass(frozen=True, slots=True)
class CropJitter:
    """Random error of the face box, as a finder makes it.

    Attributes:
        shift: Largest shift as a share of the box's side, each axis.
        scale: Largest relative change of the side, log-uniform.
    """

    shift: float = 0.06
    scale: float = 0.12


class Arrays(NamedTuple):
    """What a set is read from, which may be more than the set.

    Attributes:
        pictures: uint8 (n, P, P, 3), red first.
        depth_mm: uint16 (n, P, P), or ``None``.
        places: Where in them each sample lies.
    """

    pictures: Frames
    depth_mm: Frames | None
    places: Sequence[int]


class SampleSet:
    """A set of samples, memory-mapped.

    Attributes:
        table: One row per sample.
        info: What the set was made from.
    """

    def __init__(
        self,
        pictures: Frames,
        table: Sequence[SampleRow],
        info: SetInfo,
        depth_mm: Frames | None = None,
        *,
        places: Sequence[int] | None = None,
        relief: Path | None = None,
    ) -> None:
        """Put a set together.

        Args:
            pictures: uint8 (n, P, P, 3), red first.
            table: One row per sample.
            info: What they are.
            depth_mm: uint16 (n, P, P), millimetres, 0 where nothing returns.
            places: Where in the arrays the sample of each row lies; by default they lie in the order of the rows.
            relief: Folder of depth maps that were rendered for the pictures, see :meth:`rendered`.

        Raises:
            DataError: The parts do not fit each other.
        """
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[3] != 3:
            raise DataError(f"a sample set needs pictures as uint8 (n, P, P, 3), got {pictures.dtype} {pictures.shape}")
        places = range(len(pictures)) if places is None else places
        if len(places) != len(table):
            raise DataError(f"sample set with {len(places)} pictures but {len(table)} rows")
        if depth_mm is not None and (depth_mm.dtype != np.uint16 or depth_mm.shape != pictures.shape[:3]):
            raise DataError(
                f"a sample set needs depth as uint16 {pictures.shape[:3]}, got {depth_mm.dtype} {depth_mm.shape}"
            )
        self._pictures = pictures
        self._depth_mm = depth_mm
        self._places = places
        self._relief = relief
        self.table = tuple(table)
        self.info = info

    @classmethod
    def load(cls, folder: Path) -> SampleSet:
        """Map a finished set.

        Raises:
            DataError: There is no such folder, a part is missing or malformed, or the set is not finished.
        """
        check_folder(folder)
        try:
            info = msgspec.json.decode((folder / INFO).read_bytes(), type=SetInfo)
            lines = (folder / _TABLE).read_bytes().splitlines()
            table = [msgspec.json.decode(line, type=SampleRow) for line in lines]
            pictures = np.load(folder / _PICTURES, mmap_mode="r", allow_pickle=False)
            depth_mm = np.load(folder / _DEPTH, mmap_mode="r", allow_pickle=False) if info.depth else None
        except (OSError, EOFError, ValueError, msgspec.MsgspecError) as error:
            raise DataError(
                f"{folder} is not a complete sample set ({error}); run the `simulate` or `prepare` that made it again"
            ) from error
        if info.version > SIMULATOR_VERSION or (not info.origin and info.version != SIMULATOR_VERSION):
            raise DataError(
                f"{folder} is a sample set of version {info.version}, this simulator's is {SIMULATOR_VERSION}; make it "
                "anew"
            )
        if len(table) != info.n:
            raise DataError(f"{folder} is not finished: {len(table)} of {info.n} samples; run `simulate` again")
        relief = folder / RELIEF
        return cls(pictures, table, info, depth_mm, relief=relief if relief.is_dir() else None)

    def subset(self, chosen: Sequence[int], why: str) -> SampleSet:
        """Some of the samples; the pictures are not copied.

        Args:
            chosen: Their positions.
            why: What they are, for records: becomes part of ``info.chosen``.
        """
        info = msgspec.structs.replace(
            self.info, n=len(chosen), chosen="; ".join(part for part in (self.info.chosen, why) if part)
        )
        table, places = [self.table[i] for i in chosen], [self._places[i] for i in chosen]
        return SampleSet(self._pictures, table, info, self._depth_mm, places=places, relief=self._relief)

    def arrays(self) -> Arrays:
        """What the samples are read from; for :func:`training.data.joined.joined`."""
        return Arrays(self._pictures, self._depth_mm, self._places)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def labels(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """int64 (n,): 1 bona fide, 0 attack."""
        return np.array([row.label for row in self.table], np.int64)

    def crops(
        self,
        indices: Sequence[int],
        spec: InputSpec,
        *,
        boxes: Sequence[Box] | None = None,
        jitter: CropJitter | None = None,
        rng: np.random.Generator | None = None,
    ) -> UInt8Array:
        """Cut network inputs out.

        Args:
            indices: Samples by position.
            spec: Size and crop scale.
            boxes: What to cut by, one for each; by default those of :meth:`boxes`.
            jitter: Random error of the box; needs ``rng``.
            rng: Where the jitter comes from.

        Returns:
            uint8 (n, S, S, 3), red first.

        Raises:
            DataError: Jitter is wanted but nothing to draw it from, or there is not one box for each sample.
        """
        boxes = self.boxes(indices, jitter=jitter, rng=rng) if boxes is None else boxes
        if len(boxes) != len(indices):
            raise DataError(f"expected one box for each of {len(indices)} samples, got {len(boxes)}")
        out = np.empty((len(indices), spec.size_px, spec.size_px, 3), np.uint8)
        for place, (index, box) in enumerate(zip(indices, boxes, strict=True)):
            out[place] = crop_face(self._pictures[self._places[index]], box, spec)
        return out

    def boxes(
        self, indices: Sequence[int], *, jitter: CropJitter | None = None, rng: np.random.Generator | None = None
    ) -> list[Box]:
        """Face boxes of samples, moved as an uncertain finder would.

        Raises:
            DataError: Jitter is wanted but nothing to draw it from.
        """
        found = [Box(*self.table[index].box_xyxy) for index in indices]
        if jitter is None:
            return found
        if rng is None:
            raise DataError("crops with jitter need rng, a numpy random generator; pass one, or no jitter")
        return [_jittered(box, jitter, rng) for box in found]

    def picture(self, index: int) -> UInt8Array:
        """The whole simulated picture, uint8 (P, P, 3), red first."""
        return np.asarray(self._pictures[self._places[index]], np.uint8)

    @property
    def has_depth(self) -> bool:
        """Whether every sample has a depth map."""
        return self._depth_mm is not None

    @property
    def has_distances(self) -> bool:
        """Whether every sample has a depth map in millimetres, and not one that somebody has normalised."""
        return self.has_depth and self.info.depth_unit == "mm"

    def depth_mm(self, index: int) -> UInt16Array:
        """The depth map of a sample: uint16 (P, P), millimetres, 0 where nothing returns.

        Raises:
            DataError: The set was made without depth.
        """
        if self._depth_mm is None:
            raise DataError("this sample set has no depth; make it with `simulate --depth`")
        return np.asarray(self._depth_mm[self._places[index]], np.uint16)

    @property
    def has_rendered(self) -> bool:
        """Whether there is a folder of rendered depth maps."""
        return self._relief is not None

    def rendered(self, index: int) -> UInt8Array | None:
        """The depth map that something else, such as PRNet, has rendered for a sample's picture.

        It lies in the set's folder ``relief``, see :mod:`training.data.relief`.

        Returns:
            uint8 (P, P), 255 nearest, 0 background; ``None`` where there is none.

        Raises:
            DataError: The file is not a picture of that size.
        """
        return None if self._relief is None else read_relief(self._relief, self.table[index], self._pictures.shape[1])


def _jittered(box: Box, jitter: CropJitter, rng: np.random.Generator) -> Box:
    cx, cy = box.center
    cx += box.width * float(rng.uniform(-jitter.shift, jitter.shift))
    cy += box.height * float(rng.uniform(-jitter.shift, jitter.shift))
    half = box.width / 2 * float(np.exp(rng.uniform(-1, 1) * np.log1p(jitter.scale)))
    return Box(cx - half, cy - half, cx + half, cy + half)


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
        check_claim(out, info, [_TABLE, _PICTURES, _DEPTH])
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
            (out / _TABLE).open("ab") as table,
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
    wanted: dict[Path, tuple[np.dtype[Any], tuple[int, ...]]] = {out / _PICTURES: (np.dtype(np.uint8), (*shape, 3))}
    if info.depth:
        wanted[out / _DEPTH] = (np.dtype(np.uint16), shape)
    return wanted


def _check_room(out: Path, info: SetInfo) -> None:
    """Refuse a disk that is too small for what is not there yet."""
    wanted = _wanted(out, info)
    if not all(path.is_file() for path in wanted):
        check_room(out, sum(dtype.itemsize * math.prod(shape) for dtype, shape in wanted.values()))


def _open_set(out: Path, info: SetInfo) -> tuple[_Arrays, int]:
    """Claim the folder, open its arrays for writing, and say how many samples are done."""
    claim(out, info)
    table, wanted = out / _TABLE, _wanted(out, info)
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
    pictures = np.load(out / _PICTURES, mmap_mode="r+", allow_pickle=False)
    return (pictures, np.load(out / _DEPTH, mmap_mode="r+", allow_pickle=False) if info.depth else None), done


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
