"""What must hold in a model card beyond the types of its fields."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fasedge.errors import CardError, InputError

if TYPE_CHECKING:
    from fasedge.cards import ModelCard, OperatingPoint, Rate, Span

#: What may name a model or a file: it stays in its folder.
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_card(card: ModelCard, origin: str) -> None:
    """Check what the types of a card cannot say.

    Args:
        card: A card that was decoded.
        origin: Where it came from, for the message.

    Raises:
        CardError: A value is impossible, a name leaves the folder, or something stands twice or is missing.
    """
    _check_names(card, origin)
    _check_unique(card, origin)
    for item in card.inputs:
        try:
            item.spec()
        except InputError as error:
            raise CardError(f"{origin}: input {item.name!r}: {error}") from error
    _check_heads(card, origin)
    for point in card.operating_points:
        _check_point(point, origin)
    if card.default_operating_point not in {p.name for p in card.operating_points}:
        raise CardError(f"{origin}: default operating point {card.default_operating_point!r} is not in the list")
    if card.golden.n < 1 or not 0 < card.golden.tolerance < 1:
        raise CardError(f"{origin}: golden vectors need n >= 1 and a tolerance in (0, 1), got {card.golden!r}")


def _check_heads(card: ModelCard, origin: str) -> None:
    """Whatever speaks of an output or an input speaks of one that the model has."""
    outputs, seen = {o.name for o in card.outputs}, {i.modality for i in card.inputs}
    heads = {name for name in outputs if name.startswith("score_")}
    if set(card.calibration.heads) != heads:
        raise CardError(
            f"{origin}: heads {sorted(heads) or 'none'} need a calibration each, there are those of "
            f"{sorted(card.calibration.heads) or 'none'}"
        )
    for name, head in card.calibration.heads.items():
        if not (math.isfinite(head.scale) and head.scale > 0 and math.isfinite(head.bias)):
            raise CardError(f"{origin}: calibration of {name!r} needs scale > 0 and a finite bias, got {head!r}")
    if foreign := sorted({p.output for p in card.parity} - outputs):
        raise CardError(f"{origin}: parity speaks of outputs that the model does not have: {', '.join(foreign)}")
    if foreign := sorted({m for p in card.operating_points for m in p.modalities} - seen):
        raise CardError(f"{origin}: operating points from {', '.join(foreign)}, which is no input of the model")


def _check_point(point: OperatingPoint, origin: str) -> None:
    if not (math.isfinite(point.threshold) and 0 <= point.threshold <= 1):
        raise CardError(f"{origin}: threshold of {point.name!r} must lie in [0, 1], got {point.threshold}")
    for name, rate in _rates_of(point):
        if not _is_possible(rate):
            raise CardError(
                f"{origin}: rate {name!r} of {point.name!r} needs 0 <= low <= value <= high <= 1, the same of the "
                f"interval over people, and 0 <= errors <= n, got {rate!r}"
            )
    # Of species with like rates the largest of a resample is mostly larger than that of the set, so the ACER itself may
    # lie below its interval.
    if point.acer_people is not None and not 0 <= point.acer_people.low <= point.acer_people.high <= 1:
        raise CardError(
            f"{origin}: ACER of {point.name!r} needs an interval with 0 <= low <= high <= 1, got {point.acer_people!r}"
        )
    _check_sources(point, origin)


def _rates_of(point: OperatingPoint) -> Iterator[tuple[str, Rate]]:
    """Every rate of an operating point, by a name for messages."""
    yield from (("bpcer", point.bpcer), *point.apcer.items())
    yield from ((f"bpcer, {source}", rate) for source, rate in point.bpcer_by_source.items())
    for source, rates in point.apcer_by_source.items():
        yield from ((f"{species}, {source}", rate) for species, rate in rates.items())


def _check_sources(point: OperatingPoint, origin: str) -> None:
    """Where there are rates by source, the sources together are all that was measured."""
    if point.bpcer_by_source:
        _check_sum("bpcer", point.bpcer, point.bpcer_by_source.values(), point, origin)
    if point.apcer_by_source:
        sources = point.apcer_by_source.values()
        if foreign := sorted({species for rates in sources for species in rates} - set(point.apcer)):
            raise CardError(f"{origin}: {point.name!r} has {', '.join(foreign)} by source, but no rate of all sources")
        for species, rate in point.apcer.items():
            _check_sum(species, rate, (rates[species] for rates in sources if species in rates), point, origin)


def _check_sum(name: str, whole: Rate, parts: Iterable[Rate], point: OperatingPoint, origin: str) -> None:
    parts = list(parts)
    errors, n = sum(rate.errors for rate in parts), sum(rate.n for rate in parts)
    if (errors, n) != (whole.errors, whole.n):
        raise CardError(
            f"{origin}: sources of {name!r} of {point.name!r} must add up to {whole.errors} errors of {whole.n}, "
            f"they are {errors} of {n}"
        )


def _is_possible(rate: Rate) -> bool:
    spans: tuple[Rate | Span, ...] = (rate,) if rate.people is None else (rate, rate.people)
    counted = 0 <= rate.errors <= rate.n and rate.n > 0
    return counted and 0 <= rate.value <= 1 and all(_holds(span, rate.value) for span in spans)


def _holds(span: Rate | Span, value: float) -> bool:
    slack = 1e-9  # interval formulas end a rounding error beyond the value at 0 and at n errors
    return -slack <= span.low <= value + slack and value - slack <= span.high <= 1 + slack


def _check_names(card: ModelCard, origin: str) -> None:
    """File names stay beside the card, hashes are hashes, and no file is loaded without one."""
    if not PLAIN_NAME.fullmatch(card.id):
        raise CardError(f"{origin}: id must be a plain name (letters, digits, '.', '_', '-'), got {card.id!r}")
    for name, digest in _files_of(card):
        if not PLAIN_NAME.fullmatch(name):
            raise CardError(f"{origin}: file names must be plain names beside the card, got {name!r}")
        if not _SHA256.fullmatch(digest):
            raise CardError(f"{origin}: sha256 of {name!r} must be 64 lower-case hexadecimal digits, got {digest!r}")
    for item in card.files:
        # OpenVINO opens the weights beside the .xml on its own: without a hash they would be loaded unchecked.
        weights = Path(item.path).with_suffix(".bin").name
        if item.path.endswith(".xml") and weights not in item.companions:
            raise CardError(f"{origin}: {item.path!r} needs {weights!r} with its sha256 among its companions")


def _check_unique(card: ModelCard, origin: str) -> None:
    keys: dict[str, list[object]] = {
        "input": [i.name for i in card.inputs],
        "output": [o.name for o in card.outputs],
        "file": [(f.engine, f.precision) for f in card.files],
        "operating point": [(p.name, p.precision, p.modalities) for p in card.operating_points],
    }
    for kind, values in keys.items():
        if not values:
            raise CardError(f"{origin}: a card needs at least one {kind}")
        twice = sorted({str(v) for v in values if values.count(v) > 1})
        if twice:
            raise CardError(f"{origin}: each {kind} may stand once, these stand twice: {', '.join(twice)}")


def _files_of(card: ModelCard) -> list[tuple[str, str]]:
    named = [(card.golden.path, card.golden.sha256)]
    for item in card.files:
        named += [(item.path, item.sha256), *item.companions.items()]
    return named
