"""Runs against sets: scores, measures and files of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from fasedge import metrics
from training.data.batches import check_crops
from training.data.samples import SampleSet
from training.data.subsets import Part, check_known, only, parse, without
from training.data.titles import parse_title
from training.distributed import choose_device
from training.errors import ConfigError, DataError
from training.evaluation.checks import Override, check_sets, describe_set
from training.evaluation.document import Document, RunResult, SetRecord
from training.evaluation.maps import map_maker, write_maps
from training.evaluation.measure import FIXED, measure_levels, summarise
from training.evaluation.plots import draw_all
from training.evaluation.report import render
from training.evaluation.runs import CheckpointChoice, LoadedRun, load_run
from training.evaluation.tables import Level, ScoreTable, score_table, write_scores

#: Which test samples are measured.
MeasuredOn = Literal["left-out", "rest", "all"]
#: Called with what is being done, how far it is, and how far it goes.
Progress = Callable[[str, int, int], None]
#: Thresholds that the histogram shows.
_SHOWN = ("eer", "bpcer1", FIXED)


@dataclass(frozen=True, slots=True)
class Pair:
    """A run and its sets.

    Attributes:
        run: Folder of ``fit``.
        dev: Folder of the set that thresholds come from.
        test: Folder of the set that is measured.
    """

    run: Path
    dev: Path
    test: Path


@dataclass(frozen=True, slots=True)
class Options:
    """How to evaluate.

    Attributes:
        checkpoint: ``best``, ``last``, or ``auto``: what the method's authors keep.
        fixed: A threshold that does not come from dev.
        resamples: Of the bootstrap over people; 0 switches it off.
        allow: Checks that may fail.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        plots: Draw curves and histograms.
        maps: Attention maps of each species; they show people.
        on: Which test samples are measured in runs that left something out: ``left-out``, ``rest`` or ``all``. Their
            thresholds come from what they have seen, in any case.
    """

    checkpoint: CheckpointChoice = "auto"
    fixed: float = 0.5
    resamples: int = metrics.MIN_RESAMPLES
    allow: tuple[Override, ...] = ()
    device: str = "auto"
    plots: bool = True
    maps: int = 0
    on: MeasuredOn = "left-out"

    def __post_init__(self) -> None:
        if not np.isfinite(self.fixed):
            raise ConfigError(f"the fixed threshold must be a finite number, got {self.fixed}")
        if self.resamples and self.resamples < metrics.MIN_RESAMPLES:
            raise ConfigError(f"resamples must be 0 or at least {metrics.MIN_RESAMPLES}, got {self.resamples}")
        if self.maps < 0:
            raise ConfigError(f"maps must be >= 0, got {self.maps}")


@dataclass(frozen=True, slots=True, eq=False)
class _Opened:
    """A run and its sets, checked."""

    run: LoadedRun
    dev: tuple[SetRecord, SampleSet]
    test: tuple[SetRecord, SampleSet]
    overrides: dict[str, str]


def pair_up(runs: Sequence[Path], devs: Sequence[Path], tests: Sequence[Path]) -> list[Pair]:
    """Join runs and sets: one set for all runs (seeds), or one for each (folds).

    Raises:
        ConfigError: Another number of sets.
    """
    for name, sets in (("--dev", devs), ("--test", tests)):
        if len(sets) not in (1, len(runs)):
            raise ConfigError(
                f"expected {name} once for all runs, or once for each of {len(runs)}, got it {len(sets)} times"
            )
    if not runs:
        raise ConfigError("expected at least one run")
    each = [list(sets) * len(runs) if len(sets) == 1 else list(sets) for sets in (devs, tests)]
    pairs = [Pair(*parts) for parts in zip(runs, *each, strict=True)]
    if len(set(pairs)) < len(pairs):
        raise ConfigError("the same run is named twice with the same sets: the spread over runs would look too small")
    return pairs


def evaluate_runs(
    pairs: Sequence[Pair], out: Path, options: Options | None = None, progress: Progress | None = None
) -> Document:
    """Evaluate one run or several, and write everything that is found.

    With one run its files lie in ``out``; with several each has a folder there, and ``out`` has the means.

    Args:
        pairs: Runs and sets; all are opened and checked before the first is scored.
        out: Made if missing; files of an earlier evaluation are replaced.
        options: How.
        progress: For a progress bar.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        TrainingError: See :func:`training.evaluation.runs.load_run`, :func:`training.evaluation.checks.check_sets` and
            :func:`training.evaluation.tables.score_table`; also runs of different networks.
        MetricError: See :func:`training.evaluation.measure.measure_levels`.
        DataError: A file cannot be written.
    """
    chosen = options or Options()
    # One at a time: the networks of many runs need not be in memory together.
    _check_alike([(one.run.record.network, one.test[0].title) for one in (_open(pair, chosen) for pair in pairs)])
    names = _names(pairs)
    results = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, pair in zip(names, pairs, strict=True):
            opened = _open(pair, chosen)
            results.append(_evaluate(opened, out / name, name, chosen, progress))
        document = Document(runs=results, summary=summarise(results))
        _write(out, document, chosen)
    except OSError as error:
        raise DataError(f"{out}: the evaluation cannot be written ({error.strerror or error})") from error
    return document


def _check_alike(runs: Sequence[tuple[str, str]]) -> None:
    """Refuse a mean over runs, by network and title of the test set, that are not seeds or folds of one thing."""
    networks = sorted({network for network, _ in runs})
    if len(networks) > 1:
        raise ConfigError(
            f"the mean over runs is that of seeds or folds of one network, but these runs are of {len(networks)}: "
            f"{'; '.join(networks)}; evaluate each by itself"
        )
    titles = [(text, parse_title(text)) for _, text in runs]
    tested = sorted({text if title is None else str(replace(title, fold=None)) for text, title in titles})
    if len(tested) > 1:
        raise ConfigError(
            f"the mean over runs is that of seeds or folds of one protocol, but these are tested on "
            f"{'; '.join(tested)}; evaluate each by itself"
        )


def _names(pairs: Sequence[Pair]) -> list[str]:
    """A folder for each run: its own name, with a number where names repeat; none where there is one run."""
    if len(pairs) == 1:
        return [""]
    names = [pair.run.resolve().name for pair in pairs]
    return [f"{k}_{name}" if names.count(name) > 1 else name for k, name in enumerate(names, 1)]


def _open(pair: Pair, options: Options) -> _Opened:
    run = load_run(pair.run, options.checkpoint)
    parts = parse(run.config.data.leave_out)
    measured = {"left-out": only, "rest": without}.get(options.on, _whole)
    sets = [
        without(SampleSet.load(pair.dev), parts, name="dev"),
        measured(SampleSet.load(pair.test), parts, name="test"),
    ]
    dev, test = (
        (describe_set(folder, samples), samples) for folder, samples in zip((pair.dev, pair.test), sets, strict=True)
    )
    overrides = check_sets(dev, test, run.task.needs, options.allow, run.trained_on, people=run.people)
    for samples in sets:
        check_crops(samples, run.config.input.spec())
    if options.maps:
        map_maker(run.task, run.config.input.size_px)  # said now, not after an hour of scoring
    return _Opened(run, dev, test, overrides)


def _whole(samples: SampleSet, parts: Sequence[Part], *, name: str = "") -> SampleSet:
    """A test set as it is, if it has what was left out."""
    check_known(samples, parts, name)
    return samples


def _evaluate(opened: _Opened, out: Path, name: str, options: Options, progress: Progress | None) -> RunResult:
    run = opened.run
    run.task.to(choose_device(options.device))
    tables = []
    primary = ""
    for record, samples in (opened.dev, opened.test):

        def tell(done: int, split: str = record.split, total: int = len(samples)) -> None:
            if progress is not None:
                progress(f"{name or 'scoring'} {split}".strip(), done, total)

        primary, table = score_table(run.task, samples, run.config, tell)
        tables.append(table)
    dev, test = tables
    out.mkdir(parents=True, exist_ok=True)
    # First: what took longest survives whatever goes wrong with the rest.
    write_scores(out / "scores.csv", tables)
    result = RunResult(
        name=name, run=run.record, dev=opened.dev[0], test=opened.test[0], primary=primary,
        overrides=opened.overrides, levels=measure_levels(dev, test, fixed=options.fixed, resamples=options.resamples),
    )  # fmt: skip
    if name:
        _write(out, Document(runs=[msgspec.structs.replace(result, name="")], summary=summarise([result])), options)
    if options.plots:
        _draw(out, dev, test, result)
    if options.maps:
        write_maps(out / "maps", run.task, opened.test[1], run.config, test.scores[primary], options.maps)
    return result


def _draw(out: Path, dev: ScoreTable, test: ScoreTable, result: RunResult) -> None:
    levels: list[Level] = [level for level in test.levels if level in result.levels]
    thresholds: dict[str, dict[str, float]] = {}
    for level in levels:
        at = result.levels[level][result.primary].at
        thresholds[level] = {name: at[name].threshold for name in _SHOWN if name in at}
    draw_all(out, dev, test, levels, result.primary, thresholds)


def _write(out: Path, document: Document, options: Options) -> None:
    text = msgspec.json.format(msgspec.json.encode(document), indent=2)
    (out / "metrics.json").write_bytes(text + b"\n")
    (out / "report.md").write_text(render(document, plots=options.plots), encoding="utf-8")


def allowed(values: Collection[str]) -> tuple[Override, ...]:
    """Overrides by name.

    Raises:
        ConfigError: There is no such check.
    """
    known = [override.value for override in Override]
    for value in values:
        if value not in known:
            raise ConfigError(f"--allow knows {', '.join(known)}, got {value!r}")
    return tuple(Override(value) for value in values)
