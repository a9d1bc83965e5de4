"""Which convolution costs what at INT8."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fasedge.cards import sha256_of
from fasedge.types import UInt8Array
from quantize.__main__ import main
from quantize.errors import CalibrationDataError, ConversionError
from quantize.layers import LayerReport, Layers, measure_layers
from quantize.parity import reference_scores
from quantize.students import Exportable, Platt, new_student
from tests.quantize.test_full import METHODS, trained
from tests.quantize.test_rgbd import lived_in
from tests.training.fixtures.evaluation_sets import drawn_set, write_set
from training.backbones import plain_trunk
from training.checkpoint import save_checkpoint
from training.config import InputConfig, MethodConfig, TrainConfig


class Two(Exportable):
    """Two convolutions; the second reads one channel that is a thousand times as wide as what it needs of the other."""

    outputs = ("score",)

    def __init__(self) -> None:
        super().__init__()
        self.even = nn.Conv2d(3, 2, 1, bias=False)
        self.uneven = nn.Conv2d(2, 1, 1, bias=False)
        self.unused: nn.Conv2d | None = None
        self.even.weight.data = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])[..., None, None]
        self.uneven.weight.data = torch.tensor([[1e-6, 1.0]])[..., None, None]
        self.requires_grad_(False)

    def forward(self, rgb: Tensor) -> tuple[Tensor]:
        x = self.even(rgb.permute(0, 3, 1, 2).float() / 255) * torch.tensor([1000.0, 1.0]).view(1, 2, 1, 1)
        return (torch.sigmoid(self.uneven(x).mean(dim=(1, 2, 3))),)


@pytest.fixture
def shown() -> UInt8Array:
    return np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3)).astype(np.uint8)


def test_the_convolution_that_reads_an_uneven_range_is_named(shown: UInt8Array) -> None:
    with Layers(Two(), shown) as layers:
        report = measure_layers(layers, shown, closer=1)
    assert [layer.name for layer in report.layers] == ["uneven", "even"]
    guilty, innocent = report.layers
    assert guilty == report.guilty
    assert guilty.alone.mean > 20 * innocent.alone.mean
    assert guilty.alone.mean == pytest.approx(report.everything.mean, rel=0.1)
    assert report.as_in_files == report.everything
    assert guilty.without is not None
    assert guilty.without.mean == pytest.approx(innocent.alone.mean)
    assert innocent.without is None
    assert (guilty.weights, innocent.weights, report.n, report.bits) == (2, 6, 12, 8)


def test_rounding_is_that_of_integer_kernels(shown: UInt8Array) -> None:
    """The input of the first convolution spans [0, 1]: its steps are those of the bytes, and nothing is lost."""
    shown[0, 0, 0], shown[0, 0, 1] = 0, 255
    model = Two()
    exact = reference_scores(model, shown)
    with Layers(model, shown) as layers:
        np.testing.assert_allclose(layers.scores(shown, ["even"]), exact, atol=1e-6)


@pytest.mark.parametrize("bits", [7, 8])
def test_filters_have_as_many_steps_as_they_have_bits(bits: int, shown: UInt8Array) -> None:
    model = Two()
    model.even.weight.data = torch.rand(2, 3, 1, 1)
    with Layers(model, shown, bits) as layers, layers.rounded(["even"]):
        weight = model.even.weight.data
        codes = weight / weight.abs().amax(dim=(1, 2, 3), keepdim=True) * (2 ** (bits - 1) - 1)
        torch.testing.assert_close(codes, codes.round(), atol=1e-4, rtol=0)
        assert set(codes.flatten().round().int().abs().tolist()) & {2 ** (bits - 1) - 1}


def test_what_the_files_keep_in_float_is_told_apart(shown: UInt8Array) -> None:
    with Layers(Two(), shown, in_float=["uneven"]) as layers:
        report = measure_layers(layers, shown)
    assert [layer.stays_in_float for layer in report.layers] == [True, False]
    assert report.as_in_files == report.layers[1].alone


def test_the_network_is_as_before_afterwards(shown: UInt8Array) -> None:
    model = Two()
    before, exact = {k: v.clone() for k, v in model.state_dict().items()}, reference_scores(model, shown)
    with suppress(InterruptedError), Layers(model, shown) as layers, layers.rounded(["uneven"]):
        assert np.abs(reference_scores(model, shown) - exact).max() > 1e-3
        raise InterruptedError
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    np.testing.assert_array_equal(reference_scores(model, shown), exact)
    assert not model.even._forward_pre_hooks


def test_rounding_others_meanwhile_rounds_only_those(shown: UInt8Array) -> None:
    with Layers(Two(), shown) as layers:
        with layers.rounded(["even"]), layers.rounded(["uneven"]):
            both = reference_scores(layers._model, shown)
        np.testing.assert_array_equal(both, layers.scores(shown, ["uneven"]))


def test_what_no_picture_reaches_is_left_alone_and_said(shown: UInt8Array) -> None:
    model = Two()
    model.unused = nn.Conv2d(3, 1, 1)
    with Layers(model, shown) as layers:
        assert (layers.names, layers.unused) == (("even", "uneven"), ("unused",))
        assert measure_layers(layers, shown).unused == ("unused",)
        with pytest.raises(ConversionError, match="that pictures reach"):
            layers.scores(shown, ["unused"])


def test_what_cannot_be_measured_is_refused(shown: UInt8Array) -> None:
    with pytest.raises(CalibrationDataError, match="got none"):
        Layers(Two(), shown[:0])
    with pytest.raises(ConversionError, match="7 or 8 bits"):
        Layers(Two(), shown, 4)
    with pytest.raises(ConversionError, match="none such"):
        Layers(Two(), shown, in_float=["none such"])
    with Layers(Two(), shown) as layers, pytest.raises(CalibrationDataError, match="held-out"):
        measure_layers(layers, shown[:0])
    model = Two()
    model.even.weight.data[0, 0] = float("nan")
    with pytest.raises(ConversionError, match="uneven reads values that are not finite"):
        Layers(model, shown)
    assert not model.even._forward_pre_hooks
    model.forward = lambda rgb: (rgb.float().mean(dim=(1, 2, 3)),)  # type: ignore[method-assign]
    with pytest.raises(ConversionError, match="no picture reaches"):
        Layers(model, shown)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["quantize", "layers", *map(str, arguments)])
    return main()


def student(path: Path) -> Path:
    torch.manual_seed(0)
    trunk = lived_in(plain_trunk("plain_xs"), 1)
    config = TrainConfig(
        input=InputConfig(size_px=64, crop_scale=1.0), method=MethodConfig(name="binary-trunk", trunk="plain_xs")
    )
    found = new_student("binary-trunk", trunk, trunk.out_channels)
    save_checkpoint(path, found.state_dict(), {"config": msgspec.to_builtins(config), "epoch": 1})
    return path


@pytest.mark.parametrize("kind", ["student", *sorted(METHODS)])
def test_the_command_names_the_guilty_layer_of_students_and_of_full_networks(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = student(tmp_path / "c") if kind == "student" else trained(tmp_path / "c", kind)
    # Nobody has trained this student: a calibration wants values that rise with the labels.
    monkeypatch.setattr("quantize.layers_command.fit_platt", lambda means, labels: Platt(1 / np.std(means), 0.0))
    sets = [write_set(tmp_path / s, drawn_set(s, people=3, depth=True)) for s in ("train", "dev")]
    options = ["--train", sets[0], "--crops", 8, "-n", 8, "--out", tmp_path / "out" / "layers.json"]
    assert run(monkeypatch, checkpoint, *options, "--dev", sets[1], "--top", 3) == 0
    said = " ".join(capsys.readouterr().out.split())
    report = msgspec.json.decode((tmp_path / "out" / "layers.json").read_bytes(), type=LayerReport)
    assert f"{report.guilty.name} does most" in said
    assert (report.bits, report.n) == (7 if kind == "student" else 8, 8)
    assert report.checkpoint_sha256 == sha256_of(checkpoint)
    assert sum(layer.without is not None for layer in report.layers) == 5
    found = [layer.alone.mean for layer in report.layers]
    assert found == sorted(found, reverse=True)
    assert any(layer.stays_in_float for layer in report.layers)
    assert report.unused == {"rfmeta": ("network.estimator.0.0", "network.estimator.1.0", "network.estimator.2.0")}.get(
        kind, report.unused
    )
    assert run(monkeypatch, checkpoint, *options, "--dev", sets[0]) == 3
    assert "on the dev split" in capsys.readouterr().err
