"""What the page on data sets promises of leaving one data set out: three commands to RFMeta's figures on it."""

from __future__ import annotations

import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from fasedge.testing import FakeFaceFinder, synthetic_face
from tests.training.fixtures.recordings import HEIGHT, WIDTH, small_domains
from training import meta_task
from training import prepare as program
from training.__main__ import main
from training.data.samples import SampleSet
from training.evaluation.document import read_document

TASK = "O&C&I->M"
#: What makes the shipped configuration quick.
SMALLER = {
    "size_px = 256": "size_px = 64",
    'name = "rfmeta"': 'name = "rfmeta"\nwidth = 0.0625',
    "batch = 60": "batch = 12",
    "epochs = 10": "epochs = 1",
}


@pytest.fixture
def config(tmp_path: Path, repository: Path) -> Path:
    text = (repository / "training" / "configs" / "rfmeta_recordings.toml").read_text()
    for line, smaller in SMALLER.items():
        assert text.count(line) == 1
        text = text.replace(line, smaller)
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


def _call_complete(sets: Path) -> None:
    """A few people of each data set stand for all of them: otherwise no table would have them."""
    for split in ("train", "dev", "test"):
        info = sets / split / "set.json"
        text = info.read_text()
        assert f"domains {TASK}, incomplete; " in text
        info.write_text(text.replace(", incomplete; ", "; "))


def test_three_commands_lead_from_four_data_sets_to_rfmeta_on_the_one_left_out(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finder = partial(FakeFaceFinder, (synthetic_face((WIDTH / 2, HEIGHT / 2), 100.0),))
    monkeypatch.setattr(program, "open_finder", lambda *_, **__: finder())
    monkeypatch.setattr(meta_task, "REESTIMATION_BATCHES", 2)
    sets, out = tmp_path / "prepared", tmp_path / "run"
    folders = small_domains(tmp_path / "data").items()
    roots = [part for letter, folder in folders for part in ("--root", f"{letter}={folder}")]
    small = ("--allow-partial", "--frames", 1, "--workers", 1)
    quick = ("--resamples", 0, "--no-plots", "--device", "cpu")
    commands = [
        ("prepare", "domains", "--protocol", TASK, "--method", "rfmeta", *roots, "--out", sets, *small),
        ("fit", config, "--train", sets / "train", "--dev", sets / "dev", "--out", out, "--device", "cpu"),
        ("evaluate", out, "--dev", sets / "dev", "--test", sets / "test", "--out", out / "test", *quick),
        ("results", f"Mine={out / 'test'}", "--table", "rfmeta", "--out", tmp_path / "results.md"),
    ]
    for command in commands:
        monkeypatch.setattr(sys, "argv", ["training", *map(str, command)])
        assert main() == 0, command[0]
        if command[0] == "prepare":
            _call_complete(sets)

    # Two people of each part of O and I, a bona fide recording and two attacks of each; of C, whose dev is every fifth
    # person, ten and two; all of M for the test.
    samples = {split: SampleSet.load(sets / split) for split in ("train", "dev", "test")}
    counted = {split: Counter((row.source, row.label) for row in found.table) for split, found in samples.items()}
    people = {"oulu_npu": (4, 2), "casia_fasd": (10, 2), "replay_attack": (4, 2)}
    for k, split in enumerate(("train", "dev")):
        assert counted[split] == {
            (name, label): n[k] * (1 if label else 2) for name, n in people.items() for label in (0, 1)
        }
    assert counted["test"] == {("msu_mfsd", 1): 4, ("msu_mfsd", 0): 8}
    train, dev, test = ({row.identity for row in found.table} for found in samples.values())
    assert (len(train), len(dev), len(test)) == (18, 6, 4)
    assert not train & dev
    assert samples["train"].picture(0).shape == (256, 256, 3)

    (found,) = read_document(out / "test").runs
    assert (found.dev.title, found.test.title, found.test.n_videos) == (f"domains {TASK}", f"domains {TASK}", 12)
    assert (found.run.method, found.run.width, found.run.checkpoint) == ("rfmeta", 0.0625, "last")
    assert found.run.people == len(train)
    video = found.levels["video"]["binary"]
    assert (video.n_bona_fide, video.n_attack, video.n_subjects) == (4, {"print": 4, "replay": 4}, 4)
    at = video.at["eer"]
    assert at.chosen_on == "dev"
    (row,) = (line for line in (tmp_path / "results.md").read_text().splitlines() if "videos, source dev" in line
              and "binary" in line)  # fmt: skip
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:] == [f"{100 * at.hter:.2f}/{100 * video.auc:.2f}", "", "", ""]
