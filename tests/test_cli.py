"""The command line, run in-process with a fake model, engine and face finder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from fasedge.backends import BackendInfo
from fasedge.cards import ModelCard
from fasedge.cli import main
from fasedge.cli._draw import COLOURS_BGR, annotate
from fasedge.cli._output import DECISION_WORDS, REASON_WORDS, ExitCode, printable
from fasedge.cli._services import DetectorOptions, Services
from fasedge.detector import Detector
from fasedge.errors import CardError, EngineError, EngineUnavailableError, ModelNotFoundError
from fasedge.selftest import SelftestReport
from fasedge.sources import BadItem
from fasedge.testing import FakeBackend, FakeFaceFinder, fake_card, synthetic_face, synthetic_frame
from fasedge.types import Box, Decision, Face, Frame, Observation, PadResult, Reason

GOOD, EVIL = 0.9, 0.1  # the fake card's threshold is 0.5


@dataclass
class Made:
    """What the fake factory made."""

    options: DetectorOptions | None = None
    backend: FakeBackend | None = None


def fake_services(
    scores: Sequence[float] = (GOOD,),
    faces: Sequence[Face] | None = None,
    *,
    map_side: int = 0,
    made: Made | None = None,
) -> Services:
    """Services around a scripted detector."""
    made = made or Made()
    found = (synthetic_face(),) if faces is None else faces

    def open_detector(options: DetectorOptions) -> Detector:
        made.options = options
        made.backend = FakeBackend(scores, map_side=map_side)
        return Detector.from_parts(
            made.backend,
            FakeFaceFinder(found),
            fake_card(),
            operating_point=options.operating_point,
            threshold=options.threshold,
        )

    return Services(open_detector=open_detector)


def picture(path: Path, width: int = 320, height: int = 240) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = synthetic_frame(width, height)
    assert cv2.imwrite(str(path), frame.rgb[..., ::-1])
    return path


def run(services: Services, *arguments: object) -> int:
    return main([str(argument) for argument in arguments], services=services)


Capture = pytest.CaptureFixture[str]


def documents(capsys: Capture) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


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


# ---------------------------------------------------------------------------------------------- annotated pictures


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


# ------------------------------------------------------------------------------------- models, selftest, doctor


def test_models_are_listed_from_their_cards(capsys: Capture) -> None:
    services = replace(fake_services(), model_ids=lambda: ("fake-model",), load_card=lambda _: fake_card())
    assert run(services, "models") == 0
    out = capsys.readouterr().out
    for words in (
        "fake-model 0",
        "bpcer5 (default)",
        "bpcer10",
        "openvino",
        "5.0% (print)",
        "5.0% of 100",
        "does not exist",
    ):
        assert words in out
    assert run(services, "models", "--json") == 0
    ((document,),) = documents(capsys)
    assert document["id"] == "fake-model"
    assert document["operating_points"][0]["apcer_max"] == 0.05


def test_a_malformed_card_is_named_and_the_others_are_listed(capsys: Capture) -> None:
    def load(model: str) -> ModelCard:
        if model == "bad":
            raise CardError("no summary")
        return fake_card()

    services = replace(fake_services(), model_ids=lambda: ("bad", "fake-model"), load_card=load)
    assert run(services, "models") == ExitCode.BAD_FILES
    captured = capsys.readouterr()
    assert "bad: no summary" in captured.err
    assert "fake-model" in captured.out


def report(engine: str, *failures: str) -> SelftestReport:
    info = BackendInfo(engine, "1.0", "CPU", 1, batched=True)
    return SelftestReport("fake-model", "int8", info, 8, 0.05, 0.01, None, 0.4, 0.3, failures)


def selftest_services(outcomes: dict[str, SelftestReport | Exception]) -> Services:
    def run_selftest(_: str, engine: str, __: str) -> SelftestReport:
        outcome = outcomes[engine]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return replace(fake_services(), run_selftest=run_selftest, load_card=lambda _: fake_card())


ABSENT = EngineUnavailableError("not installed")


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ({"openvino": report("openvino"), "litert": report("litert"), "onnxruntime": report("onnxruntime")}, 0),
        ({"openvino": report("openvino"), "litert": ABSENT, "onnxruntime": ABSENT}, 0),
        ({"openvino": report("openvino"), "litert": report("litert", "scores differ"), "onnxruntime": ABSENT}, 4),
        ({"openvino": report("openvino"), "litert": EngineError("cannot load"), "onnxruntime": ABSENT}, 4),
        ({"openvino": ABSENT, "litert": ABSENT, "onnxruntime": ABSENT}, 4),
    ],
    ids=["all pass", "absent engines do not count", "one differs", "one breaks", "nothing ran"],
)
def test_the_selftest_passes_only_if_something_ran_and_nothing_failed(
    outcomes: dict[str, SelftestReport | Exception], code: int, capsys: Capture
) -> None:
    services = selftest_services(outcomes)
    assert run(services, "selftest", "fake-model") == code
    assert run(services, "selftest", "fake-model", "--json") == code
    (last,) = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert [entry["engine"] for entry in last] == ["openvino", "litert", "onnxruntime"]


def test_an_engine_that_was_asked_for_must_be_there() -> None:
    assert run(selftest_services({"litert": ABSENT}), "selftest", "m", "--engine", "litert") == 4
    assert run(selftest_services({"litert": report("litert")}), "selftest", "m", "--engine", "litert") == 0


def doctor_services(installed: dict[str, str], try_python: Callable[[str], str]) -> Services:
    names = ("openvino", "litert", "onnxruntime")
    missing = {name: f"{name} is not installed" for name in names if name not in installed}
    return replace(
        fake_services(),
        installed_engines=lambda: installed,
        missing_engines=lambda: missing,
        try_python=try_python,
        model_ids=lambda: ("fake-model",),
    )


def test_the_doctor_is_content_with_one_engine_and_one_finder(capsys: Capture) -> None:
    services = doctor_services({"litert": "2.3"}, lambda code: "no libEGL" if "mediapipe" in code else "")
    assert run(services, "doctor", "--json") == 0
    (document,) = documents(capsys)
    checks = {check["name"]: check for check in document["checks"]}
    assert document["usable"] is True
    assert checks["litert"]["ok"]
    assert checks["litert"]["detail"] == "2.3"
    assert not checks["openvino"]["ok"]
    assert checks["openvino"]["fix"] == "pip install 'fasedge[openvino]'"
    assert checks["mediapipe"]["detail"] == "no libEGL"
    assert {"python", "platform", "cpu", "opencv", "numpy", "fasedge"} == set(document["system"])


def test_an_engine_that_is_installed_but_does_not_start_does_not_count(capsys: Capture) -> None:
    services = doctor_services({"openvino": "2026.4"}, lambda code: "Illegal instruction" if "openvino" in code else "")
    assert run(services, "doctor") == ExitCode.FAILED
    out = capsys.readouterr().out
    assert "does not start: Illegal instruction" in " ".join(out.split())
    assert "pip install 'fasedge[openvino]'" in out


def test_the_doctors_probe_survives_the_death_of_the_engine() -> None:
    probe = Services().try_python
    assert probe("pass") == ""
    assert probe("raise ImportError('libEGL.so.1: cannot open')").endswith("libEGL.so.1: cannot open")
    assert "signal 6" in probe("import os; os.abort()")


# ----------------------------------------------------------------------------------------------------------- demo


def sample_pack(folder: Path) -> Path:
    picture(folder / "live.png")
    picture(folder / "print.png")
    entries = [
        {"file": "live.png", "kind": "image", "truth": "bona_fide", "species": None, "attribution": "A. Painter, CC0"},
        {"file": "print.png", "kind": "image", "truth": "attack", "species": "print", "attribution": "B. Drawer, CC0"},
    ]
    (folder / "index.json").write_text(json.dumps(entries))
    return folder


def test_the_demo_shows_the_truth_beside_each_decision(tmp_path: Path, capsys: Capture) -> None:
    services = replace(fake_services((GOOD, EVIL)), samples=sample_pack(tmp_path / "samples"))
    assert run(services, "demo", "--out", tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert "attack (print)" in out
    assert "1 of 1 bona fide accepted, 1 of 1 attacks caught, 0 not checked" in out
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["ATTRIBUTION.txt", "live-annotated.jpg", "print-annotated.jpg"]
    assert "print.png: B. Drawer, CC0" in (tmp_path / "out" / "ATTRIBUTION.txt").read_text()
    assert str(tmp_path / "out" / "ATTRIBUTION.txt") in out.replace("\n", "")


def test_the_demo_counts_wrong_decisions_as_wrong(tmp_path: Path, capsys: Capture) -> None:
    services = replace(fake_services((EVIL, GOOD)), samples=sample_pack(tmp_path / "samples"))
    assert run(services, "demo", "--out", tmp_path / "out", "--json") == 0
    assert [(d["truth"], d["decision"], d["right"]) for d in documents(capsys)] == [
        ("bona_fide", "attack", False),
        ("attack", "bona_fide", False),
    ]


def test_the_demo_without_a_sample_pack_says_what_to_do_instead(tmp_path: Path, capsys: Capture) -> None:
    services = replace(fake_services(), samples=tmp_path / "nothing")
    assert run(services, "demo", "--out", tmp_path / "out") == ExitCode.FAILED
    assert "fasedge detect" in capsys.readouterr().err


@pytest.mark.parametrize(
    "index", ["{", "[]", '[{"file": "../secret.png", "kind": "image", "truth": "attack"}]', '[{"file": 1}]']
)
def test_a_malformed_sample_pack_is_a_typed_error(tmp_path: Path, index: str, capsys: Capture) -> None:
    (tmp_path / "index.json").write_text(index)
    assert run(replace(fake_services(), samples=tmp_path), "demo", "--out", tmp_path / "out") == ExitCode.FAILED
    assert "Traceback" not in capsys.readouterr().err


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
