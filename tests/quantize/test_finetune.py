"""Fine-tuning on the INT8 grid."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from fasedge.types import UInt8Array
from quantize.errors import CalibrationDataError
from quantize.finetune import FinetuneConfig, finetune, training_crops
from quantize.fitting import fit_grid
from quantize.grid import GridConfig, float_activations, grid_convs, grids
from quantize.students import ExportModel, PixelCosineStudent, Platt
from tests.quantize.conftest import Bench, coloured_pictures
from tests.training.fixtures.toy_sets import toy_set
from training.config import InputConfig, TrainConfig


def crops(n: int, seed: int) -> UInt8Array:
    return np.random.default_rng(seed).integers(0, 256, (n, 16, 16, 3)).astype(np.uint8)


def batches(n: int) -> Iterator[UInt8Array]:
    return (crops(16, seed) for seed in range(n))


@pytest.fixture
def network() -> ExportModel:
    torch.manual_seed(0)
    trunk = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU6(), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU6()
    )
    return ExportModel(PixelCosineStudent(trunk, 8), Platt(4.0, 0.0))


def errors(grid: ExportModel, bench: Bench) -> tuple[float, float]:
    """Squared error of the cosines against FP32: with rounded and with float activations."""
    rgb = torch.from_numpy(bench.crops)
    with torch.inference_mode():
        wanted = bench.model.cells(rgb)
        rounded = float((grid.cells(rgb) - wanted).square().mean())
        with float_activations(grid):
            return rounded, float((grid.cells(rgb) - wanted).square().mean())


def test_a_coarse_grid_comes_nearer_to_the_full_precision_network(bench: Bench) -> None:
    grid = fit_grid(bench.model, bench.calibration, GridConfig(bias_correction=False))
    for conv in grid_convs(grid).values():
        conv.scale.mul_(4)  # two bits fewer: an error that can be seen
        conv.code_max //= 4
    before = errors(grid, bench)
    pictures = (coloured_pictures(16, seed)[0] for seed in range(100, 250))
    finetune(grid, bench.model, pictures, FinetuneConfig(steps=150, batch=16, learning_rate=1e-4))
    after = errors(grid, bench)
    assert after[0] < 0.4 * before[0]
    assert after[1] < 0.4 * before[1]


def test_ranges_stay_and_weights_are_frozen_again(network: ExportModel) -> None:
    grid = fit_grid(network, crops(64, 7), GridConfig())
    limits = {name: item.limits for name, item in grids(grid).items()}
    finetune(grid, network, batches(3), FinetuneConfig(steps=3))
    assert {name: item.limits for name, item in grids(grid).items()} == limits
    assert not any(p.requires_grad for p in grid.parameters())


def test_no_steps_leave_the_network_as_it_is(network: ExportModel) -> None:
    grid = fit_grid(network, crops(64, 7), GridConfig())
    weights = [c.conv.weight.clone() for c in grid_convs(grid).values()]
    finetune(grid, network, batches(0), FinetuneConfig(steps=0))
    assert all(torch.equal(a, c.conv.weight) for a, c in zip(weights, grid_convs(grid).values(), strict=True))


def test_too_few_batches_are_an_error(network: ExportModel) -> None:
    grid = fit_grid(network, crops(64, 7), GridConfig())
    with pytest.raises(CalibrationDataError, match="5 batches"):
        finetune(grid, network, batches(2), FinetuneConfig(steps=5))


def test_crops_for_fine_tuning_come_in_an_order_of_their_own_and_never_end() -> None:
    samples, config = toy_set(10), TrainConfig(input=InputConfig(size_px=16, crop_scale=1.5))
    source = training_crops(samples, config, 4)
    taken = [next(source) for _ in range(5)]
    assert all(crops.shape == (4, 16, 16, 3) for crops in taken)
    assert all(crops.dtype == np.uint8 for crops in taken)
    again = training_crops(samples, config, 4)
    assert all(np.array_equal(a, next(again)) for a in taken)
    assert not np.array_equal(taken[0], taken[2])  # the second round is another order
    with pytest.raises(CalibrationDataError, match="11 crops per step, the set holds 10"):
        next(training_crops(samples, config, 11))
