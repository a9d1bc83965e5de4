"""What a configuration says to any method: options by the names of its settings, and what its trunk starts from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
from torch import Tensor

from training.backbones import torchvision_weights
from training.config import MethodConfig
from training.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_LOG = logging.getLogger("training")
_SettingsT = TypeVar("_SettingsT", bound="DataclassInstance")

#: Fields of methods' settings that follow from the rest of the configuration, and from what.
_SET_ELSEWHERE: Mapping[str, str] = {
    "map_side": "input.size_px",
    "input_side": "input.size_px",
    "width": "method.width",
}


def with_options(settings: _SettingsT, config: MethodConfig) -> _SettingsT:
    """Settings of a method, changed as ``method.options`` says.

    Args:
        settings: A frozen dataclass, such as those of the profiles.
        config: Where the options are.

    Returns:
        Settings of the same class, checked by it.

    Raises:
        ConfigError: There is no field of that name, it follows from another setting, or the value is of another type.
    """
    known = {field.name for field in fields(settings)}
    for name in config.options:
        if name in _SET_ELSEWHERE:
            raise ConfigError(f"method.options.{name} is set by {_SET_ELSEWHERE[name]}; leave it out")
        if name not in known:
            names = ", ".join(sorted(known - set(_SET_ELSEWHERE)))
            raise ConfigError(f"method.options.{name} is unknown to {config.name}; it has {names}")
    kind = type(settings)
    whole = {name: getattr(settings, name) for name in known} | dict(config.options)
    try:
        # Types are checked by the annotations of the class; a whole number may stand for a float.
        return msgspec.convert(whole, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"method.options: {error}") from error


def imagenet_weights(m: MethodConfig) -> Path | Mapping[str, Tensor] | None:
    """ImageNet weights of densenet161: a file, torchvision's, or loudly none.

    Raises:
        ConfigError: Both are asked for, or some for a trunk of another width.
        WeightsUnavailableError: torchvision's cannot be had.
    """
    if m.pretrained and m.weights:
        raise ConfigError(
            f"method.pretrained = true fetches ImageNet weights and method.weights = {m.weights!r} names a file of "
            "them: keep one of the two"
        )
    if (m.pretrained or m.weights) and m.width != 1:
        raise ConfigError(f"ImageNet weights of densenet161 are those of method.width = 1, got {m.width}")
    if m.pretrained:
        return torchvision_weights()
    if not m.weights:
        _LOG.warning("no ImageNet weights for densenet161: training from scratch, not as the paper does")
    return Path(m.weights) if m.weights else None
