"""Sets of simulated samples on disk: made once, mapped by training, calibration and evaluation.

A set is a folder with ``pictures.npy`` (uint8 (n, P, P, 3)), ``table.jsonl`` (a line per sample: box, label, species,
source, identity, split and every drawn parameter) and ``set.json`` (seed, split, version). Making a set can be
interrupted and goes on where it stopped; the same seed gives the same set.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.lib.format import open_memmap

from fasedge.preprocess import InputSpec, crop_face
from fasedge.types import Box, UInt8Array
from training.data.manifest import Split, read_manifest
from training.data.simulate import Simulator
from training.data.simulate.scene import build_tiles, read_backgrounds
from training.data.simulate.simulator import PICTURE_PX
from training.errors import DataError

_CHUNK = 32
_TABLE, _PICTURES = "table.jsonl", "pictures.npy"


class SampleRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``table.jsonl``."""

    index: int
    box_xyxy: tuple[float, float, float, float]
    label: int
    species: str
    subtype: str
    source: str
    identity: str
    picture: str
    split: str
    params: dict[str, float | int | str]


class SetInfo(msgspec.Struct, frozen=True, kw_only=True):
    """``set.json``: what the set is made from."""

    split: str
    seed: int
    n: int
    version: int = 2


@dataclass(frozen=True, slots=True)
class CropJitter:
    """Random error of the face box, as a finder makes it.

    Attributes:
        shift: Largest shift as a share of the box's side, each axis.
        scale: Largest relative change of the side, log-uniform.
    """

    shift: float = 0.06
    scale: float = 0.12


class SampleSet:
    """A set of samples, memory-mapped.

    Attributes:
        table: One row per sample.
        info: What the set was made from.
    """

    def __init__(self, pictures: UInt8Array, table: Sequence[SampleRow], info: SetInfo) -> None:
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[3] != 3:
            raise DataError(f"a sample set needs pictures as uint8 (n, P, P, 3), got {pictures.dtype} {pictures.shape}")
        if len(pictures) != len(table):
            raise DataError(f"sample set with {len(pictures)} pictures but {len(table)} rows")
        self._pictures = pictures
        self.table = tuple(table)
        self.info = info

    @classmethod
    def load(cls, folder: Path) -> SampleSet:
        """Map a finished set.

        Raises:
            DataError: A part is missing or malformed, or the set is not finished.
        """
        try:
            info = msgspec.json.decode((folder / "set.json").read_bytes(), type=SetInfo)
            lines = (folder / _TABLE).read_bytes().splitlines()
            table = [msgspec.json.decode(line, type=SampleRow) for line in lines]
            pictures = np.load(folder / _PICTURES, mmap_mode="r", allow_pickle=False)
        except (OSError, EOFError, ValueError, msgspec.MsgspecError) as error:
            raise DataError(f"{folder} is not a complete sample set ({error}); make it with `simulate`") from error
        if info.version != SetInfo(split="", seed=0, n=0).version:
            raise DataError(f"{folder} is a sample set of version {info.version}, which is not known; make it anew")
        if len(table) != info.n:
            raise DataError(f"{folder} is not finished: {len(table)} of {info.n} samples; run `simulate` again")
        return cls(pictures, table, info)

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
        jitter: CropJitter | None = None,
        rng: np.random.Generator | None = None,
    ) -> UInt8Array:
        """Cut network inputs out.

        Args:
            indices: Samples by position.
            spec: Size and crop scale.
            jitter: Random error of the box; needs ``rng``.
            rng: Where the jitter comes from.

        Returns:
            uint8 (n, S, S, 3), red first.

        Raises:
            DataError: Jitter is wanted but nothing to draw it from.
        """
        if jitter is not None and rng is None:
            raise DataError("crops with jitter need rng, a numpy random generator; pass one, or no jitter")
        out = np.empty((len(indices), spec.size_px, spec.size_px, 3), np.uint8)
        for place, index in enumerate(indices):
            box = Box(*self.table[index].box_xyxy)
            if jitter is not None and rng is not None:
                box = _jittered(box, jitter, rng)
            out[place] = crop_face(self._pictures[index], box, spec)
        return out

    def picture(self, index: int) -> UInt8Array:
        """The whole simulated picture, uint8 (P, P, 3), red first."""
        return np.asarray(self._pictures[index], np.uint8)


def _jittered(box: Box, jitter: CropJitter, rng: np.random.Generator) -> Box:
    cx, cy = box.center
    cx += box.width * float(rng.uniform(-jitter.shift, jitter.shift))
    cy += box.height * float(rng.uniform(-jitter.shift, jitter.shift))
    half = box.width / 2 * float(np.exp(rng.uniform(-1, 1) * np.log1p(jitter.scale)))
    return Box(cx - half, cy - half, cx + half, cy + half)


_WORKER: dict[str, Simulator] = {}


def _start_worker(data: str, cache: str, split: Split, seed: int) -> None:
    torch.set_num_threads(1)
    _WORKER["simulator"] = make_simulator(Path(data), Path(cache), split, seed)


def _work_apart(indices: list[int]) -> tuple[UInt8Array, list[SampleRow]]:
    return _work(_WORKER["simulator"], indices)


def _work(simulator: Simulator, indices: list[int]) -> tuple[UInt8Array, list[SampleRow]]:
    samples = simulator.samples(indices)
    rows = []
    for index, sample in zip(indices, samples, strict=True):
        picture = simulator.pictures[sample.source]
        rows.append(
            SampleRow(
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
        )
    return np.stack([s.picture for s in samples]), rows


def make_simulator(data: Path, cache: Path, split: Split, seed: int) -> Simulator:
    """A simulator over one split of the face pack; tiles are cached under ``cache``."""
    pictures = read_manifest(data, [split])
    tiles = build_tiles(pictures, cache / f"tiles_{split}.npy")
    return Simulator(pictures, tiles, read_backgrounds(data), seed=seed)


def make_set(
    data: Path, out: Path, split: Split, n: int, *, seed: int, workers: int | None = None
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

    Yields:
        ``(done, n)`` after every chunk, for a progress bar.

    Raises:
        DataError: A parameter is out of range, ``out`` holds a set made with other parameters, the disk is full, or a
            worker died.
    """
    if n < 1 or seed < 0 or (workers is not None and workers < 1):
        raise DataError(f"a set needs n >= 1, seed >= 0 and workers >= 1, got {n}, {seed} and {workers}")
    info = SetInfo(split=split, seed=seed, n=n)
    try:
        _check_claim(out, info)
        # Before anything is claimed: an unknown split or a missing picture must not leave a folder behind. It also
        # builds the tiles once, before the workers map them.
        simulator = make_simulator(data, out.parent, split, seed)
        pictures, done = _open_set(out, info)
        chunks = [list(range(start, min(start + _CHUNK, n))) for start in range(done, n, _CHUNK)]
        start_worker = (str(data), str(out.parent), split, seed)
        with (
            _results(chunks, simulator, workers or os.cpu_count() or 1, start_worker) as results,
            (out / _TABLE).open("ab") as table,
        ):
            for indices, (block, rows) in zip(chunks, results, strict=True):
                pictures[indices[0] : indices[-1] + 1] = block
                # Pictures first: a row on disk promises that its picture is there, also after a power cut.
                pictures.flush()
                table.write(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
                table.flush()
                yield indices[-1] + 1, n
    except OSError as error:
        raise DataError(
            f"{out}: cannot write the set ({error.strerror or error}); free disk or choose another folder, and run it "
            "again"
        ) from error
    except BrokenProcessPool as error:
        raise DataError(
            f"{out}: a worker process died, often for want of memory; run it again with fewer workers, it goes on "
            "where it stopped"
        ) from error


@contextmanager
def _results(
    chunks: list[list[int]], simulator: Simulator, workers: int, start_worker: tuple[str, str, Split, int]
) -> Iterator[Iterator[tuple[UInt8Array, list[SampleRow]]]]:
    """Results of the chunks in their order; what is not yet made when the block is left is given up."""
    workers = min(workers, len(chunks))
    if workers <= 1:
        yield (_work(simulator, indices) for indices in chunks)
        return
    # Not multiprocessing.Pool: it waits for ever for a worker that the system has killed.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=start_worker
    )
    try:
        yield pool.map(_work_apart, chunks)
    finally:
        pool.shutdown(cancel_futures=True)


def _check_claim(out: Path, info: SetInfo) -> None:
    path = out / "set.json"
    if not path.is_file():
        return
    try:
        found = msgspec.json.decode(path.read_bytes(), type=SetInfo)
    except msgspec.MsgspecError as error:
        raise DataError(f"{path} is damaged ({error}); choose another folder or delete it") from error
    if found != info:
        raise DataError(f"{out} holds another set ({found}); choose another folder or delete it")


def _open_set(out: Path, info: SetInfo) -> tuple[np.memmap[tuple[int, ...], np.dtype[np.uint8]], int]:
    """Claim the folder, open its pictures for writing, and say how many samples are done."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "set.json").write_text(json.dumps(msgspec.to_builtins(info), indent=2) + "\n", encoding="utf-8")
    table, path, shape = out / _TABLE, out / _PICTURES, (info.n, PICTURE_PX, PICTURE_PX, 3)
    if path.is_file() and table.is_file():
        # A last line without its end was cut off while it was written.
        lines = [line for line in table.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        done = len(lines) if len(lines) >= info.n else len(lines) - len(lines) % _CHUNK
        table.write_bytes(b"".join(lines[:done]))
        return np.load(path, mmap_mode="r+", allow_pickle=False), done
    # Under another name until it has its full size: a file that is there is one that can be mapped. Reserved at once:
    # a disk that fills up under a map kills the process without a word.
    partial = path.with_suffix(".partial")
    open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape).flush()
    if hasattr(os, "posix_fallocate"):
        with partial.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, partial.stat().st_size)
    table.write_bytes(b"")
    partial.replace(path)
    return np.load(path, mmap_mode="r+", allow_pickle=False), 0
