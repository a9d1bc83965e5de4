"""What a checkpoint says of the network in it: the configuration that it was trained by."""

from __future__ import annotations

import msgspec

from training.checkpoint import Checkpoint
from training.config import TrainConfig, check_config
from training.errors import CheckpointError


def config_of(checkpoint: Checkpoint) -> TrainConfig:
    """The configuration that a checkpoint carries.

    Args:
        checkpoint: As :func:`training.checkpoint.load_checkpoint` returned it.

    Raises:
        CheckpointError: It carries none, or one that is not understood.
        ConfigError: It carries one with an impossible value.
    """
    try:
        config = msgspec.convert(checkpoint.metadata["config"], TrainConfig)
    except (KeyError, msgspec.ValidationError) as error:
        raise CheckpointError(
            f"{checkpoint.name} is not a checkpoint of a training run: it carries no configuration that is understood "
            f"({error})"
        ) from error
    check_config(config)
    return config


def without_start(config: TrainConfig) -> TrainConfig:
    """The configuration of a network whose weights come from a checkpoint: nothing is to be loaded from elsewhere."""
    changed: TrainConfig = msgspec.structs.replace(
        config, method=msgspec.structs.replace(config.method, weights=None, pretrained=False)
    )
    return changed
