"""Where the batches of a run come from: a set on disk, or samples that are simulated while training goes on.

A feed is asked for one epoch at a time, and everything random in it follows from the seed and the numbers of epoch and
step: a run that goes on after an interruption sees the batches that it would have seen.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from fasedge.types import Label
from training.checkpoint import JsonValue
from training.config import TrainConfig
from training.data.batches import domain_of, make_batch
from training.data.manifest import read_manifest
from training.data.samples import SampleSet
from training.data.simulate.profiles import PROFILES
from training.data.stream import SimulatedStream
from training.data.table import SampleRow, SetInfo
from training.data.work import Recipe
from training.distributed import Processes, processes
from training.errors import ConfigError, DataError
from training.tasks import MIXED, Batch, Needs

#: Streams of several processes lie this far apart, so that no two make the same sample.
_REGION = 1 << 40
#: Samples per class and domain, in batches, that may wait for rarer ones; what comes after is given up.
_WAITING = 4


class Feed(Protocol):
    """Batches of a run, epoch by epoch."""

    @property
    def steps(self) -> int:
        """Steps of the optimiser per epoch."""
        ...

    @property
    def position(self) -> int:
        """Where the next epoch starts; kept in checkpoints."""
        ...

    @property
    def info(self) -> Mapping[str, JsonValue]:
        """What the samples are, for the run record; a run goes on only with the same."""
        ...

    @property
    def identities(self) -> set[str]:
        """Everybody who may be shown."""
        ...

    def epoch(self, number: int, position: int) -> Iterator[Mapping[str, Batch]]:
        """Batches of an epoch, ``steps * optimiser.accumulate`` of them, and as many more as the task settles with.

        Args:
            number: The epoch, from 0.
            position: What :attr:`position` said when the epoch before had ended; 0 at the start.
        """
        ...

    def close(self) -> None:
        """Give up what is under way."""
        ...


class SetFeed:
    """Batches of a set on disk: each sample once per epoch, in random order.

    For a task that wants domains, each batch is half bona fide and half attack, an epoch shows every sample of the
    largest part at least once, and smaller parts start again.

    Args:
        samples: The set.
        config: The run.
        needs: What the task looks at.

    Raises:
        DataError: The set lacks a class or depth, or is too small for one step; or a domain lacks a class.
        ConfigError: The batch cannot be shared out among domains and processes.
    """

    def __init__(self, samples: SampleSet, config: TrainConfig, needs: Needs) -> None:
        check_classes("train", samples)
        if needs.depth and not samples.has_depth:
            raise DataError("the method looks at depth, but the train set has none; make it with `simulate --depth`")
        self._samples, self._config, self._needs, self._who = samples, config, needs, processes()
        parts = _parts(samples.table, config) if needs.domains else {}
        self._domains = {name: np.array(found, np.int64) for name, found in parts.items()}
        o = config.optimiser
        if needs.domains:
            names = sorted({name for name, _ in parts})
            if missing := [f"{n} ({w})" for n in names for y, w in _CLASSES if (n, y) not in parts]:
                raise DataError(f"every domain needs both classes; the train set has none of {', '.join(missing)}")
            self._share = share(config, self._who, len(names), halves=True)
            whole = self._share * self._who.world // 2
            self._passes = max(max(len(found) for found in parts.values()) // whole, 1)
        else:
            self._share = share(config, self._who)
            self._passes = len(samples) // o.batch
        # Fewer samples than a batch: one step with what there is, as small sets have always been trained.
        self.steps = max(1, self._passes // o.accumulate)
        if self._passes < self.steps * o.accumulate and (o.accumulate > 1 or self._who.world > 1):
            raise DataError(
                f"an epoch of {len(samples)} samples has {self._passes} batches, fewer than a step takes "
                f"({o.accumulate}); take smaller batches or accumulate fewer"
            )

    position = 0

    @property
    def info(self) -> Mapping[str, JsonValue]:
        """The set's own description."""
        described: dict[str, JsonValue] = msgspec.to_builtins(self._samples.info)
        return described

    @property
    def identities(self) -> set[str]:
        """Everybody in the set."""
        return {row.identity for row in self._samples.table}

    def epoch(self, number: int, position: int) -> Iterator[Mapping[str, Batch]]:
        """Batches of an epoch; the position of a set says nothing."""
        o, seed = self._config.optimiser, self._config.seed
        passes = self.steps * o.accumulate
        for i, chosen in enumerate(self._chosen(number)):
            # What comes after the steps has numbers of its own.
            key = [seed, 1, number * passes + i] if i < passes else [seed, 3, number, i]
            yield {
                name: make_batch(self._samples, places, self._config, self._needs, self._key(key, k))
                for k, (name, places) in enumerate(chosen.items())
            }

    def _key(self, key: list[int], domain: int) -> list[int]:
        # The numbers that a single process with one mixed batch has always used; the others lie beside them.
        return key if (self._who.rank, domain) == (0, 0) else [*key, self._who.rank, domain]

    def _chosen(self, number: int) -> Iterator[dict[str, list[int]]]:
        """Places of this process's samples in every pass of an epoch."""
        o, passes = self._config.optimiser, self.steps * self._config.optimiser.accumulate + self._needs.settle
        rank, world = self._who.rank, self._who.world
        if not self._domains:
            order = np.random.default_rng([self._config.seed, number]).permutation(len(self._samples))
            for i in range(passes):
                k = i % max(1, self._passes)
                yield {MIXED: order[k * o.batch : (k + 1) * o.batch][rank::world].tolist()}
            return
        orders = {
            key: np.random.default_rng([self._config.seed, number, k]).permutation(found)
            for k, (key, found) in enumerate(sorted(self._domains.items()))
        }
        half = self._share * world // 2
        for i in range(passes):
            chosen: dict[str, list[int]] = defaultdict(list)
            for (name, _), order in orders.items():
                chosen[name] += _wrapped(order, i * half, half)[rank::world].tolist()
            yield dict(chosen)

    def close(self) -> None:
        """There is nothing under way."""


_CLASSES = ((int(Label.BONA_FIDE), "bona fide"), (int(Label.ATTACK), "attack"))


def _parts(table: Sequence[SampleRow], config: TrainConfig) -> dict[tuple[str, int], list[int]]:
    parts: dict[tuple[str, int], list[int]] = defaultdict(list)
    for place, row in enumerate(table):
        parts[domain_of(row, config.data.domain), row.label].append(place)
    return dict(parts)


def _wrapped(order: NDArray[np.int64], start: int, n: int) -> NDArray[np.int64]:
    return order[np.arange(start, start + n) % len(order)]


def check_classes(name: str, samples: SampleSet) -> None:
    """Refuse a set that would fail, or flatter, after the first epoch.

    Raises:
        DataError: A class is missing.
    """
    if set(samples.labels.tolist()) != {int(Label.ATTACK), int(Label.BONA_FIDE)}:
        raise DataError(f"the {name} set needs bona fide presentations and attacks, got one class of the two")


def share(config: TrainConfig, who: Processes, domains: int = 1, *, halves: bool = False) -> int:
    """Samples of a batch that one process takes, of each domain.

    Raises:
        ConfigError: The batch cannot be shared out evenly.
    """
    parts = domains * who.world * (2 if halves else 1)
    batch = config.optimiser.batch
    if batch % parts or batch < 2 * domains * who.world:
        what = f"{who.world} processes" + (f" x {domains} domains x 2 classes" if halves else "")
        raise ConfigError(
            f"optimiser.batch = {batch} cannot be shared out among {what}: take a multiple of {parts}, and at least "
            f"{2 * domains * who.world}"
        )
    return batch // (domains * who.world)


class StreamFeed:
    """Samples that worker processes simulate while training goes on; none is seen twice.

    An epoch is ``data.samples`` of them. For a task that wants domains, batches are put together from what has come:
    samples of frequent domains are given up while rare ones are waited for.

    Args:
        recipe: What the simulators are made from.
        config: The run.
        needs: What the task looks at.

    Raises:
        DataError: The pack cannot be read.
        ConfigError: The batch cannot be shared out among domains and processes, or depth is needed but not simulated.
    """

    def __init__(self, recipe: Recipe, config: TrainConfig, needs: Needs) -> None:
        if needs.depth and not recipe.depth:
            raise ConfigError("the method looks at depth, but none is simulated; set data.depth = true")
        pictures = read_manifest(recipe.data, [recipe.split])
        self.identities = {picture.identity for picture in pictures}
        cameras = config.data.domain != "source"
        self._domains = sorted(PROFILES if cameras else {p.source for p in pictures}) if needs.domains else []
        self._recipe, self._config, self._needs, self._who = recipe, config, needs, processes()
        self._share = share(config, self._who, max(1, len(self._domains)), halves=needs.domains)
        o = config.optimiser
        self.steps = config.data.samples // (o.batch * o.accumulate)
        self.position = 0
        self._stream: SimulatedStream | None = None

    @property
    def info(self) -> Mapping[str, JsonValue]:
        """Split, seed and picture size, and a digest of the pack's manifest: the same name may hold another pack."""
        r, manifest = self._recipe, (self._recipe.data / "manifest.csv").read_bytes()
        info = SetInfo(split=r.split, seed=r.seed, n=self._config.data.samples, depth=r.depth, format="stream")
        more = {"picture_px": r.picture_px, "manifest": hashlib.sha256(manifest).hexdigest()[:16]}
        described: dict[str, JsonValue] = msgspec.to_builtins(info) | more | {"processes": self._who.world}
        return described

    def epoch(self, number: int, position: int) -> Iterator[Mapping[str, Batch]]:
        """Batches of an epoch, from the stream's sample ``position`` on.

        Raises:
            DataError: A worker died, or the simulation never makes one of the domains.
        """
        passes = self.steps * self._config.optimiser.accumulate + self._needs.settle
        stream = self._opened(position)
        grouped = self._by_domain(stream) if self._domains else ({MIXED: samples} for samples in stream)
        for i in range(passes):
            found = next(grouped)
            self.position = stream.position - self._who.rank * _REGION
            step = number * passes + i
            yield {
                name: make_batch(
                    samples, range(len(samples)), self._config, self._needs,
                    [self._config.seed, 2, step, self._who.rank, k],
                )
                for k, (name, samples) in enumerate(found.items())
            }  # fmt: skip

    def _opened(self, position: int) -> SimulatedStream:
        """The stream at a position; the one that is running, if it is there: workers take seconds to start."""
        start = position + self._who.rank * _REGION
        if self._stream is None or self._stream.position != start:
            self.close()
            workers = self._config.machine.workers
            self._stream = SimulatedStream(self._recipe, self._share, start, workers=workers)
        self.position = position
        return self._stream

    def _by_domain(self, stream: SimulatedStream) -> Iterator[dict[str, SampleSet]]:
        half = self._share // 2
        pools = {(name, label): deque[tuple[SampleSet, int]]() for name in self._domains for label, _ in _CLASSES}
        seen = 0
        while True:
            while any(len(pool) < half for pool in pools.values()):
                samples = next(stream)
                for place, row in enumerate(samples.table):
                    pool = pools[domain_of(row, self._config.data.domain), row.label]
                    if len(pool) < _WAITING * half:
                        pool.append((samples, place))
                seen += len(samples)
                if seen > _PATIENCE and (never := [f"{d}/{y}" for (d, y), pool in pools.items() if not pool]):
                    raise DataError(f"{seen} samples were simulated, none of {', '.join(never)} (domain/label)")
            seen = 0
            yield {
                name: gather([pools[name, label].popleft() for label, _ in _CLASSES for _ in range(half)])
                for name in self._domains
            }

    def close(self) -> None:
        """End the workers."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def __enter__(self) -> StreamFeed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


#: Samples after which a domain that has not come is said never to come.
_PATIENCE = 20_000


def gather(found: Sequence[tuple[SampleSet, int]]) -> SampleSet:
    """One set in memory of samples from several."""
    depth = [samples.depth_mm(place) for samples, place in found if samples.has_depth]
    return SampleSet(
        np.stack([samples.picture(place) for samples, place in found]),
        [samples.table[place] for samples, place in found],
        found[0][0].info,
        np.stack(depth) if depth else None,
    )
