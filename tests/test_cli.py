"""The command line: exit codes, ``detect``, behaviour as a process."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from fasedge.cli import main
from fasedge.cli._output import ExitCode, printable
from fasedge.cli._services import DetectorOptions
from fasedge.detector import Detector
from fasedge.errors import EngineError, ModelNotFoundError
from fasedge.sources import BadItem
from fasedge.testing import FakeBackend, FakeFaceFinder, fake_card, synthetic_face, synthetic_frame
from fasedge.types import Face, Frame
from tests.cli_fakes import EVIL, GOOD, Capture, Made, documents, fake_services, picture, run

# --------------------------------------------------------------------------------------------------- exit codes


@pytest.mark.parametrize(
    ("scores", "faces", "code"),
    [
        ((GOOD,), None, 0),
        ((EVIL,), None, 1),
        ((GOOD,), (), 2),
        ((GOOD, EVIL), (synthetic_face((90, 120), 90), synthetic_face((230, 120), 90)), 1),
        ((GOOD,), (synthetic_face((160, 120), 8),), 2),
    ],
    ids=["bona fide", "attack", "no face", "one of two is an attack", "face too small to judge"],
)
def test_the_exit_code_says_what_was_decided(
    tmp_path: Path, scores: Sequence[float], faces: Sequence[Face] | None, code: int
) -> None:
    assert run(fake_services(scores, faces), "detect", picture(tmp_path / "a.png")) == code


def test_a_broken_file_among_good_ones_is_reported_and_the_run_goes_on(tmp_path: Path, capsys: Capture) -> None:
    picture(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(b"oops")
    picture(tmp_path / "3.png")
    assert run(fake_services(), "detect", tmp_path) == ExitCode.BAD_FILES
    out = capsys.readouterr().out
    assert out.index("1.png") < out.index("2.png") < out.index("3.png")
    assert "failed" in out
    assert "2 frames, 2 faces: 2 bona fide, 0 attacks, 0 not checked; 1 failed file" in out


def test_a_source_that_does_not_exist_does_not_stop_the_others(tmp_path: Path, capsys: Capture) -> None:
    good = picture(tmp_path / "a.png")
    assert run(fake_services(), "detect", tmp_path / "gone.png", good, "--json") == 3
    first, second = documents(capsys)
    assert first["error"]["type"] == "SourceError"
    assert "does not exist" in first["error"]["message"]
    assert second["decision"] == "bona_fide"


@pytest.mark.parametrize(
    "arguments",
    [
        ["detect"],
        ["detect", "--engine", "abacus", "a.png"],
        ["nonsense"],
        ["detect", "a.png", "--threshold", "2"],
        ["detect", "a.png", "--every", "0"],
        ["detect", "a.png", "--threads", "0"],
        [],
    ],
)
def test_wrong_usage_is_never_taken_for_a_decision(arguments: list[str], capsys: Capture) -> None:
    assert main(arguments, services=fake_services()) == ExitCode.USAGE


def test_a_missing_model_gives_a_message_and_a_hint_but_no_traceback(capsys: Capture) -> None:
    def refuse(_: DetectorOptions) -> Detector:
        raise ModelNotFoundError("unknown model 'x'")

    assert run(replace(fake_services(), open_detector=refuse), "detect", "a.png") == ExitCode.FAILED
    error = capsys.readouterr().err
    assert "unknown model 'x'" in error
    assert "fasedge models" in error
    assert "Traceback" not in error


def test_a_crash_is_never_taken_for_a_decision(capsys: Capture) -> None:
    def crash(_: DetectorOptions) -> Detector:
        raise RuntimeError("a bug")

    assert run(replace(fake_services(), open_detector=crash), "detect", "a.png") == ExitCode.CRASHED
    assert "a bug" in capsys.readouterr().err


class Interrupted:
    """A source whose user presses Ctrl-C after the first frame."""

    name = "webcam:0"
    closed = False

    def __iter__(self) -> Iterator[Frame | BadItem]:
        yield synthetic_frame(name="webcam:0#1")
        raise KeyboardInterrupt

    def close(self) -> None:
        self.closed = True


def test_ctrl_c_ends_with_130_after_the_summary_and_lets_go_of_the_camera(capsys: Capture) -> None:
    source = Interrupted()
    services = replace(fake_services(), open_source=lambda *_, **__: source)
    assert run(services, "detect", "webcam:0") == 130
    assert "1 frame, 1 face" in capsys.readouterr().out
    assert source.closed


def test_ctrl_c_while_the_model_loads_ends_with_130() -> None:
    def interrupt(_: DetectorOptions) -> Detector:
        raise KeyboardInterrupt

    assert run(replace(fake_services(), open_detector=interrupt), "detect", "a.png") == 130


def test_the_detector_is_closed_after_the_run(tmp_path: Path) -> None:
    made = Made()
    run(fake_services(made=made), "detect", picture(tmp_path / "a.png"))
    assert made.backend is not None
    assert made.backend.closed == 1


def test_an_engine_that_fails_on_a_frame_is_no_decision_and_prints_no_traceback(
    tmp_path: Path, capsys: Capture
) -> None:
    def open_detector(_: DetectorOptions) -> Detector:
        backend = FakeBackend(error=EngineError("the accelerator is on fire"))
        return Detector.from_parts(backend, FakeFaceFinder((synthetic_face(),)), fake_card())

    services = replace(fake_services(), open_detector=open_detector)
    assert run(services, "detect", picture(tmp_path / "a.png")) == 2
    captured = capsys.readouterr()
    assert "engine failed" in captured.out
    assert "on fire" in captured.err
    assert "Traceback" not in captured.err


def test_the_callers_logging_is_left_as_it_was(tmp_path: Path) -> None:
    logger = logging.getLogger("fasedge")
    before = (list(logger.handlers), logger.propagate, cv2.utils.logging.getLogLevel())
    run(fake_services(), "detect", picture(tmp_path / "a.png"))
    assert (logger.handlers, logger.propagate, cv2.utils.logging.getLogLevel()) == before


# --------------------------------------------------------------------------------------------------------- detect


def test_every_option_reaches_the_detector(tmp_path: Path) -> None:
    made = Made()
    arguments = ["detect", picture(tmp_path / "a.png"), "--model", "m", "--engine", "litert", "--precision", "fp32"]
    # The fake card has no fp32 operating point, which does not matter for an own threshold.
    arguments += ["--threshold", "0.95", "--finder", "blazeface", "--threads", "2"]
    assert run(fake_services(made=made), *arguments) == 1
    assert made.options == DetectorOptions("m", "litert", "fp32", None, 0.95, "blazeface", 2)


def test_the_operating_point_shifts_the_decision(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    assert run(fake_services((0.6,)), "detect", path, "--operating-point", "bpcer5") == 0  # threshold 0.5
    assert run(fake_services((0.6,)), "detect", path, "--operating-point", "bpcer10") == 1  # threshold 0.7
    assert run(fake_services((0.6,)), "detect", path, "--operating-point", "nope") == ExitCode.FAILED


def test_json_is_one_document_per_frame_with_stable_keys_and_nothing_else(tmp_path: Path, capsys: Capture) -> None:
    picture(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("left out")
    assert run(fake_services((EVIL,)), "detect", tmp_path, "--json") == 3
    good, bad = documents(capsys)
    assert list(good) == list(bad)
    assert list(good) == [
        "name", "timestamp_s", "decision", "reasons", "faces", "timings_ms", "annotated", "error",
    ]  # fmt: skip
    (face,) = good["faces"]
    assert face["score"] == pytest.approx(0.1)
    assert face["threshold"] == 0.5
    assert face["decision"] == good["decision"] == "attack"
    assert face["reasons"] == ["score_below_threshold"]
    assert face["box_xyxy"] == [110.0, 70.0, 210.0, 170.0]
    assert face["modalities"] == ["rgb"]
    assert set(good["timings_ms"]) == {"find", "crop", "infer", "total"}
    assert good["error"] is None
    assert (bad["decision"], bad["reasons"], bad["faces"]) == ("non_response", ["unusable_image"], [])
    assert bad["error"]["type"] == "SourceError"


def test_json_of_a_frame_without_a_face_says_no_face(tmp_path: Path, capsys: Capture) -> None:
    assert run(fake_services(faces=()), "detect", picture(tmp_path / "a.png"), "--json") == 2
    (document,) = documents(capsys)
    assert (document["decision"], document["reasons"], document["faces"]) == ("non_response", ["no_face"], [])


def test_the_table_speaks_plain_words(tmp_path: Path, capsys: Capture) -> None:
    run(fake_services(faces=()), "detect", picture(tmp_path / "a.png"))
    out = capsys.readouterr().out
    assert "not checked" in out
    assert "no face found" in out
    assert "1 frame without a face" in out
    assert "operating point bpcer5" in out


def test_a_picture_of_one_pixel_is_not_checked(tmp_path: Path, capsys: Capture) -> None:
    cv2.imwrite(str(tmp_path / "dot.png"), np.zeros((1, 1, 3), np.uint8))
    assert run(fake_services(), "detect", tmp_path / "dot.png", "--save-dir", tmp_path / "out") == 2
    assert (tmp_path / "out" / "dot-annotated.jpg").is_file()


def test_videos_are_thinned_out_by_the_options(tmp_path: Path, capsys: Capture) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (320, 240))
    for _ in range(9):
        writer.write(synthetic_frame().rgb[..., ::-1].copy())
    writer.release()
    assert run(fake_services(), "detect", tmp_path / "a.avi", "--json", "--every", 3, "--max-frames", 2) == 0
    assert [Path(d["name"]).name for d in documents(capsys)] == ["a.avi#1", "a.avi#4"]


def test_files_that_are_left_out_of_a_folder_are_named(tmp_path: Path, capsys: Capture) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("hello")
    assert run(fake_services(), "detect", tmp_path) == 0
    assert "left out: notes.txt" in capsys.readouterr().out


def test_a_long_path_is_never_cut_off(tmp_path: Path, capsys: Capture) -> None:
    path = picture(tmp_path / ("long" * 30 + ".png"))
    run(fake_services(), "detect", path)
    squeezed = "".join(capsys.readouterr().out.split())
    assert squeezed.count("long") >= 30


@pytest.mark.parametrize("name", ["[bold red]a.png", "a:smile:.png", "\x1b[31ma.png", "ä面.png"])
def test_strange_file_names_neither_crash_nor_steer_the_terminal(tmp_path: Path, name: str, capsys: Capture) -> None:
    assert run(fake_services(), "detect", picture(tmp_path / "x.png").rename(tmp_path / name)) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "".join(printable(name).split()) in "".join(out.split())


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="this file system takes only text as names")
def test_a_file_name_that_is_no_text_still_gives_json(tmp_path: Path, capsys: Capture) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.png"))
    picture(tmp_path / "x.png").rename(path)
    assert run(fake_services(), "detect", path, "--json") == 0
    assert documents(capsys)[0]["name"] == str(path)


# ------------------------------------------------------------------------------------------------- as a process


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)


def test_help_imports_no_engine() -> None:
    done = python(
        "import sys; from fasedge.cli import main; code = main(['--help']);"
        "engines = {'openvino', 'mediapipe', 'onnxruntime', 'ai_edge_litert', 'tflite_runtime', 'torch'};"
        "loaded = engines & set(sys.modules);"
        "sys.exit(f'loaded {loaded}' if loaded else code)"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "bona fide" in done.stdout


def test_a_reader_that_goes_away_ends_the_run_quietly(tmp_path: Path) -> None:
    for number in range(50):
        picture(tmp_path / f"{number}.png", 64, 64)
    code = (
        "import sys\n"
        "from fasedge.cli import main\n"
        "from fasedge.cli._services import Services\n"
        "from fasedge.detector import Detector\n"
        "from fasedge.testing import FakeBackend, FakeFaceFinder, fake_card\n"
        "def make(_):\n"
        "    return Detector.from_parts(FakeBackend(), FakeFaceFinder(), fake_card())\n"
        "sys.exit(main(sys.argv[1:], services=Services(open_detector=make)))\n"
    )
    for extra in ([], ["--json"]):
        child = subprocess.Popen(
            [sys.executable, "-c", code, "detect", str(tmp_path), *extra],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline()
        child.stdout.close()
        error = child.stderr.read()
        child.stderr.close()
        assert (child.wait(timeout=120), error) == (ExitCode.PIPE_CLOSED, "")


def test_python_dash_m_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fasedge", "--version"], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0
    assert done.stdout.startswith("fasedge ")
