"""Your own data: a CSV table or a tree of folders.

Table: ``manifest.csv`` in the root with the columns ``path`` (video or picture, relative to the root), ``label``
(``bona_fide`` or ``attack``), ``split`` (``train``, ``dev``, ``test``) and ``subject``; optional are ``species``
(needed to report APCER per species; ``attack`` if empty), ``subtype``, ``depth`` (16-bit PNG of a picture, or
``.npy`` uint16 (frames, height, width) of a video; millimetres aligned to colour, 0 where nothing returns) and
``video`` (pictures of one recording share it).

Tree, if there is no table: ``{train,dev,test}/bona_fide/<subject>/<file>`` and
``{train,dev,test}/attack/<species>/<subject>/<file>``; depth lies beside its colour as ``<name>_depth.png`` or
``<name>_depth.npy``.

Protocols: ``all``, and ``LOO_<species>`` for each species of attack in the data.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from fasedge.types import Label
from training.data.manifest import Split
from training.data.protocols.record import (
    BONA_FIDE,
    SPLITS,
    Problems,
    Protocol,
    Reader,
    Record,
    finish,
    leave_one_out,
    listed,
    need_folders,
    pick_protocol,
    suggest,
)

NAME = "generic"
TABLE = "manifest.csv"
PROTOCOLS: dict[str, tuple[int, ...]] = {"all": ()}
_VIDEOS = frozenset({".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v"})
_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
_LABELS = {BONA_FIDE: Label.BONA_FIDE, "attack": Label.ATTACK}
_COLUMNS = {"split": "split", "subject": "subject", "pai_species": "label or species", "pai_subtype": "subtype"}
_REQUIRED = ("path", "label", "split", "subject")
_OPTIONAL = ("species", "subtype", "depth", "video")
_DEPTH = "_depth"
#: What others call the splits.
_ALIASES: dict[str, Split] = {
    "training": "train", "val": "dev", "valid": "dev", "validation": "dev", "devel": "dev", "development": "dev",
    "eval": "test", "testing": "test",
}  # fmt: skip


def load(root: Path, protocol: str = "all", fold: int | None = None, *, partial: bool = False) -> Protocol:
    """Read a table or a tree.

    Args:
        root: Folder with ``manifest.csv``, or with ``train``, ``dev`` and ``test``.
        protocol: ``all`` or ``LOO_<species>``.
        fold: There are none.
        partial: Let missing files pass, as notes.

    Raises:
        ProtocolError: Says everything that is wrong.
    """
    problems = Problems(f"data in {root}", partial)
    need_folders(problems, root, [])
    found = list(_from_table(problems, root) if (root / TABLE).is_file() else _from_tree(problems, root))
    _check_recordings(problems, found)
    species = sorted({record.pai_species for record in found if not record.is_bona_fide})
    if not problems.found:
        pick_protocol(problems, protocol, {**PROTOCOLS, **{f"LOO_{name}": () for name in species}}, fold)
    records: dict[Split, tuple[Record, ...]] = {s: tuple(r for r in found if r.split == s) for s in SPLITS}
    if protocol != "all":
        records = leave_one_out(records, protocol.removeprefix("LOO_"))
    return finish(problems, Protocol(NAME, protocol, None, records))


def _check_recordings(problems: Problems, records: Iterable[Record]) -> None:
    """Refuse recordings whose pictures disagree about what they show: a slip in one row of a table."""
    pictures: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        pictures[record.video_id].append(record)
    for video, found in pictures.items():
        for what in ("split", "subject", "pai_species", "pai_subtype"):
            said = {str(getattr(record, what)): record.rgb.name for record in reversed(found)}
            if len(said) > 1:
                told = ", ".join(f"{value!r} ({name})" for value, name in sorted(said.items()))
                problems.add(f"the pictures of the recording {video!r} disagree about its {_COLUMNS[what]}: {told}")


def _from_table(problems: Problems, root: Path) -> Iterator[Record]:
    path = root / TABLE
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = reader.fieldnames or []
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        problems.add(f"{path}: not a CSV table in UTF-8 ({error})")
        return
    if missing := [column for column in _REQUIRED if column not in columns]:
        problems.add(f"{path}: columns missing: {', '.join(missing)}")
        return
    if odd := [column for column in columns if column not in (*_REQUIRED, *_OPTIONAL)]:
        problems.notes.append(f"{path}: columns that are not used: {', '.join(odd)}")
    for number, row in rows:
        record = _parse_row(problems, root, f"{path}:{number}", row)
        if record is not None:
            yield record


def _parse_row(problems: Problems, root: Path, where: str, row: dict[str, str]) -> Record | None:
    # A row that is too short gives None, one that is too long gives the key None.
    if None in row:
        problems.add(f"{where}: more values than columns; put quotation marks round values with commas")
        return None
    cells = {column: (row.get(column) or "").strip() for column in (*_REQUIRED, *_OPTIONAL)}
    before = len(problems.found)
    if empty := [column for column in _REQUIRED if not cells[column]]:
        problems.add(f"{where}: no value for {', '.join(empty)}")
        return None
    if cells["label"] not in _LABELS:
        hint = suggest(cells["label"], _LABELS)
        problems.add(f"{where}: label {cells['label']!r}{hint}; expected {' or '.join(_LABELS)}")
    split = next((s for s in SPLITS if s == cells["split"]), None)
    if split is None:
        problems.add(f"{where}: split {cells['split']!r}{suggest(cells['split'], SPLITS)}; expected train, dev or test")
    for column in ("path", "depth"):
        if Path(cells[column]).is_absolute() or ".." in Path(cells[column]).parts:
            problems.add(f"{where}: {column} {cells[column]!r} leads out of the folder")
    if _reader(Path(cells["path"])) is None:
        problems.add(f"{where}: {cells['path']!r} is neither a video nor a picture by its ending")
    if cells["label"] == BONA_FIDE and cells["species"] not in ("", BONA_FIDE):
        problems.add(f"{where}: labelled bona_fide, but its species is {cells['species']!r}")
    if cells["label"] == "attack" and cells["species"] == BONA_FIDE:
        problems.add(f"{where}: labelled attack, but its species is bona_fide")
    if split is None or len(problems.found) > before:
        return None
    depth = root / cells["depth"] if cells["depth"] else None
    species = BONA_FIDE if cells["label"] == BONA_FIDE else cells["species"] or "attack"
    return _record(
        root, root / cells["path"], split, cells["subject"], (species, cells["subtype"]), cells["video"], depth
    )


def _reader(path: Path) -> Reader | None:
    ending = path.suffix.lower()
    return "video" if ending in _VIDEOS else "picture" if ending in _PICTURES else None


def _record(  # noqa: PLR0917 - the columns of a row
    root: Path, path: Path, split: Split, subject: str, kind: tuple[str, str], video: str, depth: Path | None
) -> Record:
    species, subtype = kind
    return Record(
        dataset=NAME,
        split=split,
        subject=subject,
        video_id=video or path.relative_to(root).as_posix(),
        label=Label.BONA_FIDE if species == BONA_FIDE else Label.ATTACK,
        pai_species=species,
        pai_subtype=subtype or species,
        rgb=path,
        depth=depth,
        reader=_reader(path) or "picture",
    )


def _from_tree(problems: Problems, root: Path) -> Iterator[Record]:
    need_folders(problems, root, ["train", "test"])
    _check_folders(problems, root)
    for split in SPLITS:
        folder = root / split
        if not folder.is_dir():
            problems.notes.append(f"{folder} is missing: there is no split {split}")
            continue
        for entry in sorted(folder.iterdir()):
            if entry.name not in _LABELS:
                problems.add(f"{entry}: {entry.name!r}{suggest(entry.name, _LABELS)}; expected bona_fide or attack")
            elif entry.name == BONA_FIDE:
                yield from _from_people(problems, root, split, entry, BONA_FIDE)
            else:
                for species in sorted(entry.iterdir()):
                    if species.is_dir():
                        yield from _from_people(problems, root, split, species, species.name)
                    else:
                        problems.add(f"{species}: expected {split}/attack/<species>/<subject>/<file>")


def _check_folders(problems: Problems, root: Path) -> None:
    """Refuse folders that look like a split under another name; name the others that are not read."""
    unread = []
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and p.name not in SPLITS):
        meant = _ALIASES.get(folder.name.lower())
        hint = f" (did you mean {meant!r}?)" if meant else suggest(folder.name.lower(), SPLITS)
        if hint or any((folder / label).is_dir() for label in _LABELS):
            problems.add(f"{folder}: {folder.name!r} is not a split{hint}; expected {', '.join(SPLITS)}")
        else:
            unread.append(folder.name)
    if unread:
        problems.notes.append(f"{root}: folders that are not used: {listed(unread)}")


def _from_people(problems: Problems, root: Path, split: Split, folder: Path, species: str) -> Iterator[Record]:
    for person in sorted(folder.iterdir()):
        if not person.is_dir():
            problems.add(f"{person}: expected a folder per subject, {folder.name}/<subject>/<file>")
            continue
        files = sorted(p for p in person.iterdir() if p.is_file())
        depths = {p.stem.removesuffix(_DEPTH): p for p in files if p.stem.endswith(_DEPTH)}
        colours = [p for p in files if not p.stem.endswith(_DEPTH)]
        if odd := [p.name for p in colours if _reader(p) is None]:
            problems.add(f"{person}: files that are neither video nor picture by their ending: {listed(odd)}")
        if orphans := [depths[stem].name for stem in sorted(depths.keys() - {p.stem for p in colours})]:
            problems.add(f"{person}: depth without its colour: {listed(orphans)}")
        for path in colours:
            if _reader(path) is not None:
                yield _record(root, path, split, person.name, (species, ""), "", depths.get(path.stem))
