"""The detector with a model of colour and depth: what it is shown, and what decides where depth is missing."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from fasedge.cards import OutputCard
from fasedge.depth import crop_depth, measure_face_depth
from fasedge.detector import Detector
from fasedge.errors import CardError, EngineError, InputError
from fasedge.preprocess import crop_face
from fasedge.testing import FakeBackend, FakeFaceFinder, fake_card, synthetic_face, synthetic_frame
from fasedge.types import Decision, Frame, Reason

_LARGE = synthetic_face((110, 120), 100)
_SMALL = synthetic_face((250, 120), 80)
_FACES = (_LARGE, _SMALL)
_RGB = synthetic_frame(faces=_FACES).rgb
_CARD = fake_card(depth=True, threshold=0.6)
_ALONE, _BOTH = ("rgb",), ("rgb", "depth")


def _depth_mm() -> np.ndarray:
    """A slope, so that each face has a median and a spread of its own."""
    height, width = _RGB.shape[:2]
    return np.broadcast_to(500 + np.arange(width, dtype=np.uint16), (height, width)).copy()


def _with_hole(face, share=1.0) -> np.ndarray:
    """Nothing returns from the upper part of a face."""
    depth, box = _depth_mm(), face.box
    depth[int(box.y1) : round(box.y1 + share * box.height), int(box.x1) : int(box.x2) + 1] = 0
    return depth


def _answers(n, score=0.7, rgb=0.4, depth=0.8) -> FakeBackend:
    values = {"score": score, "score_rgb": rgb, "score_depth": depth}
    return FakeBackend(outputs={name: np.full(n, value, np.float32) for name, value in values.items()})


def _detector(backend, **options) -> Detector:
    options.setdefault("quality", None)
    return Detector.from_parts(backend, FakeFaceFinder(_FACES), options.pop("card", _CARD), **options)


def test_colour_and_depth_of_all_faces_are_one_call_with_the_crops_of_the_sdk():
    backend, depth = _answers(2), _depth_mm()
    observation = _detector(backend).detect(Frame(rgb=_RGB, depth_mm=depth))
    (shown,) = backend.calls
    assert (shown["rgb"].shape, shown["depth"].shape) == ((2, 32, 32, 3), (2, 32, 32, 1))
    spec = _CARD.input_spec()
    for place, face in enumerate(_FACES):
        np.testing.assert_array_equal(shown["rgb"][place], crop_face(_RGB, face.box, spec))
        expected = crop_depth(depth, face.box, spec, measure_face_depth(depth, face.box))
        np.testing.assert_array_equal(shown["depth"][place, ..., 0], expected)
    for result in observation.results:
        assert (result.score, result.modalities, result.threshold) == (pytest.approx(0.7), _BOTH, 0.6)
        assert result.decision is Decision.BONA_FIDE
        assert result.heads == {"rgb": pytest.approx(0.4), "depth": pytest.approx(0.8)}


def test_a_frame_without_depth_is_not_checked_and_the_model_is_not_asked():
    backend = _answers(2)
    observation = _detector(backend).detect(Frame(rgb=_RGB))
    assert backend.calls == []
    assert observation.decision is Decision.NON_RESPONSE
    for result in observation.results:
        assert (result.score, result.reasons, result.heads) == (None, (Reason.DEPTH_MISSING,), {})
        assert (result.modalities, result.threshold) == (_BOTH, 0.6)


def test_where_it_was_asked_for_colour_alone_decides_by_its_own_score_and_threshold():
    backend = _answers(2, score=0.99, rgb=0.4)
    observation = _detector(backend, missing_depth="rgb").detect(Frame(rgb=_RGB))
    assert not backend.calls[0]["depth"].any()
    for result in observation.results:
        assert (result.score, result.threshold) == (pytest.approx(0.4), 0.3)
        assert (result.modalities, result.heads, result.score_map) == (_ALONE, {"rgb": pytest.approx(0.4)}, None)
        assert result.decision is Decision.BONA_FIDE
    attack = _detector(_answers(2, score=0.99, rgb=0.29), missing_depth="rgb").detect(Frame(rgb=_RGB))
    assert [r.decision for r in attack.results] == [Decision.ATTACK] * 2


def test_with_depth_colour_alone_decides_nothing_even_where_it_may():
    result = _detector(_answers(2, score=0.5, rgb=1.0), missing_depth="rgb").detect(
        Frame(rgb=_RGB, depth_mm=_depth_mm())
    )
    assert [(r.decision, r.modalities) for r in result.results] == [(Decision.ATTACK, _BOTH)] * 2


@pytest.mark.parametrize("missing_depth", ["refuse", "rgb"])
def test_a_face_from_which_nothing_returns_is_refused_and_the_others_are_judged(missing_depth):
    """Whoever shows the camera a screen that swallows its light must not be judged by colour alone."""
    backend = _answers(1)
    detector = _detector(backend, missing_depth=missing_depth)
    hidden, seen = detector.detect(Frame(rgb=_RGB, depth_mm=_with_hole(_LARGE))).results
    assert len(backend.calls[0]["rgb"]) == 1
    assert (hidden.decision, hidden.score, hidden.reasons) == (
        Decision.NON_RESPONSE,
        None,
        (Reason.DEPTH_MISSING,),
    )
    assert (hidden.modalities, seen.modalities, seen.decision) == (_BOTH, _BOTH, Decision.BONA_FIDE)
    np.testing.assert_array_equal(backend.calls[0]["rgb"][0], crop_face(_RGB, _SMALL.box, _CARD.input_spec()))


def test_half_of_a_face_needs_depth():
    for share, expected in ((0.46, Decision.BONA_FIDE), (0.54, Decision.NON_RESPONSE)):
        frame = Frame(rgb=_RGB, depth_mm=_with_hole(_LARGE, share))
        result = _detector(_answers(2 if expected is Decision.BONA_FIDE else 1)).detect(frame).results[0]
        assert result.decision is expected


def test_reasons_of_quality_stay_beside_missing_depth():
    strict = Detector.from_parts(_answers(2), FakeFaceFinder(_FACES), _CARD, on_quality="warn")
    dark = Frame(rgb=(_RGB // 8).astype(np.uint8))
    for result in strict.detect(dark).results:
        assert result.reasons[-2:] == (Reason.FACE_TOO_DARK, Reason.DEPTH_MISSING)
        assert result.decision is Decision.NON_RESPONSE


@pytest.mark.parametrize(
    "spoilt",
    [
        {"score": np.array([np.nan, 0.9], np.float32)},
        {"score": np.zeros(3, np.float32)},
        {"score_rgb": np.array([np.nan, 0.9], np.float32)},
        {"score_depth": np.array([7.0, 0.9], np.float32)},
    ],
)
def test_an_engine_that_says_something_impossible_of_any_score_is_not_believed(spoilt):
    good = {name: np.full(2, 0.9, np.float32) for name in ("score", "score_rgb", "score_depth")}
    detector = _detector(FakeBackend(outputs={**good, **spoilt}), missing_depth="rgb")
    broken = detector.detect(Frame(rgb=_RGB, depth_mm=_depth_mm())).results[0]
    assert (broken.decision, broken.score, broken.heads) == (Decision.NON_RESPONSE, None, {})
    assert broken.reasons == (Reason.ENGINE_FAULT,)


def test_a_face_without_depth_says_so_also_where_the_engine_fails():
    backend = FakeBackend(error=EngineError("driver"))
    observation = _detector(backend).detect(Frame(rgb=_RGB, depth_mm=_with_hole(_LARGE)))
    assert observation.reasons == (Reason.ENGINE_FAULT,)
    assert [r.reasons for r in observation.results] == [(Reason.DEPTH_MISSING,), (Reason.ENGINE_FAULT,)]
    assert observation.decision is Decision.NON_RESPONSE


def test_the_detector_says_what_it_looks_at_and_warms_up_with_both():
    backend = _answers(1)
    detector = _detector(backend, missing_depth="rgb")
    info = detector.info
    assert (info.modalities, info.missing_depth, info.threshold) == (_BOTH, "rgb", 0.6)
    assert info.thresholds == {_BOTH: 0.6, _ALONE: 0.3}
    detector.warmup()
    assert {name: value.shape for name, value in backend.calls[0].items()} == {
        "rgb": (1, 32, 32, 3),
        "depth": (1, 32, 32, 1),
    }


def test_a_file_without_the_score_of_colour_fails_at_warm_up_where_colour_may_decide():
    lacking = FakeBackend(outputs={"score": np.full(1, 0.5, np.float32)})
    _detector(lacking).warmup()
    with pytest.raises(EngineError, match="no output 'score_rgb'"):
        _detector(lacking, missing_depth="rgb").warmup()


def test_what_cannot_work_is_refused_at_construction():
    with pytest.raises(InputError, match="missing_depth must be one of refuse, rgb, got 'ignore'"):
        _detector(_answers(1), missing_depth="ignore")
    with pytest.raises(InputError, match="an own threshold fits one score"):
        _detector(_answers(1), missing_depth="rgb", threshold=0.5)
    with pytest.raises(InputError, match="looks at colour alone"):
        _detector(_answers(1), missing_depth="rgb", card=fake_card())
    joint_only = msgspec.structs.replace(_CARD, outputs=(OutputCard(name="score", shape=(1,), meaning="x"),))
    with pytest.raises(CardError, match="cannot judge colour alone"):
        _detector(_answers(1), missing_depth="rgb", card=joint_only)
    wider = msgspec.structs.replace(
        _CARD, inputs=(_CARD.inputs[0], msgspec.structs.replace(_CARD.inputs[1], crop_scale=2.0))
    )
    with pytest.raises(CardError, match="another crop of depth than of colour"):
        _detector(_answers(1), card=wider)
    no_point = msgspec.structs.replace(
        _CARD, operating_points=tuple(p for p in _CARD.operating_points if p.modalities == _BOTH)
    )
    assert _detector(_answers(1), card=no_point).info.threshold == 0.6
    with pytest.raises(CardError, match="no operating point 'bpcer5' for int8 and rgb"):
        _detector(_answers(1), card=no_point, missing_depth="rgb")
