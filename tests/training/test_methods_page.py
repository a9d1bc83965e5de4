"""The page on methods: every question of the register has an answer, and every switch that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
import torch

from training.backbones import TRUNKS
from training.build import FITTED, METHODS, MethodTask, build_task
from training.config import TrainConfig, load_config

PAGE = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
ROWS = {
    cells[0]: cells[1:]
    for line in PAGE.splitlines()
    if len(cells := [cell.strip() for cell in line.strip("|").split(" | ")]) == 4
    and re.fullmatch(r"[A-D]\d+", cells[0])
}
METHOD_OF = {"A": "cmfl", "B": "a-deeppixbis", "C": "rfmeta"}
CONFIGS = Path(__file__).parents[2] / "training" / "configs"
SWITCH = re.compile(r"`((?:method|optimiser|input|data)\.[\w.]+ = [^`]+)`")
SWITCHES = [(row, line) for row, cells in ROWS.items() for line in SWITCH.findall(cells[2])]


def test_every_question_of_the_register_is_answered() -> None:
    wanted = [*(f"A{i}" for i in range(1, 10)), *(f"B{i}" for i in range(1, 15)), *(f"C{i}" for i in range(1, 14))]
    assert sorted(ROWS) == sorted([*wanted, "D1", "D2"])
    for row, (question, default, change) in ROWS.items():
        assert question, row
        assert default, row
        assert "`" in change or "not offered" in change or change == "nothing to choose", row


@pytest.mark.parametrize(("row", "line"), SWITCHES, ids=[f"{row}: {line}" for row, line in SWITCHES])
def test_every_switch_of_the_register_is_one(tmp_path: Path, row: str, line: str) -> None:
    name, path = METHOD_OF[row[0]], tmp_path / "run.toml"
    path.write_text(f'method.name = "{name}"\nmethod.width = 0.0625\n{line}\n')
    changed, shipped = load_config(path), load_config(CONFIGS / f"{name.replace('-', '_')}.toml")
    with torch.device("meta"):
        build_task(changed)
    # Our default is what the shipped configuration of the method says.
    keys = line.partition(" = ")[0].split(".")
    assert _value(changed, keys) != _value(shipped, keys)


def _value(config: TrainConfig, keys: list[str]) -> object:
    found = msgspec.to_builtins(config)
    for key in keys:
        found = found.get(key)
    return found


def test_every_method_and_every_configuration_is_on_the_page() -> None:
    assert all(f"`{name}`" in PAGE for name in {**METHODS, **FITTED})
    assert {path.name for path in CONFIGS.glob("*.toml")} <= set(re.findall(r"[\w/]*?(\w+\.toml)", PAGE))
    for name in re.findall(r"training/configs/(\w+\.toml)", PAGE):
        assert load_config(CONFIGS / name).method.name in {**METHODS, **FITTED}


def test_every_trunk_is_on_the_page_with_its_parameters_and_channels() -> None:
    rows = [line.strip("|").split(" | ") for line in PAGE.split("## Trunks", 1)[1].split("\n## ", 1)[0].splitlines()]
    told: dict[str, tuple[str, int]] = {}
    for names, _, parameters, channels, _ in (row for row in rows if len(row) == 5):
        sizes = re.findall(r"[\d.]+", parameters)  # none in the head of the table, which names no trunk
        told |= {name: (size, int(channels)) for name, size in zip(re.findall(r"`(\w+)`", names), sizes, strict=True)}
    counted = {}
    for name, build in TRUNKS.items():
        trunk = build()
        part = trunk.deployed() if name.startswith("plain") else trunk
        size = sum(parameter.numel() for parameter in part.parameters()) / 1e6
        counted[name] = (f"{size:.2f}", trunk.out_channels)
    assert told == counted


def test_switches_below_the_register_are_some_too(tmp_path: Path) -> None:
    found = SWITCH.findall(PAGE.split("Two more,", 1)[1])
    assert found == [
        'optimiser.keep = "loss"', 'data.balance = "auto"', 'data.balance = "once"',
        'method.options.score_head = "binary"',
    ]  # fmt: skip
    path = tmp_path / "run.toml"
    path.write_text('method.name = "a-deeppixbis"\nmethod.width = 0.0625\n' + "\n".join(found[:1] + found[2:]))
    with torch.device("meta"):
        task = build_task(load_config(path))
    assert isinstance(task, MethodTask)
    assert task.primary_score == "binary"
