"""Who is seen: which pictures may be presented, worn on, or shown by a mask."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from training.data.manifest import FacePicture
from training.data.simulate.draws import Draws
from training.data.simulate.mesh import FaceMeshes
from training.data.simulate.species import SPECIES

#: Species that need a face's geometry.
WORN = frozenset({"mask", "partial"})
#: How far the nose may lie off the middle between the face's sides, in halves of their distance: about the sine of the
#: head's turn. Landmarks of the far side of a face that is turned farther are guesses.
WEARER_TURN, VICTIM_TURN = 0.45, 0.25
_NOSE, _SIDES = 1, (234, 454)

BySource = dict[str, list[int]]


class Cast:
    """The pictures of one split by the parts that they can play.

    Args:
        pictures: The face pictures.
        meshes: Their meshes; None where there are none.

    Attributes:
        presented: Pictures by source that can stand before a camera or on a medium: all.
        wearers: Pictures by source that can wear an instrument.
        victims: Pictures by source whose face an instrument can show.
        species: Species that can be drawn from these pictures, with their weights.
    """

    def __init__(self, pictures: Sequence[FacePicture], meshes: FaceMeshes | None) -> None:
        self._identities = [picture.identity for picture in pictures]
        numbers = range(len(pictures))
        turn = np.full(len(pictures), np.inf)
        if meshes is not None:
            there = np.flatnonzero(meshes.available)
            turn[there] = head_turn(np.asarray(meshes.landmarks[there], np.float64))
        self.presented = _by_source(pictures, numbers)
        self.victims = _by_source(pictures, (i for i in numbers if turn[i] < VICTIM_TURN))
        # A wearer needs somebody else to impersonate.
        shown = {self._identities[i] for found in self.victims.values() for i in found}
        self.wearers = _by_source(
            pictures, (i for i in numbers if turn[i] < WEARER_TURN and shown - {self._identities[i]})
        )
        self._fitted = frozenset(i for found in self.wearers.values() for i in found)
        worn = WORN if self.wearers else frozenset()
        self.species = {n: SPECIES[n].weight for n in sorted(SPECIES) if n not in WORN or n in worn}

    def draw_picture(self, d: Draws, species: str) -> None:
        """Draw the person: ``source`` and ``picture``."""
        _draw(d, "source", "picture", self.wearers if species in WORN else self.presented)

    def draw_victim(self, d: Draws) -> None:
        """Draw whose face an instrument shows, never the wearer's: ``victim_source`` and ``victim``."""
        self._draw_other(d, "victim")

    def can_be_held(self, d: Draws) -> bool:
        """Whether somebody else can look through the eyes of the picture that is shown: both need a mesh."""
        return int(d.values["picture"]) in self._fitted

    def draw_holder(self, d: Draws) -> None:
        """Draw who looks through a sheet, never the person shown: ``holder_source`` and ``holder``."""
        self._draw_other(d, "holder")

    def _draw_other(self, d: Draws, role: str) -> None:
        own = self._identities[int(d.values["picture"])]
        others = {s: [i for i in found if self._identities[i] != own] for s, found in self.victims.items()}
        _draw(d, f"{role}_source", role, {s: found for s, found in others.items() if found})


def head_turn(
    landmarks: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """How far heads (n, 478, 3) are turned to a side: 0 frontal, about the sine of the angle, (n,)."""
    left, right = landmarks[:, _SIDES[0], 0], landmarks[:, _SIDES[1], 0]
    return np.abs(landmarks[:, _NOSE, 0] - (left + right) / 2) / np.maximum((right - left) / 2, 1e-6)


def _by_source(pictures: Sequence[FacePicture], numbers: Iterable[int]) -> BySource:
    found: BySource = defaultdict(list)
    for i in numbers:
        found[pictures[i].source].append(i)
    return dict(sorted(found.items()))


def _draw(d: Draws, source: str, picture: str, table: BySource) -> None:
    # The square root keeps large collections from drowning small ones without repeating those too often.
    names = list(table)
    chosen = table[d.choice(source, names, [len(table[n]) ** 0.5 for n in names])]
    d.values[picture] = chosen[d.integer(picture, 0, 1 << 30) % len(chosen)]
