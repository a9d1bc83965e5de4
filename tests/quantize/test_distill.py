"""Distillation: what the loss is made of, and what it must not touch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quantize.distill import DistilTask
from training.backbones import TRUNKS, Trunk
from training.build import MethodTask
from training.config import InputConfig, MethodConfig, TrainConfig
from training.errors import ConfigError

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


def student(teacher: MethodTask | None, **options: float) -> DistilTask:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        task = DistilTask(config(), teacher, **options)
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
    alone, beside = student(None), student(teacher, alpha=0.0)
    cosines = cosine_map(alone, rgb)
    assert alone.loss(rgb, LABELS).item() == pytest.approx(task_loss(cosines), abs=1e-5)
    assert beside.loss(rgb, LABELS).item() == pytest.approx(task_loss(cosines), abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_imitation_is_the_divergence_between_the_softened_maps(
    teacher: MethodTask, rgb: Tensor, temperature: float
) -> None:
    pupil = student(teacher, alpha=1.0, temperature=temperature)
    with torch.no_grad():
        wanted = sigmoid(temperature * teacher.cosines(rgb)[0].double().numpy())
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
    np.testing.assert_allclose(cosine_map(pupil, rgb), teacher.cosines(rgb)[0].detach(), atol=1e-5)


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
    pupil = student(None)
    expected = 0.5 + 0.5 * cosine_map(pupil, rgb).mean((1, 2))
    np.testing.assert_allclose(pupil.score(rgb).detach(), expected, atol=1e-6)


@pytest.mark.parametrize("options", [{"alpha": -0.1}, {"alpha": 1.1}, {"temperature": 0.0}, {"temperature": math.inf}])
def test_impossible_settings_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"alpha in \[0, 1\] and temperature > 0"):
        student(None, **options)


def test_a_teacher_with_another_map_is_refused(teacher: MethodTask) -> None:
    with pytest.raises(ConfigError, match=r"teacher's map has 3 cells a side, the student's 2; .*size_px of 48"):
        DistilTask(config(size_px=32), teacher)
