"""Titles of prepared sets, and which of them may not be used together."""

from __future__ import annotations

import pytest

from training.data.titles import SIMULATED, Title, at_odds, parse_title, title_of


@pytest.mark.parametrize(
    "title",
    [
        Title("oulu_npu", "1"),
        Title("oulu_npu", "3", 2),
        Title("oulu_npu", "3", 2, incomplete=True),
        Title("wmca", "LOO_glasses", incomplete=True),
        Title("domains", "O&C&I->M"),
        Title("domains", "oulu_npu:3:2->replay_mobile:grandtest"),
    ],
)
def test_titles_are_read_as_they_are_written(title: Title) -> None:
    assert parse_title(str(title)) == title
    assert title_of(f"{title}; a-deeppixbis, 10 frames; 01234567") == str(title)


def test_simulated_samples_have_no_protocol() -> None:
    assert title_of("") == SIMULATED
    assert parse_title(SIMULATED) is None


@pytest.mark.parametrize(
    ("train", "test", "wrong"),
    [
        ("oulu_npu 3, fold 1", "oulu_npu 3, fold 2", True),
        ("oulu_npu 1", "oulu_npu 3, fold 2", True),
        ("wmca grandtest", "wmca LOO_glasses", True),
        ("domains O&C&I->M", "domains O&M&I->C", True),
        ("oulu_npu 1", "oulu_npu 1", False),
        ("oulu_npu 1", "oulu_npu 1, incomplete", False),
        ("oulu_npu 1", "replay_mobile grandtest", False),
        ("generic indoors", "generic outdoors", False),
        (SIMULATED, "oulu_npu 1", False),
    ],
)
def test_one_data_set_by_two_protocols_is_at_odds(train: str, test: str, wrong: bool) -> None:
    found = at_odds({"the training": train, "test": test})
    assert bool(found) is wrong
    if wrong:
        assert f"the training is {train}, test is {test}" in found
