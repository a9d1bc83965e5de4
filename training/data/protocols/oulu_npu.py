"""OULU-NPU: 55 people, 6 phones, 3 sessions, two printers, two displays; four protocols.

Layout: ``Train_files/``, ``Dev_files/``, ``Test_files/`` with ``P_S_UU_F.avi`` (phone, session, user, file) and eye
positions ``P_S_UU_F.txt`` beside each; ``Protocols/Protocol_1/{Train,Dev,Test}.txt``, for protocols 3 and 4
``{Train,Dev,Test}_{1..6}.txt``; a line is ``+1,P_S_UU_F`` (bona fide) or ``-1,…`` (attack; only the sign counts).
Protocol ``all`` takes every video of the three folders, without lists; it is what leave-one-domain-out uses.

Where none of the three lists of a protocol is there, they are derived from the file names: the protocols are rules on
phone, session, user and file. Lists that are there must agree with the rules, so both ways give the same videos.

Source: protocols and counts as in the file lists of the data set's own distribution; the rules are those of its paper,
Boulkenafet et al., "OULU-NPU: A mobile face presentation attack database with real-world variations", FG 2017.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
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

NAME = "oulu_npu"
_PHONES = range(1, 7)
PROTOCOLS = {"1": (), "2": (), "3": _PHONES, "4": _PHONES, "all": ()}
_WORDS: dict[Split, str] = {"train": "Train", "dev": "Dev", "test": "Test"}
_USERS: dict[Split, range] = {"train": range(1, 21), "dev": range(21, 36), "test": range(36, 56)}
_FILES = {
    1: (BONA_FIDE, BONA_FIDE),
    2: ("print", "print1"),
    3: ("print", "print2"),
    4: ("replay", "display1"),
    5: ("replay", "display2"),
}
_STEM = re.compile(r"([1-6])_([1-3])_(\d\d)_([1-5])")
_DERIVED = (
    "{} has no list of this protocol: derived from the file names by the published rules (phone, session, user, file), "
    "and held to the published counts"
)
_LINE = re.compile(r"\s*([+-])\d+\s*,\s*(\S+)\s*")


def _expected(*counts: tuple[int, int]) -> Expected:
    return {s: {BONA_FIDE: real, "attack": attack} for s, (real, attack) in zip(SPLITS, counts, strict=True)}


#: Published numbers of videos, bona fide and attacks.
COUNTS: dict[str, Expected] = {
    "1": _expected((240, 960), (180, 720), (120, 480)),
    "2": _expected((360, 720), (270, 540), (360, 720)),
    "3": _expected((300, 1200), (225, 900), (60, 240)),
    "4": _expected((200, 400), (150, 300), (20, 40)),
    "all": _expected((360, 1440), (270, 1080), (360, 1440)),
}


@dataclass(frozen=True, slots=True)
class _Rule:
    """Which videos a split of a protocol holds."""

    phones: frozenset[int]
    sessions: frozenset[int]
    users: range
    files: frozenset[int]

    def stems(self) -> list[str]:
        return [
            f"{phone}_{session}_{user:02d}_{file}"
            for phone in sorted(self.phones)
            for session in sorted(self.sessions)
            for user in self.users
            for file in sorted(self.files)
        ]


def protocol_stems(protocol: str, fold: int | None, split: Split) -> list[str]:
    """Names of the videos of a split by the published rules, without ending.

    Args:
        protocol: ``1`` to ``4``, or ``all``.
        fold: Phone that is left out, for 3 and 4.
        split: Which split.
    """
    test = split == "test"
    all_phones = frozenset(_PHONES)
    phones = all_phones if fold is None else frozenset({fold}) if test else all_phones - {fold}
    by_session, by_instrument = protocol in ("1", "4"), protocol in ("2", "4")
    sessions = frozenset({3} if test else {1, 2}) if by_session else frozenset({1, 2, 3})
    files = frozenset({1, 3, 5} if test else {1, 2, 4}) if by_instrument else frozenset(_FILES)
    return _Rule(phones, sessions, _USERS[split], files).stems()


def load(root: Path, protocol: str = "1", fold: int | None = None, *, partial: bool = False) -> Protocol:
    """Read a protocol, from its lists or, without any, from the names of the videos; a note says so.

    Args:
        root: Folder with ``Train_files`` and mostly ``Protocols``.
        protocol: ``1`` to ``4``, or ``all``.
        fold: Phone that is left out, 1 to 6, for protocols 3 and 4; fold 1 if not given.
        partial: Let missing videos and wrong counts pass, as notes.

    Raises:
        ProtocolError: Says everything that is wrong.
    """
    problems = Problems(f"OULU-NPU in {root}", partial)
    fold = pick_protocol(problems, protocol, PROTOCOLS, fold)
    need_folders(problems, root, [f"{word}_files" for word in _WORDS.values()])
    lists = {split: _list_path(root, protocol, fold, split) for split in SPLITS}
    # One or two of three lists are a damaged copy, not a copy without lists.
    derived = protocol == "all" or not any(path.exists() for path in lists.values())
    records: dict[Split, tuple[Record, ...]] = {}
    for split in SPLITS:
        wanted = protocol_stems(protocol, fold, split)
        stems = wanted if derived else _read_list(problems, lists[split], protocol, split, wanted)
        records[split] = tuple(_record(root, split, stem) for stem in stems)
    for split in SPLITS:
        _check_names(problems, root / f"{_WORDS[split]}_files")
    notes = (_DERIVED.format(lists["train"].parent),) if derived and protocol != "all" else ()
    return finish(problems, Protocol(NAME, protocol, fold, records, notes), COUNTS[protocol])


def _list_path(root: Path, protocol: str, fold: int | None, split: Split) -> Path:
    name = _WORDS[split] + (f"_{fold}" if fold is not None else "") + ".txt"
    return root / "Protocols" / f"Protocol_{protocol}" / name


def _read_list(problems: Problems, path: Path, protocol: str, split: Split, wanted: list[str]) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problems.add(f"{path}: the list of split {split} cannot be read ({error})")
        return []
    stems, allowed = [], frozenset(wanted)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        stem, problem = _parse(line, split, allowed)
        if problem:
            problems.add(f"{path}:{number}: {problem}")
        else:
            stems.append(stem)
    if missing := sorted(allowed - set(stems)):
        problems.add_gap(f"{path}: videos of protocol {protocol} are not listed: {listed(missing)}")
    return stems


def _parse(line: str, split: Split, allowed: frozenset[str]) -> tuple[str, str]:
    """Name of the video of a line, and what is wrong with the line."""
    match = _LINE.fullmatch(line)
    if match is None:
        return "", f"expected +1,P_S_UU_F or -1,P_S_UU_F, got {line.strip()!r}"
    sign, stem = match.groups()
    parts = _STEM.fullmatch(stem)
    if parts is None:
        return "", f"{stem!r} is not phone(1-6)_session(1-3)_user(01-55)_file(1-5)"
    user, file = int(parts[3]), int(parts[4])
    if (sign == "+") != (file == 1):
        return "", f"{stem} is labelled {sign}1, but file {file} is {_FILES[file][1]}"
    if user not in _USERS[split]:
        users = _USERS[split]
        return "", f"user {user:02d} is not of split {split} (users {users[0]} to {users[-1]})"
    if stem not in allowed:
        return "", f"{stem} does not belong into this split by the protocol's rule"
    return stem, ""


def _check_names(problems: Problems, folder: Path) -> None:
    odd = sorted(p.name for p in folder.iterdir() if p.suffix == ".avi" and not _STEM.fullmatch(p.stem))
    if odd:
        problems.add(f"{folder}: names of videos that are not P_S_UU_F.avi: {listed(odd)}")


def _record(root: Path, split: Split, stem: str) -> Record:
    phone, session, user, file = stem.split("_")
    species, subtype = _FILES[int(file)]
    folder = root / f"{_WORDS[split]}_files"
    return Record(
        dataset=NAME,
        split=split,
        subject=user,
        video_id=stem,
        label=Label.BONA_FIDE if species == BONA_FIDE else Label.ATTACK,
        pai_species=species,
        pai_subtype=subtype,
        rgb=folder / f"{stem}.avi",
        annotation=folder / f"{stem}.txt",
        tags=(("phone", phone), ("session", session)),
    )
