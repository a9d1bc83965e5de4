"""Maps of where a network looks: numbers worked by hand, and what must hold of them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from training.attention_maps import (
    a_deeppixbis_map,
    class_activation_map,
    cmfl_grad_cam,
    cosine_map,
    grad_cam,
    to_picture,
)
from training.backbones import densenet161_trunk
from training.errors import BatchError
from training.methods.a_deeppixbis import ADeepPixBiS, ADeepPixBiSConfig
from training.methods.cmfl import CMFL, densenet_cmfl

# Two channels of 2×2 cells.
FEATURES = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[0.0, -1.0], [0.0, 3.0]]]])


def small_cmfl() -> CMFL:
    torch.manual_seed(0)
    return densenet_cmfl(width=0.0625).eval()


def test_a_class_activation_map_weighs_the_channels() -> None:
    # 2 · A₁ − A₂
    expected = torch.tensor([[[2.0, 5.0], [6.0, 5.0]]])
    assert torch.equal(class_activation_map(FEATURES, torch.tensor([2.0, -1.0])), expected)


def test_the_mean_of_a_class_activation_map_is_the_logit_without_its_bias() -> None:
    torch.manual_seed(0)
    features, layer = torch.randn(3, 5, 4, 4), nn.Linear(5, 1)
    with torch.no_grad():
        logits = layer(features.mean(dim=(2, 3))).squeeze(1)
        means = class_activation_map(features, layer.weight).mean(dim=(1, 2))
        torch.testing.assert_close(means + layer.bias, logits)


def test_a_cosine_map_has_the_angles_and_no_angle_without_length() -> None:
    features = torch.tensor([[[[3.0, 0.0], [0.0, -2.0]], [[4.0, 5.0], [0.0, 0.0]]]])
    # Against (2, 0): (3, 4) has 3/5, (0, 5) is perpendicular, (0, 0) has none, (−2, 0) is opposite.
    expected = torch.tensor([[[0.6, 0.0], [0.0, -1.0]]])
    torch.testing.assert_close(cosine_map(features, torch.tensor([[2.0, 0.0]])), expected)


def test_grad_cam_of_a_tiny_network_worked_by_hand() -> None:
    # y = mean(A₁)² − 2 · mean(A₂). Means 2.5 and 0.5; dy/dA₁ = 2 · 2.5 / 4 = 1.25 and dy/dA₂ = −2 / 4 in each cell.
    # 1.25 · A₁ − 0.5 · A₂ = 1.25, 2.5 + 0.5, 3.75, 5 − 1.5: nothing to cut. Of −y everything is cut.
    def head(features: Sequence[Tensor]) -> Tensor:
        means = features[0].mean(dim=(2, 3))
        return means[:, 0] ** 2 - 2.0 * means[:, 1]

    (got,) = grad_cam(head, [FEATURES])
    torch.testing.assert_close(got, torch.tensor([[[1.25, 3.0], [3.75, 3.5]]]))
    (cut,) = grad_cam(lambda features: -head(features), [FEATURES])
    assert torch.equal(cut, torch.zeros(1, 2, 2))


def test_grad_cam_averages_the_slopes_over_the_cells_and_cuts_negative_places() -> None:
    # y = 4 · A₁[0, 0] − 8 · A₂[1, 1]: mean slopes 1 and −2. A₁ − 2 · A₂ = 1, 4, 3, 4 − 6.
    (got,) = grad_cam(lambda f: 4.0 * f[0][:, 0, 0, 0] - 8.0 * f[0][:, 1, 1, 1], [FEATURES])
    torch.testing.assert_close(got, torch.tensor([[[1.0, 4.0], [3.0, 0.0]]]))


def test_grad_cam_is_the_positive_part_of_the_class_activation_map_behind_a_mean_and_a_linear_layer() -> None:
    torch.manual_seed(0)
    features, layer = torch.randn(3, 5, 4, 4), nn.Linear(5, 1)
    (got,) = grad_cam(lambda f: layer(f[0].mean(dim=(2, 3))).squeeze(1), [features])
    torch.testing.assert_close(got, class_activation_map(features, layer.weight).detach().clamp_min(0) / 16)


def test_grad_cam_of_one_sample_does_not_depend_on_the_others_and_works_without_gradients() -> None:
    model, x = small_cmfl(), torch.rand(3, 4, 32, 32)
    with torch.no_grad():
        together, alone = cmfl_grad_cam(model, x), cmfl_grad_cam(model, x[1:2])
    for many, one in zip(together, alone, strict=True):
        torch.testing.assert_close(many[1:2], one)
        assert not many.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_cmfl_maps_follow_the_formula_of_the_joint_head() -> None:
    model, x = small_cmfl(), torch.rand(2, 4, 32, 32)
    with torch.no_grad():
        features = model.rgb_trunk(x[:, :3])
        e = torch.sigmoid(features.mean(dim=(2, 3)))
        # Slope of the logit in one cell: the linear layer's weight times that of the sigmoid, over the 4 cells.
        slopes = model.joint_head.weight[0, : e.shape[1]] * e * (1 - e) / 4
        expected = (features * slopes[:, :, None, None]).sum(1).clamp_min(0)
        opposite = (features * -slopes[:, :, None, None]).sum(1).clamp_min(0)
    torch.testing.assert_close(cmfl_grad_cam(model, x)[0], expected)
    torch.testing.assert_close(cmfl_grad_cam(model, x, for_attack=True)[0], opposite)
    assert expected.max() > 0


def test_a_branch_says_nothing_about_the_other_stream() -> None:
    model, x = small_cmfl(), torch.rand(2, 4, 32, 32)
    for head, silent in (("rgb", 1), ("depth", 0)):
        maps = cmfl_grad_cam(model, x, head)  # type: ignore[arg-type]
        assert torch.equal(maps[silent], torch.zeros(2, 2, 2))
        opposite = cmfl_grad_cam(model, x, head, for_attack=True)  # type: ignore[arg-type]
        assert maps[1 - silent].max() + opposite[1 - silent].max() > 0


def test_the_map_of_a_deeppixbis_is_its_cosine_output() -> None:
    torch.manual_seed(0)
    model = ADeepPixBiS(densenet161_trunk(width=0.0625), ADeepPixBiSConfig(map_side=2, embedding=4)).eval()
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(a_deeppixbis_map(model, x), model(x).map)


def test_pictures_are_scaled_by_their_own_largest_value_and_enlarged() -> None:
    maps = torch.tensor([[[4.0, -8.0], [2.0, 0.0]], [[0.0, 0.0], [-1.0, 0.0]], [[0.0, 0.1], [0.0, 0.0]]])
    out = to_picture(maps, 8)
    assert (out.dtype, out.shape) == (torch.float32, (3, 8, 8))
    assert out[2, 0, 7] == 1.0
    assert [out[0, y, x].item() for y, x in ((0, 0), (0, 7), (7, 0), (7, 7))] == [1.0, 0.0, 0.5, 0.0]
    assert torch.equal(out[1], torch.zeros(8, 8))


def test_what_does_not_fit_is_refused() -> None:
    for function in (class_activation_map, cosine_map):
        with pytest.raises(BatchError, match="C values"):
            function(FEATURES, torch.ones(3))
    with pytest.raises(BatchError, match="one output per sample"):
        grad_cam(lambda f: f[0].sum(), [FEATURES])
    with pytest.raises(BatchError, match=r"model\.eval"):
        cmfl_grad_cam(small_cmfl().train(), torch.rand(1, 4, 32, 32))
    with pytest.raises(BatchError, match=r"\(N, h, w\)"):
        to_picture(FEATURES, 8)
