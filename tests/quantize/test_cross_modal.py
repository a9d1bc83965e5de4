"""A student of colour that learns what teachers of colour and depth say."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from torch.nn import functional

from quantize.cross_modal import CrossModalTask
from quantize.distil_command import see_depth
from quantize.distill import DistilTask
from quantize.export import load_trained
from quantize.rgbd_task import RgbdTeacher, load_rgbd_teacher
from quantize.students import PixelLogitStudent
from tests.quantize.test_rgbd import QUICK, run, teacher_file
from tests.training.fixtures.evaluation_sets import drawn_set, write_set
from training.config import InputConfig, MethodConfig, TrainConfig
from training.errors import ConfigError
from training.tasks import MIXED, TOTAL, Batch

SIZE_PX = 64
CONFIG = TrainConfig(
    input=InputConfig(size_px=SIZE_PX, crop_scale=0.9), method=MethodConfig(name="binary-trunk", trunk="plain_xs")
)
TOML = f"""
[input]
size_px = 64
crop_scale = 0.9
[method]
name = "binary-trunk"
trunk = "plain_xs"
{QUICK}"""


@pytest.fixture
def teacher(tmp_path: Path) -> RgbdTeacher:
    return load_rgbd_teacher(teacher_file(tmp_path / "teacher", CONFIG))[0]


def batch() -> Batch:
    torch.manual_seed(8)
    rgb, depth = (torch.randint(0, 256, (4, SIZE_PX, SIZE_PX, *more), dtype=torch.uint8) for more in ((3,), ()))
    return Batch(rgb=rgb, labels=torch.tensor([1.0, 0.0, 1.0, 0.0]), depth=depth)


def test_the_loss_is_that_of_the_labels_and_the_distance_from_the_joint_logit(teacher: RgbdTeacher) -> None:
    torch.manual_seed(3)
    student, seen = DistilTask(CONFIG), batch()
    student.module.eval()
    task = CrossModalTask(student, [teacher, teacher], alpha=0.25)
    losses = task.training_step({MIXED: seen})
    said = student.pooled(seen.rgb)
    joint = teacher(seen).joint
    assert joint is not None
    labels = functional.binary_cross_entropy_with_logits(said, seen.labels)
    distance = functional.smooth_l1_loss(said, joint)
    torch.testing.assert_close(losses["task"], labels)
    torch.testing.assert_close(losses["imitation"], distance)
    torch.testing.assert_close(losses[TOTAL], 0.75 * labels + 0.25 * distance)
    # Depth teaches and does not decide.
    without = Batch(rgb=seen.rgb, labels=seen.labels)
    torch.testing.assert_close(task.score_batch(without), torch.sigmoid(said))


def test_what_cannot_be_taught_like_this_is_refused(teacher: RgbdTeacher) -> None:
    cosines = msgspec.structs.replace(CONFIG, method=MethodConfig(name="a-deeppixbis", trunk="plain_xs"))
    with pytest.raises(ConfigError, match="students that have one are"):
        CrossModalTask(DistilTask(cosines), [teacher])
    for teachers, alpha in (([], 0.5), ([teacher], 1.5)):
        with pytest.raises(ConfigError, match="expected a teacher and alpha"):
            CrossModalTask(DistilTask(CONFIG), teachers, alpha)


def test_a_student_of_colour_is_taught_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "student.toml").write_text(TOML)
    sets = {s: write_set(tmp_path / s, drawn_set(s, people=6, depth=True, origin="")) for s in ("train", "dev")}
    file, out = teacher_file(tmp_path / "t", CONFIG), tmp_path / "out"
    assert see_depth([file])
    assert not see_depth([])
    arguments = ["distil", tmp_path / "student.toml", "--train", sets["train"], "--dev", sets["dev"], "--out", out]
    assert run(monkeypatch, *arguments, "--teacher", file, "--features", 1) == 2
    assert "--alpha only" in " ".join(capsys.readouterr().err.split())
    assert run(monkeypatch, *arguments, "--teacher", file, "--alpha", 0.25) == 0
    student, config = load_trained(out / "best.safetensors")
    assert (type(student), config.method.name) == (PixelLogitStudent, "binary-trunk")
    assert '"teachers_see_depth"' in (out / "run.json").read_text()
    blind = write_set(tmp_path / "blind", drawn_set("train", people=6, origin=""))
    arguments[3] = blind
    assert run(monkeypatch, *arguments[:-1], tmp_path / "other", "--teacher", file) == 3
    assert "has none" in capsys.readouterr().err
