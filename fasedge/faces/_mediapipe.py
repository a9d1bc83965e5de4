"""MediaPipe's own face detector (Tasks API)."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np

from fasedge.backends._litert import quiet_native_log
from fasedge.backends._session import install_command
from fasedge.errors import EngineError, EngineUnavailableError
from fasedge.faces._assets import BLAZEFACE_TFLITE, verified_asset
from fasedge.faces._checks import check_min_score, check_rgb
from fasedge.types import KEY_POINT_NAMES, Box, Face, UInt8Array

_ERRORS = (RuntimeError, ValueError, TypeError)


class MediaPipeFinder:
    """Finds faces with MediaPipe's Tasks ``FaceDetector`` and BlazeFace (short range).

    MediaPipe returns boxes in whole pixels: upper left corner and size, each cut off towards zero. Half a pixel is
    added to each, so that boxes are right on average; key points come with fractions.

    MediaPipe decides by itself how many threads it uses, and writes a few lines to stderr at the first picture that
    no setting of it silences. Its own privacy notice says that MediaPipe Tasks report performance and usage of the
    API to its maker; whoever cannot accept that uses ``blazeface``, which is fasedge's default.

    Args:
        min_score: Faces below this confidence are left out, in [0, 1].

    Raises:
        InputError: ``min_score`` does not lie in [0, 1].
        EngineUnavailableError: MediaPipe, or a system library that it needs, is not installed.
        EngineError: MediaPipe cannot load the network.
        ModelNotFoundError: The network file is missing.
        IntegrityError: The network file was altered.
    """

    def __init__(self, *, min_score: float = 0.5) -> None:
        check_min_score(min_score)
        model = verified_asset(BLAZEFACE_TFLITE).read_bytes()
        self._mediapipe: Any = _import_mediapipe()
        tasks = self._mediapipe.tasks
        self._detector: Any = None
        try:
            with quiet_native_log():
                self._detector = tasks.vision.FaceDetector.create_from_options(
                    tasks.vision.FaceDetectorOptions(
                        base_options=tasks.BaseOptions(model_asset_buffer=model),
                        running_mode=tasks.vision.RunningMode.IMAGE,
                        min_detection_confidence=min_score,
                    )
                )
        except OSError as error:
            raise EngineUnavailableError(_library_hint(error)) from error
        except _ERRORS as error:
            raise EngineError(f"MediaPipe cannot load its face detector: {error}") from error
        self._finalizer = weakref.finalize(self, _close_forgotten, self._detector)

    @property
    def name(self) -> str:
        """``mediapipe``."""
        return "mediapipe"

    def find(self, rgb: UInt8Array) -> tuple[Face, ...]:
        """Find every face.

        Args:
            rgb: uint8 (H, W, 3), red first.

        Returns:
            The faces, largest box first; empty when there is none.

        Raises:
            EngineError: MediaPipe failed, or the finder was closed.
            FrameError: ``rgb`` has the wrong shape, type or size.
        """
        check_rgb(rgb)
        if self._detector is None:
            raise EngineError("this face finder (mediapipe) was closed; open a new one")
        height, width = rgb.shape[:2]
        try:
            picture = self._mediapipe.Image(
                image_format=self._mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(rgb)
            )
            detections: Sequence[Any] = self._detector.detect(picture).detections
        except _ERRORS as error:
            raise EngineError(f"MediaPipe failed on a picture of {width}x{height}: {error}") from error
        faces = [face for detection in detections if (face := _to_face(detection, width, height)) is not None]
        return tuple(sorted(faces, key=lambda face: -face.box.area))

    def close(self) -> None:
        """Free MediaPipe's graph. Idempotent."""
        if self._finalizer.detach() is None:
            return
        detector, self._detector = self._detector, None
        try:
            with quiet_native_log():
                detector.close()
        except _ERRORS as error:
            raise EngineError(f"MediaPipe failed to close its face detector: {error}") from error

    def __enter__(self) -> MediaPipeFinder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _close_forgotten(detector: Any) -> None:
    """Close the detector of a finder that nobody closed."""
    try:
        with quiet_native_log():
            detector.close()
    except RuntimeError:
        # The interpreter is exiting and MediaPipe's worker thread is gone; the process frees the rest. Without its
        # handle the detector does not try again, which would print a TypeError.
        detector._handle = None


def _import_mediapipe() -> Any:
    try:
        import mediapipe
    except ImportError as error:
        raise EngineUnavailableError(
            f"MediaPipe cannot be imported ({error}); install it with {install_command('mediapipe')}"
        ) from error
    except OSError as error:
        raise EngineUnavailableError(_library_hint(error)) from error
    return mediapipe


def _library_hint(error: OSError) -> str:
    return (
        f"MediaPipe cannot load a system library ({error}); "
        "on Debian and Ubuntu install libegl1, libgles2, libgl1 and libglib2.0-0"
    )


def _to_face(detection: Any, width: int, height: int) -> Face | None:
    """One detection in fasedge's words; ``None`` for a box without area."""
    box = detection.bounding_box
    x1, y1 = _centered(box.origin_x), _centered(box.origin_y)
    if box.width <= 0 or box.height <= 0:
        return None
    points = np.array([(p.x * width, p.y * height) for p in detection.keypoints], np.float32)
    return Face(
        Box(x1, y1, x1 + box.width + 0.5, y1 + box.height + 0.5),
        score=float(detection.categories[0].score),
        key_points=points if points.shape == (len(KEY_POINT_NAMES), 2) else None,
    )


def _centered(cut_off: int) -> float:
    """The middle of the numbers that are cut off to this whole one, towards zero."""
    return cut_off + math.copysign(0.5, cut_off) if cut_off else 0.0
