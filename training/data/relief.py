"""Pictures of a set as files, for programs that render the depth of faces, such as PRNet.

The way there and back: ``python -m training pictures SET FOLDER`` writes ``FOLDER/00000012.png``; the program writes a
grey picture of the same size, 255 nearest and 0 background; it is put into the set as ``SET/relief/00000012_depth.jpg``
(or ``.png``), and ``method.options.depth_target = "rendered"`` learns from it. Attacks are flat by definition and need
no map. Source of names and encoding: RFMeta's released data layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from fasedge.types import UInt8Array
from training.data.table import SampleRow
from training.errors import DataError

if TYPE_CHECKING:
    from training.data.samples import SampleSet

#: Folder of a set with depth maps that were rendered for its pictures.
RELIEF = "relief"


def read_relief(folder: Path, row: SampleRow, side_px: int) -> UInt8Array | None:
    """Read the map of a sample: uint8 (P, P), 255 nearest, 0 background; nothing where there is none.

    Args:
        folder: ``relief`` of a set.
        row: The sample.
        side_px: Side P of the set's pictures.

    Raises:
        DataError: The file is not a picture of that size.
    """
    for path in (folder / f"{_name(row)}_depth{ending}" for ending in (".jpg", ".png")):
        if path.is_file():
            grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            if grey is None or grey.shape != (side_px, side_px):
                got = "no picture" if grey is None else f"{grey.shape[1]} x {grey.shape[0]} pixels"
                raise DataError(f"{path} must be a grey picture of {side_px} x {side_px} pixels, got {got}")
            return np.asarray(grey, np.uint8)
    return None


def write_pictures(samples: SampleSet, folder: Path, *, attacks: bool = False) -> Iterator[tuple[int, int]]:
    """Write the pictures of bona fide presentations, without loss; those that are there are left alone.

    Args:
        samples: The set.
        folder: Where to; made if missing.
        attacks: Write those of attacks too.

    Yields:
        Pictures that are done, and how many there will be.

    Raises:
        DataError: A file cannot be written.
    """
    chosen = [i for i, row in enumerate(samples.table) if row.label or attacks]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for done, index in enumerate(chosen, 1):
            path = folder / f"{_name(samples.table[index])}.png"
            if not path.is_file():
                _write(path, np.ascontiguousarray(samples.picture(index)[..., ::-1]))
            yield done, len(chosen)
    except OSError as error:
        raise DataError(f"{folder}: the pictures cannot be written ({error.strerror or error})") from error


def _name(row: SampleRow) -> str:
    """Name of a sample's picture among files, without ending: its number in the set."""
    return f"{row.index:08d}"


def _write(path: Path, bgr: UInt8Array) -> None:
    """Write under another name first: what is there is whole."""
    encoded = cv2.imencode(".png", bgr)[1]
    part = path.with_suffix(".part")
    part.write_bytes(encoded.tobytes())
    part.replace(path)
