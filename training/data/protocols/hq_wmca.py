"""HQ-WMCA: one ``.h5`` of many streams per recording.

Layout: ``<site>_<session>_<client>_<presenter>_<type>_<subtype>_<pai>-<hash>.h5`` anywhere under the root.

Three things are **not known** to fasedge, because they are published only with the data set, and are therefore asked of
the user instead of being guessed:

* what the numeric codes mean,
* what the depth stream is called,
* which recordings ``grand_test-curated`` leaves out and how the rest is split.

``hq_wmca.toml`` in the root answers the first two::

    [streams]
    rgb = "BASLER_BGR"        # (frames, 3, height, width), blue first, named so in the data set's documentation
    depth = "…"               # (frames, height, width), uint16; leave it out to work with colour alone

    [categories]              # "type", "type_subtype" or "type_subtype_pai"; the most exact entry counts
    "0" = "bona_fide"
    "1_2" = "Glasses"

The split lists (see :mod:`.split_lists`) answer the third. The only counts at hand are of the recordings before
curation and unverified, so a difference is a note, not an error.

Source: names of files and protocols as in the documentation of the data set and its released experiments.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from fasedge.types import Label
from training.data.manifest import Split
from training.data.protocols.record import (
    BONA_FIDE,
    SPLITS,
    Expected,
    Problems,
    Protocol,
    Record,
    check_counts,
    finish,
    leave_one_out,
    listed,
    need_folders,
    pick_protocol,
    suggest,
)
from training.data.protocols.split_lists import read_splits

NAME = "hq_wmca"
GRANDTEST = "grand_test-curated"
#: Categories of the published leave-one-out protocols.
ATTACKS = (
    "Flexiblemask", "Glasses", "Makeup", "Mannequin", "Papermask", "Print", "Rigidmask", "Tattoo", "Replay",
)  # fmt: skip
PROTOCOLS: dict[str, tuple[int, ...]] = {GRANDTEST: (), **{f"LOO_{name}": () for name in ATTACKS}}
#: Recordings before curation; not verified.
UNVERIFIED_COUNTS: Expected = {
    "train": {BONA_FIDE: 228, "attack": 742},
    "dev": {BONA_FIDE: 145, "attack": 823},
    "test": {BONA_FIDE: 182, "attack": 784},
}
MAPPING = "hq_wmca.toml"
_STEM = re.compile(r"(\d+)_(\d+)_(\d+)_(\d+)_(\d+)_(\d+)_(\d+)-([0-9A-Za-z]+)")


class Streams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names of the streams inside a recording."""

    rgb: str = "BASLER_BGR"
    depth: str | None = None


class Mapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``hq_wmca.toml``."""

    categories: dict[str, str]
    streams: Streams = Streams()

    def category(self, kind: str, subtype: str, pai: str) -> str | None:
        """Category of a code, by the most exact entry; ``None`` if there is none."""
        keys = (f"{int(kind)}_{int(subtype)}_{int(pai)}", f"{int(kind)}_{int(subtype)}", str(int(kind)))
        return next((self.categories[key] for key in keys if key in self.categories), None)


def load(root: Path, protocol: str = GRANDTEST, fold: int | None = None, *, partial: bool = False) -> Protocol:
    """Read a protocol.

    Args:
        root: Folder with the recordings, ``hq_wmca.toml`` and the split lists.
        protocol: ``grand_test-curated`` or ``LOO_<category>``.
        fold: There are none.
        partial: Let missing recordings pass, as notes.

    Raises:
        ProtocolError: Says everything that is wrong.
    """
    problems = Problems(f"HQ-WMCA in {root}", partial)
    fold = pick_protocol(problems, protocol, PROTOCOLS, fold)
    need_folders(problems, root, [])
    mapping = _read_mapping(problems, root / MAPPING)
    lists = root / "protocols" if (root / "protocols").is_dir() else root
    splits = read_splits(problems, lists, GRANDTEST)
    files = {path.stem: path for path in sorted(root.rglob("*.h5"))}
    if odd := [stem for stem in files if not _STEM.fullmatch(stem)]:
        problems.add(f"{root}: names that are not of this data set: {listed(odd)}")
    if missing := sorted(splits.keys() - files.keys()):
        problems.add_gap(f"{len(missing)} of {len(splits)} listed files are missing under {root}: {listed(missing)}")
    records: dict[Split, list[Record]] = {split: [] for split in SPLITS}
    unknown: set[str] = set()
    for stem, split in splits.items():
        match = _STEM.fullmatch(stem)
        if match is None or stem not in files:
            continue
        species = mapping.category(*match.group(5, 6, 7))
        if species is None:
            unknown.add("_".join(match.group(5, 6, 7)))
        else:
            records[split].append(_record(mapping, files[stem], split, match, species))
    if unknown:
        problems.add(f"{root / MAPPING}: no category for the codes {listed(sorted(unknown))} (type_subtype_pai)")
    return _finish(problems, Protocol(NAME, protocol, fold, {s: tuple(r) for s, r in records.items()}))


def _finish(problems: Problems, grandtest: Protocol) -> Protocol:
    notes: list[str] = []
    check_counts(notes.append, grandtest, UNVERIFIED_COUNTS)
    notes = [f"{note} before curation (unverified)" for note in notes]
    records = grandtest.records
    if grandtest.name != GRANDTEST:
        records = leave_one_out(records, grandtest.name.removeprefix("LOO_"))
    return finish(problems, Protocol(NAME, grandtest.name, grandtest.fold, records, tuple(notes)))


def _read_mapping(problems: Problems, path: Path) -> Mapping:
    try:
        mapping = msgspec.toml.decode(path.read_bytes(), type=Mapping)
    except FileNotFoundError:
        problems.add(
            f"{path} is missing: what the numeric codes of this data set mean, and how its depth stream is called, is "
            "published with the data set only; write it as docs/datasets.md shows"
        )
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        problems.add(f"{path}: {error}")
    else:
        for code, name in mapping.categories.items():
            if name not in (BONA_FIDE, *ATTACKS):
                known = (BONA_FIDE, *ATTACKS)
                problems.add(
                    f"{path}: code {code} is {name!r}{suggest(name, known)}; expected one of {', '.join(known)}"
                )
        if not re.fullmatch(r"\S+", mapping.streams.rgb):
            problems.add(f"{path}: streams.rgb is {mapping.streams.rgb!r}; expected the name of a stream")
    problems.stop()
    return mapping


def _record(mapping: Mapping, path: Path, split: Split, match: re.Match[str], species: str) -> Record:
    streams = mapping.streams
    return Record(
        dataset=NAME,
        split=split,
        subject=match[3],
        video_id=path.stem,
        label=Label.BONA_FIDE if species == BONA_FIDE else Label.ATTACK,
        pai_species=species,
        pai_subtype=species if species == BONA_FIDE else "_".join(match.group(5, 6, 7)),
        rgb=path,
        depth=path if streams.depth else None,
        reader="hq_wmca_h5",
        upright=False,
        tags=(("rgb_stream", streams.rgb), ("depth_stream", streams.depth or ""), ("site", match[1])),
    )
