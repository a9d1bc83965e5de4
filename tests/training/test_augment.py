"""Augmentation: reproducible, in range, and nothing where nothing is configured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from training.config import AugmentConfig
from training.data.augment import augment

NOTHING = {"flip": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0}


def only(**values: float) -> AugmentConfig:
    return AugmentConfig(**(NOTHING | values))


def pictures(n: int = 6, side: int = 16) -> Tensor:
    return torch.randint(0, 256, (n, side, side, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


EVERYTHING = AugmentConfig(
    brightness=0.5, contrast=0.5, saturation=0.5, colour=0.3, grey=0.3, blur=0.5, noise=20, erase=0.5
)


def test_without_settings_pictures_stay_as_they_are() -> None:
    rgb = pictures()
    assert torch.equal(augment(rgb, only(), seeded()), rgb)


def test_the_generator_decides_everything_and_the_global_one_nothing() -> None:
    rgb = pictures()
    before = torch.get_rng_state()
    first = augment(rgb, EVERYTHING, seeded())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(augment(rgb, EVERYTHING, seeded()), first)
    assert not torch.equal(augment(rgb, EVERYTHING, seeded(2)), first)


def test_the_input_is_not_changed_and_the_output_is_bytes() -> None:
    rgb = pictures()
    kept = rgb.clone()
    out = augment(rgb, EVERYTHING, seeded())
    assert torch.equal(rgb, kept)
    assert (out.dtype, out.shape, out.is_contiguous()) == (torch.uint8, rgb.shape, True)


@pytest.mark.parametrize("value", [0, 255])
def test_values_are_clipped_and_never_wrap_round(value: int) -> None:
    out = augment(torch.full((50, 8, 8, 3), value, dtype=torch.uint8), only(brightness=0.9, noise=5), seeded()).int()
    # Noise of at most 5 on black stays dark; twice 255 stays white.
    assert out.max() < 40 if value == 0 else out.amax((1, 2, 3)).max() == 255


def test_a_flip_mirrors_columns_in_about_the_configured_share() -> None:
    rgb = pictures(200)
    assert torch.equal(augment(rgb, only(flip=1.0), seeded()), rgb.flip(2))
    flipped = (augment(rgb, only(flip=0.25), seeded()) == rgb.flip(2)).flatten(1).all(1)
    assert 30 <= int(flipped.sum()) <= 70


def test_brightness_is_a_factor_within_its_bounds() -> None:
    grey = torch.full((300, 4, 4, 3), 100, dtype=torch.uint8)
    out = augment(grey, only(brightness=0.2), seeded())
    levels = out[:, 0, 0, 0].int()
    assert (out == out[:, :1, :1, :1]).all()
    assert (int(levels.min()), int(levels.max())) == (80, 120)


def test_contrast_keeps_the_mean_luma() -> None:
    rgb = torch.randint(90, 160, (20, 16, 16, 3), generator=seeded()).to(torch.uint8)
    out = augment(rgb, only(contrast=0.4), seeded()).double()
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    before, after = (x.double() @ weights for x in (rgb, out))
    np.testing.assert_allclose(after.mean((1, 2)), before.mean((1, 2)), atol=0.1)
    ratio = after.std((1, 2)) / before.std((1, 2))
    assert 0.58 < float(ratio.min()) < 0.75
    assert 1.25 < float(ratio.max()) < 1.42


def test_grey_pictures_have_one_value_per_pixel() -> None:
    out = augment(pictures(), only(grey=1.0), seeded())
    assert torch.equal(out[..., 0], out[..., 1])
    assert torch.equal(out[..., 1], out[..., 2])


def test_losing_resolution_removes_detail_and_keeps_the_mean() -> None:
    rgb = pictures(8, 32)
    out = augment(rgb, only(blur=1.0), seeded())
    assert out.double().std() < 0.8 * rgb.double().std()
    np.testing.assert_allclose(out.double().mean((1, 2)), rgb.double().mean((1, 2)), atol=4)


def test_a_filled_rectangle_covers_a_quarter_at_most() -> None:
    rgb = pictures(100, 32)
    out = augment(rgb, only(erase=1.0), seeded())
    changed = (out != rgb).any(3)
    for one, picture in zip(changed, out, strict=True):
        rows, columns = torch.nonzero(one, as_tuple=True)
        height, width = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
        assert max(height, width) <= 17
        inside = picture[int(rows.min()) : int(rows.max()) + 1, int(columns.min()) : int(columns.max()) + 1]
        assert (inside == inside[0, 0, 0]).all()  # one grey
