"""Names of the simulated presentation attack instrument (PAI) species and their sub-types."""

from __future__ import annotations

from dataclasses import dataclass

BONA_FIDE = "bona_fide"


@dataclass(frozen=True, slots=True)
class Species:
    """A PAI species.

    Attributes:
        name: Name under which APCER is reported.
        subtypes: Kinds of medium within the species.
        weight: How often it is drawn among attacks, relative to the others.
        shares: How often each sub-type is drawn, relative to the others; alike often where there are none.
    """

    name: str
    subtypes: tuple[str, ...]
    weight: float = 1.0
    shares: tuple[float, ...] | None = None


SPECIES: dict[str, Species] = {
    "replay": Species("replay", ("phone", "tablet", "laptop", "monitor"), 0.35),
    "print": Species("print", ("laser", "inkjet", "photo_paper", "newsprint"), 0.35, (0.3, 0.22, 0.43, 0.05)),
    "mask": Species("mask", ("paper_mask", "rigid_mask", "flexible_mask", "mannequin"), 0.2),
    "partial": Species("partial", ("printed_eyes", "printed_mouth", "printed_glasses"), 0.1),
}
