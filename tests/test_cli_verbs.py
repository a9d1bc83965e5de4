"""The verbs ``models``, ``selftest``, ``doctor`` and ``demo``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from fasedge.backends import BackendInfo
from fasedge.cards import ModelCard, Rate, Span
from fasedge.cli._output import ExitCode
from fasedge.cli._services import Services
from fasedge.errors import CardError, EngineError, EngineUnavailableError
from fasedge.selftest import SelftestReport
from fasedge.testing import fake_card
from tests.cli_fakes import EVIL, GOOD, Capture, documents, fake_services, picture, run

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
    assert document["operating_points"][0]["bpcer_people"] is None
    assert document["operating_points"][0]["bpcer_by_source"] == {}


def test_models_say_what_depends_on_the_source_of_portraits(capsys: Capture) -> None:
    def rate(errors: int, n: int) -> Rate:
        return Rate(value=errors / n, errors=errors, n=n, low=0.0, high=1.0, people=Span(low=0.0, high=0.5))

    card = fake_card()
    points = tuple(
        msgspec.structs.replace(
            point,
            bpcer=rate(6, 40),
            apcer_by_source={"lab": {"print": rate(1, 10), "mask": rate(2, 10)}, "street": {"print": rate(0, 9)}},
            bpcer_by_source={"lab": rate(1, 20), "street": rate(5, 20)},
            acer_people=Span(low=0.25, high=0.75),
        )
        for point in card.operating_points
    )
    known = msgspec.structs.replace(card, operating_points=points)
    services = replace(fake_services(), model_ids=lambda: ("fake-model",), load_card=lambda _: known)
    assert run(services, "models") == 0
    missed, rejected = "attacks missed 20.0% of 10 (mask, lab)", "people rejected 25.0% of 20 (street)"
    assert f"Worst collection of portraits at bpcer5 (int8, rgb): {missed}, {rejected}." in capsys.readouterr().out
    assert run(services, "models", "--json") == 0
    ((document,),) = documents(capsys)
    point = document["operating_points"][0]
    assert point["apcer_max_by_source"] == {"lab": 0.2, "street": 0.0}
    assert point["bpcer_by_source"] == {"lab": 0.05, "street": 0.25}
    assert (point["bpcer_people"], point["acer_people"]) == ([0.0, 0.5], [0.25, 0.75])


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
    row = next(line.split() for line in out.splitlines() if line.startswith("print.png"))
    assert row[1:4] == ["print", "1", "attack"]  # what it is, how many faces, what was decided
    assert "yes" in row
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
