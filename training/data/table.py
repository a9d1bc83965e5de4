"""Rows and descriptions of sample sets: what stands beside every simulated picture, on disk or in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from training.errors import DataError

#: Description of a set, in its folder.
INFO = "set.json"
#: The other files of a set of arrays.
TABLE, PICTURES, DEPTH = "table.jsonl", "pictures.npy", "depth.npy"


class SampleRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``table.jsonl``, and the JSON beside every picture of a shard.

    Attributes:
        index: Number of the sample under the set's seed.
        box_xyxy: Face box in the picture, pixels.
        label: 1 bona fide, 0 attack.
        species: PAI species, or ``bona_fide``.
        subtype: Kind of medium, or ``bona_fide``.
        source: Collection of the face picture.
        identity: Who is shown.
        picture: The face picture's name in the pack.
        split: ``train``, ``dev`` or ``test``.
        params: Everything that was drawn.
    """

    index: int
    box_xyxy: tuple[float, float, float, float]
    label: int
    species: str
    subtype: str
    source: str
    identity: str
    picture: str
    split: str
    params: dict[str, float | int | str]


#: Version of what the simulator makes: another one for the same seed is another picture.
SIMULATOR_VERSION = 6


class SetInfo(msgspec.Struct, frozen=True, kw_only=True):
    """``set.json``: what a set is made from.

    Attributes:
        split: Which identities.
        seed: Seed of the set.
        n: Number of samples.
        depth: Whether every picture has a depth map.
        format: ``npy`` (arrays and a table) or ``webdataset`` (shards).
        version: Version of the simulator's output; says nothing of recordings.
        picture_px: Side of the pictures.
        canvas_scale: Side of the pictures over the side of the face box; 2.0 in sets that do not say, also in prepared
            ones, whose pictures are the crops themselves unless they were prepared with ``--scale``.
        origin: What recordings were prepared, and how; empty for simulated samples.
        chosen: Which samples of a larger set these are, e.g. ``without species=mask``; empty for whole sets.
        depth_unit: ``mm``, or ``bytes``: normalised over each face by whoever prepared the recordings, without a unit.
    """

    split: str
    seed: int
    n: int
    depth: bool = False
    format: str = "npy"
    version: int = SIMULATOR_VERSION
    picture_px: int = 192
    canvas_scale: float = 2.0
    origin: str = ""
    chosen: str = ""
    depth_unit: Literal["mm", "bytes"] = "mm"


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds no set, and say what to name instead: often it holds the sets of the splits.

    Args:
        folder: Where a set is looked for.

    Raises:
        DataError: There is no such folder, or no description of a set in it.
    """
    if (folder / INFO).is_file():
        return
    if not folder.is_dir():
        raise DataError(
            f"{folder}: there is no such folder; name a sample set that `simulate` made, or one of train, dev and test "
            "in the folder of `prepare`"
        )
    within = [str(folder / name) for name in ("train", "dev", "test") if (folder / name / INFO).is_file()]
    cure = (
        f"it holds sample sets, so name one of them: {', '.join(within)}"
        if within
        else "name the folder of a set that `simulate` or `prepare` made; one whose making was interrupted is finished "
        "by running that again"
    )
    raise DataError(f"{folder} is not a sample set (it has no {INFO}); {cure}")
