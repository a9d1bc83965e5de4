"""What stands before a depth camera: distance, how much near-infrared light returns, what is mirror-like."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Surface:
    """Geometry on the canvas, float32 (B, 1, H, W) each.

    Attributes:
        depth_m: Metres along the optical axis, > 0.
        reflectivity: Diffuse near-infrared return in [0, 1]; hair, glasses and black plastic return little.
        mirror: Share of mirror-like or emitting surface in [0, 1].
    """

    depth_m: Tensor
    reflectivity: Tensor
    mirror: Tensor
