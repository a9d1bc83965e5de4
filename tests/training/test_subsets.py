"""Sets without a part, and the part alone: leave-one-out protocols from the command line to the measures."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.training.fixtures.evaluation_sets import drawn_set, untrained_run, write_set
from tests.training.fixtures.toy_sets import ToyTask, toy_row, toy_set
from tests.training.fixtures.toy_stream import CAMERAS, ToyStream
from training import feeds
from training.config import DataConfig, InputConfig, MachineConfig, OptimiserConfig, TrainConfig, check_config
from training.data.samples import SampleSet
from training.data.subsets import Part, only, parse, without
from training.data.work import Recipe
from training.errors import CheckpointError, ConfigError, DataError
from training.evaluation.evaluating import MeasuredOn, Options, Pair, evaluate_runs
from training.evaluation.results import placed
from training.feeds import StreamFeed
from training.fit import overridden
from training.loop import Trainer
from training.runlog import RECORD
from training.tasks import Needs

SET = toy_set(24)


def with_depth(n: int = 12) -> SampleSet:
    rows = [toy_row(i, i % 2, params={"camera": CAMERAS[i // 2 % 3]}) for i in range(n)]
    pictures = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 48, 48, 3))
    depth = np.broadcast_to(np.arange(n, dtype=np.uint16)[:, None, None] + 500, (n, 48, 48))
    info = msgspec.structs.replace(SET.info, n=n, depth=True)
    return SampleSet(np.ascontiguousarray(pictures), rows, info, np.ascontiguousarray(depth))


def test_what_is_left_out_and_what_is_measured_share_bona_fide_presentations_and_no_attack() -> None:
    parts = parse(["species=print"])
    trained, measured = without(SET, parts), only(SET, parts)
    assert {row.species for row in trained.table} == {"bona_fide", "replay"}
    assert {row.species for row in measured.table} == {"bona_fide", "print"}
    attacks = [{row.index for row in part.table if not row.label} for part in (trained, measured)]
    assert not attacks[0] & attacks[1]
    assert attacks[0] | attacks[1] == {row.index for row in SET.table if not row.label}
    live = {row.index for row in SET.table if row.label}
    assert all({row.index for row in part.table if row.label} == live for part in (trained, measured))
    assert trained.info.chosen == "without species=print"
    assert measured.info.chosen == "only species=print"
    assert (trained.info.n, len(trained), len(trained.labels)) == (len(trained.table),) * 3


def test_a_camera_or_a_source_takes_its_bona_fide_presentations_along() -> None:
    samples = with_depth()
    parts = parse(["camera=kiosk"])
    left, kept = without(samples, parts), only(samples, parts)
    assert {row.params["camera"] for row in left.table} == set(CAMERAS) - {"kiosk"}
    assert {(row.params["camera"], row.label) for row in kept.table} == {("kiosk", 0), ("kiosk", 1)}
    assert {row.source for row in only(SET, parse(["source=studio"])).table} == {"studio"}


def test_parts_of_one_column_add_up_and_those_of_different_columns_narrow_each_other() -> None:
    samples = with_depth(24)
    both = only(samples, parse(["species=print", "species=replay"]))
    assert len(both) == len(samples)
    narrow = only(samples, parse(["species=replay", "camera=kiosk"]))
    assert {(row.species, row.params["camera"]) for row in narrow.table} == {
        ("bona_fide", "kiosk"),
        ("replay", "kiosk"),
    }
    without_either = without(samples, parse(["species=print", "camera=kiosk"]))
    assert {row.species for row in without_either.table} == {"bona_fide", "replay"}
    assert "kiosk" not in {row.params["camera"] for row in without_either.table}


def test_pictures_depth_and_crops_of_a_subset_are_those_of_its_rows_also_of_a_subset_of_a_subset() -> None:
    samples = with_depth()
    part = without(without(samples, parse(["camera=kiosk"])), parse(["species=print"]))
    assert part.info.chosen == "without camera=kiosk; without species=print"
    assert 0 < len(part) < len(samples)
    for place, row in enumerate(part.table):
        assert (part.picture(place) == row.index).all()
        assert (part.depth_mm(place) == row.index + 500).all()
    crops = part.crops(range(len(part)), InputConfig(size_px=16).spec())
    np.testing.assert_array_equal(crops[:, 8, 8, 0], [row.index for row in part.table])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["mask"], "COLUMN=VALUE"),
        (["species="], "COLUMN=VALUE"),
        (["medium=print"], "column of species, subtype, camera, source"),
        (["species=bona_fide"], "cannot be left out"),
        (["species=print", "species=print"], "named twice"),
    ],
)
def test_names_that_are_none_are_refused_also_in_a_configuration(texts: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse(texts)
    with pytest.raises(ConfigError, match=rf"data\.leave_out.*{message}"):
        check_config(TrainConfig(data=DataConfig(leave_out=tuple(texts))))


def test_a_part_that_is_not_there_is_named_with_what_is_there() -> None:
    with pytest.raises(DataError, match="the test set has no species=masks; it has print, replay"):
        only(SET, [Part("species", "masks")], name="test")
    with pytest.raises(DataError, match="the train set has no camera=kiosk; it has no camera at all"):
        without(SET, [Part("camera", "kiosk")], name="train")


def test_a_set_of_which_a_class_is_left_out_is_refused() -> None:
    with pytest.raises(DataError, match="without species=print, species=replay has not both"):
        without(SET, parse(["species=print", "species=replay"]))
    lonely = SET.subset([i for i, row in enumerate(SET.table) if row.label or row.source == "office"], "half")
    with pytest.raises(DataError, match="only source=studio has not both"):
        only(lonely, parse(["source=studio"]))


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "SimulatedStream", ToyStream)
    monkeypatch.setattr(feeds, "PROFILES", dict.fromkeys(CAMERAS))
    ToyStream.started, ToyStream.made, ToyStream.breaks_at = [], [], None


def streamed(pack: Path, folder: Path, leave_out: list[str], needs: Needs) -> StreamFeed:
    config = TrainConfig(
        data=DataConfig(samples=48), input=InputConfig(size_px=16), optimiser=OptimiserConfig(batch=8, epochs=1),
        machine=MachineConfig(device="cpu"),
    )  # fmt: skip
    return StreamFeed(Recipe(pack, folder, "train", 5), overridden(config, leave_out=leave_out), needs)


@pytest.mark.usefixtures("stream")
def test_a_stream_leaves_out_what_a_set_would(face_pack: Path, tmp_path: Path) -> None:
    feed = streamed(face_pack, tmp_path, ["species=print"], Needs())
    seen = [named["mixed"] for named in feed.epoch(0, 0)]
    assert len(seen) == 6
    # Of twelve samples in a row of the toy stream the two prints are indices 0 and 6.
    assert all(index % 6 for batch in seen for index in batch.indices)
    assert all(len(batch) >= 6 for batch in seen)
    assert feed.info["chosen"] == "without species=print"


@pytest.mark.usefixtures("stream")
def test_a_stream_of_domains_neither_waits_for_a_camera_that_is_left_out_nor_shows_it(
    face_pack: Path, tmp_path: Path
) -> None:
    feed = streamed(face_pack, tmp_path, ["camera=kiosk"], Needs(domains=True))
    for named in feed.epoch(0, 0):
        assert sorted(named) == ["webcam_1080p", "webcam_480p"]
        assert all(len(batch) == 4 for batch in named.values())


def test_a_run_does_not_go_on_with_something_else_left_out(tmp_path: Path) -> None:
    config = TrainConfig(
        input=InputConfig(size_px=16, crop_scale=1.5), optimiser=OptimiserConfig(batch=8, epochs=1),
        machine=MachineConfig(device="cpu"),
    )  # fmt: skip
    train, dev = toy_set(48), toy_set(24, split="dev")
    for leave_out, refused in ((["species=print"], False), (["species=replay"], True), (["species=print"], False)):
        own, parts = overridden(config, leave_out=leave_out), parse(leave_out)
        trainer = Trainer(ToyTask(), own, without(train, parts), without(dev, parts), tmp_path)
        if refused:
            with pytest.raises(CheckpointError, match="another configuration"):
                list(trainer.run())
        else:
            list(trainer.run())
    record = json.loads((tmp_path / RECORD).read_text())
    assert [record[name]["chosen"] for name in ("train", "dev")] == ["without species=print"] * 2


@pytest.mark.parametrize(
    ("on", "species", "chosen"),
    [
        ("left-out", {"replay"}, "only species=replay"),
        ("rest", {"print"}, "without species=replay"),
        ("all", {"print", "replay"}, ""),
    ],
)
def test_a_run_that_left_something_out_is_measured_on_that_with_thresholds_from_the_rest(
    tmp_path: Path, on: MeasuredOn, species: set[str], chosen: str
) -> None:
    for split in ("dev", "test"):
        write_set(tmp_path / split, drawn_set(split))
    run = untrained_run(tmp_path / "run", "a-deeppixbis", leave_out=("species=replay",))
    options = Options(resamples=0, plots=False, device="cpu", on=on)
    document = evaluate_runs([Pair(run, tmp_path / "dev", tmp_path / "test")], tmp_path / "out", options)
    found = document.runs[0]
    assert (found.dev.chosen, found.test.chosen) == ("without species=replay", chosen)
    assert set(found.levels["frame"]["map"].n_attack) == species
    assert found.levels["frame"]["map"].n_bona_fide == 12
    assert found.dev.n == 18
    assert placed(found) is None, "a part of a protocol belongs into no published table"
    assert "without species=replay" in (tmp_path / "out" / "report.md").read_text()
