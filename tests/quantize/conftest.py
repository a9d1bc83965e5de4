"""A network small enough for each test run: it tells reddish from bluish pictures of 32 px."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fasedge.types import UInt8Array
from quantize.export import Artefact, export_fp32, export_int8
from quantize.fitting import fit_grid
from quantize.grid import GridConfig
from quantize.students import ExportModel, PixelCosineStudent, Platt
from training.inputs import BrightnessNorm, GraphInput

SIZE_PX = 32


class TinyTrunk(nn.Module):
    """Stem, one residual depthwise block, a projection: each kind of layer that the real trunk has. Stride 4."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, width, 3, 2, bias=False), nn.BatchNorm2d(width), nn.ReLU6()
        )
        self.block = nn.Sequential(
            nn.Conv2d(width, width, 3, 1, 1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU6(),
            nn.Conv2d(width, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.project = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False), nn.BatchNorm2d(2 * width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.project(x + self.block(x))


def coloured_pictures(n: int, seed: int) -> tuple[UInt8Array, np.ndarray]:
    """Smooth noise with a reddish (1) or bluish (0) tint, weak enough that the classes overlap a little."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(40, 215, (n, 4, 4, 3))
    pictures = coarse.repeat(SIZE_PX // 4, axis=1).repeat(SIZE_PX // 4, axis=2)
    labels = np.arange(n) % 2
    tint = np.where(labels == 1, 1, -1) * rng.uniform(0, 40, n)
    pictures[..., 0] += tint[:, None, None]
    pictures[..., 2] -= tint[:, None, None]
    pictures += rng.normal(0, 8, pictures.shape)
    return np.clip(pictures, 0, 255).astype(np.uint8), labels.astype(np.int64)


@dataclass(frozen=True)
class Bench:
    """What the tests start from."""

    student: PixelCosineStudent
    platt: Platt
    model: ExportModel
    grid: ExportModel
    calibration: UInt8Array
    crops: UInt8Array
    labels: np.ndarray


@pytest.fixture(scope="session")
def bench() -> Bench:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        student = PixelCosineStudent(TinyTrunk(), 16)
        graph_input = GraphInput(BrightnessNorm())
        pictures, labels = coloured_pictures(256, seed=1)
        x, y = graph_input(torch.from_numpy(pictures)), torch.from_numpy(labels).float()
        optimiser = torch.optim.Adam(student.parameters(), 1e-2)
        for _ in range(60):
            optimiser.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(6 * student.pooled(x), y).backward()
            optimiser.step()
    student.eval()
    platt = Platt(6.0, 0.1)
    model = ExportModel(student, platt, BrightnessNorm())
    calibration = pictures[:64]
    crops, held_out = coloured_pictures(80, seed=2)
    return Bench(student, platt, model, fit_grid(model, calibration, GridConfig()), calibration, crops, held_out)


@pytest.fixture(scope="session")
def exported(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Artefact]]:
    """All six artefacts; written once, not to be changed."""
    pytest.importorskip("litert_torch")
    folder = tmp_path_factory.mktemp("artefacts")
    written = export_fp32(bench.model, folder, SIZE_PX)
    return folder, written + export_int8(bench.grid, folder, SIZE_PX, bench.calibration[:1])
