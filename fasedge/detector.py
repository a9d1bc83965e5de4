"""The detector: finds the faces of a frame and says for each whether it is a bona fide presentation."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType

import numpy as np

from fasedge._views import Answer, MissingDepth, Viewer
from fasedge.backends import Backend, BackendInfo, open_backend
from fasedge.cards import DEFAULT_MODEL, ModelCard, find_model, load_card, verified_model_path
from fasedge.engine_choice import choose_engine
from fasedge.errors import EngineError, FasEdgeError, FrameError, InputError
from fasedge.faces import FaceFinder, open_finder
from fasedge.quality import DEFAULT_LIMITS, QualityLimits, assess
from fasedge.scoring import QualityPolicy, Threshold, Verdict, checked_policy, decide, resolve_threshold
from fasedge.types import Decision, Face, Frame, Observation, PadResult, Reason, Timings

_LOG = logging.getLogger("fasedge")

#: A frame with a shorter side cannot hold a face that any model could judge.
MIN_FRAME_SIDE_PX = 16


@dataclass(frozen=True, slots=True)
class DetectorInfo:
    """What a detector really runs; ``auto`` is resolved here.

    Attributes:
        model: Id of the model.
        version: Version of the model.
        precision: ``fp32`` or ``int8``.
        engine: Engine in use, by its own name.
        backend: Engine, version, device and threads.
        finder: Name of the face finder in use.
        operating_point: Name of the operating point; ``None`` when the caller set the threshold.
        threshold: Threshold in force.
        thresholds: The same for everything that may come to decide, by what it is made from.
        modalities: What the score is made from.
        missing_depth: What a frame without depth means: ``refuse`` or ``rgb``.
        quality: Limits of the quality gates; ``None`` when they are off.
        on_quality: What a broken limit does: ``refuse`` or ``warn``.
        max_faces: How many faces of a frame are judged; ``None`` for all.
    """

    model: str
    version: str
    precision: str
    engine: str
    backend: BackendInfo
    finder: str
    operating_point: str | None
    threshold: float
    thresholds: Mapping[tuple[str, ...], float]
    modalities: tuple[str, ...]
    missing_depth: MissingDepth
    quality: QualityLimits | None
    on_quality: QualityPolicy
    max_faces: int | None


def open_parts(open_model: Callable[[], Backend], open_faces: Callable[[], FaceFinder]) -> tuple[Backend, FaceFinder]:
    """Open a model, then a face finder; close the model again if the finder cannot be opened.

    Args:
        open_model: Opens the model.
        open_faces: Opens the face finder.

    Returns:
        Both, open. What either raises is passed on.
    """
    with ExitStack() as opened:
        backend = open_model()
        opened.callback(backend.close)
        faces = open_faces()
        opened.pop_all()
    return backend, faces


class Detector:
    """Presentation-attack detector for one model, one engine and one operating point.

    Works offline; model files are checked against the hashes in their card before they are loaded. Nothing is ever
    replaced silently: if the model, precision or engine that was asked for cannot run, construction fails.

    A detector is a context manager and belongs to one thread at a time.

    Args:
        model: Id of an embedded model, or the folder of one.
        engine: ``auto`` or one of :data:`fasedge.backends.ENGINES`; see
            :func:`fasedge.engine_choice.choose_engine`.
        precision: ``int8`` or ``fp32``.
        operating_point: Name of an operating point in the card, ``None`` for the card's default.
        threshold: Own threshold in [0, 1] in place of an operating point.
        finder: ``auto`` or one of :data:`fasedge.faces.FINDERS`.
        quality: Limits of the quality gates; ``None`` switches them off.
        on_quality: ``refuse``: a face that breaks a limit is *not checked*; ``warn``: its score decides, the reasons
            are kept. See :func:`fasedge.scoring.decide`.
        threads: Threads for inference, >= 1; ``None`` leaves it to the engine.
        device: Device in the engine's own words.
        max_faces: Judge only that many faces, the largest ones; ``None`` judges all. Further faces are neither
            judged nor reported.
        missing_depth: For models that look at depth, what a frame without it means. ``refuse``: its faces are *not
            checked*, with :attr:`~fasedge.types.Reason.DEPTH_MISSING`. ``rgb``: colour alone decides, by the threshold
            that the operating point has for colour alone; the result's ``modalities`` say so. Colour alone is the
            weaker judge: see its rates in the card before you let it decide, above all where somebody could unplug the
            depth camera. A face of which less than half has depth is refused in either case.

    Raises:
        InputError: An argument is impossible.
        ModelNotFoundError: There is no such model, or no file for the engine and precision.
        CardError: The card is malformed, has no such operating point, or needs an input that cannot be made.
        IntegrityError: A model file was altered.
        EngineUnavailableError: The engine or the face finder is not installed.
        EngineError: The engine cannot load the model.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        *,
        engine: str = "auto",
        precision: str = "int8",
        operating_point: str | None = None,
        threshold: float | None = None,
        finder: str = "auto",
        quality: QualityLimits | None = DEFAULT_LIMITS,
        on_quality: QualityPolicy = "refuse",
        threads: int | None = None,
        device: str = "CPU",
        max_faces: int | None = None,
        missing_depth: MissingDepth = "refuse",
    ) -> None:
        if threads is not None and threads < 1:
            raise InputError(f"threads must be at least 1, or None to let the engine choose, got {threads}")
        folder = find_model(model)
        card = load_card(folder)
        item = choose_engine(card, engine, precision)
        self._configure(
            card,
            precision=item.precision,
            operating_point=operating_point,
            threshold=threshold,
            quality=quality,
            on_quality=on_quality,
            max_faces=max_faces,
            missing_depth=missing_depth,
        )
        path = verified_model_path(folder, item)
        # MediaPipe brings its own engine and refuses to be given another.
        finder_engine = "auto" if finder == "mediapipe" else item.engine
        backend, faces = open_parts(
            lambda: open_backend(item.engine, path, names=item.tensor_names(), threads=threads, device=device),
            lambda: open_finder(finder, engine=finder_engine, threads=threads),
        )
        self._adopt(backend, faces)

    @classmethod
    def from_parts(
        cls,
        backend: Backend,
        faces: FaceFinder,
        card: ModelCard,
        *,
        precision: str = "int8",
        operating_point: str | None = None,
        threshold: float | None = None,
        quality: QualityLimits | None = DEFAULT_LIMITS,
        on_quality: QualityPolicy = "refuse",
        max_faces: int | None = None,
        missing_depth: MissingDepth = "refuse",
    ) -> Detector:
        """Compose a detector from parts made by hand.

        Args:
            backend: A loaded model that fits the card. The detector closes it.
            faces: A face finder. The detector closes it.
            card: The card that belongs to the model.
            precision: Precision of the model in the backend: thresholds differ between precisions.
            operating_point: See :class:`Detector`.
            threshold: See :class:`Detector`.
            quality: See :class:`Detector`.
            on_quality: See :class:`Detector`.
            max_faces: See :class:`Detector`.
            missing_depth: See :class:`Detector`.

        Raises:
            InputError: An argument is impossible.
            CardError: No such operating point, or an input that cannot be made.
        """
        detector = cls.__new__(cls)
        detector._configure(
            card,
            precision=precision,
            operating_point=operating_point,
            threshold=threshold,
            quality=quality,
            on_quality=on_quality,
            max_faces=max_faces,
            missing_depth=missing_depth,
        )
        detector._adopt(backend, faces)
        return detector

    def _configure(
        self,
        card: ModelCard,
        *,
        precision: str,
        operating_point: str | None,
        threshold: float | None,
        quality: QualityLimits | None,
        on_quality: str,
        max_faces: int | None,
        missing_depth: MissingDepth,
    ) -> None:
        if max_faces is not None and max_faces < 1:
            raise InputError(f"max_faces must be at least 1, or None for all faces, got {max_faces}")
        self._card = card
        self._precision = precision
        self._missing_depth = missing_depth
        self._viewer = Viewer(card, missing_depth)
        if threshold is not None and len(self._viewer.decided_by) > 1:
            raise InputError(
                "an own threshold fits one score, but with missing_depth='rgb' two decide, each on a scale of its own; "
                "name an operating_point, or leave missing_depth out"
            )
        self._thresholds: Mapping[tuple[str, ...], Threshold] = {
            modalities: resolve_threshold(
                card,
                operating_point=operating_point,
                threshold=threshold,
                precision=precision,
                modalities=modalities,
            )
            for modalities in self._viewer.decided_by
        }
        self._quality = quality
        self._on_quality = checked_policy(on_quality)
        self._max_faces = max_faces

    def _adopt(self, backend: Backend, faces: FaceFinder) -> None:
        self._backend = backend
        self._faces = faces
        self._closed = False

    @property
    def card(self) -> ModelCard:
        """The card of the model."""
        return self._card

    @property
    def info(self) -> DetectorInfo:
        """What really runs."""
        backend, modalities = self._backend.info, self._viewer.modalities
        threshold = self._thresholds[modalities]
        return DetectorInfo(
            model=self._card.id,
            version=self._card.version,
            precision=self._precision,
            engine=backend.engine,
            backend=backend,
            finder=self._faces.name,
            operating_point=threshold.operating_point,
            threshold=threshold.value,
            thresholds={seen: found.value for seen, found in self._thresholds.items()},
            modalities=modalities,
            missing_depth=self._missing_depth,
            quality=self._quality,
            on_quality=self._on_quality,
            max_faces=self._max_faces,
        )

    def warmup(self) -> None:
        """Run finder and model once on a grey picture, so that the first frame is not slower than the others.

        Raises:
            EngineError: The detector was closed, or an engine failed: better here than at the first frame.
        """
        self._require_open()
        self._viewer.check(self._backend.infer(self._viewer.blank()))
        self._faces.find(np.full((240, 320, 3), 127, np.uint8))

    def detect(self, frame: Frame) -> Observation:
        """Judge every face of a frame.

        All faces go through the model in one batched call. Never raises because of what is in the picture, nor when
        an engine fails while running: such a frame comes back as *not checked* with
        :attr:`~fasedge.types.Reason.ENGINE_FAULT`, and the error goes to the logger ``fasedge``.

        Args:
            frame: The picture.

        Returns:
            One result per face, largest face first. Without a face: no results, and the frame's reasons say why
            (``NO_FACE``, ``UNUSABLE_IMAGE``, ``ENGINE_FAULT``).

        Raises:
            FrameError: Not a :class:`~fasedge.types.Frame`.
            EngineError: The detector was closed.
        """
        if not isinstance(frame, Frame):
            raise FrameError(
                f"detect takes a fasedge.Frame, got {type(frame).__name__}; wrap OpenCV pictures (blue first) with "
                "Frame.from_bgr(picture) and red-first arrays with Frame(rgb=picture)"
            )
        self._require_open()
        start = time.perf_counter()
        if min(frame.width, frame.height) < MIN_FRAME_SIDE_PX:
            return _observation(frame, reason=Reason.UNUSABLE_IMAGE, marks=(start,))
        try:
            faces = self._find(frame)
        except FasEdgeError:
            _LOG.exception("face finder %s failed on frame %r", self._faces.name, frame.name)
            return _observation(frame, reason=Reason.ENGINE_FAULT, marks=(start, time.perf_counter()))
        found = time.perf_counter()
        if not faces:
            return _observation(frame, reason=Reason.NO_FACE, marks=(start, found))
        return self._judge(frame, faces, (start, found))

    def _find(self, frame: Frame) -> tuple[Face, ...]:
        faces = sorted(self._faces.find(frame.rgb), key=lambda face: -face.box.area)
        return tuple(faces[: self._max_faces])

    def _judge(self, frame: Frame, faces: Sequence[Face], marks: tuple[float, float]) -> Observation:
        views = self._viewer.cut(frame, faces)
        limits = self._quality
        gates = [assess(frame, face, limits).reasons if limits else () for face in faces]
        cropped = time.perf_counter()
        fault = None
        try:
            answers = self._viewer.read(self._backend.infer(views.inputs) if views.inputs else {}, views)
        except FasEdgeError:
            _LOG.exception("model %s failed on frame %r", self._card.id, frame.name)
            answers = self._viewer.lost(views)
            fault = Reason.ENGINE_FAULT
        inferred = time.perf_counter()
        results = tuple(
            self._result(face, answer, reasons) for face, answer, reasons in zip(faces, answers, gates, strict=True)
        )
        return _observation(frame, results, reason=fault, marks=(*marks, cropped, inferred))

    def _result(self, face: Face, answer: Answer, gates: tuple[Reason, ...]) -> PadResult:
        threshold = self._thresholds[answer.modalities].value
        if answer.reasons:  # the network was not asked
            verdict = Verdict(None, Decision.NON_RESPONSE, (*gates, *answer.reasons))
        else:
            verdict = decide(answer.score, threshold, gates, quality=self._on_quality)
        trusted = verdict.score is not None
        return PadResult(
            face=face,
            score=verdict.score,
            decision=verdict.decision,
            threshold=threshold,
            reasons=verdict.reasons,
            heads=answer.heads if trusted else {},
            modalities=answer.modalities,
            score_map=answer.score_map if trusted else None,
        )

    def _require_open(self) -> None:
        if self._closed:
            raise EngineError("this detector was closed; make a new one")

    def close(self) -> None:
        """Close the model and the face finder. Idempotent; ``detect`` afterwards is an error."""
        if self._closed:
            return
        self._closed = True
        try:
            self._backend.close()
        finally:
            self._faces.close()

    def __enter__(self) -> Detector:
        self._require_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _observation(
    frame: Frame,
    results: tuple[PadResult, ...] = (),
    *,
    reason: Reason | None = None,
    marks: Sequence[float],
) -> Observation:
    """``marks`` are clock readings in seconds: start, then the ends of the steps find, crop and infer so far."""
    steps = [(after - before) * 1000 for before, after in pairwise(marks)] + [0.0] * 3
    total = (time.perf_counter() - marks[0]) * 1000
    return Observation(
        results=results,
        reasons=() if reason is None else (reason,),
        timings=Timings(find_ms=steps[0], crop_ms=steps[1], infer_ms=steps[2], total_ms=total),
        timestamp_s=frame.timestamp_s,
        name=frame.name,
    )
