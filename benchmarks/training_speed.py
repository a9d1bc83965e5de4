"""How fast a training step is: images/s, share of the device's bf16 peak, and the ratio to a plain FP32 loop.

    python -m benchmarks.training_speed                                   # the three methods at full size, on a GPU
    python -m benchmarks.training_speed --config training/configs/cmfl.toml --batch 128 --json speed.json
    python -m benchmarks.training_speed --device cpu --width 0.125 --size-px 64 --batch 12 --steps 3 --warmup 1

Measured in one process, one after the other:

* *peak*: bf16 products of square matrices, the fastest side; before and after each method, the larger counts;
* *plain*: the same step in an eager loop in float32, without autocast, compilation, channels-last or TF32;
* *ours*: :class:`training.loop.Trainer` as ``fit`` runs it, with channels-last, bf16 autocast (each method keeps in
  float32 what must be) and, on a GPU, ``torch.compile`` for methods that can be compiled.

Samples are noise in memory, made once, so neither simulation nor reading counts; moving a batch to the device does.
Floating-point operations are those of PyTorch's convolutions and matrix products in one executed step, forward and
backward, second order included, counted by ``torch.utils.flop_counter``: two for a multiplication with its addition.
MFU is their number per second over the peak.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, cast, get_args

import msgspec
import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.training_steps import free, matmul_peak, time_ours, time_plain
from training.build import build_task
from training.checkpoint import JsonValue
from training.config import TrainConfig, check_config, load_config
from training.distributed import choose_device
from training.errors import TrainingError
from training.precision import Precision
from training.runlog import surroundings
from training.tasks import as_step_task

app = typer.Typer(add_completion=False, help=__doc__)
#: What the GPU recipe aims at: ratio to the plain loop, and share of the peak.
AIM_RATIO, AIM_MFU = 3.0, 0.35
CONFIGS = tuple(
    Path(__file__).resolve().parent.parent / "training" / "configs" / f"{name}.toml"
    for name in ("cmfl", "a_deeppixbis", "rfmeta")
)


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of one method.

    Attributes:
        config: Name of the configuration.
        method: Name of the method.
        size_px: Side of its input.
        width: Width of its network.
        batch: Samples of a forward pass.
        accumulate: Forward passes of a step.
        precision: Of our step.
        compiled: Whether ``torch.compile`` was used.
        parameters: Of the network.
        steps: Steps that each loop was timed for.
        flops: Floating-point operations of a step.
        step_s: Seconds of our step.
        plain_step_s: Seconds of the same step in the plain loop.
        peak_flops_per_s: bf16 operations per second of the device.
        start_s: Seconds until our first steps, which are not timed, were done: compilation.
        memory_bytes: Most memory of the GPU that our step had allocated; 0 on other devices.
    """

    config: str
    method: str
    size_px: int
    width: float
    batch: int
    accumulate: int
    precision: str
    compiled: bool
    parameters: int
    steps: int
    flops: int
    step_s: float
    plain_step_s: float
    peak_flops_per_s: float
    start_s: float
    memory_bytes: int

    @property
    def images_per_s(self) -> float:
        """Samples per second of our step."""
        return self.batch * self.accumulate / self.step_s

    @property
    def plain_images_per_s(self) -> float:
        """Samples per second of the plain loop."""
        return self.batch * self.accumulate / self.plain_step_s

    @property
    def ratio(self) -> float:
        """How many times as fast as the plain loop."""
        return self.plain_step_s / self.step_s

    @property
    def mfu(self) -> float:
        """Share of the peak that the step's operations make."""
        return self.flops / self.step_s / self.peak_flops_per_s

    def record(self) -> dict[str, JsonValue]:
        """Fields and derived figures, for a file."""
        fields: dict[str, JsonValue] = msgspec.to_builtins(self)
        derived = ("images_per_s", "plain_images_per_s", "ratio", "mfu")
        return fields | {name: getattr(self, name) for name in derived}


def measure(name: str, config: TrainConfig, device: torch.device, *, warmup: int, steps: int) -> Speed:
    """Measure one configuration: peak, plain loop, our step, peak.

    Args:
        name: Of the configuration.
        config: As :func:`recipe` makes it.
        device: Where.
        warmup: Steps of each loop before those that are timed, at least 1.
        steps: Steps that are timed.

    Raises:
        ConfigError: The configuration cannot be trained.
        DivergedError: Noise made the loss overflow.
    """
    free(device, compiled=config.machine.compile)
    peak = matmul_peak(device)
    plain, flops, parameters = time_plain(config, device, warmup, steps)
    free(device, compiled=config.machine.compile)
    ours, start = time_ours(config, device, warmup, steps)
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    free(device, compiled=config.machine.compile)
    return Speed(
        config=name,
        method=config.method.name,
        size_px=config.input.size_px,
        width=config.method.width,
        batch=config.optimiser.batch,
        accumulate=config.optimiser.accumulate,
        precision=config.optimiser.precision,
        compiled=config.machine.compile,
        parameters=parameters,
        steps=steps,
        flops=flops,
        step_s=ours,
        plain_step_s=plain,
        peak_flops_per_s=max(peak, matmul_peak(device)),
        start_s=start,
        memory_bytes=memory,
    )


def recipe(
    config: TrainConfig,
    device: torch.device,
    *,
    width: float | None = None,
    size_px: int | None = None,
    batch: int | None = None,
    precision: Precision = "bfloat16",
    compiled: bool | None = None,
) -> TrainConfig:
    """A configuration as the GPU recipe runs it, with one epoch and nothing made ahead.

    Args:
        config: As it stands in its file.
        device: Where.
        width: Another width of the network.
        size_px: Another side of the input.
        batch: Another batch.
        precision: Of the convolutions.
        compiled: Compile; by default on a GPU, where the method can be compiled.

    Raises:
        ConfigError: A value is out of its range.
    """
    if compiled is None:
        compiled = device.type == "cuda" and as_step_task(build_task(config)).needs.compiles
    replace, o = msgspec.structs.replace, config.optimiser
    changed: TrainConfig = replace(
        config,
        method=replace(config.method, width=config.method.width if width is None else width),
        input=replace(config.input, size_px=config.input.size_px if size_px is None else size_px),
        optimiser=replace(o, batch=o.batch if batch is None else batch, epochs=1, precision=precision),
        machine=replace(config.machine, device=str(device), channels_last=True, compile=compiled, ahead=0),
    )
    check_config(changed)
    return changed


def table(speeds: Sequence[Speed]) -> Table:
    """The figures, with the recipe's aims in the heads of their columns."""
    numbers = (
        "images/s", "plain fp32", f"ratio\n(aim {AIM_RATIO:g})", "TFLOP/s", "bf16 peak",
        f"MFU\n(aim {AIM_MFU:.0%})", "GiB",
    )  # fmt: skip
    found = Table("method", "step")
    for name in numbers:
        found.add_column(name, justify="right")
    for s in speeds:
        how = f"{s.size_px} px, width {s.width:g}, batch {s.batch}" + (f" x {s.accumulate}" if s.accumulate > 1 else "")
        found.add_row(
            s.method, f"{how}\n{s.precision}{', compiled' if s.compiled else ''}", f"{s.images_per_s:.1f}",
            f"{s.plain_images_per_s:.1f}", f"{s.ratio:.2f}", f"{s.flops / s.step_s / 1e12:.3g}",
            f"{s.peak_flops_per_s / 1e12:.3g}", f"{s.mfu:.1%}", f"{s.memory_bytes / 2**30:.1f}",
        )  # fmt: skip
    return found


@app.command()
def main(
    *,
    config: Annotated[list[Path] | None, typer.Option(help="TOML file; several times. Default: all three.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    width: Annotated[float | None, typer.Option(help="Width of the networks. Default: the configuration's.")] = None,
    size_px: Annotated[int | None, typer.Option(help="Side of the input. Default: the configuration's.")] = None,
    batch: Annotated[int | None, typer.Option(help="Samples of a pass. Default: the configuration's.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps that are timed.")] = 30,
    warmup: Annotated[int, typer.Option(min=1, help="Steps before them.")] = 10,
    precision: Annotated[str, typer.Option(help="Of our step: bfloat16 or float32.")] = "bfloat16",
    compiled: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Default: on a GPU, where the method can be compiled.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the figures here, after each method.")] = None,
) -> None:
    """Measure the training step of each method, print a table and write JSON."""
    console, where = Console(width=120), choose_device(device)
    logging.getLogger("training").setLevel(logging.ERROR)  # that there are no ImageNet weights is of no concern here
    if precision not in get_args(Precision):
        raise typer.BadParameter(f"--precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
    speeds: list[Speed] = []
    failed: dict[str, str] = {}
    for path in config or CONFIGS:
        try:
            settings = recipe(
                load_config(path), where, width=width, size_px=size_px, batch=batch,
                precision=cast(Precision, precision), compiled=compiled,
            )  # fmt: skip
            with console.status(f"measuring {path.stem}"):
                speeds.append(measure(path.stem, settings, where, warmup=warmup, steps=steps))
        except (TrainingError, torch.OutOfMemoryError) as error:
            # One that does not fit must not cost the figures of the others.
            failed[path.stem] = str(error)
            console.print(f"{path.stem}: {error}", style="red", markup=False)
        if json is not None:
            write(json, where, speeds, failed)
    console.print(table(speeds))
    if where.type != "cuda":
        console.print("The aims are a GPU's; on other devices the table only shows that everything runs.")
    if failed:
        raise typer.Exit(1)


def write(path: Path, device: torch.device, speeds: Sequence[Speed], failed: Mapping[str, str]) -> None:
    """Write the figures, what they were measured with, and what could not be measured."""
    around = surroundings(TrainConfig(), device, 1)
    del around["processes"], around["trunk_weights"]
    record = {"aims": {"ratio": AIM_RATIO, "mfu": AIM_MFU}, **around, "cuda": torch.version.cuda}
    record |= {"results": [s.record() for s in speeds], "failed": dict(failed)}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")


if __name__ == "__main__":
    app()
