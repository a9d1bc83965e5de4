"""The simulator on an accelerator: a real one where there is one, and a pretended one everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training import test_masks
from tests.training.fixtures.pretended_device import PRETENDED, PretendedDevice, WrongDeviceError, on_device
from training.data.manifest import read_manifest
from training.data.simulate import BONA_FIDE, SPECIES, Sample, Simulator, camera, optics
from training.data.simulate.scene import build_tiles, read_backgrounds
from training.data.work import make_simulator

SEED, N = 5, 40
#: Rounding differs from device to device, and a compressed picture now and then lands on the other side of a step.
SHARE_WITHIN, LEVELS = 0.999, 2
#: The same of each single sample with meshes and depth; of depth, in millimetres: a return on the other side of a step
#: of the disparity, or of the least that is measured, is another value altogether, but there are few.
SHARE_OF_EACH, MILLIMETRES = 0.995, 1


#: The same of pictures with H.264 in them: its blocks are predicted from their neighbours, so one rounding goes on.
SHARE_OF_VIDEO, VIDEO_MEAN = 0.85, 1.0

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


def on(simulator: Simulator, device: torch.device) -> Simulator:
    """A simulator of the same samples on another device."""
    other = object.__new__(Simulator)
    other.__dict__.update(simulator.__dict__, _device=device)
    return other


@pytest.fixture(scope="module")
def simulator(face_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Simulator:
    return make_simulator(face_pack, tmp_path_factory.mktemp("tiles"), "train", SEED)


@pytest.fixture(scope="module")
def reference(simulator: Simulator) -> list[Sample]:
    return simulator.samples(range(N))


@pytest.fixture(scope="module")
def worn() -> Simulator:
    """A simulator with meshes and depth, over drawn faces."""
    return test_masks.simulator(mesh=test_masks.meshes(8), depth=True)


@pytest.fixture(scope="module")
def kinds(worn: Simulator) -> list[int]:
    """Numbers of two samples of every sub-type and of bona fide."""
    found: dict[str, list[int]] = {kind: [] for kind in (BONA_FIDE, *(k for s in SPECIES.values() for k in s.subtypes))}
    for i in range(800):
        found[str(worn.draw(i).values.get("subtype", BONA_FIDE))].append(i)
    assert all(len(numbers) > 1 for numbers in found.values())
    return [i for numbers in found.values() for i in numbers[:2]]


def is_video(sample: Sample) -> bool:
    return bool(sample.params["h264"] or sample.params.get("capture_h264"))


def assert_the_same(found: list[Sample], expected: list[Sample]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert (a.label, a.species, a.params) == (b.label, b.species, b.params)
        np.testing.assert_allclose(a.box_xyxy, b.box_xyxy, atol=1e-2)
    away = np.abs(
        np.stack([s.picture for s in found]).astype(int) - np.stack([s.picture for s in expected]).astype(int)
    )
    video = np.array([is_video(s) for s in expected])
    assert (away[~video] <= LEVELS).mean() >= SHARE_WITHIN
    assert (away[video] <= LEVELS).mean() >= SHARE_OF_VIDEO
    # A share over all would let one sample in a thousand be another picture altogether.
    assert away[~video].mean((1, 2, 3)).max() < 0.5
    assert away[video].mean((1, 2, 3)).max() < VIDEO_MEAN


def assert_each_the_same(found: list[Sample], expected: list[Sample]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert (a.subtype, a.params) == (b.subtype, b.params)
        away = np.abs(a.picture.astype(int) - b.picture.astype(int))
        assert (away <= LEVELS).mean() >= (SHARE_OF_VIDEO if is_video(a) else SHARE_OF_EACH), a.subtype
        assert a.depth_mm is not None
        assert b.depth_mm is not None
        away_mm = np.abs(a.depth_mm.astype(int) - b.depth_mm.astype(int))
        assert (away_mm <= MILLIMETRES).mean() >= SHARE_OF_EACH, a.subtype


@needs_cuda
def test_pictures_from_cuda_are_those_from_the_cpu_but_for_rounding(
    simulator: Simulator, reference: list[Sample]
) -> None:
    assert_the_same(on(simulator, torch.device("cuda")).samples(range(N)), reference)


@needs_cuda
def test_every_kind_and_its_depth_from_cuda_are_those_from_the_cpu_but_for_rounding(
    worn: Simulator, kinds: list[int]
) -> None:
    assert_each_the_same(on(worn, torch.device("cuda")).samples(kinds), worn.samples(kinds))


def test_every_operator_stays_on_its_device_and_its_pictures_are_those_from_the_cpu(
    simulator: Simulator, reference: list[Sample]
) -> None:
    """The accelerator's branches of all operators, with their values, and the books of where each tensor lies."""
    assert len({(s.species, s.subtype) for s in reference}) > 6
    with PretendedDevice() as books:
        found = on(simulator, PRETENDED).samples(range(N))
    assert books.made > 300
    assert_the_same(found, reference)


def test_every_kind_stays_on_its_device_and_its_depth_is_that_from_the_cpu(worn: Simulator, kinds: list[int]) -> None:
    """Masks, partial attacks and depth, which the faces of the test above, without meshes, never have."""
    with PretendedDevice() as books:
        found = on(worn, PRETENDED).samples(kinds)
    assert books.made > 1000
    assert_each_the_same(found, worn.samples(kinds))


def test_a_tensor_on_the_wrong_device_is_noticed(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: one operator that makes a tensor on the CPU is enough."""
    bayer = camera.bayer

    def stray(size: int) -> torch.Tensor:
        with torch.device("cpu"):
            return bayer(size)

    monkeypatch.setattr(camera, "bayer", stray)
    with PretendedDevice(), pytest.raises(WrongDeviceError, match="on the device and on the CPU"):
        on(simulator, PRETENDED).samples([0])


def test_pixels_on_the_device_are_not_handed_to_numpy() -> None:
    with PretendedDevice():
        there = torch.ones(2, 2, device=PRETENDED)
        assert on_device(there + 1)
        assert (there.cpu() + 1).numpy().sum() == 8
        with pytest.raises(WrongDeviceError, match="numpy"):
            there.numpy()


@pytest.mark.parametrize("size", [5, 9, 13])
def test_both_ways_to_blur_agree(size: int) -> None:
    torch.manual_seed(size)
    pictures, sigma = torch.rand(4, 3, 20, 31), torch.tensor([0.0, 0.2, 0.7, 2.5]).view(-1, 1, 1, 1)
    with PretendedDevice():
        there = optics.blur(pictures.to(PRETENDED), sigma.to(PRETENDED), size).cpu()
    torch.testing.assert_close(optics.blur(pictures, sigma, size), there, rtol=0, atol=2e-6)


def test_both_ways_to_demosaic_agree() -> None:
    raw = torch.rand(2, 1, 14, 14, generator=torch.Generator().manual_seed(1))
    with PretendedDevice(), PRETENDED:
        there = camera.demosaic(raw.to(PRETENDED)).cpu()
    torch.testing.assert_close(camera.demosaic(raw), there, rtol=0, atol=2e-6)


def test_a_simulator_runs_where_it_is_told(face_pack: Path, tmp_path: Path) -> None:
    pictures = read_manifest(face_pack, ["dev"])
    tiles = build_tiles(pictures, tmp_path / "tiles.npy")
    simulator = Simulator(pictures, tiles, read_backgrounds(face_pack), seed=SEED, device="meta")
    with PretendedDevice() as books:
        simulator.samples([0])
    assert books.made > 100
