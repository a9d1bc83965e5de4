"""The student that is taught where none is named."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from quantize.distil_command import Lessons
from quantize.run_checks import DEFAULT_STUDENTS, METHODS, student_to_be
from tests.quantize.test_rgbd import teacher_file
from tests.training.fixtures.evaluation_sets import untrained_run
from training.config import load_config


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_student_of_its_own(method: str) -> None:
    assert load_config(DEFAULT_STUDENTS[method]).method.name == method


def test_a_bundled_student_looks_at_the_crops_of_its_first_teacher(tmp_path: Path) -> None:
    bundled = load_config(DEFAULT_STUDENTS["a-deeppixbis"])
    teacher = untrained_run(tmp_path / "t", "a-deeppixbis") / "best.safetensors"
    found = student_to_be("a-deeppixbis", None, Lessons(teachers=(teacher,)))
    assert (found.input.size_px, found.input.crop_scale) == (64, 1.0)
    own = msgspec.structs.replace(found.input, size_px=bundled.input.size_px, crop_scale=bundled.input.crop_scale)
    assert msgspec.structs.replace(found, input=own) == bundled
    named = student_to_be("a-deeppixbis", DEFAULT_STUDENTS["a-deeppixbis"], Lessons(teachers=(teacher,)))
    assert named == bundled


def test_a_bundled_student_of_colour_is_not_shown_other_colours_by_a_teacher_of_depth(tmp_path: Path) -> None:
    lessons = Lessons(teachers=(teacher_file(tmp_path / "t"),))
    assert load_config(DEFAULT_STUDENTS["binary-trunk"]).augment.recoloured > 0
    assert student_to_be("binary-trunk", None, lessons).augment.recoloured == 0
