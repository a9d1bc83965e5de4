"""The evaluation pack: pictures that lie in the repository, on which every published file is held to full precision.

Simulated presentations of people whose portraits are in the public domain, in front of CC0 rooms, none of them in
training. They are no measure of how good a model is; they show whether two files of a model answer alike. A smaller
pack of people of the train split, made in the same way, is what networks are quantised on in the regression tests.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import cv2
import numpy as np
from numpy.typing import NDArray

from fasedge.depth import crop_depth, measure_face_depth
from fasedge.preprocess import InputSpec, crop_face
from fasedge.types import Box, UInt8Array
from quantize.errors import CalibrationDataError
from quantize.files import complete_file
from training.data.manifest import FacePicture, Split, read_manifest
from training.data.simulate import BONA_FIDE, SPECIES, Simulator
from training.data.simulate.draws import Draws
from training.data.simulate.mesh import build_meshes
from training.data.simulate.scene import build_tiles
from training.data.simulate.simulator import Sample
from training.data.work import tile_px_for
from training.sample_pack import free_rooms, jpeg

SEED = 20261
#: Side of the pictures; the face box has half of it, as many pixels as the published models look at.
PICTURE_PX = 160
_BATCH, _MAX_DRAWS = 32, 100_000
_FREE = frozenset({"public-domain", "CC0-1.0"})


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationPack:
    """Pictures with ground truth.

    Attributes:
        jpegs: One file each.
        labels: int64 (n,), 1 bona fide, 0 attack.
        species: PAI species, or ``bona_fide``.
        boxes: float64 (n, 4), face boxes x1, y1, x2, y2 in pixels.
        depths: A 16-bit PNG each, millimetres, of the face alone: nothing beyond its box. Empty without depth.
    """

    jpegs: tuple[bytes, ...]
    labels: NDArray[np.int64]
    species: tuple[str, ...]
    boxes: NDArray[np.float64]
    depths: tuple[bytes, ...] = ()

    def __len__(self) -> int:
        return len(self.jpegs)

    def crops(self, spec: InputSpec) -> UInt8Array:
        """Network inputs, uint8 (n, S, S, 3), red first.

        Raises:
            CalibrationDataError: A picture cannot be decoded.
        """
        out = np.empty((len(self), spec.size_px, spec.size_px, 3), np.uint8)
        for place, (data, box) in enumerate(zip(self.jpegs, self.boxes.tolist(), strict=True)):
            picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
            if picture is None:
                raise CalibrationDataError(f"picture {place} of the evaluation pack cannot be decoded; is it damaged?")
            out[place] = crop_face(np.asarray(picture[..., ::-1], np.uint8), Box(*box), spec)
        return out

    def pictures(self, spec: InputSpec, *, depth: bool) -> UInt8Array:
        """Network inputs, uint8 (n, S, S, 3), or with depth as fourth channel (n, S, S, 4).

        Args:
            spec: Size and crop scale; with depth at most 1, as there is none beyond the box.
            depth: Whether the network looks at depth.

        Raises:
            CalibrationDataError: A picture cannot be decoded, or there is no depth for such a crop.
        """
        rgb = self.crops(spec)
        if not depth:
            return rgb
        if not self.depths or spec.crop_scale > 1:
            raise CalibrationDataError(
                f"the evaluation pack has {'depth inside the face boxes only' if self.depths else 'no depth'}, the "
                f"network looks at depth of {spec.crop_scale:g} face boxes"
            )
        out = np.empty((*rgb.shape[:3], 1), np.uint8)
        for place, (data, corners) in enumerate(zip(self.depths, self.boxes.tolist(), strict=True)):
            found, box = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), Box(*corners)
            depth_mm = None if found is None or found.dtype != np.uint16 else np.asarray(found, np.uint16)
            measured = None if depth_mm is None else measure_face_depth(depth_mm, box)
            if depth_mm is None or measured is None:
                raise CalibrationDataError(f"depth {place} of the evaluation pack cannot be used; is it damaged?")
            out[place, ..., 0] = crop_depth(depth_mm, box, spec, measured)
        return np.concatenate([rgb, out], axis=3)

    def save(self, path: Path, depths: Path | None = None) -> None:
        """Write one ``.npz``, replaced in one step; depth goes into a file of its own.

        Args:
            path: For the pictures.
            depths: For depth, if there is any.

        Raises:
            ConversionError: A file cannot be written.
        """
        if depths is not None:
            with complete_file(depths) as temporary, temporary.open("wb") as stream:
                np.savez(stream, allow_pickle=False, **_joined("depths", "ends", self.depths))
        files = _joined("jpegs", "ends", self.jpegs)
        with complete_file(path) as temporary, temporary.open("wb") as stream:
            np.savez(
                stream,
                allow_pickle=False,
                labels=self.labels,
                species=np.array(self.species),
                boxes=self.boxes,
                **files,
            )

    @classmethod
    def load(cls, path: Path, depths: Path | None = None) -> EvaluationPack:
        """Read what :meth:`save` wrote.

        Args:
            path: The pictures.
            depths: Depth that belongs to them, if it is wanted.

        Raises:
            CalibrationDataError: A file is missing or damaged, or the two do not belong together.
        """
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                jpegs = _parted(file["jpegs"], file["ends"])
                found = cls(jpegs, file["labels"], tuple(file["species"].tolist()), file["boxes"])
            if not found.labels.shape == (len(found),) == np.shape(found.species) or found.boxes.shape != (
                len(found),
                4,
            ):
                raise ValueError("it has not one label, species and box for each picture")
            if depths is None:
                return found
            with depths.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                maps = _parted(file["depths"], file["ends"])
            if len(maps) != len(jpegs):
                raise ValueError(f"{depths} has not one depth map for each picture")
            return replace(found, depths=maps)
        except (OSError, ValueError, KeyError, EOFError, TypeError, BadZipFile) as error:
            raise CalibrationDataError(
                f"{path} is no evaluation pack ({error}); make it with `quantize pack`"
            ) from error


def _joined(name: str, ends: str, files: Sequence[bytes]) -> dict[str, NDArray[np.generic]]:
    """Files one behind the other, and where each ends."""
    lengths = np.cumsum([len(data) for data in files])
    return {name: np.frombuffer(b"".join(files), np.uint8), ends: lengths}


def _parted(joined: NDArray[np.uint8], ends: NDArray[np.int64]) -> tuple[bytes, ...]:
    data, stops = joined.tobytes(), ends.tolist()
    if stops != sorted(stops) or not stops or stops[-1] != len(data):
        raise ValueError("its pictures do not lie where it says")
    return tuple(data[start:end] for start, end in zip([0, *stops[:-1]], stops, strict=True))


def make_pack(data: Path, per_species: int = 200, *, depth: bool = False, split: Split = "test") -> EvaluationPack:
    """Simulate the pack: as many of each PAI species, and as many bona fide presentations as attacks.

    Args:
        data: Folder of the face pack.
        per_species: Attacks of each, at least 1.
        depth: With a depth camera.
        split: Of whom; ``train`` for pictures that ranges are measured on.

    Raises:
        DataError: The face pack lacks what is needed, or there is no such split.
        CalibrationDataError: The quotas cannot be filled.
    """
    if per_species < 1:
        raise CalibrationDataError(f"the evaluation pack needs attacks of each species, asked for {per_species}")
    people = [picture for picture in read_manifest(data, [split]) if picture.licence in _FREE]
    found = list(_presentations(data, people, per_species, depth=depth))
    return EvaluationPack(
        tuple(one.picture for one in found),
        np.array([int(one.species == BONA_FIDE) for one in found], np.int64),
        tuple(one.species for one in found),
        np.array([one.box for one in found], np.float64),
        tuple(one.depth for one in found if one.depth),
    )


class _Found(NamedTuple):
    picture: bytes
    species: str
    box: tuple[float, float, float, float]
    depth: bytes


def _presentations(data: Path, people: list[FacePicture], per_species: int, *, depth: bool) -> Iterator[_Found]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        # Copies: what they map is deleted with the folder.
        tiles = np.array(build_tiles(people, Path(folder) / "tiles.npy", tile_px=tile_px_for(PICTURE_PX)))
        meshes = build_meshes(data, people, Path(folder) / "meshes.npy")
        simulator = Simulator(
            people, tiles, free_rooms(data), seed=SEED, picture_px=PICTURE_PX, meshes=meshes, depth=depth
        )
        chosen = _chosen(simulator, {**dict.fromkeys(SPECIES, per_species), BONA_FIDE: per_species * len(SPECIES)})
        for start in range(0, len(chosen), _BATCH):
            for sample in simulator.render(chosen[start : start + _BATCH]):
                yield _Found(
                    jpeg(sample.picture), sample.species, sample.box_xyxy, _face_only(sample) if depth else b""
                )


def _face_only(sample: Sample) -> bytes:
    """The depth of a face as 16-bit PNG: nothing beyond its box, which makes the file a third as large."""
    if sample.depth_mm is None:
        raise CalibrationDataError("a sample was simulated without depth")
    height, width = sample.depth_mm.shape
    x1, y1, x2, y2 = sample.box_xyxy
    rows = slice(max(0, math.floor(y1)), min(height, math.ceil(y2)))
    columns = slice(max(0, math.floor(x1)), min(width, math.ceil(x2)))
    kept = np.zeros_like(sample.depth_mm)
    kept[rows, columns] = sample.depth_mm[rows, columns]
    done, encoded = cv2.imencode(".png", kept, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    if not done:
        raise CalibrationDataError("OpenCV cannot write a depth map as PNG")
    return bytes(encoded.tobytes())


def _chosen(simulator: Simulator, quotas: dict[str, int]) -> list[Draws]:
    """Samples by rising number, as long as their species has not got its number."""
    chosen, quotas = [], dict(quotas)
    for index in range(_MAX_DRAWS):
        draws = simulator.draw(index)
        species = BONA_FIDE if draws.values["bona_fide"] else str(draws.values["species"])
        if quotas.get(species, 0):
            quotas[species] -= 1
            chosen.append(draws)
        if not any(quotas.values()):
            return chosen
    raise CalibrationDataError(f"{_MAX_DRAWS} draws do not fill the evaluation pack; missing: {quotas}")
