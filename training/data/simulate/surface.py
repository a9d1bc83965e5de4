"""What stands before a depth camera: distance, how much near-infrared light returns, what is mirror-like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.data.simulate.draws import Draws, column
from training.data.simulate.scene import FACE_HALF

#: Side of a face box on a person, metres: BlazeFace boxes reach from ear to ear of a head about 15 cm wide.
FACE_BOX_M = 0.15
#: Metres per tile unit on a person.
UNIT_M = FACE_BOX_M / (2 * FACE_HALF)


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


def sheet_depth(
    canvas: Tensor,
    plane: Tensor,
    distance_m: Tensor,
    draws: Sequence[Draws],
    *,
    face_m: Tensor | float = FACE_BOX_M,
    lean: Tensor | float = 1.0,
) -> Tensor:
    """Distance of a held sheet or screen, of the same tilt and bend that its picture shows.

    The view divides by ``w = 1 + tilt_x·x + tilt_y·y``, which a plane at ``distance / w`` does. A cylinder of
    curvature κ (1 / tile unit, see :func:`training.data.simulate.paper.bend`) falls back by ``(1 - √(1 - (κx)²)) / κ``;
    a face box of :data:`FACE_BOX_M` makes ``|κ| = 0.9`` a radius of 23 cm.

    Args:
        canvas: (H, W, 2), canvas positions.
        plane: (B, H, W, 2), the same in tile units, unbent.
        distance_m: (B, 1, 1, 1), distance of the middle of the canvas.
        draws: The samples' parameters.
        face_m: Side of the face box on the sheet, metres, (B, 1, 1, 1) or a number.
        lean: Factor of the view's tilt, see :func:`away`.

    Returns:
        float32 (B, 1, H, W), metres.
    """
    flat = away(canvas, distance_m, draws, lean)
    angle, kappa = column(draws, "bend_angle"), column(draws, "bend")
    along = plane[..., 0].unsqueeze(1) * torch.cos(angle) + plane[..., 1].unsqueeze(1) * torch.sin(angle)
    slope = (kappa * along).clamp(-0.95, 0.95)
    # (1 - sqrt(1 - s²)) / κ without the division by a κ of 0.
    sag = slope * along / (1 + torch.sqrt(1 - slope**2))
    return flat + sag * (face_m / (2 * FACE_HALF))


def away(canvas: Tensor, distance_m: Tensor, draws: Sequence[Draws], lean: Tensor | float = 1.0) -> Tensor:
    """Distance of the plane through the middle of the view that the view's tilt describes, metres (B, 1, H, W).

    Args:
        canvas: (H, W, 2), canvas positions.
        distance_m: (B, 1, 1, 1), distance of the middle of the canvas.
        draws: The samples' parameters.
        lean: Factor of the tilt. With 1 the plane stands as the picture's perspective says, which from far away only
            a steep one does.
    """
    tilt_x, tilt_y = column(draws, "view_tilt_x") * lean, column(draws, "view_tilt_y") * lean
    return distance_m / (1 + tilt_x * canvas[..., 0] + tilt_y * canvas[..., 1]).clamp_min(0.2)
