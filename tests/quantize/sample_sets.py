"""Sample sets whose pictures do not matter, from the columns of their table."""

from collections.abc import Sequence

import numpy as np

from training.data.samples import SampleRow, SampleSet, SetInfo


def set_of(
    split: str, species: Sequence[str], sources: Sequence[str], identities: Sequence[str], pictures: Sequence[str]
) -> SampleSet:
    """A set of black pictures; ``bona_fide`` is the species of people."""
    rows = [
        SampleRow(
            index=i,
            box_xyxy=(2, 2, 6, 6),
            label=int(kind == "bona_fide"),
            species=kind,
            subtype="x",
            source=source,
            identity=identity,
            picture=picture,
            split=split,
            params={},
        )
        for i, (kind, source, identity, picture) in enumerate(zip(species, sources, identities, pictures, strict=True))
    ]
    return SampleSet(np.zeros((len(rows), 8, 8, 3), np.uint8), rows, SetInfo(split=split, seed=1, n=len(rows)))


def sample_set(split: str, n: int = 40, pictures: tuple[str, ...] = ("a.jpg", "b.jpg")) -> SampleSet:
    """Every other sample an attack: prints and replays in turn, of ten people from one source."""
    kinds = ("replay", "bona_fide", "print", "bona_fide")
    return set_of(
        split,
        [kinds[i % 4] for i in range(n)],
        ["s"] * n,
        [f"p{i % 10}" for i in range(n)],
        [pictures[i // 2 % len(pictures)] for i in range(n)],
    )
