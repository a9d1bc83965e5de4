"""Batches balanced over domains and classes, for methods that learn across domains.

A step has one batch per domain with as many bona fide samples as attacks. What it holds is a function of seed and step
number alone, so that training resumes anywhere; several processes share a step without sharing a sample.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fasedge.types import Label
from training.data.table import SampleRow
from training.errors import ConfigError, DataError

Int64Array: TypeAlias = NDArray[np.int64]
#: What a domain is, see ``data.domain``.
DomainRule: TypeAlias = Literal["auto", "camera", "source"]

_CLASSES = {int(Label.ATTACK): "attacks", int(Label.BONA_FIDE): "bona fide presentations"}


@dataclass(frozen=True, slots=True, eq=False)
class DomainStep:
    """What one step reads.

    Attributes:
        domains: Names of the domains in the step's order; meta-learning holds the last out.
        indices: Samples of each of them, int64 (2k,): k bona fide samples and k attacks, mixed.
    """

    domains: tuple[str, ...]
    indices: tuple[Int64Array, ...]


class DomainSampler:
    """Draws balanced batches per domain, without replacement until a class of a domain is used up.

    Each class of each domain is an endless sequence of permutations of its samples; step s reads the places
    s·k … s·k + k − 1. The sequence of a domain depends on its name and its samples, not on the other domains.

    Args:
        domains: Name of the domain of each sample.
        labels: Label of each sample, 1 = bona fide, 0 = attack.
        per_class: k, samples per class and domain in a step.
        seed: Seed of everything, ≥ 0.
        replica: Number of this process.
        replicas: Processes that share each step; each gets k samples per class and domain of its own. Together they
            read what one process with ``per_class = k · replicas`` reads.

    Attributes:
        names: The domains, sorted.
        steps_per_epoch: Steps after which the largest class of any domain has been seen once; smaller ones repeat.

    Raises:
        ConfigError: A number is out of its range.
        DataError: There is no sample, the lengths differ, a label is not one, or a domain lacks a class.

    Source: RFMeta's released code: 10 + 10 samples per domain, epochs as long as the longest of its loaders. Theirs
    drop an incomplete batch; so does ``steps_per_epoch``, but the next permutation begins with what was left.
    """

    def __init__(
        self,
        domains: Sequence[str],
        labels: Sequence[int] | Int64Array,
        *,
        per_class: int = 10,
        seed: int = 0,
        replica: int = 0,
        replicas: int = 1,
    ) -> None:
        if per_class < 1 or seed < 0 or replicas < 1 or not 0 <= replica < replicas:
            raise ConfigError(
                "domain batches need per_class >= 1, seed >= 0 and 0 <= replica < replicas, got "
                f"{per_class}, {seed}, {replica} and {replicas}"
            )
        self._per_class, self._seed, self._replica, self._replicas = per_class, seed, replica, replicas
        self._pools = _pools(domains, np.asarray(labels))
        self.names = tuple(sorted({name for name, _ in self._pools}))
        largest = max(len(pool) for pool in self._pools.values())
        self.steps_per_epoch = max(1, largest // (per_class * replicas))

    def step(self, number: int) -> DomainStep:
        """Batches of a step.

        Args:
            number: Number of the step, counted from 0 over the whole training.

        Returns:
            The domains in an order drawn anew for each step, the same in all processes, and their samples.

        Raises:
            ConfigError: The number is negative.
        """
        if number < 0:
            raise ConfigError(f"steps are counted from 0, got {number}")
        names = domain_order(self.names, self._seed, number)
        return DomainStep(names, tuple(self._batch(name, number) for name in names))

    def steps(self, start: int, stop: int) -> Iterator[DomainStep]:
        """Steps from ``start`` up to ``stop``, which is not among them."""
        return (self.step(number) for number in range(start, stop))

    def _batch(self, name: str, number: int) -> Int64Array:
        k = self._per_class
        first = (number * self._replicas + self._replica) * k
        chosen = np.concatenate([self._draw(name, label, first, first + k) for label in _CLASSES])
        key = [self._seed, 1, zlib.crc32(name.encode()), number, self._replica]
        return np.asarray(np.random.default_rng(key).permutation(chosen), np.int64)

    def _draw(self, name: str, label: int, first: int, last: int) -> Int64Array:
        """Places ``first`` to ``last`` of a class's endless sequence."""
        pool = self._pools[name, label]
        parts = []
        for turn in range(first // len(pool), (last - 1) // len(pool) + 1):
            key = [self._seed, 2, zlib.crc32(name.encode()), label, turn]
            order = np.random.default_rng(key).permutation(pool)
            start = turn * len(pool)
            parts.append(order[max(0, first - start) : last - start])
        return np.concatenate(parts)


def domain_order(names: Sequence[str], seed: int, number: int) -> tuple[str, ...]:
    """Order of the domains in a step, drawn anew for each and the same in all processes.

    Args:
        names: The domains, in an order that does not change.
        seed: Seed of the run.
        number: Number of the step, counted from 0 over the whole training.
    """
    order = np.random.default_rng([seed, 0, number]).permutation(len(names))
    return tuple(names[i] for i in order)


def domain_of(row: SampleRow, rule: DomainRule) -> str:
    """Domain of a sample.

    Raises:
        DataError: The camera is asked for, but the sample does not say which it was.
    """
    camera = row.params.get("camera")
    if rule == "source" or (rule == "auto" and camera is None):
        return row.source
    if camera is None:
        raise DataError(
            f'data.domain = "camera", but sample {row.index} does not say which camera took it, as recordings do not; '
            'set data.domain = "source" (a domain for each data set) or "auto"'
        )
    return str(camera)


def check_several(names: Collection[str], fewest: int, rule: DomainRule) -> None:
    """Refuse too few domains for a method that learns to carry over from some to others.

    Args:
        names: The domains that there are.
        fewest: How many the method needs.
        rule: What a domain is, ``data.domain``.

    Raises:
        DataError: Says where domains come from.
    """
    if len(names) >= fewest:
        return
    what = {"camera": "cameras", "source": "data sets"}.get(rule, "cameras where samples name one, otherwise data sets")
    raise DataError(
        f"the method holds a domain out in every step and needs at least {fewest}, but there is only "
        f"{', '.join(map(repr, sorted(names))) or 'none'}; domains are {what} (data.domain = {rule!r}): "
        "set data.domain to what differs in the set, camera or source, or prepare several data sets together with "
        "`prepare domains`"
    )


def _pools(domains: Sequence[str], labels: NDArray[np.generic]) -> dict[tuple[str, int], Int64Array]:
    """Samples of each class of each domain, after checking that none is empty."""
    if len(domains) != len(labels) or not len(labels):
        raise DataError(
            f"expected one domain and one label per sample, at least one, got {len(domains)} and {len(labels)}"
        )
    known = np.isin(labels, list(_CLASSES))
    if not known.all():
        place = int(np.flatnonzero(~known)[0])
        raise DataError(f"expected labels 0 (attack) or 1 (bona fide), got {labels[place]} for sample {place}")
    found: dict[tuple[str, int], list[int]] = {(name, label): [] for name in sorted(set(domains)) for label in _CLASSES}
    for index, (name, label) in enumerate(zip(domains, labels.tolist(), strict=True)):
        found[name, int(label)].append(index)
    pools = {key: np.array(indices, np.int64) for key, indices in found.items()}
    lacking = [f"{name!r} has no {_CLASSES[label]}" for (name, label), pool in pools.items() if not len(pool)]
    if lacking:
        raise DataError(
            f"every domain needs both classes, but {'; '.join(lacking)}; leave these domains out or add samples"
        )
    return pools
