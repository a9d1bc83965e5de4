"""Depth targets: each provider against values worked by hand, and who is asked when."""

from __future__ import annotations

import numpy as np
import pytest

from fasedge.preprocess import InputSpec, crop_face
from fasedge.types import Box, FloatArray, UInt16Array
from training.data.depth_targets import (
    DepthTargets,
    FaceGeometry,
    crop_region,
    ellipsoid_map,
    landmark_map,
    mask_map,
    relief_map,
    rendered_map,
    sensor_map,
)
from training.data.samples import SampleSet
from training.data.table import SampleRow, SetInfo
from training.errors import ConfigError, DataError

BOX = Box(20, 20, 60, 60)
SQUARE = Box(10, 10, 70, 70)


def pyramid() -> tuple[FloatArray, np.ndarray[tuple[int, int], np.dtype[np.int32]]]:
    """Four corners at z = −10 and a tip at z = 30 in the middle, over pixels 20 to 60."""
    points = [(20, 20, -10), (60, 20, -10), (60, 60, -10), (20, 60, -10), (40, 40, 30)]
    return np.array(points, np.float32), np.array([(0, 1, 4), (1, 2, 4), (2, 3, 4), (3, 0, 4)], np.int32)


def ball(depth_mm: float = 500.0) -> UInt16Array:
    """A depth map (80, 80): a face that falls off by 100 mm from its middle to the box's edge, a wall at 2 m."""
    y, x = np.mgrid[0:80, 0:80] + 0.5
    r2 = ((x - 40) / 20) ** 2 + ((y - 40) / 20) ** 2
    return np.where(r2 <= 1.0, depth_mm + 100.0 * r2, 2000.0).astype(np.uint16)


def test_the_ellipsoid_is_one_in_its_middle_zero_outside_and_has_its_volume() -> None:
    cells = ellipsoid_map(BOX, BOX, 32)
    assert cells.shape == (32, 32)
    assert cells.dtype == np.float32
    assert cells[15:17, 15:17].min() > 0.99
    assert cells[0, 0] == 0.0
    # Mean over the box: half the volume 4π/3 of a ball over the area 4 of the box.
    assert cells.mean() == pytest.approx(np.pi * 2 / 3 / 4, rel=1e-3)
    np.testing.assert_array_equal(cells, cells[::-1, ::-1])


def test_the_ellipsoid_lies_where_the_box_lies_in_the_crop() -> None:
    cells = ellipsoid_map(Box(10, 40, 40, 70), Box(0, 0, 80, 80), 8)
    rows, columns = np.nonzero(cells)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 6, 1, 3)


def test_the_mask_holds_the_share_of_each_cell_inside_the_ellipse() -> None:
    cells = mask_map(BOX, BOX, 16)
    assert set(np.unique(cells[4:12, 4:12])) == {1.0}
    assert cells.mean() == pytest.approx(np.pi / 4, rel=5e-3)
    assert ((cells > 0) & (cells < 1)).any()


def test_landmarks_make_a_pyramid_of_height_one_where_they_are() -> None:
    cells = landmark_map(*pyramid(), SQUARE, 30)  # 2 pixels a cell
    # The mean of max(|x|, |y|) over a cell of 2 pixels with its corner at the tip is 4/3 of 20.
    assert cells.max() == pytest.approx(1 - 4 / 3 / 20, abs=0.01)
    assert not cells[:4].any()
    assert not cells[:, 26:].any()
    for row in range(6, 24):
        for column in range(6, 24):
            x, y = 11 + 2 * column, 11 + 2 * row  # the cell's middle in pixels
            height = 1 - max(abs(x - 40), abs(y - 40)) / 20
            assert cells[row, column] == pytest.approx(height, abs=0.06)


def test_a_face_that_the_crop_cuts_off_keeps_its_heights() -> None:
    whole, cut = landmark_map(*pyramid(), SQUARE, 30), landmark_map(*pyramid(), Box(40, 10, 100, 70), 30)
    np.testing.assert_allclose(cut[:, :15], whole[:, 15:], atol=0.02)


def test_nearer_parts_hide_farther_ones() -> None:
    points = np.array([(0, 0, 0), (80, 0, 0), (40, 160, 0), (0, 0, 9), (80, 0, 9), (40, 160, 9)], np.float32)
    for triangles in ([(0, 1, 2), (3, 4, 5)], [(3, 4, 5), (0, 1, 2)]):
        cells = landmark_map(points, np.array(triangles, np.int32), Box(30, 30, 50, 50), 4)
        np.testing.assert_allclose(cells, 1.0)


def test_a_relief_is_scaled_from_its_lowest_to_its_highest_place() -> None:
    relief = np.full((8, 8), np.nan)
    relief[2:6, 2:6] = -3.0
    relief[2:4, 2:4] = 5.0
    relief[4:6, 4:6] = 1.0
    expected = np.zeros((4, 4))
    expected[1, 1], expected[2, 2] = 1.0, 0.5
    np.testing.assert_allclose(relief_map(relief, 4), expected)
    # Sizes that cells do not divide: a step between the third and the fourth of six columns, at cell 2.
    steps = np.repeat(np.array([[0.0, 0.0, 0.0, 2.0, 2.0, 2.0]]), 6, axis=0)
    np.testing.assert_allclose(relief_map(steps, 4), [[0.0, 0.0, 1.0, 1.0]] * 4)


def test_a_sensor_s_map_falls_by_the_depth_behind_the_nearest_point() -> None:
    cells = sensor_map(ball(), BOX, SQUARE, 30, reach_mm=200.0)
    for row, column in ((14, 14), (14, 20), (10, 14), (9, 9)):
        x, y = 11 + 2 * column, 11 + 2 * row
        r2 = ((x - 40) / 20) ** 2 + ((y - 40) / 20) ** 2
        assert cells[row, column] == pytest.approx(1 - 100 * r2 / 200, abs=0.05)
    assert not cells[0].any()
    assert not cells[:, -1].any()


def test_the_distance_of_the_camera_does_not_matter_nor_do_flying_pixels() -> None:
    near, far = ball(400.0), ball(1200.0)
    far[40, 40] = 700
    np.testing.assert_allclose(sensor_map(near, BOX, SQUARE), sensor_map(far, BOX, SQUARE), atol=0.02)


def test_holes_count_neither_as_near_nor_as_far() -> None:
    holed = ball()
    holed[::2] = 0
    np.testing.assert_allclose(sensor_map(holed, BOX, SQUARE, 15), sensor_map(ball(), BOX, SQUARE, 15), atol=0.06)
    holed[30:50, 30:50] = 0
    cells = sensor_map(holed, BOX, SQUARE, 15)
    assert not cells[6:9, 6:9].any()


def test_crops_that_reach_beyond_the_picture_are_zero_there() -> None:
    cells = sensor_map(ball(), BOX, Box(-60, 0, 20 + 60, 140), 35)
    assert not cells[:, :15].any()
    assert not cells[20:].any()
    assert cells.max() > 0.9


def test_a_rendered_map_is_read_as_shares_of_255() -> None:
    grey = np.zeros((256, 256), np.uint8)
    grey[64:192, 64:192] = 204
    cells = rendered_map(grey)
    assert cells.shape == (32, 32)
    assert cells[16, 16] == pytest.approx(0.8)
    assert cells.min() >= 0.0
    assert cells.max() <= 1.0
    assert not cells[:6].any()


def test_the_region_of_a_crop_is_what_the_crop_shows() -> None:
    picture = np.zeros((90, 90, 3), np.uint8)
    picture[37, 52] = 255
    box, spec = Box(21.3, 17.8, 60.9, 55.2), InputSpec(size_px=54, crop_scale=1.4)
    region = crop_region(box, spec)
    assert region.width == region.height == 54  # 1.4 · √(39.6 · 37.4) = 53.9
    shown = crop_face(picture, box, spec)
    row, column = np.argwhere(shown[..., 0] == 255)[0]
    assert (row, column) == (37 - region.y1, 52 - region.x1)


def test_attacks_are_zeros_whatever_they_carry() -> None:
    targets = DepthTargets(8)
    assert not targets.target(FaceGeometry(BOX, SQUARE, depth_mm=ball()), 0).any()
    assert targets.used == {}


def test_the_first_provider_that_can_makes_the_map_and_is_counted() -> None:
    landmarks, triangles = pyramid()
    targets = DepthTargets(16, ("landmarks", "sensor", "ellipsoid"), triangles)
    everything = FaceGeometry(BOX, SQUARE, landmarks=landmarks, depth_mm=ball())
    np.testing.assert_array_equal(targets.target(everything, 1), landmark_map(landmarks, triangles, SQUARE, 16))
    measured = FaceGeometry(BOX, SQUARE, depth_mm=ball())
    np.testing.assert_array_equal(targets.target(measured, 1), sensor_map(ball(), BOX, SQUARE, 16))
    np.testing.assert_array_equal(targets.target(FaceGeometry(BOX, SQUARE), 1), ellipsoid_map(BOX, SQUARE, 16))
    blind = FaceGeometry(BOX, SQUARE, depth_mm=np.zeros((80, 80), np.uint16))
    np.testing.assert_array_equal(targets.target(blind, 1), ellipsoid_map(BOX, SQUARE, 16))
    assert targets.used == {"landmarks": 1, "sensor": 1, "ellipsoid": 2}
    with pytest.raises(DataError, match="sensor"):
        DepthTargets(16, ("sensor",)).target(FaceGeometry(BOX, SQUARE), 1)


@pytest.mark.parametrize("with_depth", [True, False])
def test_a_set_of_samples_gets_maps_that_fit_its_crops(with_depth: bool) -> None:
    def row(index: int, label: int) -> SampleRow:
        return SampleRow(
            index=index,
            box_xyxy=BOX.xyxy,
            label=label,
            species="bona_fide" if label else "print",
            subtype="",
            source="",
            identity=str(index),
            picture="",
            split="train",
            params={},
        )

    depth = np.stack([ball()] * 3) if with_depth else None
    samples = SampleSet(
        np.zeros((3, 80, 80, 3), np.uint8),
        [row(0, 1), row(1, 0), row(2, 1)],
        SetInfo(split="train", seed=0, n=3, depth=with_depth),
        depth,
    )
    targets, spec = DepthTargets(12), InputSpec(size_px=48, crop_scale=1.5)
    maps = targets.batch(samples, [2, 1], spec)
    assert maps.dtype == np.float32
    region = Box(10, 10, 70, 70)
    expected = sensor_map(ball(), BOX, region, 12) if with_depth else ellipsoid_map(BOX, region, 12)
    np.testing.assert_array_equal(maps[0], expected)
    assert not maps[1].any()
    # A crop that is off by 10 pixels shows the face at another place.
    moved = targets.batch(samples, [0], spec, [Box(30, 20, 70, 60)])[0]
    np.testing.assert_allclose(moved[:, :10], maps[0][:, 2:], atol=0.05)
    with pytest.raises(DataError, match="one box for each of 2"):
        targets.batch(samples, [0, 1], spec, [BOX])


def test_maps_of_prepared_recordings_lie_where_the_face_is_in_the_crop() -> None:
    # The picture is the crop, cut at 1.25 times the face: the face is in its middle, 64 of 80 pixels wide.
    row = SampleRow(
        index=0,
        box_xyxy=(0.0, 0.0, 80.0, 80.0),
        label=1,
        species="bona_fide",
        subtype="bona_fide",
        source="",
        identity="",
        picture="",
        split="train",
        params={"face_x1": 8.0, "face_y1": 8.0, "face_x2": 72.0, "face_y2": 72.0},
    )
    info = SetInfo(split="train", seed=0, n=1, picture_px=80, origin="toy 1; rfmeta; 0")
    samples = SampleSet(np.zeros((1, 80, 80, 3), np.uint8), [row], info)
    cells = DepthTargets(20).batch(samples, [0], InputSpec(size_px=80, crop_scale=1.0))[0]
    rows, columns = np.nonzero(cells)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 17, 2, 17)


def test_damaged_geometry_and_impossible_settings_are_refused() -> None:
    landmarks, triangles = pyramid()
    for points, corners, words in (
        (landmarks[:, :2], triangles, "expected landmarks"),
        (landmarks[:4], triangles, "between the 4"),
        (landmarks * np.float32(np.nan), triangles, "finite"),
        (landmarks * np.float32([1, 1, 0]), triangles, "same height"),
    ):
        with pytest.raises(DataError, match=words):
            landmark_map(points, corners, SQUARE)
    for relief, words in ((np.full((8, 8), np.nan), "without a finite"), (np.ones((8, 8)), "same height")):
        with pytest.raises(DataError, match=words):
            relief_map(relief, 4)
    with pytest.raises(DataError, match="uint16"):
        sensor_map(ball().astype(np.float32), BOX, SQUARE)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="holes only"):
        sensor_map(np.zeros((80, 80), np.uint16), BOX, SQUARE)
    with pytest.raises(DataError, match="uint8"):
        rendered_map(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ConfigError, match="triangles"):
        DepthTargets(8, ("landmarks",))
    for bad in ((), ("prnet",)):
        with pytest.raises(ConfigError, match="ellipsoid"):
            DepthTargets(8, bad)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="one cell"):
        DepthTargets(0)
