"""Baselines with depth: counts, shapes, what they are settings of, learning, missing depth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training.backbones import DenseNetTrunk, densenet161_trunk
from training.errors import BatchError, ConfigError
from training.methods.base import Method
from training.methods.baselines import PixelLogits
from training.methods.cmfl import StreamLogits
from training.methods.rgbd_baselines import (
    RGBD_METHODS,
    FusedPixelLogits,
    MultiLevelFusion,
    deeppixbis_depth,
    late_fusion,
    mc_pixbis,
    multi_level_fusion,
    rgbd_mh_bce,
    score_fusion,
)

WIDTH, SIDE = 0.0625, 32
# conv-norm pairs of the fusion: 1×1 from both streams, 3×3 from level to level; BatchNorm has two values per channel
_MIX = sum(2 * c * c + 2 * c for c in (96, 192, 384))
_CARRY = 9 * (96 * 192 + 192 * 384) + 2 * (192 + 384)
COUNTS = {
    "rgbd-mh-bce": 6_388_419,
    "late-fusion": 6_388_419,
    "mc-pixbis": 3_203_430,
    "deeppixbis-depth": 3_188_736 + 385 + 197,
    "score-fusion": 3_198_726 + 3_188_736 + 385 + 197,
    "multi-level-fusion": 3_198_144 + 3_188_736 + _MIX + _CARRY + 385,
}


def small(name: str) -> Method[Any, Any]:
    torch.manual_seed(0)
    sized = {"side_px": SIDE} if "pixbis" in name or name == "score-fusion" else {}
    return RGBD_METHODS[name](width=WIDTH, **sized)


def channels(name: str) -> int:
    return 1 if name == "deeppixbis-depth" else 4


def tensors(outputs: Any) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else [t for part in outputs for t in tensors(part)]


@pytest.mark.parametrize("name", RGBD_METHODS)
def test_full_networks_have_the_expected_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        model = RGBD_METHODS[name]()
    assert sum(parameter.numel() for parameter in model.parameters()) == COUNTS[name]


@pytest.mark.parametrize("name", RGBD_METHODS)
def test_a_few_steps_separate_two_kinds_of_images(name: str) -> None:
    model = small(name)
    labels = torch.tensor([1.0, 0.0] * 4)
    # Both colour and depth show the class, so that networks on either can learn it.
    x = torch.rand(8, channels(name), SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    x = x * 0.5 + 0.5 * labels.reshape(-1, 1, 1, 1)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    totals = []
    for _ in range(12):
        optimiser.zero_grad()
        total = model.loss(model(x), labels).total
        total.backward()
        optimiser.step()
        totals.append(total.item())
    assert totals[-1] < 0.5 * totals[0]
    with torch.no_grad():
        scores = model.scores(model(x))
    assert model.primary_score in scores
    for score, value in scores.items():
        assert value.shape == (8,), score
        assert ((value >= 0) & (value <= 1)).all(), score
        assert value[labels == 1].min() > value[labels == 0].max(), score


@pytest.mark.parametrize("name", RGBD_METHODS)
def test_outputs_and_losses_stay_in_float32_under_autocast(name: str) -> None:
    model = small(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(torch.rand(2, channels(name), SIDE, SIDE))
        losses = model.loss(outputs, torch.tensor([1, 0]))
    assert {part.dtype for part in tensors([outputs, losses])} == {torch.float32}


@pytest.mark.parametrize("name", RGBD_METHODS)
def test_images_with_another_number_of_channels_or_side_are_refused(name: str) -> None:
    model = small(name)
    for shape in ((2, 3, SIDE, SIDE), (2, channels(name), SIDE, SIDE + 8)):
        with pytest.raises(BatchError):
            model(torch.rand(shape))


def test_pixelwise_baselines_map_224_pixels_to_14_cells() -> None:
    for make, count in ((mc_pixbis, 4), (deeppixbis_depth, 1)):
        with torch.device("meta"):
            logits = make()(torch.empty(2, count, 224, 224))
        assert [tuple(part.shape) for part in logits] == [(2, 14, 14), (2,)]


def test_pretrained_weights_reach_every_trunk_and_other_channels_get_the_mean_over_colour() -> None:
    torch.manual_seed(3)
    weights = densenet161_trunk().state_dict()
    conv0 = weights["features.conv0.weight"]
    mean = conv0.double().mean(1).float()
    for make in RGBD_METHODS.values():
        trunks = [module for module in make(weights=weights).modules() if isinstance(module, DenseNetTrunk)]
        assert trunks
        for trunk in trunks:
            first = trunk.get_parameter("features.conv0.weight")
            if trunk.in_channels == 3:
                assert torch.equal(first, conv0)
            else:
                for slot in first.unbind(1):
                    torch.testing.assert_close(slot, mean)
            assert torch.equal(
                trunk.state_dict()["features.transition2.conv.weight"], weights["features.transition2.conv.weight"]
            )


def test_rgbd_mh_bce_and_late_fusion_are_settings_of_cmfl() -> None:
    assert rgbd_mh_bce(width=WIDTH).config.gamma == 0.0
    late = late_fusion(width=WIDTH)
    outputs = StreamLogits(torch.tensor([3.0, -2.0]), torch.tensor([1.0, 1.0]), torch.tensor([0.5, -0.5]))
    losses = late.loss(outputs, torch.tensor([1, 0]))
    assert losses.total.item() == losses.joint.item()
    assert set(late.scores(outputs)) == {"joint"}


def test_score_fusion_averages_and_its_networks_learn_apart() -> None:
    model = small("score-fusion")
    cells = torch.zeros(1, 2, 2)
    outputs = FusedPixelLogits(
        PixelLogits(cells + torch.logit(torch.tensor(0.9)), torch.zeros(1)),
        PixelLogits(cells + torch.logit(torch.tensor(0.2)), torch.zeros(1)),
    )
    scores = {name: value.item() for name, value in model.scores(outputs).items()}
    assert scores == pytest.approx({"rgb": 0.9, "depth": 0.2, "mean": 0.55}, rel=1e-6)
    fused = score_fusion(side_px=SIDE, width=WIDTH)
    x, labels = torch.rand(4, 4, SIDE, SIDE), torch.tensor([1, 0, 1, 0])
    fused.loss(fused(x), labels).total.backward()
    together = [p.grad.clone() for p in fused.depth.parameters() if p.grad is not None]
    fused.zero_grad()
    fused.depth.loss(fused.depth(x[:, 3:]), labels).total.backward()
    alone = [p.grad for p in fused.depth.parameters() if p.grad is not None]
    assert len(alone) == len(together) == len(list(fused.depth.parameters()))
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other)


def test_score_fusion_without_depth_answers_from_colour_and_says_so() -> None:
    model = score_fusion(side_px=SIDE, width=WIDTH).eval()
    x = torch.rand(2, 4, SIDE, SIDE)
    with torch.no_grad():
        alone = model.logits(x[:, :3], None)
        assert set(model.scores(alone)) == {"rgb"}
        assert torch.equal(model.scores(alone)["rgb"], model.scores(model(x))["rgb"])
    with pytest.raises(BatchError, match="without depth"):
        model.loss(alone, torch.ones(2))


def test_every_level_of_both_streams_reaches_the_output_of_multi_level_fusion() -> None:
    torch.manual_seed(0)
    model = multi_level_fusion(width=WIDTH).eval()
    x = torch.rand(1, 4, SIDE, SIDE)
    with torch.no_grad():
        before = model(x).image
        for level, mix in enumerate(model.mix):
            weight = mix.get_parameter("0.weight")
            half = weight.shape[1] // 2
            for stream in (slice(None, half), slice(half, None)):
                kept = weight[:, stream].clone()
                weight[:, stream] = 0
                assert not torch.equal(model(x).image, before), (level, stream)
                weight[:, stream] = kept
    assert torch.equal(model(x).image, before)


def test_multi_level_fusion_leaves_the_trunks_as_they_are() -> None:
    torch.manual_seed(0)
    model = multi_level_fusion(width=WIDTH).eval()
    x = torch.rand(1, 4, SIDE, SIDE)
    seen: list[Tensor] = []
    handle = model.mix[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    with torch.no_grad():
        model(x)
        handle.remove()
        expected = torch.cat([model.rgb_trunk(x[:, :3]), model.depth_trunk(x[:, 3:])], 1)
    torch.testing.assert_close(seen[0], expected)


def test_networks_in_the_wrong_order_widths_and_sides_are_refused() -> None:
    with pytest.raises(ConfigError, match="got 1 and 3"):
        MultiLevelFusion(densenet161_trunk(1, WIDTH), densenet161_trunk(3, WIDTH))
    with pytest.raises(ConfigError, match="one width"):
        MultiLevelFusion(densenet161_trunk(3, WIDTH), densenet161_trunk(1, 2 * WIDTH))
    with pytest.raises(ConfigError, match="got 4 and 1"):
        type(small("score-fusion"))(
            mc_pixbis(side_px=SIDE, width=WIDTH),
            deeppixbis_depth(side_px=SIDE, width=WIDTH),  # type: ignore[call-arg]
        )
    with pytest.raises(ConfigError, match="multiple of 16"):
        mc_pixbis(side_px=100)


def test_multi_level_fusion_exports_without_labels_and_computes_the_same() -> None:
    model = small("multi-level-fusion").eval()
    x = torch.rand(1, 4, SIDE, SIDE)
    program = torch.export.export(model, (x,)).module()
    assert isinstance(program, nn.Module)
    with torch.no_grad():
        torch.testing.assert_close(program(x).image, model(x).image)
