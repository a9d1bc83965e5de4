"""Pictures that are read one by one: an array on disk or in memory, or several of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Protocol

import numpy as np


class Frames(Protocol):
    """What is used of an array (n, …) whose rows are read one by one."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        ...

    @property
    def ndim(self) -> int:
        """Number of axes."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, …)."""
        ...

    def __len__(self) -> int:
        """How many rows."""
        ...

    def __getitem__(self, place: int, /) -> Any:
        """One row."""
        ...


class Stacked:
    """Arrays of equal rows one after the other, read row by row.

    Args:
        parts: Arrays (n_i, …) of one type; all but the first axis alike.
    """

    def __init__(self, parts: Sequence[Frames]) -> None:
        self._parts = tuple(parts)
        self._starts = tuple(accumulate((len(part) for part in self._parts), initial=0))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return self._parts[0].dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, …) of all parts together."""
        return (self._starts[-1], *self._parts[0].shape[1:])

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, place: int) -> np.ndarray[Any, np.dtype[Any]]:
        """One row."""
        if not 0 <= place < len(self):
            raise IndexError(place)
        part = bisect_right(self._starts, place) - 1
        row: np.ndarray[Any, np.dtype[Any]] = self._parts[part][place - self._starts[part]]
        return row
