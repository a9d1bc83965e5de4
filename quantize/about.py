"""Measurements in a file beside the artefacts, with the hashes of the files that they were made on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from fasedge.cards import sha256_of
from quantize.errors import QuantizeError
from quantize.export import Artefact
from quantize.files import complete_file

T = TypeVar("T", bound=msgspec.Struct)


class _About(msgspec.Struct, Generic[T], frozen=True, forbid_unknown_fields=True, kw_only=True):
    sha256: dict[str, str]
    records: tuple[T, ...]


def write_about(path: Path, items: Sequence[Artefact], records: Sequence[msgspec.Struct]) -> Path:
    """Write what was measured on these artefacts."""
    hashes = {file.name: sha256_of(file) for item in items for file in (item.path, *item.companions)}
    content = _About(sha256=hashes, records=tuple(records))
    with complete_file(path) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
    return path


def read_about(path: Path, items: Sequence[Artefact], of: type[T], error: type[QuantizeError]) -> tuple[T, ...]:
    """Read it, and make sure that it is about these files.

    Args:
        path: As :func:`write_about` wrote it; the command that writes it has the name of the file.
        items: Artefacts.
        of: What a record is.
        error: What to raise.

    Raises:
        QuantizeError: ``error``: the file is missing or malformed, or an artefact has changed since.
    """
    try:
        content = msgspec.json.decode(path.read_bytes(), type=_About[of])  # type: ignore[valid-type]
    except (OSError, msgspec.MsgspecError) as problem:
        raise error(f"{path} is missing or malformed ({problem}); run `python -m quantize {path.stem}`") from problem
    for item in items:
        for file in (item.path, *item.companions):
            if content.sha256.get(file.name) != sha256_of(file):
                raise error(f"{item.name}: {file.name} is not the file that {path.name} is about; measure again")
    return content.records
