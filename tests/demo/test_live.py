"""The demo window, without a window: what it draws, and how it takes what sources and detectors deliver."""

import cv2
import numpy as np
import pytest

import fasedge
from demo import live
from fasedge.errors import SourceError
from fasedge.sources import BadItem
from fasedge.testing import FakeBackend, FakeFaceFinder, fake_card, synthetic_face, synthetic_frame


class FakeScreen:
    """Keeps what it is shown; the person stops after a number of pictures."""

    def __init__(self, patience: int = 1000) -> None:
        self.pictures: list[np.ndarray] = []
        self._patience = patience

    def show(self, picture_bgr: np.ndarray) -> bool:
        self.pictures.append(picture_bgr)
        return len(self.pictures) < self._patience


def _detector(score: float = 0.9, *, faces: int = 1) -> fasedge.Detector:
    found = [synthetic_face((160.0, 120.0), 100.0)][:faces]
    return fasedge.Detector.from_parts(FakeBackend([score]), FakeFaceFinder(found), fake_card())


def _result(decision: fasedge.Decision, score: float | None, *reasons: fasedge.Reason) -> fasedge.PadResult:
    return fasedge.PadResult(synthetic_face(), score, decision, 0.5, reasons)


def test_caption_names_decision_score_and_the_reasons_that_are_news() -> None:
    decision, reason = fasedge.Decision, fasedge.Reason
    assert live.caption(_result(decision.BONA_FIDE, 0.934)) == "bona fide 0.93"
    assert live.caption(_result(decision.ATTACK, 0.1, reason.SCORE_BELOW_THRESHOLD)) == "ATTACK 0.10"
    assert (
        live.caption(_result(decision.NON_RESPONSE, None, reason.FACE_TOO_DARK, reason.EXTREME_POSE))
        == "not checked: face too dark, extreme pose"
    )


@pytest.mark.parametrize("decision", list(fasedge.Decision))
def test_the_box_has_the_colour_of_the_decision_and_the_frame_stays_as_it_was(decision: fasedge.Decision) -> None:
    frame = synthetic_frame()
    before = frame.rgb.copy()
    picture = live.draw(frame, fasedge.Observation((_result(decision, 0.5),)))
    # The face's box is 110..210 by 70..170; its left edge, half way down, is far from both texts.
    assert tuple(picture[120, 110]) == live.COLOURS_BGR[decision]
    np.testing.assert_array_equal(frame.rgb, before)
    # Blue first: what lies between the drawings is the frame with red and blue exchanged.
    np.testing.assert_array_equal(picture[10:50, 220:310], frame.rgb[10:50, 220:310, ::-1])


def test_a_face_at_the_edge_of_a_tiny_frame_is_drawn_without_an_error() -> None:
    frame = fasedge.Frame(rgb=np.zeros((3, 2, 3), np.uint8))
    face = fasedge.Face(fasedge.Box(-50, -50, 400, 400))
    result = fasedge.PadResult(face, None, fasedge.Decision.NON_RESPONSE, 0.5, (fasedge.Reason.FACE_CUT_BY_FRAME,))
    assert live.draw(frame, fasedge.Observation((result,))).shape == (3, 2, 3)


def test_each_frame_is_judged_and_shown_and_a_bad_item_is_reported_and_passed_over(
    capsys: pytest.CaptureFixture[str],
) -> None:
    screen = FakeScreen()
    items = [synthetic_frame(), BadItem("broken.jpg", SourceError("cut short")), synthetic_frame(seed=1)]
    with _detector() as detector:
        assert live.run(detector, items, screen) == 2
    assert len(screen.pictures) == 2
    assert "broken.jpg: cut short" in capsys.readouterr().err


def test_the_loop_ends_when_the_person_stops_even_if_the_source_goes_on() -> None:
    screen = FakeScreen(patience=3)
    with _detector(faces=0) as detector:
        assert live.run(detector, (synthetic_frame(seed=i) for i in range(100)), screen) == 3


def test_without_a_screen_the_program_says_so_and_opens_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: pytest.fail("a window was opened"))
    assert live.main(["does-not-matter.mp4"]) == 3
    assert "no screen" in capsys.readouterr().err


def test_an_unknown_model_ends_with_exit_code_3_and_its_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DISPLAY", ":99")
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: pytest.fail("a window was opened"))
    assert live.main(["--model", "no-such-model"]) == 3
    assert "no-such-model" in capsys.readouterr().err
