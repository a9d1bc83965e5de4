"""The rounded student on disk: weights on their INT8 grid, and the ranges of the activations.

One file from which every artefact is made. The FP32 artefacts carry the same rounded weights as the INT8 ones, so that
the two differ by the rounding of activations alone; what rounding the weights cost is measured against the student
that the file was made from.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from fasedge.cards import sha256_of
from quantize.bake import without_activation_grids
from quantize.equalise import with_bounds
from quantize.errors import CheckpointMismatchError, ConversionError
from quantize.export import CalibrationFile, empty_student, read_calibration
from quantize.finetune import FinetuneConfig, FinetuneRecord
from quantize.grid import GridConfig, insert_grid
from quantize.students import ExportModel, Platt
from training.checkpoint import Checkpoint, load_checkpoint, load_exactly, save_checkpoint
from training.config import TrainConfig, check_config
from training.data.samples import SetInfo
from training.errors import StateMismatchError
from training.trained import config_of

_KIND = "rounded student"
_HEAD = "head."
#: For networks whose score is calibrated later.
UNCALIBRATED = Platt(1.0, 0.0)


class RoundedInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a rounded student came about.

    Attributes:
        kind: What the file is.
        parent_sha256: Hash of the student's checkpoint.
        parent_epoch: Epoch of that checkpoint.
        parent_note: What its training noted, such as its teacher.
        float_convs: Convolutions that stay in float.
        weight_code_max: Largest weight code.
        steps: Steps of fine-tuning on the grid.
        batch: Crops per step.
        learning_rate: Its peak.
        error_before: Root-mean-square error of the mean over the cells in the first tenth of the steps.
        error_after: In the last tenth.
        crops: How many crops the ranges were chosen on; ``None`` in files that do not say.
        train: Which set they are of and the fine-tuning was on, see :func:`train_set`; empty likewise.
        bounded: Activations of the trunk that end at 6, see :func:`quantize.equalise.bound`.
    """

    kind: str
    parent_sha256: str
    parent_epoch: int | None
    parent_note: dict[str, str | float | bool]
    float_convs: tuple[str, ...]
    weight_code_max: int
    steps: int
    batch: int
    learning_rate: float
    error_before: float
    error_after: float
    crops: int | None = None
    train: str = ""
    bounded: tuple[str, ...] = ()


def train_set(info: SetInfo) -> str:
    """In words: which set of the train split it is."""
    made = info.origin or f"simulated, version {info.version}"
    chosen = f", {info.chosen}" if info.chosen else ""
    return f"{made}; seed {info.seed}, n={info.n}, {info.picture_px} px, scale {info.canvas_scale:g}{chosen}"


@dataclass(frozen=True, slots=True, eq=False)
class Rounded:
    """A rounded student.

    Attributes:
        grid: The network as INT8 engines compute it.
        config: Configuration of the student's training; its crop is that for which the student was rounded.
        info: How it came about.
    """

    grid: ExportModel
    config: TrainConfig
    info: RoundedInfo

    def fp32(self) -> ExportModel:
        """The network with the same weights and float activations."""
        return without_activation_grids(self.grid)


def with_crop(config: TrainConfig, crop_scale: float | None) -> TrainConfig:
    """The same configuration for another crop, or for its own where there is none.

    Raises:
        ConfigError: No crop can have that scale.
    """
    if crop_scale is None:
        return config
    changed = msgspec.structs.replace(config, input=msgspec.structs.replace(config.input, crop_scale=crop_scale))
    check_config(changed)
    return changed


def save_rounded(  # noqa: PLR0917 - each is one thing the file records
    path: Path,
    grid: ExportModel,
    parent: Path,
    config: TrainConfig,
    chosen: GridConfig,
    tuning: FinetuneConfig,
    record: FinetuneRecord,
    *,
    train: SetInfo,
    crops: int,
    bounded: tuple[str, ...] = (),
) -> RoundedInfo:
    """Write a rounded student.

    Args:
        path: The file; replaced in one step.
        grid: As :func:`quantize.fitting.fit_grid` returned it, fine-tuned or not.
        parent: Checkpoint of the student that was rounded.
        config: The student's configuration, with the crop for which it was rounded.
        chosen: How the grid was chosen.
        tuning: How it was fine-tuned.
        record: What fine-tuning did.
        train: Set of the train split that it was rounded and fine-tuned on.
        crops: How many of its crops the ranges were chosen on.
        bounded: Activations that :func:`quantize.equalise.bound` let end.

    Raises:
        CheckpointWriteError: The file system refuses.
    """
    metadata = load_checkpoint(parent).metadata
    epoch = metadata.get("epoch")
    info = RoundedInfo(
        kind=_KIND,
        parent_sha256=sha256_of(parent),
        parent_epoch=epoch if isinstance(epoch, int) else None,
        parent_note=msgspec.convert(metadata.get("note", {}), dict[str, str | float | bool]),
        float_convs=chosen.float_convs,
        weight_code_max=chosen.weight_code_max,
        steps=tuning.steps,
        batch=tuning.batch,
        learning_rate=tuning.learning_rate,
        error_before=record.before,
        error_after=record.after,
        crops=crops,
        train=train_set(train),
        bounded=bounded,
    )
    metadata = {"config": msgspec.to_builtins(config), "rounded": msgspec.to_builtins(info)}
    head = {f"{_HEAD}{name}": value for name, value in grid.head.state_dict().items()}
    save_checkpoint(path, grid.trunk.state_dict() | head, metadata)
    return info


def load_rounded(path: Checkpoint | Path, platt: Platt | None = None) -> Rounded:
    """Read a rounded student.

    Args:
        path: As :func:`save_rounded` wrote it.
        platt: Calibration of the score; without one, the score is the sigmoid of the mean over the cells.

    Raises:
        CheckpointMismatchError: The file is of something else, such as a student that has not been rounded yet.
        CheckpointError: The file is missing or damaged.
    """
    checkpoint = load_checkpoint(path)
    config = config_of(checkpoint)
    try:
        info = msgspec.json.decode(json.dumps(checkpoint.metadata["rounded"]), type=RoundedInfo)
    except (KeyError, msgspec.MsgspecError) as error:
        raise CheckpointMismatchError(
            f"{checkpoint.name} is no rounded student ({error}); make one with `python -m quantize round`"
        ) from error
    bare = empty_student(config).exported(platt or UNCALIBRATED, config.input.normalisation())
    try:
        bare = with_bounds(bare, info.bounded)
    except ConversionError as error:
        raise CheckpointMismatchError(f"{checkpoint.name} does not fit its configuration: {error}") from error
    grid = insert_grid(bare, GridConfig(weight_code_max=info.weight_code_max, float_convs=info.float_convs))
    # Files of the first version name the filter without the head.
    tensors = {_HEAD + name if name == "unit_weight" else name: value for name, value in checkpoint.tensors.items()}
    of_head = {name for name in tensors if name.startswith(_HEAD)}
    head = {name.removeprefix(_HEAD): tensors[name] for name in of_head}
    try:
        load_exactly(grid.head, head, what=checkpoint.name)
    except StateMismatchError as error:
        raise CheckpointMismatchError(
            f"the head in {checkpoint.name} does not fit ({error}); make it anew with `python -m quantize round`"
        ) from error
    rest = {name: value for name, value in tensors.items() if name not in of_head}
    load_exactly(grid.trunk, rest, what=checkpoint.name)
    return Rounded(grid, config, info)


def load_calibrated(checkpoint: Path, calibration: Path) -> tuple[Rounded, CalibrationFile]:
    """Read a rounded student with its calibration.

    Raises:
        CheckpointMismatchError: A file is of something else.
        CheckpointError: The checkpoint is missing or damaged.
    """
    file = read_calibration(calibration)
    rounded = load_rounded(checkpoint, file.platt())
    heads = {str(name) for name in rounded.grid.outputs if name.startswith("score_")}
    if set(file.heads) != heads:
        raise CheckpointMismatchError(
            f"{calibration} calibrates the heads {sorted(file.heads) or 'none'}, the network has "
            f"{sorted(heads) or 'none'}; run `python -m quantize calibrate` again"
        )
    return rounded, file


class RoundedTask:
    """A rounded student as something that scores: FP32 activations, mean over the cells mapped to [0, 1].

    Args:
        rounded: The student.
    """

    def __init__(self, rounded: Rounded) -> None:
        self._model = rounded.fp32()

    @property
    def module(self) -> ExportModel:
        """The network."""
        return self._model

    def to(self, device: torch.device) -> None:
        """Move the network to a device."""
        self._model.to(device)

    @property
    def sees_depth(self) -> bool:
        """Whether pictures have depth as fourth channel."""
        return self._model.sees_depth

    def score(self, pictures: Tensor) -> Tensor:
        """uint8 (N, S, S, C) to (N,) in [0, 1], before calibration."""
        return self._model.head.share(self.pooled(pictures))

    def pooled(self, pictures: Tensor) -> Tensor:
        """uint8 (N, S, S, C) to the mean over the cells, (N,); of several heads the one that decides."""
        return self.pooled_heads(pictures)["score"]

    def pooled_heads(self, pictures: Tensor) -> dict[str, Tensor]:
        """uint8 (N, S, S, C) to the means over the cells, (N,), by the names of their scores."""
        return self._model.pooled_heads(pictures)
