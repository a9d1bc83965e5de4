"""Contact sheets of simulated samples: the first quality control is to look."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from fasedge.types import UInt8Array
from training.data.manifest import Split
from training.data.samples import make_simulator
from training.errors import DataError

_COLUMNS = 8


def contact_sheets(data: Path, out: Path, split: Split, n: int, seed: int) -> Iterator[Path]:
    """Draw ``n`` samples and write a sheet per species, with the face box on every picture.

    Args:
        data: Folder of the face pack.
        out: Folder of the sheets; tiles are cached in it.
        split: Which identities.
        n: Samples over all species.
        seed: Seed.

    Yields:
        The path of each sheet.

    Raises:
        DataError: A sheet cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    simulator = make_simulator(data, out, split, seed)
    by_species: dict[str, list[UInt8Array]] = defaultdict(list)
    for sample in simulator.samples(range(n)):
        picture = np.ascontiguousarray(sample.picture[..., ::-1])
        x1, y1, x2, y2 = (round(v) for v in sample.box_xyxy)
        cv2.rectangle(picture, (x1, y1), (x2, y2), (0, 255, 0), 1)
        by_species[sample.species].append(picture)
    for species, pictures in sorted(by_species.items()):
        cells = [*pictures, *[np.zeros_like(pictures[0])] * (-len(pictures) % _COLUMNS)]
        rows = [np.concatenate(cells[i : i + _COLUMNS], 1) for i in range(0, len(cells), _COLUMNS)]
        path = out / f"{species}.png"
        if not cv2.imwrite(str(path), np.concatenate(rows, 0)):
            raise DataError(f"{path} cannot be written")
        yield path
