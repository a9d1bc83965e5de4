"""MiniFASNetV2 with random weights: the yardstick for how long a network of the field's most used kind takes.

Only its shape is rebuilt here, from the published numbers of channels; its weights are not.

Source: minivision-ai, Silent-Face-Anti-Spoofing, ``MiniFASNetV2`` (80×80 pixels, "0.43 M" parameters, "0.044"
GFLOPs counting a multiplication with its addition as one).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Side of its input.
SIZE_PX = 80
_STEM, _FEATURES, _EMBEDDING, _CLASSES = 32, 512, 128, 3
#: Hidden channels of the blocks of each stage, and the channels that they write; the first of each has stride 2.
_STAGES: tuple[tuple[tuple[int, ...], int], ...] = (
    ((103, 13, 13, 13, 13), 64),
    ((231, 231, 52, 26, 77, 26, 26), 128),
    ((308, 26, 26), 128),
)
#: Side of the last feature map.
_LAST_PX = 5


def _conv(
    channels: int, out: int, kernel: int = 1, *, stride: int = 1, groups: int = 1, active: bool = True
) -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(channels, out, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out),
    ]
    return nn.Sequential(*layers, *([nn.PReLU(out)] if active else []))


class _Block(nn.Module):
    """Expand, depthwise 3×3, project; with a shortcut but for the first of a stage."""

    def __init__(self, channels: int, hidden: int, out: int, *, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _conv(channels, hidden),
            _conv(hidden, hidden, 3, stride=stride, groups=hidden),
            _conv(hidden, out, active=False),
        )
        self.has_shortcut = stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.has_shortcut else y


class MiniFASNetV2(nn.Module):
    """The graph as it is deployed: uint8 picture to the probability of a living person, and all three of them."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, _STEM, 3, stride=2), _conv(_STEM, _STEM, 3, groups=_STEM)]
        channels = _STEM
        for hidden, out in _STAGES:
            for number, width in enumerate(hidden):
                layers.append(_Block(channels, width, out, stride=1 if number else 2))
                channels = out
        layers += [_conv(channels, _FEATURES), nn.Conv2d(_FEATURES, _FEATURES, _LAST_PX, groups=_FEATURES, bias=False)]
        layers += [nn.BatchNorm2d(_FEATURES), nn.Flatten(), nn.Linear(_FEATURES, _EMBEDDING, bias=False)]
        layers += [nn.BatchNorm1d(_EMBEDDING), nn.Linear(_EMBEDDING, _CLASSES, bias=False)]
        self.layers = nn.Sequential(*layers)

    def forward(self, rgb: Tensor) -> tuple[Tensor, Tensor]:
        """Score and class probabilities.

        Args:
            rgb: uint8 (N, 80, 80, 3).

        Returns:
            float32 (N,) and (N, 3).
        """
        probabilities = torch.softmax(self.layers(rgb.permute(0, 3, 1, 2).float()), dim=1)
        return probabilities[:, 1], probabilities
