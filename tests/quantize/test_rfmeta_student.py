"""The student of RFMeta: a trunk with one logit that learns what the meta learner says of the whole picture."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch.nn import functional

from quantize.__main__ import main
from quantize.distill import DistilTask, load_task, load_teacher
from quantize.export import load_trained
from quantize.imitation import Imitation, feature_error
from quantize.students import PixelLogitStudent
from quantize.teachers import OpenVinoTeacher, TorchTeacher
from tests.quantize.test_rgbd import QUICK, lived_in
from tests.training.fixtures.evaluation_sets import drawn_set, write_set
from training.build import LogitTask, build_task
from training.checkpoint import save_checkpoint
from training.config import InputConfig, MethodConfig, TrainConfig
from training.errors import ConfigError

SIDE_PX = 64
TOML = f"""
[input]
size_px = 64
crop_scale = 1.0
[method]
name = "rfmeta"
trunk = "plain_xs"
{QUICK}"""


def of_student() -> TrainConfig:
    return TrainConfig(input=InputConfig(size_px=SIDE_PX), method=MethodConfig(name="rfmeta", trunk="plain_xs"))


def rgb() -> torch.Tensor:
    torch.manual_seed(6)
    return torch.randint(0, 256, (4, SIDE_PX, SIDE_PX, 3), dtype=torch.uint8)


@pytest.fixture
def teacher_file(tmp_path: Path) -> Path:
    config = TrainConfig(input=InputConfig(size_px=SIDE_PX), method=MethodConfig(name="rfmeta", width=0.0625))
    torch.manual_seed(5)
    module = lived_in(build_task(config).module)
    save_checkpoint(tmp_path / "teacher", module.state_dict(), {"config": msgspec.to_builtins(config)})
    return tmp_path / "teacher"


def test_the_teacher_says_the_logit_of_its_score_in_torch_and_in_openvino(teacher_file: Path) -> None:
    teacher, _ = load_teacher(teacher_file)
    assert isinstance(teacher, LogitTask)
    said = TorchTeacher(teacher)(rgb())
    assert said.cells.shape == (4, 1, 1)
    torch.testing.assert_close(torch.sigmoid(said.cells[:, 0, 0]), teacher.score(rgb()))
    fast = OpenVinoTeacher(teacher, SIDE_PX, threads=1)
    assert (fast.map_side, fast.channels) == (None, 0)
    torch.testing.assert_close(fast(rgb()).cells, said.cells, rtol=0.05, atol=0.02)
    assert load_task(teacher_file)[0].score(rgb()).shape == (4,)


def test_what_is_imitated_is_the_mean_logit(teacher_file: Path) -> None:
    teacher = TorchTeacher(load_teacher(teacher_file)[0])
    task = DistilTask(of_student(), [teacher], Imitation(alpha=1.0))
    assert isinstance(task.module, PixelLogitStudent)
    task.module.eval()
    labels = torch.tensor([1.0, 0.0, 1.0, 0.0])
    expected = functional.smooth_l1_loss(task.pooled(rgb()), teacher(rgb()).cells[:, 0, 0])
    torch.testing.assert_close(task.loss(rgb(), labels), expected)
    with pytest.raises(ConfigError, match="features can be imitated where there are as many"):
        DistilTask(of_student(), [teacher], Imitation(features=1.0))
    changed = msgspec.structs.replace(of_student().method, options={"x": 1})
    with pytest.raises(ConfigError, match="a student of rfmeta has no options"):
        DistilTask(msgspec.structs.replace(of_student(), method=changed))


def test_a_student_is_taught_from_the_command_line_but_cannot_start_from_its_teacher(
    teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "student.toml").write_text(TOML)
    sets = {s: write_set(tmp_path / s, drawn_set(s, people=6, origin="")) for s in ("train", "dev")}
    arguments = ["distil", tmp_path / "student.toml", "--train", sets["train"], "--dev", sets["dev"]]
    arguments += ["--out", tmp_path / "out", "--teacher", teacher_file]
    monkeypatch.setattr(sys, "argv", ["quantize", *map(str, [*arguments, "--start"])])
    assert main() == 3
    assert "cannot start from a teacher of rfmeta" in " ".join(capsys.readouterr().err.split())
    monkeypatch.setattr(sys, "argv", ["quantize", *map(str, arguments)])
    assert main() == 0
    student, config = load_trained(tmp_path / "out" / "best.safetensors")
    assert (type(student), config.method.name) == (PixelLogitStudent, "rfmeta")
    task, _ = load_task(tmp_path / "out" / "best.safetensors")
    assert np.isfinite(task.score(rgb()).detach().numpy()).all()


def test_features_of_a_trunk_in_the_place_of_the_extractor_are_imitated() -> None:
    """By a student of another trunk with as many channels; there is no head that it could start with."""
    config = msgspec.structs.replace(
        of_student(),
        method=MethodConfig(name="rfmeta", trunk="plain_xs", width=0.0625, options={"extractor": "trunk"}),
    )
    torch.manual_seed(5)
    teacher = TorchTeacher(LogitTask(config))
    task = DistilTask(of_student(), [teacher], Imitation(alpha=1.0, features=0.5))
    task.module.eval()
    alone = DistilTask(of_student(), [teacher], Imitation(alpha=1.0), student=task.module)
    labels = torch.tensor([1.0, 0.0, 1.0, 0.0])
    apart = (task.loss(rgb(), labels) - alone.loss(rgb(), labels)) / 0.5
    found = task.module.trunk(task.inputs(rgb()))
    torch.testing.assert_close(apart, feature_error(found, teacher(rgb()).features))
