import numpy as np
import pytest
import torch
from torch import nn

from quantize.errors import CheckpointMismatchError
from quantize.published import begin_as
from quantize.students import (
    STUDENTS,
    ExportModel,
    PixelCosineStudent,
    PixelLogitStudent,
    Platt,
    fold_batch_norm,
    load_student,
    new_student,
)
from training.backbones import plain_trunk
from training.errors import ConfigError, StateMismatchError
from training.inputs import BrightnessNorm, GraphInput


def test_the_cosine_map_is_the_cosine_of_each_position_computed_by_hand():
    student = PixelCosineStudent(nn.Identity(), 3)
    student.filter.weight.data = torch.tensor([3.0, 0.0, 4.0]).view(1, 3, 1, 1)
    features = torch.tensor([[2.0, 0.0, 0.0], [0.0, 5.0, 0.0], [-3.0, 0.0, -4.0], [1.0, 1.0, 1.0]])
    x = features.T.reshape(1, 3, 2, 2)
    # <x, v> / (|x| |v|) with |v| = 5: 6/(2*5), 0, -25/25, 7/(sqrt(3)*5)
    expected = [[0.6, 0.0], [-1.0, 7 / (5 * 3**0.5)]]
    np.testing.assert_allclose(student.cells(x)[0].detach().numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(student.pooled(x).detach().numpy(), [np.mean(expected)], atol=1e-6)


def test_a_feature_vector_of_zeros_gives_cosine_zero_and_no_nan():
    student = PixelCosineStudent(nn.Identity(), 3)
    assert student.cells(torch.zeros(1, 3, 2, 2)).abs().max() == 0


def logit_student() -> PixelLogitStudent:
    """Two channels, read as they are: weight (2, -1), bias 0.5."""
    student = PixelLogitStudent(nn.Identity(), 2)
    student.filter.weight.data = torch.tensor([2.0, -1.0]).view(1, 2, 1, 1)
    student.filter.bias.data = torch.tensor([0.5])
    return student


def test_the_logit_of_a_cell_is_an_inner_product_and_their_mean_that_of_the_mean_feature():
    x = torch.tensor([[[[1.0, 0.0], [2.0, -1.0]], [[0.0, 3.0], [1.0, 1.0]]]])
    student = logit_student()
    np.testing.assert_allclose(student.cells(x)[0].detach(), [[2.5, -2.5], [3.5, -2.5]], atol=1e-6)
    of_mean = student.filter(x.mean(dim=(2, 3), keepdim=True)).item()
    assert student.pooled(x).item() == pytest.approx(of_mean, abs=1e-6) == pytest.approx(0.25)
    assert student.share(student.pooled(x)).item() == pytest.approx(1 / (1 + np.exp(-0.25)), abs=1e-6)


def test_the_exported_head_of_logits_is_a_copy_with_the_calibration_on_top():
    student = logit_student()
    student.trunk = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False))
    student.trunk[0].weight.data = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).view(2, 3, 1, 1)
    model = ExportModel(student, Platt(3.0, -1.0))
    rgb = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        score, cells = model(rgb)
        found = student.cells(GraphInput()(rgb)).double().numpy()
        student.filter.weight.zero_()
        again, _ = model(rgb)
    np.testing.assert_allclose(score, 1 / (1 + np.exp(-(3 * found.mean((1, 2)) - 1))), atol=1e-5)
    np.testing.assert_allclose(cells, 1 / (1 + np.exp(-(3 * found - 1))), atol=1e-5)
    assert torch.equal(score, again)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_each_method_has_its_student_and_others_none():
    for method, kind in STUDENTS.items():
        assert type(new_student(method, nn.Identity(), 5)) is kind
    with pytest.raises(ConfigError, match="cmfl has no student; those of a-deeppixbis, binary-trunk"):
        new_student("cmfl", nn.Identity(), 5)


def test_the_exported_score_is_the_logistic_function_of_the_mean_cosine(bench):
    rgb = torch.from_numpy(bench.crops[:5])
    with torch.no_grad():
        score, score_map = bench.model(rgb)
        cosine = bench.student.cells(GraphInput(BrightnessNorm())(rgb)).numpy().astype(np.float64)
    np.testing.assert_allclose(score, 1 / (1 + np.exp(-(6.0 * cosine.mean((1, 2)) + 0.1))), atol=1e-5)
    np.testing.assert_allclose(score_map, 1 / (1 + np.exp(-(6.0 * cosine + 0.1))), atol=1e-4)


def test_folding_keeps_the_function_leaves_no_batch_normalisation_and_spares_the_original(bench):
    trunk = bench.student.trunk
    folded = fold_batch_norm(trunk)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        np.testing.assert_allclose(folded(x), trunk(x), atol=1e-5)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len([m for m in trunk.modules() if isinstance(m, nn.BatchNorm2d)]) == 4


def test_a_convolution_that_is_read_twice_is_not_folded():
    class Forked(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            y = self.conv(x)
            return y + self.norm(y)

    net = Forked().eval()
    net.norm.running_mean += 0.5
    x = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        np.testing.assert_allclose(fold_batch_norm(net)(x), net(x), atol=1e-6)


def test_exporting_does_not_change_the_student(bench):
    before = {k: v.clone() for k, v in bench.student.state_dict().items()}
    ExportModel(bench.student, Platt(2.0, 0.0))
    assert all(torch.equal(v, before[k]) for k, v in bench.student.state_dict().items())


def test_a_checkpoint_of_another_method_is_refused_and_nothing_is_loaded(bench):
    student = PixelCosineStudent(nn.Conv2d(3, 4, 1), 4)
    before = student.filter.weight.clone()
    with pytest.raises(CheckpointMismatchError, match=r"not one of this student: 2 tensors missing"):
        load_student(student, bench.student.state_dict())
    assert torch.equal(student.filter.weight, before)


@pytest.mark.parametrize("bad", [(0.0, 0.0), (-1.0, 0.0), (float("nan"), 0.0), (1.0, float("inf"))])
def test_a_calibration_that_turns_scores_around_is_refused(bad):
    with pytest.raises(ValueError, match="scale > 0"):
        Platt(*bad)


def test_a_student_of_cosines_begins_with_the_filter_of_one_with_a_logit() -> None:
    torch.manual_seed(0)
    other = new_student("binary-trunk", plain_trunk("plain_xs"), plain_trunk("plain_xs").out_channels)
    student = new_student("a-deeppixbis", plain_trunk("plain_xs"), other.channels)
    begin_as(student, other, "the other one")
    assert student.filter.bias is None
    torch.testing.assert_close(student.filter.weight, other.filter.weight)
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(student.eval().trunk(x), other.eval().trunk(x))
    with pytest.raises(StateMismatchError, match="trunk of the other one"):
        begin_as(new_student("binary-trunk", plain_trunk("plain_s"), other.channels), other, "the other one")
    with pytest.raises(CheckpointMismatchError, match="colour and depth"):
        begin_as(student, nn.Identity(), "the other one")
