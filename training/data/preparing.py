"""From recordings of a data set to sample sets: frames picked, faces found and cut out, in parallel, with resume.

The result of every recording is kept in ``parts/`` until its split is whole; then the split's folder becomes a sample
set as :mod:`training.data.samples` reads it, with ``dropped.jsonl`` beside its table. ``set.json`` is written last: a
folder that has one is finished.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from training.data.align import CropRule
from training.data.making import written
from training.data.parts import (
    FinderFactory,
    make_part,
    part_length,
    part_path,
    read_part,
    start_worker,
    work_apart,
    write_part,
)
from training.data.presentations import check_readable
from training.data.protocols.record import BONA_FIDE, SPLITS, Protocol, Record, listed
from training.data.simulate.cache import check_room, reserve
from training.data.table import SetInfo
from training.errors import DataError, ProtocolError

CLAIM, DROPPED, PARTS = "prepare.json", "dropped.jsonl", "parts"
#: Parts and sets lie on the disk together for a while; some room is left for tables.
_ROOM = 1.05
_AHEAD = 4


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be prepared.

    Attributes:
        protocol: Presentations by split, checked.
        rule: How faces are cut out.
        finder: What opens the face finder; a function of a module, so that it can be sent to a process.
        finder_name: Name of the finder, for the record.
        out: Folder of the sample sets.
        workers: Processes; 1 works in the calling one.
    """

    protocol: Protocol
    rule: CropRule
    finder: FinderFactory
    finder_name: str
    out: Path
    workers: int = 1

    @property
    def records(self) -> list[Record]:
        """All presentations, train first."""
        return self.protocol.all_records

    def claim(self) -> dict[str, object]:
        """What the folder is made from: another one in the same place is refused."""
        listing = "\n".join(f"{r.dataset} {r.split} {r.video_id} {r.label} {r.pai_species}" for r in self.records)
        # Unsaid where there is no surrounding: preparations from before it could be asked for go on.
        rule = {name: value for name, value in asdict(self.rule).items() if (name, value) != ("shown", None)}
        return {
            "dataset": self.protocol.dataset,
            "protocol": self.protocol.name,
            "fold": self.protocol.fold,
            "rule": rule,
            "finder": self.finder_name,
            "presentations": hashlib.sha256(listing.encode()).hexdigest(),
        }

    def origin(self) -> str:
        """The same in a line, for the sets."""
        digest = hashlib.sha256(json.dumps(self.claim(), sort_keys=True).encode()).hexdigest()[:8]
        return f"{self.protocol.title}; {self.rule.counted}; {digest}"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a preparation is: ``done`` of ``total`` in this step."""

    step: str
    done: int
    total: int


def check_recordings(records: Sequence[Record], *, depth: bool = False, threads: int = 8) -> Iterator[Progress]:
    """Open every recording and decode a frame, before hours are spent.

    Args:
        records: The recordings.
        depth: Whether their depth will be needed.
        threads: How many are opened at once.

    Yields:
        Progress.

    Raises:
        ProtocolError: Names every recording that cannot be read.
    """
    problems = []
    with ThreadPoolExecutor(threads) as pool:
        for done, problem in enumerate(pool.map(partial(check_readable, depth=depth), records), 1):
            if problem:
                problems.append(problem)
            yield Progress("checking recordings", done, len(records))
    if problems:
        raise ProtocolError("recordings that cannot be read", problems)


def prepare(request: Request, *, check: bool = True) -> Iterator[Progress]:
    """Make the sample sets; an interrupted preparation goes on where it stopped.

    Args:
        request: What.
        check: Open every recording first; not repeated when a preparation goes on.

    Yields:
        Progress.

    Raises:
        ProtocolError: Recordings cannot be read, or lack the depth that the method needs.
        DataError: The folder holds something else, the disk is too small or full, a worker died, or a part is damaged.
        EngineError: The face finder failed.
    """
    out = request.out
    fresh = _check_claim(request)
    if fresh:
        check_needs(request.protocol, request.rule)
        _check_room(request)
        if check:
            yield from check_recordings(request.records, depth=request.rule.depth)
    with written(out):
        parts = out / PARTS
        parts.mkdir(parents=True, exist_ok=True)
        _write_text(out / CLAIM, json.dumps(request.claim(), indent=2) + "\n")
        for leftover in parts.glob("*.partial"):
            leftover.unlink()
        todo = [
            record
            for record in request.records
            if not _finished(request, record.split) and not part_path(parts, record).is_file()
        ]
        total = len(request.records)
        for done in _work(request, todo):
            yield Progress("finding faces", total - len(todo) + done, total)
        for number, split in enumerate(SPLITS):
            if request.protocol.records.get(split) and not _finished(request, split):
                _assemble(request, split)
            yield Progress("writing sets", number + 1, len(SPLITS))
        shutil.rmtree(parts, ignore_errors=True)


def _check_claim(request: Request) -> bool:
    """Whether the folder is new; refuses one that holds something else."""
    path = request.out / CLAIM
    if not path.is_file():
        if request.out.is_dir() and any(request.out.iterdir()):
            raise DataError(f"{request.out} is not empty and no preparation of ours; name a new folder")
        return True
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}); delete the folder or name another") from error
    wanted = json.loads(json.dumps(request.claim()))
    if found != wanted:
        keys = [key for key in wanted if not isinstance(found, dict) or found.get(key) != wanted[key]]
        raise DataError(f"{request.out} was prepared with another {', '.join(keys)}; name another folder or delete it")
    return False


def check_needs(protocol: Protocol, rule: CropRule) -> None:
    """Refuse recordings without depth for a method that needs it, and face crops where more than the crop is wanted.

    Raises:
        ProtocolError: Names such recordings.
    """
    records = protocol.all_records
    without = [str(r.rgb) for r in records if r.depth is None] if rule.depth else []
    if without:
        problem = (
            f"{rule.method} needs depth, but {len(without)} of {len(records)} recordings have none: {listed(without)}"
        )
        raise ProtocolError(protocol.title, [problem])
    crops = [str(r.rgb) for r in records if r.reader == "bob_hdf5"] if rule.shown is not None else []
    if crops:
        problem = (
            f"--scale asks for {rule.shown:g} face boxes, but {len(crops)} of {len(records)} recordings hold face "
            f"crops, which show nothing beyond: {listed(crops)}; use the raw recordings, or leave --scale out"
        )
        raise ProtocolError(protocol.title, [problem])


def _check_room(request: Request) -> None:
    """Refuse a disk that is too small for every frame of every recording, twice over for the largest split."""
    rule = request.rule
    crop = rule.picture_px**2 * (3 + (2 if rule.depth else 0)) * rule.frames
    sizes = [crop * len(request.protocol.records.get(split, ())) for split in SPLITS]
    need = int((sum(sizes) + max(sizes)) * _ROOM)
    fewer = f"take fewer frames with --frames{'' if rule.shown is None else ' or a smaller --scale'}"
    check_room(request.out, need, f"free disk, choose another folder, or {fewer}")


def _work(request: Request, todo: list[Record]) -> Iterator[int]:
    """Work through recordings; yields how many are done."""
    parts, workers = request.out / PARTS, min(request.workers, len(todo))
    if workers <= 1:
        if todo:
            finder = request.finder()
            try:
                for done, record in enumerate(todo, 1):
                    write_part(part_path(parts, record), make_part(record, request.rule, finder))
                    yield done
            finally:
                finder.close()
        return
    context = multiprocessing.get_context("spawn")
    # Not multiprocessing.Pool: it waits for ever for a worker that the system has killed.
    pool = ProcessPoolExecutor(workers, context, initializer=start_worker, initargs=(request.finder,))
    try:
        waiting: set[Future[None]] = set()
        done = 0
        for record in todo:
            waiting.add(pool.submit(work_apart, record, request.rule, part_path(parts, record)))
            while len(waiting) >= _AHEAD * workers:
                finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                done += _collect(finished)
                yield done
        while waiting:
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            done += _collect(finished)
            yield done
    finally:
        pool.shutdown(cancel_futures=True)


def _collect(finished: set[Future[None]]) -> int:
    for future in finished:
        future.result()  # raises what went wrong in the worker
    return len(finished)


def _info(request: Request, split: str, n: int) -> SetInfo:
    rule = request.rule
    info = SetInfo(split=split, seed=0, n=n, depth=rule.depth, picture_px=rule.picture_px, origin=request.origin())
    if rule.depth and any(r.reader == "bob_hdf5" for r in request.records):
        info = msgspec.structs.replace(info, depth_unit="bytes")
    return info if rule.shown is None else msgspec.structs.replace(info, canvas_scale=rule.shown)


def _finished(request: Request, split: str) -> bool:
    return (request.out / split / "set.json").is_file()


def _assemble(request: Request, split: str) -> None:
    """Join the parts of a split into a sample set, then let the parts go."""
    records = [record for record in request.records if record.split == split]
    folder, parts = request.out / split, request.out / PARTS
    folder.mkdir(parents=True, exist_ok=True)
    paths = [part_path(parts, record) for record in records]
    n, side = sum(part_length(path) for path in paths), request.rule.picture_px
    pictures = _reserved(folder / "pictures.npy", np.dtype(np.uint8), (n, side, side, 3))
    depth = _reserved(folder / "depth.npy", np.dtype(np.uint16), (n, side, side)) if request.rule.depth else None
    place = 0
    with (folder / "table.jsonl").open("wb") as table, (folder / DROPPED).open("wb") as dropped:
        for path in paths:
            part = read_part(path)
            for k, row in enumerate(part.rows):
                pictures[place] = part.pictures[k]
                if depth is not None:
                    depth[place] = part.depth_mm[k]
                table.write(msgspec.json.encode(msgspec.structs.replace(row, index=place)) + b"\n")
                place += 1
            dropped.writelines(msgspec.json.encode(line) + b"\n" for line in part.dropped)
    for array in (pictures, depth):
        if isinstance(array, np.memmap):
            array.flush()
    _write_text(folder / "set.json", json.dumps(msgspec.to_builtins(_info(request, split, n)), indent=2) + "\n")
    for path in paths:
        path.unlink(missing_ok=True)


def _reserved(path: Path, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype]:
    """An array file of its full size, reserved at once: a disk that fills up under a map kills without a word."""
    if not shape[0]:  # a map cannot be empty
        np.save(path, np.empty(shape, dtype))
        return np.empty(shape, dtype)
    return reserve(path, dtype, shape)


def _write_text(path: Path, text: str) -> None:
    unfinished = path.with_name(path.name + ".partial")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def check_result(request: Request) -> None:
    """Say when a split cannot be used because too much was dropped.

    Raises:
        DataError: A split lacks a class.
    """
    for split in SPLITS:
        if not request.protocol.records.get(split):
            continue
        lines = (request.out / split / "table.jsonl").read_bytes().splitlines()
        species = {json.loads(line)["species"] == BONA_FIDE for line in lines}
        if species != {True, False}:
            raise DataError(
                f"{request.out / split}: after dropping frames without a usable face, a class is empty ({len(lines)} "
                f"frames are left); see {DROPPED} beside it for the reasons"
            )
