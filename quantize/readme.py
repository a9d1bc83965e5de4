"""Model tables of README and documentation, written from the model cards: ``python -m quantize.readme [--check]``.

Figures about models stand in their cards and nowhere else. This program copies them between two markers, a summary into
the README and everything into ``docs/models.md``, and a test compares both.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Protocol

from fasedge.cards import DEFAULT_MODEL, ModelCard, Rate, load_card, models_folder, worst_rate
from fasedge.errors import FasEdgeError
from quantize.errors import QuantizeError

BEGIN = "<!-- models:begin -->"
END = "<!-- models:end -->"
#: Species whose media are planar or bent, as a depth camera should notice.
_FLAT = frozenset({"print", "replay"})
NO_MODELS = "No model is published in this version yet; `fasedge models` lists none."


class _Rate(Protocol):
    """Of a card, or as it was measured."""

    @property
    def value(self) -> float: ...

    @property
    def errors(self) -> int: ...

    @property
    def n(self) -> int: ...

    @property
    def low(self) -> float: ...

    @property
    def high(self) -> float: ...


def format_rate(rate: _Rate) -> str:
    """A rate with its basis: ``2.50 % (5 of 200; 0.82 to 5.74)``.

    No error among n is no rate of zero: it is reported as at most 3/n.

    Source: the "rule of three", Hanley and Lippman-Hand, JAMA 249 (1983): with 0 events in n trials, the 95 % upper
    bound is about 3/n.
    """
    if rate.errors == 0:
        return f"≤ {min(100.0, 300 / rate.n):.2f} % (0 of {rate.n})"
    return f"{100 * rate.value:.2f} % ({rate.errors} of {rate.n}; {100 * rate.low:.2f} to {100 * rate.high:.2f})"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _format_worst(rates: Mapping[str, Rate]) -> str:
    if not rates:
        return "—"
    name, rate = worst_rate(rates)
    return f"{format_rate(rate)}, {name}"


def _points(card: ModelCard) -> str:
    depth = len(card.inputs) > 1
    rows = [
        (
            f"`{p.name}`" + (" (default)" if p.name == card.default_operating_point else ""),
            " + ".join(p.modalities),
            p.precision,
            f"{p.threshold:.4f}",
            _format_worst(p.apcer),
            *([_format_worst({name: rate for name, rate in p.apcer.items() if name in _FLAT})] if depth else []),
            format_rate(p.bpcer),
        )
        for p in card.operating_points
    ]
    flat = ("APCER, prints and screens",) if depth else ()
    return _table(("operating point", "from", "precision", "threshold", "APCER, worst species", *flat, "BPCER"), rows)


def _sources(card: ModelCard) -> str:
    """What the default operating point costs at INT8, by the collection of the portraits; empty where nobody knows."""
    rows: list[tuple[str, ...]] = []
    for p in card.operating_points:
        sources = sorted({*p.apcer_by_source, *p.bpcer_by_source})
        if not sources or (p.name, p.precision) != (card.default_operating_point, "int8"):
            continue
        named = [(name, p.apcer_by_source.get(name, {}), p.bpcer_by_source.get(name)) for name in sources]
        rows += [
            (
                name,
                " + ".join(p.modalities),
                _format_worst(apcer),
                _over_people(worst_rate(apcer)[1] if apcer else None),
                "—" if bpcer is None else format_rate(bpcer),
                _over_people(bpcer),
            )
            for name, apcer, bpcer in [("all", p.apcer, p.bpcer), *named]
        ]
    if not rows:
        return ""
    people = "over people"
    table = _table(("portraits of", "from", "APCER, worst species", people, "BPCER", people), rows)
    return (
        f"`{card.default_operating_point}` in INT8 by the collection that the portraits come from. Intervals in "
        "brackets take presentations as independent, those over people do not ([glossary](glossary.md)). "
        "Of few presentations the worst species looks worse than it is.\n\n" + table
    )


def _over_people(rate: Rate | None) -> str:
    if rate is None or rate.people is None:
        return "—"
    return f"{100 * rate.people.low:.2f} to {100 * rate.people.high:.2f} %"


def _evaluation(card: ModelCard) -> str:
    rows = [
        (
            e.dataset,
            f"**{e.kind}**",
            f"{e.n_bona_fide} / {e.n_attack}",
            str(e.n_non_response),
            f"{e.auc:.4f} ({e.auc_low:.4f} to {e.auc_high:.4f})",
            f"{fmean(e.by_source_auc.values()):.3f}" if e.by_source_auc else "—",
            f"{100 * e.eer:.2f} %",
        )
        for e in card.evaluation
    ]
    auc = ("AUC, pooled (95 %)", "mean over sources")
    return _table(("evaluated on", "attacks are", "bona fide / attack", "no score", *auc, "EER"), rows)


def _files(card: ModelCard) -> str:
    latency = {(r.engine, r.precision): f"{r.median_ms:.2f} ms" for r in card.latency}
    rows = []
    for item in card.files:
        # Of a model with several scores that decide, those of the worst.
        records = [p for p in card.parity if (p.engine, p.precision) == (item.engine, item.precision)]
        same = ("—", "—")
        if records:
            difference = max(p.score_abs_diff_p99 for p in records)
            same = (f"{difference:.4f}", f"{max(p.decision_flips_percent for p in records):.2f} %")
        taken = latency.get((item.engine, item.precision), "—")
        rows.append((f"`{item.path}`", item.engine, item.precision, f"{item.bytes / 1000:,.0f} kB", taken, *same))
    head = ("file", "engine", "precision", "size", "latency", "score difference, p99", "decisions changed")
    return "\n\n".join([_table(head, rows), *_latency_note(card)])


def _latency_note(card: ModelCard) -> list[str]:
    measured = sorted({(r.cpu, r.threads, r.n) for r in card.latency})
    return [
        f"Latency of the network alone: median of {n} runs on one crop each, {threads} thread{'s' * (threads > 1)}, "
        f"{cpu}."
        for cpu, threads, n in measured
    ]


def model_section(card: ModelCard) -> str:
    """Everything the page says about one model, in Markdown without a final newline."""
    inputs = "; ".join(
        f"{i.modality} {i.size_px} x {i.size_px} px, crop {i.crop_scale:g} x the face box" for i in card.inputs
    )
    data = "; ".join(f"{d.name} ({d.licence}, {d.n_identities} identities)" for d in card.training_data)
    parts = [
        f"## `{card.id}` {card.version}",
        card.summary,
        f"Method: {card.source.method} ({card.source.paper}). Input: {inputs}. Licence: {card.licence}. "
        f"Trained on: {data or 'not stated'}.",
        _points(card),
        _sources(card),
        _evaluation(card) if card.evaluation else "Not evaluated.",
        _files(card),
        "Limitations:\n\n" + "\n".join(f"- {text}" for text in card.limitations) if card.limitations else "",
    ]
    return "\n\n".join(part for part in parts if part)


def models_text(cards: Sequence[ModelCard]) -> str:
    """The generated part of the page: what the cards say, or that there is none."""
    return "\n\n".join(model_section(card) for card in cards) if cards else NO_MODELS


def summary_text(cards: Sequence[ModelCard]) -> str:
    """The generated part of the README: a table of all models at their default operating point in INT8."""
    if not cards:
        return NO_MODELS
    rows = [row for card in cards for row in _summary(card)]
    head = ("model", "sees", "at", "attacks missed, worst species", "people refused", "AUC, simulated")
    return _table((*head, "AUC, real crops", "AUC, real clips", "size", "time"), rows)


def _summary(card: ModelCard) -> Iterator[tuple[str, ...]]:
    """One row for each score that decides."""
    sizes = [item.bytes for item in card.files if item.precision == "int8"]
    times = [record.median_ms for record in card.latency if record.precision == "int8"]
    for p in card.operating_points:
        if (p.name, p.precision) != (card.default_operating_point, "int8"):
            continue
        species, worst = worst_rate(p.apcer)
        alone = len(p.modalities) == len(card.inputs)
        seen = "+".join(p.modalities)
        yield (
            f"`{card.id}` {card.version}",
            " + ".join(p.modalities),
            f"`{p.name}`",
            f"{_short(worst)} ({species})",
            _short(p.bpcer),
            _auc(card, "simulated test set, int8", f", {seen} " if len(card.inputs) > 1 else ""),
            _auc(card, "face crops, size 112b") if alone else "—",
            _auc(card, "frames of clips, size 112b") if alone else "—",
            f"{max(sizes) / 1000:,.0f} kB" if sizes else "—",
            f"{min(times):.2f} ms" if times else "—",
        )


def _short(rate: Rate) -> str:
    """Without its basis; as :func:`format_rate`."""
    return f"{100 * rate.value:.1f} %" if rate.errors else f"≤ {min(100.0, 300 / rate.n):.1f} %"


def _auc(card: ModelCard, *parts: str) -> str:
    """Of the evaluation whose name holds all parts; pooled."""
    found = [e for e in card.evaluation if all(part in e.dataset for part in parts)]
    return f"{found[0].auc:.3f}" if found else "—"


def replace_between_markers(readme: str, text: str) -> str:
    """Put a text between the markers of a page.

    Args:
        readme: Whole page.
        text: What shall stand between the markers.

    Returns:
        The new page; the same as the old one if the text stood there already.

    Raises:
        QuantizeError: The page does not have each marker once, in order.
    """
    begin, end = readme.find(BEGIN), readme.find(END)
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or end < begin:
        raise QuantizeError(f"the page needs one line {BEGIN} and, after it, one line {END}; put them back")
    return f"{readme[: begin + len(BEGIN)]}\n\n{text}\n\n{readme[end:]}"


def embedded_cards() -> tuple[ModelCard, ...]:
    """Cards of the models that come with the package: the default one first, the others by id.

    Raises:
        CardError: A card is malformed.
    """
    cards = [load_card(path.parent) for path in models_folder().glob("*/card.json")]
    return tuple(sorted(cards, key=lambda card: (card.id != DEFAULT_MODEL, card.id)))


def main(argv: Sequence[str] | None = None) -> int:
    """Write the generated parts anew, or check them.

    Returns:
        0 if README and page agree with the cards (now), 1 if ``--check`` found a difference, 3 on an error.
    """
    parser = argparse.ArgumentParser(prog="python -m quantize.readme", description="model tables from model cards")
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if a file is out of date")
    parser.add_argument("--readme", type=Path, default=Path("README.md"), help="gets the summary (default: README.md)")
    parser.add_argument(
        "--page", type=Path, default=Path("docs/models.md"), help="gets everything (default: docs/models.md)"
    )
    options = parser.parse_args(argv)
    late = False
    try:
        cards = embedded_cards()
        for path, text in ((options.readme, summary_text(cards)), (options.page, models_text(cards))):
            old = path.read_text(encoding="utf-8")
            new = replace_between_markers(old, text)
            if old != new and options.check:
                sys.stderr.write(f"{path} is not what the model cards say: run python -m quantize.readme\n")
                late = True
            elif old != new:
                path.write_text(new, encoding="utf-8")
    except (FasEdgeError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 3
    return int(late)


if __name__ == "__main__":
    sys.exit(main())
