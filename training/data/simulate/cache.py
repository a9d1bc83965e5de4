"""Array files that are made once and mapped afterwards: reserved before they are filled, whole or not there at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import numpy as np
from numpy.lib.format import open_memmap, read_array_header_1_0, read_magic
from numpy.typing import DTypeLike, NDArray

from training.errors import DataError


def check_room(path: Path, need: int, cure: str = "free disk or choose another folder") -> None:
    """Refuse to write where the disk has less room.

    Args:
        path: File or folder that is to be written; it need not be there.
        need: Bytes.
        cure: What to do about it.

    Raises:
        DataError: Less is free.
    """
    place = next(p for p in (path, *path.resolve().parents) if p.is_dir())
    free = shutil.disk_usage(place).free
    if free < need:
        raise DataError(f"{path}: up to {_size(need)} are needed, {_size(free)} are free; {cure}")


def _size(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside a file that nobody else uses, to write under; what is written then takes the file's place.

    Where that fails it is deleted, and the file stays as it was.
    """
    unfinished = path.with_name(f"{path.name}.{uuid4().hex[:8]}.partial")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def reserve(path: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> np.memmap[tuple[int, ...], np.dtype[Any]]:
    """Make an array file of its full size, and map it.

    Reserved at once: a disk that fills up under a map kills the process without a word.

    Raises:
        OSError: It does not fit on the disk.
    """
    array = open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    array.flush()
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def cached(path: Path, key: str, n: int, make: Callable[[Path], None]) -> list[NDArray[Any]]:
    """Map arrays that are made once.

    They lie in one file, one after another, with the key behind them: it is replaced as a whole, so that processes
    that make it beside each other cannot mix their arrays. One that is cut short or has another key is made anew.

    Args:
        path: The file.
        key: Digest of what they are made from.
        n: How many arrays there are.
        make: Writes them under the name that it is given, each as ``.npy``.

    Raises:
        DataError: Somebody else has replaced the file meanwhile by one that is made from something else.
        OSError: The file cannot be read or written.
    """
    found = _mapped(path, key, n)
    if found is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as unfinished:
            make(unfinished)
            with unfinished.open("ab") as file:
                file.write(key.encode())
        found = _mapped(path, key, n)
    if found is None:
        raise DataError(
            f"{path}: another process put what it made from other pictures in its place; give each its own folder"
        )
    return found


def _mapped(path: Path, key: str, n: int) -> list[NDArray[Any]] | None:
    """The arrays, if they are there, whole, and have the key."""
    try:
        with path.open("rb") as file:
            arrays = [_map(file) for _ in range(n)]
            return arrays if file.read() == key.encode() else None
    except (FileNotFoundError, EOFError, ValueError):
        return None


def _map(file: BinaryIO) -> NDArray[Any]:
    """Map the array at a file's position, and go on behind it; one that is cut short is a ValueError."""
    read_magic(file)
    shape, _, dtype = read_array_header_1_0(file)
    start = file.tell()
    array: NDArray[Any] = np.memmap(file, dtype, "r", start, shape)
    file.seek(start + array.nbytes)
    return array
