"""Writing files so that they are whole or not there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quantize.errors import ConversionError


@contextmanager
def complete_file(path: Path) -> Iterator[Path]:
    """Write beside a file and rename at the end; with an error nothing is left, and an earlier file stays.

    Args:
        path: The file to be. Files of the same stem that are written along (OpenVINO's ``.bin``) move with it, and
            before it.

    Yields:
        Where to write: same name, in a temporary folder on the same disk.

    Raises:
        ConversionError: Nothing, or an empty file, was written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.stem}-", dir=path.parent))
    try:
        yield folder / path.name
        written = sorted(p for p in folder.iterdir() if p.name == path.name or p.name.startswith(f"{path.stem}."))
        if folder / path.name not in written or any(item.stat().st_size == 0 for item in written):
            raise ConversionError(f"the converter left no complete file for {path.name}; nothing was kept")
        for item in sorted(written, key=lambda item: item.name == path.name):
            item.replace(path.with_name(item.name))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_unfinished(*paths: Path) -> None:
    """Remove what :func:`complete_file` and checkpoints leave beside a file when the process is killed.

    Args:
        paths: Files that nobody else is writing.
    """
    for path in paths:
        for folder in path.parent.glob(f".{path.stem}-????????"):
            shutil.rmtree(folder, ignore_errors=True)
        for part in path.parent.glob(f".{path.name}.*.part"):
            part.unlink()
