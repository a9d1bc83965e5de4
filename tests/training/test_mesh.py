"""Face meshes: triangles found pixel by pixel, and heights between corners, against planes worked out by hand."""

from __future__ import annotations

import numpy as np

from training.data.simulate.mesh import rasterize


def test_weights_of_a_triangle_give_back_a_plane() -> None:
    """Any linear function of the place is mixed exactly from its values at the corners."""
    corners = np.array([[-0.8, -0.7], [0.9, -0.6], [0.1, 0.8]], np.float32)
    seen, weights = rasterize(corners, np.zeros(3, np.float32), np.array([[0, 1, 2]], np.int32), 64)
    y, x = np.nonzero(seen == 0)
    place = (np.stack([x, y], 1) + 0.5) / 64 * 2 - 1
    found = weights[y, x] @ (corners @ np.array([0.3, -0.5]) + 0.2)
    # Pixels that the filler adds along the edges take the nearest point of the triangle.
    assert np.abs(found - (place @ np.array([0.3, -0.5]) + 0.2)).max() < 0.03
    area = 0.5 * abs(1.7 * 1.5 - 0.9 * 0.1)
    assert abs(len(x) / 64**2 * 4 - area) < 0.1


def test_a_nearer_triangle_hides_a_farther_one() -> None:
    xy = np.array([[-0.9, -0.9], [0.9, -0.9], [0, 0.9]] * 2, np.float32)
    height = np.array([0, 0, 0, 1, 1, 1], np.float32)
    for triangles, near in (([[0, 1, 2], [3, 4, 5]], 1), ([[3, 4, 5], [0, 1, 2]], 0)):
        seen, _ = rasterize(xy, height, np.array(triangles, np.int32), 32)
        assert set(np.unique(seen)) == {-1, near}
