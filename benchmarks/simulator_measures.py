"""Measures of the simulator's quality: differences of AUC with paired intervals, splits, results that are kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from fasedge import metrics
from training.data.simulate.draws import Value
from training.data.table import SampleRow
from training.errors import DataError

Floats = NDArray[np.float64]
RESAMPLES = 1000
CONFIDENCE = 0.95


class Figure(msgspec.Struct, frozen=True):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def auc_of_weights(values: Floats, labels: NDArray[np.int64], weights: Floats) -> Floats:
    """AUC in which samples count several times.

    Args:
        values: (n,), higher = more surely bona fide; ties count half.
        labels: (n,), 1 bona fide.
        weights: (r, n), how often each sample counts in each of r resamples.

    Returns:
        (r,); NaN where a class is missing.
    """
    _, rank = np.unique(values, return_inverse=True)
    steps = int(rank.max()) + 1
    counts = np.zeros((2, len(weights), steps))
    for label in (0, 1):
        chosen = labels == label
        order = np.argsort(rank[chosen], kind="stable")
        sorted_rank = rank[chosen][order]
        part = weights[:, chosen][:, order]
        starts = np.flatnonzero(np.r_[True, np.diff(sorted_rank) > 0]) if len(sorted_rank) else np.empty(0, int)
        if len(starts):
            counts[label][:, sorted_rank[starts]] = np.add.reduceat(part, starts, axis=1)
    attack, bona_fide = counts
    below = np.cumsum(attack, axis=1) - attack
    total = attack.sum(1) * bona_fide.sum(1)
    won = (bona_fide * (below + 0.5 * attack)).sum(1)
    return np.where(total > 0, won / np.where(total > 0, total, 1), np.nan)


def auc_difference(
    pairs: Sequence[tuple[Floats, Floats]],
    labels: NDArray[np.int64],
    identities: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Figure:
    """AUC of the first minus AUC of the second, the mean over pairs, with a paired bootstrap over identities.

    Both scores of a pair belong to the same samples, so each resample of people counts for both: what is common to
    them (hard people, lucky draws) does not widen the interval of their difference.

    Args:
        pairs: (n,) scores each; several pairs are several seeds.
        labels: (n,), 1 bona fide.
        identities: (n,), who is shown.
        seed: Of the resamples.
        resamples: Their number.

    Raises:
        DataError: Nothing to compare, arrays of different lengths, one class alone, or fewer than two people.

    Source: percentile intervals of resampled clusters, Field and Welsh, J. R. Stat. Soc. B 69 (2007) 369-390.
    """
    labels = np.asarray(labels, np.int64)
    if not pairs or any(len(s) != len(labels) for pair in pairs for s in pair) or len(identities) != len(labels):
        raise DataError(f"a difference needs pairs of {len(labels)} scores and as many identities")
    people, index = np.unique(np.asarray(identities), return_inverse=True)
    if len(people) < 2 or len(set(labels.tolist())) != 2:
        raise DataError(f"a difference needs two people and both classes, got {len(people)} and {set(labels.tolist())}")
    draws = np.random.default_rng(seed).multinomial(len(people), np.full(len(people), 1 / len(people)), size=resamples)
    weights = np.concatenate([np.ones((1, len(labels))), draws[:, index].astype(np.float64)])
    found = np.mean([auc_of_weights(a, labels, weights) - auc_of_weights(b, labels, weights) for a, b in pairs], axis=0)
    low, high = np.nanquantile(found[1:], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Figure(float(found[0]), float(low), float(high))


def auc_figure(
    values: Floats, labels: NDArray[np.int64], identities: Sequence[str], *, seed: int = 0, resamples: int = RESAMPLES
) -> Figure:
    """AUC with a bootstrap over identities."""
    nothing = np.zeros(len(values))
    difference = auc_difference([(values, nothing)], labels, identities, seed=seed, resamples=resamples)
    # Constant scores have an AUC of one half in every resample.
    return Figure(difference.value + 0.5, difference.low + 0.5, difference.high + 0.5)


class SplitCount(msgspec.Struct, frozen=True, kw_only=True):
    """Who is in a set.

    Attributes:
        split: Split of the set.
        samples: Samples.
        identities: People.
        in_both_classes: People with bona fide presentations and attacks.
        only_bona_fide: People without an attack.
        only_attack: People without a bona fide presentation.
    """

    split: str
    samples: int
    identities: int
    in_both_classes: int
    only_bona_fide: int
    only_attack: int


def count_identities(split: str, table: Sequence[SampleRow]) -> SplitCount:
    """Count the people of a set by the classes in which they appear."""
    labels: dict[str, set[int]] = defaultdict(set)
    for row in table:
        labels[row.identity].add(row.label)
    kinds = [frozenset(found) for found in labels.values()]
    return SplitCount(
        split=split,
        samples=len(table),
        identities=len(kinds),
        in_both_classes=kinds.count(frozenset({0, 1})),
        only_bona_fide=kinds.count(frozenset({1})),
        only_attack=kinds.count(frozenset({0})),
    )


def shared_identities(tables: Mapping[str, Iterable[SampleRow]]) -> dict[str, int]:
    """People whom two sets share, by ``a, b``; all should be 0."""
    people = {name: {row.identity for row in table} for name, table in tables.items()}
    names = sorted(people)
    return {f"{a}, {b}": len(people[a] & people[b]) for i, a in enumerate(names) for b in names[i + 1 :]}


def confound_figures(
    values: Mapping[str, Floats], labels: NDArray[np.int64], identities: Sequence[str], *, seed: int = 0
) -> dict[str, Figure]:
    """AUC of each scalar in the direction in which it separates better, with its interval."""
    found = {}
    for name, scalar in values.items():
        sign = 1 if metrics.auc(scalar, labels) >= 0.5 else -1
        found[name] = auc_figure(sign * scalar, labels, identities, seed=seed)
    return found


def recorded_scalars(table: Sequence[SampleRow]) -> dict[str, Floats]:
    """Scalars that no picture is needed for: size of the face, quality of the JPEG, as far as they are recorded."""
    box = [row.box_xyxy for row in table]
    found = {"face_size": np.array([x2 - x1 for x1, _, x2, _ in box])}
    for name in ("jpeg_quality", "small", "exposure_target"):
        if all(name in row.params for row in table):
            found[name] = np.array([float(row.params[name]) for row in table])
    return found


class Kept(msgspec.Struct, kw_only=True):
    """Results of one command on disk.

    Attributes:
        command: The command line that made them, without folders.
        settings: What they depend on; results with other settings are not mixed.
        results: By name.
    """

    command: str
    settings: dict[str, Value]
    results: dict[str, msgspec.Raw] = msgspec.field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, command: str, settings: Mapping[str, Value]) -> Kept:
        """Read what is there, or start anew.

        Raises:
            DataError: The file is damaged, or holds results that were made with other settings.
        """
        if not path.is_file():
            return cls(command=command, settings=dict(settings))
        found = cls.read(path)
        if found.settings != dict(settings):
            changed = {k for k in {**found.settings, **settings} if found.settings.get(k) != settings.get(k)}
            raise DataError(
                f"{path} holds results that were made with other settings ({', '.join(sorted(changed))}); choose "
                "another --out or delete it"
            )
        found.command = command
        return found

    @classmethod
    def read(cls, path: Path) -> Kept:
        """Read a file.

        Raises:
            DataError: It is damaged.
        """
        try:
            kept: Kept = msgspec.json.decode(path.read_bytes(), type=cls)
        except (OSError, msgspec.MsgspecError) as error:
            raise DataError(
                f"{path}: no results that can be read ({error}); delete it and run the command again"
            ) from error
        return kept

    def add(self, path: Path, name: str, result: object) -> None:
        """Add a result and write the file, all or nothing.

        Raises:
            DataError: The file cannot be written.
        """
        self.results[name] = msgspec.Raw(msgspec.json.encode(result))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            partial.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")
            partial.replace(path)
        except OSError as error:
            raise DataError(f"{path}: cannot be written ({error.strerror or error})") from error
