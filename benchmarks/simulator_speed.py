"""How fast samples are simulated, by species, and which operators take the time.

The whole chain is timed, from parameters to stored pictures, as ``training.data.making.make_set`` runs it: some worker
processes of one thread each, which count their processor time beside the clock. The clock says how long one waits on
this machine as busy as it is; processor time says what a core does for itself. One figure depends less on the machine:
the time of a sample in *passes* (a pass multiplies one float32 picture by a number, measured in turn with the samples).

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
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, cast

import cv2
import torch
import typer
from rich.console import Console
from rich.table import Table

import training.data.simulate as package
from training.data.manifest import Split, data_folder, read_manifest
from training.data.simulate import BONA_FIDE, Simulator
from training.data.simulate.draws import Draws
from training.data.simulate.mesh import build_meshes
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
        return Simulator(
            pictures,
            tiles,
            read_backgrounds(self.data),
            seed=self.seed,
            picture_px=self.picture_px,
            sensors_px=sensors,
            meshes=build_meshes(self.data, pictures, self.cache / f"meshes_{self.split}.npy"),
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


@dataclass(slots=True)
class Cost:
    """What samples took.

    Attributes:
        n: Samples by species.
        processor_s: Processor seconds by species.
        clock_s: Seconds by the clock.
        pass_s: Processor seconds of a pass, each measured beside a batch.
    """

    n: Counter[str] = field(default_factory=Counter)
    processor_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    clock_s: float = 0.0
    pass_s: list[float] = field(default_factory=list)

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.n + other.n,
            {name: self.processor_s.get(name, 0.0) + other.processor_s.get(name, 0.0) for name in self.n + other.n},
            self.clock_s + other.clock_s,
            self.pass_s + other.pass_s,
        )


def by_species(draws: Sequence[Draws]) -> dict[str, list[Draws]]:
    """Parameters of samples, grouped as the simulator groups them."""
    found: dict[str, list[Draws]] = defaultdict(list)
    for d in draws:
        found[BONA_FIDE if d.values["bona_fide"] else str(d.values["species"])].append(d)
    return dict(sorted(found.items()))


_WORKER: dict[str, Simulator] = {}


def _start(setup: Setup) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _WORKER["simulator"] = setup.simulator()
    _WORKER["simulator"].samples(range(_BATCH))
    synchronise(setup.device)


def _make(first: int, setup: Setup) -> Cost:
    """What the samples of one batch took, species by species; drawing their parameters counts as well."""
    simulator, cost = _WORKER["simulator"], Cost()
    clock, start = time.perf_counter(), time.process_time()
    draws = [simulator.draw(i) for i in range(first, first + _BATCH)]
    drawing = (time.process_time() - start) / _BATCH
    for species, some in by_species(draws).items():
        start = time.process_time()
        simulator.render(some)
        synchronise(setup.device)
        cost.processor_s[species] += time.process_time() - start + drawing * len(some)
        cost.n[species] += len(some)
    cost.clock_s = time.perf_counter() - clock
    cost.pass_s.append(pass_seconds(setup.picture_px))
    return cost


def cost_of(setup: Setup, workers: int, n: int) -> Cost:
    """What samples take that this many workers make at the same time; each worker counts its own seconds."""
    batches = max(workers, n // _BATCH // workers * workers)
    with ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start, initargs=(setup,)
    ) as pool:
        # The first round is not counted: while one worker starts, the others would have the machine to themselves.
        list(pool.map(_make, [0] * workers, [setup] * workers))
        found = list(pool.map(_make, [(i + 1) * _BATCH for i in range(batches)], [setup] * batches))
    return sum(found, Cost())


@dataclass(slots=True)
class Stopwatch:
    """Seconds spent in each operator itself, without the operators that it calls: processor time on the CPU."""

    device: str
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _inner: list[float] = field(default_factory=lambda: [0.0])

    def now(self) -> float:
        """Seconds so far."""
        synchronise(self.device)
        return time.process_time() if self.device == "cpu" else time.perf_counter()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with a clock round it."""

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            start = self.now()
            self._inner.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                whole = self.now() - start
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


def shares(setup: Setup, n: int, species: str | None) -> Stopwatch:
    """Time every operator in this process, on one thread; for one species or for all."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    simulator = setup.simulator()
    simulator.samples(range(_BATCH))
    draws = [simulator.draw(i) for i in range(_BATCH, _BATCH + n)]
    watch = Stopwatch(setup.device)
    with clocked(watch):
        simulator.render(draws if species is None else by_species(draws).get(species, []))
    return watch


def main(
    *,
    data: Annotated[Path | None, typer.Option(help="Folder of the face pack; default: $FASEDGE_DATA.")] = None,
    split: Annotated[str, typer.Option(help="Identities: train, dev or test.")] = "dev",
    picture_px: Annotated[list[int] | None, typer.Option(help="Sides of pictures; default: 192 and 224.")] = None,
    workers: Annotated[list[int] | None, typer.Option(help="Worker processes; default: 1 and 2.")] = None,
    device: Annotated[str, typer.Option(help="Where tensors live: cpu, cuda, cuda:1 …")] = "cpu",
    n: Annotated[int, typer.Option("-n", help="Samples per figure.")] = 512,
    rows: Annotated[int, typer.Option(help="Operators to list, 0 for none; the others are summed up.")] = 30,
    species: Annotated[str | None, typer.Option(help="List the operators of this species only.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder for tiles and meshes; default: a temporary one.")] = None,
) -> None:
    """Print samples per second, all and by species, and a table of the operators' shares."""
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as temporary:
        folder, source = cache or Path(temporary), data_folder(data)
        table = Table(
            "picture px", "workers", "species", "n", "ms of a core", "samples/s per core", "samples/s, all cores"
        )
        for px in picture_px or [192, 224]:
            setup = Setup(source, folder, cast(Split, split), px, device)
            setup.simulator()  # tiles and meshes are made once, not by each worker
            for count in workers or [1, 2]:
                _add_rows(table, setup, count, cost_of(setup, count, n))
            if rows:
                _print_shares(console, px, shares(setup, n // 4, species), rows)
        console.print(table)


def _add_rows(table: Table, setup: Setup, workers: int, cost: Cost) -> None:
    for species, n in sorted(cost.n.items()):
        seconds = cost.processor_s[species] / n
        table.add_row("", "", species, str(n), f"{1000 * seconds:.1f}", f"{1 / seconds:.1f}", "")
    whole, n = sum(cost.processor_s.values()), cost.n.total()
    passes = whole / n / (sum(cost.pass_s) / len(cost.pass_s))
    figures = (f"{1000 * whole / n:.1f}", f"{n / whole:.1f}", f"{workers * n / whole:.1f}")
    table.add_row(str(setup.picture_px), str(workers), "all", str(n), *figures, style="bold")
    table.add_row(
        "", "", f"by the clock {workers * n / cost.clock_s:.1f} samples/s; {passes:.0f} passes", "", "", "", ""
    )
    table.add_section()


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
