"""Tables laid out like the papers', published rows beside ours; ours come from ``metrics.json`` files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from training.data.protocols import domains
from training.data.titles import Title, parse_title
from training.errors import ConfigError, ProtocolError
from training.evaluation.document import Document, Mean, Measures, RunResult
from training.evaluation.measure import mean_of
from training.evaluation.published import LAYOUTS, Layout, PublishedRow
from training.evaluation.report import table

_ELSEWHERE = "Simulated or incomplete sets, other protocols, or training or thresholds from elsewhere:"
Std = Literal["population", "sample"]
#: Folds of a protocol of OULU-NPU that has some.
_FOLDS = 6
_BOTH = {"oulu_npu:1->replay_mobile:grandtest": "OULU->RM", "replay_mobile:grandtest->oulu_npu:1": "RM->OULU"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A number of ours and where it belongs.

    Attributes:
        group: Part of the table.
        row: Name of the line.
        column: Column.
        fold: Fold, or ``None``; runs of one fold (seeds) are averaged before folds are.
        values: The cell's rates; several are joined by a slash.
        accepts_all: Dev met the criterion with no threshold but one that accepts everything: the rates are those of
            that one.
    """

    group: str
    row: str
    column: str
    fold: int | None
    values: tuple[float, ...]
    accepts_all: bool = False


@dataclass(frozen=True, slots=True)
class _Rates:
    """Rates at a threshold from dev; by default those of accepting everything, as where dev meets none."""

    apcer: float = 1.0
    bpcer: float = 0.0
    acer: float = 0.5
    acer_pooled: float = 0.5
    hter: float = 0.5
    accepts_all: bool = True


def _at(measures: Measures, criterion: str) -> _Rates:
    """Rates at a criterion, also of a run without such a threshold: the mean of the others alone would flatter."""
    found = measures.at.get(criterion)
    if found is None:
        return _Rates()
    return _Rates(found.apcer_max, found.bpcer.value, found.acer, found.acer_pooled, found.hter, accepts_all=False)


def placed(run: RunResult) -> Title | None:
    """Where a run's test set belongs; ``None`` for simulated samples and others that have no protocol.

    Training, dev and test must be of the same protocol and fold, and whole: what has seen other recordings, a threshold
    from elsewhere, and rates on a part belong into no published table.
    """
    title = _whole(run)
    if title is None or {run.run.trained_on, run.dev.title} != {run.test.title}:
        return None
    return replace(title, protocol=_usual(title.protocol)) if title.dataset == domains.NAME else title


def _whole(run: RunResult) -> Title | None:
    """What a run was tested on, if nothing of its sets is missing or left out."""
    title = parse_title(run.test.title)
    return None if title is None or title.incomplete or run.dev.chosen or run.test.chosen else title


def _crossed(run: RunResult) -> str | None:
    """The task of a run that learnt one data set by its protocol and was tested on another by its own.

    It is what ``prepare domains`` makes of the two protocols: train and dev of the source, test of the target.
    """
    source, target = parse_title(run.dev.title), _whole(run)
    if source is None or target is None or source.incomplete or run.run.trained_on != run.dev.title:
        return None
    return _usual("->".join(f"{t.dataset}:{t.protocol}" + (f":{t.fold}" if t.fold else "") for t in (source, target)))


def _usual(task: str) -> str:
    """A task of several data sets as the tables write it, however its sources were ordered; others as they are."""
    try:
        found = _key(task)
    except ProtocolError:
        return task
    return next((usual for usual in (*domains.TASKS, *_BOTH) if _key(usual) == found), task)


def _key(task: str) -> tuple[frozenset[domains.Part], domains.Part]:
    sources, target = domains.parse_task(task)
    return frozenset(sources), target


def render_tables(
    documents: Sequence[tuple[str, Document]], names: Sequence[str] = tuple(LAYOUTS), *, std: Std = "population"
) -> str:
    """Make the tables.

    Args:
        documents: Ours, each with a label for its rows; an empty label takes the method's name.
        names: Which tables.
        std: Divisor of the standard deviation: n, or n - 1.

    Returns:
        Markdown.

    Raises:
        ConfigError: There is no such table, or a line of one would average different networks.
    """
    unknown = [name for name in names if name not in LAYOUTS]
    if unknown:
        raise ConfigError(f"no table {unknown[0]!r}; there are {', '.join(LAYOUTS)}")
    runs = [(label or run.run.method, run) for label, document in documents for run in document.runs]
    parts = ["# Results", _preface(std)]
    used: set[int] = set()
    for name in names:
        layout = LAYOUTS[name]
        entries = []
        networks: dict[str, set[str]] = {}
        for k, (label, run) in enumerate(runs):
            found = list(_ENTRIES[name](label, run))
            if found:
                used.add(k)
                networks.setdefault(label, set()).add(run.run.network)
            entries += found
        _check_rows(name, networks)
        parts.append(_render(layout, entries, std))
    parts.append(_left_over([run for k, (_, run) in enumerate(runs) if k not in used]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _check_rows(table_name: str, networks: Mapping[str, set[str]]) -> None:
    for label, found in networks.items():
        if len(found) > 1:
            raise ConfigError(
                f"table {table_name}: the line {label!r} would average different networks: "
                f"{'; '.join(sorted(found))}; name them apart with LABEL=PATH"
            )


def _preface(std: Std) -> str:
    divisor = "n" if std == "population" else "n - 1"
    return (
        "Rows in bold are ours; the others are copied from the sources named. Empty cells: nothing was measured, "
        f"because the data is not at hand or the protocol was not run. ±: standard deviation with divisor {divisor}; "
        "the sources do not say which theirs is. Ours is the mean over folds, each the mean over its runs (seeds); "
        "without folds, over runs. `accept all`: of so many runs no threshold on dev met the criterion, save one that "
        "accepts everything; they count with an APCER of 100 % and a BPCER of 0."
    )


def _left_over(runs: Sequence[RunResult]) -> str:
    if not runs:
        return ""
    lines = [
        f"- `{run.run.folder}`, {run.run.method}, trained on {run.run.trained_on or 'what it does not say'}, tested on "
        f"{run.test.title} ({run.test.folder})"
        for run in runs
    ]
    return "\n".join(
        [
            "## Not in these tables",
            "",
            _ELSEWHERE,
            "",
            *lines,
        ]
    )


def _render(layout: Layout, entries: Sequence[Entry], std: Std) -> str:
    parts = [f"## {layout.title}", f"Source of published rows: {layout.source}."]
    for group in layout.groups:
        rows = [_published(row, layout) for row in layout.rows if row.group == group]
        rows += _ours([entry for entry in entries if entry.group == group], layout, std)
        if group:
            parts.append(f"### {group}")
        parts.append(table(["method", *layout.columns], rows or [["no row yet", *[""] * len(layout.columns)]]))
    parts.append("\n".join(f"- {note}" for note in layout.notes))
    return "\n\n".join(parts)


def _published(row: PublishedRow, layout: Layout) -> list[str]:
    name = f"{row.method} ({row.remark})" if row.remark else row.method
    return [name, *(row.cells.get(column, "") for column in layout.columns)]


def _ours(entries: Sequence[Entry], layout: Layout, std: Std) -> list[list[str]]:
    lines = []
    for name in dict.fromkeys(entry.row for entry in entries):
        own = [entry for entry in entries if entry.row == name]
        cells = {c: [entry for entry in own if entry.column == c] for c in layout.columns}
        texts = {column: _cell(found, layout, std) for column, found in cells.items()}
        if layout.name == "wmca":
            texts[layout.columns[-1]] = _over_attacks(cells, layout, std)
        lines.append([f"**{name}**", *(texts[column] for column in layout.columns)])
    return lines


def _cell(entries: Sequence[Entry], layout: Layout, std: Std) -> str:
    if not entries:
        return ""
    folds: dict[int | None, list[Entry]] = {}
    for entry in entries:
        folds.setdefault(entry.fold, []).append(entry)
    rates = []
    for k in range(len(entries[0].values)):
        per_fold = [mean_of([entry.values[k] for entry in found]).mean for found in folds.values()]
        every = per_fold if None not in folds else [entry.values[k] for entry in entries]
        rates.append(_text(mean_of(every), std))
    missing = f" ({len(folds)} of {_FOLDS} folds)" if layout.name == "oulu" and 0 < len(folds) < _FOLDS else ""
    return "/".join(rates) + (missing if None not in folds else "") + _mark(entries)


def _over_attacks(cells: Mapping[str, Sequence[Entry]], layout: Layout, std: Std) -> str:
    attacks = [cells[column] for column in layout.columns[1:-1] if cells[column]]
    if not attacks:
        return ""
    each = [mean_of([entry.values[0] for entry in entries]).mean for entries in attacks]
    all_ = len(layout.columns) - 2
    missing = f" ({len(each)} of {all_} attacks)" if len(each) < all_ else ""
    return _text(mean_of(each), std) + missing + _mark([entry for entries in attacks for entry in entries])


def _mark(entries: Sequence[Entry]) -> str:
    """Say of how many runs everything was accepted, for want of a threshold."""
    count = sum(entry.accepts_all for entry in entries)
    return f" [{count} of {len(entries)} accept all]" if count else ""


def _text(mean: Mean, std: Std) -> str:
    spread = mean.std_population if std == "population" else mean.std_sample
    return f"{100 * mean.mean:.2f}" + (f"±{100 * spread:.2f}" if mean.n > 1 and spread is not None else "")


def _scores(label: str, run: RunResult) -> Iterable[tuple[str, Measures]]:
    """Lines of a run: each score at each level, with a name."""
    for level, scores in run.levels.items():
        for score, measures in scores.items():
            yield f"{label} ({score}), {level}s", measures


def _oulu(label: str, run: RunResult) -> Iterable[Entry]:
    where = placed(run)
    if where is None or where.dataset != "oulu_npu" or where.protocol not in ("1", "2", "3", "4"):
        return
    for row, measures in _scores(label, run):
        at = _at(measures, "eer")
        for column, value in {"APCER": at.apcer, "BPCER": at.bpcer, "ACER": at.acer}.items():
            yield Entry(f"Protocol {where.protocol}", row, column, where.fold, (value,), at.accepts_all)


def _replay_mobile(label: str, run: RunResult) -> Iterable[Entry]:
    if placed(run) != Title("replay_mobile", "grandtest"):
        return
    for row, measures in _scores(label, run):
        yield Entry("", row, "EER", None, (measures.dev_eer,))
        at = _at(measures, "eer")
        yield Entry("", row, "HTER", None, (at.hter,), at.accepts_all)


def _inter(label: str, run: RunResult) -> Iterable[Entry]:
    where = placed(run)
    own = {Title("oulu_npu", "1"): "OULU->OULU", Title("replay_mobile", "grandtest"): "RM->RM"}
    if where is None:
        column = _BOTH.get(_crossed(run) or "")
    else:
        column = _BOTH.get(where.protocol) if where.dataset == domains.NAME else own.get(where)
    if column is None:
        return
    for row, measures in _scores(label, run):
        at = _at(measures, "eer")
        yield Entry("", row, column, None, (at.acer if column == "OULU->OULU" else at.hter,), at.accepts_all)


def _rfmeta(label: str, run: RunResult) -> Iterable[Entry]:
    where = placed(run)
    if where is None or where.dataset != "domains" or where.protocol not in LAYOUTS["rfmeta"].columns:
        return
    for row, measures in _scores(label, run):
        yield Entry("", f"{row}, target EER", where.protocol, None, (measures.eer, measures.auc))
        at = _at(measures, "eer")
        yield Entry("", f"{row}, source dev", where.protocol, None, (at.hter, measures.auc), at.accepts_all)


def _wmca(label: str, run: RunResult) -> Iterable[Entry]:
    where = placed(run)
    if where is None or where.dataset != "wmca":
        return
    column = "seen" if where.protocol == "grandtest" else where.protocol.removeprefix("LOO_")
    if column not in LAYOUTS["wmca"].columns:
        return
    for row, measures in _scores(label, run):
        at = _at(measures, "bpcer1")
        yield Entry("", f"{row}, pooled", column, None, (at.acer_pooled,), at.accepts_all)
        yield Entry("", f"{row}, max", column, None, (at.acer,), at.accepts_all)


_ENTRIES: Mapping[str, Callable[[str, RunResult], Iterable[Entry]]] = {
    "oulu": _oulu, "replay-mobile": _replay_mobile, "inter": _inter, "rfmeta": _rfmeta, "wmca": _wmca,
}  # fmt: skip
