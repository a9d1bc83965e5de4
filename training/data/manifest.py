"""Reader of the face pack: licensed bona fide pictures with boxes, key points and identity-disjoint splits.

The folder is named by the environment variable ``FASEDGE_DATA`` or by an option; it holds ``manifest.csv`` and the
pictures that it lists. Nothing in it is copied into the repository.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np

from fasedge.geometry import box_from_xywh
from fasedge.types import Box, FloatArray, UInt8Array
from training.errors import DataError

Split = Literal["train", "dev", "test"]
ENVIRONMENT_VARIABLE = "FASEDGE_DATA"
_KEY_POINTS = ("reye", "leye", "nose", "mouth", "rear", "lear")
_REQUIRED = (
    *("path", "source", "licence", "identity", "split", "width", "height", "face_x", "face_y", "face_w", "face_h"),
    *(f"{point}_{axis}" for point in _KEY_POINTS for axis in "xy"),
    "sha256",
)


@dataclass(frozen=True, slots=True, eq=False)
class FacePicture:
    """One licensed picture of a genuine face.

    Attributes:
        path: Where the picture lies.
        key: Path inside the pack, the picture's stable name.
        source: Collection it comes from (``london``, ``caltech`` …).
        licence: SPDX-like licence word.
        identity: Who is shown; an identity is in one split only.
        split: ``train``, ``dev`` or ``test``.
        box: Face box in pixels (BlazeFace).
        key_points: float32 (6, 2) in pixels, BlazeFace's order.
        sha256: Digest of the file.
    """

    path: Path
    key: str
    source: str
    licence: str
    identity: str
    split: Split
    box: Box
    key_points: FloatArray
    sha256: str

    def read(self, *, verify: bool = False) -> UInt8Array:
        """Decode the picture.

        Args:
            verify: Compare the file's SHA-256 with the manifest first.

        Returns:
            uint8 (H, W, 3), red first.

        Raises:
            DataError: The file is missing, altered or not a picture.
        """
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror or error})") from error
        if verify and hashlib.sha256(data).hexdigest() != self.sha256:
            raise DataError(f"{self.path}: its SHA-256 differs from the manifest's; restore the file")
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
        if bgr is None:
            raise DataError(f"{self.path}: not a picture that OpenCV can decode")
        return np.ascontiguousarray(bgr[..., ::-1]).astype(np.uint8, copy=False)


def data_folder(folder: Path | None = None) -> Path:
    """Folder of the face pack: the argument, else the environment variable.

    Raises:
        DataError: Neither names a folder with a manifest.
    """
    chosen = folder or (Path(os.environ[ENVIRONMENT_VARIABLE]) if os.environ.get(ENVIRONMENT_VARIABLE) else None)
    if chosen is None:
        raise DataError(f"no face pack: set {ENVIRONMENT_VARIABLE} or pass --data, naming a folder with manifest.csv")
    if not (chosen / "manifest.csv").is_file():
        raise DataError(f"{chosen} holds no manifest.csv; expected the folder of the face pack")
    return chosen


def read_manifest(folder: Path, splits: Iterable[Split] = get_args(Split)) -> list[FacePicture]:
    """Read and validate the manifest.

    Args:
        folder: Folder with ``manifest.csv``.
        splits: Which splits to return.

    Returns:
        The pictures, in the manifest's order.

    Raises:
        DataError: Missing columns, a malformed row (named by line), an identity in two splits, an unknown split.
    """
    wanted = set(splits)
    if unknown := wanted - set(get_args(Split)):
        raise DataError(f"unknown split {sorted(unknown)}; expected {', '.join(get_args(Split))}")
    path = folder / "manifest.csv"
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            if missing := [c for c in _REQUIRED if c not in (reader.fieldnames or ())]:
                raise DataError(f"{path}: columns missing: {', '.join(missing)}")
            pictures = [_parse_row(folder, row, f"{path}:{reader.line_num}") for row in reader]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a CSV table in UTF-8 ({error})") from error
    _check_disjoint(pictures, path)
    return [p for p in pictures if p.split in wanted]


def _parse_row(folder: Path, row: dict[str, str], where: str) -> FacePicture:
    # A row that is too short gives None, one that is too long gives the key None.
    if empty := [column for column in _REQUIRED if not row.get(column)]:
        raise DataError(f"{where}: no value for {', '.join(empty)}")
    if None in row:
        raise DataError(f"{where}: more values than columns; put quotation marks round values with commas")
    try:
        box = box_from_xywh(*(float(row[f"face_{c}"]) for c in "xywh"))
        points = np.array([[float(row[f"{p}_x"]), float(row[f"{p}_y"])] for p in _KEY_POINTS], np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: box or key points are not numbers ({error})") from error
    if not np.isfinite(points).all():
        raise DataError(f"{where}: key points must be finite numbers")
    split = row["split"]
    if split not in get_args(Split):
        raise DataError(f"{where}: split {split!r}, expected {', '.join(get_args(Split))}")
    relative = Path(row["path"])
    if relative.is_absolute() or ".." in relative.parts:
        raise DataError(f"{where}: path {row['path']!r} leads out of the folder")
    return FacePicture(
        path=folder / relative,
        key=row["path"],
        source=row["source"],
        licence=row["licence"],
        identity=row["identity"],
        split=split,  # type: ignore[arg-type]  # checked against the literal above
        box=box,
        key_points=points,
        sha256=row["sha256"],
    )


def _check_disjoint(pictures: Iterable[FacePicture], path: Path) -> None:
    splits: dict[str, set[str]] = defaultdict(set)
    for picture in pictures:
        splits[picture.identity].add(picture.split)
    if shared := sorted(name for name, found in splits.items() if len(found) > 1):
        raise DataError(f"{path}: identities in more than one split: {', '.join(shared[:5])} ({len(shared)} in all)")
