"""The command line: a whole small run, and errors in one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.training.fixtures.toy_sets import toy_row
from training.__main__ import main
from training.data.making import make_set
from training.data.samples import SampleSet
from training.data.shard_reader import read_shards
from training.data.table import SIMULATOR_VERSION


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["training", *map(str, arguments)])
    return main()


@pytest.fixture(scope="module")
def sets(face_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a small set of train and of dev."""
    folder = tmp_path_factory.mktemp("sets")
    for split in ("train", "dev"):
        list(make_set(face_pack, folder / split, split, 12, seed=3, workers=1))  # type: ignore[arg-type]
    return folder


def test_simulate_makes_a_set_and_goes_on_with_one(
    face_pack: Path, sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--split", "dev", "-n", 12, "--seed", 3, "--data", face_pack, "--workers", 1)
    for _ in range(2):
        assert run(monkeypatch, "simulate", tmp_path / "set", *arguments) == 0
        for name in ("pictures.npy", "table.jsonl", "set.json"):
            assert (tmp_path / "set" / name).read_bytes() == (sets / "dev" / name).read_bytes()


def test_simulate_preview_draws_a_sheet_per_species_and_lists_every_tile(
    face_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(monkeypatch, "simulate", "--preview", out, "--tiles", 1, "--split", "dev", "--data", face_pack) == 0
    # The drawn pack has no meshes, on which masks are made.
    names = {"bona_fide", "print", "replay"}
    assert {path.stem for path in out.glob("*.png")} == names
    index = (out / "index.md").read_text()
    assert all(f"![{name}]({name}.png)" in index for name in names)
    assert "index.md" in "".join(capsys.readouterr().out.split())


def test_simulate_preview_has_a_folder_of_its_own(
    face_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "simulate", "--preview", "--tiles", 1, "--split", "dev", "--data", face_pack) == 0
    assert (tmp_path / "preview" / "sheets" / "index.md").is_file()


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("--preview", "sheets", "-n", 9600), "-n is for arrays"),
        (("--preview", "--workers", 2), "--workers is for arrays"),
        (("--preview", "--format", "webdataset"), "--format is for arrays"),
        (("--preview", "--encoding", "jpg"), "--encoding is for shards"),
        (("set", "--encoding", "jpg"), "--encoding is for shards"),
        (("set", "--shard-size", 9), "--shard-size is for shards"),
        (("set", "--tiles", 3), "--tiles is for contact sheets"),
        (("set", "--format", "webdataset", "--tiles", 8), "--tiles is for contact sheets"),
    ],
)
def test_simulate_refuses_options_that_would_change_nothing(  # noqa: PLR0917 - fixtures
    arguments: tuple[object, ...],
    option: str,
    face_pack: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "simulate", *arguments, "--data", face_pack) == 2
    assert option in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "value"), [("-n", -3), ("-n", 0), ("--workers", 0), ("--seed", -1), ("--shard-size", 0), ("--tiles", 0)]
)
def test_simulate_refuses_impossible_numbers_before_it_draws_a_bar(
    option: str, value: int, face_pack: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "simulate", "set", "--data", face_pack, option, value) == 2
    said = capsys.readouterr()
    assert not said.out
    assert f"Invalid value for '{option}'" in said.err


@pytest.mark.parametrize("form", [(), ("--format", "webdataset")])
def test_simulate_says_that_a_set_is_there_already(
    face_pack: Path, tmp_path: Path, form: tuple[str, ...], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    arguments = ("--split", "dev", "-n", 3, "--seed", 3, "--data", face_pack, "--workers", 1, *form)
    out = tmp_path / "set"
    assert run(monkeypatch, "simulate", out, *arguments) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    assert run(monkeypatch, "simulate", out, *arguments) == 0
    assert capsys.readouterr().out.split("\n", 1)[1] == f"{out} is there already, with all its 3 samples\n"


def test_simulate_writes_webdataset_shards(face_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("--split", "dev", "-n", 3, "--seed", 3, "--data", face_pack, "--workers", 1, "--shard-size", 2)
    out = tmp_path / "set"
    assert run(monkeypatch, "simulate", "--out", out, "--format", "webdataset", *arguments) == 0
    assert {path.name for path in out.iterdir()} == {
        "dev-000000.tar", "dev-000001.tar", "manifest.jsonl", "set.json",
    }  # fmt: skip
    assert [sample.row.index for sample in read_shards(out)] == [0, 1, 2]


@pytest.mark.parametrize(
    "arguments", [(), ("a", "--out", "b"), ("a", "--preview", "b"), ("a", "--out", "b", "--preview")]
)
def test_simulate_wants_one_folder(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "simulate", *arguments) == 2


def test_confounds_prints_an_auc_for_each_scalar(
    sets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "confounds", sets / "dev") == 0
    lines = capsys.readouterr().out.splitlines()
    names = ["brightness", "sharpness", "saturation", "red_blue", "black_level", "contrast", "clipped"]
    assert [line.split()[0] for line in lines] == names
    assert all(0.5 <= float(line.split()[2]) <= 1 for line in lines)


CONFIG = """
[input]
size_px = 32
[method]
trunk = "densenet161"
width = 0.1
[optimiser]
batch = 6
epochs = 1
"""


def test_fit_trains_records_and_refuses_another_configuration(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.toml"
    config.write_text(CONFIG)
    arguments = ("--train", sets / "train", "--dev", sets / "dev", "--out", tmp_path / "run")
    assert run(monkeypatch, "fit", config, *arguments) == 0
    assert "epoch 1: loss" in capsys.readouterr().out
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "best.safetensors", "last.safetensors", "history.jsonl", "log.csv", "run.json",
    }  # fmt: skip
    config.write_text(CONFIG.replace("epochs = 1", "epochs = 2"))
    assert run(monkeypatch, "fit", config, *arguments) == 3
    assert "another configuration" in one_line(capsys)


def test_fit_simulates_while_it_trains_unless_told_otherwise(
    face_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.toml"
    config.write_text(
        CONFIG + "[data]\nsamples = 12\ndev_samples = 12\nseed = 3\ndev_seed = 3\npicture_px = 96\ncanvas_scale = 2.4\n"
    )
    arguments = ("--out", tmp_path / "runs" / "one", "--data", face_pack, "--workers", 0, "--device", "cpu")
    assert run(monkeypatch, "fit", config, *arguments) == 0
    assert "epoch 1: loss" in capsys.readouterr().out
    dev = SampleSet.load(tmp_path / "runs" / "cache" / "dev_3_12_96px_2.4x")
    assert len(dev) == 12
    assert dev.picture(0).shape == (96, 96, 3)
    record = json.loads((tmp_path / "runs" / "one" / "run.json").read_text())
    wanted = {"split": "train", "seed": 3, "n": 12, "format": "stream", "picture_px": 96, "canvas_scale": 2.4}
    assert record["train"].items() >= wanted.items()
    made = {k: record["dev"][k] for k in ("n", "picture_px", "canvas_scale")}
    assert made == {"n": 12, "picture_px": 96, "canvas_scale": 2.4}
    assert record["config"]["data"]["train"] == "simulate"
    assert record["torch"] and record["numpy"] and record["trunk_weights"].startswith("none")  # noqa: PT018
    # Finished: found in the cache and in the folder, nothing is done again.
    assert run(monkeypatch, "fit", config, *arguments) == 0
    assert "epoch 1: loss" not in capsys.readouterr().out


def test_fit_simulates_the_depth_that_a_method_learns_to_predict(
    face_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "run.toml"
    config.write_text(
        '[input]\nsize_px = 32\n[method]\nname = "cdcn"\nwidth = 0.1\n[optimiser]\nbatch = 6\nepochs = 1\n'
        "[data]\nsamples = 12\ndev_samples = 8\ndev_seed = 3\npicture_px = 96\n"
    )
    arguments = ("--out", tmp_path / "run", "--data", face_pack, "--workers", 0, "--device", "cpu")
    assert run(monkeypatch, "fit", config, *arguments) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    # Targets are measured; to score, depth is not looked at.
    assert (record["train"]["depth"], record["dev"]["depth"]) == (True, False)
    assert record["depth_targets"] == ["sensor", "ellipsoid"]
    header, row = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert header.endswith("loss,loss_absolute,loss_contrast")
    assert float(row.split(",")[-3]) > 0


def test_fit_knows_methods_that_no_gradient_trains(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.toml"
    config.write_text('[input]\nsize_px = 32\n[method]\nname = "lbp-svm"\n[optimiser]\nbatch = 6\nepochs = 1\n')
    arguments = ("--train", sets / "train", "--dev", sets / "dev", "--out", tmp_path / "run")
    assert run(monkeypatch, "fit", config, *arguments) == 0
    said = capsys.readouterr().out
    assert "fitted in one go: dev AUC" in said
    assert "nan" not in said
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"best.safetensors", "history.jsonl", "run.json"}


def test_sets_are_checked_before_a_network_is_made(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the network was made first")

    monkeypatch.setattr("training.fit.build_task", never)
    config = tmp_path / "run.toml"
    config.write_text(CONFIG)
    one_class(sets, tmp_path / "one_class")
    for dev, message in (
        (tmp_path / "nowhere", "there is no such folder"),
        (sets / "train", "to choose by is of the split 'train'"),
        (tmp_path / "one_class", "the dev set needs bona fide presentations and attacks"),
    ):
        assert run(monkeypatch, "fit", config, "--train", sets / "train", "--dev", dev, "--out", tmp_path / "run") == 3
        assert message in one_line(capsys)
    assert not (tmp_path / "run").exists()


def test_depth_is_missed_before_a_network_is_made_and_warns_about_its_weights(
    sets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = tmp_path / "run.toml"
    config.write_text('[input]\nsize_px = 32\n[method]\nname = "cmfl"\nwidth = 0.1\n')
    arguments = ("--train", sets / "train", "--dev", sets / "dev", "--out", tmp_path / "run")
    assert run(monkeypatch, "fit", config, *arguments) == 3
    assert "the network looks at depth, but the train set has none" in one_line(capsys)
    assert "ImageNet" not in caplog.text


def test_depth_is_missed_before_anything_is_simulated(
    sets: Path, face_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.toml"
    config.write_text('[input]\nsize_px = 32\n[method]\nname = "rfmeta"\nwidth = 0.0625\n')
    arguments = ("--train", sets / "train", "--data", face_pack, "--out", tmp_path / "run", "--cache", tmp_path / "c")
    assert run(monkeypatch, "fit", config, *arguments) == 3
    assert 'depth_target = "ellipsoid"' in one_line(capsys)
    assert not (tmp_path / "c").exists()


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The message on the error channel, which must be one line and no traceback."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error ")
    return lines[0]


def one_class(sets: Path, folder: Path) -> Path:
    folder.mkdir()
    rows = [toy_row(i, 1) for i in range(3)]
    import msgspec

    (folder / "table.jsonl").write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    (folder / "set.json").write_text(f'{{"split": "dev", "seed": 0, "n": 3, "version": {SIMULATOR_VERSION}}}')
    np.save(folder / "pictures.npy", np.full((3, 48, 48, 3), 99, np.uint8))
    assert len(SampleSet.load(folder)) == 3
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("simulate", "{tmp}/set"), "set FASEDGE_DATA or pass --data"),
        (("simulate", "{tmp}/set", "--data", "{tmp}"), "no manifest.csv"),
        (("simulate", "{tmp}/set", "--data", "{pack}", "--split", "validation"), "unknown split"),
        (("simulate", "{sets}/dev", "--data", "{pack}", "--split", "dev", "-n", "13"), "holds another set"),
        (("simulate", "{tmp}/a_file", "--data", "{pack}", "--split", "dev"), "move it away, and run"),
        (("simulate", "--preview", "{tmp}/a_file", "--data", "{pack}"), "a_file; something else has that name"),
        (("confounds", "{tmp}/[/none]"), "[/none]"),
        (("confounds", "{tmp}/one_class"), "no attack presentation"),
        (("fit", "{tmp}/none.toml", "--train", "a", "--dev", "b", "--out", "{tmp}/run"), "cannot be read"),
        (("fit", "{tmp}/good.toml", "--out", "{tmp}/run"), "set FASEDGE_DATA or pass --data"),
        (("fit", "{tmp}/good.toml", "--out", "{tmp}/run", "--train", "{tmp}/none", "--dev", "{sets}/dev"), "simulate"),
        (("fit", "{tmp}/good.toml", "--out", "{tmp}/run", "--device", "tpu"), "machine.device must be auto"),
        (("fit", "{tmp}/bad.toml", "--train", "a", "--dev", "b", "--out", "{tmp}/run"), "unknown field `sead`"),
        (
            ("fit", "{tmp}/good.toml", "--train", "{sets}/dev", "--dev", "{sets}/dev", "--out", "{tmp}/run"),
            "to train on is of the split 'dev'",
        ),
        (
            ("fit", "{tmp}/good.toml", "--train", "{sets}", "--dev", "{sets}/dev", "--out", "{tmp}/run"),
            "name one of them",
        ),
    ],
)
def test_errors_are_one_line_with_exit_code_3(  # noqa: PLR0917 - fixtures
    sets: Path,
    face_pack: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.delenv("FASEDGE_DATA", raising=False)
    (tmp_path / "a_file").write_text("")
    (tmp_path / "bad.toml").write_text("sead = 1")
    (tmp_path / "good.toml").write_text(CONFIG)
    one_class(sets, tmp_path / "one_class")
    places = {"tmp": tmp_path, "pack": face_pack, "sets": sets}
    assert run(monkeypatch, *(a.format(**places) for a in arguments)) == 3
    assert message in one_line(capsys)


@pytest.mark.parametrize("arguments", [("simulate",), ("bogus",), ("fit", "--nope"), ("simulate", "x", "-n", "many")])
def test_a_wrong_command_line_gets_a_hint_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert run(monkeypatch, *arguments) == 2
    printed = capsys.readouterr().err
    assert "Usage" in printed
    assert "Traceback" not in printed


def test_a_run_that_the_user_stops_ends_with_exit_code_130(
    sets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(_: Path) -> SampleSet:
        raise KeyboardInterrupt

    monkeypatch.setattr(SampleSet, "load", stop)
    assert run(monkeypatch, "confounds", sets / "dev") == 130
    assert "Traceback" not in capsys.readouterr().err


def test_help_is_no_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--help") == 0
    assert "simulate" in capsys.readouterr().out
