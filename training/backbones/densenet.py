"""The first eight layers of DenseNet-161, named as in torchvision so that its checkpoints load."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from training.backbones.base import MAY_BE_MISSING, Trunk, read_state, spread_over_channels
from training.checkpoint import load_exactly
from training.errors import ConfigError, WeightsUnavailableError

_GROWTH = 48
_INITIAL = 96
_BOTTLENECK = 4
_BLOCKS = (6, 12)

#: Where torchvision has its ImageNet weights of DenseNet-161; 110 MB.
TORCHVISION_URL = "https://download.pytorch.org/models/densenet161-8d451a50.pth"

# What the whole network has behind the trunk; such tensors in a checkpoint are expected and left out.
_BEHIND_TRUNK = re.compile(r"features\.(denseblock[34]|transition3|norm5)\.|classifier\.")
# Checkpoints from before torchvision 0.3 write "norm.1" where "norm1" is meant.
_OLD_STYLE = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d+)\.")


class _DenseLayer(nn.Module):
    """BN-ReLU-1×1-BN-ReLU-3×3; its output is appended to its input."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        hidden = _BOTTLENECK * growth
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(in_channels, hidden, kernel_size=1, bias=False)
        self.norm2 = nn.BatchNorm2d(hidden)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(hidden, growth, kernel_size=3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv1(self.relu1(self.norm1(x)))
        new = self.conv2(self.relu2(self.norm2(new)))
        return torch.cat([x, new], dim=1)


def _dense_block(layers: int, in_channels: int, growth: int) -> nn.Sequential:
    names = ((f"denselayer{i + 1}", _DenseLayer(in_channels + i * growth, growth)) for i in range(layers))
    return nn.Sequential(OrderedDict(names))


def _transition(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(in_channels),
            relu=nn.ReLU(inplace=True),
            conv=nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False),
            pool=nn.AvgPool2d(kernel_size=2, stride=2),
        )
    )


class DenseNetTrunk(Trunk):
    """DenseNet-161 from ``conv0`` up to and including ``transition2``.

    At width 1: 3,198,144 parameters, 4.58 GMAC and a (384, 14, 14) feature map for a (3, 224, 224) image.

    Args:
        in_channels: Channels of the input image.
        width: Factor on the growth rate (48) and the first convolution (96). Narrow trunks are for tests and
            students; only width 1 has published weights.

    Raises:
        ConfigError: ``in_channels`` is below 1, or the width leaves fewer than two initial channels or no growth.

    Source: Huang et al., "Densely Connected Convolutional Networks", CVPR 2017, table 1 (DenseNet-161, k = 48); cut
    after eight children as in George & Marcel, "Deep Pixel-wise Binary Supervision", ICB 2019.
    """

    input_mean: ClassVar[tuple[float, float, float]] = (0.485, 0.456, 0.406)
    input_std: ClassVar[tuple[float, float, float]] = (0.229, 0.224, 0.225)

    def __init__(self, in_channels: int = 3, width: float = 1.0) -> None:
        growth, initial = round(_GROWTH * width), round(_INITIAL * width)
        if in_channels < 1 or growth < 1 or initial < 2:
            raise ConfigError(
                f"expected in_channels >= 1 and a width that leaves at least 1 growth channel and 2 initial channels, "
                f"got in_channels={in_channels}, width={width}; try width=0.125"
            )
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv0=nn.Conv2d(in_channels, initial, kernel_size=7, stride=2, padding=3, bias=False),
            norm0=nn.BatchNorm2d(initial),
            relu0=nn.ReLU(inplace=True),
            pool0=nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        channels = initial
        for index, depth in enumerate(_BLOCKS, start=1):
            layers[f"denseblock{index}"] = _dense_block(depth, channels, growth)
            channels += depth * growth
            layers[f"transition{index}"] = _transition(channels, channels // 2)
            channels //= 2
        super().__init__(in_channels, channels)
        self.features = nn.Sequential(layers)
        self._initialise()

    def _initialise(self) -> None:
        """He-normal convolutions (Huang et al., section 4.2); BatchNorm starts as the identity by default."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) images to (N, out_channels, H/16, W/16) features.

        Args:
            x: Float images, RGB in [0, 1] normalised with ``input_mean`` and ``input_std`` for pretrained weights.
        """
        features: Tensor = self.features(x)
        return features


def densenet161_trunk(in_channels: int = 3, width: float = 1.0) -> DenseNetTrunk:
    """Build a DenseNet-161 trunk with random weights; see :class:`DenseNetTrunk` for the arguments."""
    return DenseNetTrunk(in_channels, width)


def torchvision_weights() -> Mapping[str, Tensor]:
    """Fetch torchvision's ImageNet weights of DenseNet-161: from torch's cache, or from the network into it.

    Which file, and its checksum, are torchvision's business (``DenseNet161_Weights``); the cache is torch.hub's
    (``$TORCH_HOME``).

    Returns:
        The state dict of the whole network, for :func:`load_torchvision_weights`.

    Raises:
        WeightsUnavailableError: torchvision is not installed or does not fit PyTorch, or nothing can be fetched.
    """
    by_hand = (
        f"Fetch {TORCHVISION_URL} where there is a network, and name the file: method.weights in the configuration, or "
        "fit --weights FILE"
    )
    try:
        named = import_module("torchvision.models").DenseNet161_Weights.IMAGENET1K_V1
    # A torchvision that was built for another PyTorch ends in a RuntimeError.
    except (ImportError, RuntimeError, AttributeError) as error:
        raise WeightsUnavailableError(
            f"method.pretrained = true takes the weights of densenet161 through torchvision, which cannot be imported "
            f"({error}); install the one that belongs to PyTorch {torch.__version__}. {by_hand}"
        ) from error
    try:
        state: Mapping[str, Tensor] = named.get_state_dict(progress=False, check_hash=True)
    # urllib's errors are OSErrors; a wrong checksum is a RuntimeError.
    except (OSError, RuntimeError) as error:
        raise WeightsUnavailableError(
            f"the weights of densenet161 are not in torch's cache and cannot be fetched ({error}). {by_hand}"
        ) from error
    return state


def load_torchvision_weights(trunk: DenseNetTrunk, source: Path | str | Mapping[str, Tensor]) -> None:
    """Load torchvision's DenseNet-161 weights, or those of a trunk alone, into a trunk of width 1.

    Both spellings of torchvision's history load (``norm1`` and ``norm.1``). Layers behind the trunk are left out; any
    other unexpected or missing tensor is an error. For a trunk with other than three input channels, each input slot
    of ``conv0`` receives the mean over the colour channels.

    Args:
        trunk: Receives the weights in place; unchanged on error.
        source: State dict, ``.safetensors`` file, or file of ``torch.save`` holding tensors only.

    Raises:
        CheckpointNotFoundError: There is no such file.
        CheckpointFormatError: The file holds anything but a flat mapping of tensors.
        StateMismatchError: A name is missing or unknown, or a shape differs.
    """
    state = {}
    for name, tensor in read_state(source).items():
        if not _BEHIND_TRUNK.match(name):
            state[_OLD_STYLE.sub(r"\1\2.", name)] = tensor
    first = "features.conv0.weight"
    if first in state:
        state[first] = spread_over_channels(state[first], trunk.in_channels)
    what = "the DenseNet-161 weights" if isinstance(source, Mapping) else str(source)
    load_exactly(trunk, state, what=what, optional_suffixes=MAY_BE_MISSING)
