"""``python -m training evaluate`` and ``python -m training results``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from training.errors import ConfigError, DataError

if TYPE_CHECKING:
    from training.evaluation.document import Document
    from training.evaluation.evaluating import MeasuredOn
    from training.evaluation.results import Std
    from training.evaluation.runs import CheckpointChoice

console = Console()


def evaluate_command(  # noqa: PLR0917 - typer passes by name
    runs: Annotated[list[Path], typer.Argument(help="Folders of `fit`; several seeds or folds give mean and spread.")],
    dev: Annotated[list[Path], typer.Option(help="Set that thresholds come from; once, or once for each run.")],
    test: Annotated[list[Path], typer.Option(help="Set that rates are measured on; once, or once for each run.")],
    out: Annotated[Path, typer.Option(help="Folder of scores, measures, report and plots.")],
    checkpoint: Annotated[
        str,
        typer.Option(
            help="best (as optimiser.keep chose on the dev set of the training), last, or auto: last for RFMeta."
        ),
    ] = "auto",
    threshold: Annotated[float, typer.Option(help="A fixed threshold, beside those of dev.")] = 0.5,
    resamples: Annotated[int, typer.Option(help="Resamples of people for intervals; 0 for none.")] = 1000,
    maps: Annotated[
        int, typer.Option(min=0, help="Attention maps of each species, as pictures; they show people.")
    ] = 0,
    plots: Annotated[bool, typer.Option(help="Draw DET, ROC and histograms.")] = True,
    allow: Annotated[
        list[str] | None, typer.Option(help="Go on although: shared-subjects, other-crops. The report says so.")
    ] = None,
    on: Annotated[
        str,
        typer.Option(help="What of the test set runs with --leave-out are measured on: left-out, rest or all."),
    ] = "left-out",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; default: all cores.")] = None,
) -> None:
    """Measure trained networks: thresholds from dev, error rates from test, by frame and by video."""
    from training.evaluation.evaluating import Options, allowed, evaluate_runs, pair_up
    from training.evaluation.tables import choose_threads

    if checkpoint not in ("auto", "best", "last"):
        raise ConfigError(f"--checkpoint must be auto, best or last, got {checkpoint!r}")
    if on not in ("left-out", "rest", "all"):
        raise ConfigError(f"--on must be left-out, rest or all, got {on!r}")
    choose_threads(threads)
    options = Options(
        cast("CheckpointChoice", checkpoint), threshold, resamples, allowed(allow or []), device, plots, maps,
        cast("MeasuredOn", on),
    )  # fmt: skip
    with _Bar() as bar:
        document = evaluate_runs(pair_up(runs, dev, test), out, options, bar)
    for line in summary_lines(document):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"report: {out / 'report.md'}", markup=False, highlight=False, soft_wrap=True)


def results_command(
    metrics: Annotated[
        list[str] | None, typer.Argument(help="metrics.json files, or folders of `evaluate`; LABEL=PATH names the row.")
    ] = None,
    tables: Annotated[
        list[str] | None, typer.Option("--table", help="oulu, replay-mobile, inter, rfmeta, wmca; default: all.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Markdown file; default: the terminal.")] = None,
    std: Annotated[str, typer.Option(help="Standard deviation: population (n) or sample (n - 1).")] = "population",
) -> None:
    """Lay measures out like the papers' tables, published rows beside ours."""
    from training.evaluation.document import read_document
    from training.evaluation.published import LAYOUTS
    from training.evaluation.results import render_tables

    if std not in ("population", "sample"):
        raise ConfigError(f"--std must be population or sample, got {std!r}")
    documents = [(label, read_document(path)) for label, path in map(_labelled, metrics or [])]
    text = render_tables(documents, tables or tuple(LAYOUTS), std=cast("Std", std))
    if out is None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{out}: the tables cannot be written ({error.strerror or error})") from error
    console.print(str(out), markup=False, highlight=False, soft_wrap=True)


def summary_lines(document: Document) -> list[str]:
    """A line per level: the method's own score, mean over the runs."""
    primary, several = document.runs[0].primary, len(document.runs)
    lines = []
    for level, scores in document.summary.items():
        if primary not in scores:
            continue
        found = scores[primary]
        parts = [f"AUC {found['auc'].mean:.4f}", f"EER {100 * found['eer'].mean:.2f} %"]
        if "at_eer.acer" in found:
            parts.append(f"ACER {100 * found['at_eer.acer'].mean:.2f} %, HTER {100 * found['at_eer.hter'].mean:.2f} %")
        over = f", mean over {several} runs" if several > 1 else ""
        lines.append(f"{level}s, score {primary}{over}: {', '.join(parts)} (threshold: EER of dev)")
    return lines


def _labelled(text: str) -> tuple[str, Path]:
    """``LABEL=PATH``; a path that is there is taken as it is, also with an equals sign in it."""
    label, equals, path = text.partition("=")
    return (label, Path(path)) if equals and not Path(text).exists() else ("", Path(text))


class _Bar:
    """A progress bar with a line per set."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bars = Bars(*columns, console=console, transient=True)
        self._tasks: dict[str, int] = {}

    def __enter__(self) -> _Bar:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        from rich.progress import TaskID

        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total)
        self._bars.update(TaskID(self._tasks[what]), completed=done, total=total)
