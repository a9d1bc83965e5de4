import copy

import numpy as np
import pytest
import torch
from torch import nn

from quantize import rounding
from quantize.bake import grid_points, weight_codes, with_code_convs, with_plain_convs
from quantize.errors import ConversionError
from quantize.fitting import fit_grid, percentile_range
from quantize.grid import (
    ActivationGrid,
    GridConfig,
    GridConv,
    conv_names,
    float_activations,
    grid_convs,
    grids,
    insert_grid,
    release,
)
from quantize.students import ExportModel, PixelCosineStudent, Platt


def scores(model, crops):
    with torch.no_grad():
        return model(torch.from_numpy(crops))[0].numpy()


def test_an_activation_grid_rounds_to_256_steps_with_zero_among_them():
    grid = ActivationGrid()
    grid.set_range(-1.0, 3.0)
    step = 4.0 / 255
    x = torch.tensor([0.0, 0.4 * step, 0.6 * step, -5.0, 5.0])
    got = grid(x).numpy()
    # Code of zero: round(1 / step) = 64, so the range moves to [-64, 191] steps.
    np.testing.assert_allclose(got, np.array([0.0, 0.0, 1.0, -64.0, 191.0]) * step, rtol=1e-6)
    np.testing.assert_allclose(grid.limits, (-64 * step, 191 * step), rtol=1e-6)


def test_a_range_that_excludes_zero_is_widened_to_it():
    grid = ActivationGrid()
    grid.set_range(2.0, 6.0)
    assert grid.limits == pytest.approx((0.0, 6.0))


def test_weights_are_rounded_per_output_channel_to_63_codes_each_way():
    conv = nn.Conv2d(1, 2, 1)
    conv.weight.data = torch.tensor([63.0, 0.5]).view(2, 1, 1, 1)
    module = GridConv(conv, 63)
    np.testing.assert_allclose(module.scale, [1.0, 0.5 / 63], rtol=1e-6)
    assert weight_codes(module).ravel().tolist() == [63, 63]


def coarse_pair():
    """Input step 0.5, weight steps 1 and 0.25: the accumulator steps by 0.5 and 0.125."""
    conv = nn.Conv2d(1, 2, 1)
    conv.weight.data = torch.tensor([63.0, 15.75]).view(2, 1, 1, 1)
    conv.bias.data = torch.tensor([0.8, -0.3])
    grid = ActivationGrid()
    grid.set_range(0.0, 127.5)
    module = GridConv(conv, 63)
    module.reads(grid)
    return module, grid


def test_a_bias_is_rounded_to_whole_steps_of_the_accumulator():
    module, _ = coarse_pair()
    # 0.8 / 0.5 = 1.6 and -0.3 / 0.125 = -2.4.
    assert module.bias_codes().tolist() == [2, -2]
    np.testing.assert_allclose(module(torch.zeros(1, 1, 1, 1)).detach().ravel(), [1.0, -0.25], rtol=1e-6)
    module.enabled = False
    np.testing.assert_allclose(module(torch.zeros(1, 1, 1, 1)).detach().ravel(), [0.8, -0.3], rtol=1e-6)


def test_the_gradient_of_a_bias_passes_through_its_rounding():
    module, _ = coarse_pair()
    module(torch.zeros(1, 1, 1, 1)).sum().backward()
    assert module.conv.bias.grad.tolist() == [1.0, 1.0]


def test_a_bias_too_large_for_its_steps_is_cut_instead_of_changing_its_sign():
    module, grid = coarse_pair()
    grid.scale.fill_(1e-12)
    assert module.bias_codes().tolist() == [2**23, -(2**23)]


def test_sum_and_bias_of_the_widest_pointwise_convolution_are_exact_in_float32():
    assert rounding.BIAS_CODE_MAX + 255 * 63 * 480 < 2**24


def switched_off(bench):
    """The network with one stem channel that lives from its bias alone, as weight decay leaves them."""
    model = copy.deepcopy(bench.model)
    stem = model.trunk.get_submodule("stem.1")
    stem.weight.data[0], stem.bias.data[0] = 1e-9, 2.5
    return model


def test_the_bias_of_a_channel_without_weights_keeps_its_value(bench):
    grid = fit_grid(switched_off(bench), bench.calibration, GridConfig(bias_correction=False))
    stem = grid_convs(grid)["stem.1"]
    # Half of 2 ** 23 steps span the bias: 2.5 is met to 2.5 / 2 ** 22.
    assert abs(stem.bias_codes()[0]) <= 2**22
    assert stem.rounded_bias()[0].item() == pytest.approx(2.5, abs=1e-6)
    assert weight_codes(stem)[0].max() == 0


def test_channels_with_weights_keep_the_scale_of_their_largest_weight(bench):
    for conv in grid_convs(bench.grid).values():
        peak = conv.conv.weight.abs().amax(dim=(1, 2, 3))
        np.testing.assert_allclose(conv.scale, peak / 63, rtol=1e-6)


def test_a_convolution_outside_a_network_has_no_accumulator_step():
    module = GridConv(nn.Conv2d(1, 1, 1), 63)
    assert module(torch.zeros(1, 1, 1, 1)).item() == module.conv.bias.item()
    with pytest.raises(ConversionError, match="on no INT8 grid"):
        module.bias_codes()


def test_a_copied_network_rounds_biases_with_its_own_grids(bench):
    first, second = (insert_grid(bench.model, GridConfig()) for _ in range(2))
    copied = copy.deepcopy(first)
    grids(copied)["grid_0"].scale.fill_(0.25)
    name = "stem.1"
    steps = [grid_convs(m)[name].bias_step() for m in (first, copied, second)]
    np.testing.assert_allclose(steps[1], 0.25 * steps[0], rtol=1e-6)
    np.testing.assert_array_equal(steps[0], steps[2])


def test_the_accumulator_step_is_that_of_the_values_read_also_through_padding(bench):
    points = grids(bench.grid)
    # grid_0 is the input, 1 the stem, 2 the depthwise filter, 3 the projection, 4 the addition.
    for conv, grid in {"stem.1": 0, "block.0": 1, "block.3": 2, "project.0": 4}.items():
        module = grid_convs(bench.grid)[conv]
        np.testing.assert_allclose(module.bias_step(), module.scale * points[f"grid_{grid}"].scale, rtol=1e-6)


def test_the_grid_adds_nothing_to_what_is_stored_of_a_network(bench):
    found = set(bench.grid.trunk.state_dict())
    grid_tensors = {f"{g}.{t}" for g in grids(bench.grid) for t in ("scale", "zero_point")}
    conv_tensors = {f"{c}.{t}" for c in grid_convs(bench.grid) for t in ("scale", "conv.weight", "conv.bias")}
    assert found == grid_tensors | conv_tensors


def test_two_products_of_portable_weights_fit_the_16_bits_that_avx2_adds_in():
    assert 2 * 255 * GridConfig().weight_code_max <= np.iinfo(np.int16).max
    assert np.iinfo(np.int16).max < 2 * 255 * 127


def test_values_are_rounded_at_the_input_after_activations_and_after_additions(bench):
    points = grid_points(bench.grid, bench.crops[:1])
    assert [p.conv for p in points] == [None, "stem.1", "block.0", "block.3", None, "project.0"]
    # ReLU6 starts at zero; what has no activation is signed.
    assert [p.low == 0 for p in points] == [False, True, True, False, False, False]


def test_the_grid_stays_close_to_fp32(bench):
    difference = np.abs(scores(bench.grid, bench.crops) - scores(bench.model, bench.crops))
    assert 0 < difference.max() < 0.03


def test_bias_correction_brings_the_channel_means_back_to_those_of_fp32(bench):
    def mean_error(correct):
        model = fit_grid(bench.model, bench.calibration, GridConfig(bias_correction=correct))
        with torch.no_grad():
            rgb = torch.from_numpy(bench.calibration)
            return (model.features(rgb)[0] - bench.model.features(rgb)[0]).mean(dim=(0, 2, 3)).abs().max().item()

    assert mean_error(True) < 0.5 * mean_error(False)


def test_fitting_does_not_change_the_fp32_model(bench):
    before = scores(bench.model, bench.crops)
    fit_grid(bench.model, bench.calibration, GridConfig())
    np.testing.assert_array_equal(scores(bench.model, bench.crops), before)


def test_the_forms_for_converters_compute_what_the_grid_computes(bench):
    expected = scores(bench.grid, bench.crops)
    np.testing.assert_allclose(scores(with_plain_convs(bench.grid), bench.crops), expected, atol=1e-6)
    for name, conv in grid_convs(bench.grid).items():
        plain = with_plain_convs(bench.grid).trunk.get_submodule(name)
        np.testing.assert_allclose(plain.bias, conv.bias_codes() * conv.bias_step(), rtol=1e-6)
    np.testing.assert_allclose(scores(with_code_convs(bench.grid), bench.crops), expected, atol=1e-6)


def test_a_convolution_can_stay_in_float(bench):
    model = insert_grid(bench.model, GridConfig(float_convs=("stem.1",)))
    assert "stem.1" not in grid_convs(model)
    assert len(grid_convs(model)) == 3
    with pytest.raises(ConversionError, match="no convolution of the trunk"):
        insert_grid(bench.model, GridConfig(float_convs=("nowhere",)))


def test_gradients_pass_through_the_grid_so_that_it_can_be_fine_tuned(bench):
    model = insert_grid(bench.model, GridConfig())
    weight = grid_convs(model)["project.0"].conv.weight.requires_grad_(True)
    model(torch.from_numpy(bench.crops[:2]))[0].sum().backward()
    assert weight.grad is not None
    assert weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("trunk", "named"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.Hardswish()), "Hardswish"),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)), "BatchNorm2d"),
    ],
)
def test_an_operation_without_integer_kernel_is_refused_by_name(trunk, named):
    model = ExportModel(PixelCosineStudent(trunk, 4), Platt(1.0, 0.0))
    with pytest.raises(ConversionError, match=named):
        insert_grid(model, GridConfig())


def test_every_grid_is_fitted(bench):
    assert all(float(g.scale) != 1.0 for g in grids(bench.grid).values())


@pytest.mark.parametrize(("percentile", "end"), [(99.9, 9990.0), (99.99, 9999.0), (100.0, 10000.0)])
def test_a_range_by_percentile_leaves_out_its_share_on_either_side(percentile, end):
    values = torch.arange(10_001, dtype=torch.float64)[torch.randperm(10_001)]
    assert percentile_range(values, percentile) == pytest.approx((10_000 - end, end))


def test_ranges_by_percentile_are_narrower(bench):
    def widths(**options):
        found = grids(fit_grid(bench.model, bench.calibration, GridConfig(**options))).values()
        return np.array([float(g.scale) for g in found])

    narrow, wider = (widths(activation_range="percentile", percentile=p) for p in (99.0, 99.99))
    widest = widths()
    assert (narrow <= wider).all()
    assert (wider <= widest * 1.001).all()
    assert (narrow < widest).any()
    assert (wider < widest).any()


@pytest.mark.parametrize(
    "options",
    [
        {"activation_range": "percentil"},
        {"weight_range": "percentile"},
        {"activation_range": "percentile", "percentile": 50.0},
        {"activation_range": "percentile", "percentile": 100.1},
        {"activation_range": "percentile", "percentile": float("nan")},
    ],
)
def test_a_grid_of_unknown_ranges_is_refused(options):
    with pytest.raises(ValueError, match=r"ranges must be|percentile must lie"):
        GridConfig(**options)


def test_released_convolutions_keep_their_rounded_weights_and_their_inputs_stay_in_float(bench):
    first = conv_names(bench.grid)[0]
    released = release(bench.grid, [first])
    conv = released.trunk.get_submodule(first)
    assert type(conv) is nn.Conv2d
    assert torch.equal(conv.weight, grid_convs(bench.grid)[first].rounded_weight())
    # The picture is read by this convolution alone; what it writes is read by INT8 kernels as before.
    assert list(grids(released)) == list(grids(bench.grid))[1:]
    rgb = torch.from_numpy(bench.crops[:16])
    with torch.no_grad(), float_activations(bench.grid):
        wanted = bench.grid.cells(rgb)
    with torch.no_grad(), float_activations(released):
        torch.testing.assert_close(released.cells(rgb), wanted, rtol=1e-5, atol=1e-5)


def test_an_addition_between_released_convolutions_is_released_too(bench):
    released = release(bench.grid, conv_names(bench.grid))
    assert not grid_convs(released)
    # Only what the head reads is still rounded: the last kernel writes codes.
    assert len(grids(released)) == 1
    assert grids(released).keys() == {list(grids(bench.grid))[-1]}


def test_only_convolutions_can_be_released(bench):
    with pytest.raises(ConversionError, match="nonsense"):
        release(bench.grid, ["nonsense"])
