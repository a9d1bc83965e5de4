"""Distillation: what the loss is made of, and what it must not touch."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quantize.distill import DistilTask, PooledTask, load_task, load_teacher
from quantize.errors import CheckpointMismatchError
from quantize.imitation import Imitation, feature_error, mixup, moved
from quantize.students import PixelCosineStudent
from quantize.teachers import OpenVinoTeacher, TorchTeacher, together
from training.backbones import TRUNKS, Trunk
from training.build import BinaryTask, MethodTask
from training.checkpoint import save_checkpoint
from training.config import InputConfig, MethodConfig, TrainConfig
from training.errors import ConfigError
from training.precision import reduced

SCALE, MARGIN = 4.0, 0.5


class TinyTrunk(Trunk):
    """Stride 16 in one convolution."""

    input_mean = (0.5, 0.5, 0.5)
    input_std = (0.25, 0.25, 0.25)

    def __init__(self, width: float = 1.0) -> None:
        super().__init__(3, 6)
        self.features = nn.Sequential(nn.Conv2d(3, 6, 16, 16), nn.BatchNorm2d(6), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)


@pytest.fixture(autouse=True)
def tiny_trunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRUNKS, "tiny", TinyTrunk)


def config(size_px: int = 48) -> TrainConfig:
    return TrainConfig(
        input=InputConfig(size_px=size_px), method=MethodConfig(trunk="tiny", scale=SCALE, margin=MARGIN)
    )


@pytest.fixture
def teacher() -> MethodTask:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return MethodTask(config())


def student(*teachers: MethodTask, **options: float) -> DistilTask:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        task = DistilTask(config(), [TorchTeacher(one) for one in teachers], Imitation(**options))
    task.module.eval()
    return task


@pytest.fixture
def rgb() -> Tensor:
    return torch.randint(0, 256, (5, 48, 48, 3), generator=torch.Generator().manual_seed(3)).to(torch.uint8)


LABELS = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.9])


def cosine_map(task: DistilTask, rgb: Tensor) -> np.ndarray:
    """(N, m, m) in double precision, by the definition of the cosine."""
    network = task.module
    with torch.no_grad():
        x = (rgb.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
        features = network.trunk(x).double().numpy()
    direction = network.filter.weight.detach().double().numpy().reshape(1, -1, 1, 1)
    return (features * direction).sum(1) / np.linalg.norm(features, axis=1) / np.linalg.norm(direction)


def taught_map(teacher: MethodTask, rgb: Tensor) -> Tensor:
    """Cosine map of the whole network, from pictures that are normalised here."""
    with torch.no_grad():
        return teacher.module.cosines((rgb.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25).map


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def task_loss(cosines: np.ndarray) -> float:
    """Eq. 13 of A-DeepPixBiS, with the angle written out, all cells alike; mirrored beyond π, so that it only falls."""
    y = LABELS.numpy().reshape(-1, 1, 1)
    angle = np.arccos(cosines) + MARGIN
    live = -np.log(sigmoid(SCALE * np.where(angle <= math.pi, np.cos(angle), -2 - np.cos(angle))))
    attack = -np.log(1 - sigmoid(SCALE * cosines))
    return float((y * live + (1 - y) * attack).mean())


def test_without_imitation_the_loss_is_that_of_the_task(teacher: MethodTask, rgb: Tensor) -> None:
    alone, beside = student(), student(teacher, alpha=0.0)
    cosines = cosine_map(alone, rgb)
    assert alone.loss(rgb, LABELS).item() == pytest.approx(task_loss(cosines), abs=1e-5)
    assert beside.loss(rgb, LABELS).item() == pytest.approx(task_loss(cosines), abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_imitation_is_the_divergence_between_the_softened_maps(
    teacher: MethodTask, rgb: Tensor, temperature: float
) -> None:
    pupil = student(teacher, alpha=1.0, temperature=temperature)
    with torch.no_grad():
        wanted = sigmoid(temperature * taught_map(teacher, rgb).double().numpy())
    given = sigmoid(temperature * cosine_map(pupil, rgb))
    divergence = wanted * np.log(wanted / given) + (1 - wanted) * np.log((1 - wanted) / (1 - given))
    assert divergence.mean() > 1e-3
    assert pupil.loss(rgb, LABELS).item() == pytest.approx(float(divergence.mean()), abs=1e-5)


def test_alpha_mixes_the_two(teacher: MethodTask, rgb: Tensor) -> None:
    ends = [student(teacher, alpha=alpha).loss(rgb, LABELS).item() for alpha in (0.0, 1.0)]
    mixed = student(teacher, alpha=0.3).loss(rgb, LABELS).item()
    assert mixed == pytest.approx(0.7 * ends[0] + 0.3 * ends[1], abs=1e-6)


def test_a_student_that_equals_its_teacher_has_nothing_to_imitate(teacher: MethodTask, rgb: Tensor) -> None:
    pupil = student(teacher, alpha=1.0)
    before = pupil.loss(rgb, LABELS).item()
    pupil.start_from(teacher)
    pupil.module.eval()
    assert abs(pupil.loss(rgb, LABELS).item()) < 1e-6 < before
    np.testing.assert_allclose(cosine_map(pupil, rgb), taught_map(teacher, rgb), atol=1e-5)


def test_only_the_student_learns(teacher: MethodTask, rgb: Tensor) -> None:
    pupil = student(teacher, alpha=0.5)
    pupil.module.train()
    before = {name: value.clone() for name, value in teacher.module.state_dict().items()}
    optimiser = torch.optim.SGD([*pupil.module.parameters(), *teacher.module.parameters()], lr=0.1)
    pupil.loss(rgb, LABELS).backward()
    optimiser.step()
    assert all(p.grad is not None and bool(p.grad.abs().max() > 0) for p in pupil.module.filter.parameters())
    assert any(p.grad is not None for p in pupil.module.trunk.parameters())
    assert all(p.grad is None for p in teacher.module.parameters())
    assert not teacher.module.training
    for name, value in teacher.module.state_dict().items():  # statistics of batch normalisation too
        assert torch.equal(value, before[name]), name


def test_the_score_is_the_mean_cosine_as_a_share(rgb: Tensor) -> None:
    pupil = student()
    expected = 0.5 + 0.5 * cosine_map(pupil, rgb).mean((1, 2))
    np.testing.assert_allclose(pupil.score(rgb).detach(), expected, atol=1e-6)


def test_several_teachers_answer_in_the_mean_and_the_first_lends_its_features(teacher: MethodTask, rgb: Tensor) -> None:
    other = MethodTask(config())
    alone = [TorchTeacher(one)(rgb) for one in (teacher, other)]
    both = together([TorchTeacher(teacher), TorchTeacher(other)], rgb)
    torch.testing.assert_close(both.cells, (alone[0].cells + alone[1].cells) / 2)
    assert not torch.allclose(alone[0].cells, alone[1].cells, atol=1e-3)
    assert torch.equal(both.features, alone[0].features)


def test_a_teacher_in_openvino_answers_as_the_network_does(teacher: MethodTask, rgb: Tensor) -> None:
    wanted = TorchTeacher(teacher)(rgb)
    same = OpenVinoTeacher(teacher, 48, threads=1)
    first = same(rgb)
    # On CPUs with bfloat16 units its convolutions have eight bits of mantissa.
    torch.testing.assert_close(first.cells, wanted.cells, atol=0.02, rtol=0)
    torch.testing.assert_close(first.features, wanted.features, atol=0.02, rtol=0.02)
    kept = first.cells.clone()
    same(rgb.flip(0))
    assert torch.equal(first.cells, kept)  # an answer is not overwritten by the next
    assert (same.map_side, same.channels) == (3, 6)
    with pytest.raises(ConfigError, match="on the CPU, not on meta"):
        same.to_device(torch.device("meta"))


def test_the_imitation_of_features_counts_each_channel_in_its_own_deviation() -> None:
    wanted = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    error = torch.tensor([0.5, -1.0]).reshape(1, 2, 1, 1)
    found = wanted + error * wanted.std(dim=(0, 2, 3), correction=0, keepdim=True)
    assert feature_error(found, wanted).item() == pytest.approx((0.25 + 1.0) / 2, rel=0.01)
    scaled = torch.tensor([1.0, 100.0]).reshape(1, 2, 1, 1)
    assert feature_error(found * scaled, wanted * scaled).item() == pytest.approx(0.625, rel=0.01)
    assert feature_error(wanted, wanted).item() == 0
    assert math.isfinite(feature_error(torch.ones(2, 1, 3, 3), torch.zeros(2, 1, 3, 3)).item())


def test_features_are_added_to_the_loss_with_their_weight(teacher: MethodTask, rgb: Tensor) -> None:
    without, half, whole = [student(teacher, alpha=0.3, features=w).loss(rgb, LABELS).item() for w in (0.0, 0.5, 1.0)]
    pupil = student(teacher)
    x = (rgb.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    with torch.no_grad():
        error = feature_error(pupil.module.trunk(x), teacher.module.trunk(x)).item()
    assert error > 0.1
    assert (half - without, whole - without) == pytest.approx((error / 2, error), rel=1e-3)


def test_a_student_with_the_head_of_its_teacher_keeps_its_own_trunk(teacher: MethodTask) -> None:
    pupil = student(teacher)
    pupil.start_with_head(teacher)
    assert torch.equal(pupil.module.filter.weight, teacher.module.pixel_filter.weight)
    assert not torch.equal(pupil.module.trunk.features[0].weight, teacher.module.trunk.features[0].weight)


def test_blended_pictures_are_weighed_with_their_labels() -> None:
    rgb = torch.zeros(4, 2, 2, 3, dtype=torch.uint8)
    rgb[0], rgb[1] = 200, 100
    labels = torch.tensor([1.0, 0.0, 0.0, 0.0])
    with torch.random.fork_rng():
        torch.manual_seed(5)
        mixed, soft = mixup(rgb, labels)
    weight = soft[0].item()
    assert 0.5 < weight < 1
    torch.testing.assert_close(soft, torch.tensor([weight, 0.0, 0.0, 1 - weight]))
    values = [200 * weight, 100 * weight, 100 * (1 - weight), 200 * (1 - weight)]
    assert mixed.dtype == torch.uint8
    assert (mixed == mixed[:, :1, :1, :1]).all()
    assert mixed[:, 0, 0, 0].tolist() == pytest.approx(values, abs=0.51)
    assert rgb[0, 0, 0, 0] == 200  # the batch itself is left alone


def test_the_share_of_blended_batches_is_as_asked_for(teacher: MethodTask, rgb: Tensor) -> None:
    plain = student(teacher).loss(rgb, LABELS).item()
    with torch.random.fork_rng():
        torch.manual_seed(6)
        found = [student(teacher, mixup=0.3).loss(rgb, LABELS).item() for _ in range(60)]
    # Making a student leaves torch's random numbers as they are. Binomial, three deviations.
    assert sum(loss != pytest.approx(plain) for loss in found) == pytest.approx(18, abs=11)


def test_crops_are_moved_as_another_box_would_have_cut_them() -> None:
    """Columns brighten by 2 and rows by 1 per pixel: the middle tells the shift, the slopes the size."""
    side, shift, scale = 64, 0.05, 0.12
    ramp = torch.arange(side).float()
    values = torch.stack([2 * ramp.expand(side, side), ramp[:, None].expand(side, side), torch.full((side, side), 9.0)])
    rgb = values.permute(1, 2, 0).round().to(torch.uint8).expand(50, -1, -1, -1)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        found = moved(rgb, shift, scale)
    assert (found.dtype, found.shape) == (torch.uint8, rgb.shape)
    assert (found[..., 2] == 9).all()
    inside = found[:, 20:44, 20:44].float()
    right, down = inside[..., 0].mean((1, 2)) / 2 - 31.5, inside[..., 1].mean((1, 2)) - 31.5
    for offset in (right, down):
        assert offset.abs().max() == pytest.approx(shift * side, abs=0.5)
        assert offset.min() < -2.5 < 2.5 < offset.max()
    size = (inside[:, :, -1, 0] - inside[:, :, 0, 0]).mean(1) / (2 * 23)
    assert size.max() == pytest.approx(1 + scale, abs=0.03)
    assert size.min() == pytest.approx(1 / (1 + scale), abs=0.03)
    # A student that is as wide as it is high has one size, and two shifts that do not depend on each other.
    assert abs(np.corrcoef(right, down)[0, 1]) < 0.5


def test_a_crop_that_is_not_moved_is_the_same(rgb: Tensor) -> None:
    assert torch.equal(moved(rgb, 0.0, 0.0), rgb)


def test_crops_are_moved_in_full_precision_whatever_the_network_computes_in(rgb: Tensor) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(10)
        wanted = moved(rgb, 0.05)
        torch.manual_seed(10)
        with reduced("bfloat16", rgb.device):
            assert torch.equal(moved(rgb, 0.05), wanted)


def test_steady_batches_hold_a_moved_crop_to_the_mean_of_others(teacher: MethodTask, rgb: Tensor) -> None:
    smooth = torch.nn.functional.interpolate(rgb[:, ::16, ::16].permute(0, 3, 1, 2).float(), (48, 48), mode="bilinear")
    smooth = smooth.permute(0, 2, 3, 1).to(torch.uint8)
    task = student(teacher, alpha=1.0, features=0.5, steady=1.0)
    with torch.random.fork_rng():
        torch.manual_seed(8)
        loss = task.loss(smooth, LABELS)
        torch.manual_seed(8)
        torch.rand(())  # whether this batch is one of them
        said = [TorchTeacher(teacher)(moved(smooth, 0.06 / task_crop_scale())) for _ in range(3)]
        own = moved(smooth, 0.06 / task_crop_scale())
    cells = torch.stack([one.cells for one in said]).mean(0)
    pooled = torch.stack([one.features.mean((2, 3)) for one in said]).mean(0)
    share, found = torch.sigmoid(4 * cells), 4 * task._student.cells_of(task._student.trunk(task._input(own)))
    answer = torch.nn.functional.binary_cross_entropy_with_logits(found, share)
    answer = answer - torch.nn.functional.binary_cross_entropy(share, share)
    seen = task._student.trunk(task._input(own)).mean((2, 3))
    error = (((seen - pooled) / (pooled.std(0, correction=0) + 1e-3)) ** 2).mean()
    torch.testing.assert_close(loss, answer + 0.5 * error)


def task_crop_scale() -> float:
    return config().input.crop_scale


def test_steady_students_without_a_teacher_see_moved_crops(rgb: Tensor) -> None:
    plain, steady = student(), student(steady=1.0)
    with torch.random.fork_rng():
        torch.manual_seed(9)
        found = steady.loss(rgb, LABELS)
        torch.manual_seed(9)
        torch.rand(())
        seen = moved(rgb, 0.06 / task_crop_scale())
    torch.testing.assert_close(found, plain.loss(seen, LABELS))


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": -0.1},
        {"alpha": 1.1},
        {"temperature": 0.0},
        {"temperature": math.inf},
        {"features": -1.0},
        {"mixup": 1.5},
        {"mixup": math.nan},
        {"steady": -0.5},
        {"views": 1},
    ],
)
def test_impossible_settings_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(options))} "):
        Imitation(**options)


def test_a_teacher_with_another_map_is_refused(teacher: MethodTask) -> None:
    with pytest.raises(ConfigError, match=r"teacher's map has 3 cells a side, the student's 2; .*size_px of 48"):
        DistilTask(config(size_px=32), [TorchTeacher(teacher)])


def test_features_of_another_number_or_of_nobody_cannot_be_imitated(teacher: MethodTask) -> None:
    how = Imitation(features=1.0)
    other = PixelCosineStudent(TRUNKS["plain_s"](), 112)
    with pytest.raises(ConfigError, match="112 channels, and there is a map of 6 channels"):
        DistilTask(config(), [TorchTeacher(teacher)], how, student=other)
    with pytest.raises(ConfigError, match="6 channels, and there is no teacher"):
        DistilTask(config(), imitation=how)


def binary_config() -> TrainConfig:
    return TrainConfig(input=InputConfig(size_px=48), method=MethodConfig(name="binary-trunk", trunk="tiny"))


def binary_student(*teachers: BinaryTask, **options: float) -> DistilTask:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        task = DistilTask(binary_config(), [TorchTeacher(one) for one in teachers], Imitation(**options))
    task.module.eval()
    return task


@pytest.fixture
def binary_teacher() -> BinaryTask:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return BinaryTask(binary_config())


def test_a_student_of_binary_supervision_learns_its_mean_logit_and_imitates_that_of_its_teacher(
    binary_teacher: BinaryTask, rgb: Tensor
) -> None:
    pupil = binary_student()
    with torch.no_grad():
        logits = pupil.pooled(rgb).double().numpy()
        taught = TorchTeacher(binary_teacher)(rgb).cells.mean((1, 2)).double().numpy()
    y = LABELS.double().numpy()
    task = (np.log1p(np.exp(-logits)) * y + np.log1p(np.exp(logits)) * (1 - y)).mean()
    assert pupil.loss(rgb, LABELS).item() == pytest.approx(task, abs=1e-5)
    distance = np.abs(2 * (logits - taught))
    smooth = np.where(distance < 1, distance**2 / 2, distance - 0.5).mean()
    assert smooth > 1e-3
    found = binary_student(binary_teacher, alpha=1.0, temperature=2.0).loss(rgb, LABELS).item()
    assert found == pytest.approx(smooth, abs=1e-5)
    np.testing.assert_allclose(pupil.score(rgb).detach(), 1 / (1 + np.exp(-logits)), atol=1e-6)


def test_a_student_that_starts_as_its_binary_teacher_answers_as_it_does(
    binary_teacher: BinaryTask, rgb: Tensor
) -> None:
    pupil = binary_student(binary_teacher, alpha=1.0)
    binary_teacher.module.eval()
    before = pupil.loss(rgb, LABELS).item()
    pupil.start_from(binary_teacher)
    pupil.module.eval()
    assert pupil.loss(rgb, LABELS).item() < 1e-6 < before
    torch.testing.assert_close(pupil.score(rgb), binary_teacher.score(rgb))


def test_a_checkpoint_of_each_kind_is_loaded_as_what_it_is(binary_teacher: BinaryTask, tmp_path: Path) -> None:
    of_student, of_teacher, of_other = (tmp_path / f"{name}.safetensors" for name in ("student", "teacher", "other"))
    config = msgspec.to_builtins(binary_config())
    save_checkpoint(of_student, binary_student().module.state_dict(), {"config": config})
    save_checkpoint(of_teacher, binary_teacher.module.state_dict(), {"config": config})
    student_task, teacher_task = load_task(of_student)[0], load_task(of_teacher)[0]
    assert isinstance(student_task, DistilTask)
    assert isinstance(student_task, PooledTask)
    assert isinstance(teacher_task, BinaryTask)
    assert not isinstance(teacher_task, PooledTask)
    config["method"]["name"] = "deeppixbis"
    save_checkpoint(of_other, binary_teacher.module.state_dict(), {"config": config})
    with pytest.raises(
        CheckpointMismatchError,
        match="of full size of deeppixbis; here one of a-deeppixbis, binary-trunk",
    ):
        load_teacher(of_other)


def test_a_teacher_of_another_method_is_refused(teacher: MethodTask, binary_teacher: BinaryTask) -> None:
    with pytest.raises(ConfigError, match="student of binary-trunk cannot imitate a teacher of a-deeppixbis"):
        binary_student(teacher)
    with pytest.raises(ConfigError, match="student of a-deeppixbis cannot imitate a teacher of binary-trunk"):
        student(teacher, binary_teacher)


def test_a_filter_of_other_channels_is_no_start(teacher: MethodTask) -> None:
    other = DistilTask(config(), student=PixelCosineStudent(TRUNKS["plain_s"](), 112))
    with pytest.raises(ConfigError, match="filter has 6 channels, the student's 112"):
        other.start_with_head(teacher)


@pytest.mark.parametrize("more", [{"scale": 4.0}, {"margin": 0.1}, {"options": {"dropout": 0.5}}])
def test_settings_that_a_student_of_binary_supervision_does_not_read_are_refused(more: dict[str, object]) -> None:
    method = msgspec.structs.replace(binary_config().method, **more)
    with pytest.raises(ConfigError, match=next(iter(more))):
        DistilTask(msgspec.structs.replace(binary_config(), method=method))
    with pytest.raises(ConfigError, match="cdcn has no student"):
        DistilTask(TrainConfig(input=InputConfig(size_px=48), method=MethodConfig(name="cdcn", trunk="tiny")))
