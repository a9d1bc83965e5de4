"""What every method is: a network, a loss and scores, kept apart so that the network exports without labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from training.errors import BatchError

OutputT = TypeVar("OutputT")


class HasTotal(Protocol):
    """A loss with its parts; ``total`` is what is differentiated."""

    @property
    def total(self) -> Tensor:
        """Scalar."""


LossesT = TypeVar("LossesT", bound=HasTotal)


class Method(nn.Module, ABC, Generic[OutputT, LossesT]):
    """A presentation-attack detector that can be trained, scored and exported.

    ``forward`` maps images to the raw outputs of the heads and never sees a label; ``loss`` and ``scores`` are
    functions of these outputs. Scores lie in [0, 1] and are higher for bona fide presentations.

    Attributes:
        primary_score: The key of :meth:`scores` on which operating points are chosen by default.
    """

    primary_score: ClassVar[str]

    @abstractmethod
    def forward(self, x: Tensor) -> OutputT:
        """Map (N, C, H, W) float images to the outputs of the heads."""

    @abstractmethod
    def loss(self, outputs: OutputT, labels: Tensor) -> LossesT:
        """Compare outputs with (N,) labels, 1 = bona fide, 0 = attack."""

    @abstractmethod
    def scores(self, outputs: OutputT) -> dict[str, Tensor]:
        """Turn outputs into named (N,) scores in [0, 1], higher = bona fide."""


def check_labels(labels: Tensor, batch: int) -> Tensor:
    """Return labels as float32 after checking that there is one per image.

    Values are not looked at: that would stall an accelerator at every step.

    Raises:
        BatchError: The shape is not (batch,), or the type cannot hold a label.
    """
    if labels.shape != (batch,):
        raise BatchError(f"expected labels of shape ({batch},), one per image, got {tuple(labels.shape)}")
    if labels.is_complex():
        raise BatchError(f"expected integer, boolean or float labels, got {labels.dtype}")
    return labels.to(torch.float32)


def check_images(x: Tensor, channels: int, side: int) -> None:
    """Check that a batch has the size for which the heads were made.

    Raises:
        BatchError: The shape is not (N, channels, side, side).
    """
    if x.ndim != 4 or tuple(x.shape[1:]) != (channels, side, side):
        raise BatchError(
            f"expected images of shape (N, {channels}, {side}, {side}), got {tuple(x.shape)}; resize them, or "
            "configure the network for their size"
        )


def at_least_float32(x: Tensor) -> Tensor:
    """Raise half precision to float32; leave float32 and float64 alone."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def without_autocast(device_type: str) -> AbstractContextManager[object]:
    """Switch autocast off where it is on; elsewhere do nothing, so that exporters see no context to trace."""
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()
