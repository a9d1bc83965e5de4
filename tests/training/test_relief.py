"""Rendered depth: out as pictures, back as maps that lie under their crops, and into the targets of a network."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from fasedge.preprocess import InputSpec
from fasedge.types import Box
from tests.training.fixtures.evaluation_sets import SIDE_PX, drawn_set, settings, write_set
from training.__main__ import main
from training.build import build_task
from training.config import TrainConfig
from training.data.depth_targets import DepthTargets
from training.data.relief import RELIEF, write_pictures
from training.data.samples import SampleSet
from training.data.subsets import only, parse
from training.errors import DataError
from training.tasks import as_step_task


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_set(tmp_path / "set", drawn_set("train"))


def render(folder: Path, index: int, grey: np.ndarray, ending: str = ".png") -> None:
    (folder / RELIEF).mkdir(exist_ok=True)
    assert cv2.imwrite(str(folder / RELIEF / f"{index:08d}_depth{ending}"), grey)


def ramp() -> np.ndarray:
    """Brighter to the right: 0, 4, 8 …"""
    return np.tile(np.arange(SIDE_PX, dtype=np.uint8) * 4, (SIDE_PX, 1))


def test_pictures_of_living_people_are_written_to_the_bit_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, out = SampleSet.load(folder), tmp_path / "pictures"
    monkeypatch.setattr("sys.argv", ["training", "pictures", str(folder), str(out)])
    assert main() == 0
    live = [i for i, row in enumerate(samples.table) if row.label]
    assert sorted(path.name for path in out.iterdir()) == [f"{i:08d}.png" for i in live]
    for i in live:
        written = cv2.imread(str(out / f"{i:08d}.png"))
        assert written is not None
        np.testing.assert_array_equal(written[..., ::-1], samples.picture(i))
    (out / f"{live[0]:08d}.png").write_bytes(b"mine")
    assert list(write_pictures(samples, out, attacks=True))[-1] == (len(samples), len(samples))
    assert (out / f"{live[0]:08d}.png").read_bytes() == b"mine"
    assert len(list(out.iterdir())) == len(samples)


def test_a_rendered_map_lies_under_its_crop_also_when_the_box_is_moved(folder: Path) -> None:
    render(folder, 0, ramp())
    samples, targets = SampleSet.load(folder), DepthTargets(8, ("rendered", "ellipsoid"))
    spec = InputSpec(size_px=64, crop_scale=1.0)
    (whole,) = targets.batch(samples, [0], spec)
    # Means of eight columns of 4·x / 255; the bicubic filter of OpenCV is centred, and a ramp stays a ramp.
    np.testing.assert_allclose(whole[4, 2:6], [(8 * k + 3.5) * 4 / 255 for k in range(2, 6)], atol=0.01)
    (part,) = targets.batch(samples, [0], spec, [Box(16.0, 16.0, 48.0, 48.0)])
    np.testing.assert_allclose(part[4, 2:6], [(16 + 4 * k + 1.5) * 4 / 255 for k in range(2, 6)], atol=0.015)
    assert targets.used == {"rendered": 2}


def test_faces_without_a_map_get_the_ellipsoid_and_are_counted_and_attacks_stay_flat(folder: Path) -> None:
    render(folder, 0, ramp(), ".jpg")
    samples, targets = SampleSet.load(folder), DepthTargets(8, ("rendered", "ellipsoid"))
    maps = targets.batch(samples, range(len(samples)), InputSpec(size_px=64, crop_scale=1.0))
    live = int(samples.labels.sum())
    assert targets.used == {"rendered": 1, "ellipsoid": live - 1}
    assert (maps[samples.labels == 0] == 0).all()
    assert all(maps[i].max() > 0.5 for i in np.flatnonzero(samples.labels))


def test_a_subset_keeps_its_maps(folder: Path) -> None:
    render(folder, 2, ramp())
    part = only(SampleSet.load(folder), parse(["species=print"]))
    found = [row.index for i, row in enumerate(part.table) if part.rendered(i) is not None]
    assert found == [2]
    assert part.has_rendered


def test_a_set_without_maps_and_a_map_of_another_size_are_named(folder: Path) -> None:
    spec = InputSpec(size_px=64, crop_scale=1.0)
    with pytest.raises(DataError, match="no folder 'relief'"):
        DepthTargets(8, ("rendered", "ellipsoid")).batch(SampleSet.load(folder), [0], spec)
    render(folder, 0, ramp()[:32])
    with pytest.raises(DataError, match=r"00000000_depth\.png must be a grey picture of 64 x 64 pixels.*64 x 32"):
        DepthTargets(8, ("rendered",)).batch(SampleSet.load(folder), [0], spec)
    (folder / RELIEF / "00000000_depth.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="got no picture"):
        SampleSet.load(folder).rendered(0)


@pytest.mark.parametrize("method", ["rfmeta", "cdcn"])
def test_methods_can_be_told_to_learn_from_rendered_maps(method: str) -> None:
    import msgspec

    config: TrainConfig = settings(method)
    options = msgspec.structs.replace(config.method, options={"depth_target": "rendered"})
    task = as_step_task(build_task(msgspec.structs.replace(config, method=options)))
    assert task.needs.targets is not None
    assert task.needs.targets.names == ("rendered", "ellipsoid")
    assert not task.needs.measured
