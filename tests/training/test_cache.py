"""Tiles and meshes that are kept on disk: whole or not there, made anew when they do not fit, never mixed."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.training.fixtures.face_pack import write_face_pack
from training.data.manifest import FacePicture, read_manifest
from training.data.simulate import cache as module
from training.data.simulate import mesh, scene
from training.data.simulate.cache import cached
from training.data.simulate.mesh import FaceMeshes, build_meshes
from training.data.simulate.scene import build_tiles
from training.errors import DataError

TILE_PX = 48
Build = Callable[[Path], list[np.ndarray]]


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack with landmarks: points on ellipsoids within the face boxes."""
    folder = write_face_pack(tmp_path_factory.mktemp("pack"))
    (folder / "landmarks").mkdir()
    for source in ("studio", "office"):
        np.savez(folder / "landmarks" / f"{source}.npz", **{p.key: landmarks(p) for p in people(folder, source)})
    return folder


def people(pack: Path, source: str = "") -> list[FacePicture]:
    return [p for p in read_manifest(pack, ["dev"]) if source in p.source]


def landmarks(picture: FacePicture) -> np.ndarray:
    xy = np.random.default_rng(3).uniform(-0.7, 0.7, (478, 2))
    xy[[33, 263, 10, 152]] = [[-0.4, -0.3], [0.4, -0.3], [0, -0.7], [0, 0.7]]
    z = -np.sqrt(1 - (xy**2).sum(1).clip(0, 0.99))
    (x, y), half = picture.box.center, picture.box.width / 2
    return np.column_stack([x + half * xy[:, 0], y + half * xy[:, 1], half * z]).astype(np.float32)


@pytest.fixture(params=["tiles", "meshes"])
def build(request: pytest.FixtureRequest, pack: Path) -> Build:
    """Makes or maps what is kept, as a list of arrays."""
    if request.param == "tiles":
        return lambda path: [build_tiles(people(pack), path, tile_px=TILE_PX)]

    def meshes(path: Path) -> list[np.ndarray]:
        found = build_meshes(pack, people(pack), path)
        return [getattr(found, field.name) for field in dataclasses.fields(FaceMeshes)]

    return meshes


def assert_equal(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert isinstance(a, np.memmap)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_what_is_mapped_is_what_was_made(pack: Path, tmp_path: Path) -> None:
    made = mesh._make(mesh.read_landmarks(pack, people(pack)))
    assert np.isfinite(made.relief).any()
    assert len(made.triangles) > 100
    for _ in range(2):
        found = build_meshes(pack, people(pack), tmp_path / "meshes.npy")
        assert_equal(
            [getattr(found, field.name) for field in dataclasses.fields(FaceMeshes)],
            [getattr(made, field.name) for field in dataclasses.fields(FaceMeshes)],
        )


@pytest.mark.parametrize("left", [0, 5, 100, 3000, -1, -200])
def test_a_file_that_was_cut_short_is_made_anew(build: Build, tmp_path: Path, left: int) -> None:
    path = tmp_path / "kept.npy"
    expected = [np.array(values) for values in build(path)]
    whole = path.read_bytes()
    path.write_bytes(whole[:left])
    assert_equal(build(path), expected)
    assert path.read_bytes() == whole


def test_a_file_that_is_whole_is_left_alone(build: Build, tmp_path: Path) -> None:
    path = tmp_path / "kept.npy"
    build(path)
    stamp = path.stat().st_mtime_ns
    build(path)
    assert path.stat().st_mtime_ns == stamp


def test_two_that_make_the_same_file_beside_each_other_get_the_same(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second begins and ends while the first is in its midst."""
    expected = [np.array(values) for values in build(tmp_path / "alone.npy")]
    path = tmp_path / "kept.npy"
    inner: list[list[np.ndarray]] = []

    def meanwhile() -> None:
        if not inner:
            inner.append([])
            inner[0] = build(path)

    crop, make = scene.crop_face, mesh._make
    monkeypatch.setattr(scene, "crop_face", lambda *a: (meanwhile(), crop(*a))[1])
    monkeypatch.setattr(mesh, "_make", lambda *a: (meanwhile(), make(*a))[1])
    outer = build(path)
    assert_equal(outer, expected)
    assert_equal(inner[0], expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["alone.npy", "kept.npy"]


def test_a_file_of_other_pictures_that_comes_between_is_an_error_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process takes the file's place as soon as it is there."""
    path, replace = tmp_path / "kept.npy", Path.replace

    def save(at: Path, value: int) -> None:
        with at.open("wb") as file:
            np.save(file, np.full(3, value))

    def overtaken(self: Path, target: Path) -> None:
        replace(self, target)
        monkeypatch.setattr(Path, "replace", replace)
        cached(path, "theirs", 1, lambda p: save(p, 2))

    monkeypatch.setattr(Path, "replace", overtaken)
    with pytest.raises(DataError, match=r"kept\.npy: another process.*its own folder"):
        cached(path, "ours", 1, lambda p: save(p, 1))
    assert np.load(path).tolist() == [2, 2, 2]


def test_a_full_disk_is_an_error_that_leaves_nothing(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a page of the map is written: a disk that fills up under it would end the process."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match="No space left"):
        build_tiles(people(pack), tmp_path / "tiles.npy", tile_px=TILE_PX)
    assert not list(tmp_path.iterdir())
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"MB are needed, 0\.0 MB are free; free disk"):
        build_tiles(people(pack), tmp_path / "tiles.npy", tile_px=TILE_PX)
    assert not list(tmp_path.iterdir())


def test_a_failure_keeps_the_file_that_was_there(pack: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiles.npy"
    build_tiles(people(pack), path, tile_px=TILE_PX)
    before = path.read_bytes()
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    pictures = people(pack)
    pictures[-1] = dataclasses.replace(pictures[-1], path=broken)
    with pytest.raises(DataError):
        build_tiles(pictures, path, tile_px=TILE_PX // 2)
    assert path.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"tiles.npy", "broken.png"}
