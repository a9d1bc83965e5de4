"""The rounded student on disk: what is loaded is what was saved, and nothing else loads."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from quantize.distill import load_task
from quantize.equalise import bound
from quantize.errors import CheckpointMismatchError
from quantize.export import empty_student
from quantize.finetune import FinetuneConfig, FinetuneRecord
from quantize.fitting import fit_grid
from quantize.grid import GridConfig, conv_names, float_activations, grids
from quantize.rounded import UNCALIBRATED, Rounded, load_rounded, save_rounded, with_crop
from quantize.students import ExportModel, Platt
from training.checkpoint import load_checkpoint, save_checkpoint
from training.config import InputConfig, MethodConfig, TrainConfig
from training.data.samples import SetInfo
from training.errors import CheckpointError, ConfigError, StateMismatchError

CONFIG = TrainConfig(input=InputConfig(size_px=32, brightness=True), method=MethodConfig(trunk="efficientnet_lite0"))
NOTE = {"teacher_sha256": "ab12", "alpha": 0.3, "started_from_it": True}
TRAIN = SetInfo(split="train", seed=3, n=500)
TUNING = FinetuneConfig(steps=7, batch=3, learning_rate=2e-5)


def crops(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("student") / "best.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(5)
        student = empty_student(CONFIG)
    save_checkpoint(path, student.state_dict(), {"config": msgspec.to_builtins(CONFIG), "epoch": 4, "note": NOTE})
    return path


@pytest.fixture(scope="module")
def grid(parent: Path) -> ExportModel:
    student = empty_student(CONFIG)
    student.load_state_dict(load_checkpoint(parent).tensors)
    model = ExportModel(student.eval(), UNCALIBRATED, CONFIG.input.normalisation())
    return fit_grid(model, crops(16, 1), GridConfig(float_convs=tuple(conv_names(model)[:2])))


@pytest.fixture(scope="module")
def saved(parent: Path, grid: ExportModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rounded") / "rounded.safetensors"
    chosen = GridConfig(float_convs=("stem.conv", "blocks.0.depthwise.conv"))
    save_rounded(path, grid, parent, CONFIG, chosen, TUNING, FinetuneRecord(0.5, 0.25), train=TRAIN, crops=16)
    return path


def test_a_loaded_student_answers_as_the_saved_one_on_its_grid_and_off_it(saved: Path, grid: ExportModel) -> None:
    rgb = torch.from_numpy(crops(6, 2))
    loaded = load_rounded(saved)
    with torch.no_grad():
        assert torch.equal(loaded.grid.cells(rgb), grid.cells(rgb))
        with float_activations(grid):
            wanted = grid.cells(rgb)
        torch.testing.assert_close(loaded.fp32().cells(rgb), wanted, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(wanted, grid.cells(rgb), atol=1e-6)
    assert {k: v.limits for k, v in grids(loaded.grid).items()} == {k: v.limits for k, v in grids(grid).items()}


def test_it_remembers_where_it_comes_from(saved: Path, parent: Path) -> None:
    loaded = load_rounded(saved, Platt(3.0, -1.0))
    assert loaded.config == CONFIG
    assert loaded.grid.platt == Platt(3.0, -1.0)
    info = loaded.info
    assert (info.parent_epoch, info.steps, info.batch, info.learning_rate) == (4, 7, 3, 2e-5)
    assert info.parent_note == NOTE
    assert (info.error_before, info.error_after) == (0.5, 0.25)
    import hashlib

    assert info.parent_sha256 == hashlib.sha256(parent.read_bytes()).hexdigest()


def test_it_scores_as_any_other_checkpoint(saved: Path) -> None:
    task, config = load_task(saved)
    rgb = torch.from_numpy(crops(4, 3))
    with torch.no_grad():
        cosine = load_rounded(saved).fp32().cells(rgb).mean(dim=(1, 2))
        torch.testing.assert_close(task.score(rgb), 0.5 + 0.5 * cosine)
    assert config == CONFIG


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportModel]:
    config = msgspec.structs.replace(CONFIG, method=MethodConfig(trunk="plain_s"))
    with torch.random.fork_rng():
        torch.manual_seed(6)
        student = empty_student(config).eval()
    path = tmp_path_factory.mktemp("bounded")
    save_checkpoint(path / "best", student.state_dict(), {"config": msgspec.to_builtins(config)})
    model, names = bound(student.exported(UNCALIBRATED, config.input.normalisation()), crops(16, 1))
    chosen = GridConfig(float_convs=tuple(conv_names(model)[:1]))
    grid = fit_grid(model, crops(16, 1), chosen)
    save_rounded(
        path / "rounded", grid, path / "best", config, chosen, TUNING, FinetuneRecord(0, 0), train=TRAIN, crops=16,
        bounded=names,
    )  # fmt: skip
    return path / "rounded", grid


def test_activations_that_end_still_do_when_loaded(bounded: tuple[Path, ExportModel]) -> None:
    path, grid = bounded
    rgb, loaded = torch.from_numpy(crops(6, 2)), load_rounded(path)
    assert len(loaded.info.bounded) == 6
    for model in (loaded.grid, loaded.fp32()):
        assert isinstance(model.trunk.get_submodule(loaded.info.bounded[0]), torch.nn.ReLU6)
    with torch.no_grad():
        assert torch.equal(loaded.grid.cells(rgb), grid.cells(rgb))
    assert all(limits[1] <= 6.0001 for limits in (g.limits for g in grids(loaded.grid).values()) if limits[0] == 0)


def test_bounds_of_another_network_are_refused(bounded: tuple[Path, ExportModel], tmp_path: Path) -> None:
    checkpoint = load_checkpoint(bounded[0])
    about = dict(checkpoint.metadata["rounded"]) | {"bounded": ["stem.act"]}
    save_checkpoint(tmp_path / "a", checkpoint.tensors, checkpoint.metadata | {"rounded": about})
    with pytest.raises(CheckpointMismatchError, match=r"no ReLU of the name 'stem\.act'"):
        load_rounded(tmp_path / "a")


def test_a_student_that_is_not_rounded_is_refused(parent: Path) -> None:
    with pytest.raises(CheckpointMismatchError, match="quantize round"):
        load_rounded(parent)


def test_files_of_the_first_version_name_the_filter_without_the_head(saved: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(saved)
    tensors = {name.removeprefix("head."): value for name, value in checkpoint.tensors.items()}
    assert "unit_weight" in tensors
    save_checkpoint(tmp_path / "a", tensors, checkpoint.metadata)
    assert torch.equal(load_rounded(tmp_path / "a").grid.head.unit_weight, checkpoint.tensors["head.unit_weight"])


@pytest.mark.parametrize("missing", ["head.unit_weight", "blocks.3.expand.conv.scale"])
def test_a_file_that_lacks_a_tensor_is_refused(saved: Path, tmp_path: Path, missing: str) -> None:
    checkpoint = load_checkpoint(saved)
    tensors = {name: value for name, value in checkpoint.tensors.items() if name != missing}
    assert len(tensors) == len(checkpoint.tensors) - 1
    save_checkpoint(tmp_path / "a", tensors, checkpoint.metadata)
    with pytest.raises((CheckpointMismatchError, StateMismatchError), match=r"the head in .* does not fit|scale"):
        load_rounded(tmp_path / "a")


def test_a_file_without_a_configuration_is_refused(saved: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(saved)
    save_checkpoint(tmp_path / "a", checkpoint.tensors, {"rounded": checkpoint.metadata["rounded"]})
    with pytest.raises(CheckpointError, match="no configuration"):
        load_rounded(tmp_path / "a")


def test_fp32_and_int8_share_their_weights(saved: Path) -> None:
    loaded: Rounded = load_rounded(saved)
    name = "blocks.4.project.conv"
    plain = loaded.fp32().trunk.get_submodule(name)
    assert torch.equal(plain.weight, loaded.grid.trunk.get_submodule(name).rounded_weight())
    codes = plain.weight / loaded.grid.trunk.get_submodule(name).scale[:, None, None, None]
    torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-3)
    assert codes.abs().max() == pytest.approx(63)


def test_files_that_do_not_say_what_they_were_rounded_on_load(saved: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(saved)
    info = {name: value for name, value in checkpoint.metadata["rounded"].items() if name not in ("crops", "train")}
    save_checkpoint(tmp_path / "a", checkpoint.tensors, checkpoint.metadata | {"rounded": info})
    rounded = load_rounded(tmp_path / "a")
    assert (rounded.info.crops, rounded.info.train) == (None, "")


def test_another_crop_is_one_that_can_be_cut() -> None:
    assert with_crop(CONFIG, None) is CONFIG
    assert with_crop(CONFIG, 1.1).input == msgspec.structs.replace(CONFIG.input, crop_scale=1.1)
    with pytest.raises(ConfigError):
        with_crop(CONFIG, 0.0)
