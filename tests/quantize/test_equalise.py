"""Equalised channels: the same function, and channels that share one step fairly."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from quantize.equalise import MAX_FACTOR, TAIL, bound, equalise, with_bounds
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


class Chain(nn.Module):
    """Convolutions with ReLUs between them, as a plain trunk is; the last value is the head's."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.relu = nn.ReLU()
        self.second = nn.Conv2d(6, 6, 1)
        self.relu_2 = nn.ReLU()
        self.last = nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.relu_2(self.second(self.relu(self.first(x)))))
        return out


class Branched(nn.Module):
    """A ReLU whose values are added to what a convolution makes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 1)
        self.relu = nn.ReLU()
        self.second = nn.Conv2d(6, 6, 1)
        self.last = nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.relu(self.first(x))
        out: Tensor = self.last(a + self.second(a))
        return out


def uneven(trunk: nn.Module) -> ExportModel:
    """A model whose first convolution writes channels of very different ranges."""
    torch.manual_seed(2)
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
    first = trunk.get_submodule("first")
    assert isinstance(first, nn.Conv2d)
    assert first.bias is not None
    with torch.no_grad():
        first.weight *= torch.tensor([1.0, 1, 1, 20, 1, 2])[:, None, None, None]
        first.bias.fill_(0.05)
    return ExportModel(PixelCosineStudent(trunk, 5), Platt(4.0, 0.0))


@pytest.mark.parametrize("trunk", [Chain, Branched])
def test_factors_pass_a_relu_and_the_function_stays_the_same(trunk: type[nn.Module]) -> None:
    model = uneven(trunk())
    result, rgb = equalise(model, crops()), torch.from_numpy(crops())
    with torch.no_grad():
        torch.testing.assert_close(result.features(rgb), model.features(rgb), rtol=1e-4, atol=1e-4)
    before, after = peaks(model, "relu"), peaks(result, "relu")
    assert after.max() == pytest.approx(float(before.max()), rel=1e-4)
    assert float(after.max() / after.min()) < 0.5 * float(before.max() / before.min())


def test_behind_a_relu_half_of_the_difference_is_left_to_the_weights() -> None:
    model = uneven(Chain())
    before = peaks(model, "relu")
    torch.testing.assert_close(
        peaks(equalise(model, crops()), "relu"), (before * before.max()).sqrt(), rtol=1e-3, atol=1e-4
    )


def test_bounded_relus_end_at_six_where_the_widest_channel_ends() -> None:
    model = uneven(Chain())
    result, names = bound(model, crops())
    assert names == ("relu", "relu_2")
    assert all(isinstance(result.trunk.get_submodule(name), nn.ReLU6) for name in names)
    assert all(isinstance(model.trunk.get_submodule(name), nn.ReLU) for name in names)
    for name in names:
        assert float(peaks(result, name).max()) == pytest.approx(6, rel=1e-4)
    with torch.no_grad():  # no tail in so few pictures: nothing is cut
        rgb = torch.from_numpy(crops())
        torch.testing.assert_close(result.features(rgb), model.features(rgb), rtol=1e-4, atol=1e-4)


def test_what_is_rarer_than_the_tail_is_cut_off() -> None:
    model, rgb = uneven(Chain()), crops(180)  # 180 pictures of 64 values: one of a channel is in the tail
    values = []
    model.trunk.get_submodule("relu").register_forward_hook(lambda _m, _i, out: values.append(out))
    result, _ = bound(model, rgb)
    values.clear()
    with torch.no_grad():
        model.features(torch.from_numpy(rgb))
    every = values[0].transpose(0, 1).flatten(1)
    assert every.shape[1] * TAIL > 1
    second = every.topk(2, dim=1).values[:, 1]
    ratio = result.trunk.get_submodule("first").weight / model.trunk.get_submodule("first").weight
    torch.testing.assert_close(ratio, torch.full_like(ratio, 6 / float(second.max())))


def test_a_relu_whose_values_are_added_is_not_bounded() -> None:
    model = uneven(Branched())
    result, names = bound(model, crops())
    assert names == ()
    assert all(torch.equal(a, b) for a, b in zip(result.parameters(), model.parameters(), strict=True))


def test_only_relus_can_be_bounded() -> None:
    with pytest.raises(ConversionError, match="no ReLU of the name 'first'"):
        with_bounds(uneven(Chain()), ["first"])
