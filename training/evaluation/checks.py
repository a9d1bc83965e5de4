"""Whether two sets may be evaluated together; everything that would make the figures flatter is refused."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from fasedge.types import Label
from training.checkpoint import JsonValue
from training.data.parts import Dropped
from training.data.preparing import DROPPED
from training.data.protocols.record import BONA_FIDE
from training.data.samples import SampleSet
from training.data.titles import at_odds, title_of
from training.errors import DataError
from training.evaluation.document import SetRecord
from training.evaluation.tables import has_videos, video_of
from training.runlog import fingerprint
from training.tasks import Needs


class Override(enum.StrEnum):
    """Checks that can be switched off; ``metrics.json`` and the report say that they were."""

    SHARED_SUBJECTS = "shared-subjects"
    OTHER_CROPS = "other-crops"
    OTHER_PROTOCOL = "other-protocol"


def check_sets(
    dev: tuple[SetRecord, SampleSet],
    test: tuple[SetRecord, SampleSet],
    needs: Needs,
    allow: Collection[Override] = (),
    trained_on: Mapping[str, Mapping[str, JsonValue]] | None = None,
    *,
    people: Collection[str] = (),
) -> dict[str, str]:
    """Check a pair of sets.

    Args:
        dev: Where thresholds come from.
        test: What is measured.
        needs: What the network looks at.
        allow: Checks that may fail.
        trained_on: Descriptions of the sets of the training.
        people: Everybody in the training samples, as :func:`training.runlog.fingerprint` writes them; empty where it
            is not known, and nothing can be checked.

    Returns:
        What was found by checks that were allowed to fail.

    Raises:
        DataError: Another split, a class or species that is missing, no depth where it is needed, pictures of different
            size; or crops of different rules, different protocols of one data set, or people in both sets or in one and
            in the training, unless that is allowed.
    """
    for record, samples in (dev, test):
        _check_one(record, samples, needs)
    _check_splits(dev[0], test[0])
    found: dict[Override, str] = {}
    if problem := _crops(dev, test, trained_on or {}):
        found[Override.OTHER_CROPS] = problem
    if problem := _protocols(dev[0], test[0], trained_on or {}):
        found[Override.OTHER_PROTOCOL] = problem
    problems = [_shared(dev[1], test[1]), *(_learnt(record.split, samples, people) for record, samples in (test, dev))]
    if problem := "; ".join(problem for problem in problems if problem):
        found[Override.SHARED_SUBJECTS] = problem
    for override, problem in found.items():
        if override not in allow:
            raise DataError(f"{problem}; --allow {override.value} goes on all the same, and the report will say so")
    return {override.value: problem for override, problem in found.items()}


def describe_set(folder: Path, samples: SampleSet) -> SetRecord:
    """What a set is, for the record.

    Raises:
        DataError: Some samples name a video and some do not, or the list of dropped frames is damaged.
    """
    info = samples.info
    videos = {video_of(row) for row in samples.table} if has_videos(samples.table) else set()
    return SetRecord(
        folder=str(folder), split=info.split, n=len(samples), n_videos=len(videos), origin=info.origin, seed=info.seed,
        depth=samples.has_depth, dropped=_dropped(folder / DROPPED), chosen=info.chosen,
    )  # fmt: skip


def _dropped(path: Path) -> dict[str, int]:
    if not path.is_file():
        return {}
    try:
        lines = [msgspec.json.decode(line, type=Dropped) for line in path.read_bytes().splitlines()]
    except (OSError, msgspec.MsgspecError) as error:
        raise DataError(f"{path} cannot be read ({error}); prepare the set again") from error
    kinds = (
        f"{'bona fide' if line.label == Label.BONA_FIDE else 'attack'} "
        f"{'recordings' if line.frame < 0 else 'frames'}: {line.reason}"
        for line in lines
    )
    return dict(sorted(Counter(kinds).items()))


def _check_one(record: SetRecord, samples: SampleSet, needs: Needs) -> None:
    where = f"the {record.split} set {record.folder}"
    counts = Counter(row.label for row in samples.table)
    bona_fide, attacks = counts[int(Label.BONA_FIDE)], counts[int(Label.ATTACK)]
    if not bona_fide or not attacks:
        raise DataError(f"{where} needs bona fide samples and attacks, got {bona_fide} and {attacks}")
    for row in samples.table:
        attack = row.label == Label.ATTACK
        if attack and (not row.species.strip() or row.species == BONA_FIDE):
            raise DataError(
                f"{where}: sample {row.index} is an attack without species, got {row.species!r}; the largest APCER "
                "over species is undefined; name it in table.jsonl, or prepare the set again with a column `species`"
            )
        if not attack and row.species != BONA_FIDE:
            raise DataError(f"{where}: sample {row.index} is bona fide, but of the species {row.species!r}")
    if needs.depth and not samples.has_depth:
        raise DataError(
            f"{where} has no depth, which the network looks at; make it with `simulate --depth`, or prepare it with "
            "--method cmfl"
        )


def _check_splits(dev: SetRecord, test: SetRecord) -> None:
    if dev.split != "dev":
        raise DataError(f"thresholds are chosen on a dev set, but {dev.folder} is of the split {dev.split!r}")
    if test.split != "test":
        raise DataError(
            f"rates are measured on a test set, but {test.folder} is of the split {test.split!r}: figures from what "
            "has trained the network or chosen its thresholds flatter"
        )


def _crops(
    dev: tuple[SetRecord, SampleSet],
    test: tuple[SetRecord, SampleSet],
    trained_on: Mapping[str, Mapping[str, JsonValue]],
) -> str:
    """What is different about the crops; empty if nothing is."""
    sides = [samples.picture(0).shape[0] for _, samples in (dev, test)]
    if sides[0] != sides[1]:
        return (
            f"the dev set has pictures of {sides[0]} px and the test set of {sides[1]} px: a threshold chosen on the "
            "one says little about the other; prepare both in the same way"
        )
    if dev[0].depth != test[0].depth:
        has, lacks = ("dev", "test") if dev[0].depth else ("test", "dev")
        return f"the {has} set has depth and the {lacks} set has none; prepare both in the same way"
    rules = {"dev": dev[0].rule, "test": test[0].rule}
    origin = str(trained_on.get("train", {}).get("origin") or "")
    rules["train"] = origin.split("; ")[1] if origin.count("; ") == 2 else ""
    if len({rule for rule in rules.values() if rule}) > 1:
        told = ", ".join(f"{name} {rule}" for name, rule in rules.items() if rule)
        return f"faces were cut out by different rules ({told}); prepare all sets with one --method"
    return ""


def _protocols(dev: SetRecord, test: SetRecord, trained_on: Mapping[str, Mapping[str, JsonValue]]) -> str:
    """Whether one data set is used by two protocols or folds; empty if not."""
    uses = {"train": "the training", "dev": "the dev set of the training"}
    titles = {uses[name]: title_of(str(about.get("origin") or "")) for name, about in trained_on.items()}
    return at_odds({**titles, "dev": dev.title, "test": test.title})


def _shared(dev: SampleSet, test: SampleSet) -> str:
    shared = {row.identity for row in dev.table} & {row.identity for row in test.table}
    if not shared:
        return ""
    return (
        f"{len(shared)} people are in both the dev and the test set, such as {min(shared)!r}: rates at thresholds "
        "chosen on the same people flatter"
    )


def _learnt(split: str, samples: SampleSet, people: Collection[str]) -> str:
    """Whom of a set the network has learnt from; empty if nobody, or if it is not known."""
    known = frozenset(people)
    shared = {row.identity for row in samples.table if fingerprint(row.identity) in known} if known else set()
    if not shared:
        return ""
    why = "rates on people whom the network knows" if split == "test" else "thresholds chosen on people whom it knows"
    return f"{len(shared)} people of the training are in the {split} set, such as {min(shared)!r}: {why} flatter"
