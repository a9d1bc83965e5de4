"""BlazeFace through fasedge's own engines."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

import numpy as np

from fasedge.backends._base import Backend
from fasedge.errors import EngineError
from fasedge.faces._anchors import anchor_centers
from fasedge.faces._checks import check_min_score, check_rgb
from fasedge.faces._detections import Detections, blend, concatenate, decode, overlaps
from fasedge.faces._windows import Window, drop_cut, sample, tiles, to_picture, whole
from fasedge.types import Box, Face, FloatArray, TensorNames, UInt8Array

#: How the network files call what :class:`BlazeFaceFinder` calls ``picture``, ``boxes`` and ``scores``.
BLAZEFACE_NAMES = TensorNames(inputs={"picture": "input"}, outputs={"boxes": "regressors", "scores": "classificators"})

#: Faces of at least this part of a window's side are found reliably; smaller ones often are not.
RELIABLE_FACE = 0.2
#: Sides of the tiles of the finer passes, as parts of the longer side of the picture.
ZOOM_LEVELS = (1 / 2, 1 / 4)
#: No closer look for faces smaller than this; the default quality limits refuse them as too small to judge.
SMALLEST_FACE_PX = 64
#: Score that a face needs when only tiles show it. Measured by ``benchmarks/face_finders.py``: tiles of empty rooms
#: give many false faces with scores up to 0.75, while small true faces lie above in nearly all cases.
MIN_TILE_SCORE = 0.75
#: A detection of a tile that lies to this part in a known face, or the other way round, is that face or a part of it.
SAME_FACE_CONTAINED = 0.5


class BlazeFaceFinder:
    """Finds faces with BlazeFace (short range) in any engine of :mod:`fasedge.backends`.

    The first pass looks at the whole picture and reproduces MediaPipe's face detector: same sampling, same blending.
    It finds faces from about a fifth of the picture's longer side. With ``zoom``, and as long as the largest face
    found is smaller than that, overlapping tiles of a half and then a quarter of the side follow, each pass in one
    batched call. They only add faces; what the first pass found stays as it is.

    Not safe for use by several threads at once.

    Args:
        backend: The opened network; owned by the finder from now on.
        min_score: Faces below this confidence are left out, in [0, 1].
        zoom: Look at tiles too when the picture shows no large face.

    Raises:
        InputError: ``min_score`` does not lie in [0, 1].
    """

    def __init__(self, backend: Backend, *, min_score: float = 0.5, zoom: bool = True) -> None:
        check_min_score(min_score)
        self._backend: Backend | None = backend
        self._name = f"blazeface({backend.info.engine})"
        self._min_score = min_score
        self._zoom = zoom
        self._anchors = anchor_centers()

    @property
    def name(self) -> str:
        """``blazeface(<engine>)``."""
        return self._name

    def find(self, rgb: UInt8Array) -> tuple[Face, ...]:
        """Find every face.

        Args:
            rgb: uint8 (H, W, 3), red first.

        Returns:
            The faces, largest box first; empty when there is none.

        Raises:
            EngineError: The engine failed, or the finder was closed.
            FrameError: ``rgb`` has the wrong shape or type.
        """
        check_rgb(rgb)
        rgb = np.ascontiguousarray(rgb)
        height, width = rgb.shape[:2]
        found = self._look(rgb, (whole(width, height),), self._min_score)
        if self._zoom:
            found = self._zoom_in(rgb, found)
        return to_faces(found)

    def close(self) -> None:
        """Close the engine. Idempotent."""
        if self._backend is not None:
            self._backend.close()
            self._backend = None

    def __enter__(self) -> BlazeFaceFinder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _zoom_in(self, rgb: UInt8Array, found: Detections) -> Detections:
        height, width = rgb.shape[:2]
        side = float(max(width, height))
        for level in ZOOM_LEVELS:
            if RELIABLE_FACE * side <= max(SMALLEST_FACE_PX, _largest_side(found)):
                break
            side = level * max(width, height)
            more = self._look(rgb, tiles(width, height, side), max(self._min_score, MIN_TILE_SCORE))
            found = _merge(found, more)
        return found

    def _look(self, rgb: UInt8Array, windows: Sequence[Window], min_score: float) -> Detections:
        """Run the network on windows; return blended detections in pixels of the picture."""
        height, width = rgb.shape[:2]
        boxes, scores = self._infer(sample(rgb, windows))
        parts = []
        for window, raw_boxes, raw_scores in zip(windows, boxes, scores, strict=True):
            blended = blend(decode(raw_boxes, raw_scores, self._anchors, min_score))
            parts.append(drop_cut(to_picture(blended, window), window, width, height))
        return concatenate(parts)

    def _infer(self, batch: FloatArray) -> tuple[FloatArray, FloatArray]:
        if self._backend is None:
            raise EngineError(f"{self._name} was closed; open a new finder")
        outputs = self._backend.infer({"picture": batch})
        count, anchors = len(batch), len(self._anchors)
        boxes, scores = (np.asarray(outputs[key], np.float32) for key in ("boxes", "scores"))
        if boxes.shape != (count, anchors, 16) or scores.size != count * anchors:
            raise EngineError(
                f"{self._name} expected boxes {(count, anchors, 16)} and scores {(count, anchors)}, "
                f"got {boxes.shape} and {scores.shape}"
            )
        return boxes, scores.reshape(count, anchors)


def _largest_side(found: Detections) -> float:
    return float((found.points[:, 1] - found.points[:, 0]).max(initial=0.0))


def _merge(known: Detections, more: Detections) -> Detections:
    """Add detections of tiles to the known ones, best score first, unless they show a face that is known."""
    for i in np.argsort(-more.scores, kind="stable"):
        iou, contained = overlaps(known.points, more.points[i])
        if not ((iou > 0.3) | (contained > SAME_FACE_CONTAINED)).any():
            known = concatenate([known, more.take(np.array([i]))])
    return known


def to_faces(found: Detections) -> tuple[Face, ...]:
    """Detections in pixels as faces, largest box first."""
    faces = []
    for points, score in zip(found.points, found.scores, strict=True):
        (x1, y1), (x2, y2) = points[:2].tolist()
        if x2 > x1 and y2 > y1:  # a face far out may shrink to nothing in float32
            faces.append(Face(Box(x1, y1, x2, y2), score=float(score), key_points=points[2:].copy()))
    return tuple(sorted(faces, key=lambda face: -face.box.area))
