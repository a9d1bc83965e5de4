"""Holes in depth: where they lie, that enough is left, and that training sees them in the scale of what is left."""

from __future__ import annotations

import numpy as np
import pytest

from fasedge.depth import crop_depth, measure_face_depth
from fasedge.preprocess import InputSpec
from fasedge.types import Box
from tests.training.fixtures.evaluation_sets import drawn_set
from training.config import AugmentConfig, InputConfig, TrainConfig, check_config
from training.data.batches import depth_crops, make_batch
from training.data.holes import KINDS, with_hole
from training.errors import ConfigError, DataError
from training.tasks import Needs

BOX = Box(20, 10, 60, 50)
DEPTH = np.full((64, 80), 700, np.uint16)


def hole(seed: int) -> np.ndarray:
    return with_hole(DEPTH, BOX, np.random.default_rng(seed)) == 0


def share_left(made: np.ndarray) -> float:
    return float((~made[10:50, 20:60]).mean())


def test_every_kind_comes_and_leaves_at_least_a_quarter_of_the_face() -> None:
    made = [hole(seed) for seed in range(200)]
    assert not DEPTH[DEPTH != 700].size  # the map itself is not touched
    shares = [share_left(one) for one in made]
    assert min(shares) >= 0.25
    assert sum(share < 1 for share in shares) > 150
    # Rims and frames take the corners of the box and leave its middle; patches leave most corners.
    corners = [one[[11, 11, 48, 48], [21, 58, 21, 58]].sum() for one in made]
    middles = [bool(one[30, 40]) for one in made]
    assert sum(count == 4 and not middle for count, middle in zip(corners, middles, strict=True)) > 40
    assert sum(count == 0 and share < 1 for count, share in zip(corners, shares, strict=True)) > 20
    assert len(KINDS) == 4


def test_the_same_generator_gives_the_same_hole() -> None:
    np.testing.assert_array_equal(hole(3), hole(3))
    assert any(not np.array_equal(hole(3), hole(seed)) for seed in range(4, 8))


def test_a_map_without_any_depth_stays_as_it_is() -> None:
    empty = np.zeros((64, 80), np.uint16)
    assert with_hole(empty, BOX, np.random.default_rng(0)) is empty


def test_the_scale_is_measured_on_what_is_left() -> None:
    samples, spec = drawn_set("train", depth=True), InputSpec(size_px=32, crop_scale=0.9)
    boxes = samples.boxes([0])
    made = depth_crops(samples, [0], spec, boxes, holes=1.0, rng=np.random.default_rng(5))
    # The same draws by hand: one decides whether there is a hole, the rest make it.
    rng = np.random.default_rng(5)
    rng.random()
    holed = with_hole(samples.depth_mm(0), boxes[0], rng)
    np.testing.assert_array_equal(made[0], crop_depth(holed, boxes[0], spec, measure_face_depth(holed, boxes[0])))
    assert (holed == 0).sum() > (samples.depth_mm(0) == 0).sum()
    plain = depth_crops(samples, [0], spec, boxes, holes=0.0, rng=np.random.default_rng(5))
    np.testing.assert_array_equal(plain, depth_crops(samples, [0], spec, boxes))
    with pytest.raises(DataError, match="holes needs rng"):
        depth_crops(samples, [0], spec, boxes, holes=0.5)


def test_a_box_that_was_found_gives_the_scale_where_that_is_asked_for() -> None:
    samples, spec = drawn_set("train", depth=True), InputSpec(size_px=32, crop_scale=0.9)
    moved = [Box(2.0, 2.0, 40.0, 40.0)]
    depth_mm = samples.depth_mm(0)
    there = depth_crops(samples, [0], spec, moved, found=True)[0]
    np.testing.assert_array_equal(there, crop_depth(depth_mm, moved[0], spec, measure_face_depth(depth_mm, moved[0])))
    assert not np.array_equal(there, depth_crops(samples, [0], spec, moved)[0])


def test_holes_change_depth_alone_and_only_as_often_as_they_shall() -> None:
    samples = drawn_set("train", depth=True, people=6)
    places = list(range(len(samples)))

    def batch(holes: float) -> tuple[np.ndarray, np.ndarray]:
        config = TrainConfig(input=InputConfig(size_px=32, crop_scale=0.9), augment=AugmentConfig(holes=holes))
        made = make_batch(samples, places, config, Needs(depth=True), key=[1, 2])
        return made.rgb.numpy(), made.depth.numpy()

    (rgb, depth), (same_rgb, half), (_, all_) = batch(0.0), batch(0.5), batch(1.0)
    np.testing.assert_array_equal(rgb, same_rgb)
    changed = [not np.array_equal(a, b) for a, b in zip(depth, half, strict=True)]
    assert 0.2 < np.mean(changed) < 0.8
    assert np.mean([not np.array_equal(a, b) for a, b in zip(depth, all_, strict=True)]) > np.mean(changed)


def test_a_share_beyond_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="recoloured and holes must lie in"):
        check_config(TrainConfig(augment=AugmentConfig(holes=1.5)))
