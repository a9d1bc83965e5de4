"""WMCA: RGB, depth and more of 72 people; prints, screens, glasses and masks of all kinds.

Layout, raw: ``face-station/DD.MM.YY/<client>_<session>_<presenter>_<type>_<pai>.h5``. Preprocessed by bob: the same
names, one ``.hdf5`` or ``.h5`` per video with groups ``Frame_<k>`` that hold ``array`` (4, 224, 224) uint8: red, green,
blue, depth; found anywhere under the root, also in the folders of the raw files. Both kinds are told apart by what is
in the files; where none can be opened, by the folder ``face-station``.

Which video is in which split stands in lists that come with the data set (see :mod:`.split_lists`); expected are
``PROTOCOL-grandtest.csv`` or ``grandtest/{train,dev,eval}.lst`` in the root or in ``protocols/``. Leave-one-out
protocols are made from grandtest.

Raw depth is not registered to colour. The data set's marker points give a warp for every recording day; fasedge does
not know their file's format and asks for ``depth_warp.json`` in the root instead: ``{"DD.MM.YY": 3x3 matrix}``, from
pixels of the depth stream to those of the colour stream.

Source: attack codes, exclusions and counts as in the data set's own database package; recounted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from fasedge.types import Label
from training.data.manifest import Split
from training.data.protocols.record import (
    BONA_FIDE,
    SPLITS,
    Expected,
    Problems,
    Protocol,
    Reader,
    Record,
    check_counts,
    finish,
    leave_one_out,
    listed,
    need_folders,
    pick_protocol,
)
from training.data.protocols.split_lists import read_splits

NAME = "wmca"
#: Videos of each category in train, dev and test; wigs and make-up are excluded.
GRANDTEST = {
    BONA_FIDE: (124, 108, 115),
    "fakehead": (53, 52, 17),
    "flexiblemask": (111, 131, 137),
    "glasses": (31, 22, 22),
    "papermask": (0, 0, 71),
    "prints": (68, 66, 66),
    "replay": (152, 116, 80),
    "rigidmask": (26, 62, 49),
}
ATTACKS = tuple(name for name in GRANDTEST if name != BONA_FIDE)
PROTOCOLS: dict[str, tuple[int, ...]] = {"grandtest": (), **{f"LOO_{name}": () for name in ATTACKS}}
COUNTS: Expected = {split: {name: n[i] for name, n in GRANDTEST.items()} for i, split in enumerate(SPLITS)}
DEPTH_WARP = "depth_warp.json"
#: Files that are opened to find one that says what they hold.
_LOOK_AT = 5
_STEM = re.compile(r"(\d+)_(\d+)_(\d+)_(\d+)_(\d+)")


def _codes(kind: int, *codes: int | Iterable[int]) -> frozenset[tuple[int, int]]:
    flat = [c for code in codes for c in ([code] if isinstance(code, int) else code)]
    return frozenset((kind, code) for code in flat)


_CATEGORIES: dict[str, frozenset[tuple[int, int]]] = {
    "glasses": _codes(1, 1, range(3, 8), 15, 16),
    "rigidmask": _codes(1, 2, 13, 14) | _codes(2, range(12, 18)),
    "fakehead": _codes(2, range(1, 8)),
    "papermask": _codes(2, range(8, 12)),
    "flexiblemask": _codes(2, 18, range(75, 100)),
    "prints": _codes(3, range(1, 5), range(6, 10), range(11, 15)),
    "replay": _codes(3, 5, 10, 15) | _codes(4, range(1, 19)),
    "wig": _codes(1, range(8, 13)),
}
_EXCLUDED = ("wig", "makeup")


def category(kind: int, pai: int) -> str | None:
    """Category of an attack code, ``None`` for a code that is not known.

    Args:
        kind: Type of presentation, 0 for bona fide.
        pai: Number of the instrument.
    """
    if kind == 0:
        return BONA_FIDE
    if kind == 5:
        return "makeup"
    return next((name for name, codes in _CATEGORIES.items() if (kind, pai) in codes), None)


def load(root: Path, protocol: str = "grandtest", fold: int | None = None, *, partial: bool = False) -> Protocol:
    """Read a protocol.

    Args:
        root: Folder with the ``.h5`` files and the split lists.
        protocol: ``grandtest`` or ``LOO_<category>``.
        fold: There are none.
        partial: Let missing videos and wrong counts pass, as notes.

    Raises:
        ProtocolError: Says everything that is wrong.
    """
    problems = Problems(f"WMCA in {root}", partial)
    fold = pick_protocol(problems, protocol, PROTOCOLS, fold)
    need_folders(problems, root, [])
    base = root / "face-station" if (root / "face-station").is_dir() else root
    files = _find(problems, base)
    raw = _are_raw(files.values(), otherwise=base != root)
    lists = root / "protocols" if (root / "protocols").is_dir() else root
    splits = read_splits(problems, lists, "grandtest")
    records: dict[Split, list[Record]] = {split: [] for split in SPLITS}
    missing = sorted(splits.keys() - files.keys())
    for stem, split in splits.items():
        record = _record(problems, root, files.get(stem), stem, split, raw=raw)
        if record is not None and stem in files:
            records[split].append(record)
    if missing:
        problems.add_gap(f"{len(missing)} of {len(splits)} listed files are missing under {base}: {listed(missing)}")
    notes = () if not raw or (root / DEPTH_WARP).is_file() else (f"no {DEPTH_WARP}: raw depth cannot be used",)
    grandtest = Protocol(NAME, protocol, fold, {s: tuple(r) for s, r in records.items()}, notes)
    check_counts(problems.add_gap, grandtest, COUNTS)
    if protocol == "grandtest":
        return finish(problems, grandtest)
    left = leave_one_out(grandtest.records, protocol.removeprefix("LOO_"))
    return finish(problems, Protocol(NAME, protocol, fold, left, notes))


def _find(problems: Problems, base: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    odd: list[str] = []
    for path in sorted(p for p in base.rglob("*") if p.suffix in (".h5", ".hdf5")):
        if not _STEM.fullmatch(path.stem):
            odd.append(path.name)
        elif path.stem in files:
            problems.add(f"{path.stem} lies in two places: {files[path.stem]} and {path}")
        else:
            files[path.stem] = path
    if odd:
        problems.add(f"{base}: names that are not client_session_presenter_type_pai: {listed(odd)}")
    if not files and not odd:
        problems.add(f"{base}: no .h5 or .hdf5 file in it")
    return files


def _are_raw(files: Iterable[Path], *, otherwise: bool) -> bool:
    """Whether files hold streams as they were recorded, not frames by bob: what the first that opens says."""
    import h5py  # type: ignore[import-untyped]  # the package has no types

    for path in islice(files, _LOOK_AT):
        try:
            with h5py.File(path) as file:
                names = [str(name) for name in file]
        except OSError:
            continue
        for beginning, raw in (("Frame_", False), ("intelsr300_", True)):
            if any(name.startswith(beginning) for name in names):
                return raw
    return otherwise


def _record(problems: Problems, root: Path, path: Path | None, stem: str, split: Split, *, raw: bool) -> Record | None:
    """The record of a listed file; ``None`` where its name is wrong or its kind is excluded."""
    match = _STEM.fullmatch(stem)
    if match is None:
        problems.add(f"the lists name {stem!r}, expected client_session_presenter_type_pai")
        return None
    client, kind, pai = match[1], int(match[4]), int(match[5])
    species = category(kind, pai)
    if species is None:
        problems.add(f"{stem}: attack code type {kind}, instrument {pai} is not known")
    if species is None or species in _EXCLUDED:
        return None
    file = path or root / f"{stem}.h5"
    reader: Reader = "wmca_h5" if raw else "bob_hdf5"
    has_depth = not raw or (root / DEPTH_WARP).is_file()
    return Record(
        dataset=NAME,
        split=split,
        subject=client,
        video_id=stem,
        label=Label.BONA_FIDE if species == BONA_FIDE else Label.ATTACK,
        pai_species=species,
        pai_subtype=species if species == BONA_FIDE else f"{kind}_{pai}",
        rgb=file,
        depth=file if has_depth else None,
        reader=reader,
        upright=not raw,
        tags=(("session", match[2]), ("day", file.parent.name), ("warp", str(root / DEPTH_WARP))) if raw else (),
    )
