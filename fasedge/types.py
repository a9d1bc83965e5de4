"""The values that travel through fasedge: frames, faces, results.

All of them are immutable. Coordinates are in pixels of the frame, x to the right, y down, the origin at the upper
left corner of the upper left pixel. Lengths carry their unit in the name.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fasedge.errors import FrameError, InputError

UInt8Array: TypeAlias = NDArray[np.uint8]
UInt16Array: TypeAlias = NDArray[np.uint16]
FloatArray: TypeAlias = NDArray[np.float32]

#: No frame side may exceed this; it is what guards against decompression bombs.
MAX_SIDE_PX = 16384


class Label(enum.IntEnum):
    """Ground truth of a presentation (ISO/IEC 30107-3)."""

    ATTACK = 0
    BONA_FIDE = 1


class Decision(enum.StrEnum):
    """What the detector decided about one face.

    ``NON_RESPONSE`` means *not checked*: it is neither a pass nor an accusation, and the reasons say why.
    """

    BONA_FIDE = "bona_fide"
    ATTACK = "attack"
    NON_RESPONSE = "non_response"


class Reason(enum.StrEnum):
    """Machine-readable reasons beside a decision."""

    NO_FACE = "no_face"
    UNUSABLE_IMAGE = "unusable_image"
    FACE_TOO_SMALL = "face_too_small"
    FACE_BLURRED = "face_blurred"
    FACE_TOO_DARK = "face_too_dark"
    FACE_OVER_EXPOSED = "face_over_exposed"
    FACE_CUT_BY_FRAME = "face_cut_by_frame"
    EXTREME_POSE = "extreme_pose"
    DEPTH_MISSING = "depth_missing"
    ENGINE_FAULT = "engine_fault"
    SCORE_BELOW_THRESHOLD = "score_below_threshold"


def _frozen(array: NDArray[np.generic]) -> None:
    array.flags.writeable = False


@dataclass(frozen=True, slots=True)
class Intrinsics:
    """Pinhole camera of the colour image.

    Attributes:
        fx: Focal length along x in pixels.
        fy: Focal length along y in pixels.
        cx: Principal point, x in pixels.
        cy: Principal point, y in pixels.
    """

    fx: float
    fy: float
    cx: float
    cy: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(v) for v in (self.fx, self.fy, self.cx, self.cy)) or min(self.fx, self.fy) <= 0:
            raise InputError(f"intrinsics need finite values and positive focal lengths, got {self!r}")


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture of a camera: colour, and depth where the camera has it.

    Attributes:
        rgb: uint8 (H, W, 3), red first. Kept as a read-only view.
        depth_mm: uint16 (H, W) in millimetres, aligned to ``rgb``; 0 means no return. ``None`` without a depth camera.
        timestamp_s: Time of capture in seconds on the source's clock; 0 for still pictures.
        intrinsics: Camera of the colour image, if known.
        name: Where the frame came from (a file name, ``webcam:0``), for reports only.

    Raises:
        FrameError: Wrong dtype, shape or size; depth of another size than colour.
    """

    rgb: UInt8Array
    depth_mm: UInt16Array | None = None
    timestamp_s: float = 0.0
    intrinsics: Intrinsics | None = None
    name: str = ""

    def __post_init__(self) -> None:
        rgb = self.rgb
        if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
            raise FrameError(f"a frame needs rgb as uint8 (H, W, 3), got {_describe(rgb)}")
        if min(rgb.shape[:2]) < 1 or max(rgb.shape[:2]) > MAX_SIDE_PX:
            raise FrameError(f"a frame's sides must lie in 1..{MAX_SIDE_PX} px, got {rgb.shape[1]}x{rgb.shape[0]}")
        rgb = rgb.view()
        _frozen(rgb)
        object.__setattr__(self, "rgb", rgb)
        depth = self.depth_mm
        if depth is not None:
            if not isinstance(depth, np.ndarray) or depth.dtype != np.uint16 or depth.ndim != 2:
                raise FrameError(f"depth_mm needs uint16 (H, W) in millimetres, got {_describe(depth)}")
            if depth.shape != rgb.shape[:2]:
                raise FrameError(
                    f"depth_mm must be aligned to rgb: rgb is {rgb.shape[1]}x{rgb.shape[0]}, "
                    f"depth is {depth.shape[1]}x{depth.shape[0]}"
                )
            depth = depth.view()
            _frozen(depth)
            object.__setattr__(self, "depth_mm", depth)

    @classmethod
    def from_bgr(
        cls,
        bgr: UInt8Array,
        *,
        depth_mm: UInt16Array | None = None,
        timestamp_s: float = 0.0,
        intrinsics: Intrinsics | None = None,
        name: str = "",
    ) -> Frame:
        """Make a frame from an OpenCV picture. The only door through which blue-first arrays come in.

        Args:
            bgr: uint8 (H, W, 3), blue first, as ``cv2.imread`` returns it.
            depth_mm: See :class:`Frame`.
            timestamp_s: See :class:`Frame`.
            intrinsics: See :class:`Frame`.
            name: See :class:`Frame`.

        Raises:
            FrameError: As for :class:`Frame`.
        """
        if not isinstance(bgr, np.ndarray) or bgr.dtype != np.uint8 or bgr.ndim != 3 or bgr.shape[2] != 3:
            raise FrameError(f"from_bgr needs uint8 (H, W, 3), got {_describe(bgr)}")
        rgb = np.ascontiguousarray(bgr[..., ::-1])
        return cls(rgb=rgb, depth_mm=depth_mm, timestamp_s=timestamp_s, intrinsics=intrinsics, name=name)

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.rgb.shape[1])

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.rgb.shape[0])


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return type(value).__name__


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-parallel box in pixels; may reach beyond the frame.

    Attributes:
        x1: Left edge.
        y1: Upper edge.
        x2: Right edge, > ``x1``.
        y2: Lower edge, > ``y1``.
    """

    x1: float
    y1: float
    x2: float
    y2: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(v) for v in self.xyxy) or self.x2 <= self.x1 or self.y2 <= self.y1:
            raise InputError(f"a box needs finite x1 < x2 and y1 < y2, got {self.xyxy}")

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        """``(x1, y1, x2, y2)``."""
        return (self.x1, self.y1, self.x2, self.y2)

    @property
    def width(self) -> float:
        """Width in pixels."""
        return self.x2 - self.x1

    @property
    def height(self) -> float:
        """Height in pixels."""
        return self.y2 - self.y1

    @property
    def center(self) -> tuple[float, float]:
        """Centre ``(x, y)``."""
        return ((self.x1 + self.x2) / 2, (self.y1 + self.y2) / 2)

    @property
    def area(self) -> float:
        """Area in square pixels."""
        return self.width * self.height


#: Names of the six key points of BlazeFace, in their order; right and left are the subject's own.
KEY_POINT_NAMES = ("right_eye", "left_eye", "nose_tip", "mouth_center", "right_ear", "left_ear")


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One detected face.

    Attributes:
        box: Face box in the convention of BlazeFace: square, from the brows to the chin.
        score: Confidence of the face finder in [0, 1]; says nothing about liveness.
        key_points: float32 (6, 2), x and y in pixels, in the order of :data:`KEY_POINT_NAMES`; ``None`` if unknown.
        track_id: Identity of the face over the frames of a stream; ``None`` outside a stream.

    Raises:
        InputError: Key points of another shape, or not finite.
    """

    box: Box
    score: float = 1.0
    key_points: FloatArray | None = None
    track_id: int | None = None

    def __post_init__(self) -> None:
        points = self.key_points
        if points is None:
            return
        if not isinstance(points, np.ndarray) or points.shape != (len(KEY_POINT_NAMES), 2):
            raise InputError(f"key_points need float32 of shape (6, 2), got {_describe(points)}")
        # A copy: freezing the caller's own array would be a surprise, sharing it would let the face change later.
        points = np.array(points, np.float32)
        if not np.isfinite(points).all():
            raise InputError("key_points need finite values, got NaN or infinity; pass None where they are unknown")
        _frozen(points)
        object.__setattr__(self, "key_points", points)


_NO_NAMES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class TensorNames:
    """How a model file calls the tensors that fasedge knows by logical names.

    Attributes:
        inputs: Logical name (``rgb``) to the name inside the file; an empty mapping means the names are the same.
        outputs: Likewise for the outputs (``score``, ``map``).
    """

    inputs: Mapping[str, str] = field(default_factory=lambda: _NO_NAMES)
    outputs: Mapping[str, str] = field(default_factory=lambda: _NO_NAMES)


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of one observation went, in milliseconds."""

    find_ms: float = 0.0
    crop_ms: float = 0.0
    infer_ms: float = 0.0
    total_ms: float = 0.0


_NO_HEADS: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class PadResult:
    """Presentation-attack decision about one face.

    Attributes:
        face: The face that was judged.
        score: In [0, 1], higher = more surely bona fide; ``None`` when the face was not scored.
        decision: ``BONA_FIDE`` iff ``score >= threshold`` and no reason forbids it.
        threshold: Threshold of the operating point in force.
        reasons: Why the decision is not ``BONA_FIDE``; empty when it is, save for quality reasons that the caller
            chose to let pass (``quality="warn"`` of :func:`fasedge.scoring.decide`).
        heads: Scores of the single heads of a multi-head model, by name.
        modalities: What the score was made from, e.g. ``("rgb",)`` or ``("rgb", "depth")``.
        score_map: float32 (m, m) in [0, 1], score per place of the crop, if the model has one.
    """

    face: Face
    score: float | None
    decision: Decision
    threshold: float
    reasons: tuple[Reason, ...] = ()
    heads: Mapping[str, float] = field(default_factory=lambda: _NO_HEADS)
    modalities: tuple[str, ...] = ("rgb",)
    score_map: FloatArray | None = None

    @property
    def is_bona_fide(self) -> bool:
        """``True`` only for a positive decision; a face that was not checked is ``False``."""
        return self.decision is Decision.BONA_FIDE


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """Everything that was found out about one frame.

    Attributes:
        results: One per face, largest face first; empty when there is none.
        reasons: Reasons about the frame as a whole, e.g. ``(Reason.NO_FACE,)``.
        timings: Milliseconds per step.
        timestamp_s: Taken over from the frame.
        name: Taken over from the frame.
    """

    results: tuple[PadResult, ...]
    reasons: tuple[Reason, ...] = ()
    timings: Timings = field(default_factory=Timings)
    timestamp_s: float = 0.0
    name: str = ""

    @property
    def decision(self) -> Decision:
        """Decision about the frame: the most cautious one over its faces.

        ``ATTACK`` if any face is one; else ``NON_RESPONSE`` if there is no face or one was not checked; else
        ``BONA_FIDE``.
        """
        decisions = {r.decision for r in self.results}
        if Decision.ATTACK in decisions:
            return Decision.ATTACK
        if decisions == {Decision.BONA_FIDE}:
            return Decision.BONA_FIDE
        return Decision.NON_RESPONSE
