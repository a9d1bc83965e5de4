"""What the README promises to whoever has OULU-NPU on a disk: three commands to a trained and evaluated model."""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from fasedge.testing import FakeFaceFinder, synthetic_face
from tests.training.fixtures import recordings
from tests.training.fixtures.recordings import HEIGHT, WIDTH
from training import prepare as program
from training.__main__ import main
from training.data.samples import SampleSet
from training.evaluation.document import read_document

FRAMES = 2
CONFIG = """
[input]
size_px = 32
crop_scale = {scale}
[method]
name = "a-deeppixbis"
trunk = "densenet161"
width = 0.0625
[optimiser]
batch = 8
epochs = 1
[machine]
device = "cpu"
"""


@pytest.fixture
def oulu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small tree, and a finder of the face that is drawn in it."""
    finder = partial(FakeFaceFinder, (synthetic_face((WIDTH / 2, HEIGHT / 2), 100.0),))
    monkeypatch.setattr(program, "open_finder", lambda *_, **__: finder())
    return recordings.small_oulu_npu(tmp_path / "OULU-NPU").root


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["training", *map(str, arguments)])
    return main()


_Frames = list[dict[str, str]]


def frame_scores(path: Path) -> dict[str, dict[str, _Frames]]:
    """What is said of every frame, by split and video."""
    found: dict[str, dict[str, _Frames]] = defaultdict(lambda: defaultdict(list))
    with path.open(newline="") as stream:
        for row in csv.DictReader(stream):
            found[row["split"]][row["video"]].append(row)
    return found


def area(videos: dict[str, _Frames]) -> float:
    """Share of pairs of a bona fide video and an attack whose mean scores are in the right order; a draw is a half."""
    means = [(int(frames[0]["label"]), float(np.mean([float(f["map"]) for f in frames]))) for frames in videos.values()]
    genuine, attacks = ([mean for label, mean in means if label == wanted] for wanted in (1, 0))
    return float(np.mean([(g > a) + 0.5 * (g == a) for g, a in product(genuine, attacks)]))


@pytest.mark.parametrize("scale", [1.0, 1.8])
def test_three_commands_lead_from_oulu_npu_to_an_evaluated_model(
    oulu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    sets, out, config = tmp_path / "prepared", tmp_path / "run", tmp_path / "config.toml"
    config.write_text(CONFIG.format(scale=scale))
    # What is not the README's: a part of the data set, and what makes it quick.
    wider = ("--scale", scale) if scale > 1 else ()
    small = ("--allow-partial", "--frames", FRAMES, "--workers", 1, *wider)
    quick = ("--resamples", 0, "--no-plots", "--device", "cpu")
    commands = [
        ("prepare", "oulu_npu", "--protocol", 1, "--root", oulu, "--out", sets, *small),
        ("fit", config, "--train", sets / "train", "--dev", sets / "dev", "--out", out),
        ("evaluate", out, "--dev", sets / "dev", "--test", sets / "test", "--out", out / "test", *quick),
    ]
    assert [run(monkeypatch, *command) for command in commands] == [0, 0, 0]

    # One phone and two people: two sessions in train and dev, the third in test; a bona fide video and four attacks.
    side = 224 if scale == 1 else 224 + 2 * 90
    for split, recorded in (("train", 20), ("dev", 20), ("test", 10)):
        samples = SampleSet.load(sets / split)
        assert (len(samples), samples.labels.sum()) == (FRAMES * recorded, FRAMES * recorded // 5)
        assert samples.picture(0).shape == (side, side, 3)

    (found,) = read_document(out / "test").runs
    assert (found.test.title, found.test.n_videos, found.dev.n_videos) == ("oulu_npu 1, incomplete", 10, 20)
    video, frame = found.levels["video"]["map"], found.levels["frame"]["map"]
    assert (video.n_bona_fide, video.n_attack, video.n_subjects) == (2, {"print": 4, "replay": 4}, 2)
    assert (frame.n_bona_fide, frame.n_attack) == (2 * FRAMES, {"print": 4 * FRAMES, "replay": 4 * FRAMES})
    assert video.at["eer"].chosen_on == "dev"

    scores = frame_scores(out / "test" / "scores.csv")
    assert {split: len(videos) for split, videos in scores.items()} == {"dev": 20, "test": 10}
    dev, test = (
        {
            tuple(frame[name] for name in ("map", "binary", "map_att"))
            for frames in scores[split].values()
            for frame in frames
        }
        for split in ("dev", "test")
    )
    # Every split has noise of its own: five kinds of videos with two frames each, and none is in both. The same picture
    # may differ in the last bit by its place in a batch.
    assert min(len(dev), len(test)) >= 5 * FRAMES
    assert not dev & test
    assert video.auc == pytest.approx(area(scores["test"]))


def test_a_wider_crop_than_was_prepared_is_refused_with_the_option_that_prepares_it(
    oulu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sets, config = tmp_path / "prepared", tmp_path / "config.toml"
    config.write_text(CONFIG.format(scale=1.8))
    small = ("--allow-partial", "--frames", 1, "--workers", 1)
    assert run(monkeypatch, "prepare", "oulu_npu", "--root", oulu, "--out", sets, *small) == 0
    arguments = ("--train", sets / "train", "--dev", sets / "dev", "--out", tmp_path / "run")
    assert run(monkeypatch, "fit", config, *arguments) == 3
    assert "prepare the set again with --scale 1.8" in " ".join(capsys.readouterr().err.split())
