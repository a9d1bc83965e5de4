"""Captures of plain pictures on disk."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def write_captures(folder: Path) -> Path:
    """Write two captures of each size, one of them living."""
    folder.mkdir()
    lines = ["file,label,source,kind,clip,size,x,y,w,h"]
    for i, (label, size) in enumerate((word, s) for s in ("112", "112b") for word in ("live", "spoof")):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((40, 40, 3), 50 * i, np.uint8))
        lines.append(f"{i}.png,{label},somewhere,crop,,{size},10,10,20,20")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder
