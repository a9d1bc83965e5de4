"""Public fakes: test code that uses fasedge without a model, an engine or a picture of a person.

>>> from fasedge.testing import FakeBackend
>>> import numpy as np
>>> backend = FakeBackend(scores=[0.9])
>>> float(backend.infer({"rgb": np.zeros((1, 8, 8, 3), np.uint8)})["score"][0]) > 0.8
True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Literal

import cv2
import numpy as np

from fasedge.backends._base import Array, BackendInfo
from fasedge.cards import (
    Calibration,
    EngineName,
    FileCard,
    GoldenVectors,
    HeadCalibration,
    InputCard,
    ModelCard,
    OperatingPoint,
    OutputCard,
    OutputName,
    Precision,
    Rate,
    Source,
)
from fasedge.errors import EngineError, InputError
from fasedge.types import Box, Face, Frame, UInt8Array

_SKIN_RGB = (205, 160, 135)


class FakeBackend:
    """A backend with scripted scores.

    The script is consumed face by face and starts again at its end, so that ``scores=[0.9, 0.1]`` serves two faces in
    one call as well as one face in each of two calls.

    Args:
        scores: Scores in the order in which faces come; NaN and impossible values are passed on as they are.
        map_side: Side of the score map in cells; 0 for a model without a map.
        error: Raised by every :meth:`infer` while it is not ``None``; may be set later.
        outputs: Returned as they are in place of scripted scores, to play a broken engine.
        engine: Name shown in :attr:`info`.

    Attributes:
        calls: The inputs of every call, in order.
        error: See above.
        closed: How often :meth:`close` was called.

    Raises:
        InputError: The script is empty.
    """

    def __init__(
        self,
        scores: Sequence[float] = (0.9,),
        *,
        map_side: int = 0,
        error: Exception | None = None,
        outputs: Mapping[str, Array] | None = None,
        engine: str = "fake",
    ) -> None:
        if not scores:
            raise InputError("FakeBackend needs at least one score")
        self.calls: list[Mapping[str, Array]] = []
        self.closed = 0
        self.error = error
        self._scores = tuple(float(s) for s in scores)
        self._next = 0
        self._map_side = map_side
        self._outputs = outputs
        self._engine = engine

    @property
    def info(self) -> BackendInfo:
        """What runs, and where."""
        return BackendInfo(engine=self._engine, version="0", device="CPU", threads=1, batched=True)

    def infer(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return the next scores of the script; the map holds the score in each cell.

        Raises:
            EngineError: The backend was closed.
        """
        self.calls.append(dict(inputs))
        if self.closed:
            raise EngineError("this backend was closed")
        if self.error is not None:
            raise self.error
        if self._outputs is not None:
            return self._outputs
        n = len(next(iter(inputs.values())))
        picked = [self._scores[(self._next + i) % len(self._scores)] for i in range(n)]
        self._next += n
        score = np.array(picked, np.float32)
        if not self._map_side:
            return {"score": score}
        cells = np.broadcast_to(score[:, None, None], (n, self._map_side, self._map_side))
        return {"score": score, "map": np.ascontiguousarray(cells)}

    def close(self) -> None:
        """Count the call."""
        self.closed += 1

    def __enter__(self) -> FakeBackend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class FakeFaceFinder:
    """A finder that returns the same faces for every picture.

    Args:
        faces: What it finds; empty for pictures without a face.
        error: Raised by every :meth:`find` while it is not ``None``; may be set later.

    Attributes:
        calls: Shape (H, W, 3) of each picture that was searched.
        error: See above.
        closed: How often :meth:`close` was called.
    """

    def __init__(self, faces: Sequence[Face] = (), *, error: Exception | None = None) -> None:
        self.calls: list[tuple[int, ...]] = []
        self.closed = 0
        self.error = error
        self._faces = tuple(faces)

    @property
    def name(self) -> str:
        """Name of the finder."""
        return "fake"

    def find(self, rgb: UInt8Array) -> tuple[Face, ...]:
        """Return the scripted faces, largest box first.

        Raises:
            EngineError: The finder was closed.
        """
        self.calls.append(rgb.shape)
        if self.closed:
            raise EngineError("this face finder was closed")
        if self.error is not None:
            raise self.error
        return tuple(sorted(self._faces, key=lambda face: -face.box.area))

    def close(self) -> None:
        """Count the call."""
        self.closed += 1

    def __enter__(self) -> FakeFaceFinder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def synthetic_face(center: tuple[float, float] = (160.0, 120.0), side_px: float = 100.0) -> Face:
    """A level, frontal face in the convention of BlazeFace.

    Args:
        center: Centre of the face box in pixels.
        side_px: Side of the face box in pixels.
    """
    cx, cy = center
    half = side_px / 2
    # Places in box sides from the centre: eyes a fifth above, mouth a quarter below, ears at the edges.
    places = [(-0.22, -0.20), (0.22, -0.20), (0.0, 0.04), (0.0, 0.257), (-0.45, -0.12), (0.45, -0.12)]
    points = np.array([(cx + px * side_px, cy + py * side_px) for px, py in places], np.float32)
    return Face(Box(cx - half, cy - half, cx + half, cy + half), 0.99, points)


def synthetic_frame(
    width: int = 320,
    height: int = 240,
    *,
    faces: Sequence[Face] | None = None,
    seed: int = 0,
    timestamp_s: float = 0.0,
    name: str = "synthetic",
) -> Frame:
    """Draw a picture with face-like ovals on a noisy wall: sharp, well lit, nobody's likeness.

    The drawn faces pass the default quality gates. No face finder is promised to find them.

    Args:
        width: Width in pixels.
        height: Height in pixels.
        faces: Where to draw; ``None`` draws one face of :func:`synthetic_face` in the middle.
        seed: Seed of the noise.
        timestamp_s: Taken over into the frame.
        name: Taken over into the frame.
    """
    rng = np.random.default_rng(seed)
    canvas = np.full((height, width, 3), (120, 130, 140), np.uint8)
    if faces is None:
        faces = (synthetic_face((width / 2, height / 2), 100.0),)
    for face in faces:
        _draw_face(canvas, face)
    noise = rng.integers(-12, 13, canvas.shape, dtype=np.int16)
    rgb = np.clip(canvas.astype(np.int16) + noise, 0, 255).astype(np.uint8)
    return Frame(rgb=rgb, timestamp_s=timestamp_s, name=name)


def _draw_face(canvas: UInt8Array, face: Face) -> None:
    side = face.box.width
    cx, cy = (round(v) for v in face.box.center)
    cv2.ellipse(canvas, (cx, cy), (round(side * 0.45), round(side * 0.58)), 0, 0, 360, _SKIN_RGB, -1)
    if face.key_points is None:
        return
    (rx, ry), (lx, ly), (nx, ny), (mx, my) = (tuple(round(float(v)) for v in p) for p in face.key_points[:4])
    eye = max(1, round(side * 0.07))
    for at in ((rx, ry), (lx, ly)):
        cv2.circle(canvas, at, eye, (245, 245, 245), -1)
        cv2.circle(canvas, at, max(1, eye // 2), (40, 30, 25), -1)
        cv2.line(canvas, (at[0] - eye, at[1] - 2 * eye), (at[0] + eye, at[1] - 2 * eye), (70, 50, 40), max(1, eye // 2))
    cv2.line(canvas, (nx, ny - round(side * 0.15)), (nx, ny), (160, 115, 95), max(1, eye // 2))
    cv2.ellipse(canvas, (mx, my), (round(side * 0.13), max(1, eye // 2)), 0, 0, 360, (165, 70, 70), -1)


def fake_card(
    *,
    size_px: int = 32,
    crop_scale: float = 1.5,
    threshold: float = 0.5,
    engines: Sequence[EngineName] = ("openvino", "litert", "onnxruntime"),
    precisions: Sequence[Precision] = ("int8",),
    golden: GoldenVectors | None = None,
    depth: bool = False,
) -> ModelCard:
    """A valid card of a model that does not exist, for :meth:`fasedge.detector.Detector.from_parts`.

    Args:
        size_px: Side of the network input in pixels.
        crop_scale: Side of the crop over the side of the face box.
        threshold: Of the operating points ``bpcer5`` (the default one) and, 0.2 higher at most, ``bpcer10``.
        engines: Engines that the card lists a file for.
        precisions: Precisions that each engine has a file for.
        golden: Golden vectors; ``None`` names a file that does not exist.
        depth: A model that looks at depth too. Where colour alone decides, its thresholds are half as high.
    """
    rate = Rate(value=0.05, errors=5, n=100, low=0.016, high=0.113)
    points = tuple(
        OperatingPoint(
            name=name,
            threshold=value,
            criterion="made up",
            modalities=modalities,
            precision=precision,
            apcer={"print": rate},
            apcer_max=0.05,
            bpcer=rate,
            acer=0.05,
        )
        for modalities, factor in (((("rgb", "depth"), 1.0), (("rgb",), 0.5)) if depth else ((("rgb",), 1.0),))
        for precision in precisions
        for name, value in (("bpcer5", factor * threshold), ("bpcer10", factor * min(threshold + 0.2, 1.0)))
    )
    seen: tuple[Literal["rgb", "depth"], ...] = ("rgb", "depth") if depth else ("rgb",)
    scores: tuple[OutputName, ...] = ("score", "score_rgb", "score_depth") if depth else ("score",)
    return ModelCard(
        schema_version=1,
        id="fake-model",
        version="0",
        summary="A model for tests",
        licence="Apache-2.0",
        source=Source(method="none", paper="none", equations="none"),
        inputs=tuple(InputCard(name=m, modality=m, size_px=size_px, crop_scale=crop_scale) for m in seen),
        outputs=tuple(OutputCard(name=name, shape=(-1,), meaning="higher = bona fide") for name in scores),
        files=tuple(_fake_file(engine, precision) for engine in engines for precision in precisions),
        calibration=Calibration(
            kind="platt",
            scale=1.0,
            bias=0.0,
            fitted_on="nothing",
            heads={name: HeadCalibration(scale=1.0, bias=0.0) for name in scores[1:]},
        ),
        operating_points=points,
        default_operating_point="bpcer5",
        training_data=(),
        evaluation=(),
        parity=(),
        golden=golden or GoldenVectors(path="golden.npz", sha256="0" * 64, n=1, tolerance=0.05),
        intended_use="tests",
        limitations=("does not exist",),
    )


_SUFFIXES: Mapping[EngineName, str] = {"openvino": ".xml", "litert": ".tflite", "onnxruntime": ".onnx"}


def _fake_file(engine: EngineName, precision: Precision) -> FileCard:
    stem = f"fake-{precision}"
    return FileCard(
        engine=engine,
        precision=precision,
        path=stem + _SUFFIXES[engine],
        sha256="0" * 64,
        bytes=0,
        companions={f"{stem}.bin": "0" * 64} if engine == "openvino" else {},
    )
