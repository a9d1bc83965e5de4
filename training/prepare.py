"""``python -m training prepare``: from a data set on a disk to sets that ``fit`` and ``evaluate`` read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from fasedge.faces import open_finder
from training.data.align import RULES, CropRule
from training.data.prepare_report import write_report
from training.data.preparing import Progress, Request, check_needs, check_recordings, check_result, prepare
from training.data.protocols import DATASETS, SPLITS, Protocol, load_protocol
from training.data.protocols.record import suggest
from training.errors import ConfigError, DataError, ProtocolError

console = Console()

#: File of problems; with ``--out OUT`` it is called ``OUT_problems.txt`` and lies beside OUT.
PROBLEMS = "problems.txt"
#: Problems that the terminal shows.
_SHOWN = 20


def prepare_command(  # noqa: PLR0917 - typer passes by name
    dataset: Annotated[str, typer.Argument(help=f"One of {', '.join(DATASETS)}, or domains for several at once.")],
    root: Annotated[list[str], typer.Option(help="Folder of the data set; for domains NAME=FOLDER, once for each.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the sets; goes on with one that was interrupted.")] = None,
    method: Annotated[str, typer.Option(help=f"Whose crops: {', '.join(RULES)}.")] = "a-deeppixbis",
    protocol: Annotated[str | None, typer.Option(help="Protocol, or the task of domains: 'O&C&I->M'.")] = None,
    fold: Annotated[int | None, typer.Option(help="Fold, where the protocol has some.")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of each recording; default: the method's.")] = None,
    scale: Annotated[
        float, typer.Option(min=1.0, help="Face boxes that pictures show, for input.crop_scale up to it; 1: the crop.")
    ] = 1.0,
    finder: Annotated[str, typer.Option(help="Face finder: auto, blazeface or mediapipe.")] = "auto",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: all cores.")] = None,
    allow_partial: Annotated[bool, typer.Option(help="Let missing files and wrong counts pass, with a note.")] = False,
    check_only: Annotated[
        bool, typer.Option("--check", help="Check names, counts and recordings; make nothing.")
    ] = False,
) -> None:
    """Check a public data set, or your own, and cut its faces out for a method."""
    rule = choose_rule(method, frames, scale)
    if out is None and not check_only:
        raise typer.BadParameter("name a folder with --out, or only --check")
    problems = _problems_file(out)
    with _listing(problems):
        found = load_protocol(dataset, parse_roots(dataset, root), protocol, fold, partial=allow_partial)
    console.print(counts_line(found), markup=False, soft_wrap=True)
    for note in found.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    if out is None or check_only:
        with _listing(problems):
            check_needs(found, rule)
            _show(check_recordings(found.all_records, depth=rule.depth))
        return
    opener = partial(open_finder, finder, threads=1)
    with opener() as probe:  # an engine that is missing is said now, not by each worker
        name = probe.name
    request = Request(found, rule, opener, name, out, workers or os.cpu_count() or 1)
    with _listing(problems):
        _show(prepare(request))
    write_report(request)
    check_result(request)
    console.print(
        f"{out}: {', '.join(s for s in SPLITS if found.records.get(s))}; report: {out / 'report.md'}",
        markup=False,
        soft_wrap=True,
    )


def choose_rule(method: str, frames: int | None, scale: float = 1.0) -> CropRule:
    """The crop rule of a method, with another number of frames if wanted, and with what is round the face.

    Args:
        method: Whose rule.
        frames: Frames of each recording; the method's own if ``None``.
        scale: Face boxes that pictures show; 1: the method's crop as it is.

    Raises:
        ConfigError: There is no such method, or a number is impossible.
    """
    if method not in RULES:
        raise ConfigError(f"unknown method {method!r}{suggest(method, RULES)}; expected one of {', '.join(RULES)}")
    rule = RULES[method]
    rule = rule if frames is None else replace(rule, frames=frames)
    return rule if scale == 1 else replace(rule, shown=scale)


def parse_roots(dataset: str, roots: Sequence[str]) -> dict[str, Path]:
    """Folders by name: ``FOLDER`` for one data set, ``NAME=FOLDER`` for ``domains``.

    Raises:
        DataError: They are written in another way.
    """
    if dataset != "domains":
        if len(roots) != 1:
            raise DataError(f"expected one --root FOLDER for {dataset}, got {len(roots)}")
        return {dataset: Path(roots[0])}
    named = [text.partition("=") for text in roots]
    if odd := [name for name, sign, folder in named if not sign or not name or not folder]:
        raise DataError(f"expected --root NAME=FOLDER for domains, got {odd[0]!r}")
    if len({name for name, _, _ in named}) != len(named):
        raise DataError("a data set has two --root folders; name each once")
    return {name: Path(folder) for name, _, folder in named}


def counts_line(found: Protocol) -> str:
    """``oulu_npu 1: train 240 + 960, dev …``: bona fide and attacks per split."""
    parts = [f"{split} {count['bona_fide']} + {count['attack']}" for split, count in found.counts().items()]
    return f"{found.title}: {', '.join(parts)} (bona fide + attacks)"


def _problems_file(out: Path | None) -> Path:
    """Where problems go that are too many for the terminal: beside the sets, whose folder is not made before."""
    return Path(PROBLEMS) if out is None or not out.name else out.with_name(f"{out.name}_{PROBLEMS}")


@contextmanager
def _listing(file: Path) -> Iterator[None]:
    """Print problems on lines of their own; the error itself becomes one line."""
    try:
        yield
    except ProtocolError as error:
        raise _list_problems(error, file) from error


def _list_problems(error: ProtocolError, file: Path) -> DataError:
    """Print the first problems, and write all of them to a file where that is not all."""
    problems = error.problems
    if len(problems) == 1:
        return error
    all_of_them = len(problems) <= _SHOWN or not _written(problems, file)
    for number, problem in enumerate(problems if all_of_them else problems[:_SHOWN], 1):
        console.print(f"({number}) {escape(problem)}", soft_wrap=True, highlight=False)
    where = "listed above" if all_of_them else f"the first {_SHOWN} listed above, all of them in {file}"
    return DataError(f"{error.where}: {len(problems)} problems, {where}; nothing was prepared")


def _written(problems: Sequence[str], file: Path) -> bool:
    """Whether the problems could be written, a line each."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{problem}\n" for problem in problems), encoding="utf-8")
    except OSError:
        return False
    return True


def _show(steps: Iterator[Progress]) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=console) as bars:
        tasks = {}
        for step in steps:
            if step.step not in tasks:
                tasks[step.step] = bars.add_task(step.step, total=step.total)
            bars.update(tasks[step.step], completed=step.done)
