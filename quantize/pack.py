"""The evaluation pack: pictures that lie in the repository, on which every published file is held to full precision.

Simulated presentations of people whose portraits are in the public domain, in front of CC0 rooms, none of them in
training. They are no measure of how good a model is; they show whether two files of a model answer alike.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import cv2
import numpy as np
from numpy.typing import NDArray

from fasedge.preprocess import InputSpec, crop_face
from fasedge.types import Box, UInt8Array
from quantize.errors import CalibrationDataError
from quantize.files import complete_file
from training.data.manifest import FacePicture, read_manifest
from training.data.simulate import BONA_FIDE, SPECIES, Simulator
from training.data.simulate.draws import Draws
from training.data.simulate.mesh import build_meshes
from training.data.simulate.scene import build_tiles
from training.data.work import tile_px_for
from training.sample_pack import free_rooms, jpeg

SEED = 20261
#: Side of the pictures; the face box has half of it, as many pixels as the published models look at.
PICTURE_PX = 160
_BATCH, _MAX_DRAWS = 32, 100_000
_FREE = frozenset({"public-domain", "CC0-1.0"})
_Found = tuple[bytes, str, tuple[float, float, float, float]]


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationPack:
    """Pictures with ground truth.

    Attributes:
        jpegs: One file each.
        labels: int64 (n,), 1 bona fide, 0 attack.
        species: PAI species, or ``bona_fide``.
        boxes: float64 (n, 4), face boxes x1, y1, x2, y2 in pixels.
    """

    jpegs: tuple[bytes, ...]
    labels: NDArray[np.int64]
    species: tuple[str, ...]
    boxes: NDArray[np.float64]

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

    def save(self, path: Path) -> None:
        """Write one ``.npz``, replaced in one step.

        Raises:
            ConversionError: The file cannot be written.
        """
        ends = np.cumsum([len(data) for data in self.jpegs])
        joined = np.frombuffer(b"".join(self.jpegs), np.uint8)
        with complete_file(path) as temporary, temporary.open("wb") as stream:
            np.savez(
                stream, jpegs=joined, ends=ends, labels=self.labels, species=np.array(self.species), boxes=self.boxes
            )

    @classmethod
    def load(cls, path: Path) -> EvaluationPack:
        """Read what :meth:`save` wrote.

        Raises:
            CalibrationDataError: It is missing or damaged.
        """
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                ends, data = file["ends"].tolist(), file["jpegs"].tobytes()
                jpegs = tuple(data[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True))
                found = cls(jpegs, file["labels"], tuple(file["species"].tolist()), file["boxes"])
            if ends != sorted(ends) or not ends or ends[-1] != len(data):
                raise ValueError("its pictures do not lie where it says")
            if not found.labels.shape == (len(found),) == np.shape(found.species) or found.boxes.shape != (
                len(found),
                4,
            ):
                raise ValueError("it has not one label, species and box for each picture")
            return found
        except (OSError, ValueError, KeyError, EOFError, TypeError, BadZipFile) as error:
            raise CalibrationDataError(
                f"{path} is no evaluation pack ({error}); make it with `quantize pack`"
            ) from error


def make_pack(data: Path, per_species: int = 200) -> EvaluationPack:
    """Simulate the pack: as many of each PAI species, and as many bona fide presentations as attacks.

    Args:
        data: Folder of the face pack.
        per_species: Attacks of each, at least 1.

    Raises:
        DataError: The face pack lacks what is needed.
        CalibrationDataError: The quotas cannot be filled.
    """
    if per_species < 1:
        raise CalibrationDataError(f"the evaluation pack needs attacks of each species, asked for {per_species}")
    people = [picture for picture in read_manifest(data, ["test"]) if picture.licence in _FREE]
    found = list(_presentations(data, people, per_species))
    return EvaluationPack(
        tuple(picture for picture, _, _ in found),
        np.array([int(species == BONA_FIDE) for _, species, _ in found], np.int64),
        tuple(species for _, species, _ in found),
        np.array([box for _, _, box in found], np.float64),
    )


def _presentations(data: Path, people: list[FacePicture], per_species: int) -> Iterator[_Found]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        # Copies: what they map is deleted with the folder.
        tiles = np.array(build_tiles(people, Path(folder) / "tiles.npy", tile_px=tile_px_for(PICTURE_PX)))
        meshes = build_meshes(data, people, Path(folder) / "meshes")
        simulator = Simulator(people, tiles, free_rooms(data), seed=SEED, picture_px=PICTURE_PX, meshes=meshes)
        chosen = _chosen(simulator, {**dict.fromkeys(SPECIES, per_species), BONA_FIDE: per_species * len(SPECIES)})
        for start in range(0, len(chosen), _BATCH):
            for sample in simulator.render(chosen[start : start + _BATCH]):
                yield jpeg(sample.picture), sample.species, sample.box_xyxy


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
