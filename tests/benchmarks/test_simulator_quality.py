"""Quality control of the simulator: figures against brute force, commands on tiny sets, the page."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from benchmarks import simulator_experiments as experiments
from benchmarks import simulator_quality
from benchmarks.simulator_experiments import EVERYTHING, Scorer, allowed_indices
from benchmarks.simulator_measures import (
    Figure,
    Kept,
    auc_difference,
    auc_figure,
    auc_of_weights,
    confound_figures,
    count_identities,
    shared_identities,
)  # fmt: skip
from benchmarks.simulator_report import BEGIN, END, write_report
from fasedge.preprocess import InputSpec
from fasedge.types import UInt8Array
from training.data.making import make_set
from training.data.samples import SampleSet
from training.data.simulate import BONA_FIDE, SPECIES
from training.data.table import SampleRow
from training.data.work import make_simulator
from training.errors import ConfigError, DataError

RUN = CliRunner()


def row(identity: str, label: int, index: int = 0) -> SampleRow:
    return SampleRow(
        index=index, box_xyxy=(0, 0, 1, 1), label=label, species="replay", subtype="phone", source="s",
        identity=identity, picture="p", split="dev", params={},
    )  # fmt: skip


# Figures


def test_the_auc_of_weights_is_that_of_samples_that_are_repeated() -> None:
    rng = np.random.default_rng(0)
    values, labels = rng.integers(0, 6, 30) / 5, np.arange(30) % 2
    weights = rng.integers(0, 4, (5, 30))
    found = auc_of_weights(values, labels, weights.astype(float))
    for weight, auc in zip(weights, found, strict=True):
        repeated = np.repeat(np.arange(30), weight)
        assert auc == pytest.approx(roc_auc_score(labels[repeated], values[repeated]))
    one_class = np.where(labels == 1, 1.0, 0.0)[None]
    assert np.isnan(auc_of_weights(values, labels, one_class)).all()


def test_a_difference_and_its_interval_are_those_of_a_bootstrap_written_out() -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(60) % 2
    people = [f"p{i // 4}" for i in range(60)]
    a, b = labels + rng.normal(0, 0.7, 60), labels + rng.normal(0, 1.5, 60)
    found = auc_difference([(a, b)], labels, people, seed=4, resamples=1000)
    names = sorted(set(people))
    differences = []
    again = np.random.default_rng(77)
    for _ in range(300):
        chosen = np.concatenate([[i for i in range(60) if people[i] == who] for who in again.choice(names, len(names))])
        differences.append(roc_auc_score(labels[chosen], a[chosen]) - roc_auc_score(labels[chosen], b[chosen]))
    assert found.value == pytest.approx(roc_auc_score(labels, a) - roc_auc_score(labels, b))
    low, high = np.quantile(differences, [0.025, 0.975])
    # Another generator: the ends of 1,000 resamples scatter by a tenth of the width.
    assert found.low == pytest.approx(low, abs=0.35 * (high - low))
    assert found.high == pytest.approx(high, abs=0.35 * (high - low))


def test_equal_scores_differ_by_nothing_and_seeds_are_averaged() -> None:
    rng = np.random.default_rng(2)
    labels, people = np.arange(40) % 2, [f"p{i // 4}" for i in range(40)]
    a, b = rng.normal(size=40), rng.normal(size=40)
    assert auc_difference([(a, a)], labels, people) == Figure(0.0, 0.0, 0.0)
    one, two = auc_difference([(a, b)], labels, people), auc_difference([(b, a)], labels, people)
    both = auc_difference([(a, b), (a, b), (b, a)], labels, people)
    assert both.value == pytest.approx((2 * one.value + two.value) / 3)
    assert auc_figure(a, labels, people).value == pytest.approx(roc_auc_score(labels, a))


def test_differences_of_nothing_are_refused() -> None:
    labels, scores = np.array([0, 1]), np.array([0.1, 0.2])
    with pytest.raises(DataError, match="pairs of 2 scores"):
        auc_difference([], labels, ["a", "b"])
    with pytest.raises(DataError, match="two people and both classes"):
        auc_difference([(scores, scores)], labels, ["a", "a"])


def test_scalars_are_reported_in_the_direction_in_which_they_separate() -> None:
    labels, people = np.arange(40) % 2, [f"p{i // 4}" for i in range(40)]
    found = confound_figures({"falls": -labels.astype(float)}, labels, people)
    assert found["falls"].value == 1.0


def test_people_are_counted_by_the_classes_in_which_they_appear() -> None:
    table = [row("a", 0), row("a", 1), row("b", 1), row("c", 0), row("c", 0)]
    found = count_identities("dev", table)
    assert (found.samples, found.identities) == (5, 3)
    assert (found.in_both_classes, found.only_bona_fide, found.only_attack) == (1, 1, 1)
    assert shared_identities({"x": table, "y": [row("c", 1), row("d", 0)], "z": []}) == {
        "x, y": 1,
        "x, z": 0,
        "y, z": 0,
    }


def test_results_are_kept_go_on_and_are_not_mixed_with_others(tmp_path: Path) -> None:
    path = tmp_path / "new" / "r.json"
    kept = Kept.open(path, "do it", {"n": 3})
    kept.add(path, "one", Figure(0.5, 0.4, 0.6))
    again = Kept.open(path, "do it", {"n": 3})
    assert msgspec.json.decode(again.results["one"], type=Figure) == Figure(0.5, 0.4, 0.6)
    again.add(path, "two", [1, 2])
    assert json.loads(path.read_text())["results"] == {"one": {"value": 0.5, "low": 0.4, "high": 0.6}, "two": [1, 2]}
    with pytest.raises(DataError, match=r"other settings \(n\)"):
        Kept.open(path, "do it", {"n": 4})
    path.write_text("{")
    with pytest.raises(DataError, match="no results that can be read"):
        Kept.open(path, "do it", {"n": 3})


# Commands


@pytest.fixture(scope="module")
def sets(face_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sets")
    for name, n in (("train", 64), ("dev", 48)):
        for _ in make_set(face_pack, folder / name, name, n, seed=3, workers=1):  # type: ignore[arg-type]
            pass
    return {name: folder / name for name in ("train", "dev")}


def invoke(*arguments: object) -> str:
    found = RUN.invoke(simulator_quality.app, [str(a) for a in arguments])
    if found.exception and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found.output


def results(path: Path) -> dict[str, object]:
    found = json.loads(path.read_text())["results"]
    assert isinstance(found, dict)
    return found


def test_confounds_are_measured_once(sets: dict[str, Path], tmp_path: Path) -> None:
    from training.evaluate import confounds

    samples = SampleSet.load(sets["dev"])
    assert "brightness" in invoke("confounds", sets["dev"], "--out", tmp_path)
    found = results(tmp_path / "confounds.json")
    for name, auc in confounds(samples).items():
        assert found[name]["value"] == pytest.approx(auc)  # type: ignore[index]
    assert {"face_size", "jpeg_quality"} <= set(found)
    assert not invoke("confounds", sets["dev"], "--out", tmp_path).strip()


def brightness(crops: UInt8Array) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return crops.mean((1, 2, 3)) / 255


def test_operators_are_scored_off_one_by_one_and_those_that_are_done_are_skipped(
    face_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crops: list[int] = []
    outputs: list[float] = []

    def score(pictures: UInt8Array) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        crops.append(len(pictures))
        outputs.extend(brightness(pictures).tolist())
        return brightness(pictures)

    scorer = Scorer(InputSpec(size_px=32, crop_scale=1.2), score, "0" * 64)
    monkeypatch.setattr(experiments, "load_scorer", lambda path: scorer)
    command = ["operators", "student.safetensors", "--out", tmp_path, "--data", face_pack, "-n", 24, "--seed", 3]
    invoke(*command, "--only", "display_metering", "--only", "frame")
    path = tmp_path / "operators.json"
    found = results(path)
    assert set(found) == {"display_metering", "frame"}
    metering, frame = found["display_metering"], found["frame"]
    # By hand: replays are scored a second time, in their order, all else keeps its score.
    draws = [make_simulator(face_pack, tmp_path / "again", "dev", 3).draw(i).values for i in range(24)]
    replays = [i for i, values in enumerate(draws) if values.get("species") == "replay"]
    again = np.array(outputs[:24])
    again[replays] = outputs[24 : 24 + len(replays)]
    labels = [int(values["bona_fide"]) for values in draws]
    assert metering["auc_off"] == pytest.approx(roc_auc_score(labels, again))  # type: ignore[index]
    assert not np.array_equal(again, outputs[:24])
    # A frame is at work in no attack.
    assert metering["changed"] == metering["changed_attacks"] > 0  # type: ignore[index]
    assert (frame["changed_attacks"], frame["drop_there"]) == (0, None)  # type: ignore[index]
    assert sum(crops) == 24 + metering["changed"] + frame["changed"]  # type: ignore[index]
    text = path.read_text()
    invoke(*command, "--only", "frame")
    assert path.read_text() == text
    with pytest.raises(ConfigError, match="no operator 'sparkle'"):
        invoke(*command, "--only", "sparkle")
    with pytest.raises(DataError, match="other settings"):
        invoke(*command[:-1], 4, "--only", "frame")


def test_students_without_a_part_never_see_it_and_are_compared_on_it(sets: dict[str, Path], tmp_path: Path) -> None:
    train = SampleSet.load(sets["train"])
    for name in ("replay", "glare"):
        left = allowed_indices(train, name)
        assert len(left) < len(train)
        if name == "replay":
            assert {train.table[i].species for i in left} == {r.species for r in train.table} - {"replay"}
        else:
            assert not any(train.table[i].params.get("glare", 0) for i in left)
    assert allowed_indices(train, EVERYTHING) == list(range(64))
    command = ["heldout", "--train", sets["train"], "--test", sets["dev"], "--out", tmp_path, "--only", "replay"]
    command += ["--seeds", 1, "-n", 16, "--size", 32, "--batch", 8, "--no-pretrained"]
    assert invoke(*command).count("trained") == 2
    found = results(tmp_path / "heldout.json")["replay"]
    test = SampleSet.load(sets["dev"])
    students = results(tmp_path / "students.json")
    chosen = [i for i, r in enumerate(test.table) if r.label or r.species == "replay"]
    for name, key in ((EVERYTHING, "auc_with"), ("replay", "auc_without")):
        scores = np.array(students[f"{name}/1"])[chosen]
        assert found[key] == pytest.approx(roc_auc_score(test.labels[chosen], scores))  # type: ignore[index]
    assert found["trained_on"] == 16  # type: ignore[index]
    # A second seed trains two more students and no third.
    assert invoke(*command, "--seeds", 2).count("trained") == 2
    assert results(tmp_path / "heldout.json")["replay"]["seeds"] == [1, 2]  # type: ignore[index]
    with pytest.raises(DataError, match="people are in both sets"):
        invoke("heldout", "--train", sets["dev"], "--test", sets["dev"], "--out", tmp_path / "other")


def test_shared_people_are_an_error_and_others_are_counted(sets: dict[str, Path], tmp_path: Path) -> None:
    invoke("identities", sets["train"], sets["dev"], "--out", tmp_path)
    found = results(tmp_path / "identities.json")
    assert found["shared"] == {"dev, train": 0}
    table = SampleSet.load(sets["dev"]).table
    people = {r.identity for r in table}
    both = {r.identity for r in table if r.label} & {r.identity for r in table if not r.label}
    assert (found["dev"]["identities"], found["dev"]["in_both_classes"]) == (len(people), len(both))  # type: ignore[index]
    link = tmp_path / "copy"
    link.symlink_to(sets["dev"])
    with pytest.raises(DataError, match="people in two sets"):
        invoke("identities", sets["dev"], link, "--out", tmp_path / "other")


def test_sheets_show_as_many_of_each_species_as_wanted(face_pack: Path, tmp_path: Path) -> None:
    import cv2

    command = ["sheets", "--out", tmp_path, "--data", face_pack, "-n", 3, "--seed", 3]
    invoke(*command)
    found = results(tmp_path / "sheets.json")
    # Masks need meshes of the faces, which a drawn pack has not.
    assert {BONA_FIDE, "replay", "print"} <= set(found) <= {BONA_FIDE, *SPECIES}
    assert all(len(set(numbers)) == 3 for numbers in found.values())  # type: ignore[arg-type]
    sheet = cv2.imread(str(tmp_path / "sheets" / "print.png"))
    assert sheet is not None
    assert sheet.shape == (192, 1920, 3)
    assert sheet[:, 576:].max() == 0
    before = (tmp_path / "sheets" / "print.png").stat().st_mtime_ns
    invoke(*command)
    assert (tmp_path / "sheets" / "print.png").stat().st_mtime_ns == before


# The page


def some_results(folder: Path) -> None:
    figure = {"value": 0.61, "low": 0.58, "high": 0.64}
    Kept.open(folder / "confounds.json", "run confounds", {"seed": 9}).add(
        folder / "confounds.json", "sharpness", figure
    )
    operator = {
        "changed": 12, "changed_attacks": 12, "auc": 0.93, "auc_off": 0.91, "drop": {"value": 0.02, "low": 0.01,
        "high": 0.03}, "drop_there": None,
    }  # fmt: skip
    Kept.open(folder / "operators.json", "run operators", {"n": 50}).add(folder / "operators.json", "moire", operator)


def test_the_page_joins_what_there_is_with_commands_and_intervals(tmp_path: Path) -> None:
    some_results(tmp_path)
    page = tmp_path / "docs" / "page.md"
    invoke("report", "--results", tmp_path, "--page", page)
    text = page.read_text(encoding="utf-8")
    assert "| sharpness | 0.610 [0.580, 0.640] | **above the bar** |" in text
    assert (
        "| moire | sub-pixels of the screen, aliased on the camera's sensor | 12 | 0.910 | 0.020 [0.010, 0.030] |"
        in text
    )
    assert "`run operators`" in text
    assert "(n: 50)" in text
    # Three parts are missing, and the page says so.
    assert text.count("Not measured yet.") == 3


def test_what_is_written_by_hand_is_kept(tmp_path: Path) -> None:
    some_results(tmp_path)
    page = tmp_path / "page.md"
    write_report(tmp_path, page)
    text = page.read_text(encoding="utf-8")
    mine = "- Hair is cut off straight.\n\n- Fingers have no nails: `<b>`."
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    page.write_text(text[:start] + "\n" + mine + "\n" + text[end:], encoding="utf-8")
    write_report(tmp_path, page)
    write_report(tmp_path, page)
    again = page.read_text(encoding="utf-8")
    assert again.split(BEGIN)[1].split(END)[0] == f"\n{mine}\n"


def test_a_page_with_half_of_its_markers_is_not_overwritten(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}\nmy text\n", encoding="utf-8")
    with pytest.raises(DataError, match="once each, in this order"):
        write_report(tmp_path, page)
    assert page.read_text(encoding="utf-8") == f"{BEGIN}\nmy text\n"
