"""Face finders without an engine: anchors, decoding, blending, windows, and the finder round a scripted network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasedge.backends import Array, BackendInfo
from fasedge.errors import EngineError
from fasedge.faces import BlazeFaceFinder
from fasedge.faces._anchors import anchor_centers
from fasedge.faces._detections import Detections, blend, decode
from fasedge.faces._windows import TILE_OVERLAP, Window, drop_cut, sample, tiles, whole
from fasedge.geometry import iou
from fasedge.types import Box, UInt8Array


class ScriptedNetwork:
    """Stands for the network: answers picture by picture with the given anchors' offsets and raw scores."""

    info = BackendInfo("scripted", "0", "CPU", 1, batched=True)

    def __init__(self, answers: Sequence[Mapping[int, tuple[float, float]]]) -> None:
        self.answers = list(answers)  # for each picture: anchor -> (side in px of the input, raw score)
        self.batches: list[int] = []
        self.closed = 0

    def infer(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        count = len(inputs["picture"])
        self.batches.append(count)
        boxes = np.zeros((count, 896, 16), np.float32)
        scores = np.full((count, 896, 1), -1000, np.float32)
        for i in range(count):
            for anchor, (side, score) in (self.answers.pop(0) if self.answers else {}).items():
                boxes[i, anchor, 2:4] = side
                scores[i, anchor] = score
        return {"boxes": boxes, "scores": scores}

    def close(self) -> None:
        self.closed += 1


def blank(width: int, height: int, value: int = 128) -> UInt8Array:
    return np.full((height, width, 3), value, np.uint8)


def boxes_as_detections(rows: Sequence[Sequence[float]], scores: Sequence[float]) -> Detections:
    corners = np.array(rows, np.float32).reshape(-1, 2, 2)
    middle = corners.mean(axis=1, keepdims=True)
    return Detections(np.concatenate([corners, np.repeat(middle, 6, axis=1)], axis=1), np.array(scores, np.float32))


# --- Anchors, decoding, blending


def test_anchors_are_two_per_place_of_the_fine_grid_then_six_per_place_of_the_coarse_one() -> None:
    anchors = anchor_centers()
    assert anchors.shape == (896, 2)
    assert anchors.dtype == np.float32
    by_hand = []
    for cells, per_place in ((16, 2), (8, 6)):
        for row in range(cells):
            for column in range(cells):
                by_hand += [((column + 0.5) / cells, (row + 0.5) / cells)] * per_place
    np.testing.assert_allclose(anchors, by_hand, atol=1e-7)


def test_decoding_follows_a_hand_worked_example() -> None:
    boxes = np.zeros((896, 16), np.float32)
    scores = np.full(896, -200, np.float32)
    # Anchor 0 lies at (1/32, 1/32) = (4, 4) px. Centre (4 + 12, 4 + 28) = (16, 32) px, size 16 x 32 px.
    boxes[0] = [12, 28, 16, 32, *[4, 0] * 5, -4, 60]
    scores[0] = np.log(3)  # sigmoid(log 3) = 3/4
    found = decode(boxes, scores, anchor_centers(), 0.5)
    assert len(found) == 1
    assert found.scores[0] == pytest.approx(0.75)
    wanted = np.array([[8, 16], [24, 48], *[[8, 4]] * 5, [0, 64]]) / 128
    np.testing.assert_allclose(found.points[0], wanted, atol=1e-6)


def test_extreme_and_broken_network_outputs_are_no_faces_and_no_warnings() -> None:
    boxes = np.zeros((896, 16), np.float32)
    boxes[:, 2:4] = 20
    scores = np.full(896, -3e38, np.float32)
    boxes[1, 0], scores[1] = np.nan, 3e38
    boxes[2, 2], scores[2] = -5, 3e38
    scores[3] = np.nan
    scores[4] = 3e38
    found = decode(boxes, scores, anchor_centers(), 0.5)
    assert found.scores.tolist() == [1.0]
    # Anchor 4 lies at (20, 4) px.
    np.testing.assert_allclose(found.points[0, 0], np.array([20 - 10, 4 - 10]) / 128, atol=1e-6)


def test_without_a_score_limit_the_surest_detection_still_comes_first() -> None:
    network = ScriptedNetwork([{600: (40, 3.0)}])
    faces = BlazeFaceFinder(network, min_score=0.0, zoom=False).find(blank(128, 128))
    assert [f.score for f in faces] == [pytest.approx(1 / (1 + np.exp(-3)))]


def test_overlapping_detections_become_their_mean_weighted_by_score() -> None:
    found = blend(boxes_as_detections([(0, 0, 10, 10), (2, 0, 12, 10), (40, 40, 50, 50)], [0.6, 0.9, 0.7]))
    # The first two share 80 of 120: 2/3 > 0.3. Mean of x1: (0 * 0.6 + 2 * 0.9) / 1.5 = 1.2.
    np.testing.assert_allclose(found.points[:, :2].reshape(-1, 4), [[1.2, 0, 11.2, 10], [40, 40, 50, 50]], atol=1e-5)
    np.testing.assert_allclose(found.scores, [0.9, 0.7])


def test_blending_agrees_with_a_plain_loop() -> None:
    rng = np.random.default_rng(3)
    corners = rng.uniform(0, 60, (80, 2))
    rows = np.concatenate([corners, corners + rng.uniform(8, 30, (80, 2))], axis=1)
    scores = rng.permutation(np.linspace(0.5, 0.99, 80))
    found = blend(boxes_as_detections(rows.tolist(), scores.tolist()))

    rest = sorted(range(80), key=lambda i: -scores[i])
    wanted = []
    while rest:
        best = rest[0]
        group = [i for i in rest if iou(Box(*rows[i]), Box(*rows[best])) > 0.3]
        weight = sum(scores[i] for i in group)
        wanted.append([sum(rows[i][k] * scores[i] for i in group) / weight for k in range(4)])
        rest = [i for i in rest if i not in group]
    assert 1 < len(wanted) < 80
    np.testing.assert_allclose(found.points[:, :2].reshape(-1, 4), wanted, atol=1e-3)


# --- Windows


def test_whole_picture_lies_in_the_middle_of_its_square() -> None:
    assert whole(640, 480) == Window(0, -80, 640)
    assert whole(300, 1000) == Window(-350, 0, 1000)


def test_sampling_is_bilinear_from_corner_to_corner_and_black_outside() -> None:
    rng = np.random.default_rng(0)
    rgb = cv2.GaussianBlur(rng.integers(0, 256, (96, 160, 3), dtype=np.uint8), (0, 0), 3)
    got = sample(rgb, [whole(160, 96)])
    assert got.shape == (1, 128, 128, 3)
    assert got.dtype == np.float32
    padded = np.zeros((160 + 1, 160 + 1, 3))
    padded[32 : 32 + 96, :160] = rgb
    place = np.arange(128) * 160 / 128
    low = place.astype(int)
    part = place - low
    rows = padded[low] * (1 - part)[:, None, None] + padded[low + 1] * part[:, None, None]
    wanted = rows[:, low] * (1 - part)[None, :, None] + rows[:, low + 1] * part[None, :, None]
    # OpenCV rounds places to 1/32 px and values to whole numbers.
    np.testing.assert_allclose(got[0], wanted / 127.5 - 1, atol=2 / 127.5)
    assert (got[0, :24] == -1).all()


def test_sampling_keeps_the_range_and_the_colour_order() -> None:
    got = sample(np.full((64, 64, 3), (255, 0, 51), np.uint8), [Window(8, 8, 32)])[0]
    np.testing.assert_allclose(got.reshape(-1, 3), np.broadcast_to([1, -1, -0.6], (128 * 128, 3)), atol=1e-6)


@given(
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.integers(30, 3000),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.floats(0.01, TILE_OVERLAP),
)
def test_each_small_square_lies_whole_in_some_tile(
    width: int, height: int, side: int, place: tuple[float, float], part: float
) -> None:
    size = min(part * side, width, height)
    x, y = place[0] * (width - size), place[1] * (height - size)
    slack = 1e-6 * max(width, height, side)
    if (width / side + 1) * (height / side + 1) > 400:
        return
    assert any(
        w.left <= x + slack
        and w.top <= y + slack
        and x + size <= w.left + w.side + slack
        and y + size <= w.top + w.side + slack
        for w in tiles(width, height, side)
    )


def test_faces_cut_by_a_tile_are_left_to_its_neighbour_but_not_those_cut_by_the_picture() -> None:
    window = Window(0, 50, 100)
    found = boxes_as_detections([(-5, 60, 20, 90), (70, 60, 110, 90), (30, 40, 50, 60), (30, 120, 50, 160)], [0.9] * 4)
    kept = drop_cut(found, window, width=300, height=150)
    assert kept.points[:, 0, 0].tolist() == [-5, 30]
    assert kept.points[1, 0, 1] == 120


# --- The finder round a scripted network


def test_faces_come_in_pixels_of_the_picture_largest_first() -> None:
    # Anchors 512 and 890 lie at (8, 8) and (120, 120) px of the input.
    network = ScriptedNetwork([{512: (16, 2.0), 890: (40, 1.0)}])
    faces = BlazeFaceFinder(network, zoom=False).find(blank(640, 480))
    # 5 px of the picture per px of the input, and 80 px of padding above.
    assert [f.box.xyxy for f in faces] == [pytest.approx((500, 420, 700, 620)), pytest.approx((0, -80, 80, 0))]
    assert faces[0].key_points is not None
    np.testing.assert_allclose(faces[0].key_points, [[600, 520]] * 6, atol=1e-3)
    assert [f.score for f in faces] == pytest.approx([1 / (1 + np.exp(-1)), 1 / (1 + np.exp(-2))])


def test_large_face_ends_the_search_and_small_or_no_faces_prolong_it() -> None:
    side_of_fifth = 0.2 * 128 + 1
    for answers, batches in (
        ([{600: (side_of_fifth, 3.0)}], [1]),
        ([{600: (20, 3.0)}], [1, 6]),  # 200 px: a fifth of the tiles' 640 px
        ([{600: (12, 3.0)}], [1, 6, 30]),  # 120 px
        ([], [1, 6, 30]),
        ([{}, {600: (side_of_fifth, 3.0)}], [1, 6]),
    ):
        network = ScriptedNetwork(answers)
        BlazeFaceFinder(network).find(blank(1280, 960))
        assert network.batches == batches
    # Faces below 64 px are of no use: a fifth of 320 px needs no closer look.
    for size, batches in (((320, 240), [1]), ((640, 480), [1, 6]), ((800, 500), [1, 6, 24])):
        network = ScriptedNetwork([])
        BlazeFaceFinder(network).find(blank(*size))
        assert network.batches == batches


def test_tiles_only_add_faces_and_never_the_same_twice() -> None:
    # Places of the coarse grid in row 3: column 6 at (104, 56), column 2 at (40, 56) px of the input.
    first, second = 512 + 6 * (8 * 3 + 6), 512 + 6 * (8 * 3 + 2)
    network = ScriptedNetwork([{}, {first: (24, 3.0)}, {second: (22, 2.9)}])
    faces = BlazeFaceFinder(network).find(blank(640, 480))
    # Tiles of 320 px start at x = 0, 160, 320: 104 * 2.5 = 260 in the first, 160 + 40 * 2.5 = 260 in the second.
    assert network.batches == [1, 6]
    assert [f.box.xyxy for f in faces] == [pytest.approx((230, 110, 290, 170))]

    # The same face in the first pass stays as it is; another one joins it.
    whole_picture = {512 + 6 * (8 * 3 + 3): (16, 0.1)}  # centre (56, 56) px: (280, 200) px, 80 px wide
    again = {512 + 6 * (8 * 5 + 6): (24, 3.0)}  # centre (260, 220) px, 60 px wide: 2500 of 7500 px in common
    network = ScriptedNetwork([whole_picture, again, {}, {second: (24, 3.0)}])
    faces = BlazeFaceFinder(network).find(blank(640, 480))
    assert [f.box.xyxy for f in faces] == [pytest.approx((240, 160, 320, 240)), pytest.approx((390, 110, 450, 170))]


def test_uncertain_faces_of_tiles_are_left_out() -> None:
    raw = float(np.log(0.7 / 0.3))  # a score of 0.7, enough for the whole picture only
    assert len(BlazeFaceFinder(ScriptedNetwork([{700: (24, raw)}])).find(blank(640, 480))) == 1
    assert BlazeFaceFinder(ScriptedNetwork([{}, {700: (24, raw)}])).find(blank(640, 480)) == ()


def test_closing_twice_closes_the_engine_once_and_a_closed_finder_says_so() -> None:
    network = ScriptedNetwork([])
    with BlazeFaceFinder(network) as finder:
        pass
    finder.close()
    assert network.closed == 1
    with pytest.raises(EngineError, match="closed"):
        finder.find(blank(8, 8))


def test_network_of_another_shape_is_an_engine_error() -> None:
    class Wrong(ScriptedNetwork):
        def infer(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
            return {"boxes": np.zeros((1, 10, 16), np.float32), "scores": np.zeros((1, 10, 1), np.float32)}

    with pytest.raises(EngineError, match="expected boxes"):
        BlazeFaceFinder(Wrong([])).find(blank(8, 8))
