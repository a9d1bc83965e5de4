"""CDCN: a depth map from central difference convolutions, a baseline of depth supervision.

Source: Yu et al., "Searching Central Difference Convolutional Networks for Face Anti-Spoofing", CVPR 2020.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate

from training.errors import BatchError, ConfigError
from training.methods.base import Method, at_least_float32, check_images, check_labels, without_autocast

#: Mean and divisor of the input for colours in [0, 1]: (x − 127.5) / 128 of 8-bit values.
CDCN_MEAN = (0.5, 0.5, 0.5)
CDCN_STD = (128.0 / 255.0, 128.0 / 255.0, 128.0 / 255.0)
STRIDE = 8  # input pixels per cell of the depth map


@dataclass(frozen=True, slots=True, kw_only=True)
class CDCNConfig:
    """Settings of the network and its loss; the defaults are the published ones.

    Attributes:
        input_side: Pixels along one side of the input; the depth map has an eighth.
        width: Factor on the number of channels; 1 is the published network.
        theta: Share θ of the central difference; 0 makes ordinary convolutions.
        contrast_weight: Weight of the contrastive depth loss beside the squared error.
    """

    input_side: int = 256
    width: float = 1.0
    theta: float = 0.7
    contrast_weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            ConfigError: A value is out of its range.
        """
        side_fits = self.input_side >= 4 * STRIDE and self.input_side % STRIDE == 0
        rules = (
            ("input_side", side_fits, f"a multiple of {STRIDE}, at least {4 * STRIDE}"),
            ("width", 0.0 < self.width <= 4.0, "0 < width <= 4"),
            ("theta", 0.0 <= self.theta <= 1.0, "0 <= theta <= 1"),
            ("contrast_weight", 0.0 <= self.contrast_weight < math.inf, "contrast_weight >= 0"),
        )
        for name, holds, wanted in rules:
            if not holds:
                raise ConfigError(f"CDCN: expected {wanted}, got {name}={getattr(self, name)!r}")

    def for_cpu(self, side: int = 64, width: float = 0.125) -> CDCNConfig:
        """Return the same settings for a small network, for machines without an accelerator."""
        return replace(self, input_side=side, width=width)

    @property
    def map_side(self) -> int:
        """Cells along one side of the depth map."""
        return self.input_side // STRIDE


class DepthMap(NamedTuple):
    """Output of the network.

    Attributes:
        depth: (N, m, m) depth map ≥ 0, nearer = larger, float32.
    """

    depth: Tensor


class DepthLosses(NamedTuple):
    """Scalars; ``total`` is absolute + contrast_weight · contrast."""

    total: Tensor
    absolute: Tensor
    contrast: Tensor


class CentralDifferenceConv(nn.Module):
    """3×3 convolution that subtracts a share of the centre: y(p) = Σ_k w_k x(p + k) − θ · x(p) · Σ_k w_k.

    This is one convolution, whose kernel has θ Σ_k w_k less at its centre; it is run and exported as such.

    Args:
        in_channels: Channels read.
        out_channels: Channels made.
        theta: Share θ of the central difference.

    Source: CDCN, eq. 4 and 5.
    """

    def __init__(self, in_channels: int, out_channels: int, theta: float = 0.7) -> None:
        super().__init__()
        self.theta = theta
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5.0))  # torch's own first values of a convolution
        # A constant, not a weight: where the centre of the kernel is.
        centre = torch.zeros(1, 1, 3, 3)
        centre[..., 1, 1] = 1.0
        self.register_buffer("centre", centre, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in, H, W) to (N, out, H, W), the border padded with zeros."""
        return conv2d(x, self.kernel(), padding=1)

    def kernel(self) -> Tensor:
        """The ordinary kernel (out, in, 3, 3) that does the same."""
        if self.theta == 0.0:
            return self.weight
        return self.weight - self.theta * self.weight.sum(dim=(2, 3), keepdim=True) * self.get_buffer("centre")


class CDCN(Method[DepthMap, DepthLosses]):
    """The network; 2,245,016 parameters at width 1.

    Args:
        config: Settings; the published ones if not given.

    Source: CDCN, table 1 of the supplementary material; its released code for pooling, resizing and the last layer.
    """

    primary_score: ClassVar[str] = "depth"

    def __init__(self, config: CDCNConfig | None = None) -> None:
        super().__init__()
        self.config = config if config is not None else CDCNConfig()
        theta = self.config.theta
        first, middle, wide = (max(1, int(c * self.config.width)) for c in (64, 128, 196))

        def unit(before: int, after: int) -> nn.Sequential:
            return nn.Sequential(CentralDifferenceConv(before, after, theta), nn.BatchNorm2d(after), nn.ReLU())

        self.stem = unit(3, first)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                unit(before, middle), unit(middle, wide), unit(wide, middle), nn.MaxPool2d(3, stride=2, padding=1)
            )
            for before in (first, middle, middle)
        )
        self.head = nn.Sequential(
            unit(3 * middle, middle), unit(middle, first), CentralDifferenceConv(first, 1, theta), nn.ReLU()
        )

    def forward(self, x: Tensor) -> DepthMap:
        """Map images to depth maps.

        Args:
            x: (N, 3, S, S) float images, RGB, normalised with :data:`CDCN_MEAN` and :data:`CDCN_STD`.

        Returns:
            A map in float32, also under autocast.

        Raises:
            BatchError: The images have another size or number of channels.
        """
        check_images(x, 3, self.config.input_side)
        size = (self.config.map_side, self.config.map_side)
        x, levels = self.stem(x), []
        for block in self.blocks:
            x = block(x)
            levels.append(interpolate(x, size=size, mode="bilinear", align_corners=False))
        depth: Tensor = self.head(torch.cat(levels, dim=1))
        return DepthMap(at_least_float32(depth).squeeze(1))

    def loss(self, outputs: DepthMap, labels: Tensor, depth: Tensor | None = None) -> DepthLosses:
        """Squared error of the map and of its contrasts.

        Args:
            outputs: What :meth:`forward` returned.
            labels: (N,) labels, 1 = bona fide, 0 = attack; only their number is used, the targets say the rest.
            depth: (N, m, m) depth targets in [0, 1], zeros for attacks.

        Raises:
            BatchError: A shape does not fit, or there are no depth targets.

        Source: CDCN, eq. 6 and 7 (their sum).
        """
        check_labels(labels, outputs.depth.shape[0])
        if depth is None or depth.shape != outputs.depth.shape:
            came = "none" if depth is None else str(tuple(depth.shape))
            raise BatchError(f"CDCN: expected depth targets of shape {tuple(outputs.depth.shape)}, got {came}")
        with without_autocast(outputs.depth.device.type):
            maps = at_least_float32(outputs.depth)
            error = maps - depth.to(maps.dtype)
            absolute = error.square().mean()
            # Contrasts are linear: those of the error are the difference of the maps' contrasts.
            contrast = contrasts(error).square().mean()
        return DepthLosses(absolute + self.config.contrast_weight * contrast, absolute, contrast)

    def scores(self, outputs: DepthMap, face: Tensor | None = None) -> dict[str, Tensor]:
        """Turn maps into (N,) scores in [0, 1], higher = bona fide.

        Args:
            outputs: What :meth:`forward` returned.
            face: (N, m, m) mask of the face, 1 inside; without one all cells count.

        Returns:
            ``depth``: the sum of the map over the area of the face, cut at 1.

        Source: CDCN's released code for the sum of the whole map and the area. The mean over all cells, which training
        and evaluation take because sample sets carry no masks, differs from it by a factor on crops that are cut alike;
        it and the cut are ours.
        """
        if face is None:
            return {"depth": outputs.depth.mean(dim=(1, 2)).clamp(max=1.0)}
        area = face.to(outputs.depth.dtype).sum(dim=(1, 2))
        # Where there is no face, nobody is alive.
        total = torch.where(area > 0, outputs.depth.sum(dim=(1, 2)), 0.0)
        return {"depth": (total / area.clamp(min=1.0)).clamp(max=1.0)}


def contrasts(maps: Tensor) -> Tensor:
    """Neighbour minus centre in the eight directions, for every cell that has all neighbours.

    Args:
        maps: (N, m, m) depth maps, m ≥ 3.

    Returns:
        (N, 8, m − 2, m − 2), row by row from the upper left neighbour to the lower right one.

    Source: Wang et al., "Deep Spatial Gradient and Temporal Depth Learning for Face Anti-spoofing", CVPR 2020: the
    kernels of the contrastive depth loss.
    """
    inner = maps.shape[-1] - 2
    places = [(row, column) for row in range(3) for column in range(3) if (row, column) != (1, 1)]
    centre = maps[:, 1 : 1 + inner, 1 : 1 + inner]
    return torch.stack([maps[:, r : r + inner, c : c + inner] - centre for r, c in places], dim=1)
