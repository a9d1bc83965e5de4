"""The small student of the experiments: what it is trained on, what fixes it, what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from benchmarks.students import (
    Student,
    StudentOptions,
    crop_logits,
    cut,
    load_student,
    save_student,
    score_crops,
    train_student,
)
from fasedge.preprocess import InputSpec
from fasedge.types import UInt8Array
from training.config import AugmentConfig
from training.data.samples import CropJitter
from training.errors import CheckpointError, ConfigError, DataError

TINY = StudentOptions(
    n=0, size_px=32, batch=8, warmup_steps=2, pretrained=False, precision="float32", average=0.5, epochs=6,
    learning_rate=3e-3, label_smoothing=0.0, dropout=0.0, augment=AugmentConfig(), brightness=False,
)  # fmt: skip


class Coloured:
    """Bona fide is red, attacks are blue; remembers what it was asked for."""

    def __init__(self, n: int = 32) -> None:
        rng = np.random.default_rng(0)
        self.labels = np.arange(n) % 2
        self.asked: list[tuple[int, InputSpec]] = []
        base = np.where(self.labels[:, None] == 1, [200, 40, 40], [40, 40, 200])
        self._colours = np.clip(base + rng.normal(0, 20, (n, 3)), 0, 255).astype(np.uint8)

    def __len__(self) -> int:
        return len(self.labels)

    def crops(
        self,
        indices: Sequence[int],
        spec: InputSpec,
        *,
        jitter: CropJitter | None = None,
        rng: np.random.Generator | None = None,
    ) -> UInt8Array:
        self.asked += [(int(i), spec) for i in indices]
        shape = (len(indices), spec.size_px, spec.size_px, 3)
        return np.broadcast_to(self._colours[np.asarray(indices)][:, None, None], shape).copy()


def pictures(colours: Coloured) -> UInt8Array:
    return colours.crops(range(len(colours)), InputSpec(size_px=32, crop_scale=1.0))


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    return train_student(Coloured(), options=TINY)


def test_a_student_learns_what_tells_the_classes_apart(trained: nn.Module) -> None:
    other = Coloured(16)
    scores = score_crops(trained, pictures(other))
    assert scores.dtype == np.float64
    assert scores[other.labels == 1].min() > scores[other.labels == 0].max()
    assert not trained.training


def test_the_same_seed_gives_the_same_student_and_leaves_the_callers_random_numbers_alone(trained: nn.Module) -> None:
    torch.manual_seed(1234)
    wanted = torch.rand(3)
    torch.manual_seed(1234)
    again = train_student(Coloured(), options=TINY)
    assert torch.equal(torch.rand(3), wanted)
    crops = pictures(Coloured())
    np.testing.assert_array_equal(crop_logits(again, crops), crop_logits(trained, crops))

    other = train_student(Coloured(), options=msgspec.structs.replace(TINY, seed=2, epochs=1))
    assert not np.array_equal(crop_logits(other, crops), crop_logits(trained, crops))


def test_only_the_allowed_samples_are_used_each_as_often_as_there_are_epochs() -> None:
    source = Coloured()
    allowed = [*range(8), *range(16, 24)]

    train_student(source, indices=allowed, options=msgspec.structs.replace(TINY, epochs=2))
    count = np.bincount([i for i, _ in source.asked], minlength=32)
    assert count[allowed].tolist() == [2] * 16
    assert count.sum() == 32
    source = Coloured()
    train_student(source, options=msgspec.structs.replace(TINY, n=19, epochs=2))
    # Nineteen are drawn once for the whole run; two whole batches of eight an epoch.
    assert len({i for i, _ in source.asked}) in range(16, 20)
    assert len(source.asked) == 32


def test_crops_are_cut_at_every_scale_of_the_range() -> None:

    source = Coloured()
    options = msgspec.structs.replace(TINY, crop_low=1.0, crop_high=4.0)
    cut(source, list(range(32)) * 8, options, np.random.default_rng(0))
    logs = np.log([spec.crop_scale for _, spec in source.asked]) / np.log(4)
    assert (logs.min() >= 0, logs.max() <= 1) == (True, True)
    # Log-uniform: quarters are equally full (256 draws, four standard deviations of a binomial are 28).
    assert np.abs(np.histogram(logs, 4, (0, 1))[0] - 64).max() < 28
    assert options.scoring_spec().crop_scale == pytest.approx(2.0)


def test_a_transform_sees_the_crops_and_decides_about_the_labels() -> None:
    seen: list[tuple[tuple[int, ...], np.dtype[np.uint8]]] = []

    def swap(
        crops: UInt8Array, labels: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[UInt8Array, NDArray[np.int64]]:
        seen.append((crops.shape, crops.dtype))
        return crops, 1 - labels

    student = train_student(Coloured(), options=TINY, transform=swap)
    assert set(seen) == {((8, 32, 32, 3), np.dtype(np.uint8))}
    other = Coloured(16)
    scores = score_crops(student, pictures(other))
    assert scores[other.labels == 1].max() < scores[other.labels == 0].min()


def test_scores_are_the_sigmoid_of_the_logits_whatever_the_batch(trained: nn.Module) -> None:
    crops = pictures(Coloured())
    logits = crop_logits(trained, crops)
    np.testing.assert_allclose(crop_logits(trained, crops, batch=5), logits, rtol=1e-4, atol=1e-4)
    scores = score_crops(trained, crops)
    np.testing.assert_allclose(np.log(scores / (1 - scores)), logits, rtol=1e-6, atol=1e-6)
    assert score_crops(trained, crops[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 1}, "batch must be >= 2"),
        ({"size_px": 40}, "multiple of 16"),
        ({"crop_low": 2.0, "crop_high": 1.0}, "crop_low <= crop_high"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"average": 1.0}, "average"),
        ({"high_pass": 9.0}, "high_pass"),
        ({"seed": -1}, "seed"),
        ({"epochs": 0}, "epochs"),
    ],
)
def test_options_that_cannot_work_are_refused_before_anything_is_cut(change: dict[str, float], message: str) -> None:

    source = Coloured()
    with pytest.raises(ConfigError, match=message):
        train_student(source, options=msgspec.structs.replace(TINY, **change))
    assert not source.asked


def test_samples_that_cannot_teach_are_refused() -> None:
    source = Coloured()
    with pytest.raises(DataError, match="one class of the two"):
        train_student(source, indices=range(0, 32, 2), options=TINY)
    with pytest.raises(DataError, match="at least a batch of 8 samples, got 3"):
        train_student(source, indices=[0, 1, 2], options=TINY)
    with pytest.raises(DataError, match=r"\[0, 32\)"):
        train_student(source, indices=[*range(16), 32], options=TINY)
    with pytest.raises(DataError, match="uint8"):
        score_crops(nn.Flatten(), np.zeros((1, 3, 32, 32), np.float32))  # type: ignore[arg-type]


def test_a_student_that_is_kept_scores_as_before_and_other_files_are_none(tmp_path: Path) -> None:
    options = StudentOptions(seed=4, brightness=False, pretrained=False, size_px=32)
    torch.manual_seed(4)
    student = Student(pretrained=False, norm=None)
    crops = np.random.default_rng(4).integers(0, 256, (3, 32, 32, 3), np.uint8)
    path = tmp_path / "new" / "student.safetensors"
    save_student(student, path, options)
    found = load_student(path)
    assert found is not None
    assert found[1] == options
    np.testing.assert_array_equal(score_crops(found[0], crops), score_crops(student, crops))
    save_file({"x": torch.zeros(1)}, path)
    assert load_student(path) is None
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_student(path)


def test_a_student_of_fine_structure_sees_no_areas_and_is_read_back_as_one(tmp_path: Path) -> None:
    torch.manual_seed(6)
    student = Student(pretrained=False, norm=None, high_pass=2.0).eval()
    grey, dotted = np.full((2, 1, 64, 64, 3), 120, np.uint8)
    dotted[:, ::3, ::3] = 160
    logits = [float(crop_logits(student, picture)[0]) for picture in (grey, grey // 2, dotted)]
    assert logits[0] == pytest.approx(logits[1], abs=1e-4)
    assert abs(logits[0] - logits[2]) > 1e-3
    options = StudentOptions(brightness=False, pretrained=False, high_pass=2.0)
    save_student(student, tmp_path / "s", options)
    found = load_student(tmp_path / "s")
    assert found is not None
    assert crop_logits(found[0], dotted)[0] == pytest.approx(logits[2], abs=1e-5)


def test_the_score_is_the_mean_of_the_cells() -> None:
    torch.manual_seed(5)
    student = Student(pretrained=False).eval()
    rgb = torch.from_numpy(np.random.default_rng(5).integers(0, 256, (2, 64, 64, 3), np.uint8))
    with torch.inference_mode():
        cells = student.cells(rgb)
        assert cells.shape == (2, 16)
        np.testing.assert_allclose(cells.mean(1).numpy(), student(rgb).numpy(), rtol=1e-4, atol=1e-5)
