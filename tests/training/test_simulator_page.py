"""The simulator's page says what the code draws: every parameter, every range, every operator; no more and no less."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.training.fixtures.simulator_page import (
    FREE,
    WORDS,
    Calls,
    Span,
    all_calls,
    concerns,
    names_in,
    tables,
    widest,
    zero_besides,
)
from training.data.simulate import SPECIES, depth_camera
from training.data.simulate.operators import OPERATORS
from training.data.simulate.profiles import PROFILES

KINDS = {kind for found in SPECIES.values() for kind in found.subtypes}
_NUMBER = r"-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?"
_RANGE = re.compile(rf"(?P<zero>0 or )?(?P<low>{_NUMBER}) to (?P<high>{_NUMBER})(?:, (?P<chance>\d+) %)?")


@pytest.fixture(scope="module")
def calls(face_pack: Path) -> Calls:
    found = all_calls(face_pack)
    assert {str(values["subtype"]) for values, _ in found["subtype"]} == KINDS
    return found


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "simulator.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def rows(page: str) -> dict[str, dict[str, str]]:
    """Rows of the tables of parameters, by parameter."""
    found: dict[str, dict[str, str]] = {}
    for header, *body in tables(page):
        if header[:2] == ["parameter", "range"]:
            for row in body:
                assert len(row) == len(header), row
                for name in names_in(row[0]):
                    assert name not in found, f"{name} has two rows"
                    found[name] = dict(zip(header, row, strict=True))
    return found


def ends(text: str) -> tuple[bool, float, float, float | None]:
    """Whether 0 besides, lower and upper end, and how often, of a range as the page writes it."""
    match = _RANGE.fullmatch(text)
    assert match, f"not a range: {text!r}"
    low, high = (float(match[part].replace(",", "")) for part in ("low", "high"))
    return bool(match["zero"]), low, high, None if match["chance"] is None else int(match["chance"]) / 100


def check_range(where: str, text: str, spans: list[Span]) -> None:
    zero, low, high, chance = ends(text)
    assert (low, high) == pytest.approx(widest(spans), rel=2e-3), f"{where}: the page says {text}, the code {spans[0]}"
    assert zero == zero_besides(spans), f"{where}: 'or 0' on the page {zero}"
    if chance is not None:
        assert {s.chance for s in spans} == {chance}, where


def test_every_parameter_has_a_row_and_every_row_a_parameter(calls: Calls, rows: dict[str, dict[str, str]]) -> None:
    assert set(calls) - set(rows) == set(), "drawn, but not on the page"
    assert set(rows) - set(calls) == set(), "on the page, but never drawn"


def test_ranges_are_those_that_the_code_draws_from(calls: Calls, rows: dict[str, dict[str, str]]) -> None:
    for name in sorted(set(calls) & set(rows) - FREE):
        text, spans = rows[name]["range"], [span for _, span in calls[name]]
        if spans[0].way in {"choice", "chance"}:
            check_options(name, text, spans)
        elif spans[0].way != "derive":
            check_range(name, text, spans)


def check_options(name: str, text: str, spans: list[Span]) -> None:
    if spans[0].way == "chance":
        assert text == "0 or 1", name
        return
    assert set(re.findall(r"`([^`]+)`", text)) == {option for span in spans for option, _ in span.options}, name
    shares = {option: int(share) / 100 for option, share in re.findall(r"`([^`]+)` (\d+) %", text)}
    for span in spans:
        assert {o: s for o, s in span.options if o in shares} == pytest.approx(shares, abs=0.0051), name


def test_what_is_drawn_lies_within_the_page(calls: Calls, rows: dict[str, dict[str, str]]) -> None:
    """Also what follows from other parameters."""
    for name in sorted(set(calls) & set(rows) - FREE):
        text = rows[name]["range"]
        drawn = [values[name] for values, _ in calls[name]]
        if not _RANGE.fullmatch(text):
            assert {str(value) for value in drawn} <= set(re.findall(r"[^`, ]+", text)), name
            continue
        zero, low, high, _ = ends(text)
        slack = 1e-3 * max(abs(low), abs(high))
        for value in drawn:
            assert low - slack <= float(value) <= high + slack or (zero and value == 0), f"{name} {value}, {text}"


def test_the_page_names_how_and_how_often(calls: Calls, rows: dict[str, dict[str, str]]) -> None:
    for name in sorted(set(calls) & set(rows) - FREE):
        text, spans = rows[name]["drawn"], [span for _, span in calls[name]]
        assert text.split(",")[0].split(" %")[0].startswith(WORDS[spans[0].way]), f"{name}: {text}, {spans[0].way}"
        chances = {round(100 * s.chance) for s in spans if s.chance is not None} - {0, 100}
        stated = {int(n) for n in re.findall(r"(\d+) %", text)}
        # Where kinds differ, a table of theirs says how often.
        assert stated == chances or "by kind" in text, f"{name}: the page says {stated}, the code {chances}"


def test_tables_by_kind_say_what_each_kind_draws(calls: Calls, page: str) -> None:
    checked = set()
    for header, *body in tables(page):
        if not (names_in(header[0]) and len(header) > 1 and (names_in(header[1]) or header[1] == "share")):
            continue
        kind = names_in(header[0])[0]
        checked.add(kind)
        for row in body:
            option = names_in(row[0])[0]
            for title, text in zip(header[1:], row[1:], strict=True):
                if title == "share":
                    shares = {dict(span.options)[option] for _, span in calls[kind] if option in dict(span.options)}
                    assert {f"{round(100 * share)} %" for share in shares} == {text}, option
                    continue
                name = names_in(title)[0]
                spans = [span for values, span in calls[name] if values.get(kind) == option]
                if text == "—":
                    assert not spans, f"{option} draws {name}"
                elif spans[0].way == "chance":
                    assert {s.chance for s in spans} == {int(text.removesuffix(" %")) / 100}, (option, name)
                else:
                    check_range(f"{option}, {name}", text, spans)
    assert {"camera", "subtype", "depth_profile"} <= checked


def test_every_operator_camera_species_and_kind_is_named(page: str) -> None:
    names = set(names_in(page))
    assert {*OPERATORS, *PROFILES, *depth_camera.PROFILES, *SPECIES, *KINDS} <= names


def test_operators_have_a_row_with_the_presentations_that_they_concern(page: str) -> None:
    found = {}
    for header, *body in tables(page):
        if header[:2] == ["operator", "concerns"]:
            found |= {names_in(row[0])[0]: row[1] for row in body}
    assert found == {name: concerns(name) for name in OPERATORS}
    assert found["jpeg"] == "all"
    assert found["moire"] == "replay"
    assert found["clutter"] == "bona fide and worn"
    assert found["glare"] == "replay, print"


def test_pictures_are_there_small_and_credited(page: str, repository: Path) -> None:
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page)
    folder = repository / "docs" / "images"
    assert {(repository / "docs" / p).resolve() for p in pictures} == {p.resolve() for p in folder.glob("*.jpg")}
    for picture in pictures:
        assert (repository / "docs" / picture).stat().st_size <= 150_000
    assert " ".join(page.split()).count("SFHQ-T2I, David Beniaguev 2024") >= len(pictures)
    assert "Copyright (c) 2024 David Beniaguev" in (folder / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert "docs/images" in (repository / "NOTICE").read_text(encoding="utf-8")


def test_links_lead_to_files(page: str, repository: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", page) if not link.startswith("http")]
    for link in links:
        assert (repository / "docs" / link).is_file(), link
