"""Recordings in HDF5: WMCA raw and preprocessed, HQ-WMCA. Drawn content, real names and shapes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fasedge.testing import FakeFaceFinder, synthetic_face
from fasedge.types import Label
from tests.training.fixtures.hdf5_recordings import (
    bgr_frames,
    write_preprocessed_wmca,
    write_raw_wmca,
    write_streams,
    write_warps,
)
from training.data.align import CropRule
from training.data.parts import make_part
from training.data.presentations import check_readable, read_frames
from training.data.protocols import Record
from training.errors import DataError

RGBD = CropRule("test", "box", 64, 1.0, 3, 20, depth=True)
FACE = synthetic_face((80, 60), 60)


def record(path: Path, reader: str, **changes: object) -> Record:
    fields: dict[str, object] = {
        "dataset": "wmca", "split": "train", "subject": "1", "video_id": path.stem, "label": Label.BONA_FIDE,
        "pai_species": "bona_fide", "pai_subtype": "bona_fide", "rgb": path, "depth": path, "reader": reader,
    }  # fmt: skip
    return Record(**(fields | changes))  # type: ignore[arg-type]


@pytest.fixture
def h5py() -> Any:
    return pytest.importorskip("h5py", reason="h5py is not installed")


def test_without_h5py_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match="pip install h5py"):
        next(read_frames(record(tmp_path / "a.h5", "bob_hdf5"), 1, depth=True))


@pytest.mark.usefixtures("h5py")
def test_raw_wmca_registers_depth_with_the_warp_of_the_day_and_pairs_frames_by_time(tmp_path: Path) -> None:
    path = tmp_path / "530_03_001_0_0.h5"
    colour, depth = bgr_frames(), np.zeros((8, 60, 80), np.uint16)
    depth[:] = (np.arange(8) * 100 + 1000)[:, None, None]
    write_raw_wmca(path, colour, depth, ([0.0, 1.0, 2.0, 3.0], [k * 0.5 + 0.1 for k in range(8)]))
    write_warps(tmp_path / "depth_warp.json", "20.03.18")
    tags = (("day", "20.03.18"), ("warp", str(tmp_path / "depth_warp.json")))
    found = list(read_frames(record(path, "wmca_h5", tags=tags), 2, depth=True))
    assert [item.index for item in found] == [1, 3]
    # The second frame is of second 1.0; the depth nearest in time is number 2 (second 1.1).
    first = found[0].frame
    assert first is not None
    assert first.depth_mm is not None
    assert first.depth_mm.shape == (120, 160)
    assert first.depth_mm[60, 80] == 1200
    np.testing.assert_array_equal(first.rgb, colour[1][..., ::-1])
    other = (("day", "21.03.18"), tags[1])
    with pytest.raises(DataError, match=r"no warp for the day 21\.03\.18"):
        list(read_frames(record(path, "wmca_h5", tags=other), 2, depth=True))


@pytest.mark.usefixtures("h5py")
def test_preprocessed_wmca_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "530_03_001_0_0.hdf5"
    rng = np.random.default_rng(0)
    arrays = {k: rng.integers(1, 256, (4, 64, 64), dtype=np.uint8) for k in (0, 2, 10)}
    write_preprocessed_wmca(path, arrays)
    part = make_part(record(path, "bob_hdf5"), RGBD, FakeFaceFinder())
    assert [row.params["frame"] for row in part.rows] == [0, 2, 10]
    np.testing.assert_array_equal(part.pictures[2], np.moveaxis(arrays[10][:3], 0, 2))
    np.testing.assert_array_equal(part.depth_mm[2], arrays[10][3])
    # The normalisation of methods, 255 (d - median + 3 spread) / (6 spread), leaves the bytes as they are.
    median, spread = (float(part.rows[0].params[name]) for name in ("depth_median_mm", "depth_spread_mm"))
    d = np.arange(256)
    np.testing.assert_allclose(255 * (d - median + 3 * spread) / (6 * spread), d)


@pytest.mark.usefixtures("h5py")
def test_hq_wmca_reads_the_streams_that_the_user_names(tmp_path: Path) -> None:
    path = tmp_path / "1_01_10_00_0_0_0-a.h5"
    near, small = np.full((4, 120, 160), 700, np.uint16), np.full((4, 12, 16), 700, np.uint16)
    write_streams(path, {"BASLER_BGR": np.moveaxis(bgr_frames(), 3, 1), "D": near, "SMALL": small})
    tags = (("rgb_stream", "BASLER_BGR"), ("depth_stream", "D"))
    part = make_part(record(path, "hq_wmca_h5", tags=tags), RGBD, FakeFaceFinder((FACE,)))
    assert len(part.rows) == 3
    assert set(np.unique(part.depth_mm[0]).tolist()) == {700}
    for streams, message in (
        (("BASLER_BGR", "SMALL"), "registered to colour"),
        (("BASLER_BGR", "DEPTH"), "has no DEPTH; it holds BASLER_BGR, D, SMALL"),
        (("D", "D"), "must have 4 dimensions"),
    ):
        named = tuple(zip(("rgb_stream", "depth_stream"), streams, strict=True))
        dropped = make_part(record(path, "hq_wmca_h5", tags=named), RGBD, FakeFaceFinder((FACE,))).dropped
        assert message in dropped[0].detail


def test_files_that_are_no_hdf5_or_hold_something_else_are_named(h5py: Any, tmp_path: Path) -> None:
    bad, empty = tmp_path / "1.h5", tmp_path / "2.h5"
    bad.write_bytes(b"not HDF5")
    with h5py.File(empty, "w") as file:
        file.create_group("Frame_0").create_dataset("array", data=np.zeros((5, 8, 8), np.uint8))
    assert "not a readable recording" in check_readable(record(bad, "bob_hdf5"))
    assert "must be uint8 (3 or 4, S, S)" in check_readable(record(empty, "bob_hdf5"))
    assert "has no intelsr300_bgr" in check_readable(record(empty, "wmca_h5"))
