"""The page about data sets, held to the program."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from tests.training.fixtures.evaluation_sets import changed, drawn_set
from training.build import build_task
from training.config import load_config
from training.data.align import RULES
from training.data.protocols import DATASETS
from training.feeds import SetFeed
from training.tasks import as_step_task


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "datasets.md").read_text(encoding="utf-8")


def test_every_data_set_stands_in_the_table_with_its_usual_protocol(page: str) -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)\|$", page, re.MULTILINE))
    assert rows.keys() - {"deeppixbis", "cmfl", "rfmeta", "domains"} == DATASETS.keys()
    for name, dataset in DATASETS.items():
        assert rows[name].split("|")[-1].strip() == f"`{dataset.default}`"
        for protocol in dataset.protocols:
            assert protocol.removeprefix("LOO_") in rows[name] or protocol.startswith("LOO_"), (name, protocol)


def test_the_crops_of_the_methods_are_those_of_the_page(page: str) -> None:
    for name, rule in RULES.items():
        row = f"\\| `{name}` \\|.*\\| {rule.size_px} px \\| {rule.frames} \\| {rule.min_face_px:.0f} px \\|"
        assert re.search(row, page), name


def test_commands_of_the_page_name_files_and_data_sets_that_are_there(page: str, repository: Path) -> None:
    for path in re.findall(r"training/configs/\w+\.toml", page):
        assert (repository / path).is_file()
    for name in re.findall(r"training prepare (\w+)", page):
        assert name in (*DATASETS, "domains")


def test_the_configuration_for_recordings_trains_rfmeta_on_data_sets_without_depth(repository: Path) -> None:
    """As shipped, save its width: prepared crops of three data sets go in, balanced batches with targets come out."""
    config = load_config(repository / "training" / "configs" / "rfmeta_recordings.toml")
    drawn = drawn_set("train", people=3, origin="domains O&C&I->M; rfmeta; 00000000")
    sources = {"toy/train0": "oulu_npu", "toy/train1": "casia_fasd", "toy/train2": "replay_attack"}
    samples = changed(drawn, rows=[msgspec.structs.replace(r, source=sources[r.identity]) for r in drawn.table])
    narrow = msgspec.structs.replace(config, method=msgspec.structs.replace(config.method, width=1 / 16))
    feed = SetFeed(samples, config, as_step_task(build_task(narrow)).needs)
    named = next(iter(feed.epoch(0, 0)))
    assert set(named) == set(sources.values())
    for batch in named.values():
        assert tuple(batch.rgb.shape) == (20, 256, 256, 3)
        assert int(batch.labels.sum()) == 10
        assert batch.depth_targets is not None
        relief = batch.depth_targets.amax(dim=(1, 2))
        assert bool((relief[batch.labels == 1] > 0.9).all())
        assert not relief[batch.labels == 0].any()


def test_the_configuration_for_recordings_differs_from_that_for_the_simulation_where_it_says(repository: Path) -> None:
    folder = repository / "training" / "configs"
    recorded, simulated = (load_config(folder / f"{name}.toml") for name in ("rfmeta_recordings", "rfmeta"))
    assert (recorded.input.size_px, recorded.augment) == (simulated.input.size_px, simulated.augment)
    assert recorded.input.crop_scale == 1
    # 20 samples of each domain: three data sets, six cameras.
    assert recorded.optimiser.batch // 3 == simulated.optimiser.batch // 6 == 20
    assert msgspec.structs.replace(recorded.optimiser, batch=120) == simulated.optimiser
