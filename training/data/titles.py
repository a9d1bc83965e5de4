"""Which data set, protocol and fold a prepared set is of: the first part of its ``origin``."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

#: Title of sets that nobody recorded.
SIMULATED = "simulated"
_INCOMPLETE = "incomplete"
_PATTERN = re.compile(rf"(?P<dataset>\w+) (?P<protocol>[^,]+?)(?:, fold (?P<fold>\d+))?(?P<gaps>, {_INCOMPLETE})?")
#: Data sets of one's own: their protocols may be unrelated.
_OWN = frozenset({"generic"})


@dataclass(frozen=True, slots=True)
class Title:
    """What a prepared set is of.

    Attributes:
        dataset: Name of the data set, or ``domains``.
        protocol: Its protocol, or the task of ``domains``.
        fold: From 1; ``None`` where there are none.
        incomplete: Recordings of the protocol were missing when it was prepared: no figure of it can be compared.
    """

    dataset: str
    protocol: str
    fold: int | None = None
    incomplete: bool = False

    def __str__(self) -> str:
        """``oulu_npu 3, fold 2, incomplete``."""
        fold = f", fold {self.fold}" if self.fold is not None else ""
        return f"{self.dataset} {self.protocol}{fold}{f', {_INCOMPLETE}' * self.incomplete}"


def title_of(origin: str) -> str:
    """The title in an ``origin``; :data:`SIMULATED` where that is empty."""
    return origin.split("; ", maxsplit=1)[0] if origin else SIMULATED


def parse_title(text: str) -> Title | None:
    """Read a title; ``None`` for simulated samples and whatever else has no protocol."""
    found = _PATTERN.fullmatch(text)
    if found is None:
        return None
    fold = found["fold"]
    return Title(found["dataset"], found["protocol"], int(fold) if fold else None, found["gaps"] is not None)


def at_odds(titles: Mapping[str, str]) -> str:
    """What is wrong with sets that are used together: one data set by two protocols or folds.

    Each protocol holds recordings back that another one trains on, often of the same people.

    Args:
        titles: By what the sets are used for.

    Returns:
        The problem in words, or nothing. Sets of different data sets are no problem, nor are folders of one's own.
    """
    found: dict[str, dict[str, Title]] = defaultdict(dict)
    for use, text in titles.items():
        title = parse_title(text)
        if title is not None and title.dataset not in _OWN:
            found[title.dataset][use] = replace(title, incomplete=False)
    for dataset, uses in found.items():
        if len(set(uses.values())) > 1:
            told = ", ".join(f"{use} is {title}" for use, title in uses.items())
            return f"the sets follow different protocols of {dataset} ({told}): what one holds back, another may show"
    return ""
