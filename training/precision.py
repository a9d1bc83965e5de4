"""Training in reduced precision: bfloat16 where it is safe, and fast where PyTorch is not.

Weights, optimiser and losses stay in float32; convolutions read bfloat16. On CPUs with AMX or AVX-512 BF16 this halves
the time of dense convolutions, but PyTorch has no fast gradient of a depthwise convolution in bfloat16: there it is
several times slower than in float32. :class:`FastDepthwise` takes that one gradient in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Precision = Literal["float32", "bfloat16"]


class _Depthwise(torch.autograd.Function):
    """Depthwise convolution: bfloat16 forward, gradient in float32."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
    ) -> Tensor:
        half = x.to(torch.bfloat16)
        ctx.save_for_backward(half, weight)
        ctx.bias_sizes = None if bias is None else [weight.shape[0]]
        ctx.options = (list(stride), list(padding), list(dilation), groups)
        return torch.conv2d(
            half,
            weight.to(torch.bfloat16),
            None if bias is None else bias.to(torch.bfloat16),
            stride,
            padding,
            dilation,
            groups,
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        half, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.options
        wanted = [bool(needed) for needed in ctx.needs_input_grad[:3]]
        # At least what autograd asks for: the operator computes nothing else.
        to_x, to_weight, to_bias = torch.ops.aten.convolution_backward(
            gradients[0].float(),
            half.float(),
            weight.float(),
            ctx.bias_sizes,
            stride,
            padding,
            dilation,
            False,
            [0, 0],
            groups,
            wanted,
        )
        return (to_x.to(half.dtype) if wanted[0] else None, to_weight, to_bias, None, None, None, None)


class FastDepthwise(TorchFunctionMode):
    """Routes depthwise ``conv2d`` calls under autocast on the CPU through a float32 gradient; leaves all others."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Called by PyTorch for each of its functions."""
        if func is torch.conv2d and not kwargs and _is_depthwise(args):
            x, weight, bias, stride, padding, dilation, groups = args
            with torch.autocast("cpu", enabled=False):
                return _Depthwise.apply(x, weight, bias, stride, padding, dilation, groups)  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


def _is_depthwise(args: Sequence[Any]) -> bool:
    if len(args) != len(("x", "weight", "bias", "stride", "padding", "dilation", "groups")):
        return False
    x, weight = cast(Tensor, args[0]), cast(Tensor, args[1])
    return int(args[6]) == weight.shape[0] > 1 and x.device.type == "cpu" and not isinstance(args[4], str)


@contextmanager
def reduced(precision: Precision, device: torch.device) -> Iterator[None]:
    """Context of the forward pass.

    Args:
        precision: ``float32`` does nothing.
        device: Where the network lives.
    """
    if precision == "float32":
        yield
        return
    with torch.autocast(device.type, dtype=torch.bfloat16):
        if device.type == "cpu":
            with FastDepthwise():
                yield
        else:
            yield
