"""How each method wants faces cut out of recordings: by the box, levelled, or with the eyes at fixed places.

Where a network sees more than the method's crop, the picture is larger than the crop by a margin on each side; beyond
the frame its edge is repeated, as :func:`fasedge.preprocess.crop_face` does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from fasedge.depth import measure_face_depth
from fasedge.geometry import crop_square
from fasedge.preprocess import InputSpec, crop_face
from fasedge.types import Face, Frame, UInt8Array, UInt16Array
from training.errors import ConfigError

#: Eyes nearer than this, in pixels, give no direction.
_MIN_EYE_DISTANCE_PX = 4.0
#: Most face boxes that a picture may show: beyond lies the room, and a slip such as 18 for 1.8 fills a disk.
WIDEST = 4.0
_Affine = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CropRule:
    """How faces are cut out for a method.

    Attributes:
        method: Whose rule it is.
        kind: ``box``: the square round the face box, as the detector on the device cuts it. ``level``: the same,
            turned until the eyes are level. ``eyes``: eyes at a quarter of the height and about a quarter and three
            quarters of the width.
        size_px: Side of the crop.
        scale: Side of the crop over the side of the face box, for ``box`` and ``level``.
        frames: Frames of each recording, evenly spread.
        min_face_px: Smaller faces are left out; by the shorter side of the box.
        depth: Whether the method needs depth.
        shown: Face boxes that the picture shows, at least ``scale``, for networks that see more than the crop; for
            ``eyes``, which have no box, sides of the crop. ``None``: the picture is the crop. The crop keeps its
            pixels: it lies in the middle of the picture, and what is round it is added.
    """

    method: str
    kind: Literal["box", "level", "eyes"]
    size_px: int
    scale: float
    frames: int
    min_face_px: float
    depth: bool = False
    shown: float | None = None

    def __post_init__(self) -> None:
        if self.size_px < 16 or self.frames < 1 or self.scale <= 0:
            raise ConfigError(f"a crop needs size_px >= 16, frames >= 1 and scale > 0, got {self!r}")
        if self.shown is not None and not self.scale <= self.shown <= WIDEST:
            raise ConfigError(
                f"pictures for {self.method} can show {self.scale:g} (its own crop) to {WIDEST:g} face boxes, got "
                f"{self.shown:g}"
            )

    @property
    def margin_px(self) -> int:
        """Pixels of the picture on each side of the crop."""
        if self.shown is None:
            return 0
        # Rounded up: what is promised is there. Less a little, for 224 * 1.5 must not become 338 by a last digit.
        return math.ceil((self.shown / self.scale - 1) * self.size_px / 2 - 1e-6)

    @property
    def picture_px(self) -> int:
        """Side of the picture."""
        return self.size_px + 2 * self.margin_px

    @property
    def counted(self) -> str:
        """Name of the rule for comparisons: sets under one name mean the same by the same ``crop_scale``."""
        return self.method if self.shown is None or self.scale == 1 else f"{self.method} in face boxes"

    @property
    def face_box(self) -> tuple[float, float, float, float]:
        """What a network's ``crop_scale`` counts in the picture, x1, y1, x2, y2 in pixels.

        The whole picture where that is the crop; else the face box, as the square that crops are made of.
        """
        if self.shown is None:
            return (0.0, 0.0, float(self.size_px), float(self.size_px))
        middle, half = self.picture_px / 2, self.size_px / self.scale / 2
        return (middle - half, middle - half, middle + half, middle + half)


def _rules() -> dict[str, CropRule]:
    box = CropRule("a-deeppixbis", "box", 224, 1.0, 20, 32)
    eyes = CropRule("deeppixbis", "eyes", 224, 1.0, 20, 32)
    cmfl = CropRule("cmfl", "eyes", 224, 1.0, 10, 50, depth=True)
    level = CropRule("rfmeta", "level", 256, 1.2, 25, 32)
    return {rule.method: rule for rule in (box, eyes, cmfl, level)}


#: Rules by method. Source: A-DeepPixBiS: box without alignment; DeepPixBiS and CMFL: released configurations; RFMeta:
#: "a normal alignment package, some background" in its author's words. The frames of A-DeepPixBiS are DeepPixBiS', and
#: smallest faces are ours where the papers name none.
RULES: Mapping[str, CropRule] = _rules()


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """A face, cut out.

    Attributes:
        picture: uint8 (P, P, 3), red first; P is the rule's ``picture_px``.
        depth_mm: uint16 (P, P), 0 where nothing returns, or ``None``.
        params: What was found: ``face_score``, ``face_px``, the face box in pixels of the crop (``face_x1``,
            ``face_y1``, ``face_x2``, ``face_y2``; may reach beyond it), and with depth ``depth_median_mm`` and
            ``depth_spread_mm`` of the face box before the cut (see :func:`fasedge.depth.measure_face_depth`); without
            these two the box shows no depth.
    """

    picture: UInt8Array
    depth_mm: UInt16Array | None
    params: dict[str, float | int | str]


def refusal(face: Face, rule: CropRule) -> str:
    """Why a face cannot be cut out by the rule; empty if it can."""
    if min(face.box.width, face.box.height) < rule.min_face_px:
        return "face_too_small"
    if rule.kind != "box" and _eyes(face) is None:
        return "no_eyes"
    return ""


def cut(frame: Frame, face: Face, rule: CropRule) -> Crop:
    """Cut a face out.

    Args:
        frame: The picture, with depth if the rule needs it.
        face: A face that :func:`refusal` lets pass.
        rule: How.

    Raises:
        ConfigError: The face has no eyes, but the rule needs them.
    """
    side = min(face.box.width, face.box.height)
    params: dict[str, float | int | str] = {"face_score": round(face.score, 4), "face_px": round(side, 1)}
    matrix = _transform(face, rule)
    params |= _place(face, matrix)
    if rule.kind == "box":
        picture = crop_face(frame.rgb, face.box, InputSpec(size_px=rule.picture_px, crop_scale=_reach(rule)))
    else:
        picture = _warp_colour(frame.rgb, matrix, rule.picture_px)
    if frame.depth_mm is None:
        return Crop(picture, None, params)
    measured = measure_face_depth(frame.depth_mm, face.box)
    if measured is not None:
        params |= {"depth_median_mm": measured.median_mm, "depth_spread_mm": measured.spread_mm}
    # Nearest neighbour: between a face and the wall behind it there is nothing.
    depth_mm = cv2.warpAffine(frame.depth_mm, matrix, (rule.picture_px, rule.picture_px), flags=cv2.INTER_NEAREST)
    return Crop(picture, np.asarray(depth_mm, np.uint16), params)


def _place(face: Face, matrix: _Affine) -> dict[str, float]:
    """The face box in the crop. Where the crop is turned its sides stay those of the box: the face turns with it."""
    x, y = (matrix[:, :2] @ (np.array(face.box.center) - 0.5) + matrix[:, 2] + 0.5).tolist()
    factor = math.hypot(matrix[0, 0], matrix[0, 1])
    half_w, half_h = factor * face.box.width / 2, factor * face.box.height / 2
    corners = {"face_x1": x - half_w, "face_y1": y - half_h, "face_x2": x + half_w, "face_y2": y + half_h}
    return {name: round(value, 2) for name, value in corners.items()}


def _eyes(face: Face) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Right and left eye of the subject, as places of pixel centres; ``None`` if unknown."""
    if face.key_points is None:
        return None
    right, left = face.key_points[0].astype(np.float64), face.key_points[1].astype(np.float64)
    if np.hypot(*(left - right)) < _MIN_EYE_DISTANCE_PX:
        return None
    return right - 0.5, left - 0.5


def _reach(rule: CropRule) -> float:
    """Side of the picture over the side of the face box, of whole pixels."""
    return rule.scale * rule.picture_px / rule.size_px if rule.margin_px else rule.scale


def _transform(face: Face, rule: CropRule) -> _Affine:
    """Affine matrix (2, 3) from places of pixel centres in the frame to those in the picture."""
    size = rule.size_px
    if rule.kind == "box":
        size, square = rule.picture_px, crop_square(face.box, _reach(rule))
        # Whole pixels, as crop_face takes them.
        x1, y1, factor = round(square.x1), round(square.y1), size / max(1, round(square.width))
        return np.array([[factor, 0, (0.5 - x1) * factor - 0.5], [0, factor, (0.5 - y1) * factor - 0.5]])
    eyes = _eyes(face)
    if eyes is None:
        raise ConfigError(f"the crop of {rule.method} needs both eyes, and this face has none")
    right, left = eyes
    across = left - right
    roll = math.atan2(across[1], across[0])
    if rule.kind == "eyes":
        # Source: alignment of DeepPixBiS and CMFL, in places of pixel centres.
        factor = (size + 1) / 2 / float(np.hypot(*across))
        center, target = (right + left) / 2, np.array([(size - 0.5) / 2, size / 4])
    else:
        factor = size / crop_square(face.box, rule.scale).width
        center, target = np.array(face.box.center) - 0.5, np.array([size / 2 - 0.5] * 2)
    turn = factor * np.array([[math.cos(roll), math.sin(roll)], [-math.sin(roll), math.cos(roll)]])
    return np.column_stack([turn, target + rule.margin_px - turn @ center])


def _warp_colour(rgb: UInt8Array, matrix: _Affine, size: int) -> UInt8Array:
    """Warp, averaging areas first where the picture shrinks, so that nothing aliases; edges are repeated."""
    factor = math.hypot(matrix[0, 0], matrix[0, 1])
    height, width = rgb.shape[:2]
    if factor < 1:
        small_w, small_h = max(1, round(width * factor)), max(1, round(height * factor))
        rgb = np.asarray(cv2.resize(rgb, (small_w, small_h), interpolation=cv2.INTER_AREA), np.uint8)
        scale = np.array([width / small_w, height / small_h])
        # A pixel centre x of the small picture lies at (x + 0.5) * scale - 0.5 of the large one.
        matrix = np.column_stack([matrix[:, :2] * scale, matrix[:, 2] + matrix[:, :2] @ (0.5 * scale - 0.5)])
    warped = cv2.warpAffine(rgb, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, np.uint8)
