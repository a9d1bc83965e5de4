"""One moment of a sequence: what its frame has of its own, and where the simulator asks for it.

A still sample has no moment, and every function here then leaves things as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the community's name for it)
from torch import Tensor

from fasedge.types import UInt8Array
from training.data.simulate.draws import Draws


@dataclass(slots=True, eq=False)
class Memory:
    """What a camera carries from frame to frame: its automatic exposure and levels follow the scene slowly.

    Attributes:
        seconds: Time constant with which automatic values follow what is metered; infinite holds the first.
        values: The automatic values, by name.
    """

    seconds: float
    values: dict[str, Tensor] = field(default_factory=dict)

    def follow(self, name: str, metered: Tensor, elapsed_s: float) -> Tensor:
        """The automatic value now, after ``elapsed_s`` since the last frame: a first-order lag on the logarithm."""
        before = self.values.get(name)
        if before is not None:
            share = 1 - math.exp(-elapsed_s / self.seconds) if self.seconds > 0 else 1.0
            metered = torch.exp(torch.lerp(before.clamp_min(1e-6).log(), metered.clamp_min(1e-6).log(), share))
        self.values[name] = metered
        return metered


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """What one frame of a sequence has of its own, beside its parameters.

    Attributes:
        elapsed_s: Time since the frame before, seconds.
        noise: Random numbers of the camera in this frame; what lies before the camera keeps those of the sample.
        memory: The camera's, shared by the frames, which must be rendered in their order.
        tile: uint8 (T, T, 3), what the medium's content is at this moment, or ``None`` for the sample's tile.
        flow: float32 (2, h, w) over the tile, x first: where each place of the moved head lay when the picture was
            taken, as an offset in tile units; ``None`` where no head moves.
    """

    elapsed_s: float
    noise: np.random.Generator
    memory: Memory
    tile: UInt8Array | None = None
    flow: Tensor | None = None


def tile_of(d: Draws, tile: UInt8Array) -> UInt8Array:
    """The tile that a sample shows at its moment."""
    return tile if d.moment is None or d.moment.tile is None else d.moment.tile


def moved(plane: Tensor, draws: Sequence[Draws]) -> Tensor:
    """Tile positions (B, H, W, 2) of the canvas, with the heads moved as they are at this moment."""
    if all(d.moment is None or d.moment.flow is None for d in draws):
        return plane
    flows = [None if d.moment is None else d.moment.flow for d in draws]
    out = plane.clone()
    for i, flow in enumerate(flows):
        if flow is not None:
            offset = F.grid_sample(
                flow[None].to(plane.device),
                plane[i : i + 1],
                mode="bilinear",
                padding_mode="border",
                align_corners=False,
            )
            out[i] += offset[0].permute(1, 2, 0)
    return out


def enter_camera(draws: Sequence[Draws]) -> None:
    """From here on noise belongs to the moment: the camera's is fresh in every frame, paper keeps its fibres."""
    for d in draws:
        if d.moment is not None:
            d.noise_from(d.moment.noise)


def held(name: str, metered: Tensor, draws: Sequence[Draws]) -> Tensor:
    """What the camera's automatic works with, (B, ...): what is metered now, or in a sequence what it adapted to."""
    if all(d.moment is None for d in draws):
        return metered
    rows = [
        row if d.moment is None else d.moment.memory.follow(name, row, d.moment.elapsed_s)
        for d, row in zip(draws, metered, strict=True)
    ]
    return torch.stack(rows)
