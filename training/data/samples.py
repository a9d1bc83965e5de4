"""Sets of simulated samples on disk: mapped by training, calibration and evaluation.

A set is a folder with ``pictures.npy`` (uint8 (n, P, P, 3)), where depth is simulated ``depth.npy`` (uint16 (n, P, P),
millimetres, 0 where nothing returns), ``table.jsonl`` (a line per sample: box, label, species, source, identity, split
and every drawn parameter) and ``set.json`` (seed, split, version). :mod:`training.data.making` makes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from fasedge.preprocess import InputSpec, crop_face
from fasedge.types import Box, UInt8Array, UInt16Array
from training.data.frames import Frames
from training.data.relief import RELIEF, read_relief
from training.data.table import DEPTH, INFO, PICTURES, SIMULATOR_VERSION, TABLE, SampleRow, SetInfo, check_folder
from training.errors import DataError

__all__ = ["CropJitter", "SampleRow", "SampleSet", "SetInfo"]


@dataclass(frozen=True, slots=True)
class CropJitter:
    """Random error of the face box, as a finder makes it.

    Attributes:
        shift: Largest shift as a share of the box's side, each axis.
        scale: Largest relative change of the side, log-uniform.
    """

    shift: float = 0.06
    scale: float = 0.12


class Arrays(NamedTuple):
    """What a set is read from, which may be more than the set.

    Attributes:
        pictures: uint8 (n, P, P, 3), red first.
        depth_mm: uint16 (n, P, P), or ``None``.
        places: Where in them each sample lies.
    """

    pictures: Frames
    depth_mm: Frames | None
    places: Sequence[int]


class SampleSet:
    """A set of samples, memory-mapped.

    Attributes:
        table: One row per sample.
        info: What the set was made from.
    """

    def __init__(
        self,
        pictures: Frames,
        table: Sequence[SampleRow],
        info: SetInfo,
        depth_mm: Frames | None = None,
        *,
        places: Sequence[int] | None = None,
        relief: Path | None = None,
    ) -> None:
        """Put a set together.

        Args:
            pictures: uint8 (n, P, P, 3), red first.
            table: One row per sample.
            info: What they are.
            depth_mm: uint16 (n, P, P), millimetres, 0 where nothing returns.
            places: Where in the arrays the sample of each row lies; by default they lie in the order of the rows.
            relief: Folder of depth maps that were rendered for the pictures, see :meth:`rendered`.

        Raises:
            DataError: The parts do not fit each other.
        """
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[3] != 3:
            raise DataError(f"a sample set needs pictures as uint8 (n, P, P, 3), got {pictures.dtype} {pictures.shape}")
        places = range(len(pictures)) if places is None else places
        if len(places) != len(table):
            raise DataError(f"sample set with {len(places)} pictures but {len(table)} rows")
        if depth_mm is not None and (depth_mm.dtype != np.uint16 or depth_mm.shape != pictures.shape[:3]):
            raise DataError(
                f"a sample set needs depth as uint16 {pictures.shape[:3]}, got {depth_mm.dtype} {depth_mm.shape}"
            )
        self._pictures = pictures
        self._depth_mm = depth_mm
        self._places = places
        self._relief = relief
        self.table = tuple(table)
        self.info = info

    @classmethod
    def load(cls, folder: Path) -> SampleSet:
        """Map a finished set.

        Raises:
            DataError: There is no such folder, a part is missing or malformed, or the set is not finished.
        """
        check_folder(folder)
        try:
            info = msgspec.json.decode((folder / INFO).read_bytes(), type=SetInfo)
            if info.format == "clips":
                raise DataError(f"{folder} is a set of clips (of `simulate-clips`); samples come from `simulate`")
            lines = (folder / TABLE).read_bytes().splitlines()
            table = [msgspec.json.decode(line, type=SampleRow) for line in lines]
            pictures = np.load(folder / PICTURES, mmap_mode="r", allow_pickle=False)
            depth_mm = np.load(folder / DEPTH, mmap_mode="r", allow_pickle=False) if info.depth else None
        except (OSError, EOFError, ValueError, msgspec.MsgspecError) as error:
            raise DataError(
                f"{folder} is not a complete sample set ({error}); run the `simulate` or `prepare` that made it again"
            ) from error
        if info.version > SIMULATOR_VERSION or (not info.origin and info.version != SIMULATOR_VERSION):
            raise DataError(
                f"{folder} is a sample set of version {info.version}, this simulator's is {SIMULATOR_VERSION}; make it "
                "anew"
            )
        if len(table) != info.n:
            raise DataError(f"{folder} is not finished: {len(table)} of {info.n} samples; run `simulate` again")
        relief = folder / RELIEF
        return cls(pictures, table, info, depth_mm, relief=relief if relief.is_dir() else None)

    def subset(self, chosen: Sequence[int], why: str) -> SampleSet:
        """Some of the samples; the pictures are not copied.

        Args:
            chosen: Their positions.
            why: What they are, for records: becomes part of ``info.chosen``.
        """
        info = msgspec.structs.replace(
            self.info, n=len(chosen), chosen="; ".join(part for part in (self.info.chosen, why) if part)
        )
        table, places = [self.table[i] for i in chosen], [self._places[i] for i in chosen]
        return SampleSet(self._pictures, table, info, self._depth_mm, places=places, relief=self._relief)

    def arrays(self) -> Arrays:
        """What the samples are read from; for :func:`training.data.joined.joined`."""
        return Arrays(self._pictures, self._depth_mm, self._places)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def labels(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """int64 (n,): 1 bona fide, 0 attack."""
        return np.array([row.label for row in self.table], np.int64)

    def crops(
        self,
        indices: Sequence[int],
        spec: InputSpec,
        *,
        boxes: Sequence[Box] | None = None,
        jitter: CropJitter | None = None,
        rng: np.random.Generator | None = None,
    ) -> UInt8Array:
        """Cut network inputs out.

        Args:
            indices: Samples by position.
            spec: Size and crop scale.
            boxes: What to cut by, one for each; by default those of :meth:`boxes`.
            jitter: Random error of the box; needs ``rng``.
            rng: Where the jitter comes from.

        Returns:
            uint8 (n, S, S, 3), red first.

        Raises:
            DataError: Jitter is wanted but nothing to draw it from, or there is not one box for each sample.
        """
        boxes = self.boxes(indices, jitter=jitter, rng=rng) if boxes is None else boxes
        if len(boxes) != len(indices):
            raise DataError(f"expected one box for each of {len(indices)} samples, got {len(boxes)}")
        out = np.empty((len(indices), spec.size_px, spec.size_px, 3), np.uint8)
        for place, (index, box) in enumerate(zip(indices, boxes, strict=True)):
            out[place] = crop_face(self._pictures[self._places[index]], box, spec)
        return out

    def boxes(
        self, indices: Sequence[int], *, jitter: CropJitter | None = None, rng: np.random.Generator | None = None
    ) -> list[Box]:
        """Face boxes of samples, moved as an uncertain finder would.

        Raises:
            DataError: Jitter is wanted but nothing to draw it from.
        """
        found = [Box(*self.table[index].box_xyxy) for index in indices]
        if jitter is None:
            return found
        if rng is None:
            raise DataError("crops with jitter need rng, a numpy random generator; pass one, or no jitter")
        return [jittered(box, jitter, rng) for box in found]

    def picture(self, index: int) -> UInt8Array:
        """The whole simulated picture, uint8 (P, P, 3), red first."""
        return np.asarray(self._pictures[self._places[index]], np.uint8)

    @property
    def has_depth(self) -> bool:
        """Whether every sample has a depth map."""
        return self._depth_mm is not None

    @property
    def has_distances(self) -> bool:
        """Whether every sample has a depth map in millimetres, and not one that somebody has normalised."""
        return self.has_depth and self.info.depth_unit == "mm"

    def depth_mm(self, index: int) -> UInt16Array:
        """The depth map of a sample: uint16 (P, P), millimetres, 0 where nothing returns.

        Raises:
            DataError: The set was made without depth.
        """
        if self._depth_mm is None:
            raise DataError("this sample set has no depth; make it with `simulate --depth`")
        return np.asarray(self._depth_mm[self._places[index]], np.uint16)

    @property
    def has_rendered(self) -> bool:
        """Whether there is a folder of rendered depth maps."""
        return self._relief is not None

    def rendered(self, index: int) -> UInt8Array | None:
        """The depth map that something else, such as PRNet, has rendered for a sample's picture.

        It lies in the set's folder ``relief``, see :mod:`training.data.relief`.

        Returns:
            uint8 (P, P), 255 nearest, 0 background; ``None`` where there is none.

        Raises:
            DataError: The file is not a picture of that size.
        """
        return None if self._relief is None else read_relief(self._relief, self.table[index], self._pictures.shape[1])


def jittered(box: Box, jitter: CropJitter, rng: np.random.Generator) -> Box:
    """A box with a random error, of the same shape."""
    cx, cy = box.center
    cx += box.width * float(rng.uniform(-jitter.shift, jitter.shift))
    cy += box.height * float(rng.uniform(-jitter.shift, jitter.shift))
    factor = float(np.exp(rng.uniform(-1, 1) * np.log1p(jitter.scale)))
    across, down = box.width / 2 * factor, box.height / 2 * factor
    return Box(cx - across, cy - down, cx + across, cy + down)
