"""Sequences: the same sample at several moments; heads in space, media in one plane, noise of every frame its own."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from tests.training import test_masks
from training.data.simulate import BONA_FIDE, SPECIES, Simulator, depth, sequence
from training.data.simulate.draws import Draws
from training.data.simulate.moment import Memory, Moment, enter_camera, held, moved
from training.data.simulate.motion import MovingHead, Pose, blink_closure
from training.data.simulate.motion import Path as Wander
from training.data.simulate.optics import grid
from training.data.work import make_simulator
from training.errors import DataError

SEED = 4


@pytest.fixture(scope="module")
def simulator(face_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Simulator:
    return make_simulator(face_pack, tmp_path_factory.mktemp("tiles"), "dev", SEED)


@pytest.fixture(scope="module")
def numbers(simulator: Simulator) -> dict[str, int]:
    """The first sample of each species."""
    found: dict[str, int] = {}
    for i in range(60):
        values = simulator.draw(i).values
        found.setdefault("bona_fide" if values["bona_fide"] else str(values["species"]), i)
    return found


def test_a_clip_is_its_sample_at_several_moments_and_repeats_bit_for_bit(
    simulator: Simulator, numbers: dict[str, int], face_pack: Path, tmp_path: Path
) -> None:
    again = make_simulator(face_pack, tmp_path, "dev", SEED)
    for species in ("bona_fide", "replay", "print"):
        index = numbers[species]
        clip, still = simulator.clip(index, 0.4, 10), simulator.draw(index).values
        assert (clip.frames.shape, clip.frames.dtype) == ((4, 192, 192, 3), np.uint8)
        assert (clip.species, clip.label, clip.source) == (species, int(species == "bona_fide"), still["picture"])
        assert clip.timestamps_s.tolist() == pytest.approx([0, 0.1, 0.2, 0.3])
        assert {name: clip.params[name] for name in still} == still
        assert all(name.startswith("clip_") for name in clip.params.keys() - still.keys())
        assert all(track.shape == (4,) and np.isfinite(track).all() for track in clip.tracks.values())
        assert len({frame.tobytes() for frame in clip.frames}) == 4
        other = again.clip(index, 0.4, 10)
        np.testing.assert_array_equal(clip.frames, other.frames)
        np.testing.assert_array_equal(clip.boxes_xyxy, other.boxes_xyxy)
        assert clip.params == other.params


def test_frames_do_not_depend_on_how_many_are_rendered_together(
    simulator: Simulator, numbers: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = simulator.clip(numbers["print"], 0.3, 10)
    monkeypatch.setattr(sequence, "_BATCH", 2)
    np.testing.assert_array_equal(simulator.clip(numbers["print"], 0.3, 10).frames, whole.frames)


def test_only_living_heads_move_in_space_and_only_videos_move_on_a_flat_medium(
    simulator: Simulator, numbers: dict[str, int]
) -> None:
    times = np.arange(3) / 10.0
    for species, index in numbers.items():
        for video in (0, 1):
            still, d = simulator.draw(index), simulator.more_draws(index, 1)
            sequence.draw_clip(d, species, str(still.values.get("subtype")), "kiosk")
            d.values["clip_video"] = video
            d.values["clip_head_moves"] = int(species == "bona_fide" or (species == "replay" and video))
            tracks = sequence.view_tracks(d, still, times) | sequence.head_tracks(d, species, times)
            frames = [f.moment for f in sequence._frames(simulator, d, still, tracks, times)]
            assert all((m.flow is not None) == (species == "bona_fide") for m in frames if m)
            assert all((m.tile is not None) == (species == "replay" and video == 1) for m in frames if m)
            turned = np.abs(tracks["head_yaw"]).max() > 0
            assert turned == bool(d.values["clip_head_moves"])


def test_media_that_are_not_held_hardly_move(simulator: Simulator, numbers: dict[str, int]) -> None:
    still = simulator.draw(numbers["print"])
    for seed in range(20):
        d = Draws(seed, 0, 1)
        sequence.draw_clip(d, "print", "laser", "kiosk")
        tracks = sequence.view_tracks(d, still, np.arange(30) / 15)
        moving = bool(d.values["clip_medium_held"] or d.values["clip_camera_held"])
        # 0.1 mm of the stand, or more than a tenth of the smallest drift of a hand; 210 mm per tile unit.
        assert (np.ptp(tracks["view_x"]) * 210 > 0.35) == moving


@pytest.mark.parametrize(("seconds", "fps"), [(0, 15), (1, 0), (math.nan, 15), (1000, 30)])
def test_impossible_lengths_are_refused(simulator: Simulator, seconds: float, fps: float) -> None:
    with pytest.raises(DataError, match="a clip needs seconds > 0, fps > 0"):
        simulator.clip(0, seconds, fps)


def test_a_path_has_its_strength_and_stays_in_its_band() -> None:
    t = np.arange(20000) / 50.0
    for seed in range(5):
        path = Wander(np.random.default_rng(seed), 1.0, 3.0, 0.7)(t)
        assert path.std() == pytest.approx(0.7, rel=0.05)
        power = np.abs(np.fft.rfft(path * np.hanning(len(path)))) ** 2
        hz = np.fft.rfftfreq(len(path), 1 / 50.0)
        assert power[(hz > 0.95) & (hz < 3.05)].sum() > 0.999 * power.sum()


def test_a_blink_closes_in_a_third_of_its_time() -> None:
    t = np.array([0.9, 1.0, 1.05, 1.1, 1.2, 1.3, 1.4])
    # Half closed after a sixth (down) and after two thirds (up) of 0.3 s.
    assert blink_closure(t, np.array([1.0]), 0.3) == pytest.approx([0, 0, 0.5, 1, 0.5, 0, 0], abs=1e-6)


def test_a_video_advances_in_its_own_frames_and_jumps_when_it_restarts() -> None:
    d = Draws(0, 0)
    for name, value in (("clip_loop_s", 1.0), ("clip_loop_start", 0.5), ("clip_video_fps", "10")):
        d.derive(name, value)
    t = np.array([0.0, 0.04, 0.12, 0.48, 0.52, 0.61, 1.51])
    assert sequence.content_times(d, t) == pytest.approx([0.5, 0.5, 0.6, 0.9, 0.0, 0.1, 0.0])


def test_a_head_turns_as_a_rigid_body_about_its_neck() -> None:
    """Against SciPy's rotations, seen from far away, where perspective does nothing."""
    head = MovingHead(None, None, distance=1e6)
    points = np.random.default_rng(0).uniform(-0.3, 0.3, (50, 3)).astype(np.float32)
    pose = Pose(yaw=0.2, pitch=-0.1, roll=0.05, x=0.02, y=-0.03)
    dx, dy = head.forward(*torch.from_numpy(points.T.copy()), pose)
    # A turn downwards takes the nose (z) towards +y: about x that is the negative sense.
    pivot = np.array([0.0, 0.15, 0.0])
    yaw, pitch, roll = (Rotation.from_euler(axis, angle) for axis, angle in (("y", 0.2), ("x", 0.1), ("z", 0.05)))
    expected = roll.apply(pitch.apply(yaw.apply(points - pivot))) + pivot + [0.02, -0.03, 0]
    np.testing.assert_allclose(dx.numpy(), (expected - points)[:, 0], atol=1e-5)
    np.testing.assert_allclose(dy.numpy(), (expected - points)[:, 1], atol=1e-5)


def test_turning_shows_parallax_and_leaves_the_surroundings() -> None:
    head = MovingHead(None, None, distance=3.0)
    flow = head.flow(Pose(yaw=0.1))
    middle, corner = flow[0, 72:80, 76:84].mean(), flow[:, :8, :8].abs().max()
    # The nose stands 0.36 units before the axis: it moves by about 0.36 sin(0.1) to the right, its source lies left.
    assert float(middle) == pytest.approx(-0.36 * math.sin(0.1), rel=0.25)
    side = flow[0, 72:80, 76 + 32 : 84 + 32].mean()
    assert abs(float(side)) < 0.7 * abs(float(middle))
    assert float(corner) == 0


def test_the_flow_is_the_inverse_of_the_movement() -> None:
    head = MovingHead(None, None, distance=3.0)
    flow = head.flow(Pose(yaw=0.1, pitch=0.05, x=0.02))
    dx, dy = head.forward(head._points[..., 0], head._points[..., 1], head._height, Pose(yaw=0.1, pitch=0.05, x=0.02))
    ahead = torch.stack([dx, dy]) * head._weight
    there = (head._points + flow.permute(1, 2, 0))[None]
    again = torch.nn.functional.grid_sample(ahead[None], there, align_corners=False)[0]
    inside = slice(45, 115)
    assert float((flow + again)[:, inside, inside].abs().max()) < 0.5 * 2 / 160  # half a pixel of the map


def face_marks() -> torch.Tensor:
    """Landmarks of which only eyes and mouth are where they belong."""
    marks = torch.zeros(478, 3)
    for sign, (outer, inner, upper, lower) in ((-1, (33, 133, 159, 145)), (1, (263, 362, 386, 374))):
        marks[outer, :2] = torch.tensor([sign * 0.22, -0.1])
        marks[inner, :2] = torch.tensor([sign * 0.08, -0.1])
        marks[upper, :2] = torch.tensor([sign * 0.15, -0.125])
        marks[lower, :2] = torch.tensor([sign * 0.15, -0.075])
    for number, place in ((61, (-0.1, 0.2)), (291, (0.1, 0.2)), (17, (0.0, 0.24)), (152, (0.0, 0.4))):
        marks[number, :2] = torch.tensor(place)
    return marks


def test_a_blink_draws_skin_over_the_eyes_and_over_nothing_else() -> None:
    size = 320
    points = grid(size, size)
    tile = np.full((size, size, 3), 200, np.uint8)
    eyes = (((points[..., 0].abs() - 0.15) / 0.05) ** 2 + ((points[..., 1] + 0.1) / 0.024) ** 2 < 1).numpy()
    tile[eyes] = 20
    head = MovingHead(None, face_marks(), 3.0)
    dark = [int((sequence._warp(tile, head.flow(Pose(blink=b)))[..., 0] < 100).sum()) for b in (0.0, 0.5, 1.0)]
    assert dark[0] == pytest.approx(eyes.sum(), rel=0.03)
    assert 0.3 * dark[0] < dark[1] < 0.75 * dark[0]
    assert dark[2] < 0.3 * dark[0]  # a line of lashes stays
    change = head.flow(Pose(blink=1.0)).abs().sum(0)
    assert float(change[90:].max()) < 1e-6  # mouth and chin
    assert float(change[:60].max()) < 1e-6  # forehead


def test_heads_without_landmarks_keep_eyes_and_mouth_still() -> None:
    marks = torch.full((478, 3), math.nan)
    head = MovingHead(torch.full((160, 160), math.nan), marks, 3.0)
    assert float(head.flow(Pose(blink=1.0, smile=0.02, jaw=0.02)).abs().max()) < 1e-6


def test_a_mesh_gives_the_height_and_its_surroundings_continue_it() -> None:
    relief = torch.full((160, 160), math.nan)
    relief[60:100, 60:100] = 0.3
    height = MovingHead(relief, None, 3.0)._height
    torch.testing.assert_close(height[60:100, 60:100], torch.full((40, 40), 0.3))
    assert float(height[80, 104]) == pytest.approx(0.3, abs=0.01)
    assert bool(torch.isfinite(height).all())


def moment(seed: int, memory: Memory, elapsed_s: float = 0.1) -> Moment:
    return Moment(elapsed_s, np.random.default_rng(seed), memory)


def test_noise_before_the_camera_belongs_to_the_sample_and_that_of_the_sensor_to_the_frame() -> None:
    memory = Memory(math.inf)
    frames = [Draws(1, 2).at(moment(k, memory), {"view_x": 0.1 * k}) for k in range(2)]
    paper = [f.noise(50) for f in frames]
    enter_camera(frames)
    sensor = [f.noise(50) for f in frames]
    torch.testing.assert_close(paper[0], paper[1], rtol=0, atol=0)
    assert not torch.equal(sensor[0], sensor[1])
    assert [f.values["view_x"] for f in frames] == [0.0, 0.1]


def test_still_samples_know_nothing_of_moments() -> None:
    d, plane, value = Draws(1, 2), torch.rand(1, 4, 4, 2), torch.rand(1, 3, 1, 1)
    expected = Draws(1, 2).noise(9)
    enter_camera([d])
    assert moved(plane, [d]) is plane
    assert held("exposure", value, [d]) is value
    torch.testing.assert_close(d.noise(9), expected, rtol=0, atol=0)


def test_exposure_is_held_or_follows_with_its_time_constant() -> None:
    """After one time constant a first-order lag has gone 1 - 1/e of the way, here in powers of e."""
    one, e = torch.ones(1, 1, 1), torch.full((1, 1, 1), math.e)
    for seconds, elapsed, expected in ((math.inf, 0.5, 1.0), (0.0, 0.5, math.e), (0.5, 0.5, math.exp(1 - 1 / math.e))):
        memory = Memory(seconds)
        d = [Draws(0, 0).at(moment(0, memory, t), {}) for t in (0.0, elapsed)]
        got = held("exposure", torch.stack([one, e]), d)
        assert got.flatten().tolist() == pytest.approx([1.0, expected], rel=1e-5)


def test_the_box_follows_the_head(
    simulator: Simulator, numbers: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head that sways by 0.1 tile units moves by 0.1 / (2.0 / 2.8 * zoom) canvas units of 96 px each."""
    index = numbers["bona_fide"]
    plain = sequence.head_tracks

    def swaying(d: Draws, species: str, times: np.ndarray) -> dict[str, np.ndarray]:
        still = {name: np.zeros_like(track) for name, track in plain(d, species, times).items()}
        return still | {"head_x": np.array([0.0, 0.1], np.float32), "head_content_s": np.array([0.0, 1.0], np.float32)}

    def resting(_d: Draws, still: Draws, _times: np.ndarray) -> dict[str, np.ndarray]:
        return {"view_roll": np.zeros(2, np.float32), "view_tilt_x": np.zeros(2), "view_tilt_y": np.zeros(2)}

    monkeypatch.setattr(sequence, "head_tracks", swaying)
    monkeypatch.setattr(sequence, "view_tracks", resting)
    clip = simulator.clip(index, 0.2, 10)
    sign = -1 if clip.params["view_mirror"] else 1
    expected = sign * 0.1 / (2.0 / 2.8 * float(clip.params["view_zoom"])) * 96
    dx, dy = (clip.boxes_xyxy[1] - clip.boxes_xyxy[0])[:2]
    assert float(dx) == pytest.approx(expected, rel=0.03)
    assert float(dy) == pytest.approx(0, abs=0.2)


# --- with meshes and depth ------------------------------------------------------------------------------------------


def with_meshes() -> Simulator:
    """Masks and partial attacks on drawn faces, and a depth camera; pictures of 64 px."""
    return test_masks.simulator(mesh=test_masks.meshes(8), depth=True)


@pytest.fixture(scope="module")
def kinds() -> dict[str, int]:
    """The first sample of every sub-type and of bona fide."""
    simulator, found = with_meshes(), dict[str, int]()
    for i in range(200):
        found.setdefault(str(simulator.draw(i).values.get("subtype", BONA_FIDE)), i)
    assert found.keys() == {BONA_FIDE, *(kind for species in SPECIES.values() for kind in species.subtypes)}
    return found


def test_clips_of_every_kind_have_depth_and_repeat_bit_for_bit(kinds: dict[str, int]) -> None:
    simulator, again = with_meshes(), with_meshes()
    for kind, index in kinds.items():
        clip, other = (s.clip(index, 0.3, 10) for s in (simulator, again))
        assert clip.subtype == kind
        assert clip.depth_mm is not None
        assert other.depth_mm is not None
        assert (clip.depth_mm.dtype, clip.depth_mm.shape) == (np.uint16, clip.frames.shape[:3])
        assert clip.depth_mm.any()
        np.testing.assert_array_equal(clip.depth_mm, other.depth_mm, err_msg=kind)
        np.testing.assert_array_equal(clip.frames, other.frames, err_msg=kind)
        # Noise of the depth camera is fresh in each frame, as that of the colour camera is.
        for frames in (clip.frames, clip.depth_mm):
            assert len({frame.tobytes() for frame in frames}) == 3, kind


@pytest.mark.parametrize("kind", [BONA_FIDE, *test_masks.KINDS])
def test_face_mask_depth_and_box_move_together(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads that sway by five pixels: what is worn and its shape sway with them."""
    simulator, shift = with_meshes(), 5
    plain = sequence.head_tracks

    def resting(_d: Draws, _still: Draws, _times: np.ndarray) -> dict[str, np.ndarray]:
        return {name: np.zeros(2, np.float32) for name in ("view_roll", "view_tilt_x", "view_tilt_y")}

    monkeypatch.setattr(sequence, "view_tracks", resting)
    monkeypatch.setattr(depth, "measure", lambda surface, _: (surface.depth_m[:, 0] * 1000).round().int())
    numbers = (i for i in range(800) if simulator.draw(i).values.get("subtype", BONA_FIDE) == kind)
    found = []
    for index in itertools.islice(numbers, 5):
        values = simulator.draw(index).values
        # In tile units, as in the test of the box above; a picture of 64 px has 32 to a canvas unit.
        sway = shift / 32 * 2.0 / 2.8 * float(values["view_zoom"]) * (-1 if values["view_mirror"] else 1)

        def swaying(d: Draws, species: str, times: np.ndarray, sway: float = sway) -> dict[str, np.ndarray]:
            still = {name: np.zeros_like(track) for name, track in plain(d, species, times).items()}
            moves = {"head_x": np.array([0.0, sway], np.float32), "head_content_s": np.array([0.0, 1.0], np.float32)}
            return still | moves

        monkeypatch.setattr(sequence, "head_tracks", swaying)
        clip = simulator.clip(index, 0.2, 10)
        assert clip.depth_mm is not None
        np.testing.assert_allclose(clip.boxes_xyxy[1] - clip.boxes_xyxy[0], [shift, 0, shift, 0], atol=0.01)
        x1, y1, x2, y2 = clip.boxes_xyxy[0].round().astype(int) + np.array([3, 3, -3, -3])

        def away(frames: np.ndarray, by: int, box: tuple[int, ...] = (x1, y1, x2, y2)) -> float:
            first, second = frames.astype(float)
            left, top, right, bottom = box
            return float(np.abs(second[top:bottom, left + by : right + by] - first[top:bottom, left:right]).mean())

        by_depth, by_colour = (min(range(-9, 10), key=lambda by: away(f, by)) for f in (clip.depth_mm, clip.frames))
        found.append((by_depth, by_colour, away(clip.depth_mm, shift) / away(clip.depth_mm, 0)))
    # Of single samples noise, light that stays and the wall beside a small head may say something else.
    by_depth, by_colour, left = np.median(found, 0)
    assert by_depth == shift
    assert abs(by_colour - shift) <= 1
    assert left < 0.2
