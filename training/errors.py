"""Errors of the training program.

The tree::

    TrainingError
    ├── ConfigError       a configuration that cannot be used (also a ValueError)
    ├── DataError         data that is missing, malformed or inconsistent (also a ValueError)
    │   ├── BatchError    a batch has the wrong shape or type
    │   └── ProtocolError    a data set on disk that is not what its protocol says
    ├── WeightsUnavailableError   pretrained weights, or the package that carries them, are not installed
    ├── CheckpointError   a checkpoint that does not fit or cannot be read
    │   ├── CheckpointNotFoundError   there is no such file
    │   ├── CheckpointFormatError     the file is not one of our checkpoints, or it is damaged
    │   ├── CheckpointWriteError      the file cannot be written
    │   └── StateMismatchError        its tensors do not fit the network
    └── DivergedError     a loss that is not a finite number any more

A message names what was expected, what came and what to do about it.
"""

from __future__ import annotations

from collections.abc import Sequence


class TrainingError(Exception):
    """Base class."""


class ConfigError(TrainingError, ValueError):
    """A configuration that cannot be used."""


class DataError(TrainingError, ValueError):
    """Data that is missing, malformed or inconsistent."""


class BatchError(DataError):
    """A batch has the wrong shape or type."""


class ProtocolError(DataError):
    """A data set on disk is not what its protocol says.

    Args:
        where: What was read.
        problems: Everything that is wrong.

    Attributes:
        problems: The same; the message shows the first ten.
    """

    _SHOWN = 10

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.where = where
        self.problems = tuple(problems)
        shown = "".join(f"\n({i}) {text}" for i, text in enumerate(self.problems[: self._SHOWN], 1))
        more = len(self.problems) - self._SHOWN
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__(f"{where}: {count}:{shown}" + (f"\n… and {more} more" if more > 0 else ""))


class WeightsUnavailableError(TrainingError):
    """Pretrained weights, or the package that carries them, are not installed."""


class CheckpointError(TrainingError):
    """A checkpoint that does not fit or cannot be read."""


class CheckpointNotFoundError(CheckpointError):
    """There is no such checkpoint."""


class CheckpointFormatError(CheckpointError):
    """The file is not a checkpoint of this project, or it is damaged."""


class CheckpointWriteError(CheckpointError):
    """The checkpoint cannot be written."""


class StateMismatchError(CheckpointError):
    """The names, shapes or types of the tensors do not fit the network."""


class DivergedError(TrainingError):
    """A loss that is not a finite number any more."""
