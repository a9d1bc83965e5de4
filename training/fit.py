"""From a configuration to a finished run: opens the data, joins the processes, shows how far it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from training.build import FITTED, build_fitted, build_task, looks_at_depth
from training.config import SIMULATE, TrainConfig, check_config
from training.data.batches import check_crops
from training.data.making import make_set
from training.data.manifest import data_folder
from training.data.samples import SampleSet
from training.data.simulate.compose import CANVAS_SCALE
from training.data.simulate.simulator import PICTURE_PX
from training.data.subsets import Part, parse, without
from training.data.work import Recipe
from training.distributed import Processes, choose_device, process_group, processes, wait_for_all
from training.feeds import Feed, SetFeed, StreamFeed
from training.fitted import fit_features, fitted_line
from training.loop import Trainer
from training.runlog import StepRecord
from training.set_checks import Purpose, check_classes, check_depth, check_people, check_protocols, check_split
from training.tasks import Needs, as_step_task


@dataclass(frozen=True, slots=True)
class Places:
    """Folders of a run.

    Attributes:
        out: Checkpoints, history, log and the run record.
        data: The face pack; by default where the environment variable says. Needed only where something is simulated.
        cache: Tiles, and the simulated dev set.
    """

    out: Path
    data: Path | None
    cache: Path


def overridden(
    config: TrainConfig,
    *,
    train: str | None = None,
    dev: str | None = None,
    workers: int | None = None,
    device: str | None = None,
    seed: int | None = None,
    leave_out: Sequence[str] | None = None,
    weights: str | None = None,
) -> TrainConfig:
    """A configuration with what the command line says.

    Raises:
        ConfigError: A value cannot be used.
    """
    data: dict[str, str | tuple[str, ...]]
    data = {name: value for name, value in (("train", train), ("dev", dev)) if value is not None}
    if leave_out:
        data["leave_out"] = tuple(leave_out)
    machine = {name: value for name, value in (("workers", workers), ("device", device)) if value is not None}
    changed: TrainConfig = msgspec.structs.replace(
        config,
        seed=config.seed if seed is None else seed,
        # A file that is named takes the place of weights that would be fetched.
        method=msgspec.structs.replace(config.method, weights=weights, pretrained=False) if weights else config.method,
        data=msgspec.structs.replace(config.data, **data),
        machine=msgspec.structs.replace(config.machine, **machine),
    )
    check_config(changed)
    return changed


def fit_config(config: TrainConfig, places: Places, console: Console) -> None:
    """Train as a configuration says, from the last checkpoint if there is one.

    Raises:
        TrainingError: See :meth:`training.loop.Trainer.run`; besides, a face pack or set that is not there.
    """
    with process_group(choose_device(config.machine.device)) as who:
        torch.manual_seed(config.seed)
        # Before a network is made, which can take long and warns about its weights.
        sets = open_sets(config, places)
        if config.method.name in FITTED:
            _fit_once(config, places, sets, who, console)
            return
        _check_depth(sets, Needs(depth=looks_at_depth(config.method.name)))
        task = as_step_task(build_task(config))
        # Whether targets are measured follows from the method's options.
        _check_depth(sets, task.needs)
        feed = open_feed(config, places, task.needs, sets, who)
        try:
            dev = open_dev(config, places, task.needs, sets, console)
            with _bar(config, console, who) as bar:
                trainer = Trainer(task, config, feed, dev, places.out, progress=bar)
                for record in trainer.run():
                    if who.first:
                        console.print(record.line())
        finally:
            feed.close()


def _fit_once(config: TrainConfig, places: Places, sets: Sets, who: Processes, console: Console) -> None:
    """Fit a method that no gradient trains."""
    task, needs = build_fitted(config), Needs(every=True)
    feed = open_feed(config, places, needs, sets, who)
    try:
        dev = open_dev(config, places, needs, sets, console)
        console.print(fitted_line(fit_features(task, config, feed, dev, places.out)))
    finally:
        feed.close()


@dataclass(frozen=True, slots=True)
class Sets:
    """Sets on disk, without what the configuration leaves out.

    Attributes:
        train: ``None`` where training samples are simulated.
        dev: ``None`` where dev samples are simulated.
    """

    train: SampleSet | None
    dev: SampleSet | None


def open_sets(config: TrainConfig, places: Places) -> Sets:
    """Open the sets that a configuration names, and check what can be checked without knowing the network.

    Raises:
        DataError: There is no such set, it is of another split, lacks a class, has not what is left out, or shows less
            than the network's crop; somebody is in both; or something is to be simulated and there is no face pack.
    """
    d, parts = config.data, parse(config.data.leave_out)
    train, dev = (None if name == SIMULATE else SampleSet.load(Path(name)) for name in (d.train, d.dev))
    if train is None or dev is None:
        data_folder(places.data)
    train = None if train is None else _checked("train", train, parts, config)
    dev = None if dev is None else _checked("dev", dev, parts, config)
    if train is not None and dev is not None:
        check_protocols(train, dev)
        check_people({row.identity for row in train.table}, dev)
    return Sets(train, dev)


def _checked(name: Purpose, samples: SampleSet, parts: Sequence[Part], config: TrainConfig) -> SampleSet:
    check_split(name, samples)
    samples = without(samples, parts, name=name)
    check_classes(name, samples)
    check_crops(samples, config.input.spec())
    return samples


def _check_depth(sets: Sets, needs: Needs) -> None:
    """Depth of both sets, before anything is simulated or measured."""
    if sets.train is not None:
        targets = needs.targets is not None and needs.targets.measured
        check_depth("train", sets.train, depth=needs.depth, targets=targets)
    if sets.dev is not None:
        check_depth("dev", sets.dev, depth=needs.depth)


def open_feed(config: TrainConfig, places: Places, needs: Needs, sets: Sets, who: Processes) -> Feed:
    """Training samples as the configuration says: a set, or a stream.

    Raises:
        DataError: There is no face pack, or the set cannot be used.
    """
    if sets.train is not None:
        return SetFeed(sets.train, config, needs)
    d = config.data
    depth = d.depth or needs.measured
    recipe = Recipe(data_folder(places.data), places.cache, "train", d.seed, depth, d.picture_px, d.canvas_scale)
    # One process cuts the tiles, the others find them.
    if who.first:
        recipe.simulator()
    wait_for_all()
    return StreamFeed(recipe, config, needs)


def open_dev(config: TrainConfig, places: Places, needs: Needs, sets: Sets, console: Console) -> SampleSet:
    """Dev samples as the configuration says, without what it leaves out.

    They are a set on disk; or one that is simulated now, unless the cache has it.

    Raises:
        DataError: There is no face pack; or the simulated set has not what is left out.
    """
    if sets.dev is not None:
        return sets.dev
    return without(_simulated_dev(config, places, needs, console), parse(config.data.leave_out), name="dev")


def _simulated_dev(config: TrainConfig, places: Places, needs: Needs, console: Console) -> SampleSet:
    d, who = config.data, processes()
    depth = d.depth or needs.depth
    size = "" if d.picture_px == PICTURE_PX else f"_{d.picture_px}px"
    size += "" if d.canvas_scale == CANVAS_SCALE else f"_{d.canvas_scale:g}x"
    folder = places.cache / f"dev_{d.dev_seed}_{d.dev_samples}{size}{'_depth' if depth else ''}"
    if who.first:
        # No workers are known to this function's steps but all cores: training has not begun.
        steps = make_set(data_folder(places.data), folder, "dev", d.dev_samples, seed=d.dev_seed, depth=depth,
                         workers=config.machine.workers or None, picture_px=d.picture_px,
                         canvas_scale=d.canvas_scale)  # fmt: skip
        with Progress(*_columns(), console=console, transient=True) as progress:
            bar = progress.add_task("simulating dev", total=d.dev_samples)
            for done, _ in steps:
                progress.update(bar, completed=done)
    wait_for_all()
    return SampleSet.load(folder)


def _columns() -> tuple[TextColumn | BarColumn | MofNCompleteColumn | TimeRemainingColumn, ...]:
    return TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()


class _Bar:
    """A bar per epoch."""

    def __init__(self, progress: Progress, epochs: int) -> None:
        self._progress, self._epochs = progress, epochs
        self._task: TaskID = progress.add_task("starting", total=None)

    def __call__(self, record: StepRecord) -> None:
        if record.step == 1:
            self._progress.reset(self._task)
        text = f"epoch {record.epoch}/{self._epochs}, loss {record.loss:.4f}"
        self._progress.update(self._task, description=text, completed=record.step, total=record.steps)


@contextmanager
def _bar(config: TrainConfig, console: Console, who: Processes) -> Iterator[_Bar | None]:
    """A progress bar; none in other processes than the first."""
    if not who.first:
        yield None
        return
    with Progress(*_columns(), console=console, transient=True) as progress:
        yield _Bar(progress, config.optimiser.epochs)
