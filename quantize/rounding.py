"""Rounding of activations, weights and biases to an INT8 grid, as layers of a network."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from quantize.errors import ConversionError

#: Largest weight code. 63 instead of 127: where the CPU has no VNNI, ``vpmaddubsw`` adds two u8 x s8 products in 16
#: bits and saturates; with 7-bit weights two products always fit (2 * 255 * 63 < 32768). This is what NNCF's
#: OverflowFix.ENABLE and onnxruntime's ``reduce_range`` do, here for all engines alike.
WEIGHT_CODE_MAX = 63
ACTIVATION_CODE_MAX = 255
_SMALLEST_SCALE = 1e-8
#: Largest bias, in steps of the accumulator. The sum of products of 1x1 convolutions of up to 520 channels
#: (255 * 63 * 520) is no larger, so that bias and sum together stay below 2 ** 24: exact in int32 and in float32 alike.
BIAS_CODE_MAX = 2**23
#: A bias is given half of that, and room for at least this value, when the step is chosen: correction and fine-tuning
#: move it.
_BIAS_HEADROOM = 2
_SMALLEST_BIAS_RANGE = 1.0


class ActivationGrid(nn.Module):
    """Rounds a tensor to ``scale * (code - zero_point)``, code in 0..255. Straight-through gradient.

    Attributes:
        scale: float32 scalar.
        zero_point: int32 scalar; zero itself is always on the grid, so that padding is exact.
        enabled: ``False`` passes the values through.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(1.0))
        self.register_buffer("zero_point", torch.tensor(0, dtype=torch.int32))
        self.enabled = True

    def set_range(self, low: float, high: float) -> None:
        """Choose the grid that spans ``[min(low, 0), max(high, 0)]`` with zero on it."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max((high - low) / ACTIVATION_CODE_MAX, _SMALLEST_SCALE)
        cast(Tensor, self.scale).fill_(scale)
        cast(Tensor, self.zero_point).fill_(round(-low / scale))

    @property
    def limits(self) -> tuple[float, float]:
        """Values of the codes 0 and 255."""
        scale, zero = float(cast(Tensor, self.scale)), int(cast(Tensor, self.zero_point))
        return -zero * scale, (ACTIVATION_CODE_MAX - zero) * scale

    def forward(self, x: Tensor) -> Tensor:
        """Round to the grid; same shape."""
        if not self.enabled:
            return x
        return torch.fake_quantize_per_tensor_affine(
            x, float(cast(Tensor, self.scale)), int(cast(Tensor, self.zero_point)), 0, ACTIVATION_CODE_MAX
        )


class GridConv(nn.Module):
    """A convolution whose weights and bias are rounded per output channel. Straight-through gradient.

    The bias is rounded to the step of the accumulator, ``scale * scale of the input``: integer kernels store it so,
    and an engine that kept it in float would compute another network.

    Attributes:
        conv: The convolution with float weights and a bias.
        scale: float32 (out,).
        code_max: Codes lie in ``-code_max..code_max``.
        enabled: ``False`` uses the float weights and bias.
    """

    def __init__(self, conv: nn.Conv2d, code_max: int) -> None:
        super().__init__()
        self.conv = conv
        self.code_max = code_max
        self.enabled = True
        # In a list, so that it is no submodule: the grid belongs to the trunk, and is stored once.
        self._source: list[ActivationGrid] = []
        peak = conv.weight.detach().abs().amax(dim=(1, 2, 3))
        self.register_buffer("scale", (peak / code_max).clamp(min=_SMALLEST_SCALE))

    def rounded_weight(self) -> Tensor:
        """The weights as the engines see them, float32, shape of ``conv.weight``."""
        scale = cast(Tensor, self.scale)
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(self.conv.weight, scale, zero, 0, -self.code_max, self.code_max)

    def reads(self, source: ActivationGrid) -> None:
        """Say on which grid the input lies; until then the bias is not rounded."""
        self._source = [source]

    def bias_step(self) -> Tensor:
        """Step of the accumulator, float32 (out,).

        Raises:
            ConversionError: The input is on no grid.
        """
        if not self._source:
            raise ConversionError("a rounded convolution reads values that are on no INT8 grid; use insert_grid")
        return cast(Tensor, self.scale) * cast(Tensor, self._source[0].scale)

    def plain(self) -> nn.Conv2d:
        """An ordinary convolution that holds the rounded weights and bias."""
        plain = copy.deepcopy(self.conv)
        plain.weight = nn.Parameter(self.rounded_weight().detach().clone(), requires_grad=False)
        bias = self.rounded_bias()
        if bias is not None:
            plain.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
        return plain

    def fit_bias(self) -> None:
        """Widen the steps of weights next to which the bias would have no code. Call it once the input has its grid.

        A channel that training switched off has weights near zero but a bias; with steps as fine as those weights the
        bias overflows 32 bits, and each engine makes something else of it. The weights of such a channel are lost,
        and they weigh less than the rounding of the bias.

        Raises:
            ConversionError: The input is on no grid.
        """
        scale, peak = cast(Tensor, self.scale), torch.full_like(cast(Tensor, self.scale), _SMALLEST_BIAS_RANGE)
        if self.conv.bias is not None:
            peak = torch.maximum(peak, self.conv.bias.detach().abs())
        input_scale = self.bias_step() / scale
        scale.copy_(torch.maximum(scale, peak * (_BIAS_HEADROOM / BIAS_CODE_MAX) / input_scale))

    def bias_codes(self) -> Tensor:
        """The bias in steps of the accumulator, int32 (out,), at most 2 ** 23; zero where the convolution has none.

        Raises:
            ConversionError: The input is on no grid.
        """
        step = self.bias_step().double()
        bias = torch.zeros_like(step) if self.conv.bias is None else self.conv.bias.detach().double()
        return torch.round(bias / step).clamp(-BIAS_CODE_MAX, BIAS_CODE_MAX).to(torch.int32)

    def rounded_bias(self) -> Tensor | None:
        """The bias as the engines see it, float32 (out,)."""
        bias = self.conv.bias
        if bias is None or not self._source:
            return bias
        rounded = (self.bias_codes().double() * self.bias_step().double()).to(bias.dtype)
        return bias + (rounded - bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        conv = self.conv
        return nn.functional.conv2d(
            x,
            self.rounded_weight() if self.enabled else conv.weight,
            self.rounded_bias() if self.enabled else conv.bias,
            cast("tuple[int, int]", conv.stride),
            cast("tuple[int, int]", conv.padding),
            cast("tuple[int, int]", conv.dilation),
            conv.groups,
        )
