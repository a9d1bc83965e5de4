"""Where the batches of a run come from: a set on disk, or samples that are simulated while training goes on.

A feed is asked for one epoch at a time, and everything random in it follows from the seed and the numbers of epoch and
step: a run that goes on after an interruption sees the batches that it would have seen.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from types import TracebackType
from typing import Protocol

import msgspec
import numpy as np

from fasedge.types import Label
from training.checkpoint import JsonValue
from training.config import TrainConfig
from training.data.balance import undersampled
from training.data.batches import check_crops, make_batch, usable
from training.data.domains import DomainSampler, check_several, domain_of, domain_order
from training.data.manifest import read_manifest
from training.data.samples import SampleSet
from training.data.simulate.profiles import PROFILES
from training.data.stream import SimulatedStream
from training.data.subsets import left_out, parse
from training.data.work import Recipe
from training.distributed import Processes, processes
from training.errors import ConfigError, DataError
from training.set_checks import check_people, checked_places
from training.tasks import MIXED, Batch, Needs

#: Streams of several processes lie this far apart, so that no two make the same sample.
_REGION = 1 << 40
#: Samples per class and domain, in batches, that may wait for rarer ones; what comes after is given up.
_WAITING = 4
#: Samples after which a domain that has not come is said never to come.
_PATIENCE = 20_000
_LOG = logging.getLogger("training")


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

    def epoch(self, number: int, position: int, skip: int = 0) -> Iterator[Mapping[str, Batch]]:
        """Batches of an epoch, ``steps * optimiser.accumulate`` of them, and as many more as the task settles with.

        Args:
            number: The epoch, from 0.
            position: What :attr:`position` said when the epoch before had ended; 0 at the start.
            skip: Batches at its beginning that have been trained on already.
        """
        ...

    def close(self) -> None:
        """Give up what is under way."""
        ...


class SetFeed:
    """Batches of a set on disk: each sample once per epoch, in random order.

    For a task that wants domains, see :class:`training.data.domains.DomainSampler`: an epoch is as long as it takes to
    see the largest part of a domain once, and smaller parts start again. With ``data.balance`` the larger class is
    thinned out, and an epoch is as long as what is left. Where measured depth is needed, samples
    without any in the face box are left out, and the log says how many.

    Args:
        samples: The set.
        config: The run.
        needs: What the task looks at.

    Raises:
        DataError: The set is of another split, lacks a class or depth, is too small for one step, or would be cut
            beyond its crops; or a domain lacks a class, or there are too few.
        ConfigError: The batch cannot be shared out among domains and processes, or ``data.balance`` is asked for by a
            task whose batches are balanced anyhow.
    """

    def __init__(self, samples: SampleSet, config: TrainConfig, needs: Needs) -> None:
        self._samples, self._config, self._needs, self._who = samples, config, needs, processes()
        check_crops(samples, config.input.spec())
        targets = needs.targets is not None and needs.targets.measured
        self._places = checked_places("train", samples, depth=needs.depth, targets=targets)
        self._balance = self._chosen_balance()
        left = self._balanced(0)
        n = len(left)
        if self._balance != "none":
            real = sum(samples.table[i].label == Label.BONA_FIDE for i in left)
            _LOG.info("data.balance = %s: %d bona fide samples and %d attacks of %d samples", self._balance, real,
                      n - real, len(self._places))  # fmt: skip
        o, self._sampler = config.optimiser, self._make_sampler() if needs.domains else None
        if self._sampler is None:
            self._passes = -(-n // o.batch) if needs.every else n // o.batch
            share(config, self._who)
        else:
            self._passes = self._sampler.steps_per_epoch
        # Fewer samples than a batch: one step with what there is, as small sets have always been trained.
        self.steps = max(1, self._passes // o.accumulate)
        if self._passes < self.steps * o.accumulate and (o.accumulate > 1 or self._who.world > 1):
            raise DataError(
                f"an epoch of {n} samples has {self._passes} batches, fewer than a step takes "
                f"({o.accumulate}); take smaller batches or accumulate fewer"
            )

    position = 0

    def _chosen_balance(self) -> str:
        """``none``, ``once`` or ``epoch``, after refusing what has no effect."""
        balance = self._config.data.balance
        if balance == "auto":
            return "once" if self._samples.info.origin and not self._needs.domains else "none"
        if balance != "none" and self._needs.domains:
            raise ConfigError(
                f"data.balance = {balance!r} has no effect on methods that learn domain by domain: each step has as "
                "many bona fide presentations as attacks of each; leave it out"
            )
        return balance

    def _balanced(self, number: int) -> list[int]:
        """Places of the samples of an epoch; as many in each."""
        if self._balance == "none":
            return self._places
        key = [self._config.seed, 4, *([number] if self._balance == "epoch" else [])]
        return undersampled(self._samples.table, self._places, key)

    def _make_sampler(self) -> DomainSampler:
        rows = [self._samples.table[i] for i in self._places]
        names, who = [domain_of(row, self._config.data.domain) for row in rows], self._who
        check_several(set(names), self._needs.fewest_domains, self._config.data.domain)
        return DomainSampler(
            names, [row.label for row in rows], seed=self._config.seed, replica=who.rank, replicas=who.world,
            per_class=share(self._config, who, len(set(names)), halves=True) // 2,
        )  # fmt: skip

    @property
    def info(self) -> Mapping[str, JsonValue]:
        """The set's own description."""
        described: dict[str, JsonValue] = msgspec.to_builtins(self._samples.info)
        return described

    @property
    def identities(self) -> set[str]:
        """Everybody in the set."""
        return {row.identity for row in self._samples.table}

    def epoch(self, number: int, position: int, skip: int = 0) -> Iterator[Mapping[str, Batch]]:
        """Batches of an epoch; the position of a set says nothing."""
        seed, passes = self._config.seed, self.steps * self._config.optimiser.accumulate
        for i, chosen in islice(enumerate(self._chosen(number, passes)), skip, None):
            # What comes after the steps has numbers of its own.
            key = [seed, 1, number * passes + i] if i < passes else [seed, 3, number, i]
            own = {name: k for k, name in enumerate(sorted(chosen))}
            yield {
                name: make_batch(self._samples, places, self._config, self._needs, self._key(key, own[name]))
                for name, places in chosen.items()
            }

    def _key(self, key: list[int], domain: int) -> list[int]:
        # The numbers that a single process with one mixed batch has always used; the others lie beside them.
        return key if (self._who.rank, domain) == (0, 0) else [*key, self._who.rank, domain]

    def _chosen(self, number: int, passes: int) -> Iterator[dict[str, list[int]]]:
        """Places of this process's samples in every pass of an epoch, and in those that settle."""
        batch, rank, world = self._config.optimiser.batch, self._who.rank, self._who.world
        places = np.array(self._balanced(number), np.int64)
        if self._sampler is not None:
            for i in range(passes + self._needs.settle):
                step = self._sampler.step(number * passes + i)
                yield {name: places[found].tolist() for name, found in zip(step.domains, step.indices, strict=True)}
            return
        order = places[np.random.default_rng([self._config.seed, number]).permutation(len(places))]
        for i in range(passes + self._needs.settle):
            k = i % max(1, self._passes)
            yield {MIXED: order[k * batch : (k + 1) * batch][rank::world].tolist()}

    def close(self) -> None:
        """There is nothing under way."""


_CLASSES = (int(Label.BONA_FIDE), int(Label.ATTACK))


def check_dev(feed: Feed, dev: SampleSet, *, depth: bool) -> list[int]:
    """Places of the dev samples that can be scored, after refusing what would fail, or flatter.

    Raises:
        DataError: A class or depth is missing, somebody is in both sets, or the set is of another split.
    """
    check_people(feed.identities, dev)
    return checked_places("dev", dev, depth=depth)


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
    samples of frequent domains are given up while rare ones are waited for: with the simulated cameras, three in ten.

    Args:
        recipe: What the simulators are made from.
        config: The run.
        needs: What the task looks at.

    Raises:
        DataError: The pack cannot be read.
        ConfigError: The batch cannot be shared out among domains and processes, depth is needed but not simulated, or
            ``data.balance`` names what only a set can have.
    """

    def __init__(self, recipe: Recipe, config: TrainConfig, needs: Needs) -> None:
        if config.data.balance not in ("none", "auto"):
            raise ConfigError(
                f"data.balance = {config.data.balance!r} thins out a set on disk, but data.train simulates samples as "
                "they are needed, and the simulator decides how many are attacks; leave it out, or name a set"
            )
        if needs.measured and not recipe.depth:
            raise ConfigError("the method needs depth, but none is simulated; set data.depth = true")
        pictures = read_manifest(recipe.data, [recipe.split])
        self.identities = {picture.identity for picture in pictures}
        cameras = config.data.domain != "source"
        self._left_out = parse(config.data.leave_out)
        column, names = ("camera", set(PROFILES)) if cameras else ("source", {p.source for p in pictures})
        names -= {part.value for part in self._left_out if part.column == column}
        self._domains = sorted(names) if needs.domains else []
        check_several(self._domains, needs.fewest_domains, config.data.domain)
        self._recipe, self._config, self._needs, self._who = recipe, config, needs, processes()
        self._share = share(config, self._who, max(1, len(self._domains)), halves=needs.domains)
        o = config.optimiser
        self.steps = config.data.samples // (o.batch * o.accumulate)
        self.position = 0
        self._stream: SimulatedStream | None = None

    @property
    def info(self) -> Mapping[str, JsonValue]:
        """Split, seed and picture size, and a digest of the pack's manifest: the same name may hold another pack."""
        manifest = (self._recipe.data / "manifest.csv").read_bytes()
        info = self._recipe.describe(self._config.data.samples, stored="stream")
        if self._left_out:
            info = msgspec.structs.replace(info, chosen=left_out(self._left_out))
        more = {"manifest": hashlib.sha256(manifest).hexdigest()[:16], "processes": self._who.world}
        described: dict[str, JsonValue] = msgspec.to_builtins(info) | more
        return described

    def epoch(self, number: int, position: int, skip: int = 0) -> Iterator[Mapping[str, Batch]]:
        """Batches of an epoch, from the stream's sample ``position`` on.

        What is skipped is simulated again where batches are put together by domain: which samples had waited and which
        were given up decides about those that follow.

        Raises:
            DataError: A worker died, or the simulation never makes one of the domains.
        """
        passes = self.steps * self._config.optimiser.accumulate + self._needs.settle
        stream = self._opened(position if self._domains else position + skip * self._share)
        grouped = islice(self._by_domain(stream), skip, None) if self._domains else self._mixed(stream)
        for i in range(skip, passes):
            found, step, seed = next(grouped), number * passes + i, self._config.seed
            self.position = stream.position - self._who.rank * _REGION
            # Pools are kept by sorted names; a step has its own order.
            own = {name: k for k, name in enumerate(found)}
            yield {
                name: make_batch(*found[name], self._config, self._needs, [seed, 2, step, self._who.rank, own[name]])
                for name in domain_order(list(found), seed, step)
            }

    def _mixed(self, stream: SimulatedStream) -> Iterator[dict[str, tuple[SampleSet, Sequence[int]]]]:
        for samples in stream:
            places = self._kept(samples)
            if not places:
                raise DataError(
                    f"none of {len(samples)} simulated samples can be used: all are left out, or without depth in "
                    "their face box"
                )
            yield {MIXED: (samples, places)}

    def _kept(self, samples: SampleSet) -> list[int]:
        """Places of the samples that are trained on."""
        usable_ = usable(samples, measured=self._needs.measured)
        return [i for i in usable_ if not any(part.holds(samples.table[i]) for part in self._left_out)]

    def _opened(self, position: int) -> SimulatedStream:
        """The stream at a position; the one that is running, if it is there: workers take seconds to start."""
        start = position + self._who.rank * _REGION
        if self._stream is None or self._stream.position != start:
            self.close()
            workers = self._config.machine.workers
            self._stream = SimulatedStream(self._recipe, self._share, start, workers=workers)
        self.position = position
        return self._stream

    def _by_domain(self, stream: SimulatedStream) -> Iterator[dict[str, tuple[SampleSet, Sequence[int]]]]:
        half = self._share // 2
        pools = {(name, label): deque[SampleSet]() for name in self._domains for label in _CLASSES}
        seen = 0
        while True:
            while any(len(pool) < half for pool in pools.values()):
                samples = next(stream)
                for place in self._kept(samples):
                    row = samples.table[place]
                    pool = pools[domain_of(row, self._config.data.domain), row.label]
                    if len(pool) < _WAITING * half:
                        # A copy: one that waits must not keep its whole batch in memory.
                        pool.append(gather([(samples, place)]))
                seen += len(samples)
                if seen > _PATIENCE and (never := [f"{d}/{y}" for (d, y), pool in pools.items() if not pool]):
                    raise DataError(f"{seen} samples were simulated, none of {', '.join(never)} (domain/label)")
            seen = 0
            yield {
                name: (gather([(pools[name, y].popleft(), 0) for y in _CLASSES for _ in range(half)]), range(2 * half))
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


def gather(found: Sequence[tuple[SampleSet, int]]) -> SampleSet:
    """One set in memory of samples from several."""
    depth = [samples.depth_mm(place) for samples, place in found if samples.has_depth]
    return SampleSet(
        np.stack([samples.picture(place) for samples, place in found]),
        [samples.table[place] for samples, place in found],
        found[0][0].info,
        np.stack(depth) if depth else None,
    )
