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
    """

    name: str
    subtypes: tuple[str, ...]


SPECIES: dict[str, Species] = {
    "replay": Species("replay", ("phone", "tablet", "laptop", "monitor")),
    "print": Species("print", ("laser", "inkjet", "photo_paper", "newsprint")),
}
