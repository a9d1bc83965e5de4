"""Checkpoints: exact round trips, strict loading, damage and interrupted writes."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.checkpoint import Checkpoint, flatten, load_checkpoint, load_into, restore, save_checkpoint
from training.errors import (
    CheckpointError,
    CheckpointFormatError,
    CheckpointNotFoundError,
    CheckpointWriteError,
    StateMismatchError,
    TrainingError,
)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_every_type_of_tensor_comes_back_bit_for_bit(tmp_path: Path) -> None:
    tensors = {
        "float32": torch.tensor([0.1, -0.0, torch.nan, torch.inf, 1e-45]),
        "float64": torch.rand(2, 3, dtype=torch.float64),
        "bfloat16": torch.rand(5).bfloat16(),
        "float16": torch.rand(1).half(),
        "int64": torch.tensor(2**62 + 1),
        "bool": torch.tensor([True, False]),
        "empty": torch.empty(0, 4),
    }
    save_checkpoint(tmp_path / "a.safetensors", tensors, {})
    loaded = load_checkpoint(tmp_path / "a.safetensors").tensors
    assert loaded.keys() == tensors.keys()
    for name, value in tensors.items():
        assert loaded[name].dtype == value.dtype
        assert loaded[name].shape == value.shape
        assert bits(loaded[name]) == bits(value), name


def test_metadata_comes_back_equal(tmp_path: Path) -> None:
    metadata = {
        "epoch": 3,
        "dev": {"acer": 0.041, "threshold": None},
        "species": ["print", "replay"],
        "név": "ő",
        "ok": True,
    }
    save_checkpoint(tmp_path / "a.safetensors", {}, metadata)
    assert load_checkpoint(tmp_path / "a.safetensors").metadata == metadata


def test_views_transposes_and_shared_memory_are_saved_as_they_look(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    save_checkpoint(tmp_path / "a.safetensors", {"base": base, "same": base, "row": base[1], "turned": base.T}, {})
    loaded = load_checkpoint(tmp_path / "a.safetensors").tensors
    assert torch.equal(loaded["same"], base)
    assert loaded["row"].tolist() == [4.0, 5.0, 6.0, 7.0]
    assert torch.equal(loaded["turned"], base.T)


def test_a_module_gets_its_state_back_and_the_caller_the_metadata(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained, fresh = network(), network()
    trained(torch.rand(4, 1, 8, 8))
    save_checkpoint(tmp_path / "a.safetensors", trained.state_dict(), {"epoch": 1})
    assert load_into(fresh, tmp_path / "a.safetensors") == {"epoch": 1}
    for name, value in trained.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name


def test_saving_does_not_alias_the_live_module(tmp_path: Path) -> None:
    module = network()
    save_checkpoint(tmp_path / "a.safetensors", module.state_dict(), {})
    loaded = load_checkpoint(tmp_path / "a.safetensors")
    nn.init.zeros_(module[0].weight)
    assert loaded.tensors["0.weight"].abs().sum() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.weight": None}, r"missing 0\.weight"),
        ({"1.num_batches_tracked": None}, r"missing 1\.num_batches_tracked"),
        ({"0.weight": None, "conv.weight": torch.rand(2, 1, 3, 3)}, r"missing 0\.weight; unknown conv\.weight"),
        ({"extra": torch.rand(1)}, "unknown extra"),
        ({"0.weight": torch.rand(2, 1, 5, 5)}, r"0\.weight of shape \(2, 1, 3, 3\)"),
        ({"0.bias": torch.rand(2).double()}, r"float32, got \(2,\) and torch\.float64"),
    ],
)
def test_a_state_that_does_not_fit_is_named_and_nothing_is_loaded(
    change: dict[str, Tensor | None], message: str
) -> None:
    module = network()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    altered = {name: value + 1 for name, value in before.items()} | change
    state = {name: value for name, value in altered.items() if value is not None}
    with pytest.raises(StateMismatchError, match=message):
        load_into(module, Checkpoint(state, {}))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_wholly_foreign_state_is_counted_rather_than_listed() -> None:
    with pytest.raises(StateMismatchError, match="and 3 more"):
        load_into(network(), Checkpoint({}, {}))


def test_any_flipped_bit_of_the_values_or_the_metadata_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, {"weight": torch.rand(8)}, {"threshold": 0.5})
    content = path.read_bytes()
    for position in (len(content) - 1, len(content) - 20, content.index(b"0.5") + 2):
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(bytes(damaged))
        with pytest.raises(CheckpointFormatError, match="SHA-256"):
            load_checkpoint(path)


@pytest.mark.parametrize("length", [0, 4, 60, -8])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, {"weight": torch.rand(8)}, {})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointFormatError, match="cut off"):
        load_checkpoint(path)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.mkdir, (tmp_path / "sprung",))  # type: ignore[return-value]

    path = tmp_path / "a.safetensors"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointFormatError):
        load_checkpoint(path)
    assert not (tmp_path / "sprung").exists()


def test_safetensors_of_other_projects_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.rand(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointFormatError, match="fasedge-checkpoint"):
        load_checkpoint(tmp_path / "foreign.safetensors")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="absent"):
        load_checkpoint(tmp_path / "absent.safetensors")


def test_an_interrupted_write_leaves_the_old_checkpoint_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, {"weight": torch.ones(2)}, {"epoch": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointWriteError, match="No space left"):
        save_checkpoint(path, {"weight": torch.zeros(2)}, {"epoch": 2})
    assert load_checkpoint(path).metadata == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_is_replaced_and_its_folder_made(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "one" / "last.safetensors"
    for epoch in (1, 2):
        save_checkpoint(path, {"weight": torch.full((2,), float(epoch))}, {"epoch": epoch})
    assert load_checkpoint(path).tensors["weight"].tolist() == [2.0, 2.0]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("value", [float("nan"), Path("x"), torch.ones(1)])
def test_metadata_that_json_cannot_say_is_refused_before_anything_is_written(tmp_path: Path, value: object) -> None:
    with pytest.raises(CheckpointWriteError, match="plain JSON"):
        save_checkpoint(tmp_path / "a.safetensors", {}, {"value": value})  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []


def test_the_same_state_makes_the_same_bytes(tmp_path: Path) -> None:
    tensors = {"b": torch.ones(2), "a": torch.zeros(3)}
    save_checkpoint(tmp_path / "one", tensors, {"x": 1, "y": 2})
    save_checkpoint(tmp_path / "two", dict(reversed(tensors.items())), {"y": 2, "x": 1})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_nested_state_survives_with_its_integer_keys_and_tuples(tmp_path: Path) -> None:
    tree = {
        "state": {0: {"step": torch.tensor(3.0)}, 1: {}},
        "groups": [{"betas": (0.9, 0.999), "amsgrad": False}],
        "x": None,
    }
    tensors, skeleton = flatten(tree, "optimiser")
    save_checkpoint(tmp_path / "a", tensors, {"optimiser": skeleton})
    loaded = load_checkpoint(tmp_path / "a")
    assert list(loaded.tensors) == ["optimiser/state/0/step"]
    assert restore(loaded.metadata["optimiser"], loaded.tensors) == tree


def test_training_goes_on_from_a_checkpoint_exactly_as_without_the_break(tmp_path: Path) -> None:
    def steps(module: nn.Module, optimiser: torch.optim.Optimizer, seed: int) -> None:
        for i in range(3):
            x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(seed + i))
            optimiser.zero_grad()
            module(x).square().mean().backward()
            optimiser.step()

    torch.manual_seed(0)
    one = network()
    optimiser = torch.optim.Adam(one.parameters(), lr=1e-2)
    steps(one, optimiser, 0)
    tensors, skeleton = flatten(optimiser.state_dict(), "optimiser")
    save_checkpoint(tmp_path / "a", one.state_dict() | tensors, {"optimiser": skeleton})
    steps(one, optimiser, 10)

    loaded = load_checkpoint(tmp_path / "a")
    two = network()
    load_into(two, Checkpoint({k: v for k, v in loaded.tensors.items() if not k.startswith("optimiser/")}, {}))
    resumed = torch.optim.Adam(two.parameters(), lr=1.0)
    resumed.load_state_dict(restore(loaded.metadata["optimiser"], loaded.tensors))  # type: ignore[arg-type]
    steps(two, resumed, 10)
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize(
    "skeleton",
    [
        None,
        3,
        {},
        {"tensor": "absent"},
        {"list": 3},
        {"items": [[1]]},
        {"set": []},
        {"value": [1]},
        {"list": [], "x": 1},
    ],
)
def test_a_malformed_skeleton_is_refused(skeleton: object) -> None:
    with pytest.raises(CheckpointFormatError, match="skeleton"):
        restore(skeleton, {})  # type: ignore[arg-type]


@pytest.mark.parametrize("tree", [{"x": object()}, {(1, 2): 3}, [{1.5: 2}], {"x": {1}}])
def test_leaves_that_cannot_be_saved_are_refused(tree: object) -> None:
    with pytest.raises(CheckpointWriteError, match="expected"):
        flatten(tree)  # type: ignore[arg-type]


def test_all_checkpoint_errors_are_training_errors() -> None:
    kinds = (CheckpointNotFoundError, CheckpointFormatError, CheckpointWriteError, StateMismatchError)
    assert all(issubclass(kind, CheckpointError) and issubclass(kind, TrainingError) for kind in kinds)
