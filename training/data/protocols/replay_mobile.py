"""Replay-Mobile: 40 people, a phone and a tablet; prints and matte screens.

Layout: ``{train,devel,test}/real/clientNNN_sessionNN_authenticate_{mobile,tablet}_{light}.mov`` and
``{train,devel,test}/attack/attack_clientNNN_sessionNN_{mattescreen_fixed,print_fixed,print_hand}_{mobile,tablet}_
{photo,video}_{lightoff,lighton}.mov`` (folders below ``attack`` are searched too); face boxes, if unpacked, in
``faceloc/rect/<path>.face``. ``enroll/`` is not used.

Videos lie on their side as most readers decode them, and not all to the same side, so the turn of each is found by the
face finder (``Record.upright`` is false).

Source: file lists and counts of the data set's own database package.
"""

from __future__ import annotations

import re
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

NAME = "replay_mobile"
PROTOCOLS: dict[str, tuple[int, ...]] = {"grandtest": (), "print": (), "mattescreen": ()}
_FOLDERS: dict[Split, str] = {"train": "train", "dev": "devel", "test": "test"}
_CLIENTS: dict[Split, frozenset[int]] = {
    "train": frozenset({1, 3, 8, 11, 12, 16, 18, 20, 26, 34, 37, 38}),
    "dev": frozenset({5, 6, 13, 14, 15, 23, 24, 25, 28, 29, 31, 32, 35, 36, 39, 40}),
    "test": frozenset({2, 4, 7, 9, 10, 17, 19, 21, 22, 27, 30, 33}),
}
_REAL = re.compile(
    r"client(\d{3})_session\d\d_authenticate_(mobile|tablet)_(adverse|controlled|diffuse|direct|lateral)"
)
_ATTACK = re.compile(
    r"attack_client(\d{3})_session\d\d_(mattescreen_fixed|print_fixed|print_hand)_(mobile|tablet)_(photo|video)_"
    r"(lightoff|lighton)"
)
_VIDEOS: dict[Split, tuple[int, int]] = {"train": (120, 192), "dev": (160, 256), "test": (110, 192)}


def _expected(protocol: str) -> Expected:
    shares = {"grandtest": 1, "print": 2, "mattescreen": 2}
    return {s: {BONA_FIDE: real, "attack": n // shares[protocol]} for s, (real, n) in _VIDEOS.items()}


#: Published numbers of videos; half of the attacks are prints, half matte screens.
COUNTS: dict[str, Expected] = {name: _expected(name) for name in PROTOCOLS}


def load(root: Path, protocol: str = "grandtest", fold: int | None = None, *, partial: bool = False) -> Protocol:
    """Read a protocol.

    Args:
        root: Folder with ``train``, ``devel`` and ``test``.
        protocol: ``grandtest``, or ``print`` or ``mattescreen`` for all bona fide and one kind of attack.
        fold: There are none.
        partial: Let missing videos and wrong counts pass, as notes.

    Raises:
        ProtocolError: Says everything that is wrong.
    """
    problems = Problems(f"Replay-Mobile in {root}", partial)
    fold = pick_protocol(problems, protocol, PROTOCOLS, fold)
    need_folders(problems, root, [f"{f}/{kind}" for f in _FOLDERS.values() for kind in ("real", "attack")])
    records: dict[Split, tuple[Record, ...]] = {}
    for split in SPLITS:
        found = [*_scan(problems, root, split, "real"), *_scan(problems, root, split, "attack")]
        wanted = (BONA_FIDE, protocol) if protocol != "grandtest" else (BONA_FIDE, "print", "mattescreen")
        records[split] = tuple(record for record in found if record.pai_species in wanted)
    return finish(problems, Protocol(NAME, protocol, fold, records), COUNTS[protocol])


def _scan(problems: Problems, root: Path, split: Split, kind: str) -> list[Record]:
    folder = root / _FOLDERS[split] / kind
    pattern = _REAL if kind == "real" else _ATTACK
    records, odd = [], []
    for path in sorted(folder.rglob("*.mov")):
        match = pattern.fullmatch(path.stem)
        if match is None:
            odd.append(path.name)
            continue
        if int(match[1]) not in _CLIENTS[split]:
            problems.add(f"{path}: client {match[1]} is not of split {split}")
            continue
        records.append(_record(root, path, split, match, real=kind == "real"))
    if odd:
        problems.add(f"{folder}: names that are not of this data set: {listed(odd)}")
    return records


def _record(root: Path, path: Path, split: Split, match: re.Match[str], *, real: bool) -> Record:
    stem = path.relative_to(root).with_suffix("")
    box = root / "faceloc" / "rect" / stem.with_suffix(".face")
    return Record(
        dataset=NAME,
        split=split,
        subject=match[1],
        video_id=stem.as_posix(),
        label=Label.BONA_FIDE if real else Label.ATTACK,
        pai_species=BONA_FIDE if real else match[2].split("_")[0],
        pai_subtype=BONA_FIDE if real else match[2],
        rgb=path,
        annotation=box if box.is_file() else None,
        upright=False,
        tags=(("device", match[2] if real else match[3]), ("light", match[3] if real else match[5])),
    )
