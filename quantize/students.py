"""The student that is published: trunk, pixel-wise head, and the graph that is exported.

The graph begins with the uint8 picture and ends with the score, so that every engine gets the same bytes and none
repeats a normalisation in its own way.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fasedge.cards import OutputName
from quantize.errors import CheckpointMismatchError
from training.backbones import Trunk
from training.errors import ConfigError
from training.inputs import BrightnessNorm, GraphInput
from training.methods.base import at_least_float32, without_autocast

_SQUARED_NORM_FLOOR = 1e-12
StudentT = TypeVar("StudentT", bound=nn.Module)


class Head(nn.Module):
    """From the trunk's map, float32 (N, C, m, m), to a value per cell (N, m, m), with constants."""

    #: What a value is, for cards and messages.
    value: ClassVar[str]

    @staticmethod
    def share(pooled: Tensor) -> Tensor:
        """Mean values mapped to [0, 1], before calibration: the sigmoid."""
        return torch.sigmoid(pooled)


class CosineHead(Head):
    """Cosines with a unit vector.

    Args:
        unit_weight: float32 (1, C, 1, 1) of length 1.
    """

    value = "cosine"

    def __init__(self, unit_weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("unit_weight", unit_weight)

    def forward(self, features: Tensor) -> Tensor:
        """In [-1, 1]."""
        return pixel_cosine(features, cast(Tensor, self.unit_weight))

    @staticmethod
    def share(pooled: Tensor) -> Tensor:
        """Half way between 0 and 1 at a right angle."""
        return 0.5 + 0.5 * pooled


class LogitHead(Head):
    """Inner products with a vector.

    Args:
        weight: float32 (1, C, 1, 1).
        bias: float32 (1,).
    """

    value = "logit"

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, features: Tensor) -> Tensor:
        """Of any size."""
        return F.conv2d(features, cast(Tensor, self.weight), cast(Tensor, self.bias)).squeeze(1)


class Student(nn.Module, ABC):
    """A trunk and one value per cell of its map, whose mean is the score before calibration.

    Args:
        trunk: float32 (N, 3, S, S) to (N, C, m, m).
        channels: C.
        bias: Whether the filter has one.

    Attributes:
        trunk: The trunk.
        filter: 1x1 convolution C -> 1.
    """

    #: Kind of head.
    of: ClassVar[type[Head]]

    def __init__(self, trunk: nn.Module, channels: int, *, bias: bool) -> None:
        super().__init__()
        self.trunk = trunk
        self.channels = channels
        self.filter = nn.Conv2d(channels, 1, kernel_size=1, bias=bias)

    def cells(self, x: Tensor) -> Tensor:
        """Value of every cell.

        Args:
            x: float32 (N, 3, S, S), as :class:`GraphInput` makes it.

        Returns:
            float32 (N, m, m).
        """
        return self.cells_of(self.trunk(x))

    def cells_of(self, features: Tensor) -> Tensor:
        """Values (N, m, m) of what the trunk has found, (N, C, m, m); in float32 also under autocast."""
        with without_autocast(features.device.type):
            return self._values(at_least_float32(features))

    def pooled(self, x: Tensor) -> Tensor:
        """Mean over the cells, float32 (N,)."""
        return self.cells(x).mean(dim=(1, 2))

    def share(self, pooled: Tensor) -> Tensor:
        """Mean values mapped to [0, 1], before calibration."""
        return self.of.share(pooled)

    def forward(self, x: Tensor) -> Tensor:
        """Same as :meth:`cells`."""
        return self.cells(x)

    @abstractmethod
    def _values(self, features: Tensor) -> Tensor: ...

    @abstractmethod
    def head(self) -> Head:
        """The same with the filter as it is now, for export: its own copy, without gradients."""

    def exported(self, platt: Platt, brightness: BrightnessNorm | None) -> ExportModel:
        """What becomes an artefact."""
        return ExportModel(self, platt, brightness)


class PixelCosineStudent(Student):
    """Trunk with the pixel-wise cosine head: ``cos_ab = <x_ab / |x_ab|, v / |v|>`` at every position (a, b).

    Source: methods A-DeepPixBiS, pixel-wise head with an angular margin (the margin itself is part of the training
    loss only).

    Args:
        trunk: float32 (N, 3, S, S) to (N, C, m, m).
        channels: C.

    Attributes:
        trunk: The trunk.
        filter: 1x1 convolution C -> 1 without bias, v; normalised at every call.
    """

    of = CosineHead

    def __init__(self, trunk: nn.Module, channels: int) -> None:
        super().__init__(trunk, channels, bias=False)

    def _values(self, features: Tensor) -> Tensor:
        return pixel_cosine(features, F.normalize(self.filter.weight, dim=1))

    def head(self) -> CosineHead:
        """Cosines with the filter, which is normalised once."""
        return CosineHead(F.normalize(self.filter.weight.detach(), dim=1).clone())


class PixelLogitStudent(Student):
    """Trunk with a logit per cell; their mean is the logit of the mean feature, as binary supervision has it.

    Args:
        trunk: float32 (N, 3, S, S) to (N, C, m, m).
        channels: C.

    Attributes:
        trunk: The trunk.
        filter: 1x1 convolution C -> 1 with a bias.
    """

    of = LogitHead

    def __init__(self, trunk: nn.Module, channels: int) -> None:
        super().__init__(trunk, channels, bias=True)

    def _values(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.filter(features)).squeeze(1)

    def head(self) -> LogitHead:
        """Inner products with the filter."""
        return LogitHead(self.filter.weight.detach().clone(), cast(Tensor, self.filter.bias).detach().clone())


#: Students by the name of the method that they are students of.
STUDENTS: Mapping[str, Callable[[nn.Module, int], Student]] = {
    "a-deeppixbis": PixelCosineStudent,
    "binary-trunk": PixelLogitStudent,
    "rfmeta": PixelLogitStudent,
}


def new_student(method: str, trunk: nn.Module, channels: int) -> Student:
    """A student of a method.

    Args:
        method: Name of the method.
        trunk: float32 (N, 3, S, S) to (N, C, m, m).
        channels: C.

    Raises:
        ConfigError: The method has no student.
    """
    if method not in STUDENTS:
        raise ConfigError(f"{method} has no student; those of {', '.join(STUDENTS)} are known")
    return STUDENTS[method](trunk, channels)


def pixel_cosine(features: Tensor, unit_weight: Tensor) -> Tensor:
    """Cosine between the feature vector at each position and a unit vector.

    Args:
        features: float32 (N, C, m, m).
        unit_weight: float32 (1, C, 1, 1) of length 1.

    Returns:
        float32 (N, m, m).
    """
    dot = F.conv2d(features, unit_weight)
    # The floor stands below the root: clamping above it would leave an infinite slope at a vector of zeros.
    length = ((features * features).sum(dim=1, keepdim=True) + _SQUARED_NORM_FLOOR).sqrt()
    return (dot / length).squeeze(1)


@dataclass(frozen=True, slots=True)
class Platt:
    """``score = sigmoid(scale * mean + bias)``, of the mean over the cells.

    Attributes:
        scale: > 0, so that a higher mean stays a higher score.
        bias: Any finite number.
        heads: Calibration of the single heads of a network that has several, by the names of their scores.
    """

    scale: float
    bias: float
    heads: Mapping[str, Platt] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0 and math.isfinite(self.bias)):
            raise ValueError(f"calibration needs scale > 0 and a finite bias, got {self!r}")


class Exportable(nn.Module):
    """What can become an artefact: pictures to scores.

    Attributes:
        inputs: Channels of each input of the artefact, by name, in order. Where there are several, *pictures* are all
            of them together, uint8 (N, S, S, C), in that order.
        outputs: Names of the outputs, in order.
    """

    inputs: Mapping[str, int] = MappingProxyType({"rgb": 3})
    outputs: tuple[OutputName, ...] = ("score", "map")

    @property
    def sees_depth(self) -> bool:
        """Whether pictures have depth as fourth channel."""
        return "depth" in self.inputs

    def example(self, n: int, size_px: int) -> dict[str, Tensor]:
        """Grey pictures by which converters trace the network: uint8 (n, S, S, C) for each input, by name."""
        return {name: torch.full((n, size_px, size_px, c), 128, dtype=torch.uint8) for name, c in self.inputs.items()}


class ExportModel(Exportable):
    """uint8 picture to score and map, with constants folded: what becomes an artefact.

    Makes a private copy of the student: evaluation mode, batch normalisation folded into the convolutions, the
    head's filter a constant. The student passed in is not changed.

    Args:
        student: A trained student.
        platt: Calibration of the mean over the cells.
        brightness: As in training.

    Attributes:
        decisions: Outputs that a threshold is applied to, and what each is made from; the first is the usual one.
    """

    decisions: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({"score": ("rgb",)})

    def __init__(self, student: Student, platt: Platt, brightness: BrightnessNorm | None = None) -> None:
        super().__init__()
        trunk = student.trunk
        first = (
            GraphInput(brightness, trunk.input_mean, trunk.input_std)
            if isinstance(trunk, Trunk)
            else GraphInput(brightness)
        )
        self._assemble(first, trunk.deployed() if isinstance(trunk, Trunk) else trunk, student.head(), platt)

    def _assemble(self, first: nn.Module, trunk: nn.Module, head: Head, platt: Platt) -> None:
        """Put the parts together, as constants."""
        self.platt = platt
        self.input = first
        self.trunk = fold_batch_norm(trunk)
        self.head = head
        self.eval()
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    def streams(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Pictures to what the trunk takes: float32 (N, C, S, S) for each of its inputs."""
        return (cast(Tensor, self.input(pictures)),)

    def features(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Pictures to what the trunk gives: float32 (N, C, m, m) for each of its outputs."""
        found = self.trunk(*self.streams(pictures))
        return found if isinstance(found, tuple) else (cast(Tensor, found),)

    def cells(self, pictures: Tensor) -> Tensor:
        """Pictures to the values of the cells, float32 (N, m, m)."""
        return cast(Tensor, self.head(*self.features(pictures)))

    def pooled_heads(self, pictures: Tensor) -> dict[str, Tensor]:
        """Pictures to the means over the cells, (N,), by the names of their scores."""
        return {"score": self.cells(pictures).mean(dim=(1, 2))}

    def forward(self, rgb: Tensor) -> tuple[Tensor, ...]:
        """Score and map.

        Args:
            rgb: uint8 (N, S, S, 3), red first.

        Returns:
            ``score`` float32 (N,) and ``map`` float32 (N, m, m), both in [0, 1], higher = more surely bona fide.
            The score is the calibrated *mean* over the cells, not the mean of the calibrated map.
        """
        cells = self.cells(rgb)
        score = torch.sigmoid(cells.mean(dim=(1, 2)) * self.platt.scale + self.platt.bias)
        return score, torch.sigmoid(cells * self.platt.scale + self.platt.bias)


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """Copy a network in evaluation mode with each ``Conv2d -> BatchNorm2d`` pair folded into the convolution.

    Pairs are found by execution order in a symbolic trace, so it does not matter how the modules are nested. A batch
    normalisation that does not directly follow a convolution stays.

    Args:
        module: Any traceable network; not changed.

    Returns:
        A ``torch.fx.GraphModule`` with the same function.
    """
    traced = torch.fx.symbolic_trace(copy.deepcopy(module).eval())
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        if node.op != "call_module" or not isinstance(modules.get(str(node.target)), nn.BatchNorm2d):
            continue
        before = node.args[0]
        if not isinstance(before, torch.fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        conv, norm = modules.get(str(before.target)), modules[str(node.target)]
        if isinstance(conv, nn.Conv2d):
            traced.set_submodule(str(before.target), fuse_conv_bn_eval(conv, cast(nn.BatchNorm2d, norm)))
            node.replace_all_uses_with(before)
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def load_student(student: StudentT, tensors: dict[str, Tensor]) -> StudentT:
    """Fill a student with the tensors of a checkpoint.

    Args:
        student: Changed in place.
        tensors: As ``student.state_dict()``.

    Raises:
        CheckpointMismatchError: Tensors are missing, too many or of another shape: another method or student.
    """
    wanted = student.state_dict()
    missing = sorted(wanted.keys() - tensors.keys())
    extra = sorted(tensors.keys() - wanted.keys())
    shapes = [k for k in sorted(wanted.keys() & tensors.keys()) if wanted[k].shape != tensors[k].shape]
    if missing or extra or shapes:
        raise CheckpointMismatchError(
            f"the checkpoint is not one of this student: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(extra)} unknown {extra[:3]}, {len(shapes)} of another shape {shapes[:3]}; "
            "train the student with the same trunk, or name the trunk it was trained with"
        )
    student.load_state_dict(tensors)
    return student
