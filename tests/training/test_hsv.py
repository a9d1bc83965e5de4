"""HSV in the graph against Pillow, the standard library and OpenCV."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
import pytest
import torch

from training.errors import BatchError
from training.methods.hsv import RgbHsvInput, rgb_to_hsv


def colours(count: int = 4000) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    rng = np.random.default_rng(3)
    some = rng.integers(0, 256, (count, 3))
    dark = rng.integers(0, 4, (count, 3))
    grey = np.repeat(np.arange(256)[:, None], 3, axis=1)
    corners = np.stack(np.meshgrid([0, 1, 254, 255], [0, 1, 254, 255], [0, 1, 254, 255]), -1).reshape(-1, 3)
    return np.concatenate([some, dark, grey, corners]).astype(np.uint8)


@pytest.mark.parametrize("red", [0, 1, 2, 85, 127, 200, 254, 255])
def test_every_green_and_blue_beside_a_red_becomes_what_pillow_makes_of_it(red: int) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    green, blue = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8), indexing="ij")
    rgb = np.stack([np.full_like(green, red), green, blue], axis=-1)
    expected = np.array(image.fromarray(rgb).convert("HSV"))
    np.testing.assert_array_equal(rgb_to_hsv(torch.from_numpy(rgb)).numpy(), expected)


def test_values_are_those_of_the_standard_library_less_a_fraction() -> None:
    for rgb in colours(300):
        expected = np.array(colorsys.rgb_to_hsv(*(rgb / 255.0))) * 255.0
        difference = expected - rgb_to_hsv(torch.from_numpy(rgb)).numpy()
        assert (difference > -1e-3).all(), rgb
        assert (difference < 1.0 + 1e-3).all(), rgb


def test_hue_and_saturation_agree_with_opencv_on_its_own_scale() -> None:
    rgb = colours()
    ours = rgb_to_hsv(torch.from_numpy(rgb)).numpy()
    theirs = cv2.cvtColor((rgb[None] / np.float32(255)).astype(np.float32), cv2.COLOR_RGB2HSV)[0]
    hue = np.abs(ours[:, 0] / 255 - theirs[:, 0] / 360)
    assert np.minimum(hue, 1 - hue).max() < 1 / 255 + 1e-4
    assert np.abs(ours[:, 1] / 255 - theirs[:, 1]).max() < 1 / 255 + 1e-4
    np.testing.assert_array_equal(ours[:, 2], rgb.max(1))


def test_six_pure_colours_have_the_hues_of_the_hexcone() -> None:
    pure = torch.tensor([[255, 0, 0], [255, 255, 0], [0, 255, 0], [0, 255, 255], [0, 0, 255], [255, 0, 255]])
    assert rgb_to_hsv(pure.to(torch.uint8)).tolist() == [
        [0.0, 255.0, 255.0],
        [42.0, 255.0, 255.0],  # 255 / 6 = 42.5, cut off
        [85.0, 255.0, 255.0],
        [127.0, 255.0, 255.0],
        [170.0, 255.0, 255.0],
        [212.0, 255.0, 255.0],
    ]


def test_the_layer_puts_colour_and_hue_side_by_side_over_255() -> None:
    rgb = torch.from_numpy(colours()[:64]).reshape(1, 8, 8, 3)
    x = RgbHsvInput()(rgb)
    assert x.shape == (1, 6, 8, 8)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x[0, :3], rgb[0].permute(2, 0, 1) / 255.0)
    torch.testing.assert_close(x[0, 3:], rgb_to_hsv(rgb[0]).permute(2, 0, 1) / 255.0)


def test_pictures_with_channels_first_are_refused() -> None:
    with pytest.raises(BatchError, match=r"\(N, S, S, 3\)"):
        RgbHsvInput()(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
