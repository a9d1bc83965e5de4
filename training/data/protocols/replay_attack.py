"""Idiap Replay-Attack: 50 people before a laptop's camera, 320x240.

Layout: ``{train,devel,test}/real/clientNNN_sessionNN_webcam_authenticate_{adverse,controlled}_{1,2}.mov`` and
``{train,devel,test}/attack/{fixed,hand}/attack_{print,mobile,highdef}_clientNNN_sessionNN_{highdef,mobile}_
{photo,video}_{adverse,controlled}.mov``; face boxes, if unpacked, in ``face-locations/<path>.face``. ``enroll/`` is not
used.

Source: file lists and counts of the data set's own database package.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from fasedge.types import Label
from training.data.manifest import Split
from training.data.protocols.record import (
    BONA_FIDE,
    SPLITS,
    Expected,
    Problems,
    Protocol,
    Record,
    finish,
    listed,
    need_folders,
    pick_protocol,
)

NAME = "replay_attack"
#: Which attacks a protocol keeps, by species, medium (photo or video) and support (fixed or hand).
_KEEPS: dict[str, Callable[[str, str, str], bool]] = {
    "grandtest": lambda species, medium, support: True,
    "print": lambda species, medium, support: species == "print",
    "mobile": lambda species, medium, support: species == "mobile",
    "highdef": lambda species, medium, support: species == "highdef",
    "photo": lambda species, medium, support: medium == "photo",
    "video": lambda species, medium, support: medium == "video",
    "fixed": lambda species, medium, support: support == "fixed",
    "hand": lambda species, medium, support: support == "hand",
}
PROTOCOLS: dict[str, tuple[int, ...]] = dict.fromkeys(_KEEPS, ())
_FOLDERS: dict[Split, str] = {"train": "train", "dev": "devel", "test": "test"}
#: Of every person: two lights; print in photo, mobile and highdef in photo and video; each fixed and in the hand.
_PER_PERSON = {
    "grandtest": 20, "print": 4, "mobile": 8, "highdef": 8, "photo": 12, "video": 8, "fixed": 10, "hand": 10,
}  # fmt: skip
_PEOPLE: dict[Split, int] = {"train": 15, "dev": 15, "test": 20}
#: Published numbers of videos for ``grandtest``; those of its parts follow from the names.
COUNTS: dict[str, Expected] = {
    name: {split: {BONA_FIDE: 4 * n, "attack": per_person * n} for split, n in _PEOPLE.items()}
    for name, per_person in _PER_PERSON.items()
}
_REAL = re.compile(r"client(\d{3})_session\d\d_webcam_authenticate_(adverse|controlled)_([12])")
_ATTACK = re.compile(
    r"attack_(print|mobile|highdef)_client(\d{3})_session\d\d_(highdef|mobile)_(photo|video)_(adverse|controlled)"
)


def load(root: Path, protocol: str = "grandtest", fold: int | None = None, *, partial: bool = False) -> Protocol:
    """Read a protocol.

    Args:
        root: Folder with ``train``, ``devel`` and ``test``.
        protocol: ``grandtest``, or one kind of attack beside all bona fide: ``print``, ``mobile``, ``highdef``,
            ``photo``, ``video``, ``fixed``, ``hand``.
        fold: There are none.
        partial: Let missing videos and wrong counts pass, as notes.

    Raises:
        ProtocolError: Says everything that is wrong.
    """
    problems = Problems(f"Replay-Attack in {root}", partial)
    fold = pick_protocol(problems, protocol, PROTOCOLS, fold)
    kinds = ("real", "attack/fixed", "attack/hand")
    need_folders(problems, root, [f"{folder}/{kind}" for folder in _FOLDERS.values() for kind in kinds])
    records: dict[Split, tuple[Record, ...]] = {}
    for split in SPLITS:
        found = [record for kind in kinds for record in _scan(problems, root, split, kind)]
        keeps = _KEEPS[protocol]
        records[split] = tuple(r for r in found if r.is_bona_fide or keeps(r.pai_species, *r.pai_subtype.split("_")))
    return finish(problems, Protocol(NAME, protocol, fold, records), COUNTS[protocol])


def _scan(problems: Problems, root: Path, split: Split, kind: str) -> list[Record]:
    folder = root / _FOLDERS[split] / kind
    pattern = _REAL if kind == "real" else _ATTACK
    records, odd = [], []
    for path in sorted(folder.glob("*.mov")):
        match = pattern.fullmatch(path.stem)
        if match is None:
            odd.append(path.name)
            continue
        records.append(_record(root, path, split, match, kind))
    if odd:
        problems.add(f"{folder}: names that are not of this data set: {listed(odd)}")
    return records


def _record(root: Path, path: Path, split: Split, match: re.Match[str], kind: str) -> Record:
    stem = path.relative_to(root).with_suffix("")
    box = root / "face-locations" / stem.with_suffix(".face")
    real = kind == "real"
    return Record(
        dataset=NAME,
        split=split,
        subject=match[1] if real else match[2],
        video_id=stem.as_posix(),
        label=Label.BONA_FIDE if real else Label.ATTACK,
        pai_species=BONA_FIDE if real else match[1],
        pai_subtype=BONA_FIDE if real else f"{match[4]}_{path.parent.name}",
        rgb=path,
        annotation=box if box.is_file() else None,
        tags=(("light", match[2] if real else match[5]),),
    )
