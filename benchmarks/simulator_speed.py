"""How fast samples are simulated, and which operators take the time.

The whole chain is timed, from parameters to stored pictures, as ``training.data.samples.make_set`` runs it: some worker
processes of one thread each. Beside the rate stand two figures that do not depend on the machine nor on what else runs
on it: the time of a sample in *passes* (a pass multiplies one float32 picture by a number, measured in turn with the
samples), and each operator's share of the time.

    python -m benchmarks.simulator_speed --picture-px 192 --picture-px 224 --workers 1 --workers 2
"""

from __future__ import annotations

import functools
import importlib
import inspect
import multiprocessing
import pkgutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, cast

import torch
import typer
from rich.console import Console
from rich.table import Table

import training.data.simulate as package
from training.data.manifest import Split, data_folder, read_manifest
from training.data.simulate import Simulator
from training.data.simulate.scene import TILE_PX, build_tiles, read_backgrounds
from training.data.simulate.simulator import PICTURE_PX, SENSORS_PX

_BATCH = 32


@dataclass(frozen=True, slots=True)
class Setup:
    """What a worker needs to build the simulator."""

    data: Path
    cache: Path
    split: Split
    picture_px: int
    device: str
    seed: int = 101

    def simulator(self) -> Simulator:
        """The simulator for this side of a picture: sensors and tiles grow with it."""
        scale = self.picture_px / PICTURE_PX
        tile_px = even(TILE_PX * scale)
        pictures = read_manifest(self.data, [self.split])
        tiles = build_tiles(pictures, self.cache / f"tiles_{self.split}_{tile_px}.npy", tile_px=tile_px)
        sensors = {str(even(int(px) * scale)): share for px, share in SENSORS_PX.items()}
        rooms = read_backgrounds(self.data)
        return Simulator(
            pictures,
            tiles,
            rooms,
            seed=self.seed,
            picture_px=self.picture_px,
            sensors_px=sensors,
            device=self.device,
        )


def even(value: float) -> int:
    """The even number nearest to a value."""
    return 2 * round(value / 2)


def synchronise(device: str) -> None:
    """Wait for what an accelerator still has to do."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def pass_seconds(picture_px: int) -> float:
    """Seconds to multiply one float32 picture by a number on one thread of the CPU, in its cache."""
    picture = torch.rand(3, picture_px, picture_px)
    out = torch.empty_like(picture)
    start = time.process_time()
    for _ in range(2000):
        torch.mul(picture, 0.5, out=out)
    return (time.process_time() - start) / 2000


_WORKER: dict[str, Simulator] = {}


def _start(setup: Setup) -> None:
    torch.set_num_threads(1)
    _WORKER["simulator"] = setup.simulator()
    _WORKER["simulator"].samples(range(_BATCH))
    synchronise(setup.device)


def _make(first: int) -> tuple[float, float]:
    """Processor seconds per sample of one batch, and of a pass beside it."""
    picture_px = _WORKER["simulator"].samples([first])[0].picture.shape[0]
    start = time.process_time()
    _WORKER["simulator"].samples(range(first, first + _BATCH))
    return (time.process_time() - start) / _BATCH, pass_seconds(picture_px)


def rate(setup: Setup, workers: int, n: int) -> tuple[float, float, float]:
    """Samples per second by the clock, per second of all processors that work, and passes per sample."""
    batches = max(workers, n // _BATCH // workers * workers)
    with ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start, initargs=(setup,)
    ) as pool:
        list(pool.map(_make, [0] * workers))
        start = time.perf_counter()
        found = list(pool.map(_make, [(i + 1) * _BATCH for i in range(batches)]))
        wall = time.perf_counter() - start
    samples, passes = (sum(part) / batches for part in zip(*found, strict=True))
    # The passes and the lone sample of each batch are no part of the rate.
    shared = samples * _BATCH / (samples * (_BATCH + 1) + passes * 2000)
    return batches * _BATCH / (wall * shared), workers / samples, samples / passes


@dataclass(slots=True)
class Stopwatch:
    """Seconds spent in each operator itself, without the operators that it calls."""

    device: str
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _inner: list[float] = field(default_factory=lambda: [0.0])

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with a clock round it."""

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            synchronise(self.device)
            start = time.perf_counter()
            self._inner.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                synchronise(self.device)
                whole = time.perf_counter() - start
                self.seconds[name] += whole - self._inner.pop()
                self._inner[-1] += whole
                self.calls[name] += 1

        return wrapper


def modules() -> list[ModuleType]:
    """The modules of the simulator."""
    return [importlib.import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__)]


@contextmanager
def clocked(watch: Stopwatch) -> Iterator[None]:
    """Put clocks round every function and method of the simulator, wherever it was imported to."""
    found = modules()
    wrappers: dict[Any, Callable[..., Any]] = {}
    changed: list[tuple[Any, str, Any]] = []
    for module in found:
        short = module.__name__.rsplit(".", 1)[1]
        for name, value in vars(module).items():
            # Context managers and properties keep their nature: only plain functions are wrapped.
            if inspect.isfunction(value) and value.__module__ == module.__name__ and not hasattr(value, "__wrapped__"):
                wrappers[value] = watch.timed(f"{short}.{name}", value)
    for owner in (*found, Simulator):
        for name, value in list(vars(owner).items()):
            if inspect.isfunction(value) and (value in wrappers or (owner is Simulator and not name.startswith("__"))):
                changed.append((owner, name, value))
                setattr(owner, name, wrappers.get(value) or watch.timed(f"simulator.{name}", value))
    try:
        yield
    finally:
        for owner, name, value in changed:
            setattr(owner, name, value)


def shares(setup: Setup, n: int) -> Stopwatch:
    """Time every operator in this process, on one thread."""
    torch.set_num_threads(1)
    simulator = setup.simulator()
    simulator.samples(range(_BATCH))
    watch = Stopwatch(setup.device)
    with clocked(watch):
        for first in range(_BATCH, _BATCH + max(n, _BATCH), _BATCH):
            simulator.samples(range(first, first + _BATCH))
    return watch


def main(
    *,
    data: Annotated[Path | None, typer.Option(help="Folder of the face pack; default: $FASEDGE_DATA.")] = None,
    split: Annotated[str, typer.Option(help="Identities: train, dev or test.")] = "dev",
    picture_px: Annotated[list[int] | None, typer.Option(help="Sides of pictures; default: 192 and 224.")] = None,
    workers: Annotated[list[int] | None, typer.Option(help="Worker processes; default: 1 and 2.")] = None,
    device: Annotated[str, typer.Option(help="Where tensors live: cpu, cuda, cuda:1 …")] = "cpu",
    n: Annotated[int, typer.Option("-n", help="Samples per figure.")] = 512,
    rows: Annotated[int, typer.Option(help="Operators to list; the others are summed up.")] = 30,
    cache: Annotated[Path | None, typer.Option(help="Folder for tiles; default: a temporary one.")] = None,
) -> None:
    """Print samples per second and a table of the operators' shares."""
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as temporary:
        folder, source = cache or Path(temporary), data_folder(data)
        table = Table("picture px", "workers", "samples/s", "samples/s of processor time", "passes/sample")
        for px in picture_px or [192, 224]:
            setup = Setup(source, folder, cast(Split, split), px, device)
            setup.simulator()  # tiles are cut once, not by each worker
            for count in workers or [1, 2]:
                by_clock, by_processor, passes = rate(setup, count, n)
                table.add_row(str(px), str(count), f"{by_clock:.1f}", f"{by_processor:.1f}", f"{passes:.0f}")
            watch = shares(setup, n // 4)
            _print_shares(console, px, watch, rows)
        console.print(table)


def _print_shares(console: Console, picture_px: int, watch: Stopwatch, rows: int) -> None:
    total = sum(watch.seconds.values())
    ranked = sorted(watch.seconds.items(), key=lambda item: -item[1])
    table = Table("operator, without what it calls", "share %", "calls", title=f"{picture_px} px, {watch.device}")
    for name, seconds in ranked[:rows]:
        table.add_row(name, f"{100 * seconds / total:.1f}", str(watch.calls[name]))
    rest = sum(seconds for _, seconds in ranked[rows:])
    table.add_row(f"{max(0, len(ranked) - rows)} others", f"{100 * rest / total:.1f}", "")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
