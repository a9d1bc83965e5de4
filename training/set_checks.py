"""Whether a set on disk may be trained on, or may choose the epoch that is kept: split, classes, depth, people."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Literal, TypeAlias

from fasedge.types import Label
from training.data.batches import usable
from training.data.samples import SampleSet
from training.data.titles import at_odds, title_of
from training.errors import DataError

#: What a set is for.
Purpose: TypeAlias = Literal["train", "dev"]

_CLASSES = {int(Label.BONA_FIDE), int(Label.ATTACK)}
#: Splits with a meaning; sets that were put together by hand may be of others.
_SPLITS = frozenset({"train", "dev", "test"})
_WHY: dict[Purpose, str] = {
    "train": "what has been learnt can neither choose an epoch or a threshold, nor be measured on",
    "dev": "the dev set chooses the epoch that is kept and later the thresholds, which neither training nor test "
    "samples may",
}
_LOG = logging.getLogger("training")


def check_split(name: Purpose, samples: SampleSet) -> None:
    """Refuse to train on a dev or test set, and to choose by a train or test set.

    Args:
        name: What the set is for.
        samples: The set.

    Raises:
        DataError: Names both splits and what to pass instead.
    """
    split = samples.info.split
    if split in _SPLITS and split != name:
        raise DataError(
            f"the set to {'train on' if name == 'train' else 'choose by'} is of the split {split!r}, expected "
            f"{name!r}: {_WHY[name]}; pass the set of that split with --{name}"
        )


def check_classes(name: Purpose, samples: SampleSet, places: Collection[int] | None = None) -> None:
    """Refuse a set without bona fide presentations or without attacks.

    Args:
        name: What the set is for.
        samples: The set.
        places: Which of its samples count; all by default.

    Raises:
        DataError: One class is missing.
    """
    rows = samples.table if places is None else [samples.table[i] for i in places]
    if {row.label for row in rows} != _CLASSES:
        raise DataError(f"the {name} set needs bona fide presentations and attacks, got one class of the two")


def check_people(train: Collection[str], dev: SampleSet) -> None:
    """Refuse a dev set with people whom the network learns from.

    Args:
        train: Everybody in the training samples.
        dev: The dev set.

    Raises:
        DataError: Says how many, and names one.
    """
    shared = set(train) & {row.identity for row in dev.table}
    if shared:
        raise DataError(
            f"{len(shared)} people are in both the train and the dev set, such as {min(shared)!r}; make the sets from "
            "different splits"
        )


def check_protocols(train: SampleSet, dev: SampleSet) -> None:
    """Refuse a dev set of another protocol or fold of the data set that the network learns from.

    Raises:
        DataError: Names both.
    """
    if problem := at_odds({"the train set": title_of(train.info.origin), "the dev set": title_of(dev.info.origin)}):
        raise DataError(f"{problem}; pass the train and the dev set of one preparation")


def check_depth(name: Purpose, samples: SampleSet, *, depth: bool, targets: bool = False) -> None:
    """Refuse a set without depth where depth is needed, and say what it is needed for.

    Args:
        name: What the set is for.
        samples: The set.
        depth: The network looks at depth.
        targets: The network learns to predict depth, and its targets are measured.

    Raises:
        DataError: There is none.
    """
    if depth and not samples.has_depth:
        raise DataError(
            f"the network looks at depth, but the {name} set has none; make it with `simulate --depth`, or from "
            "recordings with depth with `prepare --method cmfl`"
        )
    if targets and not samples.has_depth:
        raise DataError(
            f"the network learns to predict measured depth, but the {name} set has none; take targets that need none "
            '(in [method]: options.depth_target = "ellipsoid", or "rendered" for maps in SET/relief), or make the set '
            "with `simulate --depth`"
        )
    if targets and not samples.has_distances:
        raise DataError(
            f"the network learns to predict measured depth, but that of the {name} set is normalised over each face "
            'and has no unit; take targets that need none (in [method]: options.depth_target = "ellipsoid"), or '
            "prepare the raw recordings"
        )


def checked_places(name: Purpose, samples: SampleSet, *, depth: bool, targets: bool = False) -> list[int]:
    """Places of the samples that can be used, after refusing a set that would fail, or flatter, after the first epoch.

    Args:
        name: What the set is for.
        samples: The set.
        depth: The network looks at depth.
        targets: The network learns to predict depth, and its targets are measured.

    Raises:
        DataError: The set is of another split; or a class is missing, or depth.
    """
    check_split(name, samples)
    check_depth(name, samples, depth=depth, targets=targets)
    places = usable(samples, measured=depth or targets)
    check_classes(name, samples, places)
    if len(places) < len(samples):
        _LOG.warning("%d of %d %s samples have no depth in the face box: left out", len(samples) - len(places),
                     len(samples), name)  # fmt: skip
    return places
