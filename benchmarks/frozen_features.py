"""How far ImageNet features go that never saw a simulation: a linear direction, no network is trained, no seed counts.

    python -m benchmarks.frozen_features sets/train --captures DIR --crop-scales 1.0,1.4

Every block of EfficientNet-Lite0 gives mean and standard deviation of each channel. On standardised features of
simulated crops a direction is worked out: the difference of the two class means (``shrinkage 0``), then, more and more,
what a linear discriminant makes of it, w = (I + k·S)⁻¹ (μ₁ − μ₀) with the within-class covariance S. Captures without a
licence stay where they are: only aggregates are printed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from benchmarks.students import CropSource, Student, StudentOptions
from benchmarks.students import cut as cut_samples
from benchmarks.transfer import cut, read_captures, summarise
from fasedge.preprocess import InputSpec
from fasedge.types import UInt8Array
from training.backbones.efficientnet import EfficientNetLite0Trunk
from training.data.augment import augment
from training.data.samples import SampleSet

_BATCH = 64


def block_features(student: Student, crops: UInt8Array) -> NDArray[np.float64]:
    """Mean and standard deviation of every channel behind every block.

    Args:
        student: Whose trunk, EfficientNet-Lite0, and input layer are used.
        crops: uint8 (n, S, S, 3), red first.

    Returns:
        float64 (n, features).
    """
    trunk = student.trunk
    if not isinstance(trunk, EfficientNetLite0Trunk):
        raise TypeError(f"expected an EfficientNet-Lite0, got {type(trunk).__name__}")
    out = []
    with torch.inference_mode():
        for start in range(0, len(crops), _BATCH):
            x: Tensor = trunk.stem(student.input(torch.from_numpy(crops[start : start + _BATCH])))
            found = []
            for block in trunk.blocks:
                x = block(x)
                found += [x.mean((2, 3)), x.std((2, 3))]
            out.append(torch.cat(found, 1).double().numpy())
    return np.concatenate(out)


def direction(features: NDArray[np.float64], labels: NDArray[np.int64], shrinkage: float) -> NDArray[np.float64]:
    """Direction in which bona fide presentations lie, (features,).

    Args:
        features: Standardised, (n, features).
        labels: (n,), 1 bona fide, 0 attack.
        shrinkage: k in w = (I + k·S)⁻¹ (μ₁ − μ₀), S the within-class covariance; 0 is the difference of the means.

    Source: Fisher, "The use of multiple measurements in taxonomic problems", 1936, regularised towards the identity.
    """
    means = np.stack([features[labels == label].mean(0) for label in (0, 1)])
    apart = np.asarray(means[1] - means[0], np.float64)
    if shrinkage == 0:
        return apart
    centred = features - means[labels]
    within = centred.T @ centred / len(centred)
    return np.asarray(np.linalg.solve(np.eye(len(apart)) + shrinkage * within, apart), np.float64)


def simulated_features(
    samples: CropSource, student: Student, options: StudentOptions
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Features and labels of augmented training crops, as a student of these options would see them."""
    rng, generator = np.random.default_rng(options.seed), torch.Generator().manual_seed(options.seed)
    chosen = rng.permutation(len(samples))[: options.n or None]
    parts = []
    for start in track(range(0, len(chosen), _BATCH), description="features", transient=True):
        crops = cut_samples(samples, chosen[start : start + _BATCH], options, rng)
        seen = augment(torch.from_numpy(crops), options.augment, generator)
        parts.append(block_features(student, seen.numpy()))
    return np.concatenate(parts), samples.labels[chosen]


def main(
    train: Annotated[Path, typer.Argument(help="Simulated sample set.")],
    *,
    captures: Annotated[Path, typer.Option(help="Folder of real captures.")],
    crop_scales: Annotated[str, typer.Option(help="Crops on which captures are scored.")] = "1.0,1.4",
    sizes: Annotated[str, typer.Option(help="Sizes of captures.")] = "112,112b",
    shrinkages: Annotated[str, typer.Option(help="Values of k, with commas.")] = "0,0.1,1,10",
    n: Annotated[int, typer.Option(help="Simulated crops.")] = 6000,
) -> None:
    """Work directions out on simulated crops and score real captures with them."""
    options = StudentOptions(n=n)
    student = Student(pretrained=True).eval()
    features, labels = simulated_features(SampleSet.load(train), student, options)
    mean, deviation = features.mean(0), features.std(0) + 1e-6
    standard = (features - mean) / deviation
    real = read_captures(captures, sizes.split(","))
    shown = Table("k", "crop", "size", "real", "per source", "clip frames", "clips")
    for scale in (float(v) for v in crop_scales.split(",")):
        crops = cut(captures, real, InputSpec(size_px=options.size_px, crop_scale=scale))
        seen = (block_features(student, crops) - mean) / deviation
        for k in (float(v) for v in shrinkages.split(",")):
            for found in summarise(real, seen @ direction(standard, labels, k), scale):
                per_source = " ".join(f"{v:.2f}" for v in found.per_source)
                tail = [f"{v:.2f}" if v is not None else "-" for v in (found.clip_frames, found.clips)]
                shown.add_row(f"{k:g}", f"{scale:g}", found.size, f"{np.mean(found.per_source):.3f}", per_source, *tail)
    Console(width=140).print(shown)


if __name__ == "__main__":
    typer.run(main)
