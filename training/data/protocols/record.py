"""What every data set is read into: presentations by split, and everything that is wrong with them at once.

A *presentation* is one recording of one face before one camera: a video, a picture, or one file of frames. Loaders
name files and check names, counts and people; none of them opens a video, so a list is checked in seconds.
"""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from fasedge.types import Label
from training.data.manifest import Split
from training.data.titles import Title
from training.errors import ProtocolError

SPLITS: tuple[Split, ...] = get_args(Split)
#: Species of what is no attack.
BONA_FIDE = "bona_fide"
#: Wanted presentations per split, by species; ``attack`` counts all species together.
Expected: TypeAlias = Mapping[Split, Mapping[str, int]]
#: How the frames of a presentation are stored; see :mod:`training.data.presentations`.
Reader = Literal["video", "picture", "wmca_h5", "hq_wmca_h5", "bob_hdf5"]
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Record:
    """One presentation.

    Attributes:
        dataset: Name of the data set, e.g. ``oulu_npu``.
        split: ``train``, ``dev`` or ``test``.
        subject: Whose face is shown, unique within the data set.
        video_id: Stable name of the recording within the data set; pictures of one recording share it.
        label: ``Label.BONA_FIDE`` or ``Label.ATTACK``.
        pai_species: ``bona_fide``, or the species over which APCER is maximised (``print``, ``replay`` …).
        pai_subtype: The finer kind (``print1``, ``fixed`` …); the species where there is none.
        rgb: File of the colour frames.
        depth: File of the depth frames, the same as ``rgb`` where one file holds both; ``None`` without depth.
        annotation: File with boxes or eyes that came with the data set; ``None`` if there is none.
        reader: How ``rgb`` is stored.
        upright: Whether the frames stand upright as they are decoded; if not, the turn is found by the face finder.
        tags: Further facts as pairs, e.g. ``("phone", "6")``.
    """

    dataset: str
    split: Split
    subject: str
    video_id: str
    label: Label
    pai_species: str
    pai_subtype: str
    rgb: Path
    depth: Path | None = None
    annotation: Path | None = None
    reader: Reader = "video"
    upright: bool = True
    tags: tuple[tuple[str, str], ...] = ()

    @property
    def is_bona_fide(self) -> bool:
        """Whether no attack is presented."""
        return self.label is Label.BONA_FIDE


@dataclass(frozen=True, slots=True)
class Protocol:
    """Presentations by split.

    Attributes:
        dataset: Name of the data set, or of the pairing.
        name: Protocol, e.g. ``1`` or ``grandtest``.
        fold: Fold, from 1, or ``None`` where there are none.
        records: Presentations per split, in a stable order; a split may be empty.
        notes: What a reader of results must know: custom splits, unverified counts, missing files that were let pass.
        incomplete: Missing files or wrong counts were let pass.
    """

    dataset: str
    name: str
    fold: int | None
    records: Mapping[Split, tuple[Record, ...]]
    notes: tuple[str, ...] = ()
    incomplete: bool = False

    @property
    def title(self) -> str:
        """``oulu_npu 3, fold 2``."""
        return str(Title(self.dataset, self.name, self.fold, self.incomplete))

    @property
    def all_records(self) -> list[Record]:
        """Presentations of all splits, train first."""
        return [record for split in SPLITS for record in self.records.get(split, ())]

    def counts(self) -> dict[Split, dict[str, int]]:
        """Presentations per split: ``bona_fide``, ``attack``, then every species of attack."""
        out: dict[Split, dict[str, int]] = {}
        for split in SPLITS:
            species = Counter(record.pai_species for record in self.records.get(split, ()))
            bona_fide = species.pop(BONA_FIDE, 0)
            out[split] = {BONA_FIDE: bona_fide, "attack": species.total(), **dict(sorted(species.items()))}
        return out


@dataclass(slots=True)
class Problems:
    """Collects what is wrong, so that all of it is said at once.

    Attributes:
        where: What is being read, for the message.
        partial: Let missing files and wrong counts pass, as notes.
        found: What is wrong.
        notes: What was let pass.
        gaps: Whether something that is missing is among it.
    """

    where: str
    partial: bool = False
    found: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    gaps: bool = False

    def add(self, problem: str) -> None:
        """Note something that is wrong."""
        self.found.append(problem)

    def add_gap(self, problem: str) -> None:
        """Note something that is missing: wrong, or with ``partial`` a remark."""
        (self.notes if self.partial else self.found).append(problem)
        self.gaps = True

    def stop(self) -> None:
        """End here if anything is wrong.

        Raises:
            ProtocolError: Says all of it.
        """
        if self.found:
            raise ProtocolError(self.where, self.found)


def pick_protocol(
    problems: Problems, protocol: str, known: Mapping[str, Collection[int]], fold: int | None
) -> int | None:
    """Check a protocol and its fold; with several folds and none named, fold 1.

    Args:
        problems: Where complaints go, and stop.
        protocol: What is asked for.
        known: Folds of each protocol; empty where it has none.
        fold: What is asked for.

    Returns:
        The fold, ``None`` where the protocol has none.

    Raises:
        ProtocolError: There is no such protocol or fold.
    """
    if protocol not in known:
        problems.add(f"there is no protocol {protocol!r}{suggest(protocol, known)}; expected {', '.join(known)}")
        problems.stop()
    folds = known[protocol]
    if not folds and fold is not None:
        problems.add(f"protocol {protocol} has no folds, got fold {fold}; leave the fold out")
    elif folds and fold is not None and fold not in folds:
        problems.add(f"protocol {protocol} has no fold {fold}; expected {min(folds)} to {max(folds)}")
    problems.stop()
    return fold if fold is not None or not folds else min(folds)


def need_folders(problems: Problems, root: Path, names: Iterable[str]) -> None:
    """Check that the root and its folders are there, and stop if not.

    Raises:
        ProtocolError: The root or one of the folders is missing.
    """
    names = list(names)
    if not root.is_dir():
        problems.add(f"{root} is not a folder; expected the one that holds {', '.join(names) or 'the recordings'}")
    else:
        for name in names:
            if not (root / name).is_dir():
                problems.add(f"{root / name} is missing; expected {', '.join(names)} in {root}")
    problems.stop()


def suggest(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for a misspelt name, else nothing."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def listed(names: Sequence[str]) -> str:
    """The first names of a long list, and how many there are."""
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} … ({len(names)} in all)"


def finish(
    problems: Problems,
    protocol: Protocol,
    expected: Expected | None = None,
    *,
    one_split_per_subject: bool = True,
) -> Protocol:
    """Check what all data sets have in common, then return the protocol or say all that is wrong.

    Files that are missing, presentations that come twice, people in two splits, counts that differ from the published
    ones, splits with one class.

    Args:
        problems: What was found so far.
        protocol: What was read.
        expected: Published counts.
        one_split_per_subject: People must not be in two splits.

    Raises:
        ProtocolError: Anything is wrong.
    """
    records = {split: protocol.records.get(split, ()) for split in SPLITS}
    kept = {split: _present(problems, split, items) for split, items in records.items()}
    _check_unique(problems, records)
    if one_split_per_subject:
        _check_subjects(problems, records)
    checked = replace(protocol, records=kept)
    if expected is not None:
        check_counts(problems.add_gap, checked, expected)
    _check_classes(problems, checked)
    problems.stop()
    return replace(checked, notes=(*protocol.notes, *problems.notes), incomplete=protocol.incomplete or problems.gaps)


def _present(problems: Problems, split: Split, records: Sequence[Record]) -> tuple[Record, ...]:
    folders: dict[Path, frozenset[str]] = {}

    def there(path: Path) -> bool:
        if path.parent not in folders:  # one listing per folder instead of one question per file
            folder = path.parent
            folders[folder] = frozenset(p.name for p in folder.iterdir()) if folder.is_dir() else frozenset()
        return path.name in folders[path.parent]

    missing = [str(record.rgb) for record in records if not there(record.rgb)]
    if missing:
        problems.add_gap(f"{split}: {len(missing)} of {len(records)} files are missing: {listed(missing)}")
    no_depth = [str(r.depth) for r in records if r.depth is not None and not there(r.depth)]
    if no_depth:
        problems.add(f"{split}: {len(no_depth)} depth files are missing beside their colour: {listed(no_depth)}")
    gone = frozenset(missing)
    return tuple(record for record in records if str(record.rgb) not in gone)


def _check_unique(problems: Problems, records: Mapping[Split, Sequence[Record]]) -> None:
    places: dict[Path, list[str]] = defaultdict(list)
    for split, items in records.items():
        for record in items:
            places[record.rgb].append(split)
    twice = [f"{path} ({' and '.join(splits)})" for path, splits in places.items() if len(splits) > 1]
    if twice:
        problems.add(f"{len(twice)} presentations are listed more than once: {listed(twice)}")


def _check_subjects(problems: Problems, records: Mapping[Split, Sequence[Record]]) -> None:
    splits: dict[tuple[str, str], set[str]] = defaultdict(set)
    for split, items in records.items():
        for record in items:
            splits[record.dataset, record.subject].add(split)
    shared = [f"{name} ({' and '.join(sorted(s))})" for (_, name), s in sorted(splits.items()) if len(s) > 1]
    if shared:
        problems.add(f"{len(shared)} subjects are in more than one split: {listed(shared)}")


def check_counts(complain: Callable[[str], None], protocol: Protocol, expected: Expected) -> None:
    """Compare with published counts, species by species."""
    counts = protocol.counts()
    for split, wanted in expected.items():
        for species, number in wanted.items():
            if (found := counts[split].get(species, 0)) != number:
                complain(f"{split}: {found} {species} presentations, published are {number}")


def _check_classes(problems: Problems, protocol: Protocol) -> None:
    for split, count in protocol.counts().items():
        if not count[BONA_FIDE] + count["attack"]:
            if split != "dev":
                problems.add(f"{split}: no presentation at all")
        elif not count[BONA_FIDE] or not count["attack"]:
            problems.add(f"{split}: {count[BONA_FIDE]} bona fide and {count['attack']} attacks; both are needed")


def leave_one_out(records: Mapping[Split, Sequence[Record]], species: str) -> dict[Split, tuple[Record, ...]]:
    """Leave-one-attack-out: the species is not seen in train and dev; test holds it and bona fide only.

    Source: the released protocols of WMCA and HQ-WMCA.
    """
    return {
        "train": tuple(r for r in records["train"] if r.pai_species != species),
        "dev": tuple(r for r in records["dev"] if r.pai_species != species),
        "test": tuple(r for r in records["test"] if r.is_bona_fide or r.pai_species == species),
    }


def hold_out(records: Sequence[Record], fold: int, folds: int) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Split the people of a training set without a dev set: every ``folds``-th subject, from the ``fold``-th, is dev.

    Returns:
        ``(train, dev)``; no subject is in both.
    """
    subjects = sorted({record.subject for record in records})
    held = set(subjects[fold - 1 :: folds])
    train = tuple(record for record in records if record.subject not in held)
    return train, tuple(replace(record, split="dev") for record in records if record.subject in held)
