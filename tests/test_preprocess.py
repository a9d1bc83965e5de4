"""Crops against plain cut-outs, pixel arithmetic and hostile boxes."""

from __future__ import annotations

import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasedge.errors import InputError
from fasedge.preprocess import InputSpec, crop_face, crop_faces
from fasedge.types import Box, Face, Frame

_RNG = np.random.default_rng(7)
_PICTURE = _RNG.integers(0, 256, (97, 131, 3), np.uint8)
_FAR = st.floats(-1e7, 1e7)


def _box_of_square(x, y, side, scale):
    """The face box whose crop at ``scale`` is the square at (x, y)."""
    cx, cy, half = x + side / 2, y + side / 2, side / scale / 2
    return Box(cx - half, cy - half, cx + half, cy + half)


@given(st.data())
@settings(max_examples=60)
def test_a_crop_inside_the_frame_equals_a_plain_cut_out_and_resize(data):
    side = data.draw(st.integers(2, 97))
    x, y = data.draw(st.integers(0, 131 - side)), data.draw(st.integers(0, 97 - side))
    size, scale = data.draw(st.integers(1, 160)), data.draw(st.sampled_from([0.5, 1.0, 2.0, 4.0]))
    cut_out = _PICTURE[y : y + side, x : x + side].copy()
    expected = cv2.resize(cut_out, (size, size), interpolation=cv2.INTER_AREA if side >= size else cv2.INTER_LINEAR)
    got = crop_face(_PICTURE, _box_of_square(x, y, side, scale), InputSpec(size_px=size, crop_scale=scale))
    assert np.array_equal(got, expected)


def test_halving_averages_two_by_two_pixels():
    got = crop_face(_PICTURE, Box(10, 20, 74, 84), InputSpec(size_px=32, crop_scale=1.0))
    blocks = _PICTURE[20:84, 10:74].reshape(32, 2, 32, 2, 3).astype(np.float64).mean(axis=(1, 3))
    assert np.abs(got - blocks).max() <= 0.5


@given(st.integers(-60, 140), st.integers(-60, 110), st.integers(1, 90))
def test_an_unscaled_crop_beyond_the_frame_repeats_the_edge(x, y, side):
    columns = np.clip(np.arange(x, x + side), 0, 130)
    rows = np.clip(np.arange(y, y + side), 0, 96)
    got = crop_face(_PICTURE, Box(x, y, x + side, y + side), InputSpec(size_px=side, crop_scale=1.0))
    assert np.array_equal(got, _PICTURE[rows][:, columns])


@given(st.floats(-300, 300), st.floats(8, 600), st.integers(16, 128))
def test_what_is_visible_stays_in_its_place_when_the_crop_reaches_beyond_the_frame(x, side, size):
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (64, 256, 3))
    got = crop_face(ramp, Box(x, 10, x + side, 10 + side), InputSpec(size_px=size, crop_scale=1.0))
    step = side / size
    # On a ramp a pixel's value is its own x; outside the frame it is that of the nearest edge.
    expected = np.clip(x + (np.arange(size) + 0.5) * step - 0.5, 0, 255)
    assert np.abs(got[size // 2, :, 0] - expected).max() <= 1.5 * step + 2


@given(_FAR, _FAR, st.floats(1e-3, 1e7), st.floats(1e-3, 1e7), st.floats(0.01, 99))
def test_any_box_gives_a_crop_of_the_right_shape_with_colours_of_the_picture(x, y, width, height, scale):
    picture = np.clip(_PICTURE, 60, 200)
    got = crop_face(picture, Box(x, y, x + width, y + height), InputSpec(size_px=16, crop_scale=scale))
    assert got.shape == (16, 16, 3)
    assert got.dtype == np.uint8
    assert got.min() >= 60
    assert got.max() <= 200


@pytest.mark.parametrize(
    ("box", "corner"),
    [
        (Box(-5000, -5000, -4900, -4900), (0, 0)),
        (Box(5000, -5000, 5100, -4900), (0, -1)),
        (Box(-5000, 5000, -4900, 5100), (-1, 0)),
        (Box(5000, 5000, 5100, 5100), (-1, -1)),
    ],
)
def test_a_box_far_outside_shows_the_nearest_corner_only(box, corner):
    got = crop_face(_PICTURE, box, InputSpec(size_px=8))
    assert (got == _PICTURE[corner]).all()


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 50, 3), (50, 1, 3)])
@pytest.mark.parametrize("box", [Box(0, 0, 1, 1), Box(-3, -3, 40, 40), Box(0.2, 0.2, 0.4, 0.4)])
def test_frames_of_one_pixel_width_can_be_cropped(shape, box):
    got = crop_face(np.full(shape, 77, np.uint8), box, InputSpec(size_px=24))
    assert got.shape == (24, 24, 3)
    assert (got == 77).all()


def test_a_huge_box_needs_no_huge_memory():
    frame = np.full((48, 64, 3), 9, np.uint8)
    box = Box(-1e9, -1e9, 1e9, 1e9)
    spec = InputSpec(size_px=128, crop_scale=50.0)
    tracemalloc.start()
    try:
        got = crop_face(frame, box, spec)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (got == 9).all()
    assert peak < 4 * 2**20


@pytest.mark.parametrize("box", [Box(1e300, 1e300, 2e300, 2e300), Box(-1e150, 0, 1e150, 1), Box(0, 0, 1e-300, 1e-300)])
def test_boxes_at_the_ends_of_the_number_range_do_not_break_a_crop(box):
    try:
        got = crop_face(_PICTURE, box, InputSpec(size_px=8))
    except InputError:
        return  # a square that cannot be expressed is refused by name
    assert got.shape == (8, 8, 3)


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[::2, ::3],
        lambda a: a[:, ::-1],
        lambda a: a[::-1],
        lambda a: a[..., ::-1],
        lambda a: a.transpose(1, 0, 2),
        np.asfortranarray,
    ],
    ids=["strided", "mirrored", "upside down", "blue first", "transposed", "column-major"],
)
def test_memory_layout_makes_no_difference(view):
    odd = view(_PICTURE)
    box, spec = Box(5, 5, 30, 35), InputSpec(size_px=20)
    assert np.array_equal(crop_face(odd, box, spec), crop_face(np.ascontiguousarray(odd), box, spec))


def test_a_read_only_picture_is_cropped_and_left_as_it_is():
    frozen = _PICTURE.copy()
    frozen.flags.writeable = False
    got = crop_face(frozen, Box(0, 0, 20, 20), InputSpec(size_px=20, crop_scale=1.0))
    assert np.array_equal(got, _PICTURE[:20, :20])
    assert np.array_equal(frozen, _PICTURE)


def test_a_crop_does_not_share_memory_with_the_frame():
    picture = _PICTURE.copy()
    got = crop_face(picture, Box(0, 0, 20, 20), InputSpec(size_px=20, crop_scale=1.0))
    assert not np.shares_memory(got, picture)


def test_faces_are_stacked_in_their_order():
    frame = Frame(rgb=_PICTURE)
    faces = [Face(Box(0, 0, 20, 20)), Face(Box(40, 40, 80, 80))]
    spec = InputSpec(size_px=12)
    batch = crop_faces(frame, faces, spec)
    assert batch.shape == (2, 12, 12, 3)
    for row, face in zip(batch, faces, strict=True):
        assert np.array_equal(row, crop_face(_PICTURE, face.box, spec))


def test_no_faces_are_an_error():
    with pytest.raises(InputError, match="at least one face"):
        crop_faces(Frame(rgb=_PICTURE), [], InputSpec())


@pytest.mark.parametrize(("size", "scale"), [(0, 1.0), (-1, 1.0), (8, 0.0), (8, -1.0), (8, 100.0), (8, float("nan"))])
def test_an_input_spec_refuses_impossible_values(size, scale):
    with pytest.raises(InputError):
        InputSpec(size_px=size, crop_scale=scale)
