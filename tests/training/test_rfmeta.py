"""RFMeta's networks and losses: counts, shapes, profiles, scores."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from tests.training.fixtures.domain_batches import domain, tiny
from training.errors import BatchError, ConfigError
from training.methods.rfmeta import RFMeta, RFMetaConfig, RFMetaOutputs, class_loss, depth_loss


def parameters(module: nn.Module | None) -> int:
    assert module is not None
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_three_networks_have_the_published_numbers_of_parameters() -> None:
    with torch.device("meta"):
        model = RFMeta()
    counts = parameters(model.extractor), parameters(model.learner), parameters(model.estimator)
    assert counts == (1_731_108, 1_625_217, 517_251)
    with torch.device("meta"):
        classifier = RFMeta(RFMetaConfig(depth_head=False, depth_weight=0.0))
    assert parameters(classifier) == 3_356_325


def test_the_full_network_maps_256_pixels_to_a_logit_and_32_cells() -> None:
    with torch.device("meta"):
        model = RFMeta()
        x = torch.empty(2, 6, 256, 256)
        outputs, features = model(x), model.features(x)
    assert outputs.logit.shape == (2,)
    assert outputs.depth is not None
    assert outputs.depth.shape == (2, 32, 32)
    assert features.deep.shape == (2, 128, 32, 32)
    assert features.pyramid.shape == (2, 384, 32, 32)


def test_the_cpu_profile_is_an_eighth_as_wide_and_reads_64_pixels() -> None:
    config = RFMetaConfig().for_cpu()
    assert (config.width, config.input_side, config.map_side) == (0.125, 64, 8)
    outputs = RFMeta(config)(torch.rand(2, 6, 64, 64))
    assert outputs.depth is not None
    assert outputs.depth.shape == (2, 8, 8)
    # Convolutions and norms counted by hand at 8, 16 and 24 channels, 16, 32 and 64 in M, 16, 8, 1 in D.
    f = [(6, 8), *[pair for before in (8, 16, 16) for pair in ((before, 16), (16, 24), (24, 16))]]
    m, d = [(16, 16), (16, 32), (32, 64)], [(48, 16), (16, 8), (8, 1)]
    expected = sum(9 * a * b + 3 * b for a, b in [*f, *m, *d]) + 64 + 1
    assert parameters(RFMeta(config)) == expected


def test_the_pyramid_is_every_level_averaged_to_the_size_of_the_last() -> None:
    model = tiny(side=64).eval()
    x = domain(0, side=64).images
    with torch.no_grad():
        level, levels = model.extractor.stem(x), []
        for block in model.extractor.blocks:
            level = block(level)
            levels.append(nn.functional.adaptive_avg_pool2d(level, 8) if len(levels) < 2 else level)
        features = model.features(x)
        torch.testing.assert_close(features.pyramid, torch.cat(levels, 1))
        torch.testing.assert_close(features.deep, level)


def test_every_convolution_is_followed_by_norm_and_relu_the_last_of_the_depth_estimator_too() -> None:
    model = tiny()
    for part in (model.extractor, model.learner, model.estimator):
        assert part is not None
        kinds = [type(layer) for layer in part.modules() if not list(layer.children())]
        for place, kind in enumerate(kinds):
            if kind is nn.Conv2d:
                assert kinds[place + 1 : place + 3] == [nn.BatchNorm2d, nn.ReLU]
    depth = model(domain(0).images).depth
    assert depth is not None
    assert depth.min() == 0.0


def test_classification_alone_gives_the_logits_of_the_whole_network() -> None:
    model = tiny().eval()
    x = domain(0).images
    with torch.no_grad():
        torch.testing.assert_close(model.classify(x), model(x).logit, rtol=0, atol=0)


def test_first_values_are_xavier_normal_and_norm_scales_those_of_the_profile() -> None:
    torch.manual_seed(4)
    model = RFMeta(RFMetaConfig(input_side=32))
    conv = model.learner.convolutions[4][0]
    assert isinstance(conv, nn.Conv2d)
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * (256 + 512))), rel=0.01)
    assert model.learner.classifier.bias.item() == 0.0
    for init, low, high in (("normal", 0.9, 1.1), ("uniform", 0.02, 1.0)):
        model = RFMeta(RFMetaConfig(input_side=32, norm_init=init))  # type: ignore[arg-type]
        norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
        scales = torch.cat([layer.weight for layer in norms])
        assert low <= scales.min() < scales.max() <= high
        assert scales.std().item() == pytest.approx({"normal": 0.02, "uniform": 0.98 / math.sqrt(12)}[init], rel=0.1)
        assert all(not layer.bias.any() for layer in norms)


def test_profiles_are_those_of_the_text_the_released_code_and_ours() -> None:
    table = {
        # depth weight, reduction, momentum of M, first scales, running statistics measured anew
        "default": (10.0, "mean", 0.1, "normal", True),
        "paper": (1.0, "sum", 0.1, "normal", False),
        "official": (10.0, "mean", 1.0, "uniform", False),
    }
    for name, expected in table.items():
        c = RFMetaConfig.from_profile(name)  # type: ignore[arg-type]
        seen = c.depth_weight, c.depth_reduction, c.learner_norm_momentum, c.norm_init, c.reestimate_norm
        assert seen == expected, name
        assert (c.input_side, c.width, c.depth_head) == (256, 1.0, True)


def test_only_the_norms_of_the_meta_learner_have_its_momentum() -> None:
    model = tiny(learner_norm_momentum=1.0)

    def momenta(part: nn.Module | None) -> set[float | None]:
        assert part is not None
        return {layer.momentum for layer in part.modules() if isinstance(layer, nn.BatchNorm2d)}

    assert momenta(model.learner) == {1.0}
    assert momenta(model.extractor) == momenta(model.estimator) == {0.1}


def test_loss_is_cross_entropy_with_its_minus_sign_plus_ten_times_the_squared_error() -> None:
    outputs = RFMetaOutputs(torch.tensor([math.log(3.0), 0.0]), torch.tensor([[[0.5, 0.0]], [[0.1, 0.3]]]))
    depth = torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]])
    losses = tiny().loss(outputs, torch.tensor([1, 0]), depth)
    binary = (-math.log(3 / 4) - math.log(1 / 2)) / 2  # σ(log 3) = 3/4
    assert losses.binary.item() == pytest.approx(binary, rel=1e-6)
    assert losses.depth.item() == pytest.approx((0.25 + 0.01 + 0.09) / 4, rel=1e-6)
    assert losses.total.item() == pytest.approx(binary + 10 * 0.0875, rel=1e-6)


def test_the_papers_depth_loss_is_a_sum_over_the_cells() -> None:
    maps, targets = torch.tensor([[[0.5, 0.0]], [[0.1, 0.3]]]), torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]])
    assert depth_loss(maps, targets, "sum").item() == pytest.approx((0.25 + 0.10) / 2, rel=1e-6)


def test_losses_are_float32_in_half_precision_and_stay_finite_for_large_logits() -> None:
    loss = class_loss(torch.tensor([200.0, -200.0], dtype=torch.bfloat16), torch.tensor([0, 1]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(200.0)
    assert depth_loss(torch.ones(1, 2, 2, dtype=torch.bfloat16), torch.zeros(1, 2, 2)).dtype == torch.float32


def test_under_autocast_the_meta_learner_runs_in_float32() -> None:
    model = tiny()
    seen: dict[str, torch.dtype] = {}
    model.learner.classifier.register_forward_hook(lambda _m, _i, out: seen.update(learner=out.dtype))
    model.extractor.stem[0].register_forward_hook(lambda _m, _i, out: seen.update(extractor=out.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(domain(0).images)
    assert seen == {"learner": torch.float32, "extractor": torch.bfloat16}
    assert outputs.logit.dtype == outputs.depth.dtype == torch.float32


def test_scores_are_the_sigmoid_of_the_logit_and_the_mean_depth() -> None:
    outputs = RFMetaOutputs(torch.tensor([math.log(3.0), 0.0]), torch.stack([torch.full((2, 2), v) for v in (0.4, 7)]))
    scores = tiny().scores(outputs)
    torch.testing.assert_close(scores["binary"], torch.tensor([0.75, 0.5]))
    torch.testing.assert_close(scores["depth"], torch.tensor([0.4, 1.0]))


def test_the_attention_map_averages_to_the_logit_before_it_is_cut_and_enlarged() -> None:
    model = tiny(side=64).eval()
    x = domain(0, side=64).images
    with torch.no_grad():
        # Weights and bias that make every cell speak for bona fide: then nothing is cut.
        model.learner.classifier.weight.abs_()
        attention = model.attention(x)
        assert attention.shape == (4, 64, 64)
        logit = model.classify(x) - model.learner.classifier.bias
        # Bilinear enlargement by 32 of 2×2 cells keeps the mean.
        torch.testing.assert_close(attention.mean(dim=(1, 2)), logit, rtol=1e-4, atol=1e-5)
        model.learner.classifier.weight.neg_()
        assert not model.attention(x).any()


def test_the_classifier_exports_and_gives_the_same_logits() -> None:
    model = tiny().eval()

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return self.model.classify(x)

    x = domain(0).images
    exported = torch.export.export(Classifier(), (x,)).module()
    torch.testing.assert_close(exported(x), model.classify(x))


@pytest.mark.parametrize(
    "settings",
    [
        {"input_side": 100},
        {"input_side": 0},
        {"width": 0.0},
        {"depth_weight": -1.0},
        {"depth_weight": math.nan},
        {"depth_head": False},
        {"depth_reduction": "none"},
        {"learner_norm_momentum": 0.0},
        {"norm_init": "ones"},
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings: dict[str, object]) -> None:
    (name,) = settings
    with pytest.raises(ConfigError, match=name):
        RFMetaConfig(**settings)  # type: ignore[arg-type]


def test_wrong_batches_and_unknown_profiles_are_refused() -> None:
    model = tiny()
    with pytest.raises(BatchError, match="6, 32, 32"):
        model(torch.rand(2, 3, 32, 32))
    outputs = model(domain(0).images)
    with pytest.raises(BatchError, match="labels"):
        model.loss(outputs, torch.zeros(3), domain(0).depth)
    with pytest.raises(BatchError, match="depth targets"):
        model.loss(outputs, torch.zeros(4))
    with pytest.raises(BatchError, match=r"\(4, 4, 4\)"):
        model.loss(outputs, torch.zeros(4), torch.zeros(4, 8, 8))
    with pytest.raises(ConfigError, match="papper"):
        RFMetaConfig.from_profile("papper")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="depth_head"):
        tiny(depth_head=False, depth_weight=0.0).depth(torch.rand(1, 24, 4, 4))
