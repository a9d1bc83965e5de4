"""The student of CMFL: what its heads see, what it leaves alone, and that all of it survives export and rounding."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from fasedge.cards import find_model, load_card
from fasedge.depth import crop_depth, measure_face_depth
from fasedge.preprocess import InputSpec
from fasedge.selftest import load_golden
from fasedge.types import Box, UInt8Array
from quantize.__main__ import main
from quantize.distill import load_task, pooled_heads_of, scores_of
from quantize.errors import CalibrationDataError, CheckpointMismatchError
from quantize.export import artefacts, export_fp32, export_int8, load_trained, read_calibration
from quantize.fitting import fit_grid
from quantize.grid import GridConfig, conv_names, grid_convs, release
from quantize.parity import artefact_scores, reference_scores
from quantize.pictures import feed, packed, pictures, usable_part
from quantize.published import weights_of
from quantize.rgbd import SCORES, RgbdExportModel, RgbdStudent, new_rgbd_student, take_colour
from quantize.rgbd_task import RgbdTask, RgbdTeacher, check_same_crop, load_rgbd_teacher
from quantize.rounded import load_calibrated, load_rounded
from quantize.students import Platt
from tests.training.fixtures.evaluation_sets import drawn_set, write_set
from tests.training.fixtures.toy_sets import toy_set
from training.backbones import plain_trunk
from training.build import build_task
from training.checkpoint import save_checkpoint
from training.config import InputConfig, MethodConfig, TrainConfig
from training.data.batches import plain_batch
from training.errors import BatchError, ConfigError, DataError, StateMismatchError
from training.inputs import BrightnessNorm
from training.methods.cmfl import cross_modal_focal_loss
from training.tasks import MIXED, Needs

SIZE_PX = 32
SPEC = InputSpec(size_px=SIZE_PX, crop_scale=0.9)
CONFIG = TrainConfig(
    input=InputConfig(size_px=SIZE_PX, crop_scale=0.9, brightness=True),
    method=MethodConfig(name="cmfl", trunk="plain_xs"),
)
#: How all students of these tests are trained from the command line.
QUICK = """
[optimiser]
batch = 8
epochs = 1
keep = "last"
[machine]
ahead = 0
"""
TOML = f"""
[data]
depth = true
[input]
size_px = 112
crop_scale = 0.85
brightness = true
[method]
name = "cmfl"
trunk = "plain_m"
{QUICK}"""


def lived_in(student: nn.Module, seed: int = 0) -> nn.Module:
    """With statistics and biases that folding and merging must not lose."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for module in student.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
    return student.eval()


@pytest.fixture
def student() -> RgbdStudent:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return lived_in(new_rgbd_student(CONFIG.method))


def shown(n: int = 6, seed: int = 0) -> UInt8Array:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 4, 4, 4), np.uint8)
    return coarse.repeat(SIZE_PX // 4, 1).repeat(SIZE_PX // 4, 2)


def batch_of(n: int = 8):
    return plain_batch(drawn_set("train", depth=True), list(range(n)), CONFIG, Needs(depth=True))


# What the heads see.


def test_the_exported_scores_are_the_logistic_functions_of_the_three_logits(student):
    platt = Platt(2.0, -0.5, {"score_rgb": Platt(0.5, 0.25), "score_depth": Platt(3.0, 0.0)})
    model = RgbdExportModel(student, platt, BrightnessNorm())
    rgbd = torch.from_numpy(shown())
    logits = RgbdTask(CONFIG, student=student).pooled_heads(rgbd)
    with torch.no_grad():
        found = dict(zip(model.outputs, model(rgbd[..., :3], rgbd[..., 3:]), strict=True))
        as_one = dict(zip(model.outputs, model(rgbd), strict=True))
    for name, (scale, bias) in {"score": (2.0, -0.5), "score_rgb": (0.5, 0.25), "score_depth": (3.0, 0.0)}.items():
        expected = 1 / (1 + np.exp(-(scale * logits[name].detach().numpy() + bias)))
        np.testing.assert_allclose(found[name], expected, atol=2e-5)
        assert torch.equal(found[name], as_one[name])
    # The map is that of the joint score: the mean of its logits is the logit of the score.
    cells = torch.logit(found["map"].double()).mean(dim=(1, 2))
    torch.testing.assert_close(cells, torch.logit(found["score"].double()), rtol=1e-4, atol=1e-4)


def test_the_score_of_colour_knows_nothing_of_depth_nor_that_of_depth_of_colour(student):
    model = RgbdExportModel(student, Platt(1.0, 0.0))
    one, other = torch.from_numpy(shown(seed=1)), torch.from_numpy(shown(seed=2))
    with torch.no_grad():
        base = dict(zip(model.outputs, model(one[..., :3], one[..., 3:]), strict=True))
        new_depth = dict(zip(model.outputs, model(one[..., :3], other[..., 3:]), strict=True))
        new_colour = dict(zip(model.outputs, model(other[..., :3], one[..., 3:]), strict=True))
    assert torch.equal(base["score_rgb"], new_depth["score_rgb"])
    assert torch.equal(base["score_depth"], new_colour["score_depth"])
    for changed in (new_depth, new_colour):
        assert not torch.allclose(base["score"], changed["score"], atol=1e-3)


def test_each_stream_has_its_own_leading_convolutions(student):
    model = RgbdExportModel(student, Platt(1.0, 0.0))
    assert conv_names(model, 1) == ["rgb.0", "depth.0"]
    assert conv_names(model, 2) == ["rgb.0", "rgb.2", "depth.0", "depth.2"]
    assert len(conv_names(model)) == 14  # six of 3x3 and one of 1x1 for each


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trunk": "densenet161"}, "has trunks of plain_xs, plain_s"),
        ({"options": {"depth_trunk": "efficientnet_lite0"}}, "got 'efficientnet_lite0'"),
        ({"options": {"embed_act": "sigmoid"}}, "linear heads"),
        ({"options": {"score_head": "rgb"}}, "decides by the joint one"),
        ({"options": {"gama": 3.0}}, "gama is unknown to cmfl"),
        ({"name": "a-deeppixbis"}, "expected a run of the method 'cmfl'"),
    ],
)
def test_settings_that_such_a_student_does_not_have_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        new_rgbd_student(msgspec.structs.replace(CONFIG.method, **changes))


# Colour that comes from another model.


def test_colour_of_a_published_model_answers_as_it_does_there():
    """But where an activation is larger than what those of the model end at, 6: those of the student go on."""
    folder = find_model("edge-rgb")
    card = load_card(folder)
    golden = load_golden(folder, card)
    student = new_rgbd_student(MethodConfig(name="cmfl", trunk="plain_m"))
    take_colour(student, weights_of("edge-rgb"))
    platt = Platt(1.0, 0.0, {"score_rgb": Platt(card.calibration.scale, card.calibration.bias)})
    model = RgbdExportModel(student.eval(), platt, BrightnessNorm())
    rgb, peaks = torch.from_numpy(golden.rgb), []
    for layer in (m for m in model.modules() if isinstance(m, torch.nn.ReLU)):
        layer.register_forward_hook(lambda _m, _i, out: peaks.append(out.amax(dim=(1, 2, 3))))
    with torch.no_grad():
        score = model(rgb, torch.zeros(*rgb.shape[:3], 1, dtype=torch.uint8))[2].numpy()
    within = (torch.stack(peaks).amax(dim=0) <= 6).numpy()
    assert 3 <= within.sum() < len(within)
    np.testing.assert_allclose(score[within], golden.score[within], atol=1e-5)
    np.testing.assert_allclose(score, golden.score, atol=0.01)


def test_colour_that_was_taken_over_stays_as_it_is_while_the_rest_learns():
    student = new_rgbd_student(MethodConfig(name="cmfl", trunk="plain_m"))
    take_colour(student, weights_of("edge-rgb"))
    task = RgbdTask(msgspec.structs.replace(CONFIG, method=MethodConfig(name="cmfl", trunk="plain_m")), student=student)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in student.parameters() if p.requires_grad], 0.1)
    student.train()
    for _ in range(2):
        optimiser.zero_grad()
        task.training_step({MIXED: batch_of()})["total"].backward()
        optimiser.step()
    after = student.state_dict()
    kept = {n for n in before if n.startswith(("network.rgb_trunk.", "network.rgb_head."))}
    assert all(torch.equal(before[name], after[name]) for name in kept)
    moved = {n.split(".")[1] for n in before if n not in kept and not torch.equal(before[n], after[n])}
    assert moved == {"depth_trunk", "depth_head", "joint_head"}


def test_colour_of_another_kind_of_network_is_refused():
    with pytest.raises(StateMismatchError, match="merged network"):
        take_colour(new_rgbd_student(CONFIG.method), weights_of("edge-rgb"))
    with pytest.raises(CheckpointMismatchError, match="with one logit"):
        take_colour(new_rgbd_student(CONFIG.method), weights_of("a-deeppixbis"))


def test_a_plain_trunk_becomes_the_one_that_it_was_merged_from():
    source, copy = lived_in(plain_trunk("plain_xs"), 3), plain_trunk("plain_xs").eval()
    copy.load_merged(source.deployed().state_dict())
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(copy(x), source(x), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(copy.deployed()(x), source.deployed()(x), rtol=1e-5, atol=1e-6)
    with pytest.raises(StateMismatchError):
        copy.load_merged(plain_trunk("plain_s").deployed().state_dict())


def test_a_merged_trunk_that_has_settled_says_the_same_in_training_too():
    source, copy = lived_in(plain_trunk("plain_xs"), 3), plain_trunk("plain_xs").eval()
    x = torch.rand(8, 3, 64, 64)
    copy.load_merged(source.deployed().state_dict())
    with torch.no_grad():
        wanted, unsettled = source(x), copy.train()(x)
        copy.load_merged(source.deployed().state_dict())
        copy.settle(x)
        torch.testing.assert_close(copy(x), wanted, rtol=1e-3, atol=1e-3)
        # The statistics of this batch are those that it has settled on.
        torch.testing.assert_close(copy.train()(x), wanted, rtol=1e-3, atol=1e-3)
    assert (unsettled - wanted).abs().max() > 0.1


# Training.


def test_the_loss_is_that_of_cmfl(student):
    task, batch = RgbdTask(CONFIG, student=student), batch_of()
    found, z = task.training_step({MIXED: batch}), task.logits(batch)
    settings = student.network.config
    rgb = cross_modal_focal_loss(z.rgb, z.depth, batch.labels, settings).mean()
    depth = cross_modal_focal_loss(z.depth, z.rgb, batch.labels, settings).mean()
    joint = nn.functional.binary_cross_entropy_with_logits(z.joint, batch.labels)
    torch.testing.assert_close(found["total"], 0.5 * 0.5 * (rgb + depth) + 0.5 * joint)


def teacher_file(path: Path, config: TrainConfig = CONFIG) -> Path:
    method = MethodConfig(name="cmfl", width=0.125)
    settings = msgspec.structs.replace(
        config, input=msgspec.structs.replace(config.input, brightness=False), method=method
    )
    torch.manual_seed(4)
    module = build_task(settings).module
    save_checkpoint(path, module.state_dict(), {"config": msgspec.to_builtins(settings)})
    return path


def test_teachers_are_imitated_by_the_heads_that_see_depth(student, tmp_path):
    teacher, known = load_rgbd_teacher(teacher_file(tmp_path / "t"))
    assert isinstance(teacher, RgbdTeacher)
    check_same_crop(CONFIG, known.input.spec(), "the teacher")
    batch = batch_of()
    own, said = RgbdTask(CONFIG, student=student).logits(batch), teacher(batch)
    smooth = nn.functional.smooth_l1_loss
    expected = smooth(own.joint, said.joint) + smooth(own.depth, said.depth)
    alone = RgbdTask(CONFIG, [teacher], 1.0, student=student).training_step({MIXED: batch})
    torch.testing.assert_close(alone["total"], expected)
    plain = RgbdTask(CONFIG, student=student).training_step({MIXED: batch})["total"]
    half = RgbdTask(CONFIG, [teacher], 0.5, student=student).training_step({MIXED: batch})
    torch.testing.assert_close(half["total"], 0.5 * plain + 0.5 * expected)
    assert not any(p.requires_grad for p in teacher._step.module.parameters())


def test_teachers_that_do_not_fit_are_refused(student, tmp_path):
    wide = msgspec.structs.replace(CONFIG, input=InputConfig(size_px=SIZE_PX, crop_scale=1.8))
    _, known = load_rgbd_teacher(teacher_file(tmp_path / "t", wide))
    with pytest.raises(ConfigError, match=r"1\.8 face boxes, the student sees 32 px and 0\.9"):
        check_same_crop(CONFIG, known.input.spec(), "the teacher")
    other = msgspec.structs.replace(CONFIG, method=MethodConfig(name="a-deeppixbis"))
    save_checkpoint(tmp_path / "o", student.state_dict(), {"config": msgspec.to_builtins(other)})
    with pytest.raises(CheckpointMismatchError, match="a network of a-deeppixbis"):
        load_rgbd_teacher(tmp_path / "o")
    with pytest.raises(ConfigError, match="alpha in"):
        RgbdTask(CONFIG, (), 1.5)
    with pytest.raises(BatchError, match="has none"):
        RgbdTask(CONFIG).logits(plain_batch(drawn_set("train"), [0], CONFIG, Needs()))


# Pictures.


def test_pictures_are_the_crops_of_the_sdk_with_depth_behind_colour():
    samples = drawn_set("dev", depth=True)
    found = pictures(samples, [0, 3], SPEC, depth=True)
    assert (found.dtype, found.shape) == (np.uint8, (2, SIZE_PX, SIZE_PX, 4))
    np.testing.assert_array_equal(found[..., :3], pictures(samples, [0, 3], SPEC, depth=False))
    box = Box(*samples.table[3].box_xyxy)
    depth_mm = samples.depth_mm(3)
    np.testing.assert_array_equal(found[1, ..., 3], crop_depth(depth_mm, box, SPEC, measure_face_depth(depth_mm, box)))
    named = feed(found)
    assert {name: value.shape for name, value in named.items()} == {
        "rgb": (2, SIZE_PX, SIZE_PX, 3),
        "depth": (2, SIZE_PX, SIZE_PX, 1),
    }
    assert all(value.flags.c_contiguous for value in named.values())
    assert set(feed(found[..., :3])) == {"rgb"}
    batch = plain_batch(samples, [0, 3], msgspec.structs.replace(CONFIG), Needs(depth=True))
    np.testing.assert_array_equal(packed(batch, depth=True).numpy(), found)


def test_faces_without_depth_are_left_out_and_sets_without_any_refused():
    samples = drawn_set("dev", depth=True)
    assert len(usable_part(samples, depth=True)) == len(samples)
    with pytest.raises(CalibrationDataError, match="looks at depth, but the sample set has none"):
        usable_part(toy_set(8), depth=True)
    assert len(usable_part(toy_set(8), depth=False)) == 8
    with pytest.raises(CalibrationDataError, match="the batch has none"):
        packed(plain_batch(toy_set(8), [0], CONFIG, Needs()), depth=True)
    with pytest.raises(DataError, match="no depth"):
        pictures(toy_set(8), [0], SPEC, depth=True)


# On the grid, in files.


def test_int8_of_every_engine_answers_as_the_grid_does_on_both_scores(student, tmp_path):
    pytest.importorskip("litert_torch")
    model = RgbdExportModel(student, Platt(0.3, 0.0, {"score_rgb": Platt(0.3, 0.0)}), BrightnessNorm())
    calibration, held_out = shown(64, seed=5), shown(24, seed=6)
    grid = fit_grid(model, calibration, GridConfig(float_convs=tuple(conv_names(model, 1))))
    assert len(grid_convs(grid)) == 12
    released = release(grid, conv_names(grid, 2))
    assert len(grid_convs(released)) == 10
    files = export_fp32(model, tmp_path, SIZE_PX) + export_int8(released, tmp_path, SIZE_PX, calibration[:1])
    assert [f.name for f in artefacts(tmp_path)] == [f.name for f in files]
    for output in model.decisions:
        exact, rounded = reference_scores(model, held_out, output), reference_scores(released, held_out, output)
        assert 0 < np.abs(exact - rounded).max() < 0.1
        for item in files:
            expected, tolerance = (exact, 1e-4) if item.precision == "fp32" else (rounded, 0.02)
            np.testing.assert_allclose(artefact_scores(item, held_out, output), expected, atol=tolerance)


def test_both_scores_that_decide_are_named_the_usual_one_first(student):
    model = RgbdExportModel(student, Platt(1.0, 0.0))
    assert list(model.decisions.items()) == [("score", ("rgb", "depth")), ("score_rgb", ("rgb",))]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["quantize", *map(str, arguments)])
    return main()


def test_a_student_is_taught_rounded_and_calibrated_from_the_command_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "student.toml").write_text(TOML)
    sets = {s: write_set(tmp_path / s, drawn_set(s, people=6, depth=True, origin="")) for s in ("train", "dev")}
    seen = msgspec.structs.replace(CONFIG, input=InputConfig(size_px=112, crop_scale=0.85))
    teacher, out = teacher_file(tmp_path / "t", seen), tmp_path / "out"
    base = ["distil", tmp_path / "student.toml", "--train", sets["train"], "--dev", sets["dev"], "--out", out]
    assert run(monkeypatch, *base, "--colour", "edge-rgb", "--teacher", teacher, "--alpha", 0.25) == 0
    student, config = load_trained(out / "best.safetensors")
    assert isinstance(student, RgbdStudent)
    assert config.method.name == "cmfl"

    task, _ = load_task(out / "best.safetensors")
    dev = drawn_set("dev", people=6, depth=True, origin="")
    means = pooled_heads_of(task, dev, config)
    assert set(means) == set(SCORES)
    np.testing.assert_allclose(scores_of(task.score, task, dev, config), 1 / (1 + np.exp(-means["score"])), atol=1e-6)

    rounded, calibration = tmp_path / "r", tmp_path / "c.json"
    steps = ["--train", sets["train"], "--crops", 32, "--steps", 2]
    assert run(monkeypatch, "round", out / "best.safetensors", "--checkpoint", rounded, *steps) == 0
    info = load_rounded(rounded).info
    assert info.float_convs == ("rgb.0", "depth.0")
    assert (info.parent_note["colour_of"], info.parent_note["alpha"]) == (
        f"edge-rgb {load_card(find_model('edge-rgb')).version}",
        0.25,
    )
    # Two steps of training: heads that see depth may not rise with the label yet. Labels that do are put in.
    monkeypatch.setattr("quantize.step_commands.fit_platt", lambda values, _: Platt(1.0 + abs(float(values[0])), 0.5))
    of_dev = ["--dev", sets["dev"], "--calibration", calibration]
    assert run(monkeypatch, "calibrate", "--checkpoint", rounded, *of_dev) == 0
    file = read_calibration(calibration)
    assert set(file.heads) == {"score_rgb", "score_depth"}
    model = load_calibrated(rounded, calibration)[0].fp32()
    assert model.platt == file.platt()
    assert len({file.scale, *(head.scale for head in file.heads.values())}) == 3
    calibration.write_bytes(msgspec.json.encode(msgspec.structs.replace(file, heads={})))
    with pytest.raises(CheckpointMismatchError, match="calibrates the heads none, the network has"):
        load_calibrated(rounded, calibration)

    (tmp_path / "other.toml").write_text(TOML.replace("0.85", "0.9"))
    assert run(monkeypatch, "distil", tmp_path / "other.toml", *base[2:], "--colour", "edge-rgb") == 3
    said = " ".join(capsys.readouterr().err.split())
    assert "the model edge-rgb has seen crops of 112 px and 0.85 face boxes" in said

    for more in (["--features", 1], ["--start", "--teacher", teacher], ["--mixup", 0.5], ["--from", rounded]):
        assert run(monkeypatch, *base, *more) == 2
        assert "has --teacher, --alpha and --colour only" in " ".join(capsys.readouterr().err.split())
