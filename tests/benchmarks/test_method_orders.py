"""Studies of the papers' orderings: rows that can be trained, records that count once, orders that are counted."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from scipy.stats import binomtest

from benchmarks import method_orders
from benchmarks.method_orders import STUDIES, Outcome, Study, digest, orders, read_outcomes, sign_test
from benchmarks.method_orders import run as run_study
from benchmarks.method_orders import table as show_table
from tests.training.fixtures.evaluation_sets import drawn_set, write_set
from training.build import build_task
from training.config import InputConfig, MethodConfig, OptimiserConfig, TrainConfig
from training.data.table import SIMULATOR_VERSION
from training.errors import ConfigError


@pytest.mark.parametrize("name", list(STUDIES))
def test_every_row_of_a_study_is_a_run_that_can_be_built_and_no_two_are_the_same(name: str) -> None:
    study = STUDIES[name]
    seen = set()
    for row in study.rows:
        config = study.config(row, study.tasks[0], seed=1)
        quick = msgspec.structs.replace(config, method=msgspec.structs.replace(config.method, pretrained=False))
        build_task(quick)
        seen.add(digest(config))
    assert len(seen) == len(study.rows)
    assert {part for pair in study.order for part in pair} <= set(study.rows)


def test_a_digest_is_of_everything_that_decides_what_is_learnt() -> None:
    study = STUDIES["rfmeta"]
    one = study.config("RFMeta", "camera=kiosk", 1)
    others = [study.config("RFMeta", "camera=kiosk", 2), study.config("RFMeta", "camera=low_light", 1)]
    moved = msgspec.structs.replace(one, machine=msgspec.structs.replace(one.machine, device="cpu", workers=0))
    assert digest(moved) == digest(one)
    assert len({digest(config) for config in [one, *others]}) == 3


@pytest.mark.parametrize(("wins", "n"), [(0, 5), (3, 12), (6, 12), (11, 12), (9, 9), (0, 1)])
def test_the_sign_test_is_the_exact_one(wins: int, n: int) -> None:
    assert sign_test(wins, n) == pytest.approx(binomtest(wins, n).pvalue)


def outcome(row: str, task: str, seed: int, auc: float) -> Outcome:
    return Outcome(
        study="toy", row=row, task=task, seed=seed, seconds=1.0, parameters=7, auc=auc, eer=0.1, hter=0.1, bpcer=0.1,
        dev_auc=0.9, n_test=10, config="",
    )  # fmt: skip


def test_orders_are_counted_over_equal_tasks_and_seeds_alone() -> None:
    study = Study(TrainConfig(), {"a": MethodConfig(), "b": MethodConfig()}, ("x", "y"), (("a", "b"),))
    runs = [
        outcome("a", "x", 1, 0.9), outcome("b", "x", 1, 0.8), outcome("a", "x", 2, 0.6), outcome("b", "x", 2, 0.7),
        outcome("a", "y", 1, 0.5), outcome("b", "y", 1, 0.5), outcome("a", "y", 2, 0.9),
    ]  # fmt: skip
    found = {(o.row, o.task, o.seed): o for o in runs}
    (line,) = orders(study, found)
    assert line[:4] == ["a > b", "3", "1.5", "+0.000"]


def test_a_study_is_run_once_divided_among_processes_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = Study(
        TrainConfig(input=InputConfig(size_px=64), optimiser=OptimiserConfig(batch=8, epochs=1)),
        {
            "colour and depth": MethodConfig(name="rgbd-mh-bce", width=0.125),
            "depth": MethodConfig(name="deeppixbis-depth", width=0.125),
        },
        ("species=print",),
        (("colour and depth", "depth"),),
    )
    monkeypatch.setattr(method_orders, "STUDIES", {"toy": small})
    sets, out = tmp_path / "sets", tmp_path / "orders.jsonl"
    for split in ("train", "dev", "test"):
        write_set(sets / split, drawn_set(split, depth=True, people=2))
    for share in ("1/2", "2/2", "1/1"):
        run_study("toy", sets, out=out, runs=tmp_path / "runs", seeds="1", tasks="", share=share, threads=1)
    found = read_outcomes(out)
    assert sorted(o.row for o in found) == ["colour and depth", "depth"]
    # Two people: four bona fide recordings and two prints of two frames each.
    assert all((o.n_test, o.task) == (12, "species=print") for o in found)
    assert all(o.simulator == SIMULATOR_VERSION and o.torch == torch.__version__ for o in found)
    assert all(0 <= value <= 1 for o in found for value in (o.auc, o.eer, o.hter, o.bpcer, o.dev_auc))
    capsys.readouterr()
    show_table("toy", out, markdown=True)
    shown = capsys.readouterr().out
    assert "| depth |" in shown
    assert "| colour and depth > depth | 1 |" in shown
    with pytest.raises(ConfigError, match="expected one of toy"):
        show_table("cmfl", out)
