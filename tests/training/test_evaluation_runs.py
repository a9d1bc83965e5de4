"""``python -m training evaluate`` from a run's folder to its files, and what it refuses."""

from __future__ import annotations

import csv
import json
import struct
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from tests.training.fixtures.evaluation_sets import (
    FRAMES,
    RECORDINGS,
    SIDE_PX,
    changed,
    drawn_set,
    settings,
    untrained_run,
    write_set,
)
from tests.training.fixtures.toy_sets import toy_row
from training.__main__ import main
from training.build import build_task
from training.data.samples import SampleSet
from training.errors import CheckpointNotFoundError, ConfigError, DataError, StateMismatchError
from training.evaluation.checks import Override
from training.evaluation.document import Document, read_document
from training.evaluation.evaluating import Options, Pair, evaluate_runs, pair_up
from training.evaluation.maps import choose_samples, overlay
from training.evaluation.plots import SIZE_PX
from training.evaluation.runs import load_run
from training.loop import Trainer
from training.scoring import score_batches

QUICK = Options(resamples=0, plots=False, device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sets ``dev`` and ``test`` with depth, and runs of the three methods."""
    out = tmp_path_factory.mktemp("evaluation")
    for split in ("dev", "test"):
        write_set(out / split, drawn_set(split, depth=True))
    for method in ("a-deeppixbis", "cmfl", "rfmeta"):
        untrained_run(out / method, method)
    return out


def pair(folder: Path, run: str = "a-deeppixbis", **sets: Path) -> Pair:
    return Pair(folder / run, sets.get("dev", folder / "dev"), sets.get("test", folder / "test"))


def png_size(path: Path) -> tuple[int, int]:
    """Width and height from the header of a PNG."""
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.rstrip().endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", content[16:24])
    return width, height


def not_blank(path: Path) -> bool:
    import cv2

    picture = cv2.imread(str(path))
    return picture is not None and float(picture.std()) > 1


# --- the whole way --------------------------------------------------------------------------------------------------


def test_a_trained_run_is_evaluated_from_the_command_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings("a-deeppixbis")
    torch.manual_seed(0)
    trainer = Trainer(build_task(config), config, drawn_set("train"), drawn_set("dev"), tmp_path / "run")
    assert len(list(trainer.run())) == 1
    out = tmp_path / "out"
    sets = ("--dev", folder / "dev", "--test", folder / "test", "--out", out)
    arguments = ("training", "evaluate", tmp_path / "run", *sets, "--maps", 1, "--device", "cpu", "--threads", 1)
    monkeypatch.setattr(sys, "argv", [str(argument) for argument in arguments])
    assert main() == 0
    said = capsys.readouterr().out
    assert "frames, score map" in said
    assert "videos, score map" in said
    assert {path.name for path in out.iterdir()} == {
        "scores.csv", "metrics.json", "report.md", "maps",
        *(f"{name}_{level}.png" for name in ("det", "roc", "epc", "scores") for level in ("frame", "video")),
    }  # fmt: skip
    for plot in out.glob("*.png"):
        assert png_size(plot) == SIZE_PX
        assert not_blank(plot)
    _check_document(read_document(out))
    with (out / "scores.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 3 * len(RECORDINGS) * FRAMES
    assert {row["split"] for row in rows} == {"dev", "test"}
    assert {"map", "binary", "map_att"} < set(rows[0])
    report = (out / "report.md").read_text()
    assert "### Videos, score `map`, the method's own score" in report
    assert "](det_video.png)" in report


def _check_document(document: Document) -> None:
    (run,) = document.runs
    assert (run.primary, run.run.method, run.run.epoch) == ("map", "a-deeppixbis", 1)
    assert (run.test.title, run.test.rule, run.test.n_videos) == ("toy 1", "a-deeppixbis", 12)
    video = run.levels["video"]["map"]
    assert (video.n_bona_fide, video.n_attack, video.n_subjects) == (6, {"print": 3, "replay": 3}, 3)
    assert set(video.at["eer"].apcer_subtype) == {"print1", "display2"}
    assert document.summary["video"]["map"]["auc"].mean == video.auc
    assert document.summary["video"]["map"]["auc"].n == 1


def test_scores_are_those_of_the_network_on_plain_crops(folder: Path, tmp_path: Path) -> None:
    for method, names in (
        ("a-deeppixbis", ["map", "binary", "map_att"]),
        ("cmfl", ["joint", "rgb", "depth", "both", "mean3"]),
        ("rfmeta", ["binary", "depth"]),
    ):
        document = evaluate_runs([pair(folder, method)], tmp_path / method, QUICK)
        assert list(document.runs[0].levels["frame"]) == names
        run = load_run(folder / method)
        test = SampleSet.load(folder / "test")
        wanted = score_batches(run.task.score_batch, run.task.module, test, run.config, needs=run.task.needs)
        with (tmp_path / method / "scores.csv").open(newline="") as stream:
            found = [float(row[names[0]]) for row in csv.DictReader(stream) if row["split"] == "test"]
        assert found == pytest.approx(wanted.tolist(), abs=1e-6)


def test_the_last_epoch_of_rfmeta_is_measured_and_the_best_of_others_unless_told_otherwise(folder: Path) -> None:
    chosen = {method: load_run(folder / method).record.checkpoint for method in ("a-deeppixbis", "cmfl", "rfmeta")}
    assert chosen == {"a-deeppixbis": "best", "cmfl": "best", "rfmeta": "last"}
    assert load_run(folder / "rfmeta", "best").record.checkpoint == "best"


def test_several_runs_give_mean_and_spread_and_a_folder_each(folder: Path, tmp_path: Path) -> None:
    runs = [untrained_run(tmp_path / f"seed{seed}", "a-deeppixbis", seed=seed) for seed in (1, 2, 3)]
    document = evaluate_runs(pair_up(runs, [folder / "dev"], [folder / "test"]), tmp_path / "out", QUICK)
    areas = [run.levels["frame"]["map"].auc for run in document.runs]
    mean = document.summary["frame"]["map"]["auc"]
    assert (mean.mean, mean.n) == (pytest.approx(np.mean(areas)), 3)
    assert mean.std_population == pytest.approx(np.std(areas))
    assert mean.std_sample == pytest.approx(np.std(areas, ddof=1))
    assert [run.run.seed for run in document.runs] == [1, 2, 3]
    alone = read_document(tmp_path / "out" / "seed2")
    assert alone.runs[0].levels == document.runs[1].levels
    assert "## Mean over 3 runs" in (tmp_path / "out" / "report.md").read_text()


def test_runs_of_different_networks_have_no_mean(folder: Path, tmp_path: Path) -> None:
    runs = [folder / "a-deeppixbis", folder / "rfmeta"]
    with pytest.raises(ConfigError, match=r"one network.*a-deeppixbis \(profile.*rfmeta \(profile"):
        evaluate_runs(pair_up(runs, [folder / "dev"], [folder / "test"]), tmp_path / "out", QUICK)
    assert not (tmp_path / "out").exists()


def test_sets_are_given_once_or_once_for_each_run() -> None:
    a, b, c = Path("a"), Path("b"), Path("c")
    assert pair_up([a, b], [c], [a, b]) == [Pair(a, c, a), Pair(b, c, b)]
    with pytest.raises(ConfigError, match="--dev once for all runs, or once for each of 3"):
        pair_up([a, b, c], [a, b], [c])
    with pytest.raises(ConfigError, match="named twice"):
        pair_up([a, a], [b], [c])


# --- maps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "panels"), [("a-deeppixbis", 2), ("cmfl", 4), ("rfmeta", 2)])
def test_attention_maps_lie_beside_their_pictures(folder: Path, tmp_path: Path, method: str, panels: int) -> None:
    options = Options(resamples=0, plots=False, maps=2, device="cpu")
    evaluate_runs([pair(folder, method)], tmp_path, options)
    files = sorted((tmp_path / "maps").glob("*.png"))
    kinds = ("bona_fide", "print", "replay")
    assert [path.name for path in files] == [f"{species}_{k:02d}.png" for species in kinds for k in range(2)]
    assert all(png_size(path) == (panels * SIDE_PX, SIDE_PX) for path in files)
    assert all(not_blank(path) for path in files)
    with (tmp_path / "maps" / "index.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["file"] for row in rows] == [path.name for path in files]


def test_no_maps_are_drawn_unless_asked_for(folder: Path, tmp_path: Path) -> None:
    evaluate_runs([pair(folder)], tmp_path, QUICK)
    assert {path.name for path in tmp_path.iterdir()} == {"scores.csv", "metrics.json", "report.md"}


def test_maps_of_a_method_without_any_are_refused_before_anything_is_scored(folder: Path, tmp_path: Path) -> None:
    untrained_run(tmp_path / "run", "deeppixbis")
    options = Options(resamples=0, maps=1, device="cpu")
    with pytest.raises(ConfigError, match="no attention maps for DeepPixBiS"):
        evaluate_runs([Pair(tmp_path / "run", folder / "dev", folder / "test")], tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_where_a_map_is_zero_the_picture_is_unchanged() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 1
    found = overlay(picture, heat)
    assert np.array_equal(found[1:], picture[1:])
    assert not np.array_equal(found[0, 0], picture[0, 0])


def test_samples_for_maps_come_from_different_recordings() -> None:
    samples = drawn_set("test")
    for species, places in choose_samples(samples, 3).items():
        assert all(samples.table[i].species == species for i in places)
        assert len({samples.table[i].params["video"] for i in places}) == 3
    assert len(choose_samples(samples, 100)["print"]) == 3 * FRAMES


# --- what is refused ------------------------------------------------------------------------------------------------


def refused(folder: Path, tmp_path: Path, match: str, run: str = "a-deeppixbis", **sets: SampleSet) -> None:
    written = {name: write_set(tmp_path / name, samples) for name, samples in sets.items()}
    with pytest.raises(DataError, match=match):
        evaluate_runs([pair(folder, run, **written)], tmp_path / "out", QUICK)
    assert not (tmp_path / "out").exists()


def test_a_run_without_checkpoint_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, why in (("empty", "the folder has none"), ("nowhere", "no such folder")):
        with pytest.raises(CheckpointNotFoundError, match=why):
            load_run(tmp_path / name)
    with pytest.raises(CheckpointNotFoundError, match=r"last\.safetensors"):
        load_run(folder / "a-deeppixbis", "last")


def test_a_checkpoint_of_another_size_is_refused(folder: Path, tmp_path: Path) -> None:
    from training.checkpoint import load_checkpoint, save_checkpoint

    found = load_checkpoint(folder / "a-deeppixbis" / "best.safetensors")
    config = msgspec.to_builtins(settings("a-deeppixbis"))
    config["method"]["width"] = 0.25
    save_checkpoint(tmp_path / "best.safetensors", found.tensors, found.metadata | {"config": config})
    with pytest.raises(StateMismatchError, match="another width"):
        load_run(tmp_path)


def test_a_set_with_one_class_is_refused(folder: Path, tmp_path: Path) -> None:
    test = drawn_set("test")
    rows = [toy_row(i, 1, split="test", params=row.params) for i, row in enumerate(test.table)]
    refused(folder, tmp_path, r"needs bona fide samples and attacks, got 24 and 0", test=changed(test, rows=rows))


def test_an_attack_without_species_is_refused(folder: Path, tmp_path: Path) -> None:
    test = drawn_set("test")
    for name in ("", "bona_fide"):
        rows = [r if r.label or i < 9 else msgspec.structs.replace(r, species=name) for i, r in enumerate(test.table)]
        refused(folder, tmp_path, "is an attack without species", test=changed(test, rows=rows))


def test_sets_of_other_splits_are_refused(folder: Path, tmp_path: Path) -> None:
    refused(folder, tmp_path, "of the split 'train'", dev=drawn_set("train"), test=drawn_set("test"))
    refused(folder, tmp_path, "rates are measured on a test set", test=drawn_set("train"))


def test_a_set_without_depth_is_refused_where_the_network_looks_at_depth(folder: Path, tmp_path: Path) -> None:
    refused(folder, tmp_path, "no depth, which the network looks at", "cmfl", dev=drawn_set("dev"))


def test_sets_of_different_modality_size_or_crops_are_refused(folder: Path, tmp_path: Path) -> None:
    refused(folder, tmp_path, "the test set has depth and the dev set has none", dev=drawn_set("dev"))
    dev = drawn_set("dev", depth=True)
    small = SampleSet(
        np.stack([dev.picture(i)[:48, :48] for i in range(len(dev))]), dev.table, dev.info,
        np.stack([dev.depth_mm(i)[:48, :48] for i in range(len(dev))]),
    )  # fmt: skip
    refused(folder, tmp_path, "pictures of 48 px and the test set of 64 px", dev=small)
    other = drawn_set("dev", depth=True, origin="toy 1; rfmeta; 00000000")
    refused(folder, tmp_path, r"different rules \(dev rfmeta, test a-deeppixbis\)", dev=other)


def test_two_protocols_or_folds_of_one_data_set_are_refused_unless_allowed(folder: Path, tmp_path: Path) -> None:
    """Folds of OULU-NPU share no people between train and test: nothing else would notice."""

    def origin(title: str) -> str:
        return f"{title}; a-deeppixbis; 00000000"

    first, second = origin("oulu_npu 3, fold 1"), origin("oulu_npu 3, fold 2")
    dev, test = (drawn_set(split, origin=first) for split in ("dev", "test"))
    sets = {s.info.split: write_set(tmp_path / s.info.split, s) for s in (dev, test)}
    run = untrained_run(tmp_path / "run", "a-deeppixbis")
    one = Pair(run, sets["dev"], sets["test"])
    (run / "run.json").write_text(json.dumps({"train": {"origin": second}}))
    told = "different protocols of oulu_npu .the training is oulu_npu 3, fold 2, dev is oulu_npu 3, fold 1"
    with pytest.raises(DataError, match=f"{told}.*--allow other-protocol"):
        evaluate_runs([one], tmp_path / "out", QUICK)
    allowing = Options(resamples=0, plots=False, device="cpu", allow=(Override.OTHER_PROTOCOL,))
    (result,) = evaluate_runs([one], tmp_path / "out", allowing).runs
    assert "fold 2" in result.overrides["other-protocol"]
    assert "- trained on: oulu_npu 3, fold 2" in (tmp_path / "out" / "report.md").read_text()
    refused(folder, tmp_path / "more", "different protocols", dev=drawn_set("dev", origin=first),
            test=drawn_set("test", origin=second))  # fmt: skip
    # Simulated training, another data set and folders of one's own are no problem.
    for title in ("", origin("replay_mobile grandtest"), origin("generic indoors")):
        (run / "run.json").write_text(json.dumps({"train": {"origin": title}}))
        evaluate_runs([one], tmp_path / "again", QUICK)


def test_runs_on_different_protocols_have_no_mean(folder: Path, tmp_path: Path) -> None:
    pairs = []
    for place, title in enumerate(("oulu_npu 1", "oulu_npu 2")):
        sets = (drawn_set(split, origin=f"{title}; rule; 0") for split in ("dev", "test"))
        dev, test = (write_set(tmp_path / f"{place}{s.info.split}", s) for s in sets)
        pairs.append(Pair(folder / "a-deeppixbis", dev, test))
    with pytest.raises(ConfigError, match="of one protocol, but these are tested on oulu_npu 1; oulu_npu 2"):
        evaluate_runs(pairs, tmp_path / "out", QUICK)


def test_people_in_both_sets_are_refused_unless_allowed_and_then_recorded(folder: Path, tmp_path: Path) -> None:
    test = drawn_set("test", depth=True)
    rows = [msgspec.structs.replace(row, identity=row.identity.replace("test", "dev")) for row in test.table]
    shared = changed(test, rows=rows)
    refused(folder, tmp_path, "3 people are in both the dev and the test set, such as 'toy/dev0'.*--allow shared",
            test=shared)  # fmt: skip
    options = Options(resamples=0, plots=False, device="cpu", allow=(Override.SHARED_SUBJECTS,))
    evaluate_runs([pair(folder, test=tmp_path / "test")], tmp_path / "out", options)
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())["runs"][0]["overrides"]
    assert "3 people are in both" in found["shared-subjects"]
    assert "check `shared-subjects` was switched off" in (tmp_path / "out" / "report.md").read_text()


def test_people_of_the_training_are_refused_in_test_and_dev_unless_allowed(folder: Path, tmp_path: Path) -> None:
    """Digests as coreutils' sha256sum writes them: printf 'toy/test1' | sha256sum | head -c 12."""
    run = untrained_run(tmp_path / "run", "a-deeppixbis")
    one, pictures = Pair(run, folder / "dev", folder / "test"), "rates on people whom the network knows flatter"
    for people, message in (
        (["ad88e780caed", "0" * 12], f"1 people of the training are in the test set, such as 'toy/test1': {pictures};"),
        (["ff8808e3028c"], "1 people of the training are in the dev set, such as 'toy/dev0'"),
    ):
        (run / "run.json").write_text(json.dumps({"people": people}))
        with pytest.raises(DataError, match=f"{message}.*--allow shared-subjects"):
            evaluate_runs([one], tmp_path / "out", QUICK)
    assert not (tmp_path / "out").exists()
    options = Options(resamples=0, plots=False, device="cpu", allow=(Override.SHARED_SUBJECTS,))
    (result,) = evaluate_runs([one], tmp_path / "out", options).runs
    assert "people of the training are in the dev set" in result.overrides["shared-subjects"]


def test_the_report_says_where_people_of_the_training_could_not_be_looked_for(folder: Path, tmp_path: Path) -> None:
    run = untrained_run(tmp_path / "run", "a-deeppixbis")
    said = []
    for record in ("{}", '{"people": ["0123456789ab"]}'):
        (run / "run.json").write_text(record)
        evaluate_runs([Pair(run, folder / "dev", folder / "test")], tmp_path / "out", QUICK)
        said.append("could not be checked" in (tmp_path / "out" / "report.md").read_text())
    assert said == [True, False]


def test_impossible_options_are_refused() -> None:
    for options, match in (
        ({"resamples": 10}, "at least 1000"),
        ({"fixed": float("nan")}, "finite"),
        ({"maps": -1}, "maps"),
    ):
        with pytest.raises(ConfigError, match=match):
            Options(**options)  # type: ignore[arg-type]
