"""Depth cameras: noise, steps, shadow and missing returns, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.data.simulate.depth_camera import draw_depth_camera, draw_driver, measure
from training.data.simulate.draws import Draws
from training.data.simulate.optics import grid
from training.data.simulate.scene import FACE_HALF
from training.data.simulate.surface import FACE_BOX_M, Surface, sheet_depth

QUIET = {"depth_noise": 0.0, "depth_flying": 0.0, "depth_least_return": 0.0, "depth_shift_x": 0.0,
         "depth_shift_y": 0.0, "depth_from_left": 0, "depth_filled": 0, "depth_smoothed": 0}  # fmt: skip


def shot(depth: torch.Tensor, reflectivity: float = 1.0, mirror: float = 0.0, **values: float | str) -> torch.Tensor:
    d = Draws(1, 2)
    draw_depth_camera(d)
    draw_driver(d)
    d.values |= QUIET | {"depth_profile": "tof"} | values
    z = depth.view(1, 1, *depth.shape)
    return measure(Surface(z, torch.full_like(z, reflectivity), torch.full_like(z, mirror)), [d])[0]


def test_noise_grows_with_the_square_of_the_distance() -> None:
    near, far = (shot(torch.full((128, 128), z), depth_noise=0.004).float().std() for z in (0.5, 1.0))
    assert float(near) == pytest.approx(4.0, rel=0.05)
    assert float(far) == pytest.approx(16.0, rel=0.05)


def test_depths_of_structured_light_lie_on_whole_disparity_steps() -> None:
    """Steps of 1/8 px at f*b = 43 px*m: z = 43 / (n / 8), so 1 m is n = 344 and the next 43 / (343 / 8) = 1.0029."""
    found = shot(torch.linspace(1.0, 1.003, 64).repeat(4, 1), depth_profile="structured_light")
    assert set(found.unique().tolist()) == {1000, 1003}


def test_black_and_mirror_like_surfaces_give_no_return_and_others_do() -> None:
    wall = torch.full((32, 32), 0.5)
    assert (shot(wall, reflectivity=0.05, depth_least_return=0.1) == 0).all()
    assert (shot(wall, mirror=1.0, depth_mirror_lost=1.0) == 0).all()
    assert (shot(wall) == 500).all()


def test_a_near_thing_throws_a_shadow_to_one_side_only() -> None:
    """0.5 m before 1 m with 5 px per 1/m: five pixels to the right of the thing, none to its left."""
    scene = torch.full((16, 48), 1.0)
    scene[:, 16:24] = 0.5
    row = shot(scene, depth_profile="structured_light")[8]
    assert (row == 0).nonzero().flatten().tolist() == [24, 25, 26, 27, 28]


def test_a_driver_that_smooths_leaves_no_hole_and_less_noise() -> None:
    """Five equal weights along both axes take the noise to a fifth; those beyond the stop make it a little more."""
    wall = torch.full((64, 64), 0.5)
    wall[20:30, 20:30] = 1.4
    noisy = {"depth_noise": 0.002, "depth_least_return": 0.5, "depth_smooth_stop": 0.02, "depth_smooth_passes": 1}
    raw, smooth = (shot(wall, depth_smoothed=k, **noisy) for k in (0, 1))
    assert (raw == 0).any()
    assert (smooth > 0).all()
    before, after = (m[40:].float().std() for m in (raw, smooth))
    assert float(before) == pytest.approx(2.0, rel=0.1)
    assert float(after) < 0.3 * float(before)


def test_a_driver_that_smooths_makes_no_wall_up_where_a_room_returns_nothing() -> None:
    """A head before darkness: its edge grows by 8 % of the map's side and no more."""
    scene = torch.full((64, 64), 60.0)
    scene[16:48, 16:48] = 0.5
    map_mm = shot(scene, depth_smoothed=1, depth_smooth_stop=0.01, depth_smooth_passes=1, depth_least_return=0.1)
    returned = (map_mm > 0).nonzero()
    # Six pixels: 8 % of 64, in steps of two.
    assert returned.min() == 16 - 6
    assert returned.max() == 47 + 6
    assert set(map_mm.unique().tolist()) == {0, 500}


def test_a_driver_that_smooths_keeps_edges_between_surfaces() -> None:
    """A step of 20 mm at 0.5 m is more than a hundredth of the distance, one of 4 mm is less."""
    scene = torch.full((16, 32), 0.5)
    scene[:, 8:] = 0.52
    scene[:, 24:] = 0.524
    row = shot(scene, depth_smoothed=1, depth_smooth_stop=0.01, depth_smooth_passes=1)[8].tolist()
    assert row[:8] == [500] * 8
    assert row[8:20] == [520] * 12
    # Means of 520 and 524 over five pixels: 520.8, 521.6, 522.4, 523.2.
    assert row[22:26] == [521, 522, 522, 523]
    assert row[26:] == [524] * 6


def test_a_measurement_is_the_same_from_the_same_seed() -> None:
    wall = torch.full((32, 32), 0.6)
    assert torch.equal(shot(wall, depth_noise=0.002), shot(wall, depth_noise=0.002))


def test_a_bent_sheet_is_a_cylinder_of_the_stated_radius() -> None:
    """Every point of the cross-section lies on one circle, fitted by linear least squares."""
    d = Draws(1, 2)
    d.values |= {"bend": 0.9, "bend_angle": 0.0}
    points = grid(4, 64)
    z = sheet_depth(points, points[None], torch.full((1, 1, 1, 1), 0.5), [d])[0, 0, 0].double().numpy()
    x = points[0, :, 0].double().numpy() * FACE_BOX_M / (2 * FACE_HALF)
    a, b, c = np.linalg.lstsq(np.stack([x, z, np.ones(64)], 1), x**2 + z**2, rcond=None)[0]
    assert np.sqrt(c + (a**2 + b**2) / 4) == pytest.approx(0.21 / 0.9, rel=1e-3)


def test_a_tilted_flat_sheet_is_a_plane_in_space() -> None:
    """1 / z of a plane is linear in the picture."""
    d = Draws(1, 2)
    d.values |= {"view_tilt_x": 0.2, "view_tilt_y": -0.1}
    points = grid(24, 24)
    z = sheet_depth(points, points[None], torch.full((1, 1, 1, 1), 0.5), [d])[0, 0].double().numpy()
    xy = points.double().numpy().reshape(-1, 2)
    design = np.concatenate([xy, np.ones((len(xy), 1))], 1)
    weights, *_ = np.linalg.lstsq(design, 1 / z.ravel(), rcond=None)
    assert np.abs(design @ weights * z.ravel() - 1).max() < 1e-5
    assert z.max() - z.min() > 0.1
