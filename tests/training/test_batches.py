"""From samples to batches: depth and its targets lie under their picture, and missing depth is never made up."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np
import pytest
import torch

from fasedge.types import Box
from tests.training.fixtures.rgbd_sets import relief_mm, rgbd_set
from tests.training.fixtures.toy_sets import ToyTask, toy_row, toy_set
from training.config import AugmentConfig, InputConfig, MachineConfig, OptimiserConfig, TrainConfig
from training.data.batches import check_crops, depth_crops, face_depth, make_batch, plain_batch, usable
from training.data.depth_targets import DepthTargets
from training.data.samples import SampleSet, SetInfo
from training.errors import ConfigError, DataError
from training.feeds import SetFeed
from training.loop import Trainer
from training.tasks import Batch, Needs

STILL = AugmentConfig(flip=0, brightness=0, contrast=0, saturation=0)


def settings(augment: AugmentConfig = STILL) -> TrainConfig:
    return TrainConfig(
        input=InputConfig(size_px=32, crop_scale=1.5),
        optimiser=OptimiserConfig(batch=8, epochs=1),
        augment=augment,
        machine=MachineConfig(device="cpu"),
    )


def one_sample(depth_mm: np.ndarray, **params: float) -> SampleSet:
    """The face box is the whole picture."""
    side = depth_mm.shape[0]
    row = toy_row(0, 1, box_xyxy=(0.0, 0.0, float(side), float(side)), params=params)
    picture = np.zeros((1, side, side, 3), np.uint8)
    return SampleSet(picture, [row], SetInfo(split="train", seed=0, n=1, depth=True), depth_mm[None])


def prepared_set(samples: SampleSet, box: tuple[float, float, float, float], shown: float) -> SampleSet:
    """The pictures of a set as if they were recordings that show so many face boxes."""
    return SampleSet(
        np.stack([samples.picture(i) for i in range(len(samples))]),
        [msgspec.structs.replace(row, box_xyxy=box) for row in samples.table],
        msgspec.structs.replace(samples.info, origin="toy 1; rfmeta; 0", canvas_scale=shown),
    )


def test_prepared_recordings_are_cut_as_wide_as_their_pictures_show() -> None:
    samples = toy_set(8)
    side = float(samples.picture(0).shape[0])
    inside = (side / 5, side / 5, side * 4 / 5, side * 4 / 5)
    spec = settings().input.spec()
    check_crops(prepared_set(samples, inside, 1.6), spec)
    check_crops(prepared_set(samples, inside, 1.5), spec)
    with pytest.raises(DataError, match=r"show 1\.4 face boxes, .* with --scale 1\.5, or .* input\.crop_scale = 1\.4"):
        check_crops(prepared_set(samples, inside, 1.4), spec)


def test_prepared_recordings_are_not_cut_wider_than_they_are() -> None:
    samples = toy_set(8)
    side = float(samples.picture(0).shape[0])
    # Sets without surroundings have always said 2, the canvas of simulated sets.
    prepared = prepared_set(samples, (0.0, 0.0, side, side), 2.0)
    whole = msgspec.structs.replace(settings(), input=InputConfig(size_px=32, crop_scale=1.0))
    assert plain_batch(prepared, [0], whole, Needs()).rgb.shape == (1, 32, 32, 3)
    assert make_batch(samples, [0], settings(), Needs(), [0]).rgb.shape == (1, 32, 32, 3)
    for cut in (
        lambda: plain_batch(prepared, [0], settings(), Needs()),
        lambda: make_batch(prepared, [0], settings(), Needs(), [0]),
        lambda: SetFeed(prepared, settings(), Needs()),
    ):
        with pytest.raises(DataError, match=r"crop_scale = 1\.5"):
            cut()


# --- depth ----------------------------------------------------------------------------------------------------------


def test_depth_that_was_measured_before_the_cut_decides_the_scale() -> None:
    """With median 1000 and spread 10: 255 (d - 970) / 60, so 1000 gives 127, 1010 gives 170, 970 nothing, 1040 all."""
    depth = np.repeat(np.array([[970, 1000, 1010, 1040]], np.uint16).repeat(4, 1), 16, 0)
    samples = one_sample(depth, depth_median_mm=1000.0, depth_spread_mm=10.0)
    spec = InputConfig(size_px=16, crop_scale=1.0).spec()
    assert depth_crops(samples, [0], spec)[0, 8, ::4].tolist() == [0, 127, 170, 255]
    # Without: the median is 1005, the deviations 35, 5, 5, 35, their median 20: 255 (1000 - 945) / 120.
    assert depth_crops(one_sample(depth), [0], spec)[0, 8, 4] == 116


def test_a_prepared_spread_of_nothing_is_not_divided_by() -> None:
    measured = face_depth(one_sample(relief_mm(), depth_median_mm=700.0, depth_spread_mm=0.0), 0)
    assert measured is not None
    assert measured.spread_mm == 1.0


def test_a_face_without_depth_is_left_out_of_training_and_scoring_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train, dev = rgbd_set(16, empty=(3, 4)), rgbd_set(10, "dev", empty=(9,))
    assert usable(train, measured=True) == [0, 1, 2, *range(5, 16)]
    assert usable(train, measured=False) == list(range(16))

    class Sees(ToyTask):
        needs = Needs(depth=True)
        learnt: ClassVar[set[int]] = set()
        scored: ClassVar[list[int]] = []

        def training_step(self, batches: dict[str, Batch]) -> dict[str, torch.Tensor]:
            self.learnt |= set(batches["mixed"].indices)
            return {"total": self.loss(batches["mixed"].rgb, batches["mixed"].labels)}

        def score_batch(self, batch: Batch) -> torch.Tensor:
            self.scored += batch.indices
            return self.score(batch.rgb)

    config = msgspec.structs.replace(settings(), optimiser=OptimiserConfig(batch=7, epochs=1))
    with caplog.at_level(logging.WARNING, logger="training"):
        list(Trainer(Sees(), config, train, dev, tmp_path).run())
    assert Sees.learnt == set(range(16)) - {3, 4}
    assert Sees.scored == list(range(9))
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 16 train samples have no depth in the face box: left out",
        "1 of 10 dev samples have no depth in the face box: left out",
    ]


def test_a_face_without_depth_never_becomes_a_picture_of_zeros() -> None:
    samples = rgbd_set(4, empty=(2,))
    with pytest.raises(DataError, match="sample 2 has no depth inside its face box"):
        plain_batch(samples, range(4), settings(), Needs(depth=True))
    assert plain_batch(samples, [0, 1, 3], settings(), Needs(depth=True)).depth is not None
    with pytest.raises(DataError, match="has no depth; make it with"):
        usable(toy_set(4), measured=True)


# --- targets --------------------------------------------------------------------------------------------------------


def test_targets_move_and_flip_with_their_picture() -> None:
    """Where the crop shows the mark that was painted at the nearest place, the map has its peak, flipped or not."""
    n, side = 12, 48
    pictures, depth = np.zeros((n, side, side, 3), np.uint8), np.full((n, side, side), 690, np.uint16)
    pictures[:, 20:24, 14:18], depth[:, 20:24, 14:18] = 255, 600
    rows = [toy_row(i, 1) for i in range(n)]
    samples = SampleSet(pictures, rows, SetInfo(split="train", seed=0, n=n, depth=True), depth)
    config = settings(msgspec.structs.replace(STILL, flip=0.5, shift=0.2, zoom=0.2))
    batch = make_batch(samples, range(n), config, Needs(targets=DepthTargets(16, ("sensor",))), [7])
    assert batch.depth is None
    assert batch.depth_targets is not None
    assert batch.depth_targets.dtype == torch.float32
    sides = set()
    for picture, target in zip(batch.rgb[..., 0].double(), batch.depth_targets.double(), strict=True):
        marked = torch.nonzero(picture > 128).double().mean(dim=0)
        near = torch.nonzero(target > 0.6 * target.max()).double().mean(dim=0)
        # A cell is two pixels wide; both are centres.
        assert float(((near + 0.5) * 2 - (marked + 0.5)).abs().max()) < 2
        sides.add(bool(marked[1] > 15.5))
    assert sides == {True, False}


def test_targets_of_attacks_are_zero_and_the_providers_are_counted() -> None:
    targets = DepthTargets(8, ("sensor", "ellipsoid"))
    batch = make_batch(rgbd_set(8, empty=(1,)), range(8), settings(), Needs(targets=targets), [1])
    assert batch.depth_targets is not None
    peaks = batch.depth_targets.flatten(1).amax(dim=1)
    assert (peaks > 0).tolist() == [False, True] * 4
    assert targets.used == {"sensor": 3, "ellipsoid": 1}


def test_a_set_without_depth_serves_targets_that_nothing_has_measured() -> None:
    with pytest.raises(DataError, match="train set has none"):
        SetFeed(toy_set(8), settings(), Needs(targets=DepthTargets(4, ("sensor", "ellipsoid"))))
    feed = SetFeed(toy_set(8), settings(), Needs(targets=DepthTargets(4, ("ellipsoid",))))
    (named,) = feed.epoch(0, 0)
    found = named["mixed"].depth_targets
    assert found is not None
    assert tuple(found.shape) == (8, 4, 4)


def test_crops_are_cut_by_the_boxes_that_are_given() -> None:
    samples, spec = rgbd_set(2), InputConfig(size_px=12, crop_scale=1.0).spec()
    crops = samples.crops([0, 1], spec, boxes=[Box(0, 0, 12, 12), Box(30, 20, 42, 32)])
    assert np.array_equal(crops[0], samples.picture(0)[:12, :12])
    assert np.array_equal(crops[1], samples.picture(1)[20:32, 30:42])
    with pytest.raises(DataError, match="one box for each of 2 samples, got 1"):
        samples.crops([0, 1], spec, boxes=[Box(0, 0, 12, 12)])


def test_recoloured_attacks_look_like_nobody_in_the_set_and_stay_attacks_without_relief() -> None:
    samples = toy_set(16)
    config = settings(msgspec.structs.replace(STILL, recoloured=0.5))
    needs = Needs(targets=DepthTargets(4, ("ellipsoid",)))
    plain = make_batch(samples, range(16), settings(), needs, (1, 2))
    made = make_batch(samples, range(16), config, needs, (1, 2))
    again = make_batch(samples, range(16), config, needs, (1, 2))
    changed = (made.rgb != plain.rgb).flatten(1).any(1)
    attacks = plain.labels < 0.5
    assert int(changed.sum()) == int(attacks.sum()) // 2
    assert bool(attacks[changed].all())
    assert torch.equal(made.labels, plain.labels)
    assert torch.equal(made.rgb, again.rgb)
    assert made.depth_targets is not None
    assert float(made.depth_targets[changed].abs().max()) == 0
    assert plain.depth_targets is not None
    assert torch.equal(made.depth_targets[~changed], plain.depth_targets[~changed])


def test_recoloured_attacks_are_refused_where_depth_is_seen() -> None:
    config = settings(msgspec.structs.replace(STILL, recoloured=0.5))
    with pytest.raises(ConfigError, match=r"augment\.recoloured"):
        make_batch(rgbd_set(8), range(8), config, Needs(depth=True), (1, 2))
