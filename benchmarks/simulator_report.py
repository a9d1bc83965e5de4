"""The page on the simulator's quality, from the results of ``benchmarks.simulator_quality``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from benchmarks.simulator_experiments import HeldOutResult, OperatorResult
from benchmarks.simulator_measures import Figure, Kept, SplitCount
from training.data.simulate.held_out import HELD_OUT
from training.data.simulate.operators import OPERATORS
from training.errors import DataError

BEGIN = "<!-- written by hand: begin -->"
END = "<!-- written by hand: end -->"
#: A scalar that separates the classes beyond this is a short cut.
CONFOUND_BAR = 0.55
_EMPTY = "Not looked at yet."

T = TypeVar("T")


def write_report(results: Path, page: Path) -> None:
    """Write the page; what stands between its markers stays.

    Args:
        results: Folder with the JSON files of the commands; what is missing is named as such.
        page: Markdown file; made if missing.

    Raises:
        DataError: A file is damaged or was made by another version, the page has one marker without the other, or it
            cannot be written.
    """
    by_hand = _by_hand(page)
    sections = (_confounds, _identities, _operators, _heldout, _sheets)
    lines = ["# Quality of the attack simulator", "", _INTRODUCTION, ""]
    for section in sections:
        lines += [*section(results), ""]
    lines += ["## What gives the simulation away", "", BEGIN, by_hand, END, ""]
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text("\n".join(lines), encoding="utf-8")
    except OSError as error:
        raise DataError(f"{page}: cannot be written ({error.strerror or error})") from error


_INTRODUCTION = (
    "Written by `python -m benchmarks.simulator_quality report`; only the last section is written by hand. Intervals "
    "are 95 % percentile intervals of a bootstrap over people (1,000 resamples); differences are paired: both scores "
    "of a difference come from the same resampled people. None of this says how the simulation transfers: that is "
    "decided by real captures, see [results](results.md)."
)


def _by_hand(page: Path) -> str:
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    if (text.count(BEGIN), text.count(END)) == (0, 0):
        return _EMPTY
    if (text.count(BEGIN), text.count(END)) != (1, 1) or text.index(BEGIN) > text.index(END):
        raise DataError(
            f"{page}: expected {BEGIN!r} and {END!r} once each, in this order; repair it, so that no text is lost"
        )
    return text[text.index(BEGIN) + len(BEGIN) : text.index(END)].strip("\n")


def _read(results: Path, name: str) -> Kept | None:
    path = results / name
    return Kept.read(path) if path.is_file() else None


def _decode(raw: msgspec.Raw, kind: type[T], where: str) -> T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.MsgspecError as error:
        raise DataError(
            f"{where}: not what this version writes ({error}); delete it and run the command again"
        ) from error


def _section(title: str, kept: Kept | None, body: Callable[[Kept], Iterator[str]]) -> list[str]:
    if kept is None:
        return [f"## {title}", "", "Not measured yet."]
    shown = {k: v for k, v in kept.settings.items() if k not in ("options",)}
    settings = "; ".join(f"{k.replace('_', ' ')}: {v}" for k, v in shown.items())
    return [f"## {title}", "", *body(kept), "", f"`{kept.command}`  ", f"({settings})"]


def _confounds(results: Path) -> list[str]:
    def body(kept: Kept) -> Iterator[str]:
        found = {name: _decode(raw, Figure, "confounds.json") for name, raw in kept.results.items()}
        above = [name for name, figure in found.items() if figure.value > CONFOUND_BAR]
        yield "How well one number alone separates living people from attacks, in the better direction; 0.5 is ideal,"
        yield f"{CONFOUND_BAR} the bar."
        yield f"Above it: {', '.join(above)}." if above else "None is above it."
        yield ""
        yield "| scalar | AUC | |"
        yield "| --- | --- | --- |"
        for name, figure in sorted(found.items(), key=lambda item: -item[1].value):
            yield f"| {name.replace('_', ' ')} | {figure} | {'**above the bar**' if name in above else ''} |"

    return _section("Scalars that could be a short cut", _read(results, "confounds.json"), body)


def _identities(results: Path) -> list[str]:
    def body(kept: Kept) -> Iterator[str]:
        shared = _decode(kept.results["shared"], dict[str, int], "identities.json") if "shared" in kept.results else {}
        total = sum(shared.values())
        yield "No person is in two sets." if not total else f"**{total} people are in two sets.**"
        yield ""
        yield "| set | split | samples | people | in both classes | only bona fide | only attacks |"
        yield "| --- | --- | --- | --- | --- | --- | --- |"
        for name, raw in kept.results.items():
            if name != "shared":
                c = _decode(raw, SplitCount, "identities.json")
                counts = (c.samples, c.identities, c.in_both_classes, c.only_bona_fide, c.only_attack)
                yield f"| {name} | {c.split} | {' | '.join(f'{n:,}' for n in counts)} |"

    return _section("People", _read(results, "identities.json"), body)


def _operators(results: Path) -> list[str]:
    def body(kept: Kept) -> Iterator[str]:
        found = {name: _decode(raw, OperatorResult, "operators.json") for name, raw in kept.results.items()}
        if found:
            auc = next(iter(found.values())).auc
            yield f"A network with an AUC of {auc:.3f} scores the same samples again, each operator off in turn where"
            yield "it was at work. *Drop* is the AUC with it minus the AUC without it: what the network owes to it;"
            yield "*there* counts only the attacks in which it was at work. A drop below zero: it hides attacks."
            yield ""
        yield "| operator | what it does | samples | AUC without | drop | drop there |"
        yield "| --- | --- | --- | --- | --- | --- |"
        for name, r in sorted(found.items(), key=lambda item: -item[1].drop.value):
            summary = OPERATORS[name].summary if name in OPERATORS else "(no longer there)"
            there = "" if r.drop_there is None else str(r.drop_there)
            yield f"| {name} | {summary} | {r.changed} | {r.auc_off:.3f} | {r.drop} | {there} |"

    return _section("Each operator off in turn", _read(results, "operators.json"), body)


def _heldout(results: Path) -> list[str]:
    def body(kept: Kept) -> Iterator[str]:
        yield "Small students (EfficientNet-Lite0, one logit) are trained without a part of the simulation and tested"
        yield "on it, against students of the same seeds that saw everything. *Drop* is the mean over seeds of what not"
        yield "having seen it costs; its interval covers other people, not other seeds."
        yield ""
        yield "| held out | attacks | bona fide | seeds | AUC, seen | AUC, unseen | drop |"
        yield "| --- | --- | --- | --- | --- | --- | --- |"
        found = {name: _decode(raw, HeldOutResult, "heldout.json") for name, raw in kept.results.items()}
        for name, r in sorted(found.items(), key=lambda item: -item[1].drop.value):
            summary = HELD_OUT[name].summary if name in HELD_OUT else name
            figures = f"{r.auc_with:.3f} | {r.auc_without:.3f} | {r.drop}"
            yield f"| {summary} | {r.attacks} | {r.bona_fide} | {len(r.seeds)} | {figures} |"
        yield ""
        yield f"Options of the students: `{kept.settings.get('options', '')}`"

    return _section("Unseen attacks", _read(results, "heldout.json"), body)


def _sheets(results: Path) -> list[str]:
    def body(kept: Kept) -> Iterator[str]:
        counts = {name: len(_decode(raw, list[int], "sheets.json")) for name, raw in kept.results.items()}
        yield "Looked at: " + ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in counts.items()) + "."
        yield "Each picture of a sheet carries its number; the same seed draws it again. Sheets show people and are"
        yield "not part of the repository."

    return _section("Contact sheets", _read(results, "sheets.json"), body)
