"""As many attacks as bona fide presentations: what is left, what a run sees of it, and that it goes on exactly."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from tests.training.fixtures.toy_sets import PICTURE_PX, ToyTask, toy_row, toy_set
from training.checkpoint import load_checkpoint
from training.config import AugmentConfig, DataConfig, InputConfig, MachineConfig, OptimiserConfig, TrainConfig
from training.data.balance import undersampled
from training.data.samples import SampleSet, SetInfo
from training.data.table import SampleRow
from training.data.work import Recipe
from training.errors import CheckpointError, ConfigError, DataError
from training.feeds import SetFeed, StreamFeed
from training.loop import LAST, Trainer
from training.runlog import StepRecord
from training.tasks import MIXED, Needs

KINDS = [("print", "laser"), ("print", "ink"), ("replay", "phone")]


def rows_of(bona_fide: int, *attacks: int) -> list[SampleRow]:
    """So many bona fide presentations, then so many attacks of each kind."""
    kinds = [("bona_fide", "bona_fide")] * bona_fide
    kinds += [kind for kind, n in zip(KINDS, attacks, strict=False) for _ in range(n)]
    return [
        toy_row(i, int(species == "bona_fide"), species=species, subtype=subtype)
        for i, (species, subtype) in enumerate(kinds)
    ]


def counted(rows: list[SampleRow], places: list[int]) -> dict[str, int]:
    return dict(Counter(rows[i].subtype for i in places))


def unequal_set(origin: str = "") -> SampleSet:
    """Seven bona fide presentations, and 20, 9 and 2 attacks of three kinds."""
    rows = rows_of(7, 20, 9, 2)
    pictures = np.random.default_rng(0).integers(0, 256, (len(rows), PICTURE_PX, PICTURE_PX, 3), np.uint8)
    return SampleSet(pictures, rows, SetInfo(split="train", seed=0, n=len(rows), origin=origin))


def settings(balance: str, **optimiser: object) -> TrainConfig:
    fields: dict[str, object] = {"batch": 4, "epochs": 3, "learning_rate": 1e-2}
    return TrainConfig(
        data=DataConfig(balance=balance),  # type: ignore[arg-type]
        input=InputConfig(size_px=16, crop_scale=1.5),
        optimiser=OptimiserConfig(**(fields | optimiser)),  # type: ignore[arg-type]
        augment=AugmentConfig(noise=5),
        machine=MachineConfig(device="cpu", ahead=0),
    )


def seen(feed: SetFeed, epoch: int) -> list[int]:
    return sorted(i for named in feed.epoch(epoch, 0) for i in named[MIXED].indices)


# --- what is left ---------------------------------------------------------------------------------------------------


def test_every_kind_of_attack_gives_the_same_number_and_all_bona_fide_presentations_stay() -> None:
    rows = rows_of(7, 20, 9, 4)
    left = undersampled(rows, range(len(rows)), [0])
    # Seven for three kinds: two of each.
    assert counted(rows, left) == {"bona_fide": 7, "laser": 2, "ink": 2, "phone": 2}
    assert left == sorted(set(left))
    assert undersampled(rows, range(len(rows)), [0]) == left
    assert undersampled(rows, range(len(rows)), [1]) != left


def test_a_rare_kind_gives_all_it_has() -> None:
    rows = rows_of(9, 20, 9, 1)
    assert counted(rows, undersampled(rows, range(30), [0])) == {"bona_fide": 9, "laser": 4, "ink": 1}
    assert counted(rows, undersampled(rows, range(39), [0])) == {"bona_fide": 9, "laser": 3, "ink": 3, "phone": 1}


def test_more_bona_fide_presentations_than_attacks_are_thinned_out_instead() -> None:
    rows = rows_of(20, 3, 4)
    assert counted(rows, undersampled(rows, range(27), [0])) == {"bona_fide": 7, "laser": 3, "ink": 4}
    even = rows_of(5, 3, 2)
    assert undersampled(even, range(10), [0]) == list(range(10))


def test_places_that_do_not_count_are_not_drawn() -> None:
    rows = rows_of(4, 20)
    assert set(undersampled(rows, range(0, 24, 2), [0])) <= set(range(0, 24, 2))


def test_each_attack_is_drawn_as_often_as_any_other() -> None:
    rows = rows_of(2, 4, 4)
    drawn = Counter(i for key in range(2000) for i in undersampled(rows, range(10), [key]) if i >= 2)
    # One of four, 2000 times: 500 with a standard deviation of 19.4.
    assert len(drawn) == 8
    assert all(abs(n - 500) < 5 * 19.4 for n in drawn.values())


def test_more_kinds_than_bona_fide_presentations_are_refused() -> None:
    with pytest.raises(DataError, match=r"each of 3 kinds .* only 2 in all"):
        undersampled(rows_of(2, 5, 5, 5), range(17), [0])


# --- what a run sees ------------------------------------------------------------------------------------------------


def test_a_run_sees_the_same_attacks_in_every_epoch_or_others(caplog: pytest.LogCaptureFixture) -> None:
    samples = unequal_set()
    with caplog.at_level(logging.INFO, "training"):
        once, anew = (SetFeed(samples, settings(b, batch=3), Needs()) for b in ("once", "epoch"))
    assert "7 bona fide samples and 6 attacks of 38 samples" in caplog.text
    # Seven and two of each kind: 13 samples, four batches of 3; what is seen is 12 of the 13.
    assert once.steps == anew.steps == 4
    epochs = [[set(seen(feed, k)) for k in range(6)] for feed in (once, anew)]
    assert all(len(found) == 12 for found in epochs[0] + epochs[1])
    assert len(set.union(*epochs[0])) == 13
    assert len(set.union(*epochs[1])) > 20
    assert SetFeed(samples, settings("none", batch=3), Needs()).steps == 12


def test_processes_share_the_same_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    from training import feeds
    from training.distributed import Processes

    whole = [seen(SetFeed(unequal_set(), settings("epoch"), Needs()), k) for k in (0, 1)]
    parts: list[list[int]] = [[], []]
    for rank in (0, 1):
        monkeypatch.setattr(feeds, "processes", lambda rank=rank: Processes(rank, 2))
        feed = SetFeed(unequal_set(), settings("epoch"), Needs())
        for k in (0, 1):
            parts[k] += seen(feed, k)
    assert [sorted(part) for part in parts] == whole


@pytest.mark.parametrize("balance", ["once", "epoch"])
def test_a_killed_run_goes_on_with_the_same_losses_and_weights_to_the_bit(balance: str, tmp_path: Path) -> None:
    """Stopped in the middle of the second epoch; the new process starts from other weights."""
    config, dev = settings(balance), toy_set(24, split="dev")

    def run(out: Path, task: ToyTask, *, stop: bool = False) -> list[float]:
        def progress(record: StepRecord) -> None:
            if stop and (record.epoch, record.step) == (2, 2):
                raise KeyboardInterrupt

        return [r.loss for r in Trainer(task, config, unequal_set(), dev, out, progress=progress).run()]

    whole = run(tmp_path / "whole", ToyTask())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", ToyTask(), stop=True)
    assert run(tmp_path / "parts", ToyTask(seed=9)) == whole[1:]
    one, two = (load_checkpoint(tmp_path / name / LAST) for name in ("whole", "parts"))
    assert all(torch.equal(value, two.tensors[name]) for name, value in one.tensors.items())
    other = msgspec.structs.replace(config, data=DataConfig())
    with pytest.raises(CheckpointError, match="another configuration"):
        list(Trainer(ToyTask(), other, unequal_set(), dev, tmp_path / "whole").run())


def test_recordings_are_thinned_out_and_what_is_simulated_is_left_alone(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, face_pack: Path
) -> None:
    recorded = unequal_set("oulu_npu 1; a-deeppixbis; 0")
    auto, once = (SetFeed(recorded, settings(balance), Needs()) for balance in ("auto", "once"))
    assert [seen(auto, k) for k in range(3)] == [seen(once, k) for k in range(3)]
    caplog.clear()
    with caplog.at_level(logging.INFO, "training"):
        feed = SetFeed(unequal_set(), settings("auto"), Needs())
    assert seen(feed, 1) == seen(SetFeed(unequal_set(), settings("none"), Needs()), 1)
    assert "data.balance" not in caplog.text
    # Nor are samples that come as they are made refused, or batches that are balanced anyhow.
    StreamFeed(Recipe(face_pack, tmp_path, "train", 5, False), settings("auto"), Needs())
    by_domain = [
        SetFeed(recorded, settings(balance), Needs(domains=True, fewest_domains=1)) for balance in ("auto", "none")
    ]
    assert len({feed.steps for feed in by_domain}) == 1


def test_balance_is_refused_where_it_does_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no effect on methods that learn domain by domain"):
        SetFeed(unequal_set(), settings("once"), Needs(domains=True))
    with pytest.raises(ConfigError, match=r"data\.train simulates samples"):
        StreamFeed(Recipe(tmp_path, tmp_path, "train", 5, False), settings("epoch"), Needs())
