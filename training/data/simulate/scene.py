"""Scenes: square tiles round a genuine face, the raw material of both classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from fasedge.preprocess import InputSpec, crop_face
from fasedge.types import UInt8Array
from training.data.manifest import FacePicture
from training.errors import DataError

#: Side of a tile over the side of the face box.
TILE_SCALE = 2.8
#: Side of a tile in pixels: the face box is 114 px wide.
TILE_PX = 320
#: Half the side of the face box in tile coordinates, where the tile spans [-1, 1].
FACE_HALF = 1 / TILE_SCALE


def build_tiles(pictures: Sequence[FacePicture], cache: Path, *, tile_px: int = TILE_PX) -> UInt8Array:
    """Cut a tile round each face, once; later calls map the file that the first one wrote.

    Args:
        pictures: The pictures, in the order of the tiles.
        cache: ``.npy`` file to write or map; it is written anew when its shape differs.
        tile_px: Side of a tile in pixels.

    Returns:
        uint8 (n, tile_px, tile_px, 3), red first, memory-mapped.

    Raises:
        DataError: A picture cannot be read.
    """
    shape = (len(pictures), tile_px, tile_px, 3)
    if cache.is_file():
        tiles = np.load(cache, mmap_mode="r", allow_pickle=False)
        if tiles.shape == shape:
            return tiles  # type: ignore[no-any-return]
    cache.parent.mkdir(parents=True, exist_ok=True)
    partial = cache.with_suffix(".partial")
    out = open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
    spec = InputSpec(size_px=tile_px, crop_scale=TILE_SCALE)
    for i, picture in enumerate(pictures):
        out[i] = crop_face(picture.read(), picture.box, spec)
    out.flush()
    del out
    partial.replace(cache)
    return np.load(cache, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]


def to_tensor(tiles: UInt8Array) -> Tensor:
    """uint8 (B, H, W, 3) to uint8 (B, 3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(tiles)).permute(0, 3, 1, 2).contiguous()


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
