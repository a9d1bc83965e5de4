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
    version: int = 1


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
            lines = (folder / "table.jsonl").read_bytes().splitlines()
            table = [msgspec.json.decode(line, type=SampleRow) for line in lines]
            pictures = np.load(folder / "pictures.npy", mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            raise DataError(f"{folder} is not a complete sample set: {error}") from error
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
        """
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


def _work(chunk: tuple[int, list[int]]) -> tuple[int, UInt8Array, list[SampleRow]]:
    start, indices = chunk
    simulator = _WORKER["simulator"]
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
    return start, np.stack([s.picture for s in samples]), rows


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
        n: Number of samples.
        seed: Seed of the set.
        workers: Processes; the number of cores by default.

    Yields:
        ``(done, n)`` after every chunk, for a progress bar.

    Raises:
        DataError: ``out`` holds a set made with other parameters, or the disk is full.
    """
    out.mkdir(parents=True, exist_ok=True)
    info = SetInfo(split=split, seed=seed, n=n)
    _claim(out, info)
    make_simulator(data, out.parent, split, seed)  # builds the tiles once, before the workers map them
    table_path, pictures_path = out / "table.jsonl", out / "pictures.npy"
    done = len(table_path.read_bytes().splitlines()) if table_path.is_file() else 0
    done -= done % _CHUNK if done < n else 0
    try:
        if pictures_path.is_file():
            pictures = np.load(pictures_path, mmap_mode="r+", allow_pickle=False)
            _keep_lines(table_path, done)
        else:
            done = 0
            pictures = open_memmap(pictures_path, mode="w+", dtype=np.uint8, shape=(n, PICTURE_PX, PICTURE_PX, 3))
            table_path.unlink(missing_ok=True)
        chunks = [(s, list(range(s, min(s + _CHUNK, n)))) for s in range(done, n, _CHUNK)]
        context = multiprocessing.get_context("spawn")
        with (
            context.Pool(workers or os.cpu_count(), _start_worker, (str(data), str(out.parent), split, seed)) as pool,
            table_path.open("ab") as table,
        ):
            for start, block, rows in pool.imap(_work, chunks):
                pictures[start : start + len(block)] = block
                table.write(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
                table.flush()
                yield start + len(block), n
        pictures.flush()
    except OSError as error:
        raise DataError(
            f"{out}: cannot write the set ({error.strerror or error}); free disk and run it again"
        ) from error


def _claim(out: Path, info: SetInfo) -> None:
    path = out / "set.json"
    if path.is_file():
        found = msgspec.json.decode(path.read_bytes(), type=SetInfo)
        if found != info:
            raise DataError(f"{out} holds another set ({found}); choose another folder or delete it")
    path.write_text(json.dumps(msgspec.to_builtins(info), indent=2) + "\n", encoding="utf-8")


def _keep_lines(path: Path, count: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    path.write_bytes(b"".join(lines[:count]))
