"""Sets of samples on disk: interrupted, resumed, refused, and cut into network inputs."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fasedge.preprocess import InputSpec, crop_face
from fasedge.types import Box
from tests.training.fixtures.toy_sets import toy_row, toy_set
from training.data import making as module
from training.data import samples as samples_module
from training.data.making import make_set
from training.data.samples import CropJitter, SampleSet, SetInfo, jittered
from training.data.work import make_simulator
from training.errors import DataError

N, SEED = 10, 5


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of four, so that ten samples can be interrupted."""
    monkeypatch.setattr(module, "_CHUNK", 4)


def make(pack: Path, out: Path, *, n: int = N, seed: int = SEED, workers: int | None = 1) -> Iterator[tuple[int, int]]:
    return make_set(pack, out, "dev", n, seed=seed, workers=workers)


@pytest.fixture(scope="module")
def whole(face_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted set."""
    folder = tmp_path_factory.mktemp("sets") / "whole"
    assert list(make_set(face_pack, folder, "dev", N, seed=SEED, workers=1))[-1] == (N, N)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_set_holds_what_the_simulator_draws_and_says_who_is_shown(whole: Path, face_pack: Path) -> None:
    found = SampleSet.load(whole)
    simulator = make_simulator(face_pack, whole.parent, "dev", SEED)
    assert (len(found), found.info) == (N, SetInfo(split="dev", seed=SEED, n=N))
    for i in (0, 9):
        sample, row = simulator.samples([i])[0], found.table[i]
        np.testing.assert_array_equal(found.picture(i), sample.picture)
        assert row.box_xyxy == pytest.approx(sample.box_xyxy, abs=1e-3)
        shown = simulator.pictures[sample.source]
        assert (row.index, row.identity, row.picture) == (i, shown.identity, shown.key)
        assert row.params == sample.params
    assert found.labels.tolist() == [row.label for row in found.table]


def test_sets_of_different_splits_share_no_person(face_pack: Path, tmp_path: Path, whole: Path) -> None:
    list(make_set(face_pack, tmp_path / "train", "train", N, seed=SEED, workers=1))
    people = [{row.identity for row in SampleSet.load(f).table} for f in (whole, tmp_path / "train")]
    assert all(people)
    assert not people[0] & people[1]


@pytest.mark.parametrize("chunks", [1, 2])
def test_an_interrupted_set_goes_on_to_the_same_bytes(
    face_pack: Path, tmp_path: Path, whole: Path, chunks: int
) -> None:
    run = make(face_pack, tmp_path / "set")
    for k in range(chunks):
        assert next(run) == (4 * k + 4, N)
    run.close()  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=f"{4 * chunks} of {N} samples"):
        SampleSet.load(tmp_path / "set")
    done = [done for done, _ in make(face_pack, tmp_path / "set")]
    assert done == [8, 10][chunks - 1 :]
    assert files(tmp_path / "set") == files(whole)


def test_a_row_cut_off_while_it_was_written_is_made_again(face_pack: Path, tmp_path: Path, whole: Path) -> None:
    run = make(face_pack, tmp_path / "set")
    next(run)
    next(run)
    run.close()  # type: ignore[attr-defined]
    table = tmp_path / "set" / "table.jsonl"
    table.write_bytes(table.read_bytes()[:-20])
    list(make(face_pack, tmp_path / "set"))
    assert files(tmp_path / "set") == files(whole)


@pytest.mark.parametrize(
    ("line", "damage"),
    [
        (9, lambda line: line[:-30] + b"\n"),
        (9, lambda line: b"\xff" + line[1:]),
        (5, lambda _: b""),
        (2, lambda line: line * 2),
        (9, lambda line: line * 2),
    ],
)
def test_a_finished_set_whose_table_is_damaged_is_mended(
    face_pack: Path, tmp_path: Path, whole: Path, line: int, damage: Callable[[bytes], bytes]
) -> None:
    """A line that is cut, changed, lost or doubled: as if the set had been interrupted before it."""
    shutil.copytree(whole, tmp_path / "set")
    table = tmp_path / "set" / "table.jsonl"
    lines = table.read_bytes().splitlines(keepends=True)
    lines[line] = damage(lines[line])
    table.write_bytes(b"".join(lines))
    list(make(face_pack, tmp_path / "set"))
    assert files(tmp_path / "set") == files(whole)


@pytest.mark.parametrize("name", ["pictures.npy", "depth.npy"])
def test_an_array_that_was_cut_short_is_said_not_filled_with_black(face_pack: Path, tmp_path: Path, name: str) -> None:
    def make_again() -> list[tuple[int, int]]:
        return list(make_set(face_pack, tmp_path / "set", "dev", N, seed=SEED, workers=1, depth=True))

    make_again()
    before, path = files(tmp_path / "set"), tmp_path / "set" / name
    for damaged in (before[name][:-1], before[name][:1000], before[name][:50], b""):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"{name} is damaged.*delete it and run `simulate` again"):
            make_again()
        assert path.read_bytes() == damaged
    np.save(path, np.zeros((N, 8, 8), np.uint8))
    with pytest.raises(DataError, match=rf"{name} holds uint8 \(10, 8, 8\), the set needs .*delete it"):
        make_again()
    path.unlink()
    make_again()
    assert files(tmp_path / "set") == before


@pytest.mark.parametrize("gone", ["table.jsonl", "pictures.npy"])
def test_a_set_that_lost_a_file_is_made_again(face_pack: Path, tmp_path: Path, whole: Path, gone: str) -> None:
    run = make(face_pack, tmp_path / "set")
    next(run)
    run.close()  # type: ignore[attr-defined]
    (tmp_path / "set" / gone).unlink()
    assert [done for done, _ in make(face_pack, tmp_path / "set")] == [4, 8, 10]
    assert files(tmp_path / "set") == files(whole)


def test_a_finished_set_is_left_alone(face_pack: Path, whole: Path) -> None:
    before = files(whole)
    assert list(make(face_pack, whole)) == []
    assert files(whole) == before


def test_worker_processes_give_the_same_set(face_pack: Path, tmp_path: Path, whole: Path) -> None:
    list(make(face_pack, tmp_path / "set", workers=2))
    assert files(tmp_path / "set") == files(whole)


def test_a_worker_that_is_killed_is_an_error_not_a_wait(face_pack: Path, tmp_path: Path) -> None:
    # Far more chunks than two workers can have made by the time that the first one is handed over.
    run = make(face_pack, tmp_path / "set", n=100 * N, workers=2)
    next(run)
    for worker in multiprocessing.active_children():
        worker.kill()
    with pytest.raises(DataError, match="worker process died"):
        list(run)


@pytest.mark.parametrize(("n", "seed"), [(N + 1, SEED), (N, SEED + 1)])
def test_other_parameters_in_the_same_folder_are_refused(face_pack: Path, whole: Path, n: int, seed: int) -> None:
    before = files(whole)
    with pytest.raises(DataError, match="holds another set"):
        next(make(face_pack, whole, n=n, seed=seed))
    assert files(whole) == before


@pytest.mark.parametrize(("n", "seed", "workers"), [(0, 1, 1), (5, -1, 1), (5, 1, 0)])
def test_impossible_parameters_are_refused(face_pack: Path, tmp_path: Path, n: int, seed: int, workers: int) -> None:
    with pytest.raises(DataError, match="n >= 1, seed >= 0 and workers >= 1"):
        next(make(face_pack, tmp_path / "set", n=n, seed=seed, workers=workers))


def test_an_unknown_split_claims_no_folder(face_pack: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown split"):
        next(make_set(face_pack, tmp_path / "set", "validation", N, seed=1, workers=1))  # type: ignore[arg-type]
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("fits", [0, 1])
def test_a_full_disk_is_an_error_before_the_first_sample_and_leaves_nothing_on_it(
    face_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: int
) -> None:
    """A quota or another writer, of whom the free space knows nothing: the first or the second array does not fit."""
    reserved: list[int] = []

    def full(_file: int, _start: int, size: int) -> None:
        reserved.append(size)
        if len(reserved) > fits:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    list(make(face_pack, tmp_path / "first"))
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(DataError, match="No space left"):
        next(make_set(face_pack, tmp_path / "set", "dev", N, seed=SEED, workers=1, depth=True))
    assert {path.name for path in (tmp_path / "set").iterdir()} == {"set.json", "table.jsonl"}
    assert len(reserved) == fits + 1


def test_a_disk_that_is_too_small_is_refused_before_anything_is_made(
    face_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(face_pack, tmp_path / "begun")
    next(run)
    run.close()  # type: ignore[attr-defined]
    usage = shutil.disk_usage(tmp_path)._replace(free=10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"set: up to 184\.3 GB are needed, 1\.0 GB are free; free disk or choose"):
        next(make_set(face_pack, tmp_path / "new" / "set", "dev", 10**6, seed=SEED, depth=True))
    assert not (tmp_path / "new").exists()
    # What has begun has its place.
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    assert list(make(face_pack, tmp_path / "begun"))[-1] == (N, N)


def test_a_folder_that_is_a_file_is_an_error(face_pack: Path, tmp_path: Path) -> None:
    (tmp_path / "set").write_text("")
    with pytest.raises(DataError, match=r"cannot write the set: File exists: .*set; something else has that name"):
        next(make(face_pack, tmp_path / "set"))


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.EDQUOT, "free disk or choose another folder"),
        (errno.EROFS, "choose a folder that you may write to"),
        (errno.EACCES, "choose a folder that you may write to"),
        (errno.EIO, "choose another folder"),
    ],
)
def test_what_to_do_fits_what_the_system_says(number: int, cure: str) -> None:
    said = re.escape(f"set: cannot write the set: {os.strerror(number)}: a/b; {cure}, and run it again")
    with pytest.raises(DataError, match=f"^{said}$"), module.written(Path("set")):
        raise OSError(number, os.strerror(number), "a/b")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("set.json", b"{", "not a complete sample set"),
        ("table.jsonl", b"{}\n", "not a complete sample set"),
        ("pictures.npy", b"", "not a complete sample set"),
        ("pictures.npy", b"\x93NUMPY\x01", "not a complete sample set"),
        ("set.json", b'{"split": "dev", "seed": 5, "n": 10, "version": 4}', "version 4"),
    ],
)
def test_a_damaged_set_is_refused(whole: Path, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    for path in whole.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        SampleSet.load(tmp_path)


def test_a_folder_of_sets_names_those_in_it_and_one_that_is_not_there_is_said(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: there is no such folder.*`simulate`.*`prepare`"):
        SampleSet.load(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no set\.json\).*`simulate` or `prepare`"):
        SampleSet.load(tmp_path)
    for name in ("train", "test"):
        shutil.copytree(whole, tmp_path / name)
    (tmp_path / "dev").mkdir()
    with pytest.raises(DataError, match="name one of them: ") as caught:
        SampleSet.load(tmp_path)
    assert str(caught.value).endswith(f": {tmp_path / 'train'}, {tmp_path / 'test'}")


def test_a_damaged_description_is_not_overwritten(face_pack: Path, tmp_path: Path) -> None:
    (tmp_path / "set.json").write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        next(make(face_pack, tmp_path))
    assert (tmp_path / "set.json").read_text() == "{"


@pytest.mark.parametrize("name", ["table.jsonl", "pictures.npy", "depth.npy"])
def test_files_of_somebody_else_are_not_overwritten(face_pack: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / name).write_text("mine")
    with pytest.raises(DataError, match=rf"holds {name} but no set\.json.*choose another folder"):
        next(make(face_pack, tmp_path / "set"))
    assert files(tmp_path / "set") == {name: b"mine"}


def test_pictures_and_rows_must_fit_together() -> None:
    rows = [toy_row(0, 1), toy_row(1, 0)]
    info = SetInfo(split="train", seed=0, n=2)
    with pytest.raises(DataError, match="3 pictures but 2 rows"):
        SampleSet(np.zeros((3, 8, 8, 3), np.uint8), rows, info)
    with pytest.raises(DataError, match="float64"):
        SampleSet(np.zeros((2, 8, 8, 3)), rows, info)  # type: ignore[arg-type]


def test_crops_are_those_of_the_sdk(whole: Path) -> None:
    found, spec = SampleSet.load(whole), InputSpec(size_px=64, crop_scale=1.7)
    crops = found.crops([3, 0], spec)
    assert (crops.dtype, crops.shape) == (np.uint8, (2, 64, 64, 3))
    pictures = np.load(whole / "pictures.npy")
    rows = [json.loads(line) for line in (whole / "table.jsonl").read_text().splitlines()]
    for crop, i in zip(crops, (3, 0), strict=True):
        np.testing.assert_array_equal(crop, crop_face(pictures[i], Box(*rows[i]["box_xyxy"]), spec))


def test_jitter_stays_within_its_bounds_and_uses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes: list[Box] = []

    def spy(rgb: np.ndarray, box: Box, spec: InputSpec) -> np.ndarray:
        boxes.append(box)
        return crop_face(rgb, box, spec)

    monkeypatch.setattr(samples_module, "crop_face", spy)
    toy, jitter = toy_set(2), CropJitter(shift=0.1, scale=0.25)
    toy.crops([0] * 500, InputSpec(size_px=4), jitter=jitter, rng=np.random.default_rng(0))
    # The box is 24 px wide round (24, 24).
    shifts = np.array([box.center for box in boxes]) - 24
    sides = np.array([box.width for box in boxes]) / 24
    assert np.abs(shifts).max() <= 2.4 + 1e-9
    assert np.abs(shifts).max(0).min() > 2.2
    assert 1 / 1.25 - 1e-9 <= sides.min() < 0.82
    assert 1.22 < sides.max() <= 1.25 + 1e-9
    assert np.allclose([box.height for box in boxes], [box.width for box in boxes])
    assert abs(np.log(sides).mean()) < 0.02  # as often larger as smaller


def test_a_moved_box_keeps_its_shape() -> None:
    """What is cut out goes by both sides: a portrait box that became square would be another crop."""
    box, rng = Box(10, 20, 50, 90), np.random.default_rng(0)
    for _ in range(20):
        moved = jittered(box, CropJitter(), rng)
        assert moved.height / moved.width == pytest.approx(70 / 40)
        assert 1 / 1.12 <= moved.width / 40 <= 1.12


def test_jitter_comes_from_the_generator_that_is_passed_and_needs_one() -> None:
    toy, spec, jitter = toy_set(4), InputSpec(size_px=16), CropJitter()
    a, b = (toy.crops(range(4), spec, jitter=jitter, rng=np.random.default_rng(s)) for s in (1, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, toy.crops(range(4), spec, jitter=jitter, rng=np.random.default_rng(2)))
    with pytest.raises(DataError, match="need rng"):
        toy.crops(range(4), spec, jitter=jitter)
