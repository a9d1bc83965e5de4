"""From the network's raw outputs to detections, and from many overlapping detections to one per face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fasedge.faces._anchors import INPUT_PX
from fasedge.types import FloatArray

#: Raw scores are clipped to ± this before the sigmoid. Source: score_clipping_thresh of MediaPipe's face detector.
SCORE_CLIP = 100.0
#: Detections that overlap more than this belong to one face. Source: min_suppression_threshold of the same.
SAME_FACE_IOU = 0.3


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Detections in one coordinate system.

    Attributes:
        points: float32 (M, 8, 2): upper left corner, lower right corner, six key points; x and y.
        scores: float32 (M,), in [0, 1].
    """

    points: FloatArray
    scores: FloatArray

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> Detections:
        """Those of the index or mask."""
        return Detections(self.points[index], self.scores[index])


def concatenate(parts: list[Detections]) -> Detections:
    """All detections in one list, in order."""
    if not parts:
        return Detections(np.empty((0, 8, 2), np.float32), np.empty(0, np.float32))
    return Detections(np.concatenate([p.points for p in parts]), np.concatenate([p.scores for p in parts]))


def decode(raw_boxes: FloatArray, raw_scores: FloatArray, anchors: FloatArray, min_score: float) -> Detections:
    """Read the network's outputs for one picture.

    Args:
        raw_boxes: float32 (896, 16): centre x, y, width, height, then x, y of six key points; in pixels of the input,
            counted from the anchor.
        raw_scores: float32 (896,), before the sigmoid.
        anchors: float32 (896, 2) of :func:`fasedge.faces._anchors.anchor_centers`.
        min_score: Detections below this score are left out.

    Returns:
        Detections as fractions of the input's side, in the order of the anchors.
    """
    clipped = np.clip(raw_scores, -SCORE_CLIP, SCORE_CLIP)
    with np.errstate(over="ignore"):  # exp(100) exceeds float32; 1 / (1 + inf) is the wanted 0
        scores = (1 / (1 + np.exp(-clipped))).astype(np.float32)
    keep = (scores >= min_score) & (scores > 0)  # a score of 0 would leave nothing to weigh by
    relative = raw_boxes[keep].reshape(-1, 8, 2) / np.float32(INPUT_PX)
    centers, sizes = relative[:, 0] + anchors[keep], relative[:, 1]
    points = relative + anchors[keep][:, None]
    points[:, 0], points[:, 1] = centers - sizes / 2, centers + sizes / 2
    # A network that answers nonsense (NaN, negative sizes) has found nothing there.
    sound = np.isfinite(points).all(axis=(1, 2)) & (sizes > 0).all(axis=1)
    return Detections(points[sound].astype(np.float32), scores[keep][sound])


def overlaps(points: FloatArray, one: FloatArray) -> tuple[FloatArray, FloatArray]:
    """How much boxes overlap with one box.

    Args:
        points: float32 (M, 8, 2) as in :class:`Detections`.
        one: float32 (8, 2).

    Returns:
        Intersection over union, and intersection over the smaller of both areas; float32 (M,), each in [0, 1].
    """
    upper_left = np.maximum(points[:, 0], one[0])
    lower_right = np.minimum(points[:, 1], one[1])
    shared = np.prod(np.clip(lower_right - upper_left, 0, None), axis=1)
    areas = np.prod(points[:, 1] - points[:, 0], axis=1)
    area = np.prod(one[1] - one[0])
    return shared / (areas + area - shared), shared / np.minimum(areas, area)


def blend(found: Detections) -> Detections:
    """Make one detection of each group that overlaps: the mean of the group, weighted by score.

    The best detection opens a group and lends it its score; every remaining one with an intersection over union of
    more than :data:`SAME_FACE_IOU` joins.

    Returns:
        One detection per face, best score first.

    Source:
        Bazarevsky et al., BlazeFace (2019), section 4: blending instead of suppression, against jitter.
    """
    rest = found.take(np.argsort(-found.scores, kind="stable"))
    points, scores = [], []
    while len(rest):
        joins = overlaps(rest.points, rest.points[0])[0] > SAME_FACE_IOU
        joins[0] = True
        group = rest.take(joins)
        points.append(np.average(group.points, axis=0, weights=group.scores.astype(np.float64)))
        scores.append(group.scores[0])
        rest = rest.take(~joins)
    if not points:
        return concatenate([])
    return Detections(np.asarray(points, np.float32), np.asarray(scores, np.float32))
