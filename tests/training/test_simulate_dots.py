"""Scattered dots of prints: the noise that the model gives, against error diffusion by Floyd and Steinberg."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from training.data.simulate import Simulator, camera, optics, paper
from training.data.simulate.draws import Draws, Value
from training.data.simulate.moire import Sensor
from training.data.simulate.operators import switch_off
from training.data.simulate.paper import scattered_deviation
from training.data.simulate.scene import FACE_HALF
from training.data.work import make_simulator

Array = NDArray[np.float64]
TONES = (0.06, 0.1, 0.3, 0.47, 0.7, 0.82, 0.94)
SIDE, SEED = 480, 5
#: How far the model may lie from error diffusion, see `scattered_deviation`.
FACTOR = 2.5


def floyd_steinberg(tones: tuple[float, ...], side: int) -> Array:
    """Dots (n, side, side) of even tones, 1 where white: 7/16 of the error goes right, 3, 5 and 1 of 16 below.

    What lies on a slope of two columns a row is independent, so that it is worked out at once. Errors of random size
    come in from above; the first 48 rows and columns, in which the pattern forms, are left out.
    """
    n, margin = side + 48, 48
    wanted = np.array(tones)[:, None]
    errors = np.zeros((len(tones), n + 1, n + 2))
    errors[:, 0] = np.random.default_rng(0).uniform(-0.5, 0.5, errors[:, 0].shape)
    dots = np.zeros((len(tones), n, n))
    for k in range(n + 2 * (n - 1)):
        y = np.arange(max(0, (k - n + 2) // 2), min(n - 1, k // 2) + 1)
        x = k - 2 * y
        y, x = y[(x >= 0) & (x < n)], x[(x >= 0) & (x < n)]
        value = wanted + errors[:, y, x + 1]
        dots[:, y, x] = value > 0.5
        error = value - dots[:, y, x]
        for row, column, share in ((0, 2, 7), (1, 0, 3), (1, 1, 5), (1, 2, 1)):
            errors[:, y + row, x + column] += error * share / 16
    return dots[:, margin:, margin:]


def averaged(dots: Array, side: float) -> Array:
    """Means over squares of any side, in dots."""
    n = int(dots.shape[-1] / side)
    whole = np.pad(dots, [(0, 0), (1, 0), (1, 0)]).cumsum(1).cumsum(2)
    at = np.arange(n + 1) * side
    for axis in (1, 2):
        low = np.minimum(at.astype(int), whole.shape[axis] - 2)
        part = (at - low).reshape([-1, 1] if axis == 1 else [1, -1])
        whole = whole.take(low, axis) * (1 - part) + whole.take(low + 1, axis) * part
    return np.diff(np.diff(whole, axis=1), axis=2) / side**2


@pytest.fixture(scope="module")
def dots() -> Array:
    found = floyd_steinberg(TONES, SIDE)
    np.testing.assert_allclose(found.mean((1, 2)), TONES, atol=0.01)
    return found


def scalar(value: float) -> Tensor:
    return torch.full((1, 1, 1, 1), float(value))


def sensor(ratio: float = 1.0, lens: float = 0.5, soft: float = 0.0, motion: float = 0.0) -> Sensor:
    return Sensor(scalar(ratio), scalar(lens), scalar(motion), scalar(0.0), scalar(soft))


def deviation(tone: float, per_pixel: float, lens: float = 0.0, motion: float = 0.0) -> float:
    return float(scattered_deviation(*(torch.tensor(float(v)) for v in (tone, per_pixel, lens, motion))))


@pytest.mark.parametrize("per_pixel", [1.5, 2, 3, 4, 6, 8, 12])
@pytest.mark.parametrize("lens", [0.0, 0.3, 0.5, 0.8])
def test_the_deviation_is_that_of_error_diffusion_within_the_stated_factor(
    dots: Array, per_pixel: float, lens: float
) -> None:
    for tone, pattern in zip(TONES, dots, strict=True):
        blurred = ndimage.gaussian_filter(pattern, lens * per_pixel) if lens else pattern
        measured = averaged(blurred[None], per_pixel)[0, 3:-3, 3:-3].std()
        # Less than a thousandth of white is not seen: a step of 8 bits is four times that.
        ratio = max(measured, 1e-3) / max(deviation(tone, per_pixel, lens), 1e-3)
        assert 1 / FACTOR < ratio < FACTOR, (tone, ratio)


def test_deviation_against_the_integral_of_its_spectrum() -> None:
    """By quadrature over both frequencies, in cycles per pixel."""
    tone, per_pixel, lens, motion = 0.3, 2.5, 0.4, 1.5
    f = np.linspace(-6, 6, 2401)
    fx, fy = f[:, None], f[None]
    a = (2 * math.pi * 0.11) ** 2 / (tone * (1 - tone)) / per_pixel**2
    spectrum = (fx**2 + fy**2) * np.exp(-a * (fx**2 + fy**2))
    spectrum *= tone * (1 - tone) / (spectrum.sum() * (f[1] - f[0]) ** 2)
    seen = np.sinc(fx) ** 2 * np.sinc(fy) ** 2 * np.exp(-4 * math.pi**2 * lens**2 * (fx**2 + fy**2))
    seen = seen * np.exp(-4 * math.pi**2 * motion**2 / 12 * fx**2)
    expected = math.sqrt((spectrum * seen).sum() * (f[1] - f[0]) ** 2)
    assert deviation(tone, per_pixel, lens, motion) == pytest.approx(expected, rel=2e-3)


def test_deviation_at_its_limits() -> None:
    # Far finer than a dot, a pixel sees black or white.
    assert deviation(0.3, 1e-3) == pytest.approx(math.sqrt(0.3 * 0.7), rel=1e-3)
    assert deviation(0.2, 3, 0.4) == pytest.approx(deviation(0.8, 3, 0.4), rel=1e-6)
    # Four times the dots behind a lens: sixteen times less; behind none, eight times.
    assert deviation(0.4, 8, 0.5) / deviation(0.4, 32, 0.5) == pytest.approx(16, rel=0.1)
    assert deviation(0.4, 32) / deviation(0.4, 128) == pytest.approx(8, rel=0.1)
    assert deviation(0.4, 4, 0.4, 3.0) < 0.7 * deviation(0.4, 4, 0.4)
    assert deviation(0, 2) < 1e-3
    assert deviation(1, 2) < 1e-3


@pytest.mark.parametrize(("per_pixel", "ratio"), [(1.3, 2), (1.3, 4), (2.0, 2), (2.0, 4), (2.0, 6), (3.0, 2)])
def test_what_is_left_on_the_canvas_is_what_a_mosaic_and_shrinking_leave(
    dots: Array, per_pixel: float, ratio: int
) -> None:
    """Brute force: dots, lens, pixels, Bayer sites, demosaicing, means over the pixels of the canvas."""
    lens = 0.35
    n = int(SIDE / per_pixel) // (2 * ratio) * 2 * ratio
    blurred = ndimage.gaussian_filter(dots, (0, lens * per_pixel, lens * per_pixel))
    native = np.ascontiguousarray(averaged(blurred, per_pixel)[:, :n, :n], np.float32)
    m = n // ratio
    for tone, picture in zip(TONES[1:-1], native[1:-1], strict=True):
        full = camera.demosaic(torch.from_numpy(picture)[None, None].contiguous())
        expected = full.view(3, m, ratio, m, ratio).mean((2, 4))[:, 2:-2, 2:-2].std((1, 2))
        # A sheet that has this many dots along each canvas pixel.
        plane = optics.grid(96, 96)[None] * 0.5
        per_canvas_px = per_pixel * ratio * 96  # dots over a width of 1 in plane units
        d = parameters(print_halftone="fm", print_dots=per_canvas_px * 2 * FACE_HALF, print_grain=1.0)
        found = paper.screen(plane, torch.full((1, 3, 96, 96), tone), [d], sensor(ratio, lens))[0].std((1, 2)) * tone
        # Darkness is cut at a third of the tone.
        both = found / expected.clamp_max(tone / 3)
        assert (both > 1 / FACTOR).all(), (tone, both)
        assert (both < FACTOR).all(), (tone, both)


def parameters(**values: Value) -> Draws:
    d = Draws(0, 0)
    d.values = values
    return d


def printed(size: int = 128, tone: float = 0.5, soft: float = 0.0, **values: Value) -> Tensor:
    """The factor of a halftone (3, S, S); a plane unit over the whole canvas."""
    plane = optics.grid(size, size)[None] * 0.5
    return paper.screen(plane, torch.full((1, 3, size, size), tone), [parameters(**values)], sensor(1, 0.3, soft))[0]


LINES: dict[str, Value] = {"print_halftone": "am", "print_lines": 30 * 2 * FACE_HALF, "print_screen": 0.5}
SCATTER: dict[str, Value] = {"print_halftone": "fm", "print_dots": 160 * 2 * FACE_HALF, "print_grain": 0.5}


def peak_over_median(picture: Tensor) -> float:
    power = np.abs(np.fft.rfft2(picture.numpy() - float(picture.mean()))) ** 2
    return float(power.max() / np.median(power))


def test_scattered_dots_have_no_peak_in_the_spectrum_where_lines_have_one() -> None:
    for channel in range(3):
        assert peak_over_median(printed(**LINES)[channel]) > 1e3
        # Power of noise is exponential: the largest of 8,000 is some 13 times the median.
        assert 8 < peak_over_median(printed(**SCATTER)[channel]) < 25


def test_scattered_dots_keep_the_mean_have_the_strength_that_is_drawn_and_differ_from_ink_to_ink() -> None:
    for tone in (0.02, 0.2, 0.5, 0.9):
        factor = printed(tone=tone, **SCATTER)
        expected = min(0.5 * deviation(round(tone * 255) / 255, 160 / 128, 0.3) / tone, 1 / 3)
        np.testing.assert_allclose(factor.mean((1, 2)), 1, atol=5 * expected / 128 + 1e-4)
        np.testing.assert_allclose(factor.std((1, 2)), expected, rtol=0.05)
        assert float(factor.min()) >= 0
    factor = printed(**SCATTER)
    correlation = np.corrcoef(factor.flatten(1).numpy())
    assert np.abs(correlation - np.eye(3)).max() < 0.05
    np.testing.assert_allclose(printed(tone=1.0, **SCATTER), 1, atol=1e-3)
    assert torch.equal(printed(**SCATTER | {"print_grain": 0.0}), torch.ones(3, 128, 128))


def test_softness_after_sampling_smooths_the_noise() -> None:
    sharp, soft = printed(**SCATTER)[1], printed(soft=0.8, **SCATTER)[1]
    # White noise behind a Gaussian: 1 / (2·sigma·√π), a little more on pixels.
    assert float(soft.std() / sharp.std()) == pytest.approx(1 / (2 * 0.8 * math.sqrt(math.pi)), rel=0.05)
    neighbours = np.corrcoef(soft[:, 1:].flatten(), soft[:, :-1].flatten())[0, 1]
    assert neighbours == pytest.approx(math.exp(-1 / (4 * 0.8**2)), abs=0.05)


def test_lines_are_as_they_are_alone_in_a_batch_with_scattered_dots() -> None:
    plane = optics.grid(64, 64)[None].expand(3, 64, 64, 2) * 0.5
    ink = torch.full((3, 3, 64, 64), 0.4)
    every = Sensor(*(part.expand(3, 1, 1, 1) for part in sensor(1, 0.3).parts))
    kinds = [LINES, SCATTER, LINES | {"print_phase": 1.0}]
    together = paper.screen(plane, ink, [parameters(**kind) for kind in kinds], every)
    for i, kind in enumerate(kinds):
        alone = paper.screen(plane[i : i + 1], ink[:1], [parameters(**kind)], sensor(1, 0.3))
        assert torch.equal(alone[0], together[i])


@pytest.fixture(scope="module")
def simulator(face_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Simulator:
    return make_simulator(face_pack, tmp_path_factory.mktemp("tiles"), "train", SEED)


def test_kinds_of_print_scatter_their_dots_as_often_as_is_said(simulator: Simulator) -> None:
    drawn = [v for i in range(4000) if (v := simulator.draw(i).values).get("species") == "print"]
    for kind, (share, (low, high)) in paper.SCATTERED.items():
        group = [v for v in drawn if v["subtype"] == kind]
        scattered = [v for v in group if v["print_halftone"] == "fm"]
        four = 4 * math.sqrt(share * (1 - share) / len(group))
        assert len(scattered) / len(group) == pytest.approx(share, abs=four), kind
        assert all(low <= float(v["print_dots"]) <= high for v in scattered)
        assert all(("print_lines" in v) != ("print_dots" in v) for v in group)


def test_scattered_dots_are_switched_off_with_the_noise_that_follows_them_kept(simulator: Simulator) -> None:
    index = next(i for i in range(200) if simulator.draw(i).values.get("print_halftone") == "fm")
    changes: dict[str, Value] = {"print_dots": 150.0, "native_ratio": 1.0, "lens_blur": 0.3, "defocus": 0.0}
    changes |= {"glare": 0.0, "lamp": 0.0, "motion": 0.0, "shot_noise": 0.0, "read_noise": 0.0}
    # Levels and tone follow the darkest and the lightest pixels, which noise makes darker and lighter.
    changes |= {"auto_black": 0.0, "auto_white": 0.0, "tone_contrast": 0.0, "tone_gamma": 1.0, "sharpen": 0.0}
    on = simulator.draw(index)
    on.values |= changes
    off, bare = switch_off(on, "error_diffusion"), switch_off(on, "error_diffusion")
    bare.values |= {"print_dots": 900.0}
    pictures = [s.picture.astype(int) for s in simulator.render([on, off, bare])]
    assert np.array_equal(pictures[1], pictures[2])
    assert not np.array_equal(pictures[0], pictures[1])
    # The same picture but for fine noise.
    assert abs((pictures[0] - pictures[1]).mean()) < 1
