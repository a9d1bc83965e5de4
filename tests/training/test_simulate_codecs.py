"""H.264 as the simulator's cameras store it: what it does to a picture, and that it does the same every time."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from training.data.simulate import Simulator, camera, capture
from training.data.simulate.codec import ByteArray, from_uint8, h264_once, jpeg_once, to_uint8
from training.data.simulate.draws import Draws, Value
from training.data.simulate.operators import switch_off
from training.data.simulate.profiles import PROFILES
from training.data.work import make_simulator
from training.errors import TrainingError

SEED = 5


def parameters(**values: Value) -> Draws:
    d = Draws(0, 0)
    d.values = values
    return d


def texture(height: int = 96, width: int = 96, sigma: float = 1.5) -> ByteArray:
    """Soft noise in colour, uint8 (H, W, 3), of standard deviation 40."""
    noise = np.random.default_rng(4).standard_normal((height, width, 3))
    soft = cv2.GaussianBlur(noise, (0, 0), sigma)
    return np.asarray(np.clip(127 + 40 * soft / soft.std(), 0, 255), np.uint8)


def error(found: ByteArray, wanted: ByteArray) -> float:
    """Root of the mean square, in steps of 255."""
    return float(np.sqrt(np.mean((found.astype(float) - wanted) ** 2)))


def blockiness(picture: ByteArray, side: int) -> float:
    """Steps across the edges of blocks over steps inside them, both ways, in luma: 1 where there is no block."""
    luma = picture.astype(float) @ [0.299, 0.587, 0.114]
    found = []
    for plane in (luma, luma.T):
        steps = np.abs(np.diff(plane, axis=1)).mean(0)
        edge = np.arange(len(steps)) % side == side - 1
        found.append(steps[edge].mean() / steps[~edge].mean())
    return float(np.mean(found))


def test_the_error_grows_and_detail_is_lost_with_the_quantiser() -> None:
    picture = np.repeat(texture()[..., :1], 3, 2)  # grey: halved colour would lose detail at any quantiser
    stored = [h264_once(picture, qp) for qp in (18, 24, 30, 36, 42)]
    errors = [error(s, picture) for s in stored]
    # The quantiser's step is 0.625 at 0 and doubles every six: rounding to it errs by up to step / √12.
    for found, qp in zip(errors, (18, 24, 30, 36, 42), strict=True):
        assert 0.3 < found / (0.625 * 2 ** (qp / 6) / np.sqrt(12)) < 1.2, (qp, errors)
    assert all(1.4 * a < b for a, b in pairwise(errors)), errors
    faint = np.asarray(127 + 0.1 * (picture.astype(float) - 127), np.uint8)
    assert h264_once(faint, 18).std() > 0.9 * faint.std()
    assert h264_once(faint, 42).std() < 0.5 * faint.std()
    assert all(abs(float(s.mean()) - picture.mean()) < 1.5 for s in stored)


def test_blocks_are_smoothed_where_those_of_a_jpeg_show() -> None:
    """The deblocking filter of H.264: of two files of the same error, the JPEG has the steps every eight pixels."""
    ramp = np.linspace(60, 190, 128)[None, :, None] + np.linspace(-30, 30, 128)[:, None, None]
    picture = np.clip(ramp + 0.15 * (texture(128, 128, 3.0).astype(float) - 127), 0, 255).astype(np.uint8)
    video = h264_once(picture, 40)
    quality = min(range(5, 96, 5), key=lambda q: abs(error(jpeg_once(picture, q), picture) - error(video, picture)))
    still = jpeg_once(picture, quality)
    assert error(still, picture) == pytest.approx(error(video, picture), rel=0.3)
    assert blockiness(still, 8) > 1.5 * blockiness(video, 8)
    assert blockiness(picture, 8) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(("height", "width"), [(96, 97), (97, 96), (31, 17), (16, 16), (3, 5), (1, 1)])
def test_odd_sides_come_back_whole(height: int, width: int) -> None:
    picture = texture(height, width, 4.0)
    stored = h264_once(picture, 10)
    assert (stored.shape, stored.dtype) == (picture.shape, np.uint8)
    assert error(stored, picture) < 4
    assert error(stored[-1:], picture[-1:]) < 6
    assert error(stored[:, -1:], picture[:, -1:]) < 6


def test_grey_stays_grey_and_black_and_white_keep_their_values() -> None:
    for level in (0, 16, 128, 235, 255):
        picture = np.full((32, 32, 3), level, np.uint8)
        assert np.abs(h264_once(picture, 24).astype(int) - level).max() <= 1


def test_the_same_picture_gives_the_same_bytes_also_beside_others() -> None:
    pictures = [texture(64 + 2 * i, 80, 1.0 + 0.2 * i) for i in range(6)]
    alone = [h264_once(p, 28) for p in pictures]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda p: h264_once(p, 28), pictures * 2))
    assert all(np.array_equal(a, b) for a, b in zip(alone * 2, together, strict=True))


def test_without_the_library_or_its_encoder_an_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import av

    def refuse(name: str, mode: str) -> None:
        raise av.codec.codec.UnknownCodecError(name)

    class NoEncoder:
        create = staticmethod(refuse)

    with monkeypatch.context() as patch:
        patch.setattr(av, "CodecContext", NoEncoder)
        with pytest.raises(TrainingError, match="no codec libx264"):
            h264_once(texture(16, 16), 20)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(TrainingError, match=r"need PyAV \(pip install av\)"):
        h264_once(texture(16, 16), 20)


def stored(**values: Value) -> ByteArray:
    picture = from_uint8(texture(96, 96)[None], torch.device("cpu"))
    quiet: dict[str, Value] = {"small": 0.0, "jpeg_quality": 70, "jpeg_twice": 0, "jpeg_second_quality": 50}
    return camera.encode(picture, [parameters(**quiet | values)], 96)[0]


def test_a_camera_stores_h264_instead_of_jpeg_and_a_grabbed_frame_as_both() -> None:
    picture = texture(96, 96)
    assert np.array_equal(stored(h264=0, h264_qp=30), jpeg_once(picture, 70))
    assert np.array_equal(stored(h264=1, h264_qp=30), h264_once(picture, 30))
    grabbed = stored(h264=1, h264_qp=30, jpeg_twice=1)
    assert np.array_equal(grabbed, jpeg_once(h264_once(picture, 30), 50))
    small = cv2.resize(picture, (73, 73), interpolation=cv2.INTER_AREA)  # 96 / 1.3, an odd side
    back = cv2.resize(h264_once(np.asarray(small, np.uint8), 30), (96, 96), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(stored(h264=1, h264_qp=30, small=1.315), back)


def test_an_attackers_video_is_stored_once() -> None:
    tile = torch.from_numpy(texture(64, 64)).permute(2, 0, 1)[None].contiguous()
    developed = to_uint8(tile.float() / 255)[0]
    still, video = (
        to_uint8(capture.attackers_capture(tile, [parameters(capture_quality=60, capture_h264=h, capture_qp=33)]))[0]
        for h in (0, 1)
    )
    assert np.array_equal(still, jpeg_once(developed, 60))
    assert np.array_equal(video, h264_once(developed, 33))


@pytest.fixture(scope="module")
def simulator(face_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Simulator:
    return make_simulator(face_pack, tmp_path_factory.mktemp("tiles"), "train", SEED)


def test_both_classes_meet_video_as_often_and_as_often_as_their_camera_streams(simulator: Simulator) -> None:
    drawn = [simulator.draw(i).values for i in range(4000)]
    shares = []
    for bona_fide in (0, 1):
        group = [float(v["h264"]) for v in drawn if v["bona_fide"] == bona_fide]
        shares.append(np.mean(group))
        # Four standard deviations about what the profiles say.
        expected = sum(p.share * p.video for p in PROFILES.values())
        assert np.mean(group) == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / len(group)))
    assert 0.2 < np.mean(shares) < 0.25 + 0.02
    kiosk, phone = (np.mean([float(v["h264"]) for v in drawn if v["camera"] == c]) for c in ("kiosk", "phone_back"))
    assert kiosk > 2 * phone
    replays = [float(v["capture_h264"]) for v in drawn if v.get("species") == "replay"]
    prints = [float(v["capture_h264"]) for v in drawn if v.get("species") == "print"]
    assert np.mean(replays) == pytest.approx(0.35, abs=0.06)
    assert np.mean(prints) == pytest.approx(0.1, abs=0.04)


def test_a_sample_without_video_is_the_same_whatever_the_quantiser(simulator: Simulator) -> None:
    index = next(i for i in range(99) if simulator.draw(i).values["h264"])
    off = switch_off(simulator.draw(index), "h264")
    never = simulator.draw(index)
    never.values |= {"h264": 0, "h264_qp": 18}
    on = simulator.draw(index)
    pictures = [s.picture for s in simulator.render([off, never, on])]
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])
    assert np.array_equal(simulator.samples([index])[0].picture, pictures[2])
