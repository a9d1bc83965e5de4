"""Clips as files: the frames of a sequence, deterministic, resumed, refused when damaged."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from training.__main__ import app
from training.data.clips import CLIP, CLIPS, ClipRow, make_clips, read_clips
from training.data.samples import SampleSet
from training.data.work import make_simulator
from training.errors import DataError

N, SEED = 3, 5


def make(pack: Path, out: Path, *, n: int = N, workers: int = 1, depth: bool = False) -> Generator[tuple[int, int]]:
    yield from make_clips(
        pack, out, "dev", n, seed=SEED, seconds=0.3, fps=10, workers=workers, depth=depth, picture_px=128
    )


@pytest.fixture(scope="module")
def whole(face_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips") / "whole"
    assert list(make(face_pack, folder, depth=True)) == [(1, N), (2, N), (3, N)]
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_frames_are_those_of_the_clip_with_their_boxes_times_and_maps(whole: Path, face_pack: Path) -> None:
    simulator = make_simulator(face_pack, whole.parent, "dev", SEED, depth=True, picture_px=128)
    rows = read_clips(whole)
    assert [row.index for row in rows] == [0, 1, 2]
    for row in rows:
        clip, folder = simulator.clip(row.index, 0.3, 10), whole / row.folder
        frames = np.stack([cv2.imread(str(folder / f"{k:03d}.png"))[..., ::-1] for k in range(3)])  # type: ignore[index]
        np.testing.assert_array_equal(frames, clip.frames)
        maps = np.stack([cv2.imread(str(folder / f"{k:03d}.depth.png"), cv2.IMREAD_UNCHANGED) for k in range(3)])  # type: ignore[misc]
        assert clip.depth_mm is not None
        np.testing.assert_array_equal(maps, clip.depth_mm)
        np.testing.assert_allclose(row.boxes_xyxy, clip.boxes_xyxy, atol=1e-3)
        assert row.timestamps_s == pytest.approx([0, 0.1, 0.2])
        assert (row.label, row.species, row.subtype) == (clip.label, clip.species, clip.subtype)
        assert row.identity == simulator.pictures[clip.source].identity
        assert row.params == clip.params
        assert {name: len(track) for name, track in row.tracks.items()} == dict.fromkeys(clip.tracks, 3)
        assert msgspec.json.decode((folder / CLIP).read_bytes(), type=ClipRow) == row


def test_an_interrupted_set_keeps_its_clips_and_ends_with_the_same_files(
    face_pack: Path, tmp_path: Path, whole: Path
) -> None:
    out = tmp_path / "set"
    steps = make(face_pack, out, depth=True)
    assert next(steps) == (1, N)
    steps.close()
    first = (out / "000000" / CLIP).stat().st_mtime_ns
    assert not (out / CLIPS).exists()
    # What a kill leaves of the next one.
    (out / "000001.partial").mkdir()
    (out / "000001.partial" / "000.png").write_bytes(b"half")
    assert list(make(face_pack, out, depth=True))[-1] == (N, N)
    assert (out / "000000" / CLIP).stat().st_mtime_ns == first
    assert files(out) == files(whole)
    assert list(make(face_pack, out, depth=True)) == []


def test_workers_make_the_same_clips(face_pack: Path, tmp_path: Path, whole: Path) -> None:
    list(make(face_pack, tmp_path / "set", workers=2, depth=True))
    assert files(tmp_path / "set") == files(whole)


def test_another_set_in_the_folder_is_refused_and_a_damaged_clip_named(face_pack: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    next(make(face_pack, out))
    with pytest.raises(DataError, match="holds another set"):
        list(make(face_pack, out, n=4))
    (out / "000000" / CLIP).write_bytes(b"{")
    with pytest.raises(DataError, match="000000 is a damaged clip"):
        list(make(face_pack, out))
    with pytest.raises(DataError, match="no finished set of clips"):
        read_clips(out)


def test_files_of_somebody_else_are_not_overwritten(face_pack: Path, tmp_path: Path) -> None:
    (tmp_path / "000001").mkdir()
    with pytest.raises(DataError, match="holds 000001 but no"):
        list(make(face_pack, tmp_path))


@pytest.mark.parametrize(("seconds", "fps"), [(0, 10), (1, 0), (1000, 30)])
def test_impossible_lengths_claim_no_folder(face_pack: Path, tmp_path: Path, seconds: float, fps: float) -> None:
    with pytest.raises(DataError, match="a clip needs"):
        list(make_clips(face_pack, tmp_path / "set", "dev", 1, seed=1, seconds=seconds, fps=fps))
    assert not (tmp_path / "set").exists()


def test_clips_are_no_samples(whole: Path) -> None:
    with pytest.raises(DataError, match="is a set of clips"):
        SampleSet.load(whole)


def test_the_command_makes_a_set_and_says_when_it_is_there(face_pack: Path, tmp_path: Path) -> None:
    arguments = ["simulate-clips", str(tmp_path / "set"), "--split", "dev", "-n", "1", "--seconds", "0.2", "--fps", "5"]
    arguments += ["--data", str(face_pack), "--picture-px", "128", "--workers", "1"]
    first, second = (CliRunner().invoke(app, arguments) for _ in range(2))
    assert first.exit_code == second.exit_code == 0, first.output + second.output
    assert (tmp_path / "set" / "000000" / "000.png").is_file()
    assert "is there already, with all its 1 clips" in " ".join(second.output.split())
