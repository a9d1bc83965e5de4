"""MSU-MFSD, the public part: 35 people, a phone (mp4) and a laptop (mov).

Layout: ``scene01/real/real_clientNNN_{android,laptop}_SD_scene01.{mp4,mov}``, ``scene01/attack/attack_clientNNN_
{android,laptop}_SD_{ipad_video,iphone_video,printed_photo}_scene01.{mp4,mov}``, ``train_sub_list.txt`` and
``test_sub_list.txt`` with a number per line; a ``.face`` text beside a video holds boxes and eyes.

There is no official development set. Protocol ``holdout`` takes every fifth person of the training list, from the
fold's number on, as dev; ``official`` leaves dev empty. Some videos of the phone stand on their head, so the turn of
each is found by the face finder.

Source: file lists of the data set; the hold-out is ours.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from fasedge.types import Label
from training.data.manifest import Split
from training.data.protocols.record import (
    BONA_FIDE,
    Expected,
    Problems,
    Protocol,
    Record,
    finish,
    hold_out,
    listed,
    need_folders,
    pick_protocol,
)

NAME = "msu_mfsd"
_FOLDS = range(1, 6)
PROTOCOLS = {"holdout": _FOLDS, "official": ()}
_LISTS: dict[Split, str] = {"train": "train_sub_list.txt", "test": "test_sub_list.txt"}
#: People of the published lists.
SUBJECTS: dict[Split, tuple[int, ...]] = {
    "train": (2, 3, 5, 6, 7, 8, 9, 11, 12, 21, 22, 34, 53, 54, 55),
    "test": (1, 13, 14, 23, 24, 26, 28, 29, 30, 32, 33, 35, 36, 37, 39, 42, 48, 49, 50, 51),
}
#: Published numbers of videos: two bona fide and six attacks of each person.
COUNTS: dict[str, Expected] = {
    "official": {s: {BONA_FIDE: 2 * len(people), "attack": 6 * len(people)} for s, people in SUBJECTS.items()},
    "holdout": {
        "train": {BONA_FIDE: 24, "attack": 72},
        "dev": {BONA_FIDE: 6, "attack": 18},
        "test": {BONA_FIDE: 40, "attack": 120},
    },
}
_NAME = re.compile(
    r"(real|attack)_client(\d{3})_(android|laptop)_SD_(?:(ipad_video|iphone_video|printed_photo)_)?scene01"
)
_SPECIES = {"printed_photo": "print", "ipad_video": "replay", "iphone_video": "replay"}


def load(root: Path, protocol: str = "holdout", fold: int | None = None, *, partial: bool = False) -> Protocol:
    """Read a protocol.

    Args:
        root: Folder with ``scene01`` and the two lists.
        protocol: ``holdout`` (five folds) or ``official`` (no dev).
        fold: Which fifth of the training people is dev, 1 to 5; 1 if not given.
        partial: Let missing videos and wrong counts pass, as notes.

    Raises:
        ProtocolError: Says everything that is wrong.
    """
    problems = Problems(f"MSU-MFSD in {root}", partial)
    fold = pick_protocol(problems, protocol, PROTOCOLS, fold)
    need_folders(problems, root, ["scene01/real", "scene01/attack"])
    split_of: dict[str, Split] = {}
    for split, name in _LISTS.items():
        for subject in _read_list(problems, root, split):
            if subject in split_of:
                problems.add(f"{name}: client {subject} is in more than one list, or twice in one")
            split_of[subject] = split
    problems.stop()
    found: dict[Split, list[Record]] = {"train": [], "test": []}
    for kind in ("real", "attack"):
        for record in _scan(problems, root, kind):
            if record.subject in split_of:
                split = split_of[record.subject]
                found[split].append(replace(record, split=split))
            else:
                problems.add(f"{record.rgb}: client {record.subject} is in neither list")
    train = tuple(found["train"])
    dev: tuple[Record, ...] = ()
    notes: tuple[str, ...] = ()
    if fold is not None:
        train, dev = hold_out(train, fold, len(_FOLDS))
        notes = (f"dev is ours: every fifth person of the training list, from number {fold} on",)
    records: dict[Split, tuple[Record, ...]] = {"train": train, "dev": dev, "test": tuple(found["test"])}
    return finish(problems, Protocol(NAME, protocol, fold, records, notes), COUNTS[protocol])


def _read_list(problems: Problems, root: Path, split: Split) -> list[str]:
    path = root / _LISTS[split]
    try:
        words = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        problems.add(f"{path}: the list of split {split} cannot be read ({error})")
        return []
    if odd := [word for word in words if not word.isdecimal()]:
        problems.add(f"{path}: expected a number per line, got {listed(odd)}")
    numbers = {int(word) for word in words if word.isdecimal()}
    if numbers != set(SUBJECTS[split]):
        gone, new = sorted(set(SUBJECTS[split]) - numbers), sorted(numbers - set(SUBJECTS[split]))
        problems.add_gap(f"{path}: differs from the published list: missing {gone}, not published {new}")
    return [f"{int(word):03d}" for word in words if word.isdecimal()]


def _scan(problems: Problems, root: Path, kind: str) -> list[Record]:
    folder = root / "scene01" / kind
    records, odd = [], []
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".mp4", ".mov")):
        match = _NAME.fullmatch(path.stem)
        if match is None or match[1] != kind or (match[4] is None) != (kind == "real"):
            odd.append(path.name)
            continue
        real, boxes = kind == "real", path.with_suffix(".face")
        records.append(
            Record(
                dataset=NAME,
                split="train",
                subject=match[2],
                video_id=path.relative_to(root).with_suffix("").as_posix(),
                label=Label.BONA_FIDE if real else Label.ATTACK,
                pai_species=BONA_FIDE if real else _SPECIES[match[4]],
                pai_subtype=BONA_FIDE if real else match[4],
                rgb=path,
                annotation=boxes if boxes.is_file() else None,
                upright=match[3] != "android",
                tags=(("device", match[3]),),
            )
        )
    if odd:
        problems.add(f"{folder}: names that are not of this data set: {listed(odd)}")
    return records
