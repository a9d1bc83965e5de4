"""As many attacks as bona fide presentations: the larger class of a set is thinned out by chance.

Source: A-DeepPixBiS undersamples the majority at random; its released code keeps all bona fide frames and draws
``N_real // N_folders`` frames once from each folder of attacks, which here are the kinds of instrument. Which are drawn
follows from a seed alone, so that a run goes on with the same. That they can be drawn anew for each epoch is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fasedge.types import Label
from training.data.table import SampleRow
from training.errors import DataError


def undersampled(rows: Sequence[SampleRow], places: Sequence[int], key: Sequence[int]) -> list[int]:
    """Places that are left when both classes are to be alike.

    Where attacks are more: all bona fide presentations, and from each kind of attack (species and sub-type) the same
    number, as many as there are bona fide presentations for each kind, rounded down; of a rarer kind all there are.
    Where bona fide presentations are more: all attacks, and as many of those. How many are left does not depend on the
    key.

    Args:
        rows: Rows of the set.
        places: Which of them count; both classes are among them.
        key: Numbers >= 0 that the draw follows from.

    Returns:
        Some of the places, in their order.

    Raises:
        DataError: There are more kinds of attack than bona fide presentations: nothing would be left of them.
    """
    bona_fide = [i for i in places if rows[i].label == Label.BONA_FIDE]
    attacks = [i for i in places if rows[i].label != Label.BONA_FIDE]
    rng = np.random.default_rng(list(key))
    if len(bona_fide) >= len(attacks):
        return sorted([*attacks, *_drawn(bona_fide, len(attacks), rng)])
    kinds: dict[tuple[str, str], list[int]] = {}
    for i in attacks:
        kinds.setdefault((rows[i].species, rows[i].subtype), []).append(i)
    each = len(bona_fide) // len(kinds)
    if not each:
        raise DataError(
            f"data.balance draws as many attacks of each of {len(kinds)} kinds as there are bona fide presentations "
            f"for each, but there are only {len(bona_fide)} in all; add bona fide samples, or switch data.balance off"
        )
    return sorted([*bona_fide, *(i for name in sorted(kinds) for i in _drawn(kinds[name], each, rng))])


def _drawn(found: Sequence[int], n: int, rng: np.random.Generator) -> list[int]:
    order = rng.permutation(len(found))
    return [found[k] for k in order[:n]]
