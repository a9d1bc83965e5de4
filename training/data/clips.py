"""Simulated clips as files: a folder of pictures per clip, for whoever scores, tracks or looks at more than one frame.

A set is a folder with ``set.json`` (what it is made from), ``clips.jsonl`` (a line per clip, :class:`ClipRow`) and a
folder per clip, ``000000`` …, whose frames are ``000.png`` … and, where depth is simulated, ``000.depth.png`` …
(16 bits, millimetres, 0 where nothing returns), with the clip's row beside them in ``clip.json``.

A clip's folder bears its name once it is finished: an interrupted set keeps its finished clips and goes on with the
others. The same request gives the same pixels. A set with ``clips.jsonl`` is complete.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec

from training.data.making import check_claim, check_request, claim, processes, written
from training.data.manifest import Split
from training.data.shards import encode_depth, encode_picture, replace_file
from training.data.simulate import Simulator
from training.data.simulate.compose import CANVAS_SCALE
from training.data.simulate.sequence import check_times, make_clip
from training.data.simulate.simulator import PICTURE_PX
from training.data.table import SetInfo
from training.data.work import Recipe, in_order
from training.errors import DataError

CLIPS, CLIP = "clips.jsonl", "clip.json"


class ClipInfo(SetInfo, frozen=True, kw_only=True):
    """``set.json`` of a set of clips.

    Attributes:
        seconds: Length of each.
        fps: Frames per second.
    """

    format: str = "clips"
    seconds: float = 2.0
    fps: float = 15.0


class ClipRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``clips.jsonl``.

    Attributes:
        index: Number of the clip: that of the sample of the same seed of which it is the sequence.
        folder: Name of its folder.
        timestamps_s: When each frame was taken, from 0.
        boxes_xyxy: Face box in each frame, pixels.
        label: 1 bona fide, 0 attack.
        species: PAI species, or ``bona_fide``.
        subtype: Kind of medium, or ``bona_fide``.
        source: Collection of the face picture.
        identity: Whose face it is.
        picture: Key of the face picture.
        split: ``train``, ``dev`` or ``test``.
        params: Everything that was drawn once.
        tracks: Everything that changes, a value per frame; angles in radians, lengths in tile units.
    """

    index: int
    folder: str
    timestamps_s: list[float]
    boxes_xyxy: list[tuple[float, float, float, float]]
    label: int
    species: str
    subtype: str
    source: str
    identity: str
    picture: str
    split: str
    params: dict[str, float | int | str]
    tracks: dict[str, list[float]]


def make_clips(
    data: Path,
    out: Path,
    split: Split,
    n: int,
    *,
    seed: int,
    seconds: float = 2.0,
    fps: float = 15.0,
    workers: int | None = None,
    depth: bool = False,
    picture_px: int = PICTURE_PX,
    canvas_scale: float = CANVAS_SCALE,
) -> Iterator[tuple[int, int]]:
    """Make a set of clips, in parallel; an interrupted one goes on with the clips that are not there yet.

    Args:
        data: Folder of the face pack.
        out: Folder of the set; tiles are cached in its parent.
        split: Which identities.
        n: Number of clips, at least 1.
        seed: Seed of the set, not negative.
        seconds: Length of each clip.
        fps: Frames per second.
        workers: Processes; the number of cores by default. The clips are the same for any number.
        depth: Simulate a depth camera too.
        picture_px: Side of the pictures; tiles and sensors grow with it.
        canvas_scale: Side of the pictures over the side of the face box, 2.0 to 2.6.

    Yields:
        ``(done, n)`` after every clip, for a progress bar.

    Raises:
        DataError: A parameter is out of range, ``out`` holds a set made with other parameters or a damaged clip, the
            disk is full, or a worker died.
    """
    workers = check_request(n, seed, workers)
    check_times(seconds, fps)
    info = ClipInfo(
        split=split, seed=seed, n=n, depth=depth, picture_px=picture_px, canvas_scale=canvas_scale, seconds=seconds,
        fps=fps,
    )  # fmt: skip
    recipe = Recipe(data, out.parent, split, seed, depth, picture_px, canvas_scale)
    with written(out):
        check_claim(out, info, [CLIPS, *(_folder(index) for index in range(n))])
        if (out / CLIPS).is_file():
            return
        simulator = recipe.simulator()
        claim(out, info)
        rows = {index: _read_row(out / _folder(index)) for index in range(n) if (out / _folder(index)).is_dir()}
        todo = [[index] for index in range(n) if index not in rows]
        job = partial(_write_clip, out=out, info=info)
        with in_order(job, todo, recipe, processes(workers, todo), simulator=simulator) as made:
            for row in made:
                rows[row.index] = row
                if len(rows) < n:
                    yield len(rows), n
        replace_file(out / CLIPS, b"".join(msgspec.json.encode(rows[index]) + b"\n" for index in range(n)))
        yield n, n


def read_clips(folder: Path) -> list[ClipRow]:
    """Read the table of a finished set.

    Raises:
        DataError: There is none, or it is damaged.
    """
    path = folder / CLIPS
    try:
        return [msgspec.json.decode(line, type=ClipRow) for line in path.read_bytes().splitlines()]
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} is no finished set of clips (it has no {CLIPS}); finish it with the same command"
        ) from error
    except msgspec.MsgspecError as error:
        raise DataError(f"{path} is damaged ({error}); make the set again") from error


def _folder(index: int) -> str:
    return f"{index:06d}"


def _read_row(folder: Path) -> ClipRow:
    try:
        return msgspec.json.decode((folder / CLIP).read_bytes(), type=ClipRow)
    except (OSError, msgspec.MsgspecError) as error:
        raise DataError(f"{folder} is a damaged clip ({error}); delete it, and run it again") from error


def _write_clip(simulator: Simulator, indices: Sequence[int], *, out: Path, info: ClipInfo) -> ClipRow:
    """Make a clip and write it, under another name until it is whole; done in the workers."""
    (index,) = indices
    clip = make_clip(simulator, index, info.seconds, info.fps)
    picture = simulator.pictures[clip.source]
    row = ClipRow(
        index=index,
        folder=_folder(index),
        timestamps_s=clip.timestamps_s.tolist(),
        boxes_xyxy=[tuple(round(float(v), 3) for v in box) for box in clip.boxes_xyxy],  # type: ignore[misc]  # four
        label=clip.label,
        species=clip.species,
        subtype=clip.subtype,
        source=picture.source,
        identity=picture.identity,
        picture=picture.key,
        split=picture.split,
        params=clip.params,
        tracks={name: track.tolist() for name, track in clip.tracks.items()},
    )
    unfinished = out / (row.folder + ".partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    for number, frame in enumerate(clip.frames):
        (unfinished / f"{number:03d}.png").write_bytes(encode_picture(frame, "png"))
    for number, depth_mm in enumerate(clip.depth_mm if clip.depth_mm is not None else ()):
        (unfinished / f"{number:03d}.depth.png").write_bytes(encode_depth(depth_mm))
    (unfinished / CLIP).write_bytes(msgspec.json.encode(row))
    unfinished.rename(out / row.folder)
    return row
