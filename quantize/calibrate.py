"""Which pictures the INT8 grid is fitted on: balanced, and from the train split only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from fasedge.preprocess import InputSpec
from fasedge.types import Label, UInt8Array
from quantize.errors import CalibrationDataError
from quantize.pictures import pictures
from training.data.samples import SampleSet

#: Crops that are enough for min-max ranges of a small network; more changed no range noticeably.
DEFAULT_CROPS = 256
_TRAIN = "train"
_KEYS = ("label", "species", "source")


class CalibrationRow(Protocol):
    """What has to be known about a sample."""

    @property
    def label(self) -> int:
        """1 bona fide, 0 attack."""
        ...

    @property
    def species(self) -> str:
        """PAI species; of bona fide samples any constant."""
        ...

    @property
    def source(self) -> str:
        """Where the picture comes from."""
        ...

    @property
    def split(self) -> str:
        """``train``, ``dev`` or ``test``."""
        ...


def choose_samples(table: Sequence[CalibrationRow], n: int = DEFAULT_CROPS, *, seed: int = 0) -> list[int]:
    """Choose samples so that classes, then species within a class, then sources within a species weigh the same.

    A group with too few samples gives all it has and leaves the rest to the others of its kind.

    Args:
        table: Rows of a sample set.
        n: How many, >= 2.
        seed: Of the draw within the groups.

    Returns:
        ``min(n, len(table))`` positions in the table, each once, in random order.

    Raises:
        CalibrationDataError: The table is empty, lacks a class, or holds rows of another split than train.
    """
    if n < 2:
        raise CalibrationDataError(f"calibration needs at least 2 samples (one of each class), asked for {n}")
    if not table:
        raise CalibrationDataError("the sample set for calibration is empty; make one of the train split")
    foreign = sorted({row.split for row in table} - {_TRAIN})
    if foreign:
        count = sum(row.split != _TRAIN for row in table)
        raise CalibrationDataError(
            f"calibration may look at the train split only; {count} of {len(table)} samples are of "
            f"{', '.join(foreign)}. Ranges fitted on them would leak into what is reported about them"
        )
    present = {int(row.label) for row in table}
    if present != {int(Label.ATTACK), int(Label.BONA_FIDE)}:
        raise CalibrationDataError(f"calibration needs attacks (0) and bona fide samples (1), found labels {present}")
    rng = np.random.default_rng(seed)
    chosen = _draw(table, list(range(len(table))), _KEYS, min(n, len(table)), rng)
    return [chosen[i] for i in rng.permutation(len(chosen))]


def _draw(
    table: Sequence[CalibrationRow], members: list[int], keys: tuple[str, ...], n: int, rng: np.random.Generator
) -> list[int]:
    if not keys:
        return [members[i] for i in rng.permutation(len(members))[:n]]
    groups: dict[str, list[int]] = {}
    for index in members:
        groups.setdefault(str(getattr(table[index], keys[0])), []).append(index)
    chosen: list[int] = []
    # Smallest groups first: what they cannot give is shared by the ones after them.
    ordered = sorted(groups.items(), key=lambda item: (len(item[1]), item[0]))
    for done, (_, group) in enumerate(ordered):
        share = -(-(n - len(chosen)) // (len(ordered) - done))
        chosen += _draw(table, group, keys[1:], min(share, len(group), n - len(chosen)), rng)
    return chosen


def calibration_crops(
    samples: SampleSet, spec: InputSpec, n: int = DEFAULT_CROPS, *, seed: int = 0, depth: bool = False
) -> UInt8Array:
    """Pictures for :func:`quantize.fitting.fit_grid`.

    Args:
        samples: A sample set of the train split.
        spec: The network's input.
        n: How many.
        seed: Of the draw.
        depth: Whether the network looks at depth.

    Returns:
        uint8 (n, S, S, C), see :func:`quantize.pictures.pictures`.

    Raises:
        CalibrationDataError: As for :func:`choose_samples`, or the crops are of the wrong shape.
    """
    indices = choose_samples(samples.table, n, seed=seed)
    crops = pictures(samples, indices, spec, depth=depth)
    wanted = (len(indices), spec.size_px, spec.size_px, 4 if depth else 3)
    if crops.dtype != np.uint8 or crops.shape != wanted:
        raise CalibrationDataError(f"expected calibration crops as uint8 {wanted}, got {crops.dtype} {crops.shape}")
    return crops
