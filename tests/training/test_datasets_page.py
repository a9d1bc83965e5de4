"""The page about data sets, held to the program."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from training.data.align import RULES
from training.data.protocols import DATASETS


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
