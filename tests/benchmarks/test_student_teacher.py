"""A student as a teacher: the same answers from another file."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

from benchmarks.student_teacher import as_teacher, main
from benchmarks.students import Student, StudentOptions, save_student
from quantize.distill import load_task, load_teacher
from quantize.students import new_student
from training.backbones import TRUNKS
from training.build import BinaryTask
from training.checkpoint import save_checkpoint
from training.config import InputConfig, MethodConfig, TrainConfig
from training.errors import CheckpointError

RGB = torch.randint(0, 256, (3, 48, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("normalisation", [{}, {"brightness": False}, {"grey_world": True}])
def test_the_teacher_answers_as_the_student_does(tmp_path: Path, normalisation: dict[str, bool]) -> None:
    options = StudentOptions(pretrained=False, dropout=0.1, **normalisation)
    torch.manual_seed(3)
    student = Student(pretrained=False, norm=options.norm(), dropout=0.1).eval()
    save_student(student, tmp_path / "student.safetensors", options)
    main(tmp_path / "student.safetensors", out=tmp_path / "teacher.safetensors", size=48, crop_scale=1.3)
    teacher, config = load_teacher(tmp_path / "teacher.safetensors")
    assert isinstance(teacher, BinaryTask)
    assert (config.input.size_px, config.input.crop_scale, config.method.options) == (48, 1.3, {"dropout": 0.1})
    with torch.no_grad():
        torch.testing.assert_close(teacher.score(RGB), torch.sigmoid(student(RGB)), rtol=1e-4, atol=1e-5)


def test_what_is_no_student_or_has_no_like_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a student of cells"):
        as_teacher(Student(pretrained=False), StudentOptions(cells=True), 48, 1.4)
    torch.manual_seed(3)
    save_student(Student(pretrained=False), tmp_path / "student.safetensors", StudentOptions(pretrained=False))
    main(tmp_path / "student.safetensors", out=tmp_path / "teacher.safetensors")
    with pytest.raises(CheckpointError, match="no student of an experiment"):
        main(tmp_path / "teacher.safetensors", out=tmp_path / "again.safetensors")


def test_a_distilled_student_becomes_a_teacher_with_its_own_input(tmp_path: Path) -> None:
    torch.manual_seed(4)
    for method in ("binary-trunk", "a-deeppixbis"):
        trunk = TRUNKS["plain_s"]()
        student = new_student(method, trunk, trunk.out_channels).eval()
        config = TrainConfig(
            input=InputConfig(size_px=48, crop_scale=1.2), method=MethodConfig(name=method, trunk="plain_s")
        )
        save_checkpoint(tmp_path / method, student.state_dict(), {"config": msgspec.to_builtins(config)})
    main(tmp_path / "binary-trunk", out=tmp_path / "teacher.safetensors")
    teacher, config = load_teacher(tmp_path / "teacher.safetensors")
    assert (config.input.size_px, config.input.crop_scale) == (48, 1.2)
    task, _ = load_task(tmp_path / "binary-trunk")
    with torch.no_grad():
        torch.testing.assert_close(teacher.score(RGB), task.score(RGB), rtol=1e-4, atol=1e-5)
    with pytest.raises(CheckpointError, match="student of a-deeppixbis"):
        main(tmp_path / "a-deeppixbis", out=tmp_path / "teacher.safetensors")
