"""What every trunk has in common: its interface, and how foreign weights are put into it."""

from __future__ import annotations

import copy
import pickle
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from training.errors import CheckpointFormatError, CheckpointNotFoundError, ConfigError

# BatchNorm's batch counters are absent from checkpoints older than PyTorch 0.4.1, and of no use in inference.
MAY_BE_MISSING = ("num_batches_tracked",)


class Trunk(nn.Module, ABC):
    """A convolutional feature extractor of stride 16.

    Attributes:
        in_channels: Channels of the input image.
        out_channels: Channels of the feature map.
        stride: Input pixels per feature-map cell, 16 for all trunks.
        input_mean: Per-channel mean that the pretrained weights expect to be subtracted, for RGB scaled to [0, 1].
        input_std: Per-channel divisor that goes with it.
    """

    stride: ClassVar[int] = 16
    input_mean: ClassVar[tuple[float, float, float]]
    input_std: ClassVar[tuple[float, float, float]]

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) float images to (N, out_channels, H/16, W/16); H and W divisible by 16."""

    def deployed(self) -> nn.Module:
        """The network that is exported: the same function in evaluation mode; a private copy, simpler where it can."""
        return copy.deepcopy(self).eval()


def check_channels(in_channels: int) -> None:
    """Refuse an input without channels.

    Raises:
        ConfigError: ``in_channels`` is below 1.
    """
    if in_channels < 1:
        raise ConfigError(f"expected in_channels >= 1, got {in_channels}")


def refuse_pretrained(name: str, pretrained: bool) -> None:
    """Refuse ImageNet weights for a trunk that always starts from random ones.

    Args:
        name: Of the trunk, for the message.
        pretrained: Whether they are asked for.

    Raises:
        ConfigError: They are.
    """
    if pretrained:
        raise ConfigError(f"{name} has no ImageNet weights: leave method.pretrained out, and teach it by distillation")


def read_state(source: Path | str | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read a mapping from name to tensor, never executing anything that a file contains.

    Args:
        source: A mapping, a ``.safetensors`` file, or a file of ``torch.save``.

    Returns:
        The tensors by name, on the CPU when read from a file.

    Raises:
        CheckpointNotFoundError: There is no such file.
        CheckpointFormatError: The file holds anything but a flat mapping of tensors.
    """
    if isinstance(source, Mapping):
        return dict(source)
    path = Path(source)
    if not path.is_file():
        raise CheckpointNotFoundError(f"expected a file of weights at {path}, found none; check the path")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: object = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, _safetensor_error()) as error:
        raise CheckpointFormatError(
            f"{path} cannot be read as tensors only ({error}); save the state dict alone, without code or classes"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointFormatError(f"expected a flat state dict of tensors in {path}, got {type(state).__name__}")
    return state


def _safetensor_error() -> type[Exception]:
    from safetensors import SafetensorError

    error: type[Exception] = SafetensorError
    return error


def spread_over_channels(weight: Tensor, in_channels: int) -> Tensor:
    """Adapt the first convolution of an RGB network to another number of input channels.

    Every new input slot receives the mean over the three colour channels, not rescaled.

    Args:
        weight: (out, 3, k, k) weight of the pretrained first convolution.
        in_channels: Input channels wanted.

    Returns:
        The weight itself for three channels, else a new (out, in_channels, k, k) tensor.

    Source: cross-modal pre-training as in the MC-PixBiS and CMFL reference code (1 and N channels).
    """
    if weight.shape[1] == in_channels or weight.shape[1] != 3:
        return weight
    return weight.mean(dim=1, keepdim=True).repeat(1, in_channels, 1, 1)
