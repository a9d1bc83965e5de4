"""bfloat16 on the CPU: near float32 forwards and backwards, for depthwise convolutions too, and off when not asked."""

import pytest
import torch
from torch import Tensor, nn

from training.precision import FastDepthwise, reduced

CPU = torch.device("cpu")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 8, 5, stride=2, padding=2, groups=8, bias=True),
        nn.ReLU6(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.Conv2d(8, 4, 1),
    )


def gradients(net: nn.Module, x: Tensor, precision: str) -> list[Tensor]:
    net.zero_grad()
    with reduced(precision, CPU):  # type: ignore[arg-type]
        out = net(x)
    out.float().square().mean().backward()
    return [p.grad.clone() for p in net.parameters() if p.grad is not None]


def test_gradients_in_bfloat16_point_where_those_in_float32_do() -> None:
    net, x = network(), torch.randn(4, 3, 16, 16)
    exact, rough = gradients(net, x, "float32"), gradients(net, x, "bfloat16")
    assert len(exact) == len(rough) == len(list(net.parameters()))
    for a, b in zip(exact, rough, strict=True):
        assert b.dtype == torch.float32
        assert torch.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.99
        assert not torch.equal(a, b)


def test_the_gradient_of_a_depthwise_convolution_is_the_one_of_float32() -> None:
    conv = nn.Conv2d(6, 6, 3, padding=1, groups=6)
    conv.weight.data.copy_(conv.weight.data.bfloat16().float())  # so that rounding to bfloat16 changes nothing
    x = torch.randn(2, 6, 9, 9).bfloat16().float().requires_grad_()
    pull = torch.randn(2, 6, 9, 9).bfloat16().float()
    found = []
    for precision in ("float32", "bfloat16"):
        conv.zero_grad()
        x.grad = None
        with reduced(precision, CPU):  # type: ignore[arg-type]
            out = conv(x)
        out.backward(pull.to(out.dtype))
        assert x.grad is not None
        assert conv.weight.grad is not None
        assert conv.bias is not None
        assert conv.bias.grad is not None
        found.append((x.grad.clone(), conv.weight.grad.clone(), conv.bias.grad.clone()))
    (x_exact, *exact), (x_found, *rough) = found
    for a, b in zip(exact, rough, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    # What flows on is bfloat16: 8 bits of mantissa.
    torch.testing.assert_close(x_exact, x_found, rtol=2**-8, atol=1e-3)


def test_float32_leaves_everything_as_it_is() -> None:
    net, x = network(), torch.randn(2, 3, 16, 16)
    with reduced("float32", CPU):
        inside = net(x)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, net(x))


@pytest.mark.parametrize("groups", [1, 2])
def test_other_convolutions_are_not_touched(groups: int) -> None:
    conv, x = nn.Conv2d(4, 4, 3, groups=groups), torch.randn(1, 4, 8, 8)
    with FastDepthwise():
        out = conv(x)
    assert out.dtype == torch.float32
    assert torch.equal(out, conv(x))


def test_a_frozen_depthwise_convolution_passes_the_gradient_on() -> None:
    conv = nn.Conv2d(4, 4, 3, groups=4).requires_grad_(False)
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    with reduced("bfloat16", CPU):
        conv(x).float().sum().backward()
    assert x.grad is not None
    assert conv.weight.grad is None
