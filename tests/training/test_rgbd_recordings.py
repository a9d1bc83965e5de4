"""WMCA and HQ-WMCA from trees of readable recordings to a trained network, by the commands that a user types."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from fasedge.preprocess import InputSpec
from fasedge.testing import FakeFaceFinder, synthetic_face
from tests.training.fixtures import recordings
from training import prepare as program
from training.__main__ import main
from training.data.batches import depth_crops
from training.data.samples import SampleSet

pytest.importorskip("h5py", reason="h5py is not installed")

FRAMES, WHOLE = 2, InputSpec(size_px=224, crop_scale=1.0)
# Median and spread of the ridge in its box, by hand: columns 30 to 129 of the picture are 15 to 64 of the depth camera,
# with |2u - 79| = 49, 47 … 1, 1 … 49 in steps of 10 mm. The median of 1, 3 … 49 is 25; the distances from it are 0 once
# and 2, 4 … 24 twice each, of which the 13th is 12.
RIDGE_MM, SPREAD_MM = 2250.0, 120.0
CONFIG = """
[input]
size_px = 32
[method]
name = "cmfl"
width = 0.0625
[optimiser]
batch = 8
epochs = 1
learning_rate = 1e-4
[machine]
device = "cpu"
"""


@pytest.fixture(autouse=True)
def finder_of_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finds the drawn face."""
    finder = partial(FakeFaceFinder, (synthetic_face((80, 60), 100.0),))
    monkeypatch.setattr(program, "open_finder", lambda *_, **__: finder())


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["training", *map(str, arguments)])
    return main()


def prepare(monkeypatch: pytest.MonkeyPatch, dataset: str, root: Path, out: Path, *more: object) -> None:
    arguments = ("--root", root, "--out", out, "--method", "cmfl", "--frames", FRAMES, "--workers", 1, *more)
    assert run(monkeypatch, "prepare", dataset, *arguments) == 0


def fit(monkeypatch: pytest.MonkeyPatch, sets: Path, out: Path) -> None:
    """Train CMFL for an epoch; everything of both sets is looked at."""
    config = sets.parent / "cmfl.toml"
    config.write_text(CONFIG)
    arguments = ("--train", sets / "train", "--dev", sets / "dev", "--out", out)
    assert run(monkeypatch, "fit", config, *arguments) == 0
    record = json.loads((out / "run.json").read_text())
    for split in ("train", "dev"):
        assert (record[split]["n"], record[split]["depth"]) == (len(SampleSet.load(sets / split)), True)
    header, *rows = ((out / "log.csv").read_text()).splitlines()
    assert rows
    assert np.isfinite([float(row.split(",")[header.split(",").index("loss")]) for row in rows]).all()


def videos(samples: SampleSet) -> dict[str, int]:
    """Recordings of each species; each has all its frames."""
    frames = Counter(str(row.params["video"]) for row in samples.table)
    assert set(frames.values()) == {FRAMES}
    species = {str(row.params["video"]): row.species for row in samples.table}
    return dict(Counter(species.values()))


def check_labels(samples: SampleSet) -> None:
    assert samples.labels.tolist() == [int(row.species == "bona_fide") for row in samples.table]
    assert set(samples.labels.tolist()) == {0, 1}
    assert {row.subtype == "bona_fide" for row in samples.table if row.label} == {True}


def check_measured_depth(samples: SampleSet, *, ridge: tuple[float, float], fall_mm: int) -> None:
    """A ridge where bona fide, a sheet where attack, and bytes by 255 (d - median + 3 spread) / (6 spread)."""
    assert samples.has_depth
    median, spread = ridge
    bytes_ = depth_crops(samples, range(len(samples)), WHOLE)
    steps = {int(255 * (2000 + fall_mm * k - median + 3 * spread) / (6 * spread)) for k in range(1, 200, 2)}
    for row, depth, seen in zip(samples.table, bytes_, (samples.depth_mm(i) for i in range(len(samples))), strict=True):
        measured = row.params["depth_median_mm"], row.params["depth_spread_mm"]
        if row.label:
            assert measured == ridge
            assert set(seen[:, 111].tolist()) == {2000 + fall_mm}
            assert set(depth[:, 111].tolist()) == {int(255 * (2000 + fall_mm - median + 3 * spread) / (6 * spread))}
            assert set(np.unique(depth).tolist()) <= steps
            assert len(np.unique(depth)) > 10
        else:
            # The smallest spread that is divided by is 1 mm; in the middle of bytes lies 127.5.
            assert measured == (2100.0, 1.0)
            assert set(np.unique(depth).tolist()) == {127}


#: Two videos of each category and split; paper masks are unseen before the test.
GRANDTEST = ("bona_fide", "fakehead", "flexiblemask", "glasses", "prints", "replay", "rigidmask")


def test_raw_wmca_becomes_sets_with_measured_depth_and_trains_cmfl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = recordings.wmca(tmp_path / "wmca", content=True, videos=2)
    prepare(monkeypatch, "wmca", tree.root, tmp_path / "sets", "--allow-partial")
    assert "wmca grandtest, incomplete: train 2 + 12, dev 2 + 12, test 2 + 14" in capsys.readouterr().out
    for split, species in (("train", GRANDTEST), ("dev", GRANDTEST), ("test", (*GRANDTEST, "papermask"))):
        samples = SampleSet.load(tmp_path / "sets" / split)
        assert videos(samples) == dict.fromkeys(species, 2)
        assert samples.picture(0).shape == (224, 224, 3)
        assert {row.params["tag_day"] for row in samples.table} == {"20.03.18"}
        assert all(re.fullmatch(r"wmca/\d00|wmca/\d01", row.identity) for row in samples.table)
        check_labels(samples)
        check_measured_depth(samples, ridge=(RIDGE_MM, SPREAD_MM), fall_mm=10)
    fit(monkeypatch, tmp_path / "sets", tmp_path / "run")


def test_preprocessed_wmca_without_one_attack_is_taken_as_it_is_and_trains_cmfl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = recordings.wmca(tmp_path / "wmca", raw=False, content=True, videos=2)
    prepare(monkeypatch, "wmca", tree.root, tmp_path / "sets", "--allow-partial", "--protocol", "LOO_glasses")
    seen = [name for name in GRANDTEST if name != "glasses"]
    for split, species in (("train", seen), ("dev", seen), ("test", ["bona_fide", "glasses"])):
        samples = SampleSet.load(tmp_path / "sets" / split)
        assert videos(samples) == dict.fromkeys(species, 2)
        # Of frames 0, 10, 20 and 30 the middles of two halves.
        assert [row.params["frame"] for row in samples.table[:FRAMES]] == [10, 30]
        check_labels(samples)
        # Normalised when it was preprocessed: nothing changes it, but that 1 is a hole as 0 is.
        for label, depth in zip(samples.labels, depth_crops(samples, range(len(samples)), WHOLE), strict=True):
            wanted = np.array([0, 0, *range(2, 224)]) if label else np.full(224, 127)
            np.testing.assert_array_equal(depth, np.broadcast_to(wanted, (224, 224)))
    fit(monkeypatch, tmp_path / "sets", tmp_path / "run")


def test_preprocessed_wmca_in_the_folders_of_the_raw_files_is_known_by_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = recordings.wmca(tmp_path / "wmca", raw=False, content=True, videos=2)
    day = tree.root / "face-station" / "20.03.18"
    day.mkdir(parents=True)
    for path in [*tree.root.rglob("*.hdf5")]:
        path.rename(day / path.name)
    options = ("--root", tree.root, "--method", "cmfl", "--check", "--allow-partial")
    assert run(monkeypatch, "prepare", "wmca", *options) == 0
    assert "depth_warp" not in capsys.readouterr().out


def test_normalised_depth_is_no_target_of_networks_that_predict_distances(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = recordings.wmca(tmp_path / "wmca", raw=False, content=True, videos=2)
    prepare(monkeypatch, "wmca", tree.root, tmp_path / "sets", "--allow-partial")
    samples = SampleSet.load(tmp_path / "sets" / "train")
    assert (samples.has_depth, samples.has_distances, samples.info.depth_unit) == (True, False, "bytes")
    config = tmp_path / "cdcn.toml"
    config.write_text('[input]\nsize_px = 64\n[method]\nname = "cdcn"\noptions = { depth_target = "sensor" }\n')
    sets = ("--train", tmp_path / "sets" / "train", "--dev", tmp_path / "sets" / "dev")
    capsys.readouterr()
    assert run(monkeypatch, "fit", config, *sets, "--out", tmp_path / "run") == 3
    assert "is normalised over each face and has no unit" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("protocol", ["grand_test-curated", "LOO_Print"])
def test_hq_wmca_becomes_sets_with_measured_depth_and_trains_cmfl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    tree = recordings.hq_wmca(tmp_path / "hq", content=True)
    prepare(monkeypatch, "hq_wmca", tree.root, tmp_path / "sets", "--protocol", protocol)
    everything = ["bona_fide", "Glasses", "Print"]
    seen, measured = (everything, everything) if protocol != "LOO_Print" else (everything[:2], ["bona_fide", "Print"])
    for split, species in (("train", seen), ("dev", seen), ("test", measured)):
        samples = SampleSet.load(tmp_path / "sets" / split)
        assert videos(samples) == dict.fromkeys(species, 2)
        check_labels(samples)
        # Depth has the pixels of colour: |2x - 159| is 99, 97 … 1 in the box, twice each; 50 in the middle between 49
        # and 51; and the distances 1, 3 … 49 twice each have 25 in theirs.
        check_measured_depth(samples, ridge=(2500.0, 250.0), fall_mm=10)
    fit(monkeypatch, tmp_path / "sets", tmp_path / "run")


def test_every_recording_of_a_whole_tree_can_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = recordings.wmca(tmp_path / "wmca", content=True)
    assert run(monkeypatch, "prepare", "wmca", "--root", tree.root, "--check") == 0
    out = capsys.readouterr().out
    assert "wmca grandtest: train 124 + 441, dev 108 + 449, test 115 + 442" in out
    assert "1679/1679" in out
    assert "depth_warp.json" not in out
