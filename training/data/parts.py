"""The work on one recording: pick frames, find the face, cut it out; and the file that keeps the result.

A recording's result is one file under its own name, written under another and then renamed: what is there is whole, so
an interrupted preparation goes on with the recordings that have none.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

import cv2
import msgspec
import numpy as np

from fasedge.errors import SourceError
from fasedge.faces import FaceFinder
from fasedge.geometry import head_pose_deg
from fasedge.types import Face, Frame, UInt8Array, UInt16Array
from training.data.align import Crop, CropRule, cut, refusal
from training.data.presentations import Picked, read_frames
from training.data.protocols.record import Record
from training.data.table import SampleRow
from training.errors import DataError

FinderFactory = Callable[[], FaceFinder]
_TURN_FRAMES = 3
_LEVEL_DEG = 45.0
#: Depth that a data set has already normalised to 0…255 passes the normalisation of methods unchanged with these.
_NORMALISED = {"depth_median_mm": 127.5, "depth_spread_mm": 42.5}


class Dropped(msgspec.Struct, frozen=True, kw_only=True):
    """A line of ``dropped.jsonl``: a frame, or a whole recording, that was left out.

    Attributes:
        video: Recording.
        frame: Number of the frame, or -1 for the whole recording.
        reason: ``unreadable``, ``no_face``, ``face_too_small``, ``no_eyes`` or ``no_depth``.
        detail: What exactly, where there is more to say.
        label: 1 bona fide, 0 attack.
        species: PAI species.
    """

    video: str
    frame: int
    reason: str
    detail: str = ""
    label: int
    species: str


@dataclass(slots=True, eq=False)
class Part:
    """What came out of one recording.

    Attributes:
        rows: A row per crop; their numbers are given later.
        pictures: uint8 (P, P, 3) each.
        depth_mm: uint16 (P, P) each, or empty.
        dropped: What was left out, and why.
    """

    rows: list[SampleRow] = field(default_factory=list)
    pictures: list[UInt8Array] = field(default_factory=list)
    depth_mm: list[UInt16Array] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)


def make_part(record: Record, rule: CropRule, finder: FaceFinder) -> Part:
    """Work through one recording.

    What cannot be read is dropped with a reason; only a failing face finder stops the work.

    Raises:
        EngineError: The face finder failed.
    """
    part = Part()
    try:
        picked = list(read_frames(record, rule.frames, depth=rule.depth))
    except (SourceError, DataError) as error:
        part.dropped.append(_dropped(record, -1, "unreadable", str(error)))
        return part
    turn = 0 if record.upright else find_turn([p.frame for p in picked if p.frame is not None], finder)
    for item in picked:
        _add(part, record, rule, finder, item, turn)
    if not picked:
        part.dropped.append(_dropped(record, -1, "unreadable", "no frame in it"))
    return part


def _add(part: Part, record: Record, rule: CropRule, finder: FaceFinder, item: Picked, turn: int) -> None:  # noqa: PLR0917
    if item.frame is None:
        part.dropped.append(_dropped(record, item.index, "unreadable", item.problem))
        return
    if item.prepared:
        crop = _as_it_is(item.frame, rule)
    else:
        frame = turned(item.frame, turn)
        faces = finder.find(frame.rgb)
        reason = refusal(faces[0], rule) if faces else "no_face"
        if reason:
            detail = f"{min(faces[0].box.width, faces[0].box.height):.0f} px" if reason == "face_too_small" else ""
            part.dropped.append(_dropped(record, item.index, reason, detail))
            return
        crop = cut(frame, faces[0], rule)
    if rule.depth and "depth_median_mm" not in crop.params:
        part.dropped.append(_dropped(record, item.index, "no_depth", "no depth inside the face box"))
        return
    part.pictures.append(crop.picture)
    if crop.depth_mm is not None:
        part.depth_mm.append(crop.depth_mm)
    part.rows.append(_row(record, rule, item, crop, turn))


def _as_it_is(frame: Frame, rule: CropRule) -> Crop:
    size = (rule.picture_px, rule.picture_px)
    rgb, depth = frame.rgb, frame.depth_mm
    if rgb.shape[:2] != size:
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
        depth = (
            None if depth is None else np.asarray(cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST), np.uint16)
        )
    return Crop(rgb, depth, dict(_NORMALISED) if depth is not None else {})


def _row(record: Record, rule: CropRule, item: Picked, crop: Crop, turn: int) -> SampleRow:
    tags = {f"tag_{name}": value for name, value in record.tags}
    return SampleRow(
        index=0,
        # Where the picture is the crop, this box gives it back unchanged when it is cut at scale 1.
        box_xyxy=rule.face_box,
        label=int(record.label),
        species=record.pai_species,
        subtype=record.pai_subtype,
        source=record.dataset,
        identity=f"{record.dataset}/{record.subject}",
        picture=f"{record.video_id}#{item.index}",
        split=record.split,
        params={
            "video": f"{record.dataset}/{record.video_id}",
            "frame": item.index,
            "turn": turn,
            **crop.params,
            **tags,
        },
    )


def _dropped(record: Record, frame: int, reason: str, detail: str = "") -> Dropped:
    return Dropped(
        video=record.video_id,
        frame=frame,
        reason=reason,
        detail=detail,
        label=int(record.label),
        species=record.pai_species,
    )


def find_turn(frames: list[Frame], finder: FaceFinder) -> int:
    """Quarter turns, counter-clockwise, after which the faces stand upright: 0 to 3.

    The turn with the highest sum of face scores over three frames; faces that lie on their side count nothing.
    """
    chosen = frames[:: max(1, len(frames) // _TURN_FRAMES)][:_TURN_FRAMES]

    def worth(turn: int) -> float:
        found = [finder.find(turned(frame, turn).rgb) for frame in chosen]
        return sum(faces[0].score for faces in found if faces and _stands(faces[0]))

    return max(range(4), key=lambda turn: (round(worth(turn), 3), -turn))


def _stands(face: Face) -> bool:
    return face.key_points is None or abs(head_pose_deg(face.key_points)[2]) < _LEVEL_DEG


def turned(frame: Frame, turn: int) -> Frame:
    """The frame after so many quarter turns, counter-clockwise; depth turns with colour."""
    if not turn:
        return frame
    rgb = np.ascontiguousarray(np.rot90(frame.rgb, turn))
    depth = None if frame.depth_mm is None else np.ascontiguousarray(np.rot90(frame.depth_mm, turn))
    return Frame(rgb, depth, frame.timestamp_s, None, frame.name)


def part_path(folder: Path, record: Record) -> Path:
    """Where the result of a recording is kept."""
    name = hashlib.sha256(f"{record.dataset}/{record.split}/{record.rgb}".encode()).hexdigest()[:24]
    return folder / f"{name}.npz"


def write_part(path: Path, part: Part) -> None:
    """Write a result; the file appears whole or not at all.

    Raises:
        OSError: The disk is full, or the folder cannot be written.
    """
    unfinished = path.with_suffix(f".{os.getpid()}.partial")
    facts = msgspec.json.encode({"rows": part.rows, "dropped": part.dropped})
    try:
        with unfinished.open("wb") as stream:
            np.savez(
                stream,
                pictures=np.asarray(part.pictures, np.uint8),
                depth_mm=np.asarray(part.depth_mm, np.uint16),
                facts=np.frombuffer(facts, np.uint8),
            )
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


_DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, msgspec.MsgspecError)


class _Facts(msgspec.Struct, frozen=True):
    rows: list[SampleRow]
    dropped: list[Dropped]


def read_part(path: Path) -> Part:
    """Read a result back.

    Raises:
        DataError: The file is damaged.
    """
    facts = _facts_of(path)
    try:
        with np.load(path, allow_pickle=False) as stored:
            pictures, depth = list(stored["pictures"]), list(stored["depth_mm"])
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    return Part(facts.rows, pictures, depth, facts.dropped)


def _facts_of(path: Path) -> _Facts:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return msgspec.json.decode(stored["facts"].tobytes(), type=_Facts)
    except _DAMAGE as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is damaged ({error}); delete it and run `prepare` again")


def part_length(path: Path) -> int:
    """Number of crops in a result, without reading them.

    Raises:
        DataError: The file is damaged.
    """
    return len(_facts_of(path).rows)


_WORKER: dict[str, FaceFinder] = {}


def start_worker(factory: FinderFactory) -> None:
    """Open the face finder of a process, and see to it that the process ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the workers, without a traceback from each
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    _WORKER["finder"] = factory()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def work_apart(record: Record, rule: CropRule, path: Path) -> None:
    """Work through one recording in a process started by :func:`start_worker`."""
    write_part(path, make_part(record, rule, _WORKER["finder"]))
