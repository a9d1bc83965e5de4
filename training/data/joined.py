"""Several sample sets as one, without copying their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import msgspec

from training.data.frames import Stacked
from training.data.samples import SampleSet
from training.errors import DataError


def joined(parts: Sequence[SampleSet], *, depth: bool = True) -> SampleSet:
    """Put sets together, such as close and wide pictures of the same people.

    Args:
        parts: Sets of one split and origin, with pictures of one size, all with depth or none. Depth maps that were
            rendered afterwards (:mod:`training.data.relief`) are left behind.
        depth: Keep depth. Without it sets with and without may be joined.

    Returns:
        The set itself if it is the only one. Otherwise a set whose description is that of the first with the number of
        all samples, and in ``chosen`` what the others are; its ``canvas_scale`` is the smallest. Numbers of samples
        (``index``) are those of their own sets, and may repeat.

    Raises:
        DataError: There is nothing to join, or the sets do not fit each other.
    """
    if not parts:
        raise DataError("there is no sample set to join")
    if len(parts) == 1:
        return parts[0]
    infos = [part.info for part in parts]
    same: dict[str, set[object]] = {
        "split": {info.split for info in infos},
        "origin, simulated or recorded": {info.origin for info in infos},
        "side of the pictures": {part.arrays().pictures.shape[1] for part in parts},
    }
    if depth:
        same["answer to whether there is depth"] = {part.has_depth for part in parts}
        same["unit of depth"] = {info.depth_unit for info in infos}
    for what, values in same.items():
        if len(values) > 1:
            raise DataError(f"sets that are joined need one {what}, got {sorted(values, key=str)}")
    arrays = [part.arrays() for part in parts]
    starts = accumulate((len(part.pictures) for part in arrays), initial=0)
    places = [start + place for start, part in zip(starts, arrays, strict=False) for place in part.places]
    maps = [part.depth_mm for part in arrays if depth and part.depth_mm is not None]
    more = ", ".join(
        f"{i.n} of seed {i.seed} at canvas scale {i.canvas_scale:g}{f' ({i.chosen})' * bool(i.chosen)}" for i in infos
    )
    info = msgspec.structs.replace(
        infos[0],
        n=sum(info.n for info in infos),
        depth=bool(maps),
        canvas_scale=min(info.canvas_scale for info in infos),
        chosen=f"joined: {more}",
    )
    table = [row for part in parts for row in part.table]
    pictures = Stacked([part.pictures for part in arrays])
    return SampleSet(pictures, table, info, Stacked(maps) if maps else None, places=places)
