"""Pictures of a set as files, for programs that render the depth of faces, such as PRNet.

The way there and back: ``python -m training pictures SET FOLDER`` writes ``FOLDER/00000012.png``; the program writes a
grey picture of the same size, 255 nearest and 0 background; it is put into the set as ``SET/relief/00000012_depth.jpg``
(or ``.png``), and ``method.options.depth_target = "rendered"`` learns from it. Attacks are flat by definition and need
no map. Source of names and encoding: RFMeta's released data layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from training.data.samples import SampleSet, picture_name
from training.errors import DataError


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
            path = folder / f"{picture_name(samples.table[index])}.png"
            if not path.is_file():
                _write(path, np.ascontiguousarray(samples.picture(index)[..., ::-1]))
            yield done, len(chosen)
    except OSError as error:
        raise DataError(f"{folder}: the pictures cannot be written ({error.strerror or error})") from error


def _write(path: Path, bgr: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    """Write under another name first: what is there is whole."""
    encoded = cv2.imencode(".png", bgr)[1]
    part = path.with_suffix(".part")
    part.write_bytes(encoded.tobytes())
    part.replace(path)
