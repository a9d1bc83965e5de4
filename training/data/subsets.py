"""Sets without some attacks, cameras or collections, and what was left out of them: leave-one-out protocols.

A part of a set is named ``COLUMN=VALUE``: ``species=mask``, ``subtype=print/laser``, ``camera=kiosk``, ``source=ffhq``.
The two halves of a protocol are :func:`without` (what is trained on and what thresholds come from) and :func:`only`
(what is measured)::

    held_out = parse(["species=mask"])
    train, dev, test = without(train, held_out), without(dev, held_out), only(test, held_out)

People are kept apart by the splits, not here. Source: the leave-one-out protocols of WMCA (George et al., TIFS 2020),
where a test set has bona fide presentations and the attack that training has not seen; the leave-one-domain-out
protocols of RFMeta (Shao, Lan and Yuen, AAAI 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fasedge.types import Label
from training.data.samples import SampleSet
from training.data.table import SampleRow
from training.errors import DataError

#: Columns of attacks: bona fide presentations have none, and belong to both halves.
_OF_ATTACKS = frozenset({"species", "subtype"})
#: What a part can be named by; ``camera`` is a parameter of simulated samples.
COLUMNS = ("species", "subtype", "camera", "source")


class Part(NamedTuple):
    """A part of a set.

    Attributes:
        column: One of :data:`COLUMNS`.
        value: Value in that column.
    """

    column: str
    value: str

    def __str__(self) -> str:
        return f"{self.column}={self.value}"

    def holds(self, row: SampleRow) -> bool:
        """Whether a sample belongs to it."""
        return _value(row, self.column) == self.value

    def concerns(self, row: SampleRow) -> bool:
        """Whether a sample is measured when this part is: it belongs to it, or is what attacks are compared with."""
        return self.holds(row) or (self.column in _OF_ATTACKS and row.label == Label.BONA_FIDE)


def parse(texts: Sequence[str]) -> tuple[Part, ...]:
    """Read the names of parts.

    Raises:
        DataError: Not ``COLUMN=VALUE``, an unknown column, bona fide presentations, or the same part twice.
    """
    found: list[Part] = []
    for text in texts:
        column, equals, value = text.partition("=")
        if not equals or column not in COLUMNS or not value:
            raise DataError(f"a part of a set is COLUMN=VALUE with a column of {', '.join(COLUMNS)}; got {text!r}")
        if column in _OF_ATTACKS and value == "bona_fide":
            raise DataError(f"{text}: bona fide presentations cannot be left out or measured alone")
        if Part(column, value) in found:
            raise DataError(f"{text} is named twice")
        found.append(Part(column, value))
    return tuple(found)


def without(samples: SampleSet, parts: Sequence[Part], *, name: str = "") -> SampleSet:
    """Leave parts of a set out.

    Args:
        samples: The set.
        parts: What to leave out; nothing leaves the set as it is.
        name: What the set is for, in messages.

    Raises:
        DataError: The set has no such part, or nothing is left of a class.
    """
    if not parts:
        return samples
    check_known(samples, parts, name)
    kept = [i for i, row in enumerate(samples.table) if not any(part.holds(row) for part in parts)]
    return _chosen(samples, kept, left_out(parts), name)


def only(samples: SampleSet, parts: Sequence[Part], *, name: str = "") -> SampleSet:
    """Keep the named parts of a set; with parts of attacks, all bona fide presentations as well.

    Parts of different kinds narrow each other: ``species=mask`` and ``camera=kiosk`` are masks and bona fide
    presentations before the kiosk.

    Args:
        samples: The set.
        parts: What to keep; nothing keeps the set as it is.
        name: What the set is for, in messages.

    Raises:
        DataError: The set has no such part, or nothing is left of a class.
    """
    if not parts:
        return samples
    check_known(samples, parts, name)
    columns = {column: [part for part in parts if part.column == column] for column in {p.column for p in parts}}
    kept = [
        i
        for i, row in enumerate(samples.table)
        if all(any(part.concerns(row) for part in of_column) for of_column in columns.values())
    ]
    return _chosen(samples, kept, f"only {_listed(parts)}", name)


def left_out(parts: Sequence[Part]) -> str:
    """What a set without these parts says of itself in ``info.chosen``."""
    return f"without {_listed(parts)}"


def check_known(samples: SampleSet, parts: Sequence[Part], name: str) -> None:
    """Refuse parts that a set does not have: a typing error would leave nothing out and hold out nothing.

    Raises:
        DataError: Names the part and what there is.
    """
    for part in parts:
        there = {_value(row, part.column) for row in samples.table} - {"", "bona_fide"}
        if part.value not in there:
            listed = ", ".join(sorted(there)) if there else f"no {part.column} at all"
            raise DataError(f"the {name + ' ' if name else ''}set has no {part}; it has {listed}")


def _chosen(samples: SampleSet, kept: Sequence[int], why: str, name: str) -> SampleSet:
    if {samples.table[i].label for i in kept} != {int(Label.BONA_FIDE), int(Label.ATTACK)}:
        raise DataError(f"the {name + ' ' if name else ''}set {why} has not both bona fide presentations and attacks")
    return samples.subset(kept, why)


def _listed(parts: Sequence[Part]) -> str:
    return ", ".join(str(part) for part in parts)


def _value(row: SampleRow, column: str) -> str:
    return str(row.params.get("camera", "")) if column == "camera" else str(getattr(row, column))
