"""Networks of full size, at a sixteenth of their width: every method in every engine."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from fasedge.preprocess import InputSpec
from quantize.__main__ import main
from quantize.about import read_about
from quantize.errors import CheckpointMismatchError, ParityError
from quantize.export import artefacts, export_fp32
from quantize.full import FullNetwork, Operation, export_full, float_convolutions, float_modules, load_full
from quantize.parity import ParityRecord, artefact_scores, reference_scores
from quantize.pictures import pictures
from quantize.rgbd import new_rgbd_student
from quantize.students import Exportable
from tests.quantize.test_rgbd import lived_in
from tests.training.fixtures.evaluation_sets import drawn_set, write_set
from training.build import build_task
from training.checkpoint import save_checkpoint
from training.config import InputConfig, MethodConfig, TrainConfig
from training.data.batches import plain_batch
from training.errors import CheckpointError, StateMismatchError
from training.methods.hsv import RgbHsvInput
from training.tasks import as_step_task

SIDE_PX = 64
METHODS = {
    "a-deeppixbis": MethodConfig(width=0.0625),
    "cmfl": MethodConfig(name="cmfl", width=0.0625),
    "rfmeta": MethodConfig(name="rfmeta", width=0.0625),
}


def config_of(method: str) -> TrainConfig:
    return TrainConfig(input=InputConfig(size_px=SIDE_PX, crop_scale=1.0), method=METHODS[method])


def trained(path: Path, method: str) -> Path:
    """A checkpoint as the training loop leaves it, with weights that nobody has trained."""
    torch.manual_seed(2)
    module = lived_in(build_task(config_of(method)).module)
    save_checkpoint(path, module.state_dict(), {"config": msgspec.to_builtins(config_of(method))})
    return path


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_network_scores_as_the_method_does(method: str, tmp_path: Path) -> None:
    model, config = load_full(trained(tmp_path / "m", method))
    assert model.sees_depth == (method == "cmfl")
    samples = drawn_set("dev", depth=True)
    task = as_step_task(build_task(config))
    task.module.load_state_dict(model.network.state_dict())
    task.module.eval()
    batch = plain_batch(samples, list(range(6)), config, task.needs)
    with torch.no_grad():
        expected = task.score_batch(batch)
    shown = pictures(samples, range(6), config.input.spec(), depth=model.sees_depth)
    np.testing.assert_allclose(reference_scores(model, shown), expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_engine_answers_as_the_method_in_fp32_and_near_it_in_int8(method: str, tmp_path: Path) -> None:
    pytest.importorskip("litert_torch")
    model, config = load_full(trained(tmp_path / "m", method))
    samples, spec = drawn_set("train", people=6, depth=True), config.input.spec()
    shown = pictures(samples, range(len(samples)), spec, depth=model.sees_depth)
    files = export_full(model, tmp_path / "out", SIDE_PX, shown[:24])
    assert [f.name for f in files] == [f.name for f in artefacts(tmp_path / "out")]
    exact = reference_scores(model, shown)
    for item in files:
        found = artefact_scores(item, shown)
        if item.precision == "fp32":
            np.testing.assert_allclose(found, exact, atol=1e-3)
        else:
            assert 0 < np.abs(found - exact).max() < 0.1
    weights = {f.precision: f.path.with_suffix(".bin").stat().st_size for f in files if f.engine == "openvino"}
    assert weights["int8"] < 0.5 * weights["fp32"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "side_px", "million"), [("a-deeppixbis", 224, 3.3), ("cmfl", 224, 6.4), ("rfmeta", 256, 3.9)]
)
def test_networks_of_the_published_width_and_input_are_quantised(
    method: str, side_px: int, million: float, tmp_path: Path
) -> None:
    """With weights that nobody has trained: what they answer is near everywhere, so files must be very near."""
    torch.manual_seed(2)
    wide = msgspec.structs.replace(METHODS[method], width=1.0)
    task = as_step_task(build_task(TrainConfig(input=InputConfig(size_px=side_px, crop_scale=1.0), method=wide)))
    model = FullNetwork(task)
    assert sum(p.numel() for p in model.network.parameters()) == pytest.approx(million * 1e6, rel=0.02)
    samples = drawn_set("dev", depth=True)
    shown = pictures(samples, range(4), InputSpec(size_px=side_px, crop_scale=1.0), depth=model.sees_depth)
    expected = reference_scores(model, shown)
    for item in export_full(model, tmp_path, side_px, shown[:2]):
        scores = artefact_scores(item, shown, threads=1)
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-4 if item.precision == "fp32" else 5e-3)


def test_stems_and_scores_stay_float_convolutions() -> None:
    """Two streams that join: each has a stem; what comes behind any convolution is integer but for a single filter."""
    network = [
        Operation("norm", ("rgb",), ("x",)),
        Operation("stem", ("x", "weights"), ("a",), filters=8),
        Operation("relu", ("a",), ("b",)),
        Operation("middle", ("b",), ("c",), filters=8),
        Operation("stem of depth", ("depth",), ("d",), filters=8),
        Operation("joint", ("c", "d"), ("e",), filters=8),
        Operation("score", ("e",), ("score",), filters=1),
    ]
    assert float_convolutions(network) == ["stem", "stem of depth", "score"]


@pytest.mark.parametrize(
    ("method", "kept"),
    [
        ("a-deeppixbis", {"network.trunk.features.conv0", "network.pixel_filter", "network.image_projection"}),
        ("cmfl", {"network.rgb_trunk.features.conv0", "network.depth_trunk.features.conv0"}),
        ("rfmeta", {"network.extractor.stem.0", "network.estimator.2.0"}),
    ],
)
def test_the_same_convolutions_stay_in_float_in_pytorch(method: str, kept: set[str], tmp_path: Path) -> None:
    model, _ = load_full(trained(tmp_path / "m", method))
    shown = np.random.default_rng(0).integers(0, 256, (1, SIDE_PX, SIDE_PX, 3 + model.sees_depth)).astype(np.uint8)
    before = reference_scores(model, shown)
    assert set(float_modules(model, shown)) == kept
    np.testing.assert_array_equal(reference_scores(model, shown), before)


class Hues(Exportable):
    """What networks that read hue see of a picture."""

    outputs = ("score",)

    def forward(self, rgb: Tensor) -> tuple[Tensor]:
        return (RgbHsvInput()(rgb),)


def test_hue_is_the_same_to_a_step_in_an_engine_that_multiplies_by_reciprocals(tmp_path: Path) -> None:
    """Colours at the ends of the sectors too, where hue jumped by up to the whole circle."""
    openvino = pytest.importorskip("openvino")
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    colours[:16, :, 1] = colours[:16, :, 2]
    colours[16:32, :, 0] = colours[16:32, :, 2]
    colours[32:48, :, 0] = colours[32:48, :, 1]
    (item,) = export_fp32(Hues(), tmp_path, 64, ["openvino"])
    found = openvino.Core().compile_model(item.path, "CPU")([colours[None]])[0]
    steps = 255 * np.abs(found - RgbHsvInput()(torch.from_numpy(colours[None])).numpy())
    assert steps.max() < 1.01
    assert (steps > 0.5).mean() < 0.002


def test_what_is_no_trained_method_is_refused(tmp_path: Path) -> None:
    student = new_rgbd_student(MethodConfig(name="cmfl", trunk="plain_xs"))
    save_checkpoint(tmp_path / "s", student.state_dict(), {"config": msgspec.to_builtins(config_of("cmfl"))})
    with pytest.raises(CheckpointMismatchError, match="is a student"):
        load_full(tmp_path / "s")
    save_checkpoint(tmp_path / "n", {"a": torch.zeros(1)}, {"epoch": 1})
    with pytest.raises(CheckpointError, match="carries no configuration"):
        load_full(tmp_path / "n")
    save_checkpoint(tmp_path / "o", {"a": torch.zeros(1)}, {"config": msgspec.to_builtins(config_of("rfmeta"))})
    with pytest.raises(StateMismatchError):
        load_full(tmp_path / "o")


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["quantize", *map(str, arguments)])
    return main()


@pytest.mark.slow
def test_the_command_leaves_files_and_figures_and_says_when_one_is_beyond_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("litert_torch")
    checkpoint, out = trained(tmp_path / "m", "a-deeppixbis"), tmp_path / "out"
    sets = {s: write_set(tmp_path / s, drawn_set(s, people=6, origin="")) for s in ("train", "dev", "test")}
    options = ["--train", sets["train"], "--dev", sets["dev"], "--out", out, "--crops", 16]
    code = command(monkeypatch, "full", checkpoint, *options, "--test", sets["test"])
    records = read_about(out / "parity.json", artefacts(out), ParityRecord, ParityError)
    assert {(r.engine, r.precision) for r in records} == {
        (engine, precision) for engine in ("openvino", "litert", "onnxruntime") for precision in ("fp32", "int8")
    }
    assert {r.n for r in records} == {48}
    # Weights that nobody has trained put all scores near each other: a decision is easily another one.
    beyond = any(
        r.decision_flips_percent > 0.5
        or r.score_abs_diff_p99 > 0.05
        or abs(r.auc - r.auc_reference) > 0.002
        or abs(r.acer_points - r.acer_points_reference) > 0.3
        for r in records
    )
    assert code == (3 if beyond else 0)
    assert ("The files are written" in capsys.readouterr().err.replace("\n", " ")) == beyond
    assert command(monkeypatch, "full", checkpoint, *options, "--test", sets["test"], "--dev", sets["test"]) == 3
    assert "threshold is chosen on the dev split" in capsys.readouterr().err.replace("\n", " ")
    capsys.readouterr()
    assert command(monkeypatch, "full", checkpoint, *options, "--test", sets["train"]) == 3
    assert "held-out samples" in capsys.readouterr().err


def test_depth_may_come_as_fourth_channel(tmp_path: Path) -> None:
    model, _ = load_full(trained(tmp_path / "m", "cmfl"))
    assert isinstance(model, FullNetwork)
    rgbd = torch.randint(0, 256, (2, SIDE_PX, SIDE_PX, 4), dtype=torch.uint8)
    torch.testing.assert_close(model(rgbd)[0], model(rgbd[..., :3], rgbd[..., 3:])[0])
