"""The first layer of networks that see depth."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.errors import BatchError, ConfigError
from training.inputs import GraphInput
from training.inputs_depth import BytesInput, depth_input, rgbd_input


def some_bytes(channels: int) -> torch.Tensor:
    return torch.randint(0, 256, (2, 5, 7, channels), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(("layer", "channels"), [(rgbd_input(), 4), (depth_input(), 1)])
def test_bytes_become_shares_of_255_in_channels_first(layer: BytesInput, channels: int) -> None:
    x = some_bytes(channels)
    out = layer(x)
    assert (out.dtype, out.shape) == (torch.float32, (2, channels, 5, 7))
    np.testing.assert_allclose(out, np.moveaxis(x.numpy() / 255.0, 3, 1), atol=1e-7)


def test_imagenet_normalises_colour_as_the_colour_networks_do_and_depth_by_the_mean_over_colour() -> None:
    x = some_bytes(4)
    out = rgbd_input("imagenet")(x)
    torch.testing.assert_close(out[:, :3], GraphInput()(x[..., :3]), rtol=1e-5, atol=1e-5)
    # (0.485 + 0.456 + 0.406) / 3 = 0.449 and (0.229 + 0.224 + 0.225) / 3 = 0.226
    expected = (x[..., 3].double().numpy() / 255 - 0.449) / 0.226
    np.testing.assert_allclose(out[:, 3], expected, atol=1e-5)
    np.testing.assert_allclose(depth_input("imagenet")(x[..., 3:])[:, 0], expected, atol=1e-5)


def test_another_number_of_channels_is_refused_instead_of_broadcast() -> None:
    for layer, channels in ((rgbd_input(), 3), (depth_input(), 4)):
        with pytest.raises(BatchError, match=rf"got \(2, 5, 7, {channels}\)"):
            layer(some_bytes(channels))
    with pytest.raises(BatchError, match=r"\(N, S, S, 1\)"):
        depth_input()(some_bytes(1)[..., 0])


def test_unknown_normalisations_and_impossible_divisors_are_refused() -> None:
    for make in (rgbd_input, depth_input):
        with pytest.raises(ConfigError, match="'none'"):
            make("none")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="divisor > 0"):
        BytesInput((0.5,), (0.0,))
    with pytest.raises(ConfigError, match="every channel"):
        BytesInput((0.5, 0.5), (1.0,))


def test_the_layer_puts_nothing_into_a_checkpoint_and_exports() -> None:
    layer = rgbd_input("imagenet")
    assert not layer.state_dict()
    x = some_bytes(4)
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x))
