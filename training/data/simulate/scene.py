"""Scenes: square tiles round a genuine face, the raw material of both classes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from fasedge.preprocess import InputSpec, crop_face
from fasedge.types import UInt8Array
from training.data.manifest import FacePicture
from training.data.simulate.cache import cached, check_room, reserve
from training.errors import DataError

#: Side of a tile over the side of the face box.
TILE_SCALE = 2.8
#: Side of a tile in pixels: the face box is 114 px wide.
TILE_PX = 320
#: Largest side: hardly any face of the pack is wider than the 229 px that its box then has.
LARGEST_TILE_PX = 640
#: Half the side of the face box in tile coordinates, where the tile spans [-1, 1].
FACE_HALF = 1 / TILE_SCALE


def build_tiles(pictures: Sequence[FacePicture], cache: Path, *, tile_px: int = TILE_PX) -> UInt8Array:
    """Cut a tile round each face, once; later calls map the file that the first one wrote.

    Args:
        pictures: The pictures, in the order of the tiles.
        cache: ``.npy`` file to write or map. A digest of what the tiles are cut from lies at its end; where it
            differs, the tiles are cut anew.
        tile_px: Side of a tile in pixels.

    Returns:
        uint8 (n, tile_px, tile_px, 3), red first, memory-mapped.

    Raises:
        DataError: A picture cannot be read, or is not the one of the manifest; the disk is too small.
        OSError: The file cannot be written.
    """
    shape = (len(pictures), tile_px, tile_px, 3)
    spec = InputSpec(size_px=tile_px, crop_scale=TILE_SCALE)

    def cut(path: Path) -> None:
        check_room(path, math.prod(shape))
        out = reserve(path, np.uint8, shape)
        for i, picture in enumerate(pictures):
            out[i] = crop_face(picture.read(verify=True), picture.box, spec)
        out.flush()

    return cached(cache, _tiles_key(pictures, tile_px), 1, cut)[0]


def _tiles_key(pictures: Sequence[FacePicture], tile_px: int) -> str:
    """Digest of everything that tiles depend on."""
    lines = [f"{tile_px} {TILE_SCALE}", *(f"{p.key} {p.sha256} {p.box.xyxy}" for p in pictures)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def to_tensor(tiles: UInt8Array) -> Tensor:
    """uint8 (B, H, W, 3) to uint8 (B, 3, H, W) on the device that is torch's default."""
    planes = np.stack([np.stack(cv2.split(tile)) for tile in np.asarray(tiles)])
    return torch.from_numpy(planes).to(torch.get_default_device())


def read_backgrounds(folder: Path, size: int = 256) -> UInt8Array:
    """Read the rooms without people in ``folder/backgrounds``.

    Returns:
        uint8 (m, size, size, 3), red first, in the order of the file names.

    Raises:
        DataError: There is none, or one is not a picture.
    """
    rooms = []
    for path in sorted((folder / "backgrounds").glob("*.jpg")):
        bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if bgr is None:
            raise DataError(f"{path}: not a picture that OpenCV can decode")
        rooms.append(np.asarray(cv2.resize(bgr[..., ::-1], (size, size), interpolation=cv2.INTER_AREA), np.uint8))
    if not rooms:
        raise DataError(f"{folder / 'backgrounds'} holds no pictures")
    return np.stack(rooms)
