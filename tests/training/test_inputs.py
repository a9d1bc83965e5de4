"""The first layer of every network: bytes to normalised values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.errors import ConfigError
from training.inputs import BrightnessNorm, GraphInput

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def even(r: int, g: int, b: int) -> torch.Tensor:
    return torch.tensor([r, g, b], dtype=torch.uint8).expand(1, 4, 4, 3)


def undone(out: torch.Tensor) -> np.ndarray:
    """(3,) values before mean and standard deviation, of an even picture."""
    assert (out == out[:, :, :1, :1]).all()
    return out[0, :, 0, 0].double().numpy() * STD + MEAN


def test_without_brightness_rule_bytes_become_shares_of_white_in_channels_first() -> None:
    rgb = torch.randint(0, 256, (2, 5, 7, 3), dtype=torch.uint8)
    out = GraphInput()(rgb)
    assert (out.dtype, out.shape) == (torch.float32, (2, 3, 5, 7))
    expected = (rgb.double().numpy() / 255 - MEAN) / STD
    np.testing.assert_allclose(out.permute(0, 2, 3, 1), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [
        # Luma 0.299·100 + 0.587·150 + 0.114·50 = 123.65; gain 0.45·255/123.65 = 0.92802.
        ((100, 150, 50), (0.36393, 0.54589, 0.18196)),
        # Luma 20: 0.45·255/20 = 5.7 is more than 3.
        ((20, 20, 20), (60 / 255, 60 / 255, 60 / 255)),
        # Luma 250: gain 0.459, above 0.4.
        ((250, 250, 250), (0.45, 0.45, 0.45)),
        # Black has no luma to divide by.
        ((0, 0, 0), (0, 0, 0)),
        # Luma 76.245: gain 1.505; red would be 1.505 and is cut at white.
        ((255, 0, 0), (1, 0, 0)),
    ],
)
def test_brightness_is_brought_to_the_target_within_the_gains_and_cut_at_white(
    rgb: tuple[int, int, int], expected: tuple[float, float, float]
) -> None:
    np.testing.assert_allclose(undone(GraphInput(BrightnessNorm())(even(*rgb))), expected, atol=2e-5)


def test_the_smallest_gain_holds() -> None:
    out = undone(GraphInput(BrightnessNorm(target=0.2))(even(255, 255, 255)))
    np.testing.assert_allclose(out, 0.4, atol=1e-6)


def test_a_grey_world_brings_each_channel_to_the_target_within_the_gains() -> None:
    out = undone(GraphInput(BrightnessNorm(grey_world=True))(even(100, 200, 10)))
    # 0.45·255/100 and /200 lie within 0.4 and 3; 0.45·255/10 does not.
    np.testing.assert_allclose(out, (0.45, 0.45, 3 * 10 / 255), atol=1e-4)


def test_a_colour_cast_makes_no_difference_in_a_grey_world_and_does_otherwise() -> None:
    rng = np.random.default_rng(0)
    plain = torch.from_numpy(rng.integers(60, 160, (1, 16, 16, 3), np.uint8))
    cast = (plain.double() * torch.tensor([1.3, 1.0, 0.7])).round().to(torch.uint8)
    differences = {}
    for grey_world in (True, False):
        see = GraphInput(BrightnessNorm(grey_world=grey_world))
        differences[grey_world] = float((see(plain) - see(cast)).abs().max())
    assert differences[True] < 0.05  # what is left is the rounding to bytes
    assert differences[False] > 0.3


def test_each_picture_of_a_batch_has_its_own_gain() -> None:
    layer = GraphInput(BrightnessNorm())
    both = torch.cat([even(60, 60, 60), even(200, 200, 200)])
    np.testing.assert_allclose(layer(both)[0], layer(even(60, 60, 60))[0], atol=1e-6)
    np.testing.assert_allclose(layer(both)[0], layer(both)[1], atol=1e-5)


def test_the_layer_has_nothing_to_train_or_to_store() -> None:
    layer = GraphInput(BrightnessNorm())
    assert not list(layer.parameters())
    assert not layer.state_dict()


@pytest.mark.parametrize("values", [{"target": 0}, {"target": 1}, {"min_gain": 0}, {"max_gain": 0.1}, {"ceiling": 0}])
def test_impossible_rules_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="need 0 < target < 1"):
        BrightnessNorm(**values)
