"""Split lists that come with a data set or are written by its user: one CSV table, or three text files.

A table ``PROTOCOL-<name>.csv`` (or ``<name>.csv``) has a heading with a column for the file (``path``, ``file``,
``filename``, ``sample`` or ``video``) and one for the split (``split``, ``group``, ``set``, ``subset`` or
``partition``). Text files ``<name>/train.lst``, ``dev.lst``, ``eval.lst`` (or ``.txt``) have a file per line. Files are
named with or without folders and ending.
"""

from __future__ import annotations

import csv
from pathlib import Path

from training.data.manifest import Split
from training.data.protocols.record import SPLITS, Problems, listed, suggest

_FILE_COLUMNS = ("path", "file", "filename", "sample", "video")
_SPLIT_COLUMNS = ("split", "group", "set", "subset", "partition")
#: Words for the splits in use for these data sets.
SPLIT_WORDS: dict[str, Split] = {
    "train": "train", "training": "train", "world": "train",
    "dev": "dev", "devel": "dev", "development": "dev", "val": "dev", "valid": "dev", "validation": "dev",
    "test": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip


def read_splits(problems: Problems, folder: Path, protocol: str) -> dict[str, Split]:
    """Splits of files, by file name without folder and ending.

    Args:
        problems: Where complaints go; stops if there is no list at all.
        folder: Where the lists lie.
        protocol: Name of the list.

    Raises:
        ProtocolError: There is no list.
    """
    for path in (folder / f"PROTOCOL-{protocol}.csv", folder / f"{protocol}.csv"):
        if path.is_file():
            return _read_table(problems, path)
    texts = folder / protocol
    if texts.is_dir():
        return _read_texts(problems, texts)
    problems.add(
        f"no split list of {protocol!r} in {folder}; expected PROTOCOL-{protocol}.csv, or a folder {protocol} with "
        "train.lst, dev.lst and eval.lst. The lists come with the data set; fasedge has no copy"
    )
    problems.stop()
    return {}


def _read_table(problems: Problems, path: Path) -> dict[str, Split]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        problems.add(f"{path}: not a CSV table in UTF-8 ({error})")
        return {}
    names = {name.strip().lower(): name for name in (rows[0] if rows else {}) if name}
    file_column = next((names[c] for c in _FILE_COLUMNS if c in names), None)
    split_column = next((names[c] for c in _SPLIT_COLUMNS if c in names), None)
    if file_column is None or split_column is None:
        problems.add(
            f"{path}: needs a column {' or '.join(_FILE_COLUMNS)} and a column {' or '.join(_SPLIT_COLUMNS)}, "
            f"found {', '.join(names) or 'no row'}"
        )
        return {}
    entries = [(i, row[file_column] or "", row[split_column] or "") for i, row in enumerate(rows, 2)]
    return _collect(problems, path, entries)


def _read_texts(problems: Problems, folder: Path) -> dict[str, Split]:
    entries: list[tuple[int, str, str]] = []
    found: set[Split] = set()
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".lst", ".txt")):
        if path.stem.lower() not in SPLIT_WORDS:
            problems.add(f"{path}: {path.stem!r} is no split; expected train, dev and eval")
            continue
        found.add(SPLIT_WORDS[path.stem.lower()])
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            problems.add(f"{path}: cannot be read ({error})")
            continue
        entries += [(i, line.strip(), path.stem) for i, line in enumerate(lines, 1) if line.strip()]
    for split in SPLITS:
        if split not in found:
            problems.add(f"{folder}: the list of split {split} is missing")
    return _collect(problems, folder, entries)


def _collect(problems: Problems, where: Path, entries: list[tuple[int, str, str]]) -> dict[str, Split]:
    out: dict[str, Split] = {}
    twice: list[str] = []
    for number, file, word in entries:
        key, split = Path(file.strip()).name, SPLIT_WORDS.get(word.strip().lower())
        for ending in (".h5", ".hdf5"):
            key = key.removesuffix(ending)
        if not key or split is None:
            hint = suggest(word.strip().lower(), SPLIT_WORDS)
            problems.add(f"{where}:{number}: expected a file and train, dev or eval, got {file!r}, {word!r}{hint}")
            continue
        if key in out:
            twice.append(key if out[key] == split else f"{key} ({out[key]} and {split})")
        out[key] = split
    if twice:
        problems.add(f"{where}: files that are listed more than once: {listed(twice)}")
    return out
