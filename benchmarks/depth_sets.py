"""Depth maps for the benchmarks of depth: simulated ones without pictures, and the pack's real portraits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from fasedge.geometry import crop_square
from fasedge.types import Box, UInt16Array
from training.data.simulate import Simulator, compose, cutout, depth, mask, wearing
from training.data.simulate.casting import WORN
from training.data.simulate.draws import Draws
from training.data.simulate.mesh import MeshBatch
from training.data.simulate.scene import to_tensor
from training.data.simulate.species import BONA_FIDE
from training.data.simulate.threads import one_thread
from training.errors import DataError

#: Face boxes (x1, y1, x2, y2) of the real portraits, pixels of the depth map. The face finder reported the first and
#: the last; it does not find the face in ``chin_up_a``, whose box was set by hand.
REAL_BOXES: dict[str, tuple[float, float, float, float]] = {
    "face_frontal": (121, 221, 357, 457),
    "chin_up_a": (128, 200, 316, 388),
    "chin_up_b": (136, 199, 322, 385),
}


@dataclass(frozen=True, slots=True, eq=False)
class DepthItem:
    """A depth map with its face.

    Attributes:
        name: PAI species or ``bona_fide``; of a real portrait its file's name.
        subtype: Kind of medium.
        depth_mm: uint16 (H, W), 0 where nothing returns.
        box_xyxy: Face box in pixels.
    """

    name: str
    subtype: str
    depth_mm: UInt16Array
    box_xyxy: tuple[float, float, float, float]


def simulated(simulator: Simulator, indices: Sequence[int], size: int) -> Iterator[DepthItem]:
    """Simulate depth maps of samples of a simulator with depth, and leave their pictures out.

    Args:
        simulator: Made with ``depth=True``.
        indices: Numbers of the samples; parameters are those of the samples with pictures.
        size: Side of the maps in pixels.
    """
    for index in indices:
        d = simulator.draw(index)
        species = BONA_FIDE if d.values["bona_fide"] else str(d.values["species"])
        with one_thread():
            tile, mesh = simulator.scene_of(int(d.values["picture"]))
            worn = _worn(simulator, d, to_tensor(tile[None]), mesh) if species in WORN else None
            _, behind = simulator.scene_of(cutout.stands_behind(d.values))
            flat = species in depth.FLAT
            made = depth.depth_maps([d], behind, worn, size, flat=flat, cut=simulator.cut_of([d]))
            box = compose.face_box(compose.view_matrices([d])[0], size)
        yield DepthItem(species, str(d.values.get("subtype", BONA_FIDE)), made[0].numpy().astype(np.uint16), box)


def _worn(simulator: Simulator, d: Draws, tile: torch.Tensor, mesh: MeshBatch | None) -> wearing.Worn:
    shown, other = simulator.scene_of(int(d.values.get("victim", d.values["picture"])))
    if mesh is None or other is None:
        raise DataError("masks need meshes; make the simulator with meshes")
    return mask.wear(tile, to_tensor(shown[None]), mesh, other, [d])


def real_portraits(data: Path) -> list[DepthItem]:
    """The pack's three TrueDepth portraits.

    Raises:
        DataError: One of them cannot be read.
    """
    out = []
    for name, box in REAL_BOXES.items():
        path = data / "rgbd" / f"{name}_depth_mm.png"
        found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if found is None or found.dtype != np.uint16:
            raise DataError(f"{path}: not a 16-bit depth map; restore the file")
        out.append(DepthItem(name, "real", np.asarray(found, np.uint16), box))
    return out


def crop_mm(item: DepthItem, scale: float, size: int) -> NDArray[np.float32]:
    """Square round the face box, ``scale`` times as wide, float32 (size, size) in millimetres; 0 beyond the frame."""
    square = crop_square(Box(*item.box_xyxy), scale)
    step = (np.arange(size) + 0.5) / size * square.width
    x, y = (np.floor(start + step).astype(int) for start in (square.x1, square.y1))
    h, w = item.depth_mm.shape
    crop = item.depth_mm[y.clip(0, h - 1)][:, x.clip(0, w - 1)].astype(np.float32)
    crop[(y < 0) | (y >= h)] = 0
    crop[:, (x < 0) | (x >= w)] = 0
    return np.asarray(crop, np.float32)
