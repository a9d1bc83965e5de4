"""Checks what comes in, once, and brings it into one form."""

from __future__ import annotations

import hashlib
import math
import numbers
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fasedge.errors import MetricError
from fasedge.types import Label

Float64Array: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]
BoolArray: TypeAlias = NDArray[np.bool_]
#: One score per presentation; NaN or ``None`` where there is none.
Scores: TypeAlias = ArrayLike | Sequence[float | None]
#: One species name per presentation; what stands beside a bona fide presentation is not read.
SpeciesNames: TypeAlias = Iterable[str | None]

#: Name of the one species when no species are given.
UNNAMED_SPECIES = "attack"


@dataclass(frozen=True, slots=True, eq=False)
class Presentations:
    """Checked input: n presentations.

    Attributes:
        scores: float64 (n,), finite, or NaN for a non-response.
        is_bona_fide: bool (n,).
        species: Names of the PAI species that occur, sorted.
        species_index: int64 (n,), index into ``species``; -1 for bona fide.
    """

    scores: Float64Array
    is_bona_fide: BoolArray
    species: tuple[str, ...]
    species_index: IntArray

    @property
    def attack_scores(self) -> Float64Array:
        """Scores of the attack presentations."""
        return self.scores[~self.is_bona_fide]

    @property
    def bona_fide_scores(self) -> Float64Array:
        """Scores of the bona fide presentations."""
        return self.scores[self.is_bona_fide]

    @property
    def responded(self) -> BoolArray:
        """Which presentations got a score, bool (n,)."""
        return ~np.isnan(self.scores)

    def responses(self) -> Presentations:
        """Only the presentations that got a score.

        Raises:
            MetricError: No presentation of one of the classes got one.
        """
        keep = self.responded
        if keep.all():
            return self
        for name, mask in (("bona fide", self.is_bona_fide), ("attack", ~self.is_bona_fide)):
            if mask.any() and not (mask & keep).any():
                raise MetricError(
                    f"all {int(mask.sum())} {name} presentations are non-responses (score NaN): error rates are "
                    "undefined; non_response_rates() still reports them"
                )
        kept = self.species_index[keep]
        present = np.unique(kept[kept >= 0])
        renumbered = np.searchsorted(present, kept)
        return Presentations(
            self.scores[keep],
            self.is_bona_fide[keep],
            tuple(self.species[i] for i in present),
            np.where(kept < 0, -1, renumbered).astype(np.int64),
        )

    def fingerprint(self) -> str:
        """SHA-256 over scores and labels, whatever their order: tells whether two inputs are the same data."""
        order = np.lexsort((self.is_bona_fide, self.scores))
        digest = hashlib.sha256((self.scores[order] + 0.0).astype("<f8").tobytes())  # + 0.0 turns -0.0 into 0.0
        digest.update(np.packbits(self.is_bona_fide[order]).tobytes())
        return digest.hexdigest()


def check_presentations(
    scores: Scores,
    labels: ArrayLike,
    species: SpeciesNames | None = None,
    *,
    allow_non_response: bool = False,
    need_attack: bool = True,
    need_bona_fide: bool = True,
) -> Presentations:
    """Check scores, labels and species.

    Raises:
        MetricError: Empty, not one-dimensional or of different lengths; infinite scores; NaN scores where they are
            not allowed; labels other than 0 and 1; a class that is needed and missing; an attack without species.
    """
    values = check_scores(scores)
    is_bona_fide = check_labels(labels, len(values))
    if not allow_non_response and np.isnan(values).any():
        raise MetricError(
            f"{int(np.isnan(values).sum())} of {len(values)} scores are NaN (non-responses); this function needs a "
            "score for each presentation: use report() or evaluate(), which count non-responses separately"
        )
    if need_bona_fide and not is_bona_fide.any():
        raise MetricError(f"no bona fide presentation (label 1) among {len(values)}: this rate is undefined")
    if need_attack and is_bona_fide.all():
        raise MetricError(f"no attack presentation (label 0) among {len(values)}: this rate is undefined")
    names, index = _check_species(species, is_bona_fide)
    return Presentations(values, is_bona_fide, names, index)


def check_scores(scores: Scores, what: str = "scores") -> Float64Array:
    """Scores as float64 (n,), n >= 1; ``None`` becomes NaN.

    Raises:
        MetricError: Not numbers, not one-dimensional, empty, or infinite.
    """
    raw = _as_array(scores, what)
    if raw.dtype.kind == "O" and all(v is None or isinstance(v, numbers.Real) for v in raw.flat):
        raw = raw.astype(np.float64)
    if raw.dtype.kind not in "fiub":
        raise MetricError(f"{what} must be real numbers, got {raw.dtype}")
    values = raw.astype(np.float64)
    if values.ndim != 1:
        raise MetricError(f"{what} must be one-dimensional, one per presentation, got shape {values.shape}")
    if not len(values):
        raise MetricError(f"{what} are empty: expected at least one presentation")
    if np.isinf(values).any():
        raise MetricError(
            f"{int(np.isinf(values).sum())} of {len(values)} {what} are infinite; expected finite numbers"
        )
    return values


def _as_array(values: Scores, what: str) -> NDArray[np.generic]:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise MetricError(f"{what} must be a one-dimensional sequence of real numbers: {error}") from error


def check_labels(labels: ArrayLike, n: int) -> BoolArray:
    """Labels as bool (n,), true for bona fide.

    Raises:
        MetricError: Not one-dimensional, of another length, or values other than 0 and 1.
    """
    raw = _as_array(labels, "labels")
    if raw.ndim != 1 or len(raw) != n:
        raise MetricError(f"labels must have one entry per score, {n}, got shape {raw.shape}")
    if raw.dtype.kind not in "fiub" or not np.isin(raw, (int(Label.ATTACK), int(Label.BONA_FIDE))).all():
        found = sorted({repr(v) for v in raw.tolist()})[:5]
        raise MetricError(f"labels must be 0 (attack) or 1 (bona fide), got {', '.join(found)}")
    return np.asarray(raw == int(Label.BONA_FIDE), np.bool_)


def check_flags(flags: ArrayLike, n: int, what: str) -> BoolArray:
    """Flags as bool (n,).

    Raises:
        MetricError: Not one-dimensional, of another length, or no booleans.
    """
    raw = _as_array(flags, what)
    if raw.shape != (n,) or raw.dtype.kind != "b":
        raise MetricError(f"{what} must have one bool per presentation, {n}, got {raw.dtype} of shape {raw.shape}")
    return np.asarray(raw, np.bool_)


def _check_species(species: SpeciesNames | None, is_bona_fide: BoolArray) -> tuple[tuple[str, ...], IntArray]:
    index = np.full(len(is_bona_fide), -1, np.int64)
    attacks = np.flatnonzero(~is_bona_fide)
    if species is None:
        index[attacks] = 0
        return ((UNNAMED_SPECIES,) if len(attacks) else ()), index
    if isinstance(species, str):
        raise MetricError(f"species must be one name per presentation, got the single string {species!r}")
    names = list(species)
    if len(names) != len(is_bona_fide):
        raise MetricError(f"species must have one entry per score, {len(is_bona_fide)}, got {len(names)}")
    of_attacks = []
    for i in attacks:
        name = names[i]
        if not isinstance(name, str) or not name.strip():
            raise MetricError(f"attack presentation {i} needs the name of its PAI species, got {name!r}")
        of_attacks.append(str(name))
    present, inverse = np.unique(np.asarray(of_attacks, dtype=np.str_), return_inverse=True)
    index[attacks] = inverse
    return tuple(str(name) for name in present), index


def check_groups(groups: ArrayLike, n: int, what: str) -> tuple[IntArray, int]:
    """Identifiers (subjects, videos) as numbers 0 … g-1 in the order of first appearance.

    Returns:
        int64 (n,) group of each entry, and g.

    Raises:
        MetricError: Not one-dimensional, of another length, or with missing identifiers.
    """
    raw = np.asarray(groups, dtype=object)  # as objects, or a NaN among names would become the name 'nan'
    if raw.ndim != 1 or len(raw) != n:
        raise MetricError(f"{what} must have one identifier per score, {n}, got shape {raw.shape}")
    missing = [v for v in raw.tolist() if v is None or v == "" or (isinstance(v, float) and math.isnan(v))]
    if missing:
        raise MetricError(f"{len(missing)} of {n} {what} are missing (None, NaN or empty); each needs an identifier")
    numbers: dict[object, int] = {}
    index = np.fromiter((numbers.setdefault(v, len(numbers)) for v in raw.tolist()), np.int64, count=n)
    return index, len(numbers)


def read_only(values: Float64Array) -> Float64Array:
    """A contiguous array that cannot be written to, for a result."""
    values = np.ascontiguousarray(values)
    values.flags.writeable = False
    return values


def check_threshold(threshold: float) -> float:
    """A threshold as float; infinite ones accept or reject everything.

    Raises:
        MetricError: NaN.
    """
    value = float(threshold)
    if math.isnan(value):
        raise MetricError("the threshold is NaN; expected a number: accept iff score >= threshold")
    return value


def check_rate(value: float, what: str) -> None:
    """Raise MetricError unless ``0 <= value <= 1``."""
    if not 0 <= value <= 1:
        raise MetricError(f"{what} must lie in [0, 1] (0.05 for 5 %), got {value}")
