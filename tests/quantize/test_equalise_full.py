"""Equalised networks of full size: the same function, and no tensor scaled that something else reads."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quantize.equalise_full import Chain, chains, equalise_full
from quantize.full import load_full
from quantize.students import Exportable
from tests.quantize.test_full import METHODS, SIDE_PX, trained


def crops(n: int, channels: int = 3, side: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, side, side, channels)).astype(np.uint8)


class Toy(Exportable):
    """Behind the first ReLU a pooling and a convolution, behind the second a convolution and a sum, then a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.second, self.third = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        self.inputs = MappingProxyType({"rgb": 3})
        self.outputs = ("score",)

    def forward(self, rgb: Tensor) -> tuple[Tensor]:
        x = rgb.permute(0, 3, 1, 2).float() / 255
        x = nn.functional.max_pool2d(torch.relu(self.norm(self.first(x))), 2)
        y = torch.relu(self.second(x))
        return (torch.relu(self.third(y) + y).mean(dim=(1, 2, 3)),)


@pytest.fixture
def toy() -> Toy:
    torch.manual_seed(3)
    model = Toy().eval()
    with torch.no_grad():
        model.norm.weight.copy_(torch.tensor([1.0, 1, 8, 1, 1, 1]))
        model.norm.bias.fill_(0.1)
    return model


def test_a_tensor_that_something_else_reads_too_is_left_alone(toy: Toy) -> None:
    assert chains(toy, crops(1)) == [Chain(("norm.weight", "norm.bias"), ("second.weight",))]


def test_filters_that_stand_in_two_places_are_left_alone(toy: Toy) -> None:
    toy.third = toy.second
    toy.third.padding = (1, 1)
    assert chains(toy, crops(1)) == []
    assert equalise_full(toy, crops(2)) == 0


def test_ranges_come_nearer_to_each_other_and_the_score_stays(toy: Toy) -> None:
    rgb = torch.from_numpy(crops(12))

    def said() -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []
        hook = toy.second.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].amax(dim=(0, 2, 3))))
        with torch.no_grad():
            score = toy(rgb)[0]
        hook.remove()
        return score, seen[0]

    before, first = said()
    assert equalise_full(toy, crops(12)) == 1
    after, last = said()
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(last, (first * first.max()).sqrt(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_networks_of_the_methods_score_as_before(method: str, tmp_path: Path) -> None:
    model, _ = load_full(trained(tmp_path / "m", method))
    shown = crops(4, sum(model.inputs.values()), SIDE_PX)
    with torch.no_grad():
        before = model(torch.from_numpy(shown))[0]
        found = equalise_full(model, shown)
        after = model(torch.from_numpy(shown))[0]
    assert found >= {"a-deeppixbis": 36, "cmfl": 72, "rfmeta": 12}[method]
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
