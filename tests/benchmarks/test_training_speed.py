"""Speed of training: operations are counted as by hand, and every method's step runs and is reported."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

from benchmarks import training_speed, training_steps
from benchmarks.training_speed import Speed, recipe, table
from benchmarks.training_steps import MemoryFeed, count_flops, matmul_peak, noise_set, rows_first, without_tf32
from training.build import build_task
from training.config import load_config
from training.errors import ConfigError
from training.tasks import MIXED, as_step_task

CPU = torch.device("cpu")


def speed(**changes: object) -> Speed:
    fields: dict[str, object] = {
        "config": "file", "method": "cmfl", "size_px": 224, "width": 1.0, "batch": 64, "accumulate": 2,
        "precision": "bfloat16", "compiled": True, "parameters": 7, "steps": 30, "flops": 40 * 10**12, "step_s": 0.25,
        "plain_step_s": 1.0, "peak_flops_per_s": 640e12, "start_s": 60.0, "memory_bytes": 3 * 2**30,
    }  # fmt: skip
    return Speed(**(fields | changes))  # type: ignore[arg-type]


def test_a_linear_layer_counts_two_operations_per_weight_and_sample_forward_and_twice_that_backward() -> None:
    layer, x = nn.Linear(3, 5), torch.randn(4, 3, requires_grad=True)
    forward = 2 * 4 * 3 * 5
    assert count_flops(lambda: layer(x)) == forward
    assert count_flops(lambda: layer(x).sum().backward()) == 3 * forward
    # Nobody asks for the gradient of the first layer's input.
    assert count_flops(lambda: layer(x.detach()).sum().backward()) == 2 * forward


def test_a_convolution_counts_its_kernel_at_every_place_of_its_output() -> None:
    layer, x = nn.Conv2d(2, 4, 3, stride=2, padding=1), torch.randn(3, 2, 8, 8, requires_grad=True)
    forward = 2 * (3 * 4 * 4) * 4 * (2 * 3 * 3)  # (samples x places) x filters x kernel, a product and a sum each
    assert count_flops(lambda: layer(x)) == forward
    assert count_flops(lambda: layer(x).sum().backward()) == 3 * forward


def test_a_gradient_of_a_gradient_is_counted_too() -> None:
    weight, x = torch.randn(3, 5, requires_grad=True), torch.randn(4, 3)

    def step() -> None:
        (inner,) = torch.autograd.grad((x @ weight).square().sum(), weight, create_graph=True)
        (x @ (weight - 0.1 * inner)).square().sum().backward()

    # Forward and gradient of the inner loss, forward and gradient of the outer one; then back through the inner
    # gradient (x^T times something) and through the inner forward pass; x is fixed.
    assert count_flops(step) == (2 + 2 + 2) * (2 * 4 * 3 * 5)


def test_ratio_and_share_of_the_peak_follow_from_times_and_operations() -> None:
    s = speed()
    assert (s.images_per_s, s.plain_images_per_s, s.ratio, s.mfu) == (512.0, 128.0, 4.0, 0.25)
    record = s.record()
    assert (record["mfu"], record["flops"], record["method"]) == (0.25, 40 * 10**12, "cmfl")


def test_the_table_has_a_row_per_method_and_names_the_aims() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table([speed(), speed(method="rfmeta", compiled=False, accumulate=1, memory_bytes=0)]))
    lines = console.export_text().splitlines()
    assert any("aim 3" in line and "aim 35%" in line for line in lines)
    (row,) = (line for line in lines if "cmfl" in line)
    for cell in ("224 px, width 1, batch 64 x 2", "512.0", "128.0", "4.00", "160", "640", "25.0%", "3.0"):
        assert cell in row
    assert sum("bfloat16, compiled" in line for line in lines) == 1


def test_a_peak_is_positive_and_the_fastest_of_its_sides() -> None:
    assert matmul_peak(CPU, [16, 32], seconds=0.0) > 0


def test_the_plain_loop_rounds_nothing_to_tf32_and_leaves_the_setting_as_it_was() -> None:
    parts = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [part.fp32_precision for part in parts]
    with without_tf32():
        assert [part.fp32_precision for part in parts] == ["ieee", "ieee"]
    assert [part.fp32_precision for part in parts] == before


def test_the_plain_loop_reads_pictures_row_by_row() -> None:
    layer = nn.Conv2d(3, 4, 3)
    seen: list[bool] = []
    net = nn.Sequential(layer)
    rows_first(net)
    layer.register_forward_hook(lambda _, inputs, output: seen.append(output.is_contiguous()))
    net(torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last))
    assert seen == [True]


@pytest.mark.parametrize("place", range(3))
def test_noise_is_what_each_method_asks_for(place: int) -> None:
    config = recipe(load_config(training_speed.CONFIGS[place]), CPU, width=0.05, size_px=64, batch=24)
    needs = as_step_task(build_task(config)).needs
    batches = list(MemoryFeed(config, needs, 3, CPU).epoch(0, 0))
    assert len(batches) == 3
    assert len(batches[0]) == (6 if needs.domains else 1)
    assert (MIXED in batches[0]) is not needs.domains
    for batch in batches[0].values():
        assert batch.rgb.shape[1:] == (64, 64, 3)
        assert float(batch.labels.mean()) == 0.5
        assert (batch.depth is not None) is needs.depth
        assert (batch.depth_targets is not None) is (needs.targets is not None)
    assert sum(len(batch) for batch in batches[0].values()) == 24
    assert not {row.identity for row in noise_set(4, "train").table} & {
        row.identity for row in noise_set(4, "dev").table
    }


def test_the_recipe_compiles_on_a_gpu_what_can_be_compiled_and_keeps_the_rest_of_the_file() -> None:
    cmfl, _, rfmeta = (load_config(path) for path in training_speed.CONFIGS)
    gpu = torch.device("cuda", 0)
    made = recipe(cmfl, gpu, width=0.05)
    assert (made.machine.compile, made.machine.device, made.machine.ahead) == (True, "cuda:0", 0)
    assert (made.optimiser.precision, made.optimiser.learning_rate) == ("bfloat16", cmfl.optimiser.learning_rate)
    assert recipe(rfmeta, gpu, width=0.05).machine.compile is False
    assert recipe(cmfl, CPU, width=0.05).machine.compile is False
    with pytest.raises(ConfigError, match="multiple of 16"):
        recipe(cmfl, CPU, size_px=50)


def test_one_command_measures_every_method_that_can_be_and_writes_why_others_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(training_steps.SIDES, "cpu", (32,))  # type: ignore[index]
    out = tmp_path / "speed.json"
    small = [
        "--device",
        "cpu",
        "--width",
        "0.05",
        "--size-px",
        "32",
        "--steps",
        "1",
        "--warmup",
        "1",
        "--json",
        str(out),
    ]
    _, one, other = ([f"--config={path}"] for path in training_speed.CONFIGS)
    # Ten samples are not shared out among six domains.
    done = CliRunner().invoke(training_speed.app, [*small, *other, *one, "--batch", "10"])
    assert done.exit_code == 1
    record = json.loads(out.read_bytes())
    assert [r["method"] for r in record["results"]] == ["a-deeppixbis"]
    assert "cannot be shared out" in record["failed"]["rfmeta"]
    assert "cannot be shared out" in " ".join(done.output.split())

    done = CliRunner().invoke(training_speed.app, [*small, *other, "--batch", "12"])
    assert done.exit_code == 0, done.output
    record = json.loads(out.read_bytes())
    (found,) = record["results"]
    assert (found["method"], found["batch"], found["size_px"], found["compiled"]) == ("rfmeta", 12, 32, False)
    assert found["flops"] > 0
    assert found["images_per_s"] > 0
    assert (record["failed"], record["device"]) == ({}, "cpu")
    assert "aims are a GPU's" in done.output
