"""A sample set and captures of a few plain pictures on disk."""

from __future__ import annotations

from pathlib import Path

import cv2
import msgspec
import numpy as np

from tests.training.fixtures.toy_sets import toy_set


def write_set(folder: Path, split: str, n: int = 8) -> Path:
    """Write a toy set: reddish pictures of 48 px are bona fide, bluish ones are not."""
    made = toy_set(n, split=split)
    folder.mkdir()
    np.save(folder / "pictures.npy", made.arrays().pictures)
    (folder / "table.jsonl").write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in made.table))
    (folder / "set.json").write_bytes(msgspec.json.encode(made.info))
    return folder


def write_captures(folder: Path) -> Path:
    """Write two captures of each size, one of them living."""
    folder.mkdir()
    lines = ["file,label,source,kind,clip,size,x,y,w,h"]
    for i, (label, size) in enumerate((word, s) for s in ("112", "112b") for word in ("live", "spoof")):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((40, 40, 3), 50 * i, np.uint8))
        lines.append(f"{i}.png,{label},somewhere,crop,,{size},10,10,20,20")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder
