"""The student of CMFL: colour and depth in one file, with a score for both together and one for each alone.

It is CMFL's own network RGBD-MH on two plain trunks, so that training uses CMFL's own loss. Without the sigmoid behind
the mean features (``embed_act = "identity"``) every head is linear in the cells of the two maps, which makes its score
the mean of values per cell, as those of the students that see colour alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import ClassVar, cast

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from quantize.published import load_plain
from quantize.students import ExportModel, Head, Platt
from training.backbones import PLAIN_SIZES, Trunk, plain_trunk
from training.config import MethodConfig
from training.errors import ConfigError
from training.inputs import BrightnessNorm, GraphInput
from training.inputs_depth import BytesInput
from training.methods.cmfl import CMFL, CMFLConfig, StreamLogits
from training.settings import with_options

#: Name of the method that these are students of.
METHOD = "cmfl"
#: Names of the heads' scores, in the order of the cells: both together, colour alone, depth alone.
SCORES = ("score", "score_rgb", "score_depth")
_OPTION, _DEPTH_TRUNK = "depth_trunk", "plain_xs"
# Of depth bytes in [0, 1]: the median of the face is 0.5, and three spreads to either side are the ends.
_DEPTH_MEAN, _DEPTH_STD = 0.5, 0.25


class RgbdInput(nn.Module):
    """First layer: colour as for students that see colour alone, depth with its median at 0.

    Args:
        brightness: As in training.
        trunk: That of colour.
    """

    def __init__(self, brightness: BrightnessNorm | None, trunk: Trunk) -> None:
        super().__init__()
        self.rgb = GraphInput(brightness, trunk.input_mean, trunk.input_std)
        self.depth = BytesInput((_DEPTH_MEAN,), (_DEPTH_STD,))

    def forward(self, rgb: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (N, S, S, 3), red first, and (N, S, S, 1) to float32 (N, 3, S, S) and (N, 1, S, S)."""
        return self.rgb(rgb), self.depth(depth)


class TwoTrunks(nn.Module):
    """Two trunks side by side.

    Args:
        rgb: Of colour.
        depth: Of depth.
    """

    def __init__(self, rgb: nn.Module, depth: nn.Module) -> None:
        super().__init__()
        self.rgb, self.depth = rgb, depth

    def forward(self, rgb: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        """Both maps, (N, C, m, m) and (N, C', m, m)."""
        return self.rgb(rgb), self.depth(depth)


class RgbdHead(Head):
    """Inner products of the cells of both maps with the filters of three heads.

    Args:
        rgb_weight: float32 (2, C, 1, 1): of colour in the joint head, and of the head of colour.
        depth_weight: float32 (2, C', 1, 1): of depth in the joint head, and of the head of depth.
        bias: float32 (3,), in the order of :data:`SCORES`.
    """

    value = "logit"

    def __init__(self, rgb_weight: Tensor, depth_weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("rgb_weight", rgb_weight)
        self.register_buffer("depth_weight", depth_weight)
        self.register_buffer("bias", bias)

    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
        """Logits of the cells, (N, 3, m, m), in the order of :data:`SCORES`."""
        of_rgb = F.conv2d(rgb, cast(Tensor, self.rgb_weight))
        of_depth = F.conv2d(depth, cast(Tensor, self.depth_weight))
        together = of_rgb[:, :1] + of_depth[:, :1]
        return torch.cat([together, of_rgb[:, 1:], of_depth[:, 1:]], dim=1) + cast(Tensor, self.bias).view(1, 3, 1, 1)


class RgbdStudent(nn.Module):
    """CMFL on two small trunks.

    Args:
        rgb_trunk: For colour.
        depth_trunk: For depth.
        settings: CMFL's; the features pass no sigmoid.

    Attributes:
        network: CMFL.
        keeps_colour: Whether the branch of colour stays as it is: neither its weights nor its statistics move.

    Raises:
        ConfigError: The settings put a sigmoid behind the features, or another than the joint score decides.
    """

    def __init__(self, rgb_trunk: Trunk, depth_trunk: Trunk, settings: CMFLConfig) -> None:
        super().__init__()
        if settings.embed_act != "identity" or settings.score_head != "joint":
            raise ConfigError(
                "a student of CMFL has linear heads and decides by the joint one: leave embed_act and score_head out"
            )
        self.network = CMFL(rgb_trunk, depth_trunk, settings)
        self.keeps_colour = False

    def keep_colour(self) -> None:
        """From now on train depth and the joint head alone."""
        self.keeps_colour = True
        for part in (self.network.rgb_trunk, self.network.rgb_head):
            part.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> RgbdStudent:
        """Switch to training, all but what stays as it is."""
        super().train(mode)
        if self.keeps_colour:
            self.network.rgb_trunk.eval()
        return self

    def forward(self, rgb: Tensor, depth: Tensor) -> StreamLogits:
        """Logits of pictures that :class:`RgbdInput` has normalised."""
        return self.network.logits(rgb, depth)

    def head(self) -> RgbdHead:
        """The three heads for export: a copy, without gradients."""
        n = self.network
        own, joint = n.rgb_trunk.out_channels, n.joint_head.weight.detach()[0]
        return RgbdHead(
            torch.stack([joint[:own], n.rgb_head.weight.detach()[0]])[:, :, None, None],
            torch.stack([joint[own:], n.depth_head.weight.detach()[0]])[:, :, None, None],
            torch.cat([head.bias.detach() for head in (n.joint_head, n.rgb_head, n.depth_head)]),
        )

    def exported(self, platt: Platt, brightness: BrightnessNorm | None) -> ExportModel:
        """What becomes an artefact."""
        return RgbdExportModel(self, platt, brightness)


class RgbdExportModel(ExportModel):
    """Colour and depth to scores and map, with constants folded: one artefact for both, and for colour alone.

    Args:
        student: A trained student.
        platt: Calibration of the joint logit, and under the names of their scores that of the others.
        brightness: As in training.
    """

    inputs = MappingProxyType({"rgb": 3, "depth": 1})
    outputs = ("score", "map", "score_rgb", "score_depth")
    # Depth alone decides nothing: a mask that is well made passes it.
    decisions: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType(
        {"score": ("rgb", "depth"), "score_rgb": ("rgb",)}
    )

    def __init__(self, student: RgbdStudent, platt: Platt, brightness: BrightnessNorm | None = None) -> None:
        nn.Module.__init__(self)
        network = student.network
        trunks = TwoTrunks(network.rgb_trunk.deployed(), network.depth_trunk.deployed())
        self._assemble(RgbdInput(brightness, network.rgb_trunk), trunks, student.head(), platt)
        # Constants and no buffers: the calibration is no part of the weights.
        self._platts = [platt, *(platt.heads.get(name, Platt(1.0, 0.0)) for name in SCORES[1:])]

    def streams(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """uint8 (N, S, S, 4), depth last, to what the trunks take."""
        return cast("tuple[Tensor, Tensor]", self.input(pictures[..., :3], pictures[..., 3:]))

    def cells(self, pictures: Tensor) -> Tensor:
        """uint8 (N, S, S, 4), depth last, to the logits of the cells, float32 (N, 3, m, m), as :data:`SCORES`."""
        return super().cells(pictures)

    def pooled_heads(self, pictures: Tensor) -> dict[str, Tensor]:
        """uint8 (N, S, S, 4), depth last, to the logits (N,) of the heads by the names of their scores."""
        return dict(zip(SCORES, self.cells(pictures).mean(dim=(2, 3)).unbind(1), strict=True))

    def forward(self, rgb: Tensor, depth: Tensor | None = None) -> tuple[Tensor, ...]:
        """Scores and map.

        Args:
            rgb: uint8 (N, S, S, 3), red first.
            depth: uint8 (N, S, S, 1), see :func:`fasedge.depth.depth_to_bytes`; ``None`` where ``rgb`` holds it as
                fourth channel.

        Returns:
            ``score`` float32 (N,) of both together, ``map`` float32 (N, m, m) of the same, ``score_rgb`` (N,) and
            ``score_depth`` (N,); all in [0, 1], higher = more surely bona fide. ``score_rgb`` does not depend on depth.
        """
        streams = self.streams(rgb) if depth is None else self.input(rgb, depth)
        cells = self.head(*self.trunk(*streams))
        means = cells.mean(dim=(2, 3))
        scores = [torch.sigmoid(means[:, i] * p.scale + p.bias) for i, p in enumerate(self._platts)]
        own = self._platts[0]
        return scores[0], torch.sigmoid(cells[:, 0] * own.scale + own.bias), *scores[1:]


def depth_trunk(config: MethodConfig) -> str:
    """Name of the trunk of depth."""
    return str(config.options.get(_OPTION, _DEPTH_TRUNK))


def new_rgbd_student(config: MethodConfig) -> RgbdStudent:
    """A student with random weights.

    Args:
        config: ``trunk`` is that of colour, the option ``depth_trunk`` that of depth (``plain_xs``); other options are
            CMFL's.

    Raises:
        ConfigError: Settings that such a student does not have.
    """
    if config.name != METHOD:
        raise ConfigError(f"expected a run of the method {METHOD!r}, got one of {config.name!r}")
    of_depth = depth_trunk(config)
    for name in (config.trunk, of_depth):
        if name not in PLAIN_SIZES:
            raise ConfigError(f"a student of cmfl has trunks of {', '.join(PLAIN_SIZES)}, got {name!r}")
    own = {name: value for name, value in config.options.items() if name != _OPTION}
    start = replace(CMFLConfig.from_profile(config.profile), embed_act="identity")
    settings = with_options(start, msgspec.structs.replace(config, options=own))
    return RgbdStudent(plain_trunk(config.trunk), plain_trunk(of_depth, in_channels=1), settings)


def take_colour(student: RgbdStudent, tensors: Mapping[str, Tensor]) -> None:
    """Give a student the branch of colour of another model, which from now on stays as it is.

    Args:
        student: Changed in place.
        tensors: Merged trunk (``trunk.*``) and head (``head.weight``, ``head.bias``) of a network with one logit, see
            :func:`quantize.published.weights_of`. Where activations end in that network, those of the student go on.

    Raises:
        CheckpointMismatchError: They are of something else.
        StateMismatchError: They are of another trunk.
    """
    network = student.network
    load_plain(network.rgb_trunk, tensors)
    with torch.no_grad():
        network.rgb_head.weight.copy_(tensors["head.weight"].flatten(1))
        network.rgb_head.bias.copy_(tensors["head.bias"])
    student.keep_colour()
