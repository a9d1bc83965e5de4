"""Crops: where eyes and edges land, against places worked out by hand and pictures whose content says where it was."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from fasedge.preprocess import InputSpec, crop_face
from fasedge.testing import synthetic_face
from fasedge.types import Box, Face, Frame
from training.data.align import RULES, CropRule, cut, refusal
from training.errors import ConfigError


def rule(kind: str, size_px: int = 224, scale: float = 1.0, *, depth: bool = False) -> CropRule:
    return CropRule("test", kind, size_px, scale, 1, 10, depth)  # type: ignore[arg-type]


def face_with_eyes(right: tuple[float, float], left: tuple[float, float], box: Box) -> Face:
    points = np.tile(np.array(box.center, np.float32), (6, 1))
    points[0], points[1] = right, left
    return Face(box, 0.9, points)


def dotted(size: tuple[int, int], *places: tuple[float, float]) -> np.ndarray:
    """Black, with a soft white dot round each place (x, y), places as in fasedge: pixel centres at halves."""
    ys, xs = np.mgrid[: size[1], : size[0]] + 0.5
    field = sum(np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / 18) for x, y in places)
    return np.repeat((np.clip(field, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=2)


def center_of(picture: np.ndarray, half: slice) -> tuple[float, float]:
    """Centre of gravity of the light in some columns, in whole pixel numbers."""
    light = picture[..., 0].astype(float)
    light[:, : half.start], light[:, half.stop :] = 0, 0
    ys, xs = np.mgrid[: light.shape[0], : light.shape[1]]
    return float((xs * light).sum() / light.sum()), float((ys * light).sum() / light.sum())


@pytest.mark.parametrize("roll_deg", [0, 25, -40])
@pytest.mark.parametrize("distance", [60.0, 112.5, 300.0])
def test_eyes_land_where_the_released_code_puts_them(roll_deg: float, distance: float) -> None:
    angle = math.radians(roll_deg)
    dx, dy = distance / 2 * math.cos(angle), distance / 2 * math.sin(angle)
    right, left = (400 - dx, 380 - dy), (400 + dx, 380 + dy)
    face = face_with_eyes(right, left, Box(200, 200, 600, 600))
    crop = cut(Frame(dotted((800, 800), right, left)), face, rule("eyes"))
    # Row 56 for both; columns 55.5 and 168 (subject's right eye is on the picture's left).
    assert center_of(crop.picture, slice(0, 112)) == pytest.approx((55.5, 56.0), abs=0.3)
    assert center_of(crop.picture, slice(112, 224)) == pytest.approx((168.0, 56.0), abs=0.3)


def test_a_levelled_crop_has_level_eyes_and_the_box_in_its_middle() -> None:
    right, left = (380.0, 370.0), (440.0, 400.0)
    face = face_with_eyes(right, left, Box(300, 300, 500, 500))
    crop = cut(Frame(dotted((800, 800), right, left)), face, rule("level", 256, 1.2))
    first, second = center_of(crop.picture, slice(0, 140)), center_of(crop.picture, slice(140, 256))
    assert first[1] == pytest.approx(second[1], abs=0.4)
    # The crop is 1.2 * 200 = 240 px wide and 256 px in the end.
    assert second[0] - first[0] == pytest.approx(math.hypot(60, 30) * 256 / 240, abs=0.5)
    middle = cut(Frame(dotted((800, 800), (400.0, 400.0))), face, rule("level", 256, 1.2)).picture
    assert center_of(middle, slice(0, 256)) == pytest.approx((127.5, 127.5), abs=0.3)


def test_a_box_crop_is_the_one_that_the_detector_cuts() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    face = synthetic_face()
    crop = cut(Frame(rgb), face, rule("box", 64))
    np.testing.assert_array_equal(crop.picture, crop_face(rgb, face.box, InputSpec(size_px=64, crop_scale=1.0)))


def test_depth_is_cut_like_colour_and_keeps_its_values() -> None:
    depth = np.full((240, 320), 900, np.uint16)
    depth[120:, :] = 2000
    face = face_with_eyes((138.0, 100.0), (182.0, 100.0), Box(110, 70, 210, 170))
    for kind in ("box", "level", "eyes"):
        crop = cut(Frame(np.zeros((240, 320, 3), np.uint8), depth), face, rule(kind, 100))
        assert crop.depth_mm is not None
        assert set(np.unique(crop.depth_mm).tolist()) == {900, 2000}
    # The box is 100 px, so the box crop at 100 px is the frame's own: rows 70 to 169, the step at row 50.
    box = cut(Frame(np.zeros((240, 320, 3), np.uint8), depth), face, rule("box", 100)).depth_mm
    assert box is not None
    np.testing.assert_array_equal(box, depth[70:170, 110:210])


def test_depth_outside_the_picture_is_no_return() -> None:
    depth = np.full((60, 60), 700, np.uint16)
    crop = cut(Frame(np.zeros((60, 60, 3), np.uint8), depth), Face(Box(-20, 0, 20, 40)), rule("box", 40))
    assert crop.depth_mm is not None
    np.testing.assert_array_equal(crop.depth_mm[:, :20], 0)
    np.testing.assert_array_equal(crop.depth_mm[:, 20:], 700)


def test_depth_is_measured_in_the_box_before_the_cut() -> None:
    depth = np.full((40, 40), 5000, np.uint16)
    depth[10:30, 10:30] = 600
    depth[10:20, 10:20] = 0
    crop = cut(Frame(np.zeros((40, 40, 3), np.uint8), depth), Face(Box(10, 10, 30, 30)), rule("box", 32, 2.0))
    assert (crop.params["depth_median_mm"], crop.params["depth_spread_mm"]) == (600.0, 1.0)
    hole = cut(Frame(np.zeros((40, 40, 3), np.uint8), depth), Face(Box(11, 11, 19, 19)), rule("box", 32))
    assert "depth_median_mm" not in hole.params


def test_a_crop_says_where_in_it_the_face_box_lies() -> None:
    # 80 x 125 px round (400, 400), so that the square beside it has a side of 100.
    box, frame = Box(360, 337.5, 440, 462.5), Frame(np.zeros((800, 800, 3), np.uint8))
    eyes = face_with_eyes((370.0, 380.0), (430.0, 380.0), box)

    def place(found: CropRule) -> list[float]:
        params = cut(frame, eyes, found).params
        return [float(params[name]) for name in ("face_x1", "face_y1", "face_x2", "face_y2")]

    # A square of 200 px becomes 100: everything is halved, round the middle of the crop.
    for kind in ("box", "level"):
        assert place(rule(kind, 100, 2.0)) == pytest.approx([30.0, 18.75, 70.0, 81.25], abs=0.02)
    # 60 px between the eyes become 112.5, their middle (400, 380) lands at (111.75, 56) by whole pixel numbers.
    x, y, f = 112.25, 56.5 + 20 * 1.875, 1.875
    assert place(rule("eyes")) == pytest.approx([x - 40 * f, y - 62.5 * f, x + 40 * f, y + 62.5 * f], abs=0.02)


def test_faces_that_cannot_be_cut_are_refused_with_a_reason() -> None:
    small, blind = synthetic_face(side_px=49), Face(Box(0, 0, 100, 100))
    assert refusal(small, RULES["cmfl"]) == "face_too_small"
    assert refusal(synthetic_face(side_px=51), RULES["cmfl"]) == ""
    assert refusal(blind, RULES["cmfl"]) == "no_eyes"
    assert refusal(blind, RULES["a-deeppixbis"]) == ""
    same = face_with_eyes((50, 50), (50, 50), Box(0, 0, 100, 100))
    assert refusal(same, RULES["rfmeta"]) == "no_eyes"
    with pytest.raises(ConfigError, match="needs both eyes"):
        cut(Frame(np.zeros((100, 100, 3), np.uint8)), blind, RULES["rfmeta"])


def test_methods_have_the_sizes_and_frames_of_their_papers() -> None:
    found = {name: (r.kind, r.size_px, r.scale, r.frames) for name, r in RULES.items()}
    assert found == {
        "a-deeppixbis": ("box", 224, 1.0, 20),
        "deeppixbis": ("eyes", 224, 1.0, 20),
        "cmfl": ("eyes", 224, 1.0, 10),
        "rfmeta": ("level", 256, 1.2, 25),
    }


def test_a_rule_that_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigError, match="frames >= 1"):
        CropRule("x", "box", 224, 1.0, 0, 0)
    with pytest.raises(ConfigError, match=r"for rfmeta can show 1\.2 \(its own crop\) to 4 face boxes, got 1\.1"):
        dataclasses.replace(RULES["rfmeta"], shown=1.1)
    with pytest.raises(ConfigError, match="got 18"):
        dataclasses.replace(RULES["a-deeppixbis"], shown=18.0)


# --- more than the crop ---------------------------------------------------------------------------------------------


def wider(kind: str, size_px: int, scale: float, shown: float) -> CropRule:
    return dataclasses.replace(rule(kind, size_px, scale), shown=shown)


def smooth_frame(depth: bool = False) -> Frame:
    """Slow waves, so that pictures which lie a fraction of a pixel apart still look alike; red tells x, green y."""
    ys, xs = np.mgrid[:600, :800]
    rgb = np.stack([xs * 255 / 800, ys * 255 / 600, 128 + 100 * np.sin(xs / 40) * np.cos(ys / 50)], -1)
    return Frame(rgb.astype(np.uint8), (500 + xs).astype(np.uint16) if depth else None)


@pytest.mark.parametrize(
    ("method", "shown", "picture_px", "box"),
    [
        # 0.8 * 224 / 2 = 89.6 px on each side, rounded up.
        ("a-deeppixbis", 1.8, 404, (90, 314)),
        ("a-deeppixbis", 1.5, 336, (56, 280)),
        # 256 px are 1.2 face boxes, one is 213.33 px; (1.8 / 1.2 - 1) * 128 = 64.
        ("rfmeta", 1.2, 256, (21.333, 234.667)),
        ("rfmeta", 1.8, 384, (85.333, 298.667)),
        ("cmfl", 2.0, 448, (112, 336)),
    ],
)
def test_a_wider_picture_has_the_crop_in_its_middle_at_the_same_size(
    method: str, shown: float, picture_px: int, box: tuple[float, float]
) -> None:
    found = dataclasses.replace(RULES[method], shown=shown)
    assert found.picture_px == picture_px
    assert found.face_box == pytest.approx((box[0], box[0], box[1], box[1]), abs=1e-3)
    assert (RULES[method].picture_px, RULES[method].face_box[2]) == (RULES[method].size_px,) * 2


@pytest.mark.parametrize(("kind", "scale"), [("level", 1.2), ("eyes", 1.0)])
def test_a_turned_crop_cut_out_of_the_wider_picture_is_the_crop_itself(kind: str, scale: float) -> None:
    frame = smooth_frame(depth=True)
    face = face_with_eyes((370.0, 280.0), (431.0, 303.0), Box(330, 240, 470, 400))
    narrow, wide = cut(frame, face, rule(kind, 96, scale)), cut(frame, face, wider(kind, 96, scale, 2 * scale))
    assert wide.picture.shape == (192, 192, 3)
    box = Box(*wider(kind, 96, scale, 2 * scale).face_box)
    again = crop_face(wide.picture, box, InputSpec(size_px=96, crop_scale=scale))
    np.testing.assert_allclose(again.astype(int), narrow.picture.astype(int), atol=1)
    assert wide.depth_mm is not None
    assert narrow.depth_mm is not None
    np.testing.assert_allclose(wide.depth_mm[48:144, 48:144].astype(int), narrow.depth_mm.astype(int), atol=1)
    assert (wide.depth_mm > 0).all()  # there is a frame all round, and nothing of it is lost
    for name in ("face_x1", "face_y1", "face_x2", "face_y2"):
        assert float(wide.params[name]) - float(narrow.params[name]) == pytest.approx(48, abs=0.02)


@pytest.mark.parametrize("crop_scale", [1.0, 1.4, 1.8])
def test_networks_see_in_the_wider_picture_what_the_detector_shows_them(crop_scale: float) -> None:
    """Both crops are rounded to whole pixels once more than one is: under two pixels of slow waves remain."""
    frame, face = smooth_frame(), Face(Box(310.3, 201.7, 421.9, 330.1))
    found = wider("box", 96, 1.0, 1.8)
    spec = InputSpec(size_px=96, crop_scale=crop_scale)
    stored = crop_face(cut(frame, face, found).picture, Box(*found.face_box), spec)
    direct = crop_face(frame.rgb, face.box, spec)
    np.testing.assert_allclose(stored.astype(int), direct.astype(int), atol=8)
    # A crop of another scale is told apart by that.
    other = crop_face(frame.rgb, face.box, InputSpec(size_px=96, crop_scale=crop_scale * 1.15))
    assert np.abs(stored.astype(int) - other.astype(int)).max() > 12


@pytest.mark.parametrize("kind", ["box", "level"])
def test_beyond_the_frame_its_edge_is_repeated_and_no_depth_returns(kind: str) -> None:
    rgb = np.zeros((100, 100, 3), np.uint8)
    rgb[:, :10] = (250, 120, 30)
    # A face of 40 px at the left edge: two boxes show 20 px beyond it, a quarter of the picture.
    face = face_with_eyes((10.0, 45.0), (30.0, 45.0), Box(0, 30, 40, 70))
    crop = cut(Frame(rgb, np.full((100, 100), 700, np.uint16)), face, wider(kind, 40, 1.0, 2.0))
    assert crop.picture.shape == (80, 80, 3)
    assert (crop.picture[:, :29] == (250, 120, 30)).all()
    assert (crop.picture[:, 31:] == 0).all()
    assert crop.depth_mm is not None
    assert (crop.depth_mm[:, :20] == 0).all()
    assert (crop.depth_mm[:, 20:] == 700).all()
