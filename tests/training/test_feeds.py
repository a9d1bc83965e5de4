"""Where batches come from: streams that go on exactly, domains in equal parts, depth that lies under its picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from tests.training.fixtures.toy_sets import ToyTask, toy_row, toy_set
from tests.training.fixtures.toy_stream import CAMERAS, ToyStream
from training import feeds
from training.build import build_task
from training.checkpoint import load_checkpoint
from training.config import (
    AugmentConfig,
    DataConfig,
    InputConfig,
    MachineConfig,
    MethodConfig,
    OptimiserConfig,
    TrainConfig,
)
from training.data.batches import make_batch
from training.data.depth_targets import DepthTargets
from training.data.domains import domain_of
from training.data.samples import SampleSet, SetInfo
from training.data.work import Recipe
from training.distributed import Processes
from training.errors import BatchError, CheckpointError, ConfigError, DataError
from training.feeds import SetFeed, StreamFeed
from training.loop import LAST, Trainer
from training.tasks import Batch, Needs, as_step_task

DEV = toy_set(24, split="dev")


@pytest.fixture(autouse=True)
def toy_streams(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(feeds, "SimulatedStream", ToyStream)
    monkeypatch.setattr(feeds, "PROFILES", dict.fromkeys(CAMERAS))
    ToyStream.started, ToyStream.made, ToyStream.breaks_at = [], [], None
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def settings(data: DataConfig | None = None, **optimiser: object) -> TrainConfig:
    defaults: dict[str, object] = {"batch": 8, "epochs": 3, "learning_rate": 1e-2}
    return TrainConfig(
        data=data or DataConfig(samples=35),
        input=InputConfig(size_px=16, crop_scale=1.5),
        optimiser=OptimiserConfig(**(defaults | optimiser)),
        augment=AugmentConfig(noise=5, shift=0.05, zoom=0.1),
        machine=MachineConfig(device="cpu"),
    )


def recipe(pack: Path, folder: Path, *, seed: int = 5, depth: bool = False) -> Recipe:
    return Recipe(pack, folder, "train", seed, depth)


def run(pack: Path, out: Path, config: TrainConfig, task: ToyTask | None = None, seed: int = 5) -> list[float]:
    feed = StreamFeed(recipe(pack, out, seed=seed), config, Needs())
    return [r.loss for r in Trainer(task or ToyTask(), config, feed, DEV, out).run()]


# --- streams --------------------------------------------------------------------------------------------------------


def test_a_stream_shows_every_sample_once_and_is_not_started_anew_between_epochs(
    face_pack: Path, tmp_path: Path
) -> None:
    assert len(run(face_pack, tmp_path, settings())) == 3
    # 35 samples are 4 steps of 8.
    assert ToyStream.made == list(range(3 * 32))
    assert ToyStream.started == [0]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_killed_run_on_a_stream_goes_on_with_the_same_losses_and_weights_to_the_bit(
    face_pack: Path, tmp_path: Path, accumulate: int
) -> None:
    """Stopped in the middle of the second epoch, after its first step; the new process starts from other weights."""
    config = settings(accumulate=accumulate, average=0.9)
    whole = run(face_pack, tmp_path / "whole", config)
    ToyStream.breaks_at = 32 + 8 * accumulate + 1
    with pytest.raises(KeyboardInterrupt):
        run(face_pack, tmp_path / "parts", config)
    ToyStream.breaks_at, ToyStream.started = None, []
    assert run(face_pack, tmp_path / "parts", config, ToyTask(seed=9)) == whole[1:]
    assert ToyStream.started == [32]
    one, two = (load_checkpoint(tmp_path / name / LAST) for name in ("whole", "parts"))
    assert one.metadata == two.metadata
    assert all(torch.equal(value, two.tensors[name]) for name, value in one.tensors.items())
    logs = [(tmp_path / name / "log.csv").read_text().splitlines() for name in ("whole", "parts")]
    # All columns but the speed.
    kept = [[[*line.split(",")[:3], *line.split(",")[4:]] for line in log] for log in logs]
    assert kept[0] == kept[1]


def test_a_run_goes_on_with_other_workers_but_not_with_another_seed(face_pack: Path, tmp_path: Path) -> None:
    config = settings(epochs=1)
    run(face_pack, tmp_path, config)
    other = msgspec.structs.replace(config, machine=MachineConfig(device="cpu", workers=3))
    assert run(face_pack, tmp_path, other) == []
    with pytest.raises(CheckpointError, match="other sets"):
        run(face_pack, tmp_path, config, seed=6)


def test_processes_simulate_samples_of_their_own(
    face_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    for rank in (0, 1):
        monkeypatch.setattr(feeds, "processes", lambda rank=rank: Processes(rank, 2))
        feed = StreamFeed(recipe(face_pack, tmp_path), settings(), Needs())
        batches = [batch for named in feed.epoch(0, 0) for batch in named.values()]
        assert [len(batch) for batch in batches] == [4] * 4
        assert feed.position == 16
        seen.append({i for batch in batches for i in batch.indices})
    assert len(seen[0] | seen[1]) == 32


def test_a_person_who_may_be_simulated_must_not_be_in_the_dev_set(face_pack: Path, tmp_path: Path) -> None:
    feed = StreamFeed(recipe(face_pack, tmp_path), settings(), Needs())
    assert feed.identities == {f"{source}_train_{k}" for source in ("studio", "office") for k in (0, 1)}
    rows = [toy_row(i, i % 2, split="dev", identity="office_train_1") for i in range(4)]
    dev = SampleSet(np.zeros((4, 48, 48, 3), np.uint8), rows, SetInfo(split="dev", seed=0, n=4))
    with pytest.raises(DataError, match="1 people are in both"):
        Trainer(ToyTask(), settings(), feed, dev, tmp_path)


def test_a_pack_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest\.csv: cannot be read"):
        StreamFeed(recipe(tmp_path, tmp_path), settings(), Needs())


# --- domains --------------------------------------------------------------------------------------------------------


def test_a_stream_gives_every_camera_the_same_number_of_both_classes(face_pack: Path, tmp_path: Path) -> None:
    config = settings(DataConfig(samples=36), batch=12)
    feed = StreamFeed(recipe(face_pack, tmp_path), config, Needs(domains=True))
    steps = list(feed.epoch(0, 0))
    assert len(steps) == 3
    for named in steps:
        assert set(named) == set(CAMERAS)
        for name, batch in named.items():
            assert list(batch.domains) == [name] * 4
            assert batch.labels.tolist() == [1, 1, 0, 0]
    used = [i for named in steps for batch in named.values() for i in batch.indices]
    assert len(set(used)) == len(used) == 36


def test_a_set_gives_every_source_the_same_number_and_starts_small_parts_again() -> None:
    """Of 20 samples, 10 are from the office, 2 of them bona fide: these come in every step, and the largest part once.

    Labels: 1 for studio if odd; office has 2 bona fide.
    """
    rows = [toy_row(i, i % 2, source="studio") for i in range(10)]
    rows += [toy_row(10 + i, int(i < 2), source="office") for i in range(10)]
    samples = SampleSet(np.zeros((20, 48, 48, 3), np.uint8), rows, SetInfo(split="train", seed=0, n=20))
    feed = SetFeed(samples, settings(), Needs(domains=True))
    # 8 per step are 2 of each part; the largest part has 8.
    assert feed.steps == 4
    counts: Counter[int] = Counter()
    for named in feed.epoch(0, 0):
        assert {name: sorted(batch.labels.tolist()) for name, batch in named.items()} == {
            "office": [0, 0, 1, 1], "studio": [0, 0, 1, 1],
        }  # fmt: skip
        counts.update(i for batch in named.values() for i in batch.indices)
    assert [counts[10], counts[11]] == [4, 4]
    assert all(counts[i] == 1 for i in range(12, 20))
    assert sum(counts[i] for i in range(10)) == 16


def test_a_domain_without_a_class_is_named() -> None:
    rows = [toy_row(i, i % 2, source="studio") for i in range(8)] + [toy_row(8, 1, source="office")]
    samples = SampleSet(np.zeros((9, 48, 48, 3), np.uint8), rows, SetInfo(split="train", seed=0, n=9))
    with pytest.raises(DataError, match=r"'office' has no attacks"):
        SetFeed(samples, settings(), Needs(domains=True))


def test_a_batch_that_cannot_be_shared_out_is_refused(face_pack: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"1 processes x 3 domains x 2 classes: take a multiple of 6"):
        StreamFeed(recipe(face_pack, tmp_path), settings(batch=8), Needs(domains=True))


def test_a_domain_is_the_camera_where_there_is_one() -> None:
    simulated, recorded = toy_row(0, 1, params={"camera": "kiosk"}), toy_row(0, 1)
    assert [domain_of(row, "auto") for row in (simulated, recorded)] == ["kiosk", "studio"]
    assert domain_of(simulated, "source") == "studio"
    with pytest.raises(DataError, match=r'set data\.domain = "source" .* or "auto"'):
        domain_of(recorded, "camera")


def test_one_domain_is_refused_where_one_is_held_out_and_it_is_said_where_domains_come_from() -> None:
    rows = [toy_row(i, i % 2, source="studio") for i in range(16)]
    samples = SampleSet(np.zeros((16, 48, 48, 3), np.uint8), rows, SetInfo(split="train", seed=0, n=16))
    SetFeed(samples, settings(), Needs(domains=True, fewest_domains=1))
    with pytest.raises(
        DataError, match=r"needs at least 2, but there is only 'studio'; .*data\.domain = 'auto'.*prepare"
    ):
        SetFeed(samples, settings(), Needs(domains=True, fewest_domains=2))


@pytest.mark.parametrize(
    ("method", "fewest"),
    [
        ("rfmeta", 2),
        ("mldg", 2),
        ("rfmeta-aggregation", 2),
        ("rfmeta-without-meta", 1),
        ("binary-cnn", 1),
        ("reptile", 1),
    ],
)
def test_methods_say_how_many_domains_a_step_needs(method: str, fewest: int) -> None:
    """Held against the step itself, which refuses fewer."""
    config = msgspec.structs.replace(
        settings(), input=InputConfig(size_px=32), method=MethodConfig(name=method, width=1 / 16)
    )
    task = as_step_task(build_task(config))
    assert task.needs.fewest_domains == fewest
    mixed = {
        f"domain {k}": Batch(
            torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8), torch.tensor([1.0, 0, 1, 0]),
            depth_targets=torch.zeros(4, 4, 4),
        )
        for k in range(2)
    }  # fmt: skip
    task.training_step(dict(list(mixed.items())[:fewest]))
    if fewest > 1:
        with pytest.raises(BatchError, match="at least"):
            task.training_step({"domain 0": mixed["domain 0"]})


# --- what may be trained on -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_set_of_another_split_is_not_trained_on(split: str) -> None:
    with pytest.raises(DataError, match=f"to train on is of the split '{split}', expected 'train'.*--train"):
        SetFeed(toy_set(24, split=split), settings(), Needs())


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_set_of_another_split_does_not_choose_the_epoch(tmp_path: Path, split: str) -> None:
    other = toy_set(24, split="elsewhere")
    dev = SampleSet(
        np.stack([other.picture(i) for i in range(24)]), other.table, SetInfo(split=split, seed=0, n=24)
    )  # fmt: skip
    with pytest.raises(DataError, match=f"to choose by is of the split '{split}', expected 'dev'.*--dev"):
        Trainer(ToyTask(), settings(), toy_set(24), dev, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_split_without_meaning_is_left_to_whoever_named_it() -> None:
    assert SetFeed(toy_set(24, split="elsewhere"), settings(), Needs()).steps == 3


def test_all_processes_hold_out_the_same_domain_and_each_domain_has_its_turn(
    face_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets, streams = [], []
    for rank in (0, 1):
        monkeypatch.setattr(feeds, "processes", lambda rank=rank: Processes(rank, 2))
        config = settings(DataConfig(samples=96), batch=12)
        feed = StreamFeed(recipe(face_pack, tmp_path), config, Needs(domains=True))
        streams.append([tuple(named) for named in feed.epoch(0, 0)])
        samples = toy_set(96)
        sets.append([tuple(named) for named in SetFeed(samples, settings(), Needs(domains=True)).epoch(0, 0)])
    assert streams[0] == streams[1]
    assert sets[0] == sets[1]
    assert {order[-1] for order in streams[0]} == set(CAMERAS)
    assert {order[-1] for order in sets[0]} == {"office", "studio"}


def test_a_stream_by_domains_goes_on_from_its_position_with_the_same_batches(face_pack: Path, tmp_path: Path) -> None:
    """Also after batches that settled the network; what waited at the end of an epoch is given up by both."""
    config, needs = settings(DataConfig(samples=36), batch=12), Needs(domains=True, settle=2)
    through = StreamFeed(recipe(face_pack, tmp_path), config, needs)
    assert len([*through.epoch(0, 0)]) == 5
    position = through.position
    anew = StreamFeed(recipe(face_pack, tmp_path), config, needs)
    for one, two in zip(through.epoch(1, position), anew.epoch(1, position), strict=True):
        assert list(one) == list(two)
        assert all(torch.equal(one[name].rgb, two[name].rgb) for name in one)
    assert through.position == anew.position > position


@pytest.mark.parametrize("domains", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_batches_that_are_skipped_change_nothing_about_those_that_follow(
    face_pack: Path, tmp_path: Path, domains: bool, stream: bool
) -> None:
    config, needs = settings(DataConfig(samples=36), batch=12), Needs(domains=domains, settle=1)

    def feed() -> feeds.Feed:
        return StreamFeed(recipe(face_pack, tmp_path), config, needs) if stream else SetFeed(toy_set(40), config, needs)

    whole, rest = feed(), feed()
    expected = [*whole.epoch(1, 24)][2:]
    found = [*rest.epoch(1, 24, 2)]
    assert len(expected) == len(found) == 2
    for one, two in zip(expected, found, strict=True):
        assert list(one) == list(two)
        assert all(torch.equal(one[name].rgb, two[name].rgb) for name in one)
    assert whole.position == rest.position
    whole.close()
    rest.close()


def test_more_batches_may_be_asked_for_to_settle_and_steps_do_not_change() -> None:
    samples, config = toy_set(24), settings()
    plain = [named["mixed"].rgb for named in SetFeed(samples, config, Needs()).epoch(1, 0)]
    more = [named["mixed"].rgb for named in SetFeed(samples, config, Needs(settle=4)).epoch(1, 0)]
    assert (len(plain), len(more)) == (3, 7)
    assert all(torch.equal(a, b) for a, b in zip(plain, more, strict=False))


# --- depth ----------------------------------------------------------------------------------------------------------


def test_depth_lies_under_its_picture_with_jitter_and_flip() -> None:
    """Depth and picture show the same ramp, so that the crops of both do."""
    ramp = np.add.outer(np.zeros(48), np.arange(48) * 3.0) + np.arange(48)[:, None]
    pictures = np.repeat(np.repeat(ramp[None, ..., None], 6, 0), 3, 3).astype(np.uint8)
    depth = np.repeat((1000 + 10 * ramp)[None], 6, 0).astype(np.uint16)
    rows = [toy_row(i, i % 2) for i in range(6)]
    samples = SampleSet(pictures, rows, SetInfo(split="train", seed=0, n=6, depth=True), depth)
    config = msgspec.structs.replace(
        settings(), augment=AugmentConfig(brightness=0, contrast=0, saturation=0, shift=0.2, zoom=0.2)
    )
    batch = make_batch(samples, range(6), config, Needs(depth=True), [1, 2])
    assert batch.depth is not None
    assert (batch.depth.dtype, tuple(batch.depth.shape)) == (torch.uint8, (6, 16, 16))
    falls = batch.rgb[:, 8, 0, 0].int() > batch.rgb[:, 8, -1, 0].int()
    assert 0 < int(falls.sum()) < 6
    for picture, measured in zip(batch.rgb[..., 0].double(), batch.depth.double(), strict=True):
        inside = (measured > 15) & (measured < 240)
        assert int(inside.sum()) > 100
        slope, start = np.polyfit(picture[inside], measured[inside], 1)
        assert float((slope * picture + start - measured)[inside].abs().max()) < 3


def test_a_set_without_depth_is_refused_where_depth_is_needed(face_pack: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"train set has none; make it with `simulate --depth`.*`prepare --method cmfl`"
    ):
        SetFeed(toy_set(8), settings(), Needs(depth=True))
    measured = Needs(targets=DepthTargets(4, ("sensor", "ellipsoid")))
    with pytest.raises(DataError, match=r'train set has none.*depth_target = "ellipsoid", or "rendered"'):
        SetFeed(toy_set(8), settings(), measured)
    with pytest.raises(ConfigError, match=r"data\.depth = true"):
        StreamFeed(recipe(face_pack, tmp_path), settings(), Needs(depth=True))
