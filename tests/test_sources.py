"""Sources: pictures, folders, patterns, videos, cameras."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from fasedge.errors import FrameError, InputError, SourceError
from fasedge.sources import BadItem, FrameSource, open_source
from fasedge.sources._files import FilesSource, natural_key
from fasedge.sources._images import decode_image, load_image
from fasedge.sources._webcam import MAX_MISSES, WebcamSource
from fasedge.types import Frame

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quarters(height: int = 40, width: int = 60) -> np.ndarray:
    """RGB picture with red, green / blue, white quarters."""
    rgb = np.zeros((height, width, 3), np.uint8)
    h, w = height // 2, width // 2
    rgb[:h, :w], rgb[:h, w:], rgb[h:, :w], rgb[h:, w:] = RED, GREEN, BLUE, WHITE
    return rgb


def encode(rgb: np.ndarray, ending: str) -> bytes:
    ok, data = cv2.imencode(ending, rgb[..., ::-1] if rgb.ndim == 3 else rgb)
    assert ok
    return data.tobytes()


def save(path: Path, rgb: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(rgb, path.suffix))
    return path


def save_video(path: Path, frames: int, codec: str = "MJPG") -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 25, (64, 48))
    assert writer.isOpened()
    for index in range(frames):
        writer.write(np.full((48, 64, 3), 8 * index, np.uint8))
    writer.release()
    return path


def with_exif(jpeg: bytes, orientation: int) -> bytes:
    """Put an Exif segment with nothing but the orientation behind the first marker of a JPEG."""
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 274, 3, 1, orientation, 0, 0)
    body = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def corners(rgb: np.ndarray) -> tuple[str, str, str, str]:
    """Colours of the quarters, read row by row."""
    h, w = rgb.shape[:2]
    names = {RED: "R", GREEN: "G", BLUE: "B", WHITE: "W"}
    places = [(h // 4, w // 4), (h // 4, 3 * w // 4), (3 * h // 4, w // 4), (3 * h // 4, 3 * w // 4)]
    near = [min(names, key=lambda c: int(np.abs(np.array(c) - rgb[p].astype(int)).sum())) for p in places]
    first, second, third, fourth = (names[c] for c in near)
    return first, second, third, fourth


def frames_of(source: FrameSource) -> list[Frame]:
    items = list(source)
    assert not [item for item in items if isinstance(item, BadItem)]
    return [item for item in items if isinstance(item, Frame)]


# ------------------------------------------------------------------------------------------------- still pictures


@pytest.mark.parametrize("ending", [".jpg", ".png", ".bmp", ".webp", ".tiff", ".gif"])
def test_every_usual_picture_format_arrives_red_first(tmp_path: Path, ending: str) -> None:
    path = save(tmp_path / f"a{ending}", quarters())
    (frame,) = frames_of(open_source(path))
    assert frame.rgb.shape == (40, 60, 3)
    assert corners(frame.rgb) == ("R", "G", "B", "W")
    assert frame.name == str(path)
    assert frame.depth_mm is None


# Worked by hand from the table of Exif 2.32, tag 274: which stored corner ends up where.
ORIENTATIONS = {
    1: ("R", "G", "B", "W"),
    2: ("G", "R", "W", "B"),
    3: ("W", "B", "G", "R"),
    4: ("B", "W", "R", "G"),
    5: ("R", "B", "G", "W"),
    6: ("B", "R", "W", "G"),
    7: ("W", "G", "B", "R"),
    8: ("G", "W", "R", "B"),
}


@pytest.mark.parametrize(("orientation", "expected"), ORIENTATIONS.items())
def test_a_phone_photo_is_turned_upright(orientation: int, expected: tuple[str, ...]) -> None:
    data = with_exif(encode(quarters(), ".jpg"), orientation)
    rgb = decode_image(data)
    assert corners(rgb) == expected
    by_opencv = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(rgb, by_opencv[..., ::-1])


def test_a_broken_exif_block_does_not_spoil_a_good_picture() -> None:
    data = bytearray(with_exif(encode(quarters(), ".jpg"), 6))
    data[data.index(b"II*\0") + 4] = 200
    assert corners(decode_image(bytes(data))) == ("R", "G", "B", "W")


def test_sixteen_bit_pictures_are_scaled_by_257(tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 257], [514, 32768, 65406, 65535]], np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), values)
    frame = load_image(tmp_path / "a.png")
    # value / 257, rounded by hand: 128/257 < 0.5 < 129/257, 32768/257 = 127.5019, 65406/257 = 254.498
    assert frame.rgb[..., 0].tolist() == [[0, 0, 1, 1], [2, 128, 254, 255]]
    assert (frame.rgb == frame.rgb[..., :1]).all()


def test_grey_pictures_get_three_equal_channels() -> None:
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    rgb = decode_image(encode(grey, ".png"))
    for channel in range(3):
        np.testing.assert_array_equal(rgb[..., channel], grey)


def test_transparent_parts_become_mid_grey_whatever_lies_hidden_under_them() -> None:
    bgra = np.zeros((1, 3, 4), np.uint8)
    bgra[0, 0] = (10, 20, 30, 255)
    bgra[0, 1] = (10, 20, 30, 0)
    bgra[0, 2] = (10, 20, 30, 51)  # a fifth of the colour, four fifths of 128: 104.4, 106.4, 108.4
    ok, data = cv2.imencode(".png", bgra)
    assert ok
    assert decode_image(data.tobytes()).tolist() == [[[30, 20, 10], [128, 128, 128], [108, 106, 104]]]


def test_a_picture_of_one_pixel_is_a_frame(tmp_path: Path) -> None:
    (frame,) = frames_of(open_source(save(tmp_path / "dot.png", np.array([[[1, 2, 3]]], np.uint8))))
    assert frame.rgb.tolist() == [[[1, 2, 3]]]


def test_names_outside_ascii_and_endings_in_capitals_work(tmp_path: Path) -> None:
    path = save(tmp_path / "Größe 面.png", quarters())
    path = path.rename(path.with_suffix(".PNG"))
    assert frames_of(open_source(str(path)))[0].name == str(path)


def test_a_picture_without_a_known_ending_is_recognised_by_its_content(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", quarters()).rename(tmp_path / "upload-42")
    assert corners(frames_of(open_source(path))[0].rgb) == ("R", "G", "B", "W")


def test_a_closed_source_refuses_to_go_on_and_may_be_closed_twice(tmp_path: Path) -> None:
    with open_source(save(tmp_path / "a.png", quarters())) as source:  # type: ignore[attr-defined]
        pass
    source.close()
    with pytest.raises(SourceError, match="closed"):
        list(source)


# ---------------------------------------------------------------------------------------------------------- depth


def test_depth_beside_the_colour_picture_comes_along(tmp_path: Path) -> None:
    save(tmp_path / "a_rgb.png", quarters(4, 6))
    depth = np.arange(24, dtype=np.uint16).reshape(4, 6) * 100
    save(tmp_path / "a_depth_mm.png", depth)
    frame = load_image(tmp_path / "a_rgb.png")
    assert frame.depth_mm is not None
    np.testing.assert_array_equal(frame.depth_mm, depth)
    assert load_image(tmp_path / "a_rgb.png", depth=False).depth_mm is None
    (only,) = frames_of(open_source(tmp_path))
    assert only.depth_mm is not None


def test_a_coarser_depth_grid_is_spread_over_whole_blocks_of_pixels(tmp_path: Path) -> None:
    save(tmp_path / "a_rgb.png", quarters(4, 6))
    save(tmp_path / "a_depth_mm.png", np.array([[500, 0, 700], [800, 900, 1000]], np.uint16))
    frame = load_image(tmp_path / "a_rgb.png")
    assert frame.depth_mm is not None
    assert frame.depth_mm.tolist() == [
        [500, 500, 0, 0, 700, 700],
        [500, 500, 0, 0, 700, 700],
        [800, 800, 900, 900, 1000, 1000],
        [800, 800, 900, 900, 1000, 1000],
    ]


@pytest.mark.parametrize("shape", [(4, 5), (3, 6), (2, 6), (8, 12)])
def test_depth_of_another_shape_is_refused(tmp_path: Path, shape: tuple[int, int]) -> None:
    save(tmp_path / "a_rgb.png", quarters(4, 6))
    save(tmp_path / "a_depth_mm.png", np.ones(shape, np.uint16))
    with pytest.raises(FrameError, match="whole fraction"):
        load_image(tmp_path / "a_rgb.png")


def test_depth_with_eight_bits_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a_rgb.png", quarters(4, 6))
    save(tmp_path / "a_depth_mm.png", np.ones((4, 6), np.uint8))
    with pytest.raises(FrameError, match="16 bits"):
        load_image(tmp_path / "a_rgb.png")


def test_a_rotation_mark_beside_depth_is_refused_because_it_is_ambiguous(tmp_path: Path) -> None:
    (tmp_path / "a_rgb.jpg").write_bytes(with_exif(encode(quarters(4, 6), ".jpg"), 3))
    save(tmp_path / "a_depth_mm.png", np.ones((4, 6), np.uint16))
    with pytest.raises(FrameError, match="rotation mark"):
        load_image(tmp_path / "a_rgb.jpg")


# -------------------------------------------------------------------------------------------- folders and patterns


def test_numbers_in_file_names_count_as_numbers(tmp_path: Path) -> None:
    for name in ("img10.png", "img2.png", "Img1.png", "img02b.png"):
        save(tmp_path / name, quarters(4, 4))
    names = [Path(frame.name).name for frame in frames_of(open_source(tmp_path))]
    assert names == ["Img1.png", "img2.png", "img02b.png", "img10.png"]


def test_the_natural_key_orders_mixed_names_without_a_type_error() -> None:
    assert sorted(["a", "1", "a1", "", "1a", "10", "2", "a-1"], key=natural_key) == sorted(
        ["", "1", "1a", "2", "10", "a", "a-1", "a1"], key=natural_key
    )
    assert sorted(["10", "9", "1a"], key=natural_key) == ["1a", "9", "10"]


def test_subfolders_are_read_only_when_asked_and_hidden_ones_never(tmp_path: Path) -> None:
    save(tmp_path / "a.png", quarters(4, 4))
    save(tmp_path / "sub" / "b.png", quarters(4, 4))
    save(tmp_path / ".cache" / "c.png", quarters(4, 4))
    save(tmp_path / ".hidden.png", quarters(4, 4))
    assert [Path(f.name).name for f in frames_of(open_source(tmp_path))] == ["a.png"]
    assert [Path(f.name).name for f in frames_of(open_source(tmp_path, recursive=True))] == ["a.png", "b.png"]


def test_other_files_in_a_folder_are_listed_as_skipped(tmp_path: Path) -> None:
    save(tmp_path / "a.png", quarters(4, 4))
    (tmp_path / "notes.txt").write_text("hello")
    source = open_source(tmp_path)
    assert isinstance(source, FilesSource)
    assert source.skipped == (str(tmp_path / "notes.txt"),)
    assert len(frames_of(source)) == 1


def test_a_folder_goes_on_after_a_broken_picture(tmp_path: Path) -> None:
    save(tmp_path / "1.png", quarters(4, 4))
    (tmp_path / "2.png").write_bytes(b"no picture")
    save(tmp_path / "3.png", quarters(4, 4))
    kinds = [type(item) for item in open_source(tmp_path)]
    assert kinds == [Frame, BadItem, Frame]


def test_a_folder_reads_its_videos_too(tmp_path: Path) -> None:
    save(tmp_path / "1.png", quarters(4, 4))
    save_video(tmp_path / "2.avi", 5)
    (tmp_path / "3.mp4").write_bytes(b"no video")
    items = list(open_source(tmp_path, every=2, max_frames=2))
    assert [Path(item.name).name for item in items] == ["1.png", "2.avi#1", "2.avi#3", "3.mp4"]
    assert isinstance(items[-1], BadItem)


def test_a_pattern_picks_files(tmp_path: Path) -> None:
    for name in ("a1.png", "a2.png", "b.png", "sub/a3.png"):
        save(tmp_path / name, quarters(4, 4))
    assert [Path(f.name).name for f in frames_of(open_source(f"{tmp_path}/a*.png"))] == ["a1.png", "a2.png"]
    assert [Path(f.name).name for f in frames_of(open_source(f"{tmp_path}/**/a*.png"))] == [
        "a1.png",
        "a2.png",
        "a3.png",
    ]


def test_a_file_whose_name_looks_like_a_pattern_is_still_that_file(tmp_path: Path) -> None:
    save(tmp_path / "a[1].png", quarters(4, 4))
    assert len(frames_of(open_source(f"{tmp_path}/a[1].png"))) == 1


def test_a_source_can_be_read_twice(tmp_path: Path) -> None:
    save(tmp_path / "a.png", quarters(4, 4))
    save_video(tmp_path / "b.avi", 3)
    source = open_source(tmp_path)
    assert [f.name for f in frames_of(source)] == [f.name for f in frames_of(source)]


# --------------------------------------------------------------------------------------------------------- videos


@pytest.mark.parametrize(("ending", "codec"), [(".avi", "MJPG"), (".mp4", "mp4v"), (".mkv", "FFV1"), (".mov", "mp4v")])
def test_a_video_delivers_every_frame_in_order(tmp_path: Path, ending: str, codec: str) -> None:
    path = save_video(tmp_path / f"a{ending}", 12, codec)
    with open_source(path) as source:  # type: ignore[attr-defined]
        frames = frames_of(source)
    assert [frame.name for frame in frames] == [f"{path}#{n}" for n in range(1, 13)]
    for index, frame in enumerate(frames):
        assert abs(float(frame.rgb.mean()) - 8 * index) < 4
        assert frame.timestamp_s == pytest.approx(index / 25, abs=0.001)


def test_every_and_max_frames_thin_a_video_out(tmp_path: Path) -> None:
    path = save_video(tmp_path / "a.avi", 10)
    numbers = [int(f.name.rsplit("#", 1)[1]) for f in frames_of(open_source(path, every=4))]
    assert numbers == [1, 5, 9]
    assert len(frames_of(open_source(path, every=4, max_frames=2))) == 2


def test_a_video_that_breaks_off_says_after_which_frame(tmp_path: Path) -> None:
    whole = save_video(tmp_path / "whole.avi", 30)
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    *frames, last = open_source(cut)
    assert frames
    assert all(isinstance(item, Frame) for item in frames)
    assert isinstance(last, BadItem)
    assert f"after frame {len(frames)} of 30" in str(last.error)


def test_a_video_without_a_decodable_frame_is_refused(tmp_path: Path) -> None:
    whole = save_video(tmp_path / "whole.mkv", 30, "FFV1")
    header_only = tmp_path / "cut.mkv"
    header_only.write_bytes(whole.read_bytes()[:600])
    with pytest.raises(SourceError, match="damaged"):
        open_source(header_only)


def test_closing_ends_an_iteration_under_way(tmp_path: Path) -> None:
    source = open_source(save_video(tmp_path / "a.avi", 10))
    iterator = iter(source)
    next(iterator)
    source.close()
    assert list(iterator) == []
    with pytest.raises(SourceError, match="closed"):
        list(source)


# -------------------------------------------------------------------------------------------------------- cameras


class FakeCapture:
    """Plays a camera from a script: an array is a frame, ``None`` is a dropped one."""

    def __init__(self, script: list[np.ndarray | None], *, opens: bool = True) -> None:
        self._script: Iterator[np.ndarray | None] = iter(script)
        self._now: np.ndarray | None = None
        self._opens = opens
        self.released = 0
        self.settings: dict[int, float] = {}

    def isOpened(self) -> bool:
        return self._opens

    def grab(self) -> bool:
        self._now = next(self._script, None)
        return self._now is not None

    def retrieve(self) -> tuple[bool, np.ndarray | None]:
        return self._now is not None, self._now

    def set(self, key: int, value: float) -> bool:
        self.settings[key] = value
        return True

    def release(self) -> None:
        self.released += 1


def blue_first(value: int) -> np.ndarray:
    return np.full((2, 2, 3), (value, 0, 200), np.uint8)


def test_a_camera_delivers_frames_red_first_with_its_clock() -> None:
    capture = FakeCapture([blue_first(7)])
    with WebcamSource(0, max_frames=1, opener=lambda _: capture, clock=lambda: 12.5, size=(640, 480)) as camera:
        (frame,) = frames_of(camera)
    assert frame.rgb[0, 0].tolist() == [200, 0, 7]
    assert (frame.name, frame.timestamp_s, camera.name) == ("webcam:0#1", 12.5, "webcam:0")
    assert capture.settings[cv2.CAP_PROP_FRAME_WIDTH] == 640
    assert capture.released == 1
    camera.close()
    assert capture.released == 1


def test_a_camera_may_drop_single_frames() -> None:
    camera = WebcamSource(0, max_frames=2, opener=lambda _: FakeCapture([None, blue_first(1), None, blue_first(2)]))
    assert [f.rgb[0, 0, 2] for f in frames_of(camera)] == [1, 2]


def test_a_camera_can_be_thinned_out() -> None:
    capture = FakeCapture([blue_first(value) for value in range(9)])
    camera = WebcamSource(0, every=3, max_frames=3, opener=lambda _: capture)
    assert [f.rgb[0, 0, 2] for f in frames_of(camera)] == [0, 3, 6]


def test_a_camera_that_falls_silent_ends_with_a_bad_item() -> None:
    capture = FakeCapture([blue_first(1), *[None] * MAX_MISSES])
    items = list(WebcamSource(0, opener=lambda _: capture))
    assert [type(item) for item in items] == [Frame, BadItem]
    assert "after 1 frames" in str(items[1].error)  # type: ignore[union-attr]


def test_a_camera_that_does_not_open_is_released_and_refused() -> None:
    capture = FakeCapture([], opens=False)
    with pytest.raises(SourceError, match="camera 3 cannot be opened"):
        WebcamSource(3, opener=lambda _: capture)
    assert capture.released == 1


@pytest.mark.parametrize("options", [{"every": 0}, {"max_frames": 0}])
def test_sampling_options_must_be_positive(tmp_path: Path, options: dict[str, int]) -> None:
    path = save(tmp_path / "a.png", quarters(4, 4))
    with pytest.raises(InputError, match="1"):
        open_source(path, **options)  # type: ignore[arg-type]


def test_a_negative_camera_number_is_refused() -> None:
    with pytest.raises(InputError, match="-1"):
        open_source(-1)


def test_a_network_address_is_refused_in_plain_words() -> None:
    with pytest.raises(SourceError, match="network"):
        open_source("rtsp://camera.local/stream")
