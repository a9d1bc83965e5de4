"""A student as a teacher: the same answers from another file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.student_teacher import as_teacher, main
from benchmarks.students import Student, StudentOptions, save_student
from quantize.distill import load_teacher
from training.build import BinaryTask
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
    with pytest.raises(CheckpointError, match="trained cell by cell"):
        as_teacher(Student(pretrained=False), StudentOptions(cells=True), 48, 1.4)
    torch.manual_seed(3)
    save_student(Student(pretrained=False), tmp_path / "student.safetensors", StudentOptions(pretrained=False))
    main(tmp_path / "student.safetensors", out=tmp_path / "teacher.safetensors")
    with pytest.raises(CheckpointError, match="no student of an experiment"):
        main(tmp_path / "teacher.safetensors", out=tmp_path / "again.safetensors")
