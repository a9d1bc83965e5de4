"""What benchmarks have on record: JSON lines, one a result, added one by one."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)


def read_records(path: Path, of: type[T]) -> list[T]:
    """Results on record; a last line that was cut off in writing is left out, and so is a file that is not there."""
    if not path.is_file():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    return [msgspec.json.decode(line, type=of) for line in lines if line.endswith(b"\n")]


def add_record(path: Path, record: msgspec.Struct) -> None:
    """Put a result on record; the folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # One write of less than a page: processes that share the file do not tear each other's lines.
    with path.open("ab", buffering=0) as stream:
        stream.write(msgspec.json.encode(record) + b"\n")
