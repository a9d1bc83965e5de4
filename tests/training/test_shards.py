"""Shards: deterministic, resumed, refused when damaged, and laid out as WebDataset wants them."""

from __future__ import annotations

import errno
import io
import json
import os
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.data import shards as module
from training.data import work
from training.data.making import make_set
from training.data.samples import SampleSet
from training.data.shard_reader import read_shards
from training.data.shards import make_shards
from training.errors import DataError

N, SEED, SIZE = 7, 5, 3
SHARDS = ["dev-000000.tar", "dev-000001.tar", "dev-000002.tar"]


def make(pack: Path, out: Path, *, n: int = N, workers: int = 1, encoding: str = "png") -> Iterator[tuple[int, int]]:
    return make_shards(
        pack, out, "dev", n, seed=SEED, workers=workers, encoding=encoding, shard_size=SIZE  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of two, so that a shard of three takes two."""
    monkeypatch.setattr(module, "_CHUNK", 2)


@pytest.fixture(scope="module")
def whole(face_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "whole"
    assert list(make(face_pack, folder))[-1] == (N, N)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def copy(whole: Path, to: Path) -> Path:
    for name, content in files(whole).items():
        (to / name).write_bytes(content)
    return to


def rewrite(path: Path, change: Callable[[str, bytes], list[tuple[str, bytes]]]) -> None:
    """Write a tar anew, each member replaced by what ``change`` returns for it."""
    out = io.BytesIO()
    with tarfile.open(path) as old, tarfile.open(fileobj=out, mode="w") as new:
        for member in old.getmembers():
            content = old.extractfile(member).read()  # type: ignore[union-attr]
            for name, altered in change(member.name, content):
                info = tarfile.TarInfo(name)
                info.size = len(altered)
                new.addfile(info, io.BytesIO(altered))
    path.write_bytes(out.getvalue())


def test_shards_hold_the_samples_of_an_array_set_with_the_same_seed(
    whole: Path, face_pack: Path, tmp_path: Path
) -> None:
    list(make_set(face_pack, tmp_path / "npy", "dev", N, seed=SEED, workers=1))
    arrays = SampleSet.load(tmp_path / "npy")
    found = list(read_shards(whole))
    assert [sample.row for sample in found] == list(arrays.table)
    for i, sample in enumerate(found):
        np.testing.assert_array_equal(sample.picture, arrays.picture(i))
        assert sample.depth_mm is None
    assert len({sample.key for sample in found}) == N


def test_members_are_grouped_as_webdataset_groups_them_and_keys_have_no_dot(whole: Path) -> None:
    """WebDataset: the key is the path up to the first dot of its last part; a sample's members are consecutive."""
    manifest = [json.loads(line) for line in (whole / "manifest.jsonl").read_text().splitlines()]
    keys: list[str] = []
    for name in SHARDS:
        groups: dict[str, list[str]] = defaultdict(list)
        order: list[str] = []
        with tarfile.open(whole / name) as tar:
            for member in tar.getmembers():
                key, extension = member.name.split(".", 1)
                groups[key].append(extension)
                if not order or order[-1] != key:
                    order.append(key)
                if extension == "json":
                    row = json.loads(tar.extractfile(member).read())  # type: ignore[union-attr]
                    line = next(m for m in manifest if m["key"] == key)
                    assert line == {k: v for k, v in row.items() if k != "params"} | {"key": key, "shard": name}
        assert order == list(groups)  # none comes a second time after another
        assert all(extensions == ["png", "json"] for extensions in groups.values())
        keys += order
    assert keys == [line["key"] for line in manifest]


def test_members_carry_no_time_no_owner_and_the_bytes_repeat_for_any_number_of_workers(
    whole: Path, face_pack: Path, tmp_path: Path
) -> None:
    with tarfile.open(whole / SHARDS[0]) as tar:
        for m in tar.getmembers():
            assert (m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) == (0, 0, 0, "", "", 0o644)
    list(make(face_pack, tmp_path / "set", workers=2))
    assert files(tmp_path / "set") == files(whole)


def test_the_picture_in_a_shard_is_an_ordinary_png(whole: Path) -> None:
    with tarfile.open(whole / SHARDS[0]) as tar:
        member = tar.getmembers()[0]
        data = tar.extractfile(member).read()  # type: ignore[union-attr]
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decoded[..., ::-1], next(read_shards(whole)).picture)


def test_jpeg_shards_are_near_the_pictures(whole: Path, face_pack: Path, tmp_path: Path) -> None:
    list(make(face_pack, tmp_path / "set", encoding="jpg"))
    for a, b in zip(read_shards(tmp_path / "set"), read_shards(whole), strict=True):
        assert a.row == b.row
        error = np.abs(a.picture.astype(float) - b.picture).mean()
        assert 0 < error < 3


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_an_interrupted_set_keeps_its_finished_shards_and_ends_with_the_same_bytes(
    face_pack: Path, tmp_path: Path, whole: Path, steps: int
) -> None:
    run = make(face_pack, tmp_path / "set")
    done = [next(run)[0] for _ in range(steps)][-1]
    run.close()  # type: ignore[attr-defined]
    kept = [p.name for p in sorted((tmp_path / "set").glob("*.tar"))]
    assert kept == SHARDS[: {1: 0, 2: 1, 3: 1}[steps]]
    assert not list((tmp_path / "set").glob("*.partial"))
    with pytest.raises(DataError, match="not finished"):
        list(read_shards(tmp_path / "set"))
    times = {name: (tmp_path / "set" / name).stat().st_mtime_ns for name in kept}
    assert next(iter(make(face_pack, tmp_path / "set")))[0] > done - SIZE
    list(make(face_pack, tmp_path / "set"))
    assert files(tmp_path / "set") == files(whole)
    assert {name: (tmp_path / "set" / name).stat().st_mtime_ns for name in kept} == times


def test_what_a_killed_run_left_half_written_is_made_again(face_pack: Path, tmp_path: Path, whole: Path) -> None:
    copy(whole, tmp_path)
    half = (tmp_path / SHARDS[1]).read_bytes()[:5000]
    (tmp_path / SHARDS[1]).unlink()
    (tmp_path / "manifest.jsonl").unlink()
    (tmp_path / (SHARDS[1] + ".partial")).write_bytes(half)
    assert list(make(face_pack, tmp_path)) == [(6, 7), (7, 7)]
    assert files(tmp_path) == files(whole)


def test_a_finished_set_is_left_alone(face_pack: Path, whole: Path) -> None:
    before = files(whole)
    assert list(make(face_pack, whole)) == []
    assert files(whole) == before


@pytest.mark.parametrize("call", [1, 2, 4])
def test_a_full_disk_is_an_error_and_leaves_nothing_half_written(
    face_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """The first, second shard or the manifest cannot be brought to the disk."""
    calls = []

    def full(_: int) -> None:
        calls.append(1)
        if len(calls) == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"No space left on device.*free disk"):
        list(make(face_pack, tmp_path / "set"))
    assert {p.name for p in (tmp_path / "set").iterdir()} == {"set.json", *SHARDS[: call - 1]}


@pytest.mark.parametrize(("n", "format_of_old"), [(N + 1, "webdataset"), (N, "npy")])
def test_a_folder_with_another_set_is_refused(
    face_pack: Path, tmp_path: Path, whole: Path, n: int, format_of_old: str
) -> None:
    if format_of_old == "npy":
        list(make_set(face_pack, tmp_path, "dev", N, seed=SEED, workers=1))
        with pytest.raises(DataError, match="holds another set"):
            list(make(face_pack, tmp_path, n=n))
    else:
        copy(whole, tmp_path)
        with pytest.raises(DataError, match="holds another set"):
            list(make(face_pack, tmp_path, n=n))
        with pytest.raises(DataError, match="holds another set"):
            list(make_set(face_pack, tmp_path, "dev", N, seed=SEED, workers=1))


@pytest.mark.parametrize("name", ["manifest.jsonl", SHARDS[2]])
def test_files_of_somebody_else_are_not_overwritten(face_pack: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    (tmp_path / "notes.txt").write_text("of no concern")
    with pytest.raises(DataError, match=rf"holds {name} but no set\.json.*choose another folder"):
        list(make(face_pack, tmp_path))
    assert set(files(tmp_path)) == {name, "notes.txt"}


def test_an_unreadable_picture_is_named_and_claims_no_folder(face_pack: Path, tmp_path: Path) -> None:
    from tests.training.fixtures.face_pack import write_face_pack

    pack = write_face_pack(tmp_path / "pack")
    broken = next((pack / "faces" / "studio").glob("*dev*.png"))
    broken.write_bytes(b"no picture")
    with pytest.raises(DataError, match=broken.name):
        list(make(pack, tmp_path / "set"))
    assert not (tmp_path / "set").exists()


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def member_ends(path: Path) -> list[tuple[str, int]]:
    with tarfile.open(path) as tar:
        return [(m.name, m.offset_data + -(-m.size // 512) * 512) for m in tar.getmembers()]


def test_a_shard_cut_within_a_member_is_named(whole: Path, tmp_path: Path) -> None:
    path = copy(whole, tmp_path) / SHARDS[1]
    ends = member_ends(path)
    cut(path, ends[2][1] - 700)
    with pytest.raises(DataError, match=f"{SHARDS[1]}: cut off or damaged after {ends[1][0]}"):
        list(read_shards(tmp_path))


def test_a_shard_cut_between_two_members_is_named(whole: Path, tmp_path: Path) -> None:
    """Such a file is a good tar archive: only the count tells."""
    path = copy(whole, tmp_path) / SHARDS[1]
    ends = member_ends(path)
    cut(path, ends[3][1])
    with pytest.raises(DataError, match=f"{SHARDS[1]}: ends before member {ends[4][0]}"):
        list(read_shards(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n, b: [] if n.endswith("4.json") else [(n, b)], r"lacks member dev-5-00000004.json"),
        (lambda n, b: [] if n.endswith("4.png") else [(n, b)], r"lacks member dev-5-00000004.png"),
        (lambda n, b: [(n, b[:-5] if n.endswith("4.json") else b)], r"member dev-5-00000004.json is damaged"),
        (lambda n, b: [(n, b"x" * 99 if n.endswith("4.png") else b)], r"dev-5-00000004.png is not a picture"),
        (lambda n, b: [(n, b)] + ([("more.txt", b"")] if n.endswith("5.json") else []), r"unexpected member more.txt"),
        (lambda n, b: [(n, b.replace(b'"label":0', b'"label":1').replace(b'"split":"dev"', b'"split":"train"'))],
         r"dev-5-00000003 differs from its line"),
    ],
)  # fmt: skip
def test_a_damaged_member_is_named(
    whole: Path, tmp_path: Path, change: Callable[[str, bytes], list[tuple[str, bytes]]], message: str
) -> None:
    rewrite(copy(whole, tmp_path) / SHARDS[1], change)
    with pytest.raises(DataError, match=f"{SHARDS[1]}: .*{message}"):
        list(read_shards(tmp_path))


def test_a_set_goes_on_only_after_sound_shards(whole: Path, face_pack: Path, tmp_path: Path) -> None:
    copy(whole, tmp_path)
    (tmp_path / "manifest.jsonl").unlink()
    cut(tmp_path / SHARDS[0], 2000)
    with pytest.raises(DataError, match=f"{SHARDS[0]}: cut off or damaged.*delete the shard"):
        list(make(face_pack, tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("set.json", b"{", "set.json is damaged"),
        ("set.json", b'{"split": "dev", "seed": 5, "n": 7, "format": "npy"}', "a set of format 'npy'"),
        ("manifest.jsonl", b"{}\n", "manifest.jsonl:1: damaged line"),
        ("manifest.jsonl", b"", "0 lines, set.json says 7"),
    ],
)
def test_a_damaged_description_is_named(whole: Path, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (copy(whole, tmp_path) / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_shards(tmp_path))


def test_a_missing_shard_is_named(whole: Path, tmp_path: Path) -> None:
    (copy(whole, tmp_path) / SHARDS[2]).unlink()
    with pytest.raises(DataError, match=f"{SHARDS[2]}: shard is missing"):
        list(read_shards(tmp_path))


def test_depth_is_stored_as_16_bit_pictures_and_as_an_array(
    face_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The maps come from a stand-in, so that the expected values are known."""
    ramp = np.arange(192 * 192, dtype=np.uint16).reshape(192, 192)
    plain = work.make_simulator
    monkeypatch.setattr(work, "make_simulator", lambda *place, **_: plain(*place))
    monkeypatch.setattr(work, "depth_of", lambda sample: ramp + sample.source)
    list(make_shards(face_pack, tmp_path / "tar", "dev", 4, seed=SEED, workers=1, depth=True))
    list(make_set(face_pack, tmp_path / "npy", "dev", 4, seed=SEED, workers=1, depth=True))
    arrays = SampleSet.load(tmp_path / "npy")
    assert arrays.has_depth
    stored = np.load(tmp_path / "npy" / "depth.npy")
    assert (stored.dtype, stored.shape) == (np.uint16, (4, 192, 192))
    sources = []
    for i, sample in enumerate(read_shards(tmp_path / "tar")):
        assert sample.depth_mm is not None
        assert sample.depth_mm.dtype == np.uint16
        np.testing.assert_array_equal(sample.depth_mm, arrays.depth_mm(i))
        offset = int(sample.depth_mm[0, 0])
        np.testing.assert_array_equal(sample.depth_mm, ramp + offset)
        sources.append(offset)
    assert len(set(sources)) > 1


def test_a_set_without_depth_says_so(face_pack: Path, tmp_path: Path) -> None:
    list(make_set(face_pack, tmp_path / "npy", "dev", 2, seed=SEED, workers=1))
    arrays = SampleSet.load(tmp_path / "npy")
    assert not arrays.has_depth
    with pytest.raises(DataError, match="simulate --depth"):
        arrays.depth_mm(0)


@pytest.mark.parametrize(("size", "encoding"), [(0, "png"), (3, "bmp")])
def test_impossible_requests_are_refused(face_pack: Path, tmp_path: Path, size: int, encoding: str) -> None:
    with pytest.raises(DataError, match="at least 1 sample and png or jpg"):
        next(make_shards(face_pack, tmp_path, "dev", 3, seed=1, encoding=encoding, shard_size=size))  # type: ignore[arg-type]
