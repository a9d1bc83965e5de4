"""The simulator's parts against hand values, brute force and numerical integration."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from training.data.simulate import camera, colour, compose, display, light, moire, optics, paper
from training.data.simulate.codec import jpeg
from training.data.simulate.draws import Draws, Value
from training.data.simulate.moire import Sensor
from training.data.simulate.scene import FACE_HALF


def parameters(**values: Value) -> Draws:
    """Draws with these values only; everything else has its default."""
    d = Draws(0, 0)
    d.values = values
    return d


def scalar(value: float) -> Tensor:
    return torch.full((1, 1, 1, 1), value)


# --- colour ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("srgb", "linear"),
    # IEC 61966-2-1: the straight part, the joint, and mid-tones as tabulated for 8 bits (10, 128, 200, 255).
    [(0, 0), (10, 0.00303527), (128, 0.21586050), (200, 0.57758044), (255, 1)],
)
def test_srgb_bytes_have_the_linear_light_of_the_standard_and_come_back(srgb: int, linear: float) -> None:
    value = torch.tensor(srgb / 255)
    assert colour.to_linear(value).item() == pytest.approx(linear, abs=1e-6)
    assert colour.bytes_to_linear(torch.tensor(srgb, dtype=torch.uint8)).item() == pytest.approx(linear, abs=1e-6)
    assert colour.to_srgb(torch.tensor(linear)).item() == pytest.approx(srgb / 255, abs=1e-5)


def test_linear_light_agrees_with_opencv_on_all_bytes() -> None:
    """OpenCV goes through linear light to L*, by tables good to half a per cent; L* is undone by its definition."""
    grey = np.repeat(np.linspace(0, 1, 256, dtype=np.float32), 3).reshape(1, -1, 3)
    lightness = cv2.cvtColor(grey, cv2.COLOR_RGB2Lab)[0, :, 0].astype(np.float64)
    expected = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / (24389 / 27))
    found = colour.bytes_to_linear(torch.arange(256, dtype=torch.uint8)).numpy()
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_there_and_back_is_the_identity_and_what_is_outside_is_clipped() -> None:
    x = torch.linspace(0, 1, 1001)
    np.testing.assert_allclose(colour.to_srgb(colour.to_linear(x)), x, atol=2e-6)
    assert colour.to_srgb(torch.tensor([-1.0, 3.0])).tolist() == pytest.approx([0, 1])


def test_saturation_zero_is_grey_of_the_same_luma_and_one_changes_nothing() -> None:
    rgb = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    grey = colour.saturate(rgb, scalar(0))
    luma = 0.2126 * rgb[0, 0] + 0.7152 * rgb[0, 1] + 0.0722 * rgb[0, 2]
    for channel in range(3):
        np.testing.assert_allclose(grey[0, channel], luma, atol=1e-6)
    np.testing.assert_allclose(colour.saturate(rgb, scalar(1)), rgb, atol=1e-6)


def test_white_is_neutral_at_6500_kelvin_red_below_and_blue_above() -> None:
    assert colour.white_point(scalar(6500)).flatten().tolist() == pytest.approx([1, 1, 1])
    for kelvin, sign in ((3000, 1), (9000, -1)):
        red, green, blue = colour.white_point(scalar(kelvin)).flatten().tolist()
        assert sign * (red - green) > 0
        assert sign * (green - blue) > 0


# --- lens and pixel -------------------------------------------------------------------------------------------------


def sensor(ratio: float = 1.0, lens: float = 0.4, motion: float = 0.0, angle: float = 0.0, soft: float = 0.0) -> Sensor:
    return Sensor(*(scalar(v) for v in (ratio, lens, motion, angle, soft)))


@pytest.mark.parametrize("sigma", [0.25, 0.6, 1.5])
@pytest.mark.parametrize("frequency", [0.05, 0.31, 0.7, 1.3])
def test_what_is_left_before_sampling_is_the_integral_over_the_point_spread(frequency: float, sigma: float) -> None:
    x = np.linspace(-12, 12, 48001)
    edge = np.vectorize(math.erf)
    scale = sigma * math.sqrt(2)
    spread = (edge((x + 0.5) / scale) - edge((x - 0.5) / scale)) / 2
    expected = np.trapezoid(spread * np.cos(2 * np.pi * frequency * x), x)
    camera_ = sensor(lens=sigma)
    assert moire.before_sampling(scalar(frequency), scalar(0), camera_).item() == pytest.approx(expected, abs=1e-5)
    assert moire.before_sampling(scalar(0), scalar(frequency), camera_).item() == pytest.approx(expected, abs=1e-5)


def test_motion_wipes_out_stripes_that_it_crosses_by_a_period_and_spares_those_along_it() -> None:
    still, crossing = sensor(lens=0.3), sensor(lens=0.3, motion=2.5, angle=0.0)
    assert moire.before_sampling(scalar(0.4), scalar(0), crossing).item() == pytest.approx(0, abs=1e-6)
    along = moire.before_sampling(scalar(0), scalar(0.4), crossing)
    assert along.item() == pytest.approx(moire.before_sampling(scalar(0), scalar(0.4), still).item())


@pytest.mark.parametrize("quincunx", [False, True])
def test_the_alias_is_the_nearest_of_all_lattice_vectors(quincunx: bool) -> None:
    f = torch.rand(400, 2, generator=torch.Generator().manual_seed(4)) * 5 - 2.5
    lattice = np.array([(m / 2, n / 2) for m in range(-8, 9) for n in range(-8, 9) if not quincunx or (m + n) % 2 == 0])
    nearest = lattice[((f.numpy()[:, None] - lattice) ** 2).sum(2).argmin(1)]
    found = torch.stack(moire.nearest_alias(f[:, 0], f[:, 1], quincunx=quincunx), 1)
    np.testing.assert_array_equal(found, nearest)


def striped_screen(frequency: float, width: float, shift: float, sigma: float, n: int) -> np.ndarray:
    """Brute force: a screen of lit stripes seen by n pixels through lens and aperture.

    The screen, of mean 1, is laid out in 100 cells per sensor pixel, blurred with a Gaussian and averaged over each
    pixel. A stripe of ``width`` periods is centred where position * frequency + shift is whole.
    """
    fine, margin = 100, 5
    edges = np.arange((n + 2 * margin) * fine + 1) / fine - margin - 0.5
    # Lit length up to each edge of a cell: whole periods, and the lit part of the last.
    periods, rest = np.divmod(edges * frequency + shift + 0.5, 1)
    lit = periods * width + np.clip(rest - (0.5 - width / 2), 0, width)
    screen = np.diff(lit) * fine / frequency / width
    r = np.arange(-4 * fine, 4 * fine + 1) / fine
    gauss = np.exp(-(r**2) / (2 * sigma**2))
    seen = np.convolve(screen, gauss / gauss.sum(), mode="same")
    return seen.reshape(-1, fine).mean(1)[margin:-margin]


#: First row and column of the sites of red, green and blue in an RGGB mosaic (green: those of the even rows).
SITES = ((0, 0), (0, 1), (1, 1))


def sampled(frequency: float, sigma: float, n: int, *, fill: float, phase: float, vertical: bool = False) -> Tensor:
    """What the simulator says about the same pixels, on a camera that is not shrunk: (3, n, n)."""
    place = torch.arange(n, dtype=torch.float32) * frequency
    # Across, the pitch is far beyond the lens.
    fine = 50 * torch.arange(n, dtype=torch.float32)
    x, y = (fine, place) if vertical else (place, fine)
    plane = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]
    d = parameters(display_face_px=2 * FACE_HALF, display_fill=fill, display_phase=phase, display_layout="stripe")
    return display.pixel_structure(plane, [d], sensor(lens=sigma))[0]


@pytest.mark.parametrize(("frequency", "sigma"), [(0.43, 0.35), (0.58, 0.45), (0.7, 0.4), (0.93, 0.3), (1.2, 0.3)])
def test_at_ratio_one_sub_pixel_stripes_are_sampled_as_by_brute_force(frequency: float, sigma: float) -> None:
    """Third-wide stripes of red, green, blue, a third of a period apart, at the sites of each colour.

    Within 0.2 % of the mean light; what is left is harmonics above the second, which lens and pixel all but remove.
    """
    phase = 1.1
    found = sampled(frequency, sigma, 60, fill=1.0, phase=phase)
    for channel, (row, column) in enumerate(SITES):
        shift = channel / 3 + phase / (2 * math.pi)
        expected = striped_screen(frequency, 1 / 3, shift, sigma, 60)
        for y in range(row, 60, 2):
            np.testing.assert_allclose(found[channel, y, column::2], expected[column::2], atol=2e-3)


def test_at_ratio_one_gaps_between_rows_are_sampled_as_by_brute_force() -> None:
    frequency, sigma, fill, phase = 0.62, 0.45, 0.7, 0.4
    found = sampled(frequency, sigma, 60, fill=fill, phase=phase, vertical=True)
    expected = striped_screen(frequency, fill, phase / (2 * math.pi), sigma, 60)
    for channel, (row, column) in enumerate(SITES):
        # Along a column the stripes add a constant.
        difference = found[channel, row::2, column].double().numpy() - expected[row::2]
        np.testing.assert_allclose(difference, difference.mean(), atol=2e-3)


def test_a_pitch_near_the_sensors_own_makes_slow_moire_of_the_amplitude_worked_out_by_hand() -> None:
    """0.9 periods per pixel are seen as 0.1; the first harmonic of a third-wide stripe is 2·sinc(1/3) = 1.654.

    With sigma 0.3: Gaussian exp(-2(π·0.9·0.3)²) = 0.2371, pixel sin(0.9π)/(0.9π) = 0.1093; product 0.04287.
    """
    found = sampled(0.9, 0.3, 100, fill=1.0, phase=0.7)[1, 0].double().numpy()
    spectrum = np.abs(np.fft.rfft(found - found.mean())) / 50
    assert int(spectrum.argmax()) == 10  # cycles in 100 pixels
    assert spectrum.max() == pytest.approx(1.6540 * 0.2371 * 0.1093, rel=2e-3)
    assert found.mean() == pytest.approx(1, abs=1e-3)


def test_a_pitch_that_the_lens_cannot_resolve_leaves_an_even_screen() -> None:
    assert torch.equal(sampled(3.3, 1.2, 50, fill=0.8, phase=0.2), torch.ones(3, 50, 50))


def photographed(cycles: tuple[int, int], n: int, sigma: float, ratio: int) -> np.ndarray:
    """Brute force: stripes drawn 12 times finer than the sensor, photographed, demosaiced, shrunk: (3, n/r, n/r).

    Lit stripes of a third of a period, ``cycles`` periods over the picture along x and y, each colour a third of a
    period on. Gaussian lens, mean over each pixel, RGGB sites, ideal low-pass of what each colour's sites can tell
    apart, mean over ``ratio`` x ``ratio`` pixels.
    """
    fine = 12
    edges, place = np.arange(n * fine + 1) / fine - 0.5, (np.arange(n * fine) + 0.5) / fine - 0.5
    fx, fy = np.fft.fftfreq(n)[None], np.fft.fftfreq(n)[:, None]
    out = []
    for channel in range(3):
        # Lit length up to each edge of a cell, in periods: whole ones, and the lit part of the last.
        turns, rest = np.divmod((cycles[0] * edges[None] + cycles[1] * place[:, None]) / n + channel / 3 + 0.5, 1)
        lit = np.diff(turns / 3 + np.clip(rest - 1 / 3, 0, 1 / 3), axis=1) * 3 * fine * n / cycles[0]
        seen = ndimage.gaussian_filter(lit, sigma * fine, mode="wrap", truncate=4)
        seen = seen.reshape(n, fine, n, fine).mean((1, 3))
        sites = camera.bayer(n)[0, channel].numpy()
        cell = np.abs(fx) + np.abs(fy) < 0.5 if channel == 1 else np.maximum(np.abs(fx), np.abs(fy)) < 0.25
        full = np.fft.ifft2(np.fft.fft2(seen * sites / sites.mean()) * cell).real
        out.append(full.reshape(n // ratio, ratio, n // ratio, ratio).mean((1, 3)))
    return np.stack(out)


def simulated(cycles: tuple[int, int], n: int, sigma: float, ratio: int) -> np.ndarray:
    """The simulator's word on the same."""
    place = (torch.arange(n // ratio, dtype=torch.float32) + 0.5) * ratio - 0.5
    plane = torch.zeros(1, n // ratio, n // ratio, 2)
    plane[..., 0] = (cycles[0] * place + cycles[1] * place.view(-1, 1)) / n
    d = parameters(display_face_px=2 * FACE_HALF, display_fill=1.0, display_phase=0.0, display_layout="stripe")
    return display.pixel_structure(plane, [d], sensor(ratio, sigma))[0].double().numpy()


# Periods per native pixel: about 0.45, 0.52, 0.90, 1.04, straight and slanting.
@pytest.mark.parametrize("cycles", [(65, 0), (65, 11), (75, 4), (50, 50), (130, 6), (150, -8)])
@pytest.mark.parametrize("ratio", [2, 3, 6])
def test_moire_equals_a_brute_force_photograph_of_the_screen(cycles: tuple[int, int], ratio: int) -> None:
    """Whole pictures within 0.6 % of the mean light; the strongest beat at the same place, and as strong."""
    n, sigma = 144, 0.35
    expected, found = photographed(cycles, n, sigma, ratio), simulated(cycles, n, sigma, ratio)
    np.testing.assert_allclose(found, expected, atol=6e-3)
    for channel in range(3):
        spectra = [np.abs(np.fft.rfft2(picture[channel] - 1)) * 2 / (n // ratio) ** 2 for picture in (expected, found)]
        if spectra[0].max() > 0.02:
            peak = spectra[0].argmax()
            assert spectra[1].argmax() == peak
            assert spectra[1].flat[peak] == pytest.approx(spectra[0].flat[peak], rel=0.06)


def test_half_a_period_per_pixel_beats_in_red_and_blue_but_not_in_green() -> None:
    """Red and blue sites are two pixels apart, green ones as fine as the sensor along rows: moiré has colours."""
    found = simulated((75, 0), 144, 0.35, 4)
    red, green, blue = np.abs(np.fft.rfft(found[:, 0] - 1)).argmax(1), found[1].std(), found[2].std()
    assert red[0] == red[2] == 3  # 75 - 144/2 cycles
    assert found[0].std() > 0.2
    assert blue > 0.2
    assert green < 0.1 * blue


def test_softness_after_sampling_weakens_a_beat_by_its_frequency_in_the_picture() -> None:
    """0.9 periods are seen as 0.1, at ratio 2 as 0.2 per canvas pixel: exp(-2(π·0.2·0.7)²) = 0.6791."""
    cycles = torch.arange(50.0).mul(2 * 0.9).view(1, 1, 1, 50).expand(1, 1, 50, 50)
    sharp = moire.aliased(cycles, scalar(0), sensor(2, 0.3))
    soft = moire.aliased(cycles, scalar(0), sensor(2, 0.3, soft=0.7))
    np.testing.assert_allclose(soft, sharp * 0.6791, atol=1e-5)
    assert sharp.std() > 0.01


def test_defocus_blurs_before_sampling_and_softness_after_it() -> None:
    d = parameters(lens_blur=1.4, native_ratio=3.0, native_lens=0.8, motion=2.0, motion_angle=0.5)
    found = camera.native_sensor([d])
    # 0.6 canvas pixels of defocus are 1.8 native ones; with the lens √(0.8² + 1.8²).
    assert found.lens.item() == pytest.approx(1.9698, abs=1e-4)
    assert found.soft.item() == pytest.approx(0.8)
    assert (found.motion.item(), found.motion_angle.item()) == pytest.approx((6.0, 0.5))
    assert camera.native_sensor([parameters(lens_blur=0.5, native_lens=0.4)]).lens.item() == pytest.approx(0.4)


def test_a_halftone_is_deepest_in_the_shadows_and_gone_on_bare_paper() -> None:
    plane = optics.grid(40, 40)[None] * 0.5
    d = parameters(print_lines=10 * 2 * FACE_HALF, print_screen=0.5, print_phase=0.3)
    depth = [
        (paper.screen(plane, torch.full((1, 3, 40, 40), tone), [d], sensor()) - 1).abs().max().item()
        for tone in (0.1, 0.6, 1.0)
    ]
    assert depth[0] / depth[1] == pytest.approx(0.9 / 0.4, rel=1e-4)
    assert depth[0] > 0.1
    assert depth[2] == 0


def test_blur_keeps_the_mean_spreads_by_its_sigma_and_leaves_sigma_zero_alone() -> None:
    dot = torch.zeros(2, 1, 31, 31)
    dot[:, :, 15, 15] = 1
    out = optics.blur(dot, torch.tensor([1.2, 0.0]).view(2, 1, 1, 1), 13)
    assert torch.equal(out[1], dot[1])
    profile = out[0, 0].sum(0).double().numpy()
    assert profile.sum() == pytest.approx(1, abs=1e-6)
    variance = (profile * (np.arange(31) - 15) ** 2).sum()
    assert math.sqrt(variance) == pytest.approx(1.2, abs=0.01)


def test_motion_blur_smears_along_its_angle_only() -> None:
    dot = torch.zeros(1, 1, 21, 21)
    dot[..., 10, 10] = 1
    out = optics.motion_blur(dot, scalar(6), scalar(0))[0, 0]
    # Six pixels of path, cut into pixels: half of the first and of the last.
    np.testing.assert_allclose(out[10, 7:14] * 6, [0.5, 1, 1, 1, 1, 1, 0.5], atol=1e-5)
    assert out[10].sum() == pytest.approx(1, abs=1e-5)
    assert torch.equal(optics.motion_blur(dot, scalar(0), scalar(1)), dot)


# --- geometry -------------------------------------------------------------------------------------------------------


def test_points_are_shared_by_the_batch_also_when_there_are_as_many_rows_as_samples() -> None:
    matrices = optics.homography(torch.linspace(0, 1, 4), torch.ones(4), torch.rand(4, 2), torch.rand(4, 2) * 0.2)
    together = optics.apply(matrices, optics.grid(4, 4))
    for i in range(4):
        np.testing.assert_allclose(together[i], optics.apply(matrices[i : i + 1], optics.grid(4, 4))[0])


def test_a_view_maps_points_as_worked_out_one_by_one() -> None:
    rotation, zoom, shift, tilt = 0.3, 0.8, (0.1, -0.2), (0.15, -0.1)
    matrix = optics.homography(
        torch.tensor([rotation]), torch.tensor([zoom]), torch.tensor([shift]), torch.tensor([tilt])
    )
    found = optics.apply(matrix, optics.grid(3, 5))[0]
    for row in range(3):
        for column in range(5):
            x, y = (column + 0.5) / 5 * 2 - 1, (row + 0.5) / 3 * 2 - 1
            depth = 1 + tilt[0] * x + tilt[1] * y
            x, y = x / depth, y / depth
            expected = (
                zoom * (math.cos(rotation) * x - math.sin(rotation) * y) + shift[0],
                zoom * (math.sin(rotation) * x + math.cos(rotation) * y) + shift[1],
            )
            assert found[row, column].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("tilt", "tolerance"), [(0.0, 0.6), (0.25, 3.0)])
def test_the_face_box_covers_the_pixels_that_look_at_the_face(tilt: float, tolerance: float) -> None:
    """Brute force: every pixel is mapped; those inside the face's square give its area and its middle.

    The middle is that of the face, not of its picture, which a tilt shifts a little.
    """
    d = parameters(view_roll=0.2, view_zoom=1.1, view_x=0.05, view_y=-0.04, view_tilt_x=tilt, view_mirror=1)
    matrix = compose.view_matrices([d])
    size = 600
    seen = optics.apply(matrix, optics.grid(size, size))[0].numpy()
    rows, _ = np.nonzero((np.abs(seen) < FACE_HALF).all(2))
    x1, y1, x2, y2 = compose.face_box(matrix[0], size)
    side = math.sqrt(len(rows))
    assert x2 - x1 == pytest.approx(y2 - y1, abs=1e-3)
    assert x2 - x1 == pytest.approx(side, abs=tolerance)
    row, column = np.unravel_index(np.hypot(seen[..., 0], seen[..., 1]).argmin(), (size, size))
    assert ((x1 + x2) / 2, (y1 + y2) / 2) == pytest.approx((column + 0.5, row + 0.5), abs=1)


def test_a_flat_sheet_is_left_as_it_is() -> None:
    plane = optics.grid(9, 7)[None] * 0.8
    bent, shading = paper.bend(plane, [parameters(bend=0.0, bend_angle=0.4, crease=0.0, crease_place=0.3)])
    np.testing.assert_allclose(bent, plane, atol=1e-6)
    np.testing.assert_array_equal(shading, 1)


@pytest.mark.parametrize("kappa", [0.8, -0.5])
def test_a_bent_sheet_shows_the_length_of_the_arc(kappa: float) -> None:
    """The arc over [0, x] of a cylinder of curvature κ, integrated: ∫ dt / √(1 - κ²t²)."""
    place = torch.tensor([0.1, 0.4, 0.9])
    plane = torch.stack([place, torch.zeros(3)], -1).view(1, 1, 3, 2)
    bent, shading = paper.bend(plane, [parameters(bend=kappa)])
    for i, x in enumerate(place.tolist()):
        t = np.linspace(0, x, 20001)
        assert bent[0, 0, i, 0].item() == pytest.approx(np.trapezoid(1 / np.sqrt(1 - (kappa * t) ** 2), t), abs=1e-5)
    assert bent[..., 1].abs().max() < 1e-6
    # Away from the middle the sheet turns away from a frontal light on one side at least.
    assert shading[0, 0, 0, 2].item() < (1.0 if kappa < 0 else 1.3)


def test_cuts_repeat_the_edge_and_leave_the_rest() -> None:
    picture = torch.arange(100).view(1, 10, 10, 1).expand(-1, -1, -1, 3).to(torch.uint8)
    d = parameters(cut_left=0.2, cut_top=0.0, cut_right=0.1, cut_bottom=0.0)
    out = compose.truncate(picture, [d])[0, 0, :, 0].tolist()
    assert out == [2, 2, 2, 3, 4, 5, 6, 7, 8, 8]


# --- camera ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 12])
def test_the_mosaic_leaves_even_colours_as_they_are(size: int) -> None:
    colours = torch.tensor([[0.2, 0.5, 0.7], [0.0, 1.0, 0.3]]).view(2, 3, 1, 1)
    quiet = parameters(shot_noise=0.0, read_noise=0.0)
    out = camera.sense(colours.expand(-1, -1, size, size), [quiet, parameters(**quiet.values)])
    np.testing.assert_allclose(out, colours.expand(-1, -1, size, size), atol=1e-6)


def test_the_mosaic_has_two_greens_to_one_red_and_one_blue() -> None:
    mask = camera.bayer(6)
    assert mask.sum(1).eq(1).all()
    assert mask.sum((2, 3)).flatten().tolist() == [9, 18, 9]
    assert mask[0, :, :2, :2].argmax(0).tolist() == [[0, 1], [1, 2]]


def test_missing_colours_are_the_mean_of_their_measured_neighbours() -> None:
    light_ = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    out = camera.sense(light_, [parameters(shot_noise=0.0, read_noise=0.0)])[0]
    red, green, blue = light_[0]
    assert out[0, 2, 2] == red[2, 2]  # measured there
    assert out[1, 2, 2].item() == pytest.approx((green[1, 2] + green[3, 2] + green[2, 1] + green[2, 3]).item() / 4)
    assert out[2, 2, 2].item() == pytest.approx((blue[1, 1] + blue[1, 3] + blue[3, 1] + blue[3, 3]).item() / 4)
    assert out[0, 2, 3].item() == pytest.approx((red[2, 2] + red[2, 4]).item() / 2)


def test_noise_has_the_variance_of_photons_and_electronics() -> None:
    grey = torch.full((1, 3, 160, 160), 0.4)
    out = camera.sense(grey, [parameters(shot_noise=1e-3, read_noise=5e-3)])
    measured = out[camera.bayer(160).bool()].double()
    assert measured.mean().item() == pytest.approx(0.4, abs=5e-4)
    assert measured.var().item() == pytest.approx(1e-3 * 0.4 + 5e-3**2, rel=0.05)


@pytest.mark.parametrize("brightness", [0.01, 1.0, 30.0])
def test_exposure_meters_the_middle_to_its_target_whatever_the_scene(brightness: float) -> None:
    scene = brightness * torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    d = parameters(exposure_target=0.2, awb_strength=0.5, awb_red=0.9, awb_blue=1.1)
    middle = camera.expose(scene, [d])[0, :, 8:24, 8:24].double().mean((1, 2))
    assert (middle * torch.tensor([0.2126, 0.7152, 0.0722])).sum().item() == pytest.approx(0.2, rel=1e-5)


def test_full_white_balance_makes_the_middle_grey() -> None:
    scene = torch.rand(1, 3, 32, 32) * torch.tensor([0.9, 0.5, 0.2]).view(1, 3, 1, 1)
    middle = camera.expose(scene, [parameters(awb_strength=1.0)])[0, :, 8:24, 8:24].mean((1, 2))
    np.testing.assert_allclose(middle / middle[1], 1, atol=1e-5)


def test_quality_zero_only_rounds_and_other_qualities_compress() -> None:
    pictures = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    out = jpeg(pictures, torch.tensor([0.0, 80.0]).view(2, 1, 1, 1))
    np.testing.assert_array_equal(out[0], np.round(pictures[0].numpy() * np.float32(255)) / np.float32(255))
    assert (out[1] - pictures[1]).abs().max() > 1 / 255


def test_room_light_without_gradient_and_mixture_is_even() -> None:
    lit = light.room_light([parameters(light_kelvin=3000, light_mix=0.0, light_gradient=0.0)], 16)
    np.testing.assert_allclose(lit, 1, atol=1e-6)
    ramp = light.room_light([parameters(light_gradient=0.8, light_angle=0.0)], 16)[0, 0]
    assert ramp[0, -1] > ramp[0, 0]
    assert torch.equal(ramp[0], ramp[9])


@pytest.mark.parametrize(("curvature", "ratio"), [(0.9, 1.0), (0.8, 2.6), (-0.6, 1.5)])
def test_moire_of_a_strongly_bent_print_equals_a_pixel_by_pixel_evaluation(curvature: float, ratio: float) -> None:
    # The phase of a screen of 130 lines per unit round a cylinder; 3 % of its amplitude at the worst pixel, at the edge
    # of the canvas, 2 % elsewhere.
    size, lines = 224, 130.0
    x = (torch.arange(size) + 0.5) / size * 2 - 1
    cycles = (lines * torch.asin(curvature * x) / curvature).expand(size, size).contiguous()[None, None]
    cycles = cycles + 0.2 * cycles.transpose(2, 3)
    found = moire.aliased(cycles, scalar(0), sensor(ratio, 0.3))
    fy, fx = (torch.from_numpy(np.stack(np.gradient(cycles[0, 0].double().numpy()))) / ratio).unbind()
    native = (torch.arange(size) + 0.5 - size // 2) * ratio - 0.5
    for channel, (site_x, site_y) in enumerate(((0, 0), (1, 0), (1, 1))):
        # Brute force: of all lattice vectors in reach the nearest, at every pixel.
        steps = [(m / 2, n / 2) for m in range(-6, 7) for n in range(-3, 4) if channel != 1 or (m + n) % 2 == 0]
        away = torch.stack([(fx - m).square() + (fy - n).square() for m, n in steps])
        nearest = torch.tensor(steps, dtype=torch.float64)[away.argmin(0)]
        nx, ny = nearest[..., 0], nearest[..., 1]
        turns = cycles[0, 0] - nx * (native[None, :] - site_x) - ny * (native[:, None] - site_y)
        ax, ay = fx - nx, fy - ny
        shrunk = torch.sinc(ratio * ax) / torch.sinc(ax) * torch.sinc(ratio * ay) / torch.sinc(ay)
        lens = torch.exp(-2 * (math.pi * 0.3) ** 2 * (fx**2 + fy**2)) * torch.sinc(fx) * torch.sinc(fy)
        expected = torch.cos(2 * math.pi * turns) * shrunk * lens
        wrong = (found[0, channel] - expected).abs()
        assert float(wrong.max()) < 0.03
        assert float(wrong[4:-4, 4:-4].max()) < 0.02


@pytest.mark.parametrize("gamma", [0.9, 1.0, 1.3, 1.55])
def test_a_print_steepens_tones_about_middle_grey_and_clips_none(gamma: float) -> None:
    tones = torch.tensor([0.0, 1e-5, 0.05, paper.MIDDLE_GREY, 0.5, 0.95, 1.0], dtype=torch.float64)
    slope = torch.tensor(gamma, dtype=torch.float64)
    found = paper.about_middle_grey(tones, slope)
    torch.testing.assert_close(found[[0, 3, 6]], tones[[0, 3, 6]])
    assert (found.diff() > 0).all()
    step = torch.tensor([-1e-6, 1e-6], dtype=torch.float64)
    rise = paper.about_middle_grey(paper.MIDDLE_GREY + step, slope).diff() / 2e-6
    assert float(rise) == pytest.approx(gamma, abs=1e-4)
