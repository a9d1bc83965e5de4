"""The evaluation pack: what is stored comes back, quotas are filled, and only free pictures are asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from fasedge.depth import crop_depth, measure_face_depth
from fasedge.preprocess import InputSpec, crop_face
from fasedge.types import Box
from quantize import pack as pack_module
from quantize.errors import CalibrationDataError
from quantize.pack import EvaluationPack, make_pack


def jpeg(grey: int) -> bytes:
    return cv2.imencode(".jpg", np.full((40, 40, 3), (0, 0, grey), np.uint8))[1].tobytes()


@pytest.fixture
def small() -> EvaluationPack:
    boxes = np.array([[10.0, 10.0, 30.0, 30.0], [5.0, 5.5, 25.0, 25.5]])
    return EvaluationPack((jpeg(200), jpeg(90)), np.array([1, 0]), ("bona_fide", "print"), boxes)


def test_a_pack_is_read_back_as_it_was_written(small: EvaluationPack, tmp_path: Path) -> None:
    small.save(tmp_path / "pack.npz")
    found = EvaluationPack.load(tmp_path / "pack.npz")
    assert (found.jpegs, found.species, len(found)) == (small.jpegs, small.species, 2)
    np.testing.assert_array_equal(found.labels, small.labels)
    np.testing.assert_array_equal(found.boxes, small.boxes)


def test_crops_are_those_of_the_sdk_red_first(small: EvaluationPack) -> None:
    spec = InputSpec(size_px=16, crop_scale=1.2)
    crops = small.crops(spec)
    assert (crops.dtype, crops.shape) == (np.uint8, (2, 16, 16, 3))
    np.testing.assert_allclose(crops[0, 8, 8], [200, 0, 0], atol=3)
    picture = cv2.cvtColor(cv2.imdecode(np.frombuffer(jpeg(90), np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(crops[1], crop_face(picture, Box(5.0, 5.5, 25.0, 25.5), spec))


def depth_png(box: np.ndarray) -> bytes:
    """A ramp inside the box, nothing around it."""
    depth = np.zeros((40, 40), np.uint16)
    x1, y1, x2, y2 = (round(v) for v in box)
    depth[y1:y2, x1:x2] = 600 + np.arange(x2 - x1)
    return cv2.imencode(".png", depth)[1].tobytes()


def test_depth_lies_in_a_file_of_its_own_and_is_cut_as_the_sdk_does(small: EvaluationPack, tmp_path: Path) -> None:
    files, spec = (tmp_path / "pack.npz", tmp_path / "depth.npz"), InputSpec(size_px=16, crop_scale=0.9)
    with_depth = replace(small, depths=tuple(depth_png(box) for box in small.boxes))
    with_depth.save(*files)
    assert EvaluationPack.load(files[0]).depths == ()
    found = EvaluationPack.load(*files)
    assert found.depths == with_depth.depths
    shown = found.pictures(spec, depth=True)
    np.testing.assert_array_equal(shown[..., :3], found.pictures(spec, depth=False))
    depth_mm = cv2.imdecode(np.frombuffer(found.depths[1], np.uint8), cv2.IMREAD_UNCHANGED)
    box = Box(*small.boxes[1])
    np.testing.assert_array_equal(shown[1, ..., 3], crop_depth(depth_mm, box, spec, measure_face_depth(depth_mm, box)))
    replace(small, depths=with_depth.depths[:1]).save(*files)
    with pytest.raises(CalibrationDataError, match="not one depth map for each picture"):
        EvaluationPack.load(*files)


def test_depth_that_is_not_there_is_not_made_up(small: EvaluationPack) -> None:
    spec = InputSpec(size_px=16, crop_scale=0.9)
    with pytest.raises(CalibrationDataError, match="has no depth"):
        small.pictures(spec, depth=True)
    with_depth = replace(small, depths=tuple(depth_png(box) for box in small.boxes))
    with pytest.raises(CalibrationDataError, match="inside the face boxes only"):
        with_depth.pictures(replace(spec, crop_scale=1.2), depth=True)
    empty = cv2.imencode(".png", np.zeros((40, 40), np.uint16))[1].tobytes()
    for bad in (b"no picture", jpeg(3), empty):
        with pytest.raises(CalibrationDataError, match="depth 1 of the evaluation pack cannot be used"):
            replace(small, depths=(with_depth.depths[0], bad)).pictures(spec, depth=True)


def test_damaged_packs_are_refused(small: EvaluationPack, tmp_path: Path) -> None:
    path = tmp_path / "pack.npz"
    small.save(path)
    path.write_bytes(path.read_bytes()[:300])
    for bad in (path, tmp_path / "none.npz"):
        with pytest.raises(CalibrationDataError, match="no evaluation pack"):
            EvaluationPack.load(bad)
    np.savez(path, labels=np.zeros(2))
    with pytest.raises(CalibrationDataError, match="no evaluation pack"):
        EvaluationPack.load(path)
    for data in (b"no picture", b""):
        broken = EvaluationPack((data,), np.array([1]), ("bona_fide",), small.boxes[:1])
        with pytest.raises(CalibrationDataError, match="picture 0 of the evaluation pack cannot be decoded"):
            broken.crops(InputSpec(size_px=16, crop_scale=1.0))


@pytest.mark.parametrize("field", ["labels", "species", "boxes", "ends", "jpegs"])
def test_a_pack_whose_parts_do_not_fit_is_refused(small: EvaluationPack, tmp_path: Path, field: str) -> None:
    path = tmp_path / "pack.npz"
    small.save(path)
    with np.load(path) as file:
        parts = dict(file)
    for wrong in (parts[field][:-1], np.float64(0.5)):
        np.savez(path, **{**parts, field: wrong})
        with pytest.raises(CalibrationDataError, match="no evaluation pack"):
            EvaluationPack.load(path)
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(CalibrationDataError, match="no evaluation pack"):
        EvaluationPack.load(tmp_path / "array.npy")


def test_only_people_whose_portraits_are_free_are_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    def tiles(people: list[SimpleNamespace], *_: object, **__: object) -> np.ndarray:
        asked.extend(person.licence for person in people)
        raise InterruptedError

    licences = ["CC-BY-4.0", "public-domain", "MIT", "CC0-1.0"]
    manifest = [SimpleNamespace(licence=licence) for licence in licences]
    splits: list[object] = []
    monkeypatch.setattr(pack_module, "read_manifest", lambda _, split: splits.append(split) or manifest)
    monkeypatch.setattr(pack_module, "build_tiles", tiles)
    with pytest.raises(InterruptedError):
        make_pack(tmp_path)
    with pytest.raises(InterruptedError):
        make_pack(tmp_path, split="train")
    assert splits == [["test"], ["train"]]
    assert asked == 2 * ["public-domain", "CC0-1.0"]
    with pytest.raises(CalibrationDataError, match="asked for 0"):
        make_pack(tmp_path, 0)


class Drawing:
    """Draws living people and prints in turn, and every tenth time a mask."""

    def draw(self, index: int) -> object:
        species = "mask" if index % 10 == 9 else "print"
        return type("D", (), {"values": {"bona_fide": index % 2 == 0, "species": species, "index": index}})()


def test_quotas_are_filled_in_the_order_of_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = pack_module._chosen(Drawing(), {"bona_fide": 2, "print": 3, "mask": 1})  # type: ignore[arg-type]
    assert [draws.values["index"] for draws in chosen] == [0, 1, 2, 3, 5, 9]
    monkeypatch.setattr(pack_module, "_MAX_DRAWS", 8)
    with pytest.raises(CalibrationDataError, match=r"8 draws do not fill .*'mask': 1"):
        pack_module._chosen(Drawing(), {"bona_fide": 2, "print": 3, "mask": 1})  # type: ignore[arg-type]
