"""ImageNet weights of DenseNet-161 through torchvision: fetched once, or a message that says what to do instead."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from types import ModuleType
from urllib.error import URLError

import pytest
import torch
from torch import Tensor

from training.backbones import densenet161_trunk, torchvision_weights
from training.backbones.densenet import TORCHVISION_URL
from training.build import build_task, build_trunk
from training.config import InputConfig, MethodConfig, TrainConfig
from training.errors import WeightsUnavailableError
from training.fit import overridden
from training.methods.cmfl import CMFL
from training.methods.rgbd_baselines import ScoreFusion
from training.tasks import as_step_task


class Hub:
    """Stands for torch.hub: hands out a file that is on no network."""

    def __init__(self) -> None:
        torch.manual_seed(5)
        trunk = densenet161_trunk()
        self.state = {name: torch.rand_like(value.float()) for name, value in trunk.state_dict().items()}
        for name in self.state:
            if name.endswith("num_batches_tracked"):
                self.state[name] = torch.tensor(7)
        self.asked: list[bool] = []
        self.fails: Exception | None = None


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    """torchvision's weights, as its module names them, from a hub that only pretends to download."""
    found = Hub()

    class DenseNet161_Weights(enum.Enum):  # noqa: N801 - torchvision's name
        IMAGENET1K_V1 = TORCHVISION_URL

        def get_state_dict(self, *, progress: bool, check_hash: bool) -> dict[str, Tensor]:
            found.asked.append(check_hash)
            if found.fails is not None:
                raise found.fails
            return dict(found.state)

    models = ModuleType("torchvision.models")
    models.DenseNet161_Weights = DenseNet161_Weights  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    return found


def test_pretrained_takes_the_weights_through_torchvision_and_checks_their_hash(hub: Hub) -> None:
    trunk = build_trunk(MethodConfig(pretrained=True))
    assert hub.asked == [True]
    for name, value in trunk.state_dict().items():
        assert torch.equal(value, hub.state[name]), name


@pytest.mark.parametrize("name", ["cmfl", "score-fusion"])
def test_networks_of_two_trunks_fetch_once_and_give_depth_the_mean_over_colour(hub: Hub, name: str) -> None:
    config = TrainConfig(input=InputConfig(size_px=32), method=MethodConfig(name=name, pretrained=True))
    module = as_step_task(build_task(config)).module
    assert hub.asked == [True]
    assert isinstance(module, CMFL | ScoreFusion)
    rgb, depth = (
        (module.rgb_trunk, module.depth_trunk) if isinstance(module, CMFL) else (module.rgb.trunk, module.depth.trunk)
    )
    first = hub.state["features.conv0.weight"]
    assert torch.equal(rgb.state_dict()["features.conv0.weight"], first)
    mean = (first[:, :1] + first[:, 1:2] + first[:, 2:]) / 3
    assert torch.allclose(depth.state_dict()["features.conv0.weight"], mean, atol=1e-6)


@pytest.mark.parametrize(
    "error",
    [URLError("no network"), TimeoutError("too long"), RuntimeError('invalid hash value (expected "8d451a50")')],
)
def test_without_a_network_the_address_and_the_other_way_are_named(hub: Hub, error: Exception) -> None:
    hub.fails = error
    with pytest.raises(WeightsUnavailableError, match=r"cannot be fetched .*method\.weights .*fit --weights") as caught:
        torchvision_weights()
    assert TORCHVISION_URL in str(caught.value)


def test_without_torchvision_the_address_and_the_other_way_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(
        WeightsUnavailableError, match=r"cannot be imported .*method\.weights .*fit --weights"
    ) as caught:
        build_trunk(MethodConfig(pretrained=True))
    assert TORCHVISION_URL in str(caught.value)


def test_a_file_named_on_the_command_line_takes_the_place_of_what_would_be_fetched(tmp_path: Path) -> None:
    path = tmp_path / "densenet161.pth"
    trunk = densenet161_trunk()
    torch.save(trunk.state_dict(), path)
    changed = overridden(TrainConfig(method=MethodConfig(pretrained=True)), weights=str(path))
    assert (changed.method.weights, changed.method.pretrained) == (str(path), False)
    loaded = build_trunk(changed.method).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in trunk.state_dict().items())
    assert overridden(changed) == changed
