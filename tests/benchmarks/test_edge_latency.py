"""The yardstick has the published size, and candidates are timed against it in one run."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.edge_latency import CANDIDATES, YARDSTICK, candidate, measure, multiplications
from benchmarks.minifasnet import SIZE_PX, MiniFASNetV2
from quantize.grid import in_float as leading_float
from training.errors import ConfigError


def test_the_yardstick_has_the_published_number_of_parameters_and_multiplications() -> None:
    net = MiniFASNetV2()
    # "0.43" million and "0.044" thousand million in the authors' code; theirs count normalisations as well.
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 2) == 0.43
    assert multiplications(net, SIZE_PX) / 1e9 == pytest.approx(0.044, rel=0.1)
    score, probabilities = net.eval()(torch.zeros(2, SIZE_PX, SIZE_PX, 3, dtype=torch.uint8))
    assert tuple(score.shape) == (2,)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2))


def test_multiplications_are_counted_as_by_hand() -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.deep, self.last = (
                nn.Conv2d(3, 4, 3, stride=2, padding=1),
                nn.Conv2d(4, 4, 3, groups=4),
                nn.Linear(4, 2),
            )

        def forward(self, rgb: torch.Tensor) -> torch.Tensor:
            x = self.deep(self.conv(rgb.permute(0, 3, 1, 2).float()))
            return self.last(x.mean((2, 3)))

    # 8x8 places of 4 filters of 3x3x3; 6x6 places of 4 filters of 3x3; 2 outputs of 4.
    assert multiplications(Small(), 16) == 64 * 4 * 27 + 36 * 4 * 9 + 8


@pytest.mark.parametrize("name", ["plain_m", "plain_m@", "plain_m@0", "plain_m@100", "resnet@128"])
def test_a_candidate_that_does_not_exist_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match="TRUNK@SIDE"):
        candidate(name)


def test_all_candidates_are_trunks_of_this_repository() -> None:
    for name in CANDIDATES:
        _, side = candidate(name)
        assert name.endswith(f"@{side}")


@pytest.mark.slow
def test_each_network_is_timed_at_both_precisions_and_the_yardstick_is_one() -> None:
    found = measure(["plain_s@32"], ["openvino"], rounds=1, threads=1)
    assert [(t.name, t.precision) for t in found] == [
        (YARDSTICK, "fp32"), ("plain_s@32", "fp32"), ("plain_s@32", "int8"),
    ]  # fmt: skip
    assert found[0].ratio == 1
    assert all(0 < t.fastest_ms <= t.median_ms for t in found)
    assert found[2].kilobytes < found[1].kilobytes / 2
    assert found[2].in_float["Convolution"] == leading_float("plain_s").convs + 1  # and the filter of the head
    assert not found[1].in_float
