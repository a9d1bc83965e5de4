"""The detector on fakes: batching, fail-closed behaviour, resources."""

from __future__ import annotations

import json
import logging

import msgspec
import numpy as np
import pytest

from fasedge.cards import CARD_NAME, InputCard, dump_card
from fasedge.detector import Detector, open_parts
from fasedge.engine_choice import choose_engine
from fasedge.errors import (
    CardError,
    EngineError,
    EngineUnavailableError,
    FrameError,
    InputError,
    IntegrityError,
    ModelNotFoundError,
)
from fasedge.preprocess import crop_face
from fasedge.quality import QualityLimits
from fasedge.testing import FakeBackend, FakeFaceFinder, fake_card, synthetic_face, synthetic_frame
from fasedge.types import Box, Decision, Face, Frame, Observation, Reason

_LARGE = synthetic_face((110, 120), 100)
_SMALL = synthetic_face((250, 120), 80)
_FRAME = synthetic_frame(faces=(_LARGE, _SMALL), timestamp_s=12.5, name="two")


def _detector(backend=None, faces=(_LARGE, _SMALL), *, card=None, finder=None, **options):
    backend = backend or FakeBackend([0.9])
    finder = finder or FakeFaceFinder(faces)
    return Detector.from_parts(backend, finder, card or fake_card(), **options)


def _only(observation):
    assert len(observation.results) == 1
    return observation.results[0]


def test_all_faces_of_a_frame_are_one_call_with_the_crops_of_preprocess():
    backend = FakeBackend([0.9, 0.2])
    detector = _detector(backend)
    observation = detector.detect(_FRAME)
    assert len(backend.calls) == 1
    crops = backend.calls[0]["rgb"]
    assert crops.shape == (2, 32, 32, 3)
    assert crops.dtype == np.uint8
    spec = fake_card().input_spec()
    for crop, face in zip(crops, (_LARGE, _SMALL), strict=True):
        assert np.array_equal(crop, crop_face(_FRAME.rgb, face.box, spec))
    assert [r.score for r in observation.results] == [pytest.approx(0.9), pytest.approx(0.2)]
    assert [r.decision for r in observation.results] == [Decision.BONA_FIDE, Decision.ATTACK]
    assert [r.reasons for r in observation.results] == [(), (Reason.SCORE_BELOW_THRESHOLD,)]
    assert observation.decision is Decision.ATTACK


def test_results_are_largest_face_first_and_carry_the_frames_name_and_time():
    class Unsorted(FakeFaceFinder):
        def find(self, rgb):
            return (_SMALL, _LARGE)

    observation = _detector(finder=Unsorted()).detect(_FRAME)
    assert [r.face for r in observation.results] == [_LARGE, _SMALL]
    assert (observation.name, observation.timestamp_s) == ("two", 12.5)
    assert all(r.modalities == ("rgb",) and r.threshold == 0.5 for r in observation.results)


def test_a_frame_without_a_face_is_not_checked():
    backend = FakeBackend()
    observation = _detector(backend, faces=()).detect(_FRAME)
    assert observation.results == ()
    assert observation.reasons == (Reason.NO_FACE,)
    assert observation.decision is Decision.NON_RESPONSE
    assert backend.calls == []


@pytest.mark.parametrize("shape", [(1, 1, 3), (15, 400, 3), (400, 15, 3)])
def test_a_tiny_frame_is_unusable_and_never_searched(shape):
    finder = FakeFaceFinder([_LARGE])
    observation = _detector(finder=finder).detect(Frame(rgb=np.zeros(shape, np.uint8)))
    assert observation.reasons == (Reason.UNUSABLE_IMAGE,)
    assert observation.results == ()
    assert finder.calls == []


@pytest.mark.parametrize("picture", [np.zeros((40, 40, 3), np.uint8), None, "face.jpg", [[0]]])
def test_what_is_not_a_frame_is_refused_with_the_way_to_make_one(picture):
    with pytest.raises(FrameError, match=r"Frame\.from_bgr.*Frame\(rgb="):
        _detector().detect(picture)


def test_an_engine_fault_is_not_checked_logged_and_kept_out_of_the_result(caplog):
    backend = FakeBackend(error=EngineError("secret of the driver"))
    detector = _detector(backend)
    with caplog.at_level(logging.ERROR, logger="fasedge"):
        observation = detector.detect(_FRAME)
    assert observation.reasons == (Reason.ENGINE_FAULT,)
    assert observation.decision is Decision.NON_RESPONSE
    for result in observation.results:
        assert (result.score, result.decision, result.reasons) == (None, Decision.NON_RESPONSE, (Reason.ENGINE_FAULT,))
    assert len(observation.results) == 2
    assert "secret of the driver" in caplog.text
    assert "secret" not in repr(observation)


def test_a_detector_recovers_after_a_passing_engine_fault():
    backend = FakeBackend(error=EngineError("once"))
    detector = _detector(backend)
    detector.detect(_FRAME)
    backend.error = None
    assert detector.detect(_FRAME).decision is Decision.BONA_FIDE


def test_a_fault_of_the_face_finder_is_not_mistaken_for_no_face(caplog):
    backend = FakeBackend()
    detector = _detector(backend, finder=FakeFaceFinder(error=EngineError("broken finder")))
    with caplog.at_level(logging.ERROR, logger="fasedge"):
        observation = detector.detect(_FRAME)
    assert observation.reasons == (Reason.ENGINE_FAULT,)
    assert observation.results == ()
    assert "broken finder" in caplog.text
    assert backend.calls == []


def test_a_programming_error_is_not_dressed_up_as_an_engine_fault():
    with pytest.raises(ZeroDivisionError):
        _detector(FakeBackend(error=ZeroDivisionError("bug"))).detect(_FRAME)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.5, 1.5])
def test_an_impossible_score_concerns_its_own_face_only(bad):
    observation = _detector(FakeBackend([bad, 0.9])).detect(_FRAME)
    first, second = observation.results
    assert (first.score, first.decision, first.reasons) == (None, Decision.NON_RESPONSE, (Reason.ENGINE_FAULT,))
    assert second.decision is Decision.BONA_FIDE
    assert observation.decision is Decision.NON_RESPONSE


def test_a_face_with_an_impossible_score_has_no_map_either():
    first, second = (
        _detector(
            FakeBackend(
                outputs={"score": np.array([np.nan, 0.9], np.float32), "map": np.full((2, 3, 3), 0.9, np.float32)}
            )
        )
        .detect(_FRAME)
        .results
    )
    assert first.score_map is None
    assert second.score_map is not None


_TWO = np.array([0.25, 0.75], np.float32)


@pytest.mark.parametrize(
    "outputs",
    [
        {},
        {"map": np.zeros((2, 3, 3), np.float32)},
        {"score": np.array([0.9], np.float32)},
        {"score": np.array([0.9, 0.9, 0.9], np.float32)},
        {"score": np.full((1, 2), 0.9, np.float32)},
        {"score": np.full((2, 2), 0.9, np.float32)},
        {"score": np.float32(0.9)},
        {"score": _TWO, "map": np.zeros((1, 3, 3), np.float32)},
        {"score": _TWO, "map": np.zeros((2, 3, 4), np.float32)},
        {"score": _TWO, "map": np.zeros((2, 2, 3, 3), np.float32)},
        {"score": _TWO, "map": np.full((2, 3, 3), np.nan, np.float32)},
    ],
)
def test_outputs_of_the_wrong_shape_are_an_engine_fault(outputs, caplog):
    observation = _detector(FakeBackend(outputs=outputs)).detect(_FRAME)
    assert observation.reasons == (Reason.ENGINE_FAULT,)
    assert [r.decision for r in observation.results] == [Decision.NON_RESPONSE] * 2
    assert caplog.records


@pytest.mark.parametrize("score_shape", [(2,), (2, 1)])
@pytest.mark.parametrize("map_shape", [(2, 3, 3), (2, 1, 3, 3), (2, 3, 3, 1)])
def test_scores_and_maps_of_every_usual_layout_are_understood(score_shape, map_shape):
    cells = np.linspace(0, 1, 18, dtype=np.float32)
    outputs = {"score": _TWO.reshape(score_shape), "map": cells.reshape(map_shape)}
    results = _detector(FakeBackend(outputs=outputs)).detect(_FRAME).results
    assert [r.score for r in results] == [0.25, 0.75]
    for result, expected in zip(results, (cells[:9], cells[9:]), strict=True):
        assert result.score_map is not None
        assert np.array_equal(result.score_map, expected.reshape(3, 3))
        assert not result.score_map.flags.writeable


def test_a_single_face_with_a_map_of_one_cell_is_understood():
    outputs = {"score": np.array([0.5], np.float32), "map": np.full((1, 1, 1, 1), 0.5, np.float32)}
    result = _only(_detector(FakeBackend(outputs=outputs), faces=(_LARGE,)).detect(_FRAME))
    assert result.score_map is not None
    assert result.score_map.shape == (1, 1)


def test_a_face_that_breaks_a_limit_is_not_checked_but_scored():
    result = _only(_detector(faces=(_LARGE,), quality=QualityLimits(min_face_px=101)).detect(_FRAME))
    assert (result.decision, result.reasons) == (Decision.NON_RESPONSE, (Reason.FACE_TOO_SMALL,))
    assert result.score == pytest.approx(0.9)


def test_warn_and_none_let_the_score_decide():
    limits = QualityLimits(min_face_px=101)
    warned = _only(_detector(faces=(_LARGE,), quality=limits, on_quality="warn").detect(_FRAME))
    unchecked = _only(_detector(faces=(_LARGE,), quality=None).detect(_FRAME))
    assert (warned.decision, warned.reasons) == (Decision.BONA_FIDE, (Reason.FACE_TOO_SMALL,))
    assert (unchecked.decision, unchecked.reasons) == (Decision.BONA_FIDE, ())


def test_a_face_outside_the_frame_does_not_raise():
    result = _only(_detector(faces=(Face(Box(900, 900, 1000, 1000)),)).detect(_FRAME))
    assert result.decision is Decision.NON_RESPONSE
    assert Reason.FACE_CUT_BY_FRAME in result.reasons


def test_max_faces_judges_the_largest_ones():
    observation = _detector(max_faces=1).detect(_FRAME)
    assert _only(observation).face is _LARGE


@pytest.mark.parametrize("max_faces", [0, -1])
def test_max_faces_below_one_is_refused(max_faces):
    with pytest.raises(InputError, match="max_faces"):
        _detector(max_faces=max_faces)


def test_the_threshold_comes_from_the_operating_point_or_the_caller_and_is_reported():
    default, named, own = _detector(), _detector(operating_point="bpcer10"), _detector(threshold=0.95)
    assert (default.info.operating_point, default.info.threshold) == ("bpcer5", 0.5)
    assert (named.info.operating_point, named.info.threshold) == ("bpcer10", 0.7)
    assert (own.info.operating_point, own.info.threshold) == (None, 0.95)
    assert own.detect(_FRAME).decision is Decision.ATTACK


def test_info_names_what_really_runs():
    info = _detector(FakeBackend(engine="toaster")).info
    assert (info.model, info.precision, info.engine, info.finder) == ("fake-model", "int8", "toaster", "fake")
    assert info.modalities == ("rgb",)


def test_an_unknown_operating_point_policy_or_precision_is_refused():
    with pytest.raises(CardError, match="eer"):
        _detector(operating_point="eer")
    with pytest.raises(CardError, match="fp32"):
        _detector(precision="fp32")
    with pytest.raises(InputError, match="policy"):
        _detector(on_quality="ignore")


@pytest.mark.parametrize("modalities", [("depth",), ("rgb", "depth")])
def test_a_model_that_needs_depth_is_refused_and_not_run_on_colour_alone(modalities):
    inputs = tuple(InputCard(name=m, size_px=32, crop_scale=1.5, modality=m) for m in modalities)
    card = msgspec.structs.replace(fake_card(), inputs=inputs)
    with pytest.raises(CardError, match="depth"):
        _detector(card=card)


def test_timings_cover_the_steps_in_order():
    timings = _detector().detect(_FRAME).timings
    steps = (timings.find_ms, timings.crop_ms, timings.infer_ms)
    assert all(step >= 0 for step in steps)
    assert timings.crop_ms > 0
    assert timings.total_ms >= sum(steps)


def test_timings_of_a_frame_without_a_face_have_no_later_steps():
    timings = _detector(faces=()).detect(_FRAME).timings
    assert (timings.crop_ms, timings.infer_ms) == (0.0, 0.0)
    assert timings.total_ms >= timings.find_ms >= 0


def test_warmup_runs_model_and_finder_once():
    backend, finder = FakeBackend(), FakeFaceFinder()
    _detector(backend, finder=finder).warmup()
    assert backend.calls[0]["rgb"].shape == (1, 32, 32, 3)
    assert len(finder.calls) == 1


def test_warmup_raises_what_detect_would_hide():
    with pytest.raises(EngineError, match="broken"):
        _detector(FakeBackend(error=EngineError("broken"))).warmup()
    with pytest.raises(EngineError, match="score"):
        _detector(FakeBackend(outputs={})).warmup()


def test_closing_twice_closes_both_parts_once():
    backend, finder = FakeBackend(), FakeFaceFinder()
    detector = _detector(backend, finder=finder)
    detector.close()
    detector.close()
    assert (backend.closed, finder.closed) == (1, 1)


def test_the_face_finder_is_closed_even_if_closing_the_model_fails():
    class Stubborn(FakeBackend):
        def close(self):
            raise EngineError("will not close")

    finder = FakeFaceFinder()
    with pytest.raises(EngineError, match="will not close"):
        _detector(Stubborn(), finder=finder).close()
    assert finder.closed == 1


def test_a_detector_is_a_context_manager_and_useless_afterwards():
    backend = FakeBackend()
    with _detector(backend) as detector:
        assert isinstance(detector.detect(_FRAME), Observation)
    assert backend.closed == 1
    for use in (lambda: detector.detect(_FRAME), detector.warmup, detector.__enter__):
        with pytest.raises(EngineError, match="closed"):
            use()


def test_a_model_is_closed_again_when_the_face_finder_cannot_be_opened():
    backend = FakeBackend()

    def no_finder():
        raise EngineUnavailableError("no finder here")

    with pytest.raises(EngineUnavailableError, match="no finder here"):
        open_parts(lambda: backend, no_finder)
    assert backend.closed == 1


def test_parts_that_open_stay_open():
    backend, finder = FakeBackend(), FakeFaceFinder()
    assert open_parts(lambda: backend, lambda: finder) == (backend, finder)
    assert (backend.closed, finder.closed) == (0, 0)


# --- choosing an engine -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "installed", "expected"),
    [
        (("openvino", "litert", "onnxruntime"), {"openvino", "litert"}, "openvino"),
        (("onnxruntime", "litert", "openvino"), {"litert", "onnxruntime"}, "litert"),
        (("onnxruntime",), {"openvino", "litert", "onnxruntime"}, "onnxruntime"),
    ],
)
def test_auto_takes_the_first_engine_that_is_installed_and_has_a_file(offered, installed, expected):
    assert choose_engine(fake_card(engines=offered), installed=installed).engine == expected


def test_auto_without_a_usable_engine_says_what_to_install():
    with pytest.raises(EngineUnavailableError, match=r"litert.*pip install 'fasedge\[litert\]'"):
        choose_engine(fake_card(engines=("litert",)), installed={"openvino"})


def test_auto_never_changes_the_precision():
    card = fake_card(engines=("openvino",), precisions=("int8",))
    with pytest.raises(ModelNotFoundError, match="fp32"):
        choose_engine(card, "auto", "fp32", installed={"openvino"})


def test_a_named_engine_is_never_replaced():
    card = fake_card(engines=("litert",))
    with pytest.raises(ModelNotFoundError, match="openvino/int8"):
        choose_engine(card, "openvino", installed={"litert", "openvino"})
    with pytest.raises(InputError, match="tensorrt"):
        choose_engine(card, "tensorrt")


# --- construction from a folder -----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    (tmp_path / CARD_NAME).write_text(dump_card(fake_card()))
    for name in ("fake-int8.xml", "fake-int8.bin", "fake-int8.tflite", "fake-int8.onnx"):
        (tmp_path / name).write_bytes(b"not what the card says")
    return tmp_path


@pytest.mark.parametrize("engine", ["openvino", "litert", "onnxruntime"])
def test_altered_files_are_refused_before_any_engine_sees_them(folder, engine):
    with pytest.raises(IntegrityError, match="altered"):
        Detector(folder, engine=engine)


def test_a_bad_argument_is_found_before_files_are_read(folder):
    for name in ("fake-int8.xml", "fake-int8.bin"):
        (folder / name).unlink()
    with pytest.raises(CardError, match="eer"):
        Detector(folder, engine="openvino", operating_point="eer")
    with pytest.raises(InputError, match="threads"):
        Detector(folder, engine="openvino", threads=0)
    with pytest.raises(ModelNotFoundError, match="fake-int8"):
        Detector(folder, engine="openvino")


def test_an_unknown_model_and_a_spoilt_card_are_refused(folder):
    with pytest.raises(ModelNotFoundError, match="no-such-model"):
        Detector("no-such-model")
    raw = json.loads((folder / CARD_NAME).read_text())
    raw["files"][0]["path"] = "../fake-int8.xml"
    (folder / CARD_NAME).write_text(json.dumps(raw))
    with pytest.raises(CardError, match="plain names"):
        Detector(folder)
