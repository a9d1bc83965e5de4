"""A small student for experiments on the simulator: quick to train, the same for every question that is asked.

EfficientNet-Lite0 with its ImageNet weights, the mean over its last feature map, one logit; a pass or two over a few
thousand crops, weights averaged over the steps. What it answers is how a *change of the data* moves a score, with
several seeds; the models that are published come from ``training`` and ``quantize``.

    options = StudentOptions(n=9000, seed=1)
    student = train_student(SampleSet.load(folder), options=options)
    scores = score_crops(student, crops)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the community's name for it)
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import AdamW

from fasedge.preprocess import InputSpec
from fasedge.types import UInt8Array
from training.backbones import TRUNKS
from training.config import AugmentConfig, OptimiserConfig
from training.data.augment import augment
from training.data.clues import recolour_attacks
from training.data.samples import CropJitter
from training.data.simulate.optics import blur
from training.errors import CheckpointError, ConfigError, DataError, DivergedError
from training.inputs import BrightnessNorm, GraphInput
from training.loop import Averaged, learning_rate
from training.precision import Precision, reduced

#: Changes a batch before it is augmented: uint8 (N, S, S, 3) red first, int64 (N,) labels, random numbers; returns
#: crops and labels of the same shapes and types.
Transform = Callable[
    [UInt8Array, NDArray[np.int64], np.random.Generator],
    tuple[UInt8Array, NDArray[np.int64]],
]

#: Augmentation of the experiments: strong, because over-training on the simulator is the enemy.
STUDENT_AUGMENT = AugmentConfig(
    brightness=0.2,
    contrast=0.2,
    saturation=0.2,
    colour=0.08,
    grey=0.05,
    blur=0.2,
    noise=4.0,
    erase=0.25,
    shift=0.06,
)


class CropSource(Protocol):
    """What a student is trained on; :class:`training.data.samples.SampleSet` is one."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 (n,): 1 bona fide, 0 attack."""
        ...

    def crops(
        self,
        indices: Sequence[int],
        spec: InputSpec,
        *,
        jitter: CropJitter | None = None,
        rng: np.random.Generator | None = None,
    ) -> UInt8Array:
        """Network inputs, uint8 (n, S, S, 3), red first."""
        ...


_BRIGHTNESS = BrightnessNorm()


class StudentOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a student is trained.

    Attributes:
        n: Samples to train on, drawn from those that are allowed; 0 takes all, and so does a number beyond them.
        epochs: Passes over them.
        size_px: Side of the crops, a multiple of 16.
        crop_low: Smallest side of a crop over the side of the face box; each crop draws its own, log-uniformly.
        crop_high: Largest.
        learning_rate: Peak of AdamW's learning rate; half a cosine to zero.
        weight_decay: Decoupled weight decay.
        warmup_steps: Linear warm-up.
        batch: Samples per step.
        label_smoothing: Labels become ``e/2`` and ``1 - e/2``.
        average: Decay of the moving average of the weights, which is what is returned.
        dropout: Before the last layer.
        clip_norm: Largest norm of the gradient.
        brightness: Normalise each crop's brightness inside the network.
        grey_world: Normalise each channel by itself, and so take a colour cast away too; instead of ``brightness``.
        pretrained: Start from ImageNet weights.
        cells: Each cell of the last feature map has a logit of its own to learn the label, as in pixel-wise
            supervision; the score is their mean. Otherwise one logit of the mean feature.
        high_pass: Standard deviation in pixels of a Gaussian blur that is subtracted from each normalised picture: what
            is left is fine structure (moiré, pixels, ink dots) without areas. 0 leaves the picture.
        precision: Of the convolutions.
        seed: Of everything that is random.
        recoloured: Share of the attacks of each batch in whose place recoloured bona fide crops are put, see
            :mod:`training.data.clues`.
        augment: Augmentation; its ``shift`` and ``zoom`` are errors of the face box.
    """

    n: int = 9000
    epochs: int = 1
    size_px: int = 128
    crop_low: float = 1.0
    crop_high: float = 1.9
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warmup_steps: int = 30
    batch: int = 64
    label_smoothing: float = 0.1
    average: float = 0.98
    dropout: float = 0.2
    clip_norm: float = 5.0
    brightness: bool = True
    grey_world: bool = False
    pretrained: bool = True
    cells: bool = False
    high_pass: float = 0.0
    precision: Precision = "bfloat16"
    seed: int = 1
    recoloured: float = 0.0
    augment: AugmentConfig = STUDENT_AUGMENT

    def norm(self) -> BrightnessNorm | None:
        """How each crop is normalised inside the network."""
        return BrightnessNorm(grey_world=self.grey_world) if self.brightness or self.grey_world else None

    def scoring_spec(self) -> InputSpec:
        """The crop on which the student is scored when nothing else is said: the geometric middle of its range."""
        return InputSpec(size_px=self.size_px, crop_scale=math.sqrt(self.crop_low * self.crop_high))


class Student(nn.Module):
    """EfficientNet-Lite0, mean pooling, one logit.

    Args:
        pretrained: Start from ImageNet weights.
        norm: How each crop is normalised.
        dropout: Before the last layer.
        high_pass: See :class:`StudentOptions`.

    Raises:
        WeightsUnavailableError: ImageNet weights are wanted and their package is not installed.
    """

    def __init__(
        self,
        *,
        pretrained: bool = True,
        norm: BrightnessNorm | None = _BRIGHTNESS,
        dropout: float = 0.2,
        high_pass: float = 0.0,
    ) -> None:
        super().__init__()
        self.trunk = TRUNKS["efficientnet_lite0"](pretrained=pretrained)
        self.input = GraphInput(norm, self.trunk.input_mean, self.trunk.input_std)
        self.high_pass = high_pass
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(self.trunk.out_channels, 1)

    def forward(self, rgb: Tensor) -> Tensor:
        """Logits (N,), higher = bona fide, of pictures uint8 (N, S, S, 3), red first."""
        # The mean in float32: eight bits of mantissa are too few to add hundreds of cells up in.
        features = self.trunk(self._seen(rgb)).float().mean((2, 3))
        logits: Tensor = self.last(self.dropout(features))
        return logits.flatten()

    def cells(self, rgb: Tensor) -> Tensor:
        """Logits (N, cells) of each cell of the last feature map; their mean is the logit of :meth:`forward`.

        Source: George and Marcel, Deep Pixel-wise Binary Supervision, ICB 2019 (supervision of each cell).
        """
        features = self.trunk(self._seen(rgb)).float().flatten(2).transpose(1, 2)
        logits: Tensor = self.last(self.dropout(features))
        return logits.squeeze(2)

    def _seen(self, rgb: Tensor) -> Tensor:
        x: Tensor = self.input(rgb)
        if not self.high_pass:
            return x
        return x - blur(x, x.new_full((len(x), 1, 1, 1), self.high_pass), 2 * math.ceil(3 * self.high_pass) + 1)


def train_student(
    train: CropSource,
    *,
    indices: Sequence[int] | NDArray[np.int64] | None = None,
    options: StudentOptions | None = None,
    transform: Transform | None = None,
    device: str = "cpu",
) -> nn.Module:
    """Train a student; equal arguments on the same machine and number of threads give the same one.

    Args:
        train: The samples.
        indices: Which of them may be used; all by default.
        options: How; the defaults take about three minutes on two cores.
        transform: Changes each batch before it is augmented: additional artefacts, other labels.
        device: Where to train; crops are prepared on the CPU.

    Returns:
        The averaged student, in evaluation mode, on the device; call :func:`score_crops` with it.

    Raises:
        ConfigError: An option that cannot work.
        DataError: Fewer samples than a batch, a position outside the set, or one class alone.
        DivergedError: The loss is not a number any more.
        WeightsUnavailableError: ImageNet weights are wanted and their package is not installed.
    """
    options = options or StudentOptions()
    _check_options(options)
    place = torch.device(device)
    rng = np.random.default_rng(options.seed)
    order = _chosen(train, indices, options, rng, relabelled=transform is not None)
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        torch.manual_seed(options.seed)
        student = _new_student(options, pretrained=options.pretrained)
        student.to(place).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        averaged = Averaged(student, options.average)
        _fit(student, averaged, train, order, options, transform, rng)
    return averaged.module


def _new_student(options: StudentOptions, *, pretrained: bool) -> Student:
    return Student(pretrained=pretrained, norm=options.norm(), dropout=options.dropout, high_pass=options.high_pass)


def _fit(  # noqa: PLR0917 - the parts of a run, in their order
    student: Student,
    averaged: Averaged,
    train: CropSource,
    order: NDArray[np.int64],
    options: StudentOptions,
    transform: Transform | None,
    rng: np.random.Generator,
) -> None:
    generator = torch.Generator().manual_seed(options.seed)
    device = student.last.weight.device
    optimiser = AdamW(student.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    schedule = OptimiserConfig(
        learning_rate=options.learning_rate, warmup_steps=options.warmup_steps, schedule="cosine"
    )
    # The last, incomplete batch of an epoch is left out: batch normalisation dislikes small ones.
    per_epoch = len(order) // options.batch
    total, smoothing = per_epoch * options.epochs, options.label_smoothing
    all_labels = train.labels
    student.train()
    for step in range(total):
        if step % per_epoch == 0:
            order = rng.permutation(order)
        start = step % per_epoch * options.batch
        chosen = order[start : start + options.batch]
        crops, labels = cut(train, chosen, options, rng), all_labels[chosen]
        if transform is not None:
            crops, labels = transform(crops, labels, rng)
        if options.recoloured:
            crops, _ = recolour_attacks(crops, labels, options.recoloured, rng)
        rgb = augment(torch.from_numpy(crops), options.augment, generator).to(device)
        targets = torch.from_numpy(labels).to(device, torch.float32) * (1 - smoothing) + smoothing / 2
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(schedule, step, total)
        with reduced(options.precision, device):
            logits = student.cells(rgb) if options.cells else student(rgb)
        wanted = targets[:, None].expand_as(logits) if options.cells else targets
        loss = F.binary_cross_entropy_with_logits(logits.float(), wanted)
        if not bool(torch.isfinite(loss)):
            raise DivergedError(f"the loss is {float(loss.detach())} at step {step}; lower learning_rate")
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if options.clip_norm:
            nn.utils.clip_grad_norm_(student.parameters(), options.clip_norm)
        optimiser.step()
        averaged.update(student, step + 1)


def cut(
    train: CropSource, indices: Sequence[int] | NDArray[np.int64], options: StudentOptions, rng: np.random.Generator
) -> UInt8Array:
    """Cut crops as training sees them, each with its own scale and error of the box: uint8 (n, S, S, 3)."""
    low, high = math.log(options.crop_low), math.log(options.crop_high)
    out = np.empty((len(indices), options.size_px, options.size_px, 3), np.uint8)
    for place, index in enumerate(indices):
        scale = math.exp(rng.uniform(low, high))
        spec = InputSpec(size_px=options.size_px, crop_scale=scale)
        out[place] = train.crops([int(index)], spec, jitter=options.augment.jitter(), rng=rng)[0]
    return out


def score_crops(module: nn.Module, crops: UInt8Array, *, batch: int = 128) -> NDArray[np.float64]:
    """Score crops with a student.

    Args:
        module: From :func:`train_student`, or any module of crops to logits (N,).
        crops: uint8 (N, S, S, 3), red first.
        batch: Crops at a time.

    Returns:
        float64 (N,) in [0, 1], higher = bona fide. The sigmoid is taken in float64, so that its logit is not lost.
    """
    logits = crop_logits(module, crops, batch=batch)
    return np.asarray(1 / (1 + np.exp(-logits)), np.float64)


def crop_logits(module: nn.Module, crops: UInt8Array, *, batch: int = 128) -> NDArray[np.float64]:
    """Logits of crops, float64 (N,): as :func:`score_crops`, before the sigmoid; for means over the frames of a clip.

    Raises:
        DataError: The crops are not uint8 (N, S, S, 3).
    """
    if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[3] != 3:
        raise DataError(f"expected crops as uint8 (N, S, S, 3), red first, got {crops.dtype} {crops.shape}")
    device = next(module.parameters()).device
    was_training = module.training
    module.eval()
    out = [np.empty(0)]
    with torch.inference_mode():
        for start in range(0, len(crops), batch):
            part = torch.from_numpy(np.ascontiguousarray(crops[start : start + batch])).to(device)
            out.append(module(part).double().cpu().numpy())
    module.train(was_training)
    return np.asarray(np.concatenate(out), np.float64)


_HEADER = "fasedge-experiment"


def save_student(module: nn.Module, path: Path, options: StudentOptions) -> None:
    """Write a student and its options as one safetensors file; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    save_file(state, path, metadata={_HEADER: msgspec.json.encode(options).decode()})


def load_student(path: Path) -> tuple[nn.Module, StudentOptions] | None:
    """Read what :func:`save_student` wrote; nothing if the file is of another kind.

    Raises:
        CheckpointError: The file cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_HEADER)
            if header is None:
                return None
            options = msgspec.json.decode(header, type=StudentOptions)
            student = _new_student(options, pretrained=False)
            student.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError, msgspec.MsgspecError, RuntimeError) as error:
        raise CheckpointError(f"{path} cannot be read as a student of an experiment ({error})") from error
    return student.eval(), options


def _chosen(
    train: CropSource,
    indices: Sequence[int] | NDArray[np.int64] | None,
    options: StudentOptions,
    rng: np.random.Generator,
    *,
    relabelled: bool,
) -> NDArray[np.int64]:
    """The samples of the run, in random order."""
    allowed = np.arange(len(train)) if indices is None else np.asarray(indices, np.int64)
    if len(allowed) and (allowed.min() < 0 or allowed.max() >= len(train)):
        raise DataError(f"indices must lie in [0, {len(train)}), got {allowed.min()} to {allowed.max()}")
    order = rng.permutation(allowed)
    order = order[: options.n] if options.n else order
    if len(order) < options.batch:
        raise DataError(f"a student needs at least a batch of {options.batch} samples, got {len(order)}")
    if not relabelled and len(set(train.labels[order].tolist())) != 2:
        raise DataError("a student needs bona fide presentations and attacks, got one class of the two")
    return order


def _check_options(options: StudentOptions) -> None:
    o = options
    rules = (
        (o.n >= 0, f"n must be >= 0 (0: all), got {o.n}"),
        (o.epochs >= 1, f"epochs must be >= 1, got {o.epochs}"),
        (o.batch >= 2, f"batch must be >= 2 (batch normalisation), got {o.batch}"),
        (o.size_px >= 16 and o.size_px % 16 == 0, f"size_px must be a multiple of 16, got {o.size_px}"),
        (0 < o.crop_low <= o.crop_high, f"need 0 < crop_low <= crop_high, got {o.crop_low} and {o.crop_high}"),
        (0 < o.learning_rate < math.inf, f"learning_rate must be > 0, got {o.learning_rate}"),
        (0 <= o.weight_decay < math.inf, f"weight_decay must be >= 0, got {o.weight_decay}"),
        (o.warmup_steps >= 0, f"warmup_steps must be >= 0, got {o.warmup_steps}"),
        (0 <= o.high_pass <= 5, f"high_pass must lie in [0, 5] pixels, got {o.high_pass}"),
        (0 <= o.recoloured <= 1, f"recoloured must lie in [0, 1], got {o.recoloured}"),
        (0 <= o.label_smoothing < 1, f"label_smoothing must lie in [0, 1), got {o.label_smoothing}"),
        (0 <= o.average < 1, f"average must lie in [0, 1), got {o.average}"),
        (0 <= o.dropout < 1, f"dropout must lie in [0, 1), got {o.dropout}"),
        (0 <= o.clip_norm < math.inf, f"clip_norm must be >= 0 (0: off), got {o.clip_norm}"),
        (o.seed >= 0, f"seed must be >= 0, got {o.seed}"),
    )
    for holds, message in rules:
        if not holds:
            raise ConfigError(f"student: {message}")
