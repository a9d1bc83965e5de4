import re
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from fasedge.cards import find_model, load_card, sha256_of
from fasedge.selftest import load_golden
from quantize import step_commands as commands
from quantize.__main__ import main
from quantize.distil_command import new_task, start_from_another
from quantize.errors import CheckpointMismatchError
from quantize.export import export_int8, load_trained, read_calibration
from quantize.grid import conv_names, grid_convs
from quantize.imitation import Imitation
from quantize.latency import write_latency
from quantize.provenance import learnt_from
from quantize.publish import hashes_of, read_facts, read_golden
from quantize.rounded import load_calibrated, load_rounded
from quantize.students import PixelCosineStudent, Platt, new_student
from tests.training.fixtures.evaluation_sets import write_set
from tests.training.fixtures.face_pack import write_face_pack
from tests.training.fixtures.toy_sets import toy_set
from training.backbones import TRUNKS
from training.backbones.plain import PlainLayer
from training.checkpoint import load_checkpoint, save_checkpoint
from training.config import InputConfig, MethodConfig, TrainConfig, load_config
from training.errors import CheckpointError
from training.runlog import EpochRecord


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """An untrained student as the training loop saves it."""
    trunk = TRUNKS["efficientnet_lite0"](pretrained=False)
    student = PixelCosineStudent(trunk, trunk.out_channels)
    config = TrainConfig(
        input=InputConfig(size_px=64, brightness=True), method=MethodConfig(trunk="efficientnet_lite0")
    )
    path = tmp_path_factory.mktemp("run") / "best.safetensors"
    save_checkpoint(path, student.state_dict(), {"config": msgspec.to_builtins(config)})
    return path


def run(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["quantize", *map(str, arguments)])
    return main()


def test_a_checkpoint_brings_its_trunk_and_input_along(checkpoint):
    student, config = load_trained(checkpoint)
    assert student.channels == 112
    assert config.input.spec().size_px == 64
    assert config.input.normalisation() is not None


def test_a_checkpoint_of_another_method_is_refused(checkpoint, tmp_path):
    tensors = PixelCosineStudent(TRUNKS["efficientnet_lite0"](pretrained=False), 112).state_dict()
    tensors["dec.weight"] = tensors.pop("filter.weight")
    config = TrainConfig(method=MethodConfig(trunk="efficientnet_lite0"))
    save_checkpoint(tmp_path / "a", tensors, {"config": msgspec.to_builtins(config)})
    with pytest.raises(CheckpointMismatchError, match=r"1 tensors missing \['filter\.weight'\], 1 unknown"):
        load_trained(tmp_path / "a")
    save_checkpoint(tmp_path / "b", tensors, {"epoch": 3})
    with pytest.raises(CheckpointError, match="carries no configuration"):
        load_trained(tmp_path / "b")


def test_an_error_made_on_purpose_is_one_line_and_exit_code_3(checkpoint, tmp_path, monkeypatch, capsys):
    arguments = ["--checkpoint", checkpoint, "--calibration", tmp_path / "none.json", "--out", tmp_path / "out"]
    assert run(monkeypatch, "export", *arguments) == 3
    message = capsys.readouterr().err
    assert "is no calibration" in message.replace("\n", " ")
    assert "Traceback" not in message
    assert not (tmp_path / "out").exists()


def test_a_calibration_needs_all_of_its_fields(tmp_path):
    path = tmp_path / "calibration.json"
    path.write_text('{"scale": 2.0, "bias": 0.5, "fitted_on": "dev"}')
    assert read_calibration(path).platt().scale == 2.0
    for impossible in ('"scale": 0.0, "bias": 0.5', '"scale": -2, "bias": 0.5'):
        path.write_text(f'{{{impossible}, "fitted_on": "dev"}}')
        with pytest.raises(CheckpointMismatchError, match="calibration needs scale > 0"):
            read_calibration(path)
    path.write_text('{"scale": 2.0, "bias": 0.5}')
    with pytest.raises(CheckpointMismatchError, match="fitted_on"):
        read_calibration(path)


def test_a_wrong_command_line_ends_with_code_2_and_no_traceback(monkeypatch, capsys):
    assert run(monkeypatch, "export", "--nonsense") == 2
    message = capsys.readouterr().err
    assert "--nonsense" in message
    assert "Traceback" not in message


def test_a_student_is_rounded_for_the_crop_that_is_asked_for(tmp_path, monkeypatch):
    torch.manual_seed(0)
    trunk = TRUNKS["plain_s"]()
    config = TrainConfig(
        input=InputConfig(size_px=32, crop_scale=1.4), method=MethodConfig(name="binary-trunk", trunk="plain_s")
    )
    student = new_student("binary-trunk", trunk, trunk.out_channels)
    save_checkpoint(tmp_path / "s", student.state_dict(), {"config": msgspec.to_builtins(config)})
    train = write_set(tmp_path / "train", toy_set(128))
    arguments = ["--checkpoint", tmp_path / "r", "--train", train, "--crops", 64, "--steps", 0]
    assert run(monkeypatch, "round", tmp_path / "s", *arguments) == 0
    assert load_rounded(tmp_path / "r").config.input == config.input
    assert run(monkeypatch, "round", tmp_path / "s", *arguments, "--crop-scale", 1.1) == 0
    assert load_rounded(tmp_path / "r").config.input == msgspec.structs.replace(config.input, crop_scale=1.1)
    assert run(monkeypatch, "round", tmp_path / "s", *arguments, "--crop-scale", -1) == 3


@pytest.mark.parametrize("option", ["--steps", "--leading-float"])
def test_less_than_nothing_is_a_wrong_command_line(tmp_path, monkeypatch, capsys, option):
    arguments = ["--checkpoint", tmp_path / "s", "--out", tmp_path / "out", "--id", "a"]
    sets = ["--train", tmp_path, "--dev", tmp_path, "--test", tmp_path]
    assert run(monkeypatch, "run", *arguments, *sets, option, -1) == 2
    assert option in capsys.readouterr().err


@pytest.fixture
def rounded(tmp_path, monkeypatch):
    """Arguments that name a rounded student nobody has trained, its calibration and a folder for artefacts."""
    torch.manual_seed(0)
    trunk = TRUNKS["plain_s"]()
    config = TrainConfig(input=InputConfig(size_px=32), method=MethodConfig(name="binary-trunk", trunk="plain_s"))
    student = new_student("binary-trunk", trunk, trunk.out_channels)
    save_checkpoint(tmp_path / "s", student.state_dict(), {"config": msgspec.to_builtins(config)})
    given = ["--checkpoint", tmp_path / "r"]
    train = ["--train", write_set(tmp_path / "train", toy_set(16))]
    assert run(monkeypatch, "round", tmp_path / "s", *given, *train, "--crops", 8, "--steps", 0) == 0
    (tmp_path / "c").write_text('{"scale": 2.0, "bias": 0.5, "fitted_on": "dev"}')
    return [*given, "--calibration", tmp_path / "c", "--out", tmp_path / "out"]


def test_facts_say_what_they_were_measured_with_and_what_the_student_was_rounded_on(rounded, tmp_path, monkeypatch):
    out, grid = tmp_path / "out", load_calibrated(tmp_path / "r", tmp_path / "c")[0].grid
    files = export_int8(grid, out, 32, np.zeros((1, 32, 32, 3), np.uint8), ["openvino"])
    monkeypatch.setattr("quantize.facts_command.artefacts", lambda _: files)
    monkeypatch.setattr("quantize.facts_command.golden_indices", lambda *_: [1, 2])
    sets = {name: write_set(tmp_path / name, toy_set(40, split=name)) for name in ("dev", "test")}
    arguments = [*rounded, "--dev", sets["dev"], "--test", sets["test"], "--id", "tiny"]
    arguments += ["--data", write_face_pack(tmp_path / "faces")]
    arguments += ["--facts", tmp_path / "made" / "facts.json", "--golden", tmp_path / "made" / "golden"]
    assert run(monkeypatch, "facts", *arguments) == 0
    facts = read_facts(tmp_path / "made" / "facts.json")
    assert facts.measured_with == hashes_of(tmp_path / "r", tmp_path / "c", out)
    assert sorted(facts.measured_with) == ["calibration", "checkpoint", "int8.bin", "int8.xml"]
    assert re.fullmatch(
        "8 crops for the ranges; simulated, version .*; seed 0, n=16, .*", facts.provenance["rounded_on"]
    )
    assert read_golden(tmp_path / "made" / "golden").shape == (2, 32, 32, 3)
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["facts.json", "golden"]


def test_a_card_says_what_the_student_learnt_from_if_its_run_does(rounded, tmp_path, monkeypatch):
    run_folder = tmp_path / "student"
    run_folder.mkdir()
    assert learnt_from(run_folder / "best.safetensors") == {}
    info = msgspec.to_builtins(toy_set(16).info)
    record = {"train": info, "machine": "x86_64", "device": "cpu", "torch": "2.13.0", "processes": 1, "commit": "abc"}
    (run_folder / "run.json").write_bytes(msgspec.json.encode(record | {"other": [1]}))
    line = msgspec.json.encode(EpochRecord(1, 0.5, 0.7, 0.3, 61.5, 1e-3))
    (run_folder / "history.jsonl").write_bytes(line + b"\n" + line + b"\n")
    told = learnt_from(run_folder / "best.safetensors")
    assert told["learnt_from"].startswith("simulated, version ")
    assert (told["commit"], told["training_seconds"]) == ("abc", "123")
    assert told["machine"] == "x86_64, cpu, 1 process(es), PyTorch 2.13.0"


@pytest.mark.parametrize("command", ["calibrate", "int8", "parity", "layers"])
def test_an_empty_set_is_refused(rounded, tmp_path, monkeypatch, capsys, command):
    split = {"calibrate": "dev", "int8": "train", "parity": "test", "layers": "dev"}[command]
    empty = write_set(tmp_path / "empty", toy_set(2, split=split))
    np.save(empty / "pictures.npy", np.empty((0, 48, 48, 3), np.uint8))
    (empty / "table.jsonl").write_bytes(b"")
    (empty / "set.json").write_text((empty / "set.json").read_text().replace('"n":2', '"n":0'))
    given = [*rounded, f"--{split}", empty]
    if command == "calibrate":
        given = [*given[:2], "--calibration", tmp_path / "made.json", *given[-2:]]
    if command == "parity":
        given += ["--facts", tmp_path / "facts.json"]
        monkeypatch.setattr(commands, "read_facts", lambda _: None)
    if command == "layers":
        given = [tmp_path / "s", "--train", tmp_path / "train", *given[-2:]]
    assert run(monkeypatch, command, *given) == 3
    said = " ".join(capsys.readouterr().err.split())
    assert f"the sample set of the {split} split is empty" in said
    assert not (tmp_path / "made.json").exists()
    assert not (tmp_path / "out").exists()


def test_int8_looks_at_pictures_of_the_train_split(rounded, tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "int8", *rounded, "--train", write_set(tmp_path / "dev", toy_set(4, split="dev"))) == 3
    assert "--train needs a set of the train split, got 'dev'" in " ".join(capsys.readouterr().err.split())


def test_some_convolutions_stay_in_int8(rounded, tmp_path, monkeypatch, capsys):
    given, total = [*rounded, "--train", tmp_path / "train"], len(conv_names(load_rounded(tmp_path / "r").grid))
    for n in (999, total):
        assert run(monkeypatch, "int8", *given, "--leading-float", n) == 3
        message = f"leaves no convolution in INT8: the network has {total}, so at most {total - 1} can lead"
        assert message in capsys.readouterr().err
    asked = []
    monkeypatch.setattr(commands, "export_int8", lambda grid, *_: asked.append(grid_convs(grid)) or [])
    assert run(monkeypatch, "int8", *given, "--leading-float", total - 1) == 0
    assert [len(convs) for convs in asked] == [1]


def test_a_default_operating_point_that_does_not_exist_is_refused_at_once(checkpoint, tmp_path, monkeypatch, capsys):
    sets = ["--train", tmp_path, "--dev", tmp_path, "--test", tmp_path]
    arguments = ["--checkpoint", checkpoint, "--out", tmp_path / "out", "--id", "tiny", *sets]
    assert run(monkeypatch, "run", *arguments, "--default-point", "bpcer2") == 3
    assert "no operating point 'bpcer2'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("names", [("../evil", "0.1.0"), ("", "0.1.0"), ("tiny", "two words"), ("tiny", "")])
def test_an_id_or_version_that_is_no_plain_name_is_refused_at_once(tmp_path, monkeypatch, capsys, names):
    out = tmp_path / "out"
    arguments = ["--checkpoint", tmp_path / "s", "--out", out, "--dev", tmp_path, "--test", tmp_path]
    arguments += ["--id", names[0], "--version", names[1]]
    files = ["--calibration", out / "c.json", "--facts", out / "f.json", "--golden", out / "g.npy"]
    for command, more in (("run", ["--train", tmp_path]), ("facts", files)):
        assert run(monkeypatch, command, *arguments, *more) == 3
        assert "must be a plain name" in capsys.readouterr().err
        assert not out.exists()


@pytest.mark.parametrize(("dev", "test"), [("dev", "train"), ("train", "test"), ("test", "dev")])
def test_rates_and_thresholds_are_of_no_other_split_than_the_card_says(tmp_path, monkeypatch, capsys, dev, test):
    out = tmp_path / "out"
    sets = {name: write_set(tmp_path / name, toy_set(8, split=name)) for name in ("train", "dev", "test")}
    arguments = ["--checkpoint", tmp_path / "s", "--out", out, "--id", "a", "--dev", sets[dev], "--test", sets[test]]
    files = ["--calibration", out / "c.json", "--facts", out / "f.json", "--golden", out / "g.npy"]
    for command, more in (("run", ["--train", sets["train"]]), ("facts", files)):
        assert run(monkeypatch, command, *arguments, *more) == 3
        assert re.search(r"--(dev|test) needs a set of the \1 split, got '(?!\1)", capsys.readouterr().err)
        assert not out.exists()


def test_a_file_that_cannot_be_written_whole_leaves_the_earlier_one(checkpoint, tmp_path, monkeypatch, capsys):
    dev = write_set(tmp_path / "dev", toy_set(8, split="dev"))
    calibration = tmp_path / "files" / "calibration"
    arguments = ["calibrate", "--checkpoint", checkpoint, "--dev", dev, "--calibration", calibration]
    monkeypatch.setattr(commands, "fit_platt", lambda *_: Platt(2.0, 0.5))  # nobody has trained this student
    assert run(monkeypatch, *arguments) == 0
    write_latency(tmp_path / "files", [], [])
    before = {path.name: path.read_bytes() for path in (tmp_path / "files").iterdir()}
    assert set(before) == {"calibration", "latency.json"}

    def half(self, content):
        with self.open("wb") as stream:
            stream.write(content[: len(content) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", half)
    assert run(monkeypatch, *arguments) == 3
    assert "disk full" in capsys.readouterr().err
    with pytest.raises(OSError, match="disk full"):
        write_latency(tmp_path / "files", [], [])
    assert {path.name: path.read_bytes() for path in (tmp_path / "files").iterdir()} == before


def test_distillation_starts_from_a_published_model(tmp_path, monkeypatch, capsys):
    """What it says at first is what the model says, but for the calibration, which is a straight line of the logit.

    Activations of the model end at 6, those of the student do not: where one is larger, the two differ a little.
    """
    file = tmp_path / "student.toml"
    text = '[input]\nsize_px = 112\ncrop_scale = 0.85\nbrightness = true\n[method]\nname = "binary-trunk"\n'
    file.write_text(text + 'trunk = "plain_m"\n')
    folder = find_model("edge-rgb")
    card = load_card(folder)
    golden = load_golden(folder, card)
    task, _ = new_task(load_config(file), [], Imitation())
    note = start_from_another(task, load_config(file), "edge-rgb", toy_set(300))
    assert (note["began_as"], note["began_with_crop_scale"]) == (f"edge-rgb {card.version}", 0.85)
    peaks = []
    layers = [m for m in task.module.modules() if isinstance(m, PlainLayer)]
    hooks = [m.register_forward_hook(lambda _m, _i, out: peaks.append(out.amax(dim=(1, 2, 3)))) for m in layers]
    with torch.inference_mode():
        found = task.pooled(torch.from_numpy(golden.rgb)).double().numpy()
    for hook in hooks:
        hook.remove()
    within = (torch.stack(peaks).amax(dim=0) <= 6).numpy()
    wanted = np.log(golden.score / (1 - golden.score.astype(float)))
    assert 3 <= within.sum() < len(within)
    slope, offset = np.polyfit(found[within], wanted[within], 1)
    np.testing.assert_allclose(slope * found[within] + offset, wanted[within], atol=1e-3)
    np.testing.assert_allclose(slope * found + offset, wanted, atol=0.05)
    # In training it divides by the statistics of the batch: on what it settled on it says what it said.
    samples, spec = toy_set(256), load_config(file).input.spec()
    start_from_another(task, load_config(file), "edge-rgb", samples)
    crops = torch.from_numpy(samples.crops(range(256), spec))
    with torch.inference_mode():
        wanted_of_crops = task.pooled(crops)
        task.module.train()
        torch.testing.assert_close(task.pooled(crops), wanted_of_crops, rtol=1e-2, atol=1e-2)
    file.write_text(text + 'trunk = "plain_s"\n')
    arguments = ["distil", file, "--train", write_set(tmp_path / "s", toy_set(16)), "--out", tmp_path / "out"]
    arguments += ["--dev", write_set(tmp_path / "d", toy_set(8, split="dev"))]
    for begin, why in (
        ("edge-rgb", "merged network"),
        ("a-deeppixbis", "one logit"),
        ("none-such", "neither such a checkpoint nor such a model"),
    ):
        assert run(monkeypatch, *arguments, "--from", begin) == 3
        assert why in " ".join(capsys.readouterr().err.split())
    file.write_text(text.replace("true", "false") + 'trunk = "plain_m"\n')
    assert run(monkeypatch, *arguments, "--from", "edge-rgb") == 3
    assert "set input.brightness" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("content", [b"no array", None])
def test_golden_pictures_that_are_none_are_refused(content, tmp_path, monkeypatch, capsys):
    golden = tmp_path / "golden.npy"
    if content is None:
        np.save(golden, np.zeros((0, 8, 8, 3), np.uint8))
    else:
        golden.write_bytes(content)
    monkeypatch.setattr("quantize.step_commands.artefacts", lambda _: [])
    assert run(monkeypatch, "latency", "--out", tmp_path, "--golden", golden) == 3
    assert "golden" in capsys.readouterr().err


def test_distillation_starts_from_another_student_but_not_from_two(tmp_path, monkeypatch, capsys):
    """With a learning rate of next to nothing the student stays what it began as."""
    torch.manual_seed(0)
    trunk = TRUNKS["plain_s"]()
    student = new_student("binary-trunk", trunk, trunk.out_channels)
    file = tmp_path / "student.toml"
    file.write_text(
        '[input]\nsize_px = 32\n[method]\nname = "binary-trunk"\ntrunk = "plain_s"\n'
        '[optimiser]\nbatch = 8\nlearning_rate = 1e-30\nkeep = "last"\n[machine]\nahead = 0\n'
    )
    save_checkpoint(
        tmp_path / "s", student.state_dict(), {"config": msgspec.to_builtins(load_config(file)), "epoch": 1}
    )
    train, dev = write_set(tmp_path / "train", toy_set(16)), write_set(tmp_path / "dev", toy_set(8, split="dev"))
    arguments = ["distil", file, "--train", train, "--train", train, "--dev", dev, "--out", tmp_path / "out"]
    assert run(monkeypatch, *arguments, "--steady", 1, "--from", tmp_path / "s") == 0
    made = load_checkpoint(tmp_path / "out" / "best.safetensors")
    for name, value in student.named_parameters():
        torch.testing.assert_close(made.tensors[name], value.detach())
    assert made.metadata["note"] == {
        "mixup": 0.0,
        "steady": 1.0,
        "steady_views": 3,
        "began_as_sha256": sha256_of(tmp_path / "s"),
    }
    assert run(monkeypatch, *arguments, "--from", tmp_path / "s", "--start", "--teacher", tmp_path / "none") == 2
    assert "not both" in " ".join(capsys.readouterr().err.split())
    assert run(monkeypatch, *arguments, "--start") == 2
    assert "--start needs --teacher" in " ".join(capsys.readouterr().err.split())


def test_int8_of_a_student_that_is_not_rounded_says_what_to_do(checkpoint, tmp_path, monkeypatch, capsys):
    calibration = tmp_path / "calibration.json"
    calibration.write_text('{"scale": 2.0, "bias": 0.5, "fitted_on": "dev"}')
    arguments = ["--checkpoint", checkpoint, "--calibration", calibration, "--out", tmp_path / "out"]
    assert run(monkeypatch, "int8", *arguments, "--train", tmp_path) == 3
    assert "python -m quantize round" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
