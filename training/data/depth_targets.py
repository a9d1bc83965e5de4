"""Depth maps that networks learn to predict: a face's relief for bona fide presentations, zeros for attacks.

A map covers the network's crop with a few cells a side, 32 at 256 pixels. 1 is the nearest point of the face, 0 its
farthest point and everything that is not face. The published maps are renderings of PRNet; where those are not at hand,
a provider makes one from what a sample carries: landmarks with depth, the measurement of a depth camera, or no more
than the face box. A run record should name the providers (:attr:`DepthTargets.used`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from fasedge.geometry import crop_square
from fasedge.preprocess import InputSpec, crop_face
from fasedge.types import Box, FloatArray, Label, UInt8Array, UInt16Array
from training.data.samples import SampleSet
from training.data.simulate.mesh import Int32Array, rasterize
from training.data.table import SampleRow
from training.errors import ConfigError, DataError

ProviderName = Literal["rendered", "landmarks", "sensor", "ellipsoid", "mask"]

#: Cells are averages of this many samples a side.
_FINE = 4
#: Distance behind the nearest point of a face at which a sensor's map reaches 0: about from nose tip to ears.
REACH_MM = 130.0
#: Share of the face's pixels that may be nearer than what counts as its nearest point: flying pixels.
_NEAREST_QUANTILE = 0.01
#: A face is looked for inside this ellipse, over the one that the face box holds.
_MARGIN = 1.1


@dataclass(frozen=True, slots=True, eq=False)
class FaceGeometry:
    """What is known about the face of one sample; everything in pixels of the same picture.

    Attributes:
        box: Face box.
        square: The crop that the map has to cover, see :func:`crop_region`.
        landmarks: float32 (n, 3), x to the right, y down, z towards the camera in the same unit, or ``None``.
        depth_mm: uint16 (H, W) of the whole picture, 0 where nothing returns, or ``None``.
        rendered: uint8 (h, w) depth map that was rendered beforehand for this crop, 255 nearest, or ``None``.
    """

    box: Box
    square: Box
    landmarks: FloatArray | None = None
    depth_mm: UInt16Array | None = None
    rendered: UInt8Array | None = None


def crop_region(box: Box, spec: InputSpec) -> Box:
    """The square of the picture that :func:`fasedge.preprocess.crop_face` shows, rounded as there."""
    square = crop_square(box, spec.crop_scale)
    x1, y1, side = round(square.x1), round(square.y1), max(1, round(square.width))
    return Box(x1, y1, x1 + side, y1 + side)


def face_box(row: SampleRow) -> Box:
    """Where the face is in the picture of a sample.

    The box of a prepared recording is its whole picture, which is a crop already; where the face lies in it stands in
    ``params``, as :func:`training.data.align.cut` found it.
    """
    corners = [row.params.get(name) for name in ("face_x1", "face_y1", "face_x2", "face_y2")]
    found = [float(value) for value in corners if isinstance(value, int | float)]
    return Box(*(found if len(found) == len(corners) else row.box_xyxy))


def ellipsoid_map(box: Box, square: Box, side: int = 32) -> FloatArray:
    """Half an ellipsoid over the face box: z = √(1 − x² − y²).

    Args:
        box: Face box.
        square: What the map covers.
        side: Cells along one side.

    Returns:
        float32 (side, side) in [0, 1].

    Source: ours; the simplest relief that a face has.
    """
    x, y = _in_box(box, square, side)
    return _pooled(np.sqrt(np.clip(1.0 - x * x - y * y, 0.0, None)))


def mask_map(box: Box, square: Box, side: int = 32) -> FloatArray:
    """Ones over the ellipse in the face box; says where the face is and nothing about its relief.

    Returns:
        float32 (side, side) in [0, 1]; cells on the rim hold the share inside.

    Source: George & Marcel, "Deep Pixel-wise Binary Supervision for Face Presentation Attack Detection", ICB 2019, for
    supervising pixels by the label.
    """
    x, y = _in_box(box, square, side)
    return _pooled((x * x + y * y <= 1.0).astype(np.float64))


def landmark_map(landmarks: FloatArray, triangles: Int32Array, square: Box, side: int = 32) -> FloatArray:
    """The surface through landmarks, nearer parts hiding farther ones.

    Heights are scaled from the lowest to the highest landmark that has a triangle, so that cutting the face off at the
    edge of the crop does not change what is left.

    Args:
        landmarks: float32 (n, 3), pixels, z towards the camera.
        triangles: int32 (t, 3), landmark numbers.
        square: What the map covers.
        side: Cells along one side.

    Returns:
        float32 (side, side) in [0, 1].

    Raises:
        DataError: The shapes do not fit, values are not finite, or all landmarks have the same height.

    Source: Feng et al., "Joint 3D Face Reconstruction and Dense Alignment with Position Map Regression Network", ECCV
    2018: depth rendered from vertices over its maximum, background 0.
    """
    if landmarks.ndim != 2 or landmarks.shape[1] != 3 or triangles.ndim != 2 or triangles.shape[1] != 3:
        raise DataError(f"expected landmarks (n, 3) and triangles (t, 3), got {landmarks.shape} and {triangles.shape}")
    if not len(triangles) or triangles.min() < 0 or triangles.max() >= len(landmarks):
        raise DataError(f"expected triangles between the {len(landmarks)} landmarks, got none or other numbers")
    used = landmarks[np.unique(triangles)]
    if not np.isfinite(used).all():
        raise DataError("expected finite landmarks, got NaN or infinity; leave the sample to another provider")
    low, high = float(used[:, 2].min()), float(used[:, 2].max())
    if high <= low:
        raise DataError("expected landmarks with depth, got the same height everywhere; a flat face has no relief")
    xy = (landmarks[:, :2] - [square.x1, square.y1]) / [square.width, square.height] * 2.0 - 1.0
    height = ((landmarks[:, 2] - low) / (high - low)).astype(np.float32)
    seen, weights = rasterize(xy.astype(np.float32), height, triangles, side * _FINE)
    values = (height[triangles[seen]] * weights).sum(-1)
    return _pooled(np.where(seen >= 0, values, 0.0))


def relief_map(relief: NDArray[np.floating], side: int = 32) -> FloatArray:
    """A relief over the crop, scaled from its lowest to its highest place.

    Args:
        relief: (h, w) heights towards the camera in any unit, NaN where there is no face; both sides multiples of
            ``side``, or any size, which is then looked up at the nearest place.
        side: Cells along one side.

    Returns:
        float32 (side, side) in [0, 1].

    Raises:
        DataError: There is no face, or it is flat.
    """
    face = np.isfinite(relief)
    if relief.ndim != 2 or not face.any():
        raise DataError(f"expected a relief (h, w) with a face in it, got shape {relief.shape} without a finite height")
    values = np.where(face, relief, 0.0).astype(np.float64)
    low, high = float(values[face].min()), float(values[face].max())
    if high <= low:
        raise DataError("expected a relief, got the same height everywhere; a flat face has none")
    scaled = np.where(face, (values - low) / (high - low), 0.0)
    rows, columns = (_places(size, side) for size in scaled.shape)
    return _pooled(scaled[np.ix_(rows, columns)], side)


def sensor_map(depth_mm: UInt16Array, box: Box, square: Box, side: int = 32, reach_mm: float = REACH_MM) -> FloatArray:
    """What a depth camera measured: 1 at the nearest point of the face, 0 at ``reach_mm`` behind it.

    Cells average the samples that returned; cells without any, and everything outside the face's ellipse, are 0.

    Args:
        depth_mm: uint16 (H, W), 0 where nothing returns.
        box: Face box.
        square: What the map covers; may reach beyond the picture.
        side: Cells along one side.
        reach_mm: Depth of a face, millimetres.

    Returns:
        float32 (side, side) in [0, 1].

    Raises:
        DataError: The map is not uint16 (H, W), or nothing returns from the face.

    Source: ours.
    """
    if depth_mm.ndim != 2 or depth_mm.dtype != np.uint16:
        raise DataError(f"expected depth as uint16 (H, W), got {depth_mm.dtype} {depth_mm.shape}")
    x, y = _in_box(box, square, side)
    face = x * x + y * y <= _MARGIN**2
    u, v = (
        np.floor(start + (np.arange(side * _FINE) + 0.5) / (side * _FINE) * extent).astype(np.int64)
        for start, extent in ((square.x1, square.width), (square.y1, square.height))
    )
    height, width = depth_mm.shape
    inside = ((v >= 0) & (v < height))[:, None] & ((u >= 0) & (u < width))[None, :]
    measured = depth_mm[np.ix_(v.clip(0, height - 1), u.clip(0, width - 1))].astype(np.float64)
    returned = inside & (measured > 0)
    if not (face & returned).any():
        raise _NothingReturnsError(
            "expected a depth map in which the face returns something, got holes only; check the alignment"
        )
    near = float(np.quantile(measured[face & returned], _NEAREST_QUANTILE))
    relief = np.where(face & returned, np.clip(1.0 - (measured - near) / reach_mm, 0.0, 1.0), 0.0)
    # Outside the face nothing has to return: that is known to be 0.
    known = (returned | ~face).astype(np.float64)
    share = _pooled(known)
    return np.where(share > 0, _pooled(relief) / np.maximum(share, 1e-6), 0.0).astype(np.float32).clip(0.0, 1.0)


def rendered_map(grey: UInt8Array, side: int = 32) -> FloatArray:
    """A depth map that was rendered beforehand, such as PRNet's.

    Args:
        grey: uint8 (h, w) over the crop, 255 nearest, 0 background.
        side: Cells along one side.

    Returns:
        float32 (side, side) in [0, 1].

    Raises:
        DataError: It is not uint8 (h, w).

    Source: RFMeta's released code: 8-bit pictures over 255, resized by bicubic interpolation.
    """
    if grey.ndim != 2 or grey.dtype != np.uint8:
        raise DataError(f"expected a rendered depth map as uint8 (h, w), got {grey.dtype} {grey.shape}")
    small = cv2.resize(grey.astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(small / np.float32(255.0), 0.0, 1.0), np.float32)


class _NothingReturnsError(DataError):
    """A depth map without a single return from the face."""


class DepthProvider(Protocol):
    """Makes the map of a bona fide presentation from what is known about its face."""

    def __call__(self, face: FaceGeometry, side: int) -> FloatArray | None:
        """The map, float32 (side, side) in [0, 1], or ``None`` where the sample lacks what it takes."""
        ...


class DepthTargets:
    """Depth maps for samples, by the first provider that can make one.

    Args:
        side: Cells along one side: the side of the network's depth map.
        providers: Names in order of preference. ``ellipsoid`` and ``mask`` can always make a map.
        triangles: int32 (t, 3) between landmarks, such as those of
            :class:`training.data.simulate.mesh.FaceMeshes`; ``landmarks`` needs them.

    Attributes:
        used: How many maps each provider has made so far.

    Raises:
        ConfigError: A name is unknown, there is none, triangles are missing, or the side is not positive.
    """

    def __init__(
        self,
        side: int = 32,
        providers: Sequence[ProviderName] = ("rendered", "sensor", "ellipsoid"),
        triangles: Int32Array | None = None,
    ) -> None:
        known = _providers(triangles)
        unknown = [name for name in providers if name not in known]
        if unknown or not providers:
            raise ConfigError(f"expected depth providers out of {', '.join(sorted(known))}, got {list(providers)}")
        if "landmarks" in providers and triangles is None:
            raise ConfigError("the depth provider 'landmarks' needs the triangles between them; pass triangles")
        if side < 1:
            raise ConfigError(f"expected depth maps of at least one cell a side, got {side}")
        self._side = side
        self._providers = {name: known[name] for name in providers}
        self.used: Counter[str] = Counter()

    @property
    def names(self) -> tuple[ProviderName, ...]:
        """The providers, in order of preference."""
        return tuple(self._providers)

    @property
    def measured(self) -> bool:
        """Whether they look at the depth that a camera has measured."""
        return "sensor" in self._providers

    def target(self, face: FaceGeometry, label: int) -> FloatArray:
        """The map of one sample.

        Args:
            face: What is known about it.
            label: 1 = bona fide, 0 = attack.

        Returns:
            float32 (side, side) in [0, 1]; zeros for attacks.

        Raises:
            DataError: No provider can make a map, or the sample's geometry is damaged.
        """
        if label == Label.ATTACK:
            return np.zeros((self._side, self._side), np.float32)
        for name, provider in self._providers.items():
            made = provider(face, self._side)
            if made is not None:
                self.used[name] += 1
                return made
        raise DataError(
            f"none of the depth providers {', '.join(self._providers)} has what it needs for a sample; add 'ellipsoid'"
        )

    def batch(
        self, samples: SampleSet, indices: Sequence[int], spec: InputSpec, boxes: Sequence[Box] | None = None
    ) -> FloatArray:
        """The maps of samples of a set, from their depth where the set has any.

        Args:
            samples: The set.
            indices: Samples by position.
            spec: Size and scale of the crops that the maps have to fit.
            boxes: Boxes that the crops are cut by, where these are not the table's own (jitter).

        Returns:
            float32 (n, side, side) in [0, 1].

        Raises:
            DataError: There is not one box per sample, or no provider can make a map.
        """
        if self.names[0] == "rendered" and not self.measured and not samples.has_rendered:
            raise DataError("depth_target is 'rendered', but the set has no folder 'relief'; see training.data.relief")
        if self.measured and samples.has_depth and not samples.has_distances:
            raise DataError(
                "depth_target is 'sensor', but the set's depth is normalised over each face: it has no unit"
            )
        chosen = [Box(*samples.table[i].box_xyxy) for i in indices] if boxes is None else list(boxes)
        if len(chosen) != len(indices):
            raise DataError(f"expected one box for each of {len(indices)} samples, got {len(chosen)}")
        out = np.zeros((len(indices), self._side, self._side), np.float32)
        for place, (index, box) in enumerate(zip(indices, chosen, strict=True)):
            row = samples.table[index]
            if row.label != Label.ATTACK:
                depth_mm = samples.depth_mm(index) if samples.has_depth and self.measured else None
                rendered = _cut(samples.rendered(index), box, spec) if "rendered" in self._providers else None
                # The face lies where the table says, whatever box the crop is cut by.
                face = FaceGeometry(face_box(row), crop_region(box, spec), depth_mm=depth_mm, rendered=rendered)
                out[place] = self.target(face, row.label)
        return out


def _cut(whole: UInt8Array | None, box: Box, spec: InputSpec) -> UInt8Array | None:
    """The part of a rendered map that a crop shows."""
    return (
        None
        if whole is None
        else np.ascontiguousarray(crop_face(np.repeat(whole[..., None], 3, axis=2), box, spec)[..., 0])
    )


def _providers(triangles: Int32Array | None) -> Mapping[str, DepthProvider]:
    def rendered(face: FaceGeometry, side: int) -> FloatArray | None:
        return None if face.rendered is None else rendered_map(face.rendered, side)

    def landmarks(face: FaceGeometry, side: int) -> FloatArray | None:
        if face.landmarks is None or triangles is None:
            return None
        return landmark_map(face.landmarks, triangles, face.square, side)

    def sensor(face: FaceGeometry, side: int) -> FloatArray | None:
        if face.depth_mm is None:
            return None
        try:
            return sensor_map(face.depth_mm, face.box, face.square, side)
        except _NothingReturnsError:
            return None  # one bad measurement must not end a training run; ``used`` shows how many there are

    def ellipsoid(face: FaceGeometry, side: int) -> FloatArray:
        return ellipsoid_map(face.box, face.square, side)

    def mask(face: FaceGeometry, side: int) -> FloatArray:
        return mask_map(face.box, face.square, side)

    return {"rendered": rendered, "landmarks": landmarks, "sensor": sensor, "ellipsoid": ellipsoid, "mask": mask}


def _in_box(box: Box, square: Box, side: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Samples of the square in units of the box's half sides, its centre 0: x and y (side · 4, side · 4)."""
    places = (np.arange(side * _FINE) + 0.5) / (side * _FINE)
    (cx, cy), half = box.center, (box.width / 2.0, box.height / 2.0)
    x = (square.x1 + places * square.width - cx) / half[0]
    y = (square.y1 + places * square.height - cy) / half[1]
    grid_x, grid_y = np.meshgrid(x, y)
    return grid_x, grid_y


def _places(size: int, side: int) -> NDArray[np.int64]:
    """Which of ``size`` pixels show the samples of ``side`` cells; exact averages where they divide."""
    fine = size if size % side == 0 else side * max(_FINE, math.ceil(size / side))
    return np.floor((np.arange(fine) + 0.5) / fine * size).astype(np.int64)


def _pooled(values: NDArray[np.float64], side: int | None = None) -> FloatArray:
    """Average blocks of samples into cells, float32."""
    rows, columns = values.shape
    cells = (rows // _FINE, columns // _FINE) if side is None else (side, side)
    blocks = values.reshape(cells[0], rows // cells[0], cells[1], columns // cells[1])
    return np.asarray(blocks.mean(axis=(1, 3)), np.float32)
