"""Face meshes: from the pack's landmarks to dense maps of height and of place on the face, made once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.lib.format import header_data_from_array_1_0, write_array_header_1_0
from numpy.typing import NDArray
from torch import Tensor

from fasedge.geometry import crop_square
from fasedge.types import FloatArray
from training.data.manifest import FacePicture
from training.data.simulate.cache import cached
from training.data.simulate.scene import TILE_SCALE
from training.errors import DataError

#: Landmarks of a picture: 468 of the mesh, then five of each iris.
N_LANDMARKS, N_MESH = 478, 468
#: Sides of the maps: over a tile, and over the canonical face.
RELIEF_PX, CANONICAL_PX = 160, 96
#: How far the canonical face reaches along its longer side; less than 1, so that no grid point next to it is lost.
_CANONICAL_EXTENT = 0.98
#: Number of fractional bits that OpenCV keeps of a corner when it fills a triangle.
_SHIFT = 4
#: Raised when the maps are worked out in another way: older caches are then made anew.
_VERSION = 1

Float16Array = NDArray[np.float16]
Int32Array = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class MeshBatch:
    """Meshes of some pictures, float32 tensors; NaN where there is no face.

    Attributes:
        landmarks: (B, 478, 3) in tile units, z towards the camera.
        relief: (B, 1, 160, 160), height towards the camera in tile units.
        uv: (B, 160, 160, 2), canonical face coordinates, x first.
        position: (B, 96, 96, 2), tile position of each canonical grid point, x first.
    """

    landmarks: Tensor
    relief: Tensor
    uv: Tensor
    position: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class FaceMeshes:
    """Meshes of a list of pictures; pictures without landmarks hold NaN only.

    The face of picture ``a`` is put onto that of ``b`` by two look-ups: ``uv`` of ``b`` says which canonical point
    each tile position of ``b`` shows, ``position`` of ``a`` where that point lies in the tile of ``a``.

    Attributes:
        landmarks: float32 (n, 478, 3) in tile units ([-1, 1] over the tile), x to the right, y down, z towards the
            camera, 0 about at the middle of the head.
        relief: float16 (n, 160, 160), height of the mesh towards the camera over the tile's pixels, tile units; NaN
            outside the face.
        uv: float16 (n, 160, 160, 2), canonical coordinates in [-1, 1], NaN outside the face.
        position: float16 (n, 96, 96, 2), tile position of each canonical grid point, NaN where the canonical face has
            none. Parts that a turned head hides have a position too.
        canonical: float32 (468, 2), canonical coordinates of the landmarks: the mean frontal face of these
            pictures.
        triangles: int32 (t, 3), landmark numbers of the triangles between them.
    """

    landmarks: FloatArray
    relief: Float16Array
    uv: Float16Array
    position: Float16Array
    canonical: FloatArray
    triangles: Int32Array

    def __len__(self) -> int:
        return len(self.landmarks)

    def __getitem__(self, pictures: Sequence[int]) -> MeshBatch:
        """Meshes of the pictures with these numbers, in this order, on the device that is torch's default."""
        chosen = np.asarray(pictures, np.int64).reshape(-1)

        def tensor(values: NDArray[Any]) -> Tensor:
            return torch.from_numpy(np.asarray(values[chosen], np.float32)).to(torch.get_default_device())

        return MeshBatch(
            tensor(self.landmarks), tensor(self.relief).unsqueeze(1), tensor(self.uv), tensor(self.position)
        )

    @property
    def available(self) -> NDArray[np.bool_]:
        """Which pictures have a mesh, bool (n,)."""
        return np.isfinite(self.landmarks[:, 0, 0])


def build_meshes(data: Path, pictures: Sequence[FacePicture], cache: Path) -> FaceMeshes:
    """Work the meshes of pictures out, once; later calls map the file that the first one wrote.

    Args:
        data: Folder of the face pack, with ``landmarks/<folder>.npz`` for ``faces/<folder>``. Pictures that none of
            them lists get NaN.
        pictures: The pictures, in the order of the meshes.
        cache: ``.npy`` file to write or map: the fields of :class:`FaceMeshes` one after another, then a digest of what
            they are made from.

    Raises:
        DataError: A file of landmarks is damaged, or holds landmarks of another shape.
        OSError: The file cannot be written.
    """
    names = [f.name for f in fields(FaceMeshes)]

    def make(path: Path) -> None:
        made = _make(read_landmarks(data, pictures))
        with path.open("wb") as file:
            for name in names:
                values = np.ascontiguousarray(getattr(made, name))
                write_array_header_1_0(file, header_data_from_array_1_0(values))
                # Not by NumPy, which does not say why a disk refuses.
                file.write(values.data)

    return FaceMeshes(*cached(cache, _key(data, pictures), len(names), make))


def read_landmarks(data: Path, pictures: Sequence[FacePicture]) -> FloatArray:
    """Landmarks of pictures in tile units.

    Args:
        data: Folder of the face pack.
        pictures: The pictures.

    Returns:
        float32 (n, 478, 3), z towards the camera; NaN where the pack has none.

    Raises:
        DataError: A file is damaged, or holds landmarks of another shape.
    """
    out = np.full((len(pictures), N_LANDMARKS, 3), np.nan, np.float32)
    by_file: dict[Path, list[int]] = {}
    for i, picture in enumerate(pictures):
        by_file.setdefault(_landmark_file(data, picture), []).append(i)
    for path, numbers in by_file.items():
        if not path.is_file():
            continue
        try:
            with np.load(path, allow_pickle=False) as stored:
                known = set(stored.files)
                for i in (i for i in numbers if pictures[i].key in known):
                    out[i] = _to_tile(stored[pictures[i].key], pictures[i], path)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path}: cannot be read as landmarks ({error}); restore the file") from error
    return out


def _to_tile(landmarks: NDArray[Any], picture: FacePicture, path: Path) -> FloatArray:
    if landmarks.shape != (N_LANDMARKS, 3):
        raise DataError(f"{path}: {picture.key} has landmarks {landmarks.shape}, expected ({N_LANDMARKS}, 3)")
    # Rounded as crop_face does, so that landmarks lie where the tile shows them.
    square = crop_square(picture.box, TILE_SCALE)
    x1, y1, side = round(square.x1), round(square.y1), max(1, round(square.width))
    values = np.asarray(landmarks, np.float32)
    xy = (values[:, :2] - np.array([x1, y1], np.float32)) / side * 2 - 1
    return np.concatenate([xy, -values[:, 2:] / side * 2], 1).astype(np.float32)


def _landmark_file(data: Path, picture: FacePicture) -> Path:
    return data / "landmarks" / f"{Path(picture.key).parent.name}.npz"


def _key(data: Path, pictures: Sequence[FacePicture]) -> str:
    """Digest of everything that meshes depend on."""
    lines = [f"{_VERSION} {TILE_SCALE} {RELIEF_PX} {CANONICAL_PX}"]
    lines += [f"{p.key} {p.sha256} {p.box.xyxy}" for p in pictures]
    for path in sorted({_landmark_file(data, p) for p in pictures}):
        lines.append(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _make(landmarks: FloatArray) -> FaceMeshes:
    n = len(landmarks)
    relief = np.full((n, RELIEF_PX, RELIEF_PX), np.nan, np.float16)
    uv = np.full((n, RELIEF_PX, RELIEF_PX, 2), np.nan, np.float16)
    position = np.full((n, CANONICAL_PX, CANONICAL_PX, 2), np.nan, np.float16)
    there = np.flatnonzero(np.isfinite(landmarks).all((1, 2)))
    if not len(there):
        nothing = np.full((N_MESH, 2), np.nan, np.float32)
        return FaceMeshes(landmarks, relief, uv, position, nothing, np.zeros((0, 3), np.int32))
    canonical = _canonical(landmarks[there, :N_MESH])
    triangles = _triangulate(canonical)
    chosen, weights = rasterize(canonical, np.zeros(N_MESH, np.float32), triangles, CANONICAL_PX)
    inside = chosen >= 0
    for i in there:
        xy = landmarks[i, :N_MESH, :2]
        position[i][inside] = _blend(xy, triangles, chosen[inside], weights[inside])
    height_and_uv = np.empty((N_MESH, 3), np.float32)
    for i in there:
        xyz = landmarks[i, :N_MESH]
        seen, share = rasterize(xyz[:, :2], xyz[:, 2], triangles, RELIEF_PX)
        face = seen >= 0
        height_and_uv[:, 0], height_and_uv[:, 1:] = xyz[:, 2], canonical
        values = _blend(height_and_uv, triangles, seen[face], share[face])
        relief[i][face], uv[i][face] = values[:, 0], values[:, 1:]
    return FaceMeshes(landmarks, relief, uv, position, canonical, triangles)


def _canonical(faces: FloatArray) -> FloatArray:
    """Mean frontal face (468, 2) in [-1, 1] of landmarks (n, 468, 3) in tile units.

    Faces are turned onto their mean in space, which is then made frontal and upright.
    """
    shapes = faces - faces.mean(1, keepdims=True)
    shapes = shapes / np.sqrt((shapes**2).sum((1, 2), keepdims=True))
    mean = shapes[0]
    for _ in range(3):
        shapes = np.stack([_turn(shape, mean) for shape in shapes])
        mean = shapes.mean(0)
        mean = mean / np.sqrt((mean**2).sum())
    frontal = mean @ _upright(mean).T
    xy = frontal[:, :2] - (frontal[:, :2].max(0) + frontal[:, :2].min(0)) / 2
    return np.asarray(xy / np.abs(xy).max() * _CANONICAL_EXTENT, np.float32)


def _turn(shape: FloatArray, onto: FloatArray) -> FloatArray:
    """Rotate a centred shape (n, 3) onto another. Source: Kabsch 1976."""
    u, _, vt = np.linalg.svd(shape.T @ onto)
    u[:, -1] *= np.sign(np.linalg.det(u @ vt))
    return np.asarray(shape @ (u @ vt), np.float32)


def _upright(mean: FloatArray) -> FloatArray:
    """Rotation (3, 3) that makes a face frontal: x along the eyes, y from forehead to chin, z towards the camera."""
    # Outer eye corners, and the middle of the forehead's rim and of the chin.
    right, left, top, bottom = (mean[i].astype(np.float64) for i in (33, 263, 10, 152))
    x = (left - right) / np.linalg.norm(left - right)
    y = (bottom - top) - np.dot(bottom - top, x) * x
    y = y / np.linalg.norm(y)
    return np.asarray(np.stack([x, y, np.cross(x, y)]), np.float32)


def _triangulate(points: FloatArray) -> Int32Array:
    """Delaunay triangles (t, 3) of points (n, 2) in [-1, 1]."""
    # Far from the unit's size, OpenCV's fixed tolerance cannot take neighbours for one point.
    scaled = np.round((points + 1) * 1000, 2).astype(np.float32)
    number = {tuple(point): i for i, point in enumerate(scaled.tolist())}
    subdivision = cv2.Subdiv2D((-10, -10, 2020, 2020))
    subdivision.insert(scaled.tolist())
    corners = np.asarray(subdivision.getTriangleList(), np.float32).reshape(-1, 3, 2).tolist()
    # Triangles with a corner that is not a landmark lie outside the hull.
    inside = [t for t in ([number.get(tuple(c)) for c in triangle] for triangle in corners) if None not in t]
    return np.array(inside, np.int32).reshape(-1, 3)


def rasterize(xy: FloatArray, height: FloatArray, triangles: Int32Array, size: int) -> tuple[Int32Array, FloatArray]:
    """Find the triangle that each pixel of a square shows; nearer ones hide farther ones.

    Args:
        xy: float32 (n, 2), corners in [-1, 1] over the square.
        height: float32 (n,), towards the camera.
        triangles: int32 (t, 3).
        size: Side of the square in pixels.

    Returns:
        int32 (size, size), the triangle's number or -1; float32 (size, size, 3), weights of its corners at the pixel's
        centre, each in [0, 1], their sum 1.
    """
    corners = xy[triangles]
    seen = np.full((size, size), -1, np.int32)
    # OpenCV counts from pixel centres.
    fixed = np.round(((corners + 1) * (size / 2) - 0.5) * (1 << _SHIFT)).astype(np.int32)
    for number in np.argsort(height[triangles].sum(1), kind="stable").tolist():
        cv2.fillConvexPoly(seen, fixed[number], number, cv2.LINE_8, _SHIFT)
    weights = np.zeros((size, size, 3), np.float32)
    y, x = np.nonzero(seen >= 0)
    a, b, c = np.moveaxis(corners[seen[y, x]].astype(np.float64), 1, 0)
    p = (np.stack([x, y], 1) + 0.5) / size * 2 - 1
    area = _cross(b - a, c - a)
    area = np.where(np.abs(area) < 1e-12, 1e-12, area)
    share = np.stack([_cross(b - p, c - p), _cross(c - p, a - p), _cross(a - p, b - p)], 1) / area[:, None]
    # OpenCV also fills pixels whose centre lies just outside.
    share = share.clip(0, 1)
    weights[y, x] = share / share.sum(1, keepdims=True).clip(1e-6)
    return seen, weights


def _cross(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0], np.float64)


def _blend(values: FloatArray, triangles: Int32Array, chosen: Int32Array, weights: FloatArray) -> FloatArray:
    """Values (n, k) of the corners mixed with the weights (m, 3) inside the chosen triangles (m,): (m, k)."""
    return np.asarray(np.einsum("mck,mc->mk", values[triangles[chosen]], weights), np.float32)
