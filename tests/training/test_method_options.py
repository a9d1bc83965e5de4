"""Options of the registered methods: what reaches the network, what is refused, and which score decides."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.training.fixtures.rgbd_sets import rgbd_set
from training.build import build_task
from training.config import InputConfig, MachineConfig, MethodConfig, TrainConfig
from training.data.batches import plain_batch
from training.errors import ConfigError
from training.methods.baselines import DeepPixBiS
from training.methods.cmfl import CMFL
from training.methods.rgbd_baselines import ScoreFusion
from training.tasks import Batch, MethodStep, Needs

SIDE = 32


def config(name: str, **options: bool | float | str) -> TrainConfig:
    return TrainConfig(
        input=InputConfig(size_px=SIDE, crop_scale=1.2),
        method=MethodConfig(name=name, width=0.0625, options=options),
        machine=MachineConfig(device="cpu"),
    )


def step(name: str, **options: bool | float | str) -> MethodStep:  # type: ignore[type-arg]
    task = build_task(config(name, **options))
    assert isinstance(task, MethodStep)
    return task


def batch(name: str) -> Batch:
    return plain_batch(rgbd_set(2), [0, 1], config(name), Needs(depth=True))


@pytest.mark.parametrize(
    ("name", "default", "others"),
    [
        ("a-deeppixbis", "map", ("binary", "map_att")),
        ("deeppixbis", "map", ("binary", "combined")),
        ("mc-pixbis", "map", ("binary", "combined")),
        ("deeppixbis-depth", "map", ("binary",)),
        ("cmfl", "joint", ("rgb", "depth", "both", "mean3")),
        ("rgbd-mh-bce", "joint", ("mean3",)),
    ],
)
def test_the_score_that_decides_can_be_chosen(name: str, default: str, others: tuple[str, ...]) -> None:
    seen = batch(name)
    for head in (default, *others):
        task = step(name) if head == default else step(name, score_head=head)
        task.module.eval()
        assert task.primary_score == head
        with torch.no_grad():
            assert torch.equal(task.score_batch(seen), task.named_scores(seen)[head])
            if name == "a-deeppixbis":
                assert torch.equal(task.score(seen.rgb), task.named_scores(seen)[head])  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"score_head|Invalid enum value"):
        step(name, score_head="best")


def test_score_fusion_averages_the_scores_that_are_chosen() -> None:
    task = step("score-fusion", score_head="binary")
    module = task.module.eval()
    assert isinstance(module, ScoreFusion)
    with torch.no_grad():
        outputs = module(task.see(batch("score-fusion")))
        assert outputs.depth is not None
        wanted = (torch.sigmoid(outputs.rgb.image) + torch.sigmoid(outputs.depth.image)) / 2
        assert torch.allclose(task.score_batch(batch("score-fusion")), wanted)


@pytest.mark.parametrize("name", ["mc-pixbis", "score-fusion", "deeppixbis-depth", "deeppixbis"])
def test_settings_of_the_pixel_loss_reach_each_network(name: str) -> None:
    module = step(name, lambda_pixel=0.8, pixel_smoothing=0).module
    parts = [module.rgb, module.depth] if isinstance(module, ScoreFusion) else [module]
    for part in parts:
        assert isinstance(part, DeepPixBiS)
        assert (part.config.lambda_pixel, part.config.pixel_smoothing, part.config.map_side) == (0.8, 0.0, 2)


@pytest.mark.parametrize(
    "name", ["cmfl", "rgbd-mh-bce", "late-fusion", "mc-pixbis", "score-fusion", "multi-level-fusion"]
)
def test_colour_and_depth_are_divided_by_255_unless_imagenets_mean_is_asked_for(name: str) -> None:
    seen = batch(name)
    assert seen.depth is not None
    bytes_ = torch.cat([seen.rgb, seen.depth.unsqueeze(3)], dim=3).permute(0, 3, 1, 2) / 255
    assert torch.allclose(step(name).see(seen), bytes_, atol=1e-6)

    def column(*values: float) -> Tensor:
        return torch.tensor(values).view(1, 4, 1, 1)

    # torchvision's figures; depth has their averages.
    mean, std = column(0.485, 0.456, 0.406, 1.347 / 3), column(0.229, 0.224, 0.225, 0.678 / 3)
    found = step(name, normalisation="imagenet").see(seen)
    assert torch.allclose(found, (bytes_ - mean) / std, atol=1e-5)
    with pytest.raises(ConfigError, match=r"normalisation|Invalid enum value"):
        step(name, normalisation="none")


def test_baselines_of_the_loss_take_cmfls_options_but_stay_what_they_are() -> None:
    module = step("rgbd-mh-bce", beta=0.25, embed_act="identity").module
    assert isinstance(module, CMFL)
    assert (module.config.gamma, module.config.beta, module.config.embed_act) == (0.0, 0.25, "identity")
    late = step("late-fusion", embed_act="identity").module
    assert isinstance(late, CMFL)
    assert (late.config.beta, late.config.embed_act) == (0.0, "identity")


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("rgbd-mh-bce", {"gamma": 3.0}, "gamma is fixed by rgbd-mh-bce"),
        ("late-fusion", {"beta": 0.5}, "beta is fixed by late-fusion"),
        ("late-fusion", {"gamma": 2.0}, "gamma is fixed by late-fusion, or does nothing there"),
        ("multi-level-fusion", {"lambda_pixel": 0.5}, "has the option normalisation only, got lambda_pixel"),
        ("mc-pixbis", {"gamma": 2.0}, "gamma is unknown to mc-pixbis; it has lambda_pixel, pixel_smoothing, score"),
        ("a-deeppixbis", {"map_side": 2}, r"options\.map_side is set by input\.size_px; leave it out"),
        ("deeppixbis", {"map_side": 4}, r"options\.map_side is set by input\.size_px"),
        ("mc-pixbis", {"map_side": 4}, r"options\.map_side is set by input\.size_px"),
        ("cdcn", {"input_side": 64}, r"options\.input_side is set by input\.size_px"),
        ("rfmeta", {"width": 0.5}, r"options\.width is set by method\.width"),
    ],
)
def test_options_that_would_change_nothing_or_break_the_run_are_refused(
    name: str, option: dict[str, float], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_task(config(name, **option))
