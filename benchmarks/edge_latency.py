"""How long candidates for the edge take, as ratios to MiniFASNetV2 in OpenVINO at full precision, in one run.

    python -m benchmarks.edge_latency --out latency.json
    python -m benchmarks.edge_latency --only plain_m@128 --engines openvino

Each candidate is a trunk with random weights and the published head, brought to the INT8 grid as published models are
(the same layers in float), and run through the backends of the SDK, one picture at a time. Rounds go through all
networks in turn, so that a machine that slows down slows all of them; the ratio is that of the medians of the same run.
Accuracy is another matter.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from contextlib import ExitStack, closing
from functools import cache
from pathlib import Path
from typing import Annotated, cast

import msgspec
import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.minifasnet import SIZE_PX as YARDSTICK_PX
from benchmarks.minifasnet import MiniFASNetV2
from benchmarks.transfer import show
from fasedge.backends import Backend, open_backend
from fasedge.cards import EngineName, Precision
from fasedge.types import UInt8Array
from quantize.equalise import bound, equalise
from quantize.export import Artefact, artefact, export_fp32, export_int8
from quantize.fitting import fit_grid
from quantize.grid import GridConfig, conv_names, release
from quantize.grid import in_float as usually_in_float
from quantize.latency import interleaved
from quantize.openvino_export import save_ir, to_openvino
from quantize.students import ExportModel, PixelCosineStudent, Platt
from training.backbones import TRUNKS
from training.errors import ConfigError
from training.inputs import BrightnessNorm, GraphInput

YARDSTICK = "MiniFASNetV2"
#: Trunk and side of the input.
CANDIDATES = (
    "efficientnet_lite0@96",
    "efficientnet_lite0@128",
    "feathernet_b@112",
    "mobilenetv4_conv_s@112",
    "plain_s@128",
    "plain_m@128",
    "plain_m@192",
    "plain_l@128",
    "plain_l@192",
)
_PICTURES = 48
#: Layer types that hold or move values and compute nothing.
_MOVES = ("Const", "Input", "Output", "Reorder", "Reshape", "Transpose")


class Timed(msgspec.Struct, frozen=True, kw_only=True):
    """One network in one engine.

    Attributes:
        name: Candidate, or the yardstick.
        engine: Engine.
        precision: Precision.
        parameters: As deployed.
        mmac: Multiplications with their additions, in millions.
        kilobytes: All files.
        fastest_ms: Fastest run.
        median_ms: Median of the runs.
        ratio: Median over that of the yardstick in OpenVINO at full precision, in the same run.
        in_float: Layer types that OpenVINO computes in float, with how many, the head among them; of its INT8 files.
    """

    name: str
    engine: EngineName
    precision: Precision
    parameters: int
    mmac: float
    kilobytes: int
    fastest_ms: float
    median_ms: float
    ratio: float
    in_float: dict[str, int] = {}


def candidate(name: str) -> tuple[ExportModel, int]:
    """Network with random weights, and the side of its input.

    Raises:
        ConfigError: The name is not ``TRUNK@SIDE``, or there is no such trunk.
    """
    trunk_name, _, side = name.partition("@")
    if trunk_name not in TRUNKS or not side.isdigit() or int(side) % 16 or not int(side):
        raise ConfigError(f"expected TRUNK@SIDE with a side that is a multiple of 16 and one of {', '.join(TRUNKS)}, "
                          f"got {name!r}")  # fmt: skip
    torch.manual_seed(0)
    trunk = TRUNKS[trunk_name]()
    see = GraphInput(BrightnessNorm(), trunk.input_mean, trunk.input_std)
    with torch.no_grad():  # statistics of real magnitude, so that no range is empty
        trunk(see(torch.from_numpy(pictures(int(side)))))
    student = PixelCosineStudent(trunk, trunk.out_channels)
    return ExportModel(student, Platt(4.0, 0.0), BrightnessNorm()), int(side)


@cache
def pictures(side: int) -> UInt8Array:
    """Smooth random pictures, uint8 (48, S, S, 3)."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 255, (_PICTURES, 3, 8, 8)).astype(np.float32))
    smooth = nn.functional.interpolate(coarse, (side, side), mode="bicubic").permute(0, 2, 3, 1).numpy()
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


def multiplications(model: nn.Module, side: int) -> int:
    """Multiplications of convolutions and linear layers for one picture."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, side, side, 3, dtype=torch.uint8))
    return int(counter.get_total_flops()) // 2  # it counts a multiplication and its addition as two


def write(
    name: str, folder: Path, engines: list[EngineName], leading: int | None = None
) -> tuple[list[Artefact], nn.Module, int]:
    """Write a network for the engines at both precisions; the yardstick at full precision alone, for OpenVINO.

    Args:
        name: Candidate, or the yardstick.
        folder: Where to.
        engines: Engines.
        leading: Convolutions at its start that stay in float; ``None``: by the network.
    """
    if name == YARDSTICK:
        torch.manual_seed(0)
        yardstick = MiniFASNetV2().eval()
        file = artefact(folder, "openvino", "fp32")
        save_ir(to_openvino(yardstick, YARDSTICK_PX), file.path)
        return [file], yardstick, YARDSTICK_PX
    plain, side = candidate(name)
    sample = pictures(side)
    model, _ = bound(equalise(plain, sample), sample)
    start = usually_in_float(name.partition("@")[0])
    rounded = fit_grid(model, sample, GridConfig(float_convs=tuple(conv_names(model, start.weights))))
    grid = release(rounded, conv_names(model, start.convs if leading is None else leading))
    quantized = export_int8(grid, folder, side, sample[:1], engines, largest=None)
    return export_fp32(model, folder, side, engines) + quantized, model, side


def in_float(file: Artefact) -> dict[str, int]:
    """Layer types that OpenVINO computes in float, with how many: what its runtime says after compiling."""
    import openvino

    if file.engine != "openvino" or file.precision != "int8":
        return {}
    core = openvino.Core()
    network = core.read_model(file.path)
    network.reshape({0: [1, *list(network.inputs[0].get_partial_shape())[1:]]})
    compiled = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    counted: dict[str, int] = defaultdict(int)
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        kind = str(info["layerType"].astype(str))
        if kind not in _MOVES and str(info["runtimePrecision"].astype(str)) in ("f32", "f16", "bf16"):
            counted[kind] += 1
    return dict(sorted(counted.items()))


def measure(
    names: list[str], engines: list[EngineName], *, rounds: int, threads: int, leading: int | None = None
) -> list[Timed]:
    """Time all networks in turn, round by round; ``leading`` as in :func:`write`."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        runs: list[tuple[str, Artefact, nn.Module, int, Backend]] = []
        for name in track([YARDSTICK, *names], description="writing", transient=True):
            files, model, side = write(name, Path(folder) / name.replace("@", "_"), engines, leading)
            for file in files:
                backend = stack.enter_context(closing(open_backend(file.engine, file.path, threads=threads)))
                runs.append((name, file, model, side, backend))
        times = interleaved([(backend, pictures(side)) for _, _, _, side, backend in runs], rounds)
        base = float(np.median(times[0]))
        return [
            Timed(
                name=name, engine=file.engine, precision=file.precision,
                parameters=sum(p.numel() for p in model.parameters()),
                mmac=round(multiplications(model, side) / 1e6, 1), kilobytes=file.bytes // 1000,
                fastest_ms=round(1e3 * min(taken), 4), median_ms=round(1e3 * float(np.median(taken)), 4),
                ratio=round(float(np.median(taken)) / base, 4), in_float=in_float(file),
            )
            for (name, file, model, side, _), taken in zip(runs, times, strict=True)
        ]  # fmt: skip


def main(
    *,
    only: Annotated[list[str] | None, typer.Option(help="TRUNK@SIDE; can be repeated. Default: all.")] = None,
    engines: Annotated[str, typer.Option(help="Engines, with commas.")] = "openvino,litert,onnxruntime",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of twelve pictures.")] = 20,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the engine.")] = 1,
    leading_float: Annotated[
        int | None, typer.Option(min=0, help="Leading convolutions in float; default: by the network.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON to write.")] = None,
    markdown: Annotated[bool, typer.Option(help="Print Markdown.")] = False,
) -> None:
    """Print a row per network, engine and precision."""
    chosen = engines.split(",")
    if unknown := set(chosen) - {"openvino", "litert", "onnxruntime"}:
        raise ConfigError(f"no engine of the SDK: {', '.join(sorted(unknown))}")
    found = measure(
        list(only or CANDIDATES),
        cast("list[EngineName]", chosen),
        rounds=rounds,
        threads=threads,
        leading=leading_float,
    )
    if out is not None:
        out.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    rows = [
        [t.name, f"{t.engine} {t.precision}", f"{t.parameters / 1e6:.2f} M", f"{t.mmac:g}", str(t.kilobytes),
         f"{t.fastest_ms:.3f}", f"{t.median_ms:.3f}", f"{t.ratio:.2f}",
         ", ".join(f"{n} {kind}" for kind, n in t.in_float.items())]
        for t in found
    ]  # fmt: skip
    head = ["network", "engine", "parameters", "MMAC", "kB", "fastest, ms", "median, ms",
            f"of {YARDSTICK}", "in float"]  # fmt: skip
    show(head, rows, markdown=markdown)
    if not markdown:
        Console().print("[dim]Ratios are of the medians, to the yardstick in OpenVINO at full precision.[/dim]")


if __name__ == "__main__":
    typer.run(main)
