"""CASIA-FASD (CASIA-MFSD): 50 people, three picture qualities, warped photos, cut photos and video replays.

Layout: ``train_release/{1..20}/`` and ``test_release/{1..30}/`` with twelve ``.avi`` each: ``1 2 HR_1`` bona fide,
``3 4 HR_2`` warped photo, ``5 6 HR_3`` photo with cut-out eyes, ``7 8 HR_4`` video (normal, low, high quality).

There is no official development set. Protocol ``holdout`` takes every fifth person of the training folder, from the
fold's number on, as dev; ``official`` leaves dev empty.

Source: file lists of the data set; the hold-out is ours.
"""

from __future__ import annotations

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

NAME = "casia_fasd"
_FOLDS = range(1, 6)
PROTOCOLS = {"holdout": _FOLDS, "official": ()}
_FOLDERS: dict[Split, tuple[str, int]] = {"train": ("train_release", 20), "test": ("test_release", 30)}
_KINDS = ((BONA_FIDE, BONA_FIDE), ("print", "warped_photo"), ("cut_photo", "cut_photo"), ("replay", "video"))
#: Names of the videos: species, sub-type, quality.
FILES = {
    name: (*kind, quality)
    for i, kind in enumerate(_KINDS)
    for name, quality in ((str(2 * i + 1), "normal"), (str(2 * i + 2), "low"), (f"HR_{i + 1}", "high"))
}
_TEST = {BONA_FIDE: 90, "attack": 270}
#: Published numbers of videos.
COUNTS: dict[str, Expected] = {
    "official": {"train": {BONA_FIDE: 60, "attack": 180}, "test": _TEST},
    "holdout": {
        "train": {BONA_FIDE: 48, "attack": 144},
        "dev": {BONA_FIDE: 12, "attack": 36},
        "test": _TEST,
    },
}


def load(root: Path, protocol: str = "holdout", fold: int | None = None, *, partial: bool = False) -> Protocol:
    """Read a protocol.

    Args:
        root: Folder with ``train_release`` and ``test_release``.
        protocol: ``holdout`` (five folds) or ``official`` (no dev).
        fold: Which fifth of the training people is dev, 1 to 5; 1 if not given.
        partial: Let missing videos and wrong counts pass, as notes.

    Raises:
        ProtocolError: Says everything that is wrong.
    """
    problems = Problems(f"CASIA-FASD in {root}", partial)
    fold = pick_protocol(problems, protocol, PROTOCOLS, fold)
    need_folders(problems, root, [folder for folder, _ in _FOLDERS.values()])
    train = _listed(problems, root, "train")
    dev: tuple[Record, ...] = ()
    notes: tuple[str, ...] = ()
    if fold is not None:
        train, dev = hold_out(train, fold, len(_FOLDS))
        notes = (f"dev is ours: every fifth person of train_release, from number {fold} on",)
    records: dict[Split, tuple[Record, ...]] = {"train": train, "dev": dev, "test": _listed(problems, root, "test")}
    return finish(problems, Protocol(NAME, protocol, fold, records, notes), COUNTS[protocol])


def _listed(problems: Problems, root: Path, split: Split) -> tuple[Record, ...]:
    """Every video that should be there; what is missing is found later, with all the rest."""
    name, people = _FOLDERS[split]
    folder = root / name
    numbers = {str(number) for number in range(1, people + 1)}
    if odd := sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name not in numbers):
        problems.add(f"{folder}: expected folders 1 to {people}, found also {listed(odd)}")
    records = []
    for number in range(1, people + 1):
        person = folder / str(number)
        names = {p.stem for p in person.glob("*.avi")} if person.is_dir() else set()
        if odd := sorted(names - FILES.keys()):
            problems.add(f"{person}: names that are not of this data set: {listed(odd)}")
        records += [_record(person / f"{stem}.avi", split, number, stem) for stem in FILES]
    return tuple(records)


def _record(path: Path, split: Split, number: int, stem: str) -> Record:
    species, subtype, quality = FILES[stem]
    return Record(
        dataset=NAME,
        split=split,
        # The numbers start anew in each folder: person 1 of train is not person 1 of test.
        subject=f"{split}{number:02d}",
        video_id=f"{path.parent.parent.name}/{number}/{stem}",
        label=Label.BONA_FIDE if species == BONA_FIDE else Label.ATTACK,
        pai_species=species,
        pai_subtype=subtype,
        rgb=path,
        tags=(("quality", quality),),
    )
