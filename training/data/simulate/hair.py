"""Hair as a body: what stands out from head and face by its length, and who has it.

Meshes describe skin. A depth camera sees the outside of a beard, which stands before the skin and goes on below the
chin, and of the hair on the head. As with everything about depth that nobody measured, whether there is a beard does
not follow the picture. Wearers of patches and holders of media have hair like everybody else, and solid masks copy the
beard of their victim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from training.data.simulate import figure
from training.data.simulate.draws import Draws, column
from training.data.simulate.mesh import RELIEF_PX
from training.data.simulate.optics import grid, smooth_noise
from training.data.simulate.surface import UNIT_M

#: Keeps the noise of hair apart from other noise; it stays the same in all frames of a sequence.
PURPOSE = 3
#: Share of people with a beard that stands out. Source: YouGov 2023, 40 % of British men have a beard, a moustache or
#: both (stubble not counted); half of the people are men.
BEARDED = 0.2
#: Kinds of beards among them. Source: YouGov 2023 (34 % both, 4 % beard only, 2 % moustache only); how many of those
#: with both shave their cheeks is an assumption.
BEARDS = {"full": 0.65, "chin": 0.3, "moustache": 0.05}
#: Kinds of hair on the head (assumption).
STYLES = {"bald": 0.1, "short": 0.5, "long": 0.4}
_CHIN, _MOUTH = 152, (61, 291)
#: Where the chin is foremost, from the mouth (0) to its lowest point (1).
_FRONT = 0.7
#: Width of the transition from skin to beard, tile units: 4 mm.
_EDGE = 0.02


@dataclass(frozen=True, slots=True, eq=False)
class Beard:
    """A beard over the tile's grid, (B, 1, 160, 160) each.

    Attributes:
        thick: How far it stands out from the skin, tile units; 0 where there is none.
        front: Its surface where there is no face behind it, height in tile units as in :class:`figure.Figure`.
        where: Whether there is beard, 0 or 1.
    """

    thick: Tensor
    front: Tensor
    where: Tensor

    def on(self, height: Tensor, face: Tensor) -> Tensor:
        """Heights with the beard on them; ``face`` says where they are those of a face."""
        hanging = torch.where(self.where > 0, torch.maximum(height, self.front), height)
        return torch.where(face > 0, height + self.thick, hanging)


def draw_hair(d: Draws) -> None:
    """Hair and beard of a person.

    Beards stand out by 3 to 25 mm: hair grows 0.3 to 0.5 mm a day, so this is a week to two months of it, and reach
    below the chin by 0.5 to 3 times as much. Hair on the head stands out by 5 to 40 mm (assumption).
    """
    bearded = d.chance("depth_bearded", BEARDED)
    d.choice("depth_beard", list(BEARDS), list(BEARDS.values()))
    length = d.loguniform("depth_beard_length", 3.0, 25.0)
    d.derive("depth_beard_m", length / 1000 if bearded else 0.0)
    d.uniform("depth_beard_hang", 0.5, 3.0)
    d.uniform("depth_beard_cheek", -0.3, 0.2)
    d.choice("depth_hair_style", list(STYLES), list(STYLES.values()))
    d.uniform("depth_hair_m", 0.005, 0.04)
    d.uniform("depth_hair_fall", 0.9, 2.0)
    d.sometimes("depth_fringe", 0.25, 0.25, 0.6)


def head_hair(built: figure.Figure, draws: Sequence[Draws]) -> figure.Figure:
    """Put the hair of the head on people: a thicker crown, and for some strands beside the face or a fringe.

    Args:
        built: The people.
        draws: Parameters of :func:`draw_hair`; without them nothing changes.
    """
    styles = [str(d.values.get("depth_hair_style", "")) for d in draws]
    x, y, wide = figure.outline(built.landmarks)
    bald, long = (torch.tensor([s == kind for s in styles]).view(-1, 1, 1, 1) for kind in ("bald", "long"))
    thick = torch.where(bald, 0.0, column(draws, "depth_hair_m") / UNIT_M)
    more, ears = thick / wide, figure.ear_height(built.landmarks, draws) - built.middle
    across = x / (column(draws, "depth_head_width", 1.15) + more)
    # Strands hang straight down from where the head is widest.
    upper = (y / (column(draws, "depth_head_height", 1.3) + more)).clamp_max(0)
    bulge = 1 - across**2 - upper**2
    beside = long & (y < column(draws, "depth_hair_fall")) & (x.abs() > 0.75)
    free = (built.face == 0) & (thick > 0)
    hair = free & (bulge > 0) & ((y < column(draws, "depth_hairline")) | beside)
    front = ears + wide * (1.4 * bulge.clamp_min(0).sqrt() - 0.4) + 0.5 * thick
    height = torch.where(hair, torch.maximum(built.height, front), built.height)
    fringe = (
        (built.face > 0) & (thick > 0) & (y < column(draws, "depth_fringe") - 1) & (column(draws, "depth_fringe") > 0)
    )
    height = height + torch.where(fringe, 0.4 * thick, 0.0)
    grown = (hair | fringe).float()
    return replace(
        built,
        height=height,
        there=torch.maximum(built.there, grown),
        hair=torch.where(bald, 0.0, torch.maximum(built.hair, grown)),
        cloth=built.cloth * (1 - grown),
    )


def beard(built: figure.Figure, draws: Sequence[Draws]) -> Beard:
    """The beards of people; of those without one it is nowhere.

    Args:
        built: The people.
        draws: Parameters of :func:`draw_hair`; without them nobody has a beard.
    """
    landmarks, length = built.landmarks, column(draws, "depth_beard_m") / UNIT_M
    if not (length > 0).any():
        nothing = torch.zeros_like(built.height)
        return Beard(nothing, nothing, nothing)
    x, y, wide = _from_mouth(landmarks)
    tall = _span(landmarks)
    hang = (length * column(draws, "depth_beard_hang")).clamp_max(0.4) / tall
    kinds = [str(d.values.get("depth_beard", "full")) for d in draws]
    inside = torch.zeros_like(x)
    for kind in set(kinds):
        chosen = torch.tensor([k == kind for k in kinds]).view(-1, 1, 1, 1)
        inside = torch.where(chosen, tall * _region(kind, x, y, hang, column(draws, "depth_beard_cheek")), inside)
    cover = (inside / _EDGE + 0.5).clamp(0, 1) * (length > 0)
    curls = smooth_noise(torch.stack([_noise(d) for d in draws]), RELIEF_PX)
    # Fuller at the chin than on the cheeks.
    thick = cover * length * (1 - 0.5 * (x * x).clamp_max(1)) * (1 + 0.2 * curls).clamp_min(0.3)
    # It hangs from the front of the chin, which lies above the chin's lowest point.
    mouth = landmarks[:, _MOUTH, :2].mean(1)
    chin = torch.lerp(mouth, landmarks[:, _CHIN, :2], _FRONT).view(-1, 1, 1, 2)
    fall = wide * 0.8 * x * x + 0.25 * tall * (y - 1).clamp_min(0)
    front = figure.look(built.height, chin) + thick - fall
    return Beard(thick, front, (cover > 0.5).float())


def _noise(d: Draws) -> Tensor:
    coarse = d.generator(PURPOSE).standard_normal((1, 28, 28), "float32")
    return torch.from_numpy(coarse).to(torch.get_default_device())


def _span(landmarks: Tensor) -> Tensor:
    """Distance from mouth to chin, tile units (B, 1, 1, 1); about 0.2."""
    mouth = landmarks[:, _MOUTH, :2].mean(1)
    span: Tensor = (landmarks[:, _CHIN, :2] - mouth).norm(dim=1).clamp_min(0.05)
    return span.view(-1, 1, 1, 1)


def _from_mouth(landmarks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Place beside the mouth in half widths of the face and below it in distances to the chin; the half width."""
    mouth = landmarks[:, _MOUTH, :2].mean(1).view(-1, 1, 1, 2)
    down = landmarks[:, _CHIN, :2].view(-1, 1, 1, 2) - mouth
    down = down / down.norm(dim=3, keepdim=True).clamp_min(1e-3)
    away = grid(RELIEF_PX, RELIEF_PX) - mouth
    wide = figure.outline(landmarks)[2]
    x = (away[..., 0] * down[..., 1] - away[..., 1] * down[..., 0]).unsqueeze(1) / wide
    return x, (away * down).sum(3).unsqueeze(1) / _span(landmarks), wide


def _region(kind: str, x: Tensor, y: Tensor, hang: Tensor, cheek: Tensor) -> Tensor:
    """How far inside a beard places lie, in distances from mouth to chin; the lips stay free."""
    side = x.abs()
    # From under the nose past the corners of the mouth, then up to the ears.
    moustache = torch.where(side < 0.3, -0.42, -0.42 + 2.1 * (side - 0.3).clamp_max(0.15))
    upper = moustache - (side > 0.45) * (2.0 * (side - 0.45) - cheek * (side - 0.45).clamp_max(0.2) * 5)
    lips = ((x / 0.3) ** 2 + ((y - 0.05) / 0.2) ** 2).sqrt() - 1
    out = torch.minimum(y - upper, 0.2 * lips)
    if kind == "moustache":
        return torch.minimum(torch.minimum(out, 0.05 - y), 0.45 - side)
    reach = 0.45 if kind == "chin" else 1.02
    # The lower end is round.
    below = ((y - 0.3).clamp_min(0) / (0.75 + hang)) ** 2
    return torch.minimum(out, 1 - below - (side / reach) ** 4)
