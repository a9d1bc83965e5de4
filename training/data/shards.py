"""Sets of simulated samples as WebDataset shards: tar files that any tool can read, for those who want files.

A set is a folder with ``SPLIT-000000.tar`` …, ``manifest.jsonl`` (a line per sample: key, shard, box, label, species,
identity …) and ``set.json`` (what it is made from). In a shard the members of a sample follow one another and share
their name up to the first dot, as WebDataset wants it: ``KEY.png`` or ``KEY.jpg``, where depth is simulated
``KEY.depth.png`` (16 bits, millimetres, 0 where nothing returns), and ``KEY.json`` (the row, every drawn parameter
in it).

The same request gives the same bytes: members carry no time and no owner. A shard bears its name once it is finished;
an interrupted set keeps its finished shards and goes on after them. A set with a manifest is complete.

Source: WebDataset's layout of tar files (members grouped by the part of the file name before its first dot).
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType

import cv2
import msgspec
import numpy as np

from fasedge.types import UInt8Array, UInt16Array
from training.data.making import check_claim, check_request, claim, processes, written
from training.data.manifest import Split
from training.data.shard_reader import MANIFEST, Encoding, ShardEntry, ShardInfo, sample_key, scan_shard
from training.data.simulate import Simulator
from training.data.simulate.compose import CANVAS_SCALE
from training.data.simulate.simulator import PICTURE_PX
from training.data.table import SampleRow
from training.data.work import Recipe, in_order, make_block
from training.errors import DataError

#: Samples that a worker makes at a time.
_CHUNK = 32
#: Quality of JPEG pictures. High, because the simulated camera's own compression is what a detector should see.
JPEG_QUALITY = 97
#: A light setting: pictures with sensor noise hardly get smaller for more.
_PNG_LEVEL = 3


class _Encoded(msgspec.Struct, frozen=True):
    """A sample as it goes into a shard."""

    row: SampleRow
    members: dict[str, bytes]


def make_shards(
    data: Path,
    out: Path,
    split: Split,
    n: int,
    *,
    seed: int,
    workers: int | None = None,
    depth: bool = False,
    encoding: Encoding = "png",
    shard_size: int = 1000,
    picture_px: int = PICTURE_PX,
    canvas_scale: float = CANVAS_SCALE,
) -> Iterator[tuple[int, int]]:
    """Make a set of shards, in parallel; an interrupted one goes on after its finished shards.

    Args:
        data: Folder of the face pack.
        out: Folder of the set; tiles are cached in its parent.
        split: Which identities.
        n: Number of samples, at least 1.
        seed: Seed of the set, not negative.
        workers: Processes; the number of cores by default. The bytes are the same for any number.
        depth: Simulate a depth camera too.
        encoding: How pictures are stored: ``png`` keeps every bit, ``jpg`` is smaller.
        shard_size: Samples per shard.
        picture_px: Side of the pictures; tiles and sensors grow with it.
        canvas_scale: Side of the pictures over the side of the face box, 2.0 to 2.6.

    Yields:
        ``(done, n)`` after every chunk, for a progress bar.

    Raises:
        DataError: A parameter is out of range, a picture of the pack cannot be read, ``out`` holds a set made with
            other parameters or a damaged shard, the disk is full, or a worker died.
    """
    workers = check_request(n, seed, workers)
    if shard_size < 1 or encoding not in {"png", "jpg"}:
        raise DataError(f"shards need at least 1 sample and png or jpg, got {shard_size} and {encoding!r}")
    info = ShardInfo(
        split=split, seed=seed, n=n, depth=depth, encoding=encoding, shard_size=shard_size, picture_px=picture_px,
        canvas_scale=canvas_scale,
    )  # fmt: skip
    recipe = Recipe(data, out.parent, split, seed, depth, picture_px, canvas_scale)
    with written(out):
        check_claim(out, info, [MANIFEST, *(info.shard_name(number) for number in range(info.shards))])
        finished = (out / MANIFEST).is_file()
        # Before anything is claimed: an unknown split or a missing picture must not leave a folder behind.
        simulator = None if finished else recipe.simulator()
        if simulator is not None:
            claim(out, info)
            yield from _write_shards(out, info, recipe, simulator, workers)


def _write_shards(
    out: Path, info: ShardInfo, recipe: Recipe, simulator: Simulator, workers: int
) -> Iterator[tuple[int, int]]:
    entries: list[ShardEntry] = []
    todo: list[int] = []
    for number in range(info.shards):
        path = out / info.shard_name(number)
        if path.is_file():
            entries += scan_shard(path, info, number)
        else:
            todo.append(number)
    done = len(entries)
    chunks = [chunk for number in todo for chunk in _chunks(info.indices(number))]
    job = partial(_encode, info=info)
    with in_order(job, chunks, recipe, processes(workers, chunks), simulator=simulator) as encoded:
        for number in todo:
            with _ShardFile(out / info.shard_name(number)) as shard:
                for indices in _chunks(info.indices(number)):
                    for sample in next(encoded):
                        shard.add(sample.members)
                        entries.append(ShardEntry.of(sample.row, info, number))
                    done += len(indices)
                    if indices[-1] + 1 < info.indices(number).stop:
                        yield done, info.n
            # After it bears its name: who stops here keeps the shard.
            if done < info.n:
                yield done, info.n
    entries.sort(key=lambda entry: entry.index)
    # Last: a manifest promises that every shard is there.
    replace_file(out / MANIFEST, b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries))
    yield info.n, info.n


def _chunks(indices: range) -> list[range]:
    return [indices[start : start + _CHUNK] for start in range(0, len(indices), _CHUNK)]


def _encode(simulator: Simulator, indices: Sequence[int], *, info: ShardInfo) -> list[_Encoded]:
    """Make and encode samples; done in the workers, since encoding takes a good part of the time."""
    block, out = make_block(simulator, indices, depth=info.depth), []
    for i, row in enumerate(block.rows):
        key = sample_key(info.split, info.seed, row.index)
        members = {f"{key}.{info.encoding}": encode_picture(block.pictures[i], info.encoding)}
        if block.depth_mm is not None:
            members[f"{key}.depth.png"] = encode_depth(block.depth_mm[i])
        members[f"{key}.json"] = msgspec.json.encode(row)
        out.append(_Encoded(row, members))
    return out


def encode_picture(rgb: UInt8Array, encoding: Encoding) -> bytes:
    """Encode uint8 (H, W, 3), red first, as PNG or JPEG."""
    settings = [cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL] if encoding == "png" else [
        cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY,
    ]  # fmt: skip
    return _bytes(f".{encoding}", np.ascontiguousarray(rgb[..., ::-1]), settings)


def encode_depth(depth_mm: UInt16Array) -> bytes:
    """Encode uint16 (H, W) in millimetres as a 16-bit grey PNG."""
    return _bytes(".png", depth_mm, [cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL])


def _bytes(extension: str, pixels: UInt8Array | UInt16Array, settings: Sequence[int]) -> bytes:
    ok, data = cv2.imencode(extension, pixels, settings)
    if not ok:
        raise DataError(f"OpenCV could not encode a {extension[1:].upper()} picture; is its codec missing?")
    return data.tobytes()


def replace_file(path: Path, content: bytes) -> None:
    """Write a file under another name and give it its own when it is safe on the disk.

    Raises:
        OSError: It cannot be written; nothing is left behind.
    """
    partial_path = path.with_name(path.name + ".partial")
    try:
        with partial_path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial_path.replace(path)
    except OSError:
        partial_path.unlink(missing_ok=True)
        raise


class _ShardFile:
    """A shard while it is written: under another name until its block ends well, gone if it does not."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(path.name + ".partial")

    def __enter__(self) -> _ShardFile:
        self._file = self._partial.open("wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)
        return self

    def add(self, members: dict[str, bytes]) -> None:
        """Append files; they carry neither time nor owner, so that equal sets have equal bytes."""
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(content), 0o644, 0
            self._tar.addfile(member, io.BytesIO(content))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._tar.close()
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                self._partial.replace(self._path)
        finally:
            self._discard()

    def _discard(self) -> None:
        # A full disk fails once more when what is left in the buffer is written; the first error is on its way.
        with suppress(OSError):
            self._file.close()
        self._partial.unlink(missing_ok=True)
