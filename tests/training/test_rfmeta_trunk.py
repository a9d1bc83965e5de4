"""RFMeta on a trunk in the place of its feature extractor: same step, same M and D, another F."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

from tests.training.fixtures.domain_batches import distance, gradients
from training.backbones import plain_trunk
from training.build import LogitTask, build_task
from training.checkpoint import save_checkpoint
from training.config import InputConfig, MethodConfig, TrainConfig
from training.data.depth_targets import DepthTargets
from training.errors import ConfigError
from training.evaluation.maps import map_maker
from training.evaluation.runs import load_run
from training.evaluation.tables import named_scorer
from training.inputs import GraphInput
from training.meta_task import DomainTask
from training.methods.meta_step import DomainBatch, MetaStep, MetaStepConfig
from training.methods.rfmeta import RFMeta, RFMetaConfig
from training.methods.rfmeta_networks import TrunkExtractor
from training.runlog import surroundings
from training.tasks import Batch

SIDE_PX = 64
CELLS = SIDE_PX // 16


def config(**more: object) -> TrainConfig:
    options: dict[str, bool | int | float | str] = {"extractor": "trunk", "depth_target": "ellipsoid"}
    method = MethodConfig(name="rfmeta", trunk="plain_xs", width=0.125, options=options)
    return TrainConfig(input=InputConfig(size_px=SIDE_PX, brightness=True), method=method, **more)  # type: ignore[arg-type]


def on_trunk() -> RFMeta:
    torch.manual_seed(0)
    settings = RFMetaConfig(input_side=SIDE_PX, width=0.125, extractor="trunk")
    return RFMeta(settings, TrunkExtractor(plain_trunk("plain_xs"))).double().train()


def batches(count: int = 3) -> list[DomainBatch]:
    generator = torch.Generator().manual_seed(4)
    labels = torch.arange(6) % 2
    return [
        DomainBatch(
            torch.rand(6, 3, SIDE_PX, SIDE_PX, generator=generator, dtype=torch.float64),
            labels,
            torch.rand(6, CELLS, CELLS, generator=generator, dtype=torch.float64) * labels.reshape(-1, 1, 1),
        )
        for _ in range(count)
    ]


def test_heads_read_the_last_map_of_the_trunk_whose_weights_stay() -> None:
    trunk = plain_trunk("plain_xs")
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    model = RFMeta(RFMetaConfig(input_side=SIDE_PX, width=0.125, extractor="trunk"), TrunkExtractor(trunk))
    assert all(torch.equal(value, before[name]) for name, value in trunk.state_dict().items())
    model.eval()
    x = torch.rand(2, 3, SIDE_PX, SIDE_PX)
    outputs, features = model(x), model.features(x)
    torch.testing.assert_close(features.deep, trunk.eval()(x))
    assert features.pyramid is features.deep
    assert (outputs.logit.shape, outputs.depth.shape) == ((2,), (2, CELLS, CELLS))
    torch.testing.assert_close(model.classify(x), outputs.logit)
    assert model.attention(x).shape == (2, SIDE_PX, SIDE_PX)


def test_the_second_order_reaches_the_trunk_through_the_inner_step() -> None:
    found = {}
    for order in ("second", "first"):
        model = on_trunk()
        MetaStep(model, MetaStepConfig(order=order, inner_rate=0.5)).backward(batches())  # type: ignore[arg-type]
        found[order] = gradients(model.extractor)
        assert found[order].keys() == dict(model.extractor.named_parameters()).keys()
    assert distance(found["second"], found["first"]) > 1e-3


@pytest.mark.parametrize(
    ("settings", "given"), [({"extractor": "trunk"}, False), ({}, True)], ids=["none given", "not asked for"]
)
def test_settings_and_network_have_to_agree(settings: dict[str, str], given: bool) -> None:
    extractor = TrunkExtractor(plain_trunk("plain_xs")) if given else None
    with pytest.raises(ConfigError, match="does not go with the network"):
        RFMeta(RFMetaConfig(input_side=SIDE_PX, **settings), extractor)  # type: ignore[arg-type]


def test_another_extractor_has_a_name() -> None:
    with pytest.raises(ConfigError, match="expected 'published' or 'trunk', got extractor='truck'"):
        RFMetaConfig(extractor="truck")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected a multiple of 16, at least 64"):
        RFMetaConfig(extractor="trunk", input_side=72)
    assert RFMetaConfig(extractor="trunk", input_side=112).map_side == 7


def test_a_run_reads_what_concerns_its_trunk_and_its_record_tells_where_the_weights_come_from() -> None:
    task = build_task(config())
    assert isinstance(task, DomainTask)
    assert isinstance(task.needs.targets, DepthTargets)
    rgb = torch.randint(0, 256, (2, SIDE_PX, SIDE_PX, 3), dtype=torch.uint8)
    trunk = plain_trunk("plain_xs")
    expected = GraphInput(config().input.normalisation(), trunk.input_mean, trunk.input_std)(rgb)
    torch.testing.assert_close(task.see(rgb), expected)
    assert surroundings(config(), torch.device("cpu"), 1)["trunk_weights"] == (
        "none: trained from scratch, not as the paper does"
    )
    task.module.eval()
    batch = Batch(rgb=rgb, labels=torch.zeros(2))
    name, scores = named_scorer(task)
    torch.testing.assert_close(scores(batch)[name], task.score_batch(batch))
    _, maps = map_maker(task, SIDE_PX)
    assert maps(batch)["rgb"].shape == (2, SIDE_PX, SIDE_PX)


def test_in_tables_of_results_it_has_a_name_of_its_own(tmp_path: Path) -> None:
    task = build_task(config())
    record = {"config": msgspec.to_builtins(config()), "epoch": 1}
    save_checkpoint(tmp_path / "best.safetensors", task.module.state_dict(), record)
    assert load_run(tmp_path, "best").record.method == "rfmeta on plain_xs"


def test_a_teacher_on_a_trunk_offers_that_trunks_features() -> None:
    teacher = LogitTask(config())
    teacher.module.eval()
    rgb = torch.randint(0, 256, (2, SIDE_PX, SIDE_PX, 3), dtype=torch.uint8)
    features = teacher.features(rgb)
    assert features.shape == (2, teacher.channels, CELLS, CELLS)
    torch.testing.assert_close(torch.sigmoid(teacher.cells_of(features)[:, 0, 0]), teacher.score(rgb))
