"""LBP-SVM: patterns and classifier against other implementations."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from training.errors import BatchError, ConfigError, DataError
from training.methods.lbp_svm import (
    PATTERN_BINS,
    LbpSvm,
    LbpSvmConfig,
    colour_planes,
    fit_linear_svm,
    lbp_codes,
    pattern_bins,
)


def pictures(count: int = 4, side: int = 20, seed: int = 0) -> Tensor:
    return torch.randint(
        0, 256, (count, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def textures(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Smooth pictures (bona fide) and the same with a fine grid over them (attacks)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    out = np.empty((count, 32, 32, 3), np.uint8)
    for i in range(count):
        smooth = cv2.resize(rng.uniform(60, 200, (4, 4, 3)), (32, 32), interpolation=cv2.INTER_CUBIC)
        grid = 25.0 * ((np.arange(32)[:, None] + np.arange(32)) % 2)[..., None] * (1 - labels[i])
        out[i] = np.clip(smooth + grid + rng.normal(0, 4, (32, 32, 3)), 0, 255)
    return torch.from_numpy(out), torch.from_numpy(labels)


@pytest.mark.parametrize("radius", [1.0, 2.0])
def test_codes_are_those_of_comparing_each_neighbour_by_hand(radius: float) -> None:
    plane = pictures(1, 9)[0, :, :, 0].numpy().astype(np.float64)
    margin = math.ceil(radius)
    codes = lbp_codes(torch.from_numpy(plane)[None, None].float(), radius)[0, 0].numpy()
    assert codes.shape == (9 - 2 * margin, 9 - 2 * margin)
    for row in range(margin, 9 - margin):
        for column in range(margin, 9 - margin):
            code = 0
            for bit in range(8):
                x = column + radius * math.cos(2 * math.pi * bit / 8)
                y = row - radius * math.sin(2 * math.pi * bit / 8)
                x0, y0 = math.floor(x + 1e-9), math.floor(y + 1e-9)
                value = sum(
                    plane[min(y0 + i, 8), min(x0 + j, 8)] * (1 - abs(y - y0 - i)) * (1 - abs(x - x0 - j))
                    for i in (0, 1)
                    for j in (0, 1)
                )
                code += (value >= plane[row, column] - 1e-6) << bit
            assert codes[row - margin, column - margin] == code


def test_codes_are_those_of_scikit_image() -> None:
    feature = pytest.importorskip("skimage.feature", reason="scikit-image is not installed")
    plane = pictures(1, 24, seed=2)[0, :, :, 1].numpy()
    theirs = feature.local_binary_pattern(plane, 8, 1.0, method="default")[1:-1, 1:-1]
    ours = lbp_codes(torch.from_numpy(plane)[None, None].float())[0, 0].numpy()
    np.testing.assert_array_equal(ours, theirs)


def test_a_flat_picture_is_brighter_or_equal_everywhere() -> None:
    assert (lbp_codes(torch.full((1, 1, 6, 6), 77.0)) == 255).all()


def test_58_patterns_have_at_most_two_changes_round_the_circle_and_a_bin_each() -> None:
    bins = pattern_bins().tolist()
    uniform = []
    for code in range(256):
        text = f"{code:08b}"
        changes = sum(text[i] != text[i - 1] for i in range(8))
        if changes <= 2:
            uniform.append(code)
        assert (bins[code] == PATTERN_BINS - 1) == (changes > 2)
    assert [bins[code] for code in uniform] == list(range(58))


def test_planes_are_hsv_and_the_ycrcb_of_opencv() -> None:
    rgb = pictures(2)
    planes = colour_planes(rgb)
    assert planes.shape == (2, 6, 20, 20)
    for i in range(2):
        theirs = cv2.cvtColor(rgb[i].numpy(), cv2.COLOR_RGB2YCrCb).astype(int)
        ours = planes[i, 3:].permute(1, 2, 0).numpy().astype(int)
        assert np.abs(ours - theirs).max() <= 1  # OpenCV rounds luma before the differences
        np.testing.assert_array_equal(planes[i, 2].numpy(), rgb[i].numpy().max(2))


def test_features_are_shares_per_part_and_channel() -> None:
    rgb, model = pictures(2, 22), LbpSvm(LbpSvmConfig(grid=2))
    features = model.features(rgb)
    assert features.shape == (2, 4 * 6 * 59) == (2, model.config.length)
    torch.testing.assert_close(features.reshape(2, 24, 59).sum(2), torch.ones(2, 24, dtype=torch.float64))
    bins = pattern_bins()[lbp_codes(colour_planes(rgb)).long()]
    part = bins[1, 4, :10, 10:].flatten().tolist()  # second picture, Cr, upper right of 20 × 20 codes
    expected = [part.count(b) / 100 for b in range(59)]
    assert features[1].reshape(2, 2, 6, 59)[0, 1, 4].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("balanced", [False, True])
def test_the_classifier_is_that_of_liblinear(balanced: bool) -> None:
    svm = pytest.importorskip("sklearn.svm", reason="scikit-learn is not installed")
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(60, 5, generator=generator, dtype=torch.float64)
    y = (x[:, 0] + 0.7 * torch.randn(60, generator=generator, dtype=torch.float64) > 0.5).to(torch.float64)
    share = y.mean()
    cost = torch.where(y == 1, 0.5 / share, 0.5 / (1 - share)) if balanced else torch.ones(60, dtype=torch.float64)
    weight, bias, steps = fit_linear_svm(x, 2 * y - 1, 0.3 * cost)
    theirs = svm.LinearSVC(C=0.3, tol=1e-10, max_iter=200_000, class_weight="balanced" if balanced else None)
    theirs.fit(x.numpy(), y.numpy())
    np.testing.assert_allclose(weight.numpy(), theirs.coef_[0], atol=1e-5)
    assert bias.item() == pytest.approx(theirs.intercept_[0], abs=1e-5)
    assert steps < 30


def test_it_tells_a_fine_grid_from_smooth_pictures_and_keeps_that_in_its_state() -> None:
    train, labels = textures(60, seed=0)
    model = LbpSvm()
    model.fit(model.features(train), labels)
    other, truth = textures(40, seed=1)
    scores = model.score(other)
    assert scores.dtype == torch.float32
    assert 0 <= scores.min() <= scores.max() <= 1
    assert ((scores > 0.5) == (truth == 1)).float().mean() >= 0.95
    again = LbpSvm()
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.score(other), scores, rtol=0, atol=0)


def test_bins_that_never_vary_have_no_weight() -> None:
    model = LbpSvm()
    features = torch.zeros(4, model.config.length, dtype=torch.float64)
    features[:, 0] = torch.tensor([0.0, 0.1, 0.9, 1.0])
    features[:, 1] = 1 / 3
    model.fit(features, torch.tensor([0, 0, 1, 1]))
    assert torch.nonzero(model.weight).flatten().tolist() == [0]
    assert torch.isfinite(model.decide(features)).all()


@pytest.mark.parametrize("settings", [{"radius": 0.5}, {"grid": 0}, {"penalty": 0.0}, {"penalty": math.inf}])
def test_settings_out_of_range_are_refused_by_name(settings: dict[str, float]) -> None:
    (name,) = settings
    with pytest.raises(ConfigError, match=name):
        LbpSvmConfig(**settings)  # type: ignore[arg-type]


def test_wrong_pictures_and_useless_training_sets_are_refused() -> None:
    model = LbpSvm()
    for bad in (pictures()[0], pictures().float(), pictures(1, 2), pictures().permute(0, 3, 1, 2)):
        with pytest.raises(BatchError, match="uint8 pictures"):
            model.features(bad)
    x = torch.zeros(3, model.config.length)
    with pytest.raises(DataError, match=r"\(2,\)"):
        model.fit(x, torch.zeros(2))
    with pytest.raises(DataError, match="both labels"):
        model.fit(x, torch.ones(3))
    with pytest.raises(DataError, match="not finite"):
        model.fit(x + math.nan, torch.tensor([0, 1, 1]))
