"""Several sets as one."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from fasedge.preprocess import InputSpec
from training.data.joined import joined
from training.data.samples import SampleRow, SampleSet, SetInfo
from training.data.subsets import parse, without
from training.errors import DataError

SIDE, SPEC = 32, InputSpec(size_px=16, crop_scale=1.0)


def part(
    n: int, first: int, *, split: str = "train", side: int = SIDE, depth: bool = False, origin: str = ""
) -> SampleSet:
    """Pictures of one grey each: ``first``, ``first + 1``, …; depth ten times that."""
    grey = np.arange(first, first + n)
    pictures = np.broadcast_to(grey[:, None, None, None], (n, side, side, 3)).astype(np.uint8)
    table = [
        SampleRow(
            index=i,
            box_xyxy=(4.0, 4.0, 28.0, 28.0),
            label=i % 2,
            species="bona_fide" if i % 2 else ("print" if i % 4 else "mask"),
            subtype="",
            source="a",
            identity=f"p{first + i}",
            picture="",
            split=split,
            params={},
        )
        for i in range(n)
    ]
    maps = np.broadcast_to(10 * grey[:, None, None], (n, side, side)).astype(np.uint16) if depth else None
    return SampleSet(
        pictures, table, SetInfo(split=split, seed=first, n=n, canvas_scale=2.0 + first / 100, origin=origin), maps
    )


def greys(samples: SampleSet) -> list[int]:
    return samples.crops(range(len(samples)), SPEC)[:, 8, 8, 0].tolist()


def test_samples_lie_one_set_after_the_other_with_their_rows_and_depth() -> None:
    both = joined([part(4, 10, depth=True), part(3, 60, depth=True)])
    assert greys(both) == [10, 11, 12, 13, 60, 61, 62]
    assert both.labels.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert [row.identity for row in both.table] == ["p10", "p11", "p12", "p13", "p60", "p61", "p62"]
    assert both.has_depth
    assert (both.depth_mm(4)[0, 0], both.picture(3)[0, 0, 0]) == (600, 13)


def test_sets_with_and_without_depth_are_joined_where_depth_is_left_behind() -> None:
    parts = [part(4, 10, depth=True), part(3, 60)]
    both = joined(parts, depth=False)
    assert (len(both), both.has_depth, both.info.depth) == (7, False, False)
    with pytest.raises(DataError, match=r"one answer to whether there is depth, got \[False, True\]"):
        joined(parts)


def test_subsets_can_be_joined_and_a_joined_set_has_subsets() -> None:
    fewer = without(part(8, 10), parse(["species=mask"]))
    both = joined([fewer, part(2, 60)])
    assert greys(both) == [11, 12, 13, 15, 16, 17, 60, 61] == greys(joined([joined([fewer, part(2, 60)])]))
    assert greys(both.subset([7, 0], "two")) == [61, 11]
    assert greys(joined([both.subset([7, 0], "two"), part(1, 90)])) == [61, 11, 90]


def test_the_description_tells_what_was_joined() -> None:
    info = joined([part(4, 10), part(2, 60)]).info
    assert (info.n, info.split, info.seed, info.canvas_scale) == (6, "train", 10, 2.1)
    assert info.chosen == "joined: 4 of seed 10 at canvas scale 2.1, 2 of seed 60 at canvas scale 2.6"
    alone = part(4, 10)
    assert joined([alone]) is alone


def test_sets_on_disk_are_joined_without_copying(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    for folder, samples in zip(folders, (part(2, 10), part(2, 60)), strict=True):
        folder.mkdir()
        np.save(folder / "pictures.npy", np.stack([samples.picture(i) for i in range(2)]))
        (folder / "table.jsonl").write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in samples.table))
        (folder / "set.json").write_bytes(msgspec.json.encode(samples.info))
    loaded = [SampleSet.load(folder) for folder in folders]
    both = joined(loaded)
    assert greys(both) == [10, 11, 60, 61]
    assert np.shares_memory(both.picture(2), loaded[1].arrays().pictures[0])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (part(2, 60, split="dev"), "one split"),
        (part(2, 60, side=48), "one side of the pictures"),
        (part(2, 60, depth=True), "whether there is depth"),
        (part(2, 60, origin="oulu"), "one origin"),
    ],
)
def test_sets_that_do_not_fit_each_other_are_refused(other: SampleSet, message: str) -> None:
    with pytest.raises(DataError, match=message):
        joined([part(2, 10), other])
    with pytest.raises(DataError, match="no sample set"):
        joined([])


def test_a_place_outside_is_an_error_and_not_another_picture() -> None:
    pictures = joined([part(2, 10), part(2, 60)]).arrays().pictures
    assert len(pictures) == 4 == pictures.shape[0]
    for place in (-1, 4):
        with pytest.raises(IndexError):
            pictures[place]
