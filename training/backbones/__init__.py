"""Feature trunks of stride 16, by name.

Every trunk is a :class:`~training.backbones.base.Trunk`: it maps (N, C, H, W) images to (N, out_channels, H/16, W/16)
features. ``TRUNKS`` is a plain dict: look a constructor up, call it with its own keyword arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from training.backbones.base import Trunk
from training.backbones.densenet import (
    DenseNetTrunk,
    densenet161_trunk,
    load_torchvision_weights,
    torchvision_weights,
)
from training.backbones.efficientnet import (
    EfficientNetLite0Trunk,
    efficientnet_lite0_trunk,
    load_efficientnet_lite0_weights,
)
from training.backbones.feathernet import NAME as FEATHERNET_B
from training.backbones.feathernet import FeatherNetTrunk, feathernet_b_trunk
from training.backbones.mobilenet_v4 import NAME as MOBILENETV4_CONV_S
from training.backbones.mobilenet_v4 import MobileNetV4ConvSmallTrunk, mobilenetv4_conv_s_trunk
from training.backbones.plain import SIZES as PLAIN_SIZES
from training.backbones.plain import PlainTrunk, plain_trunk

TRUNKS: dict[str, Callable[..., Trunk]] = {
    "densenet161": densenet161_trunk,
    "efficientnet_lite0": efficientnet_lite0_trunk,
    FEATHERNET_B: feathernet_b_trunk,
    MOBILENETV4_CONV_S: mobilenetv4_conv_s_trunk,
    **{size: partial(plain_trunk, size) for size in PLAIN_SIZES},
}

#: Trunks that always start from random weights.
UNTRAINED = frozenset({FEATHERNET_B, MOBILENETV4_CONV_S, *PLAIN_SIZES})

__all__ = [
    "FEATHERNET_B",
    "MOBILENETV4_CONV_S",
    "PLAIN_SIZES",
    "TRUNKS",
    "UNTRAINED",
    "DenseNetTrunk",
    "EfficientNetLite0Trunk",
    "FeatherNetTrunk",
    "MobileNetV4ConvSmallTrunk",
    "PlainTrunk",
    "Trunk",
    "densenet161_trunk",
    "efficientnet_lite0_trunk",
    "feathernet_b_trunk",
    "load_efficientnet_lite0_weights",
    "load_torchvision_weights",
    "mobilenetv4_conv_s_trunk",
    "plain_trunk",
    "torchvision_weights",
]
