"""``python -m quantize run``: what is begun with, what is skipped, what is done again."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from shutil import copytree, rmtree

import msgspec
import numpy as np
import pytest
import torch

from fasedge.cards import find_model, load_card, models_folder, sha256_of
from fasedge.selftest import run_selftest
from quantize import run_command
from quantize.__main__ import main
from quantize.distil_command import Lessons
from quantize.facts import golden_indices
from quantize.run_checks import DEFAULT_STUDENTS
from quantize.students import new_student
from tests.quantize.test_rgbd import teacher_file
from tests.training.fixtures.evaluation_sets import drawn_set, untrained_run, write_set
from tests.training.fixtures.face_pack import write_face_pack
from tests.training.fixtures.toy_sets import toy_set
from training.backbones import TRUNKS
from training.checkpoint import load_checkpoint, save_checkpoint
from training.config import InputConfig, MethodConfig, TrainConfig
from training.data.samples import SampleSet

#: A student that learns the colours of the toy sets in seconds, for teachers of 64 px and one face box.
STUDENT = """
[input]
size_px = 64
brightness = false
[method]
name = "a-deeppixbis"
trunk = "plain_xs"
scale = 8.0
margin = 0.0
[optimiser]
batch = 16
epochs = 6
learning_rate = 3e-3
keep = "last"
[machine]
ahead = 0
"""
STEPS = ("distil", "round", "calibrate", "export", "int8", "facts", "parity", "latency", "publish")
SETS = ("train", "dev", "test")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["quantize", "run", *map(str, arguments)])
    return main()


@pytest.fixture
def order(tmp_path: Path) -> list[object]:
    """What every run is given, with something of everything that it reads.

    Six of the 64 living people of the dev set are as grey as no attack: the threshold that rejects 5 % of them lies
    between the classes of the test set, and no rounding of any CPU moves a picture across it.
    """
    tints = {name: np.full(128, 40.0) for name in SETS}
    tints["dev"][1:61:10] = 0.0
    sets = [(f"--{name}", write_set(tmp_path / name, toy_set(128, split=name, tint=tints[name]))) for name in SETS]
    more = ["--data", write_face_pack(tmp_path / "faces"), "--models", tmp_path / "models", "--id", "tiny"]
    return [*(part for pair in sets for part in pair), *more, "--out", tmp_path / "out"]


@pytest.fixture
def lessons(tmp_path: Path) -> list[object]:
    """A method, a student of it and somebody who teaches it."""
    (tmp_path / "student.toml").write_text(STUDENT)
    teacher = untrained_run(tmp_path / "teacher", "a-deeppixbis") / "best.safetensors"
    return ["a-deeppixbis", "--student", tmp_path / "student.toml", "--teacher", teacher]


@pytest.fixture
def asked(order: list[object], lessons: list[object]) -> list[object]:
    """From a full-precision network on."""
    return [*lessons, *order]


def student_of(path: Path, method: str = "binary-trunk") -> Path:
    """A student whom nobody has trained, as `distil` leaves it."""
    torch.manual_seed(0)
    trunk = TRUNKS["plain_xs"]()
    config = TrainConfig(input=InputConfig(size_px=64), method=MethodConfig(name=method, trunk="plain_xs"))
    student = new_student(method, trunk, trunk.out_channels)
    save_checkpoint(path, student.state_dict(), {"config": msgspec.to_builtins(config)})
    return path


@pytest.mark.slow
def test_a_full_precision_network_becomes_a_published_model_and_nothing_is_done_twice(
    order: list[object],
    lessons: list[object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("litert_torch")
    for module in ("run_command", "facts_command"):  # toys are in no face pack
        monkeypatch.setattr(f"quantize.{module}.golden_indices", lambda *_: [1, 2])
    asked = [*lessons, *order, "--alpha", 0.1, "--crops", 64, "--steps", 20]
    assert run(monkeypatch, *asked) == 0
    model = tmp_path / "models" / "tiny"
    card = load_card(model)
    assert [file for file in card.files if not run_selftest(model, file.engine, file.precision).passed] == []
    assert {(file.engine, file.precision) for file in card.files} == {(r.engine, r.precision) for r in card.parity}
    assert len(card.files) == 6
    assert card.provenance["student_teacher_sha256"] == sha256_of(Path(str(lessons[-1])))
    assert card.provenance["student_sha256"] == sha256_of(tmp_path / "out" / "student" / "best.safetensors")
    assert {point.precision for point in card.operating_points} == {"fp32", "int8"}

    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in model.iterdir()}
    assert run(monkeypatch, *asked) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines() if "skipped" in line] == list(STEPS)
    assert {path: path.stat().st_mtime_ns for path in model.iterdir()} == before

    # Whoever has the student can begin with it, and finds the rest done.
    checkpoint = tmp_path / "out" / "student" / "best.safetensors"
    assert run(monkeypatch, *order, "--checkpoint", checkpoint, "--crops", 64, "--steps", 20) == 0
    assert capsys.readouterr().out.count("skipped") == len(STEPS) - 1


# Steps that write a line each instead of networks: what they make depends on what they read, and on nothing else.


class StoppedError(Exception):
    """Where a test kills a run."""


class Workshop:
    """Runs whose steps only write down what they were given; one of them may be killed half-way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], out: Path) -> None:
        self._monkeypatch, self._capsys, self._out = monkeypatch, capsys, out
        self.killed, self.done = "", list[str]()
        fakes: dict[str, tuple[str, Callable[..., list[Path]]]] = {
            "train_student": ("distil", lambda *given: [given[4] / "best.safetensors"]),
            "round_command": ("round", lambda *given, **_: [given[1]]),
            "calibrate": ("calibrate", lambda **given: [given["calibration"]]),
            "export": ("export", lambda *_: [out / f"fp32.{end}" for end in ("xml", "bin", "tflite", "onnx")]),
            "int8": ("int8", lambda *_: [out / f"int8.{end}" for end in ("xml", "bin", "tflite", "onnx")]),
            "facts_command": ("facts", lambda **given: [given["facts"], given["golden"]]),
            "parity": ("parity", lambda *_: [out / "parity.json"]),
            "latency": ("latency", lambda **_: [out / "latency.json"]),
            "publish_command": ("publish", lambda **given: [given["models"] / "tiny" / "card.json"]),
        }
        for function, (step, files) in fakes.items():
            monkeypatch.setattr(run_command, function, partial(self._do, step, files))

    def _do(self, step: str, files: Callable[..., list[Path]], *given: object, **named: object) -> None:
        self.done.append(step)
        record = json.loads((self._out / "steps.json").read_bytes())
        for number, path in enumerate(files(*given, **named)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("half" if step == self.killed else f"{number} {record[step]['inputs']}")
        if step == self.killed:
            raise StoppedError

    def run(self, *arguments: object, kill: str = "") -> tuple[list[str], list[str]]:
        """Steps that were done, and what was said of every step."""
        self.killed = kill
        self.done.clear()
        self._capsys.readouterr()
        if kill:
            with pytest.raises(StoppedError):
                run(self._monkeypatch, *arguments)
        else:
            assert run(self._monkeypatch, *arguments) == 0, self._capsys.readouterr().err
        return list(self.done), self._capsys.readouterr().out.splitlines()


@pytest.fixture
def workshop(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Workshop:
    monkeypatch.setattr(run_command, "golden_indices", lambda *_: [1, 2])
    return Workshop(monkeypatch, capsys, tmp_path / "out")


@pytest.mark.parametrize("step", STEPS)
def test_a_run_that_was_killed_goes_on_with_the_step_that_it_was_killed_in(
    step: str, workshop: Workshop, asked: list[object]
) -> None:
    at = STEPS.index(step)
    done, _ = workshop.run(*asked, kill=step)
    assert done == list(STEPS[: at + 1])
    done, said = workshop.run(*asked)
    assert done == list(STEPS[at:])
    assert [line.split(":")[0] for line in said if "skipped" in line] == list(STEPS[:at])
    assert f"{step}: goes on, it had not finished" in said
    assert len(said) == len(STEPS)


def test_nothing_is_published_when_a_step_before_fails(workshop: Workshop, asked: list[object], tmp_path: Path) -> None:
    workshop.run(*asked, kill="latency")
    assert not (tmp_path / "models").exists()


OF_ARTEFACTS = ["facts", "parity", "latency", "publish"]


@pytest.mark.parametrize(
    ("more", "done"),
    [
        (["--alpha", 0.25], list(STEPS)),
        (["--crops", 9], [*STEPS[1:]]),
        (["--steps", 3], [*STEPS[1:]]),
        (["--crop-scale", 1.25], [*STEPS[1:]]),
        (["--leading-float", 2], ["int8", *OF_ARTEFACTS]),
        (["--origin", "from afar"], OF_ARTEFACTS),
        (["--version", "0.2.0"], OF_ARTEFACTS),
        (["--default-point", "eer"], OF_ARTEFACTS),
        (["--tolerance", 0.01], ["publish"]),
    ],
)
def test_another_setting_concerns_its_step_and_those_that_read_what_that_wrote(
    more: list[object], done: list[str], workshop: Workshop, asked: list[object]
) -> None:
    workshop.run(*asked)
    assert workshop.run(*asked)[0] == []
    found, said = workshop.run(*asked, *more)
    assert found == done
    assert sum("done again, changed: " in line for line in said) == len(done)


@pytest.mark.parametrize(
    ("name", "done"),
    [("train", [*STEPS]), ("dev", [*STEPS]), ("test", OF_ARTEFACTS)],
)
def test_another_set_in_the_same_folder_concerns_whoever_reads_it(
    name: str, done: list[str], workshop: Workshop, asked: list[object], tmp_path: Path
) -> None:
    workshop.run(*asked)
    write_set(tmp_path / name, toy_set(128, split=name, tint=41.0))
    assert workshop.run(*asked)[0] == done


@pytest.mark.parametrize(
    ("path", "step"),
    [
        ("out/rounded.safetensors", "round"),
        ("out/calibration.json", "calibrate"),
        ("out/fp32.bin", "export"),
        ("out/int8.tflite", "int8"),
        ("out/golden.npy", "facts"),
        ("out/parity.json", "parity"),
        ("out/latency.json", "latency"),
        ("models/tiny/card.json", "publish"),
    ],
)
def test_what_is_damaged_is_made_anew(
    path: str, step: str, workshop: Workshop, asked: list[object], tmp_path: Path
) -> None:
    workshop.run(*asked)
    whole = (tmp_path / path).read_text()
    (tmp_path / path).write_text(whole[:-1])
    # It is what it was: those that read it have nothing to do.
    assert workshop.run(*asked)[0] == [step]
    assert (tmp_path / path).read_text() == whole


def test_a_distillation_of_other_lessons_is_kept_beside_the_new_one(
    workshop: Workshop, asked: list[object], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    workshop.run(*asked)
    first = (out / "student" / "best.safetensors").read_text()
    workshop.run(*asked, "--alpha", 0.25)
    (out / "student" / "best.safetensors").write_text("damaged")
    done, said = workshop.run(*asked, "--alpha", 0.25)
    assert done == ["distil"]
    assert "distil: done again, best.safetensors is not what it wrote" in said
    assert (out / "student.1" / "best.safetensors").read_text() == first
    assert (out / "student.2" / "best.safetensors").read_text() == "damaged"


def test_what_there_is_no_record_of_is_kept_beside_what_is_made_anew(
    workshop: Workshop, asked: list[object], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for kill in ("", "distil"):
        workshop.run(*asked, "--alpha", 0.25, kill=kill)
        before = (out / "student" / "best.safetensors").read_text()
        (out / "steps.json").write_text("{")
        done, said = workshop.run(*asked)
        assert done == list(STEPS)
        assert said[0].endswith("every step is done again")
        assert said[1] == "distil: done again, there is no record of it"
        assert (out / "student.1" / "best.safetensors").read_text() == before
        rmtree(out)


def test_other_comments_in_the_configuration_or_another_machine_are_the_same_lessons(
    workshop: Workshop, asked: list[object], tmp_path: Path
) -> None:
    workshop.run(*asked)
    (tmp_path / "student.toml").write_text("# Another comment.\n" + STUDENT.replace("ahead = 0", "ahead = 1"))
    assert workshop.run(*asked)[0] == []


def test_a_model_that_the_student_begins_with_is_another_one_when_its_weights_are(tmp_path: Path) -> None:
    sha256 = load_card(find_model("edge-rgb")).file("onnxruntime", "fp32").sha256
    copied = copytree(find_model("edge-rgb"), tmp_path / "edge-rgb")
    for lessons, name in ((Lessons(begin="edge-rgb"), "from"), (Lessons(colour=str(copied)), "colour")):
        assert lessons.recorded()[name] == sha256
    card = copied / "card.json"
    card.write_text(card.read_text().replace(sha256, "0" * 64))
    assert Lessons(begin=str(copied)).recorded()["from"] == "0" * 64


def test_a_student_that_has_learnt_is_not_taught(workshop: Workshop, order: list[object], tmp_path: Path) -> None:
    done, said = workshop.run(*order, "--checkpoint", student_of(tmp_path / "s"))
    assert (done, said) == (list(STEPS[1:]), list(STEPS[1:]))
    assert workshop.run("binary-trunk", *order, "--checkpoint", tmp_path / "s")[0] == []


def test_what_a_killed_run_left_is_removed_and_nothing_else(
    workshop: Workshop, asked: list[object], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    workshop.run(*asked, kill="distil")
    names = ("fp32", "int8", "facts", "golden", "parity", "latency", "calibration", "steps")
    for name in (*(f".{stem}-a1_b2c3d" for stem in names), ".own-settings"):
        (out / name).mkdir()
    for name in (".rounded.safetensors.12ab34cd.part", "student/.last.safetensors.12ab34cd.part"):
        (out / name).touch()
    workshop.run(*asked, kill="round")
    found = sorted(str(path.relative_to(out)) for path in out.rglob("*"))
    assert found == [".own-settings", "rounded.safetensors", "steps.json", "student", "student/best.safetensors"]


def test_a_run_says_which_student_it_trains(workshop: Workshop, order: list[object], tmp_path: Path) -> None:
    teacher = untrained_run(tmp_path / "t", "a-deeppixbis") / "best.safetensors"
    done, said = workshop.run("a-deeppixbis", *order, "--teacher", teacher)
    assert done == list(STEPS)
    assert said[:2] == ["student: quantize/a_deeppixbis.toml, 64 px, 1 face boxes", "distil"]


# What is refused, before anything is done.


@pytest.fixture
def refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    workshop: Workshop,
    order: list[object],
    tmp_path: Path,
) -> Callable[..., str]:
    """What a run says that is refused at once."""

    def message(*arguments: object, code: int = 3) -> str:
        assert run(monkeypatch, *order, *arguments) == code
        assert workshop.done == []
        assert not (tmp_path / "out").exists()
        return " ".join(capsys.readouterr().err.replace("│", " ").split())

    return message


def test_a_checkpoint_of_another_method_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    student = student_of(tmp_path / "s", "rfmeta")
    said = refused("a-deeppixbis", "--checkpoint", student)
    assert "is a checkpoint of another method: a student of rfmeta, not of a-deeppixbis" in said
    teacher = untrained_run(tmp_path / "t", "a-deeppixbis") / "best.safetensors"
    said = refused("rfmeta", "--teacher", teacher)
    assert "a network of a-deeppixbis cannot teach a student of rfmeta" in said
    assert "give it as --teacher" in refused("a-deeppixbis", "--checkpoint", teacher)
    deep = teacher_file(tmp_path / "d")
    assert "a network of cmfl cannot teach a student of a-deeppixbis" in refused("a-deeppixbis", "--teacher", deep)
    assert "of cmfl look at depth, but a sample set has none" in refused("cmfl", "--teacher", deep)
    assert "a student of another method: of a-deeppixbis, not of cmfl" in refused(
        "cmfl", "--student", DEFAULT_STUDENTS["a-deeppixbis"], "--teacher", deep
    )


def test_a_rounded_student_is_not_rounded_again(refused: Callable[..., str], tmp_path: Path) -> None:
    found = load_checkpoint(student_of(tmp_path / "s"))
    save_checkpoint(tmp_path / "r", found.tensors, found.metadata | {"rounded": {}})
    assert "is rounded already" in refused("--checkpoint", tmp_path / "r")


def test_a_command_line_says_once_what_is_begun_with(refused: Callable[..., str], tmp_path: Path) -> None:
    student, file = student_of(tmp_path / "s"), DEFAULT_STUDENTS["binary-trunk"]
    how = (["--alpha", 0.25], ["--mixup", 0.4], ["--steady", 0.4], ["--start"])
    for nothing in ([], ["binary-trunk"], ["--teacher", student], *(["binary-trunk", *more] for more in how)):
        assert "what to begin with?" in refused(*nothing, code=2)
    for twice in (["--teacher", student], ["--student", file], ["--alpha", 0.25], ["--train", tmp_path / "train"]):
        assert "has learnt already" in refused("--checkpoint", student, *twice, code=2)
    assert "no students of 'deeppixbis'" in refused("deeppixbis", "--teacher", student, code=2)
    assert "--start needs --teacher" in refused("--student", file, "--start", code=2)
    assert "--colour is for students of cmfl" in refused("binary-trunk", "--colour", "edge-rgb", code=2)


def test_a_model_does_not_begin_as_the_one_that_it_replaces(
    refused: Callable[..., str], workshop: Workshop, order: list[object], tmp_path: Path
) -> None:
    copied = copytree(find_model("edge-rgb"), tmp_path / "models" / "tiny")  # what `order` will replace
    said = "a model cannot begin as the one that it replaces: copy its folder and name the copy"
    assert said in refused("binary-trunk", "--from", copied)
    assert said in refused("cmfl", "--colour", copied)
    assert said in refused("binary-trunk", "--from", "edge-rgb", "--id", "edge-rgb", "--models", models_folder())
    copytree(copied, tmp_path / "before")
    asked = ["binary-trunk", *order, "--from", tmp_path / "before"]
    assert workshop.run(*asked)[0] == list(STEPS)
    assert workshop.run(*asked)[0] == []


def test_sets_and_files_that_a_late_step_would_refuse_are_refused_at_once(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = ("--checkpoint", student_of(tmp_path / "s"))
    file = ("--student", DEFAULT_STUDENTS["binary-trunk"])
    assert "--train needs a set of the train split, got 'dev'" in refused(*file, "--train", tmp_path / "dev")
    assert "no list of evaluations" in refused(*student, "--evaluation", tmp_path / "none.json")
    assert "holds no manifest.csv" in refused(*student, "--data", tmp_path / "train")
    assert "crop_scale must lie in" in refused(*student, "--crop-scale", -1)
    for begun in (student, file):
        assert "leaves no convolution in INT8" in refused(*begun, "--leading-float", 999)
    deep = teacher_file(tmp_path / "d")
    assert "teachers of cmfl look at depth, but a sample set has none" in refused("binary-trunk", "--teacher", deep)
    monkeypatch.setattr(run_command, "golden_indices", golden_indices)
    assert "golden vectors need 12 samples" in refused(*student)
    attacks = drawn_set("dev", origin="")
    attacks = attacks.subset([i for i, label in enumerate(attacks.labels) if not label], "attacks")
    write_set(tmp_path / "dev", attacks)
    assert "the set of the dev split has no bona fide presentation" in refused(*student)


def test_teachers_of_depth_look_at_the_sets_of_the_distillation_alone(
    refused: Callable[..., str], workshop: Workshop, order: list[object], tmp_path: Path
) -> None:
    asked = ["binary-trunk", *order, "--teacher", teacher_file(tmp_path / "d")]
    write_set(tmp_path / "train", drawn_set("train", depth=True, origin=""))
    assert "a sample set has none" in refused(*asked)
    write_set(tmp_path / "dev", drawn_set("dev", depth=True, origin=""))
    assert workshop.run(*asked)[0] == list(STEPS)


def test_golden_pictures_are_looked_for_where_the_facts_choose_them(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SETS:
        write_set(tmp_path / name, drawn_set(name, depth=True, origin=""))
    blind = np.load(tmp_path / "test" / "depth.npy")
    blind[10:] = 0
    np.save(tmp_path / "test" / "depth.npy", blind)
    licences = {row.picture: "public-domain" for row in drawn_set("test").table}
    monkeypatch.setattr(run_command, "golden_indices", golden_indices)
    monkeypatch.setattr(run_command, "picture_licences", lambda _: licences)
    assert len(golden_indices(SampleSet.load(tmp_path / "test"), licences)) == 12
    assert "golden vectors need 12 samples" in refused("cmfl", "--teacher", teacher_file(tmp_path / "d"))
