"""Equalised channels: the same function, and channels that share one step fairly."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from quantize.equalise import MAX_FACTOR, equalise
from quantize.errors import ConversionError
from quantize.students import ExportModel, PixelCosineStudent, Platt


class Residual(nn.Module):
    """Linear tensors: ``a`` (read by a depthwise and, through the addition, by the last convolution) and ``b``."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.relu = nn.ReLU6()
        self.project = nn.Conv2d(6, 6, 1)
        self.last = nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.first(x)
        b: Tensor = self.project(self.relu(self.depthwise(a)))
        out: Tensor = self.last(a + b)
        return out


@pytest.fixture
def model() -> ExportModel:
    torch.manual_seed(1)
    trunk = Residual()
    with torch.no_grad():
        trunk.first.weight[0] *= 30
        trunk.project.weight[3] *= 20
    return ExportModel(PixelCosineStudent(trunk, 5), Platt(4.0, 0.0))


def crops(n: int = 24) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 16, 16, 3)).astype(np.uint8)


def peaks(model: ExportModel, name: str) -> Tensor:
    found = []
    handle = model.trunk.get_submodule(name).register_forward_hook(
        lambda _m, _i, out: found.append(out.abs().amax((0, 2, 3)))
    )
    with torch.no_grad():
        model.features(torch.from_numpy(crops()))
    handle.remove()
    return found[0]


def test_the_function_stays_the_same(model: ExportModel) -> None:
    rgb = torch.from_numpy(crops())
    with torch.no_grad():
        torch.testing.assert_close(equalise(model, crops()).features(rgb), model.features(rgb), rtol=1e-4, atol=1e-4)


def test_tensors_that_are_added_get_the_same_factors_and_the_widest_channels_stay(model: ExportModel) -> None:
    result = equalise(model, crops())
    factors = [peaks(result, name) / peaks(model, name) for name in ("first", "project")]
    torch.testing.assert_close(factors[0], factors[1], rtol=1e-3, atol=1e-3)
    assert factors[0].min() == pytest.approx(1, abs=1e-3)
    assert factors[0].max() > 5  # one channel was thirty times as wide as the others


def test_each_channel_reaches_the_range_of_the_widest_one_somewhere(model: ExportModel) -> None:
    result = equalise(model, crops())
    with torch.no_grad():
        values = result.trunk.first(result.input(torch.from_numpy(crops())))
        added = values + result.trunk.project(result.trunk.relu(result.trunk.depthwise(values)))
    reached = torch.stack([values.abs().amax((0, 2, 3)), peaks(result, "project"), added.abs().amax((0, 2, 3))]).amax(0)
    assert reached.min() / reached.max() == pytest.approx(1, rel=1e-3)


def test_what_an_activation_or_the_head_reads_is_left_alone(model: ExportModel) -> None:
    result = equalise(model, crops())
    # Each filter may be scaled as a whole by what it reads, never by what it writes.
    ratio = result.trunk.depthwise.weight / model.trunk.depthwise.weight
    torch.testing.assert_close(result.trunk.depthwise.bias, model.trunk.depthwise.bias)
    assert ratio.std(dim=(1, 2, 3)).max() < 1e-5
    torch.testing.assert_close(result.trunk.last.bias, model.trunk.last.bias)


def test_the_model_passed_in_is_not_changed(model: ExportModel) -> None:
    before = copy.deepcopy(model.state_dict())
    equalise(model, crops())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_channel_that_never_moves_is_not_blown_up_without_bound() -> None:
    trunk = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.Conv2d(2, 2, 1, bias=False))
    trunk[0].weight.data[1] = 0
    model = ExportModel(PixelCosineStudent(trunk, 2), Platt(1.0, 0.0))
    result = equalise(model, crops())
    ratio = model.trunk.get_submodule("1").weight / result.trunk.get_submodule("1").weight
    assert ratio[:, 1].max() == pytest.approx(MAX_FACTOR)


def test_a_trunk_that_is_not_folded_is_refused(model: ExportModel) -> None:
    model.trunk = Residual()
    assert not isinstance(model.trunk, fx.GraphModule)
    with pytest.raises(ConversionError, match="folded"):
        equalise(model, crops())
