"""Annotated pictures of the command line."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from fasedge.cli._draw import COLOURS_BGR, annotate
from fasedge.cli._output import DECISION_WORDS, REASON_WORDS, ExitCode
from fasedge.types import Box, Decision, Face, Frame, Observation, PadResult, Reason
from tests.cli_fakes import Capture, Made, documents, fake_services, picture, run


def test_annotated_pictures_are_written_beside_nothing_else(tmp_path: Path, capsys: Capture) -> None:
    path = picture(tmp_path / "in" / "a.png")
    before = path.read_bytes()
    out = tmp_path / "out" / "deep"
    assert run(fake_services(), "detect", path, "--save-dir", out, "--json") == 0
    assert [p.name for p in out.iterdir()] == ["a-annotated.jpg"]
    assert documents(capsys)[0]["annotated"] == str(out / "a-annotated.jpg")
    drawn = cv2.imread(str(out / "a-annotated.jpg"))
    assert drawn is not None
    assert path.read_bytes() == before


def test_pictures_of_the_same_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    sources = [picture(tmp_path / folder / "a.png") for folder in ("x", "y")]
    run(fake_services(), "detect", *sources, "--save-dir", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a-annotated-2.jpg", "a-annotated.jpg"]


@pytest.mark.parametrize("source", ["", "a.png"])
def test_the_folder_of_the_input_is_refused_as_output(tmp_path: Path, source: str, capsys: Capture) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "a-annotated.jpg")
    before = (tmp_path / "a-annotated.jpg").read_bytes()
    assert run(fake_services(), "detect", tmp_path / source, "--save-dir", tmp_path) == ExitCode.FAILED
    assert "must not be overwritten" in capsys.readouterr().err
    assert (tmp_path / "a-annotated.jpg").read_bytes() == before


@pytest.mark.parametrize("arguments", [["-r"], []])
def test_an_output_folder_inside_the_input_never_overwrites_an_input(
    tmp_path: Path, arguments: list[str], capsys: Capture
) -> None:
    picture(tmp_path / "a.png")
    inner = picture(tmp_path / "out" / "a-annotated.jpg")
    before = inner.read_bytes()
    code = run(fake_services(), "detect", tmp_path, *arguments, "--save-dir", tmp_path / "out")
    if arguments:
        assert code == ExitCode.FAILED
        assert inner.read_bytes() == before
    else:
        assert code == 0


def test_a_folder_that_cannot_be_written_fails_before_the_model_is_loaded(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("in the way")
    made = Made()
    path = picture(tmp_path / "a.png")
    assert run(fake_services(made=made), "detect", path, "--save-dir", tmp_path / "file" / "out") == ExitCode.FAILED
    error = capsys.readouterr().err
    assert "cannot write into the folder" in error
    assert "Traceback" not in error
    assert made.options is None


def result(decision: Decision, score: float | None, box: Box, reasons: tuple[Reason, ...] = ()) -> PadResult:
    return PadResult(
        Face(box),
        score,
        decision,
        0.5,
        reasons,
        score_map=None if score is None else np.full((14, 14), score, np.float32),
    )


@pytest.mark.parametrize("decision", list(Decision))
def test_the_box_is_drawn_in_the_colour_of_the_decision(decision: Decision) -> None:
    frame = Frame(rgb=np.full((400, 600, 3), 255, np.uint8))
    drawn = annotate(frame, Observation((result(decision, 0.4, Box(200, 150, 400, 350)),)))
    assert drawn.shape == (400, 600, 3)
    np.testing.assert_allclose(drawn[250, 200], COLOURS_BGR[decision], atol=2)
    assert (drawn[250, 300] == 255).all()  # the face itself stays free


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 2000), (2000, 3), (64, 64), (4000, 3000)])
def test_annotation_fits_any_size_and_leaves_the_frame_untouched(width: int, height: int) -> None:
    rgb = np.full((height, width, 3), 90, np.uint8)
    frame = Frame(rgb=rgb)
    boxes = [
        Box(-50, -50, width + 50, height + 50),
        Box(width - 0.5, height - 0.5, width, height),
        Box(-9e9, 0, 9e9, 1),
    ]
    every_reason = tuple(Reason)
    results = tuple(result(Decision.ATTACK, 0.123, box, every_reason) for box in boxes)
    drawn = annotate(frame, Observation(results, reasons=every_reason))
    assert drawn.dtype == np.uint8
    assert min(drawn.shape[:2]) >= min(width, height)
    assert (rgb == 90).all()


def test_the_score_map_goes_into_the_corner() -> None:
    frame = Frame(rgb=np.zeros((500, 500, 3), np.uint8))
    box = Box(50, 50, 150, 150)
    low = annotate(frame, Observation((result(Decision.ATTACK, 0.0, box),)))
    high = annotate(frame, Observation((result(Decision.BONA_FIDE, 1.0, box),)))
    assert int(high[450, 450].sum()) > int(low[450, 450].sum())
    assert (annotate(frame, Observation((result(Decision.NON_RESPONSE, None, box),)))[450, 450] == 0).all()


def test_every_decision_and_reason_has_words() -> None:
    assert set(DECISION_WORDS) == set(Decision)
    assert set(REASON_WORDS) == set(Reason)
    assert all(words.isascii() for words in (*DECISION_WORDS.values(), *REASON_WORDS.values()))
