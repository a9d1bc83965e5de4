"""CDCN: the operator against its definition, losses against fixed kernels, counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from training.errors import BatchError, ConfigError
from training.inputs import GraphInput
from training.methods.cdcn import CDCN, CDCN_MEAN, CDCN_STD, CDCNConfig, CentralDifferenceConv, DepthMap, contrasts


def tiny(**settings: object) -> CDCN:
    torch.manual_seed(0)
    return CDCN(CDCNConfig(input_side=32, width=1 / 16, **settings))  # type: ignore[arg-type]


def maps(seed: int, count: int = 3, side: int = 6) -> Tensor:
    return torch.rand(count, side, side, generator=torch.Generator().manual_seed(seed))


def test_the_full_network_has_the_published_number_of_parameters_and_32_cells() -> None:
    with torch.device("meta"):
        model = CDCN()
        depth = model(torch.empty(2, 3, 256, 256)).depth
    assert sum(parameter.numel() for parameter in model.parameters()) == 2_245_016
    assert depth.shape == (2, 32, 32)


@pytest.mark.parametrize("theta", [0.0, 0.7, 1.0])
def test_the_operator_is_a_share_of_differences_to_the_centre_and_the_rest_of_a_plain_convolution(theta: float) -> None:
    torch.manual_seed(1)
    operator = CentralDifferenceConv(2, 3, theta).double()
    x = torch.rand(1, 2, 5, 4, dtype=torch.float64)
    padded, w = np.pad(x[0].numpy(), ((0, 0), (1, 1), (1, 1))), operator.weight.detach().numpy()
    expected = np.zeros((3, 5, 4))
    for out in range(3):
        for row in range(5):
            for column in range(4):
                patch = padded[:, row : row + 3, column : column + 3]
                differences = patch - patch[:, 1:2, 1:2]
                expected[out, row, column] = (w[out] * (theta * differences + (1 - theta) * patch)).sum()
    np.testing.assert_allclose(operator(x)[0].detach().numpy(), expected, atol=1e-12)


def test_with_theta_one_a_constant_picture_gives_nothing_inside_its_border() -> None:
    response = CentralDifferenceConv(2, 3, 1.0)(torch.full((1, 2, 6, 6), 5.0))
    assert response[:, :, 1:-1, 1:-1].abs().max() < 1e-5
    assert response.abs().max() > 0.1


def test_contrasts_are_those_of_eight_fixed_kernels() -> None:
    kernels = torch.zeros(8, 1, 3, 3)
    for number, place in enumerate([0, 1, 2, 3, 5, 6, 7, 8]):
        kernels[number, 0, place // 3, place % 3] = 1.0
        kernels[number, 0, 1, 1] = -1.0
    torch.testing.assert_close(contrasts(maps(0)), conv2d(maps(0).unsqueeze(1), kernels))


def test_the_loss_is_the_squared_error_of_the_maps_plus_that_of_their_contrasts() -> None:
    one, other, labels = maps(1), maps(2), torch.tensor([1, 0, 1])
    losses = tiny(contrast_weight=0.5).loss(DepthMap(one), labels, other)
    assert losses.absolute.item() == pytest.approx(nn.functional.mse_loss(one, other).item(), rel=1e-6)
    contrast = nn.functional.mse_loss(contrasts(one), contrasts(other)).item()
    assert losses.contrast.item() == pytest.approx(contrast, rel=1e-5)
    assert losses.total.item() == pytest.approx(losses.absolute.item() + 0.5 * contrast, rel=1e-5)


def test_a_map_that_is_off_by_a_constant_has_no_contrast_loss() -> None:
    losses = tiny().loss(DepthMap(maps(1) + 0.25), torch.ones(3), maps(1))
    assert losses.absolute.item() == pytest.approx(0.0625, rel=1e-5)
    assert losses.contrast.item() == pytest.approx(0.0, abs=1e-12)


def test_scores_are_sums_of_the_map_over_the_area_of_the_face() -> None:
    depth = torch.tensor([[[0.2, 0.4], [0.0, 0.6]], [[3.0, 0.0], [3.0, 3.0]]])
    face = torch.tensor([[[1, 1], [0, 0]], [[0, 1], [0, 0]]])
    model = tiny()
    assert model.scores(DepthMap(depth))["depth"].tolist() == pytest.approx([0.3, 1.0])
    assert model.scores(DepthMap(depth), face)["depth"].tolist() == pytest.approx([0.6, 1.0])
    assert model.scores(DepthMap(depth), torch.zeros(2, 2, 2))["depth"].tolist() == [0.0, 0.0]


def test_training_brings_the_map_to_its_target() -> None:
    model = tiny().train()
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    labels = torch.tensor([1, 0, 1, 0])
    x[labels == 1] += 0.5
    target = labels.reshape(-1, 1, 1) * maps(4, 4, 4)
    optimiser, values = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for _ in range(25):
        optimiser.zero_grad()
        loss = model.loss(model(x), labels, target).total
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        values.append(loss.item())
    assert values[-1] < 0.5 * values[0]


def test_under_autocast_maps_and_losses_are_float32() -> None:
    model = tiny()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(torch.rand(2, 3, 32, 32))
        losses = model.loss(outputs, torch.tensor([0, 1]), torch.zeros(2, 4, 4))
    assert outputs.depth.dtype == losses.total.dtype == torch.float32


def test_the_published_normalisation_fits_the_shared_input_layer() -> None:
    rgb = torch.randint(0, 256, (1, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    x = GraphInput(mean=CDCN_MEAN, std=CDCN_STD)(rgb)
    torch.testing.assert_close(x, ((rgb.float() - 127.5) / 128.0).permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    "settings", [{"input_side": 100}, {"input_side": 16}, {"width": 0.0}, {"theta": 1.5}, {"contrast_weight": -1.0}]
)
def test_settings_out_of_range_are_refused_by_name(settings: dict[str, object]) -> None:
    (name,) = settings
    with pytest.raises(ConfigError, match=name):
        CDCNConfig(**settings)  # type: ignore[arg-type]


def test_wrong_images_and_targets_are_refused() -> None:
    model = tiny()
    with pytest.raises(BatchError, match="3, 32, 32"):
        model(torch.rand(1, 6, 32, 32))
    with pytest.raises(BatchError, match="got none"):
        model.loss(DepthMap(maps(0)), torch.ones(3))
    with pytest.raises(BatchError, match=r"\(3, 4, 4\)"):
        model.loss(DepthMap(maps(0)), torch.ones(3), torch.zeros(3, 4, 4))
    with pytest.raises(BatchError, match="labels"):
        model.loss(DepthMap(maps(0)), torch.ones(2), maps(1))
