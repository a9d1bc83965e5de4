"""Sample sets whose attacks are made from live pictures by a rival method.

Both classes are the plain tiles of the face pack, without the simulator's camera, cut to its canvas of two face boxes:
that is what these methods work on, a picture as some camera gave it. The sets lie on the disk as the simulator's do and
:class:`training.data.samples.SampleSet` reads them.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import cv2
import msgspec
import numpy as np

from benchmarks.rivals import fas_aug, spoofing_clues
from fasedge.geometry import crop_square
from fasedge.types import UInt8Array
from training.data.clues import colour_jitter
from training.data.manifest import FacePicture, Split, read_manifest
from training.data.simulate.cache import reserve
from training.data.simulate.draws import Draws
from training.data.simulate.scene import TILE_SCALE, build_tiles, read_backgrounds
from training.data.simulate.simulator import PICTURE_PX
from training.data.simulate.species import BONA_FIDE
from training.data.table import SampleRow, SetInfo
from training.errors import DataError

Kind = Literal["fas-aug", "spsc", "spsc-sdsc"]
BonaFide = Literal["untouched", "published"]
#: Side of the canvas over the side of the face box, the simulator's.
CANVAS_SCALE = 2.0
#: Share of FAS-Aug's training data that is left as it is: one domain of originals beside three augmented ones.
_ORIGINALS = 0.25
_LEAST_PX = 32
#: Samples that a worker makes at a time.
CHUNK = 64


def canvas(tile: UInt8Array, side: int = PICTURE_PX) -> tuple[UInt8Array, float]:
    """Cut the canvas out of a tile.

    Args:
        tile: uint8 (T, T, 3), ``TILE_SCALE`` face boxes wide.
        side: Of the canvas, P.

    Returns:
        The canvas, uint8 (P, P, 3), and the side of the face box in it, pixels.
    """
    size = tile.shape[0]
    # As much on either side, so that the face stays in the middle to the pixel.
    margin = round(size * (1 - CANVAS_SCALE / TILE_SCALE) / 2)
    cut = np.ascontiguousarray(tile[margin : size - margin, margin : size - margin])
    way = cv2.INTER_AREA if len(cut) > side else cv2.INTER_LINEAR
    out = np.asarray(cv2.resize(cut, (side, side), interpolation=way), np.uint8)
    return out, size / TILE_SCALE * side / len(cut)


def face_masks(data: Path, pictures: Sequence[FacePicture], side: int = PICTURE_PX) -> UInt8Array:
    """Outlines of the faces in the canvas: hull of the mesh's points, an ellipse where the pack has none.

    Returns:
        uint8 (n, P, P), 1 on the face, with P the given side of the canvas.
    """
    found: dict[str, UInt8Array] = {}
    keys = {picture.key: picture for picture in pictures}
    for path in sorted((data / "landmarks").glob("*.npz")):
        with np.load(path, allow_pickle=False) as archive:
            for key in keys.keys() & set(archive.files):
                found[key] = _hull(np.asarray(archive[key], np.float32)[:, :2], keys[key], side)
    centre, half = side // 2, side / CANVAS_SCALE / 2
    ellipse = np.zeros((side, side), np.uint8)
    cv2.ellipse(ellipse, (centre, centre), (round(0.8 * half), round(half)), 0, 0, 360, 1, -1)
    return np.stack([found.get(picture.key, ellipse) for picture in pictures])


def _hull(points: np.ndarray[tuple[int, ...], np.dtype[np.float32]], picture: FacePicture, side: int) -> UInt8Array:
    square = crop_square(picture.box, CANVAS_SCALE)
    placed = (points - np.array([square.x1, square.y1], np.float32)) * np.float32(side / square.width)
    mask = np.zeros((side, side), np.uint8)
    if np.isfinite(placed).all():
        cv2.fillConvexPoly(mask, cv2.convexHull(np.rint(placed).astype(np.int32)), 1)
    return mask


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a set is made from; small enough to be sent to a process.

    Attributes:
        data: Folder of the face pack.
        cache: Folder where tiles are kept.
        split: Which identities.
        kind: ``fas-aug``; ``spsc``, physical clues alone (protocol 2.1); ``spsc-sdsc``, with digital clues as frequent
            (protocol 1).
        seed: Seed of the set, not negative.
        bona_fide: ``untouched``; or ``published``: what FAS-Aug does to live pictures without making attacks of them
            (trembling, resolution, colour), in three of four. SPSC never touches them.
        picture_px: Side of the pictures.
    """

    data: Path
    cache: Path
    split: Split
    kind: Kind
    seed: int
    bona_fide: BonaFide = "untouched"
    picture_px: int = PICTURE_PX


class RivalMaker:
    """Makes the samples of a set by their numbers.

    Args:
        recipe: What to make.

    Raises:
        DataError: A word of the recipe is unknown, or the pack cannot be read.
    """

    def __init__(self, recipe: Recipe) -> None:
        if recipe.kind not in get_args(Kind) or recipe.bona_fide not in get_args(BonaFide):
            raise DataError(
                f"expected one of {', '.join(get_args(Kind))} and one of {', '.join(get_args(BonaFide))}, "
                f"got {recipe.kind!r} and {recipe.bona_fide!r}"
            )
        data, split = recipe.data, recipe.split
        self.pictures = read_manifest(data, [split])
        if not self.pictures:
            raise DataError(f"{data} has no picture of the split {split}")
        self._tiles = build_tiles(self.pictures, recipe.cache / f"tiles_{split}.npy")
        self._operators = fas_aug.operators(read_backgrounds(data))
        self._masks = face_masks(data, self.pictures, recipe.picture_px) if recipe.kind == "spsc-sdsc" else None
        self._recipe = recipe
        by_source: dict[str, list[int]] = defaultdict(list)
        for i, picture in enumerate(self.pictures):
            by_source[picture.source].append(i)
        self._by_source = dict(sorted(by_source.items()))

    def sample(self, index: int) -> tuple[UInt8Array, SampleRow]:
        """One sample: its picture, uint8 (P, P, 3), red first, and its row. The same for the same number."""
        d = Draws(self._recipe.seed, index)
        bona_fide = d.chance("bona_fide", 0.5)
        names = list(self._by_source)
        # As in the simulator: the square root keeps large collections from drowning small ones.
        source = d.choice("source", names, [len(self._by_source[n]) ** 0.5 for n in names])
        number = self._by_source[source][d.integer("picture", 0, 1 << 30) % len(self._by_source[source])]
        d.values["picture"] = number
        side = self._recipe.picture_px
        plain, face_px = canvas(self._tiles[number], side)
        shown = self.pictures[number]
        species, subtype, picture = self._present(plain, number, d, bona_fide=bona_fide)
        low, high = (side - face_px) / 2, (side + face_px) / 2
        return picture, SampleRow(
            index=index,
            box_xyxy=(round(low, 3), round(low, 3), round(high, 3), round(high, 3)),
            label=int(bona_fide),
            species=species,
            subtype=subtype,
            source=shown.source,
            identity=shown.identity,
            picture=shown.key,
            split=shown.split,
            params=d.values,
        )

    def _present(self, plain: UInt8Array, number: int, d: Draws, *, bona_fide: bool) -> tuple[str, str, UInt8Array]:
        if bona_fide:
            if (
                self._recipe.kind == "fas-aug"
                and self._recipe.bona_fide == "published"
                and not d.chance("original", _ORIGINALS)
            ):
                policy = fas_aug.draw_policy(self._operators, d, attack=False)
                plain = fas_aug.apply_policy(plain, policy, self._operators, d)
            return BONA_FIDE, BONA_FIDE, plain
        if self._recipe.kind == "fas-aug":
            policy = fas_aug.draw_policy(self._operators, d, attack=True)
            subtype = next(name for name, step in policy if step and self._operators[name].attack)
            return "fas_aug", subtype, fas_aug.apply_policy(plain, policy, self._operators, d)
        if self._masks is None:
            clue = d.choice("clue", ("moire", "colour_jitter"))
            apply = spoofing_clues.moire if clue == "moire" else colour_jitter
            return "spsc", clue, apply(plain, d)
        if d.choice("clue", ("physical", "digital")) == "digital":
            return "sdsc", "self_blend", spoofing_clues.self_blend(plain, self._masks[number], d)
        return "spsc", "moire_and_jitter", colour_jitter(spoofing_clues.moire(plain, d), d)


_WORKER: dict[str, RivalMaker] = {}


def _start(recipe: Recipe) -> None:
    cv2.setNumThreads(1)
    _WORKER["maker"] = RivalMaker(recipe)


def _work(indices: list[int]) -> tuple[UInt8Array, bytes]:
    made = [_WORKER["maker"].sample(index) for index in indices]
    return np.stack([picture for picture, _ in made]), b"".join(msgspec.json.encode(row) + b"\n" for _, row in made)


def make_rival_set(recipe: Recipe, out: Path, n: int, *, workers: int = 2) -> Iterator[tuple[int, int]]:
    """Make a set; the folder appears when everything is in it.

    Args:
        recipe: What to make.
        out: Folder of the set, which must not be there.
        n: Number of samples, at least 1.
        workers: Processes; the set is the same for any number.

    Yields:
        ``(done, n)`` after every chunk.

    Raises:
        DataError: A parameter is out of range, the folder is there, the disk is full, or a worker died.
    """
    if n < 1 or recipe.seed < 0 or workers < 1 or recipe.picture_px < _LEAST_PX:
        raise DataError(
            f"a set needs n >= 1, seed >= 0, workers >= 1 and pictures of {_LEAST_PX} px or more, got {n}, "
            f"{recipe.seed}, {workers} and {recipe.picture_px}"
        )
    if out.exists():
        raise DataError(f"{out} is there already; choose another folder or delete it")
    # Here first: an unknown word must not start processes, and the tiles are built once, before workers map them.
    RivalMaker(recipe)
    partial = out.with_name(out.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield from _fill(partial, n, workers, recipe)
        info = msgspec.to_builtins(SetInfo(split=recipe.split, seed=recipe.seed, n=n, picture_px=recipe.picture_px))
        (partial / "set.json").write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
        about = {"kind": recipe.kind, "bona_fide": recipe.bona_fide}
        (partial / "rival.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        partial.replace(out)
    except OSError as error:
        raise DataError(
            f"{out}: cannot write the set ({error.strerror or error}); free disk or choose another folder"
        ) from error
    except BrokenProcessPool as error:
        raise DataError(f"{out}: a worker process died, often for want of memory; try fewer workers") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fill(folder: Path, n: int, workers: int, recipe: Recipe) -> Iterator[tuple[int, int]]:
    """Write pictures and table, in parallel."""
    path = folder / "pictures.npy"
    pictures = reserve(path, np.uint8, (n, recipe.picture_px, recipe.picture_px, 3))
    chunks = [list(range(first, min(first + CHUNK, n))) for first in range(0, n, CHUNK)]
    pool = ProcessPoolExecutor(
        min(workers, len(chunks)), multiprocessing.get_context("spawn"), initializer=_start, initargs=(recipe,)
    )
    try:
        with (folder / "table.jsonl").open("wb") as table:
            for indices, (block, rows) in zip(chunks, pool.map(_work, chunks), strict=True):
                pictures[indices[0] : indices[-1] + 1] = block
                table.write(rows)
                yield indices[-1] + 1, n
        pictures.flush()
    finally:
        pool.shutdown(cancel_futures=True)
