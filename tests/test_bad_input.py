"""Every kind of broken, hostile or mistaken input ends in a typed error that says what to do."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasedge.errors import FasEdgeError, FrameError, SourceError
from fasedge.sources import BadItem, open_source
from fasedge.sources import _images as images
from fasedge.sources._headers import read_header
from fasedge.sources._images import MAX_PIXELS, decode_image, load_image
from fasedge.types import MAX_SIDE_PX

FORMATS = (".jpg", ".png", ".bmp", ".webp", ".tiff", ".gif")


def encoded(ending: str, height: int = 48, width: int = 64) -> bytes:
    ramp = np.linspace(0, 255, height * width * 3).reshape(height, width, 3)
    ok, data = cv2.imencode(ending, ramp.astype(np.uint8))
    assert ok
    return data.tobytes()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_claiming(width: int, height: int) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = png_chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + header + data + png_chunk(b"IEND", b"")


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("the picture was decoded before its size was checked")

    monkeypatch.setattr(cv2, "imdecode", refuse)


# ---------------------------------------------------------------------------------------------- broken pictures


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.9, 0.99])
def test_a_truncated_picture_is_an_error_and_not_half_a_picture(ending: str, share: float) -> None:
    data = encoded(ending)
    with pytest.raises(SourceError, match=r"cut\.bin"):
        decode_image(data[: int(len(data) * share)], name="cut.bin")


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp", ".gif"])
def test_a_missing_last_byte_is_noticed(ending: str) -> None:
    with pytest.raises(SourceError, match="breaks off"):
        decode_image(encoded(ending)[:-1])


def test_an_empty_file_says_that_it_is_empty(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(SourceError, match="empty"):
        load_image(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"hello, this is a letter", "not a picture"),
        (b"%PDF-1.7 ...", "not a picture"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x18ftypavif\0\0\0\0", "AVIF"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "video"),
        (b"RIFF\0\0\0\0AVI LIST", "video"),
        (b"RIFF\0\0\0\0WAVEfmt ", "not a picture"),
        (b"II+\0\x08\0\0\0", "BigTIFF"),
        (b"\xff", "not a picture"),
    ],
)
def test_a_file_that_only_pretends_to_be_a_picture_is_named_for_what_it_is(
    tmp_path: Path, content: bytes, words: str
) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(SourceError, match=words):
        load_image(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("width", "height"), [(MAX_SIDE_PX + 1, 1), (1, MAX_SIDE_PX + 1), (12000, 12000), (2**31 - 1, 9)]
)
def test_a_decompression_bomb_is_refused_before_anything_is_decoded(
    monkeypatch: pytest.MonkeyPatch, width: int, height: int
) -> None:
    forbid_decoding(monkeypatch)
    with pytest.raises(SourceError, match=f"{width}x{height}"):
        decode_image(png_claiming(width, height))


def test_the_size_limit_holds_for_every_format(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [encoded(ending) for ending in FORMATS]
    monkeypatch.setattr(images, "MAX_PIXELS", 64 * 48 - 1)
    forbid_decoding(monkeypatch)
    for data in pictures:
        with pytest.raises(SourceError, match="64x48"):
            decode_image(data)


def test_the_pixel_limit_is_a_hundred_megapixels() -> None:
    assert MAX_PIXELS == 100 * 10**6


@pytest.mark.parametrize("ending", FORMATS)
def test_headers_state_the_size_that_opencv_decodes(ending: str) -> None:
    for height, width in ((1, 1), (7, 13), (300, 257)):
        header = read_header(encoded(ending, height, width), "a")
        assert (header.width, header.height, header.pictures) == (width, height, 1)


def test_a_size_of_zero_is_called_damaged() -> None:
    with pytest.raises(SourceError, match="damaged"):
        decode_image(png_claiming(0, 5))


def test_pixels_of_an_unusual_type_are_refused() -> None:
    ok, data = cv2.imencode(".tiff", np.ones((4, 4), np.float32))
    assert ok
    with pytest.raises(SourceError, match="float32"):
        decode_image(data.tobytes())


def test_a_file_larger_than_any_picture_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    with path.open("wb") as stream:
        stream.truncate((1 << 30) + 1)  # sparse: takes no space
    with pytest.raises(SourceError, match="at most"):
        load_image(path)


# ------------------------------------------------------------------------------------- several pictures in one file


def animated(ending: str) -> bytes:
    animation = cv2.Animation()
    animation.frames = [np.full((8, 8, 3 if ending == ".gif" else 4), value, np.uint8) for value in (0, 100, 200)]
    animation.durations = [100, 100, 100]
    ok, data = cv2.imencodeanimation(ending, animation)
    assert ok
    return data.tobytes()


@pytest.mark.parametrize("ending", [".gif", ".png", ".webp"])
def test_an_animation_is_refused_and_the_message_says_what_to_do(ending: str) -> None:
    with pytest.raises(SourceError, match=r"holds \d+ pictures.*convert"):
        decode_image(animated(ending))


def test_a_document_with_pages_is_refused() -> None:
    ok, data = cv2.imencodemulti(".tiff", [np.zeros((8, 8, 3), np.uint8)] * 2)
    assert ok
    with pytest.raises(SourceError, match="holds 2 pictures"):
        decode_image(data.tobytes())


def test_a_directory_chain_that_loops_ends() -> None:
    # One directory with no entries whose "next" points at itself.
    data = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 0) + struct.pack("<I", 8)
    with pytest.raises(SourceError, match="impossible size"):
        decode_image(data)


# ------------------------------------------------------------------------------------------------- fuzzed pictures


@settings(max_examples=150, deadline=None)
@given(ending=st.sampled_from(FORMATS), data=st.data())
def test_damaged_bytes_give_a_picture_or_a_typed_error(ending: str, data: st.DataObject) -> None:
    content = bytearray(encoded(ending, 8, 8))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        rgb = decode_image(bytes(content))
    except FasEdgeError:
        return
    assert rgb.dtype == np.uint8
    assert rgb.ndim == 3
    assert rgb.shape[2] == 3


@settings(max_examples=200, deadline=None)
@given(
    start=st.sampled_from([b"", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"GIF89a", b"BM", b"RIFF\x40\0\0\0WEBPVP8X"]),
    rest=st.binary(max_size=80),
)
def test_noise_behind_any_signature_gives_a_typed_error(start: bytes, rest: bytes) -> None:
    with pytest.raises(FasEdgeError):
        decode_image(start + rest)


# ------------------------------------------------------------------------------------------- the file system's moods


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nope\.jpg does not exist"):
        open_source(tmp_path / "nope.jpg")


def test_a_pattern_without_a_match_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no picture or video matches"):
        open_source(f"{tmp_path}/*.jpg")


def test_an_empty_folder_says_what_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"holds no pictures .*\.jpg"):
        open_source(tmp_path)


def test_an_empty_folder_with_subfolders_points_to_the_option(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with pytest.raises(SourceError, match="--recursive"):
        open_source(tmp_path)


def test_a_folder_that_is_called_jpg_is_read_as_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "holiday.jpg"
    folder.mkdir()
    with pytest.raises(SourceError, match="holds no pictures"):
        open_source(folder)
    with pytest.raises(SourceError, match="is a folder"):
        load_image(folder)


def test_a_subfolder_that_is_called_jpg_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(".png"))
    (tmp_path / "holiday.jpg").mkdir()
    items = list(open_source(tmp_path))
    bad = [item for item in items if isinstance(item, BadItem)]
    assert [Path(item.name).name for item in bad] == ["holiday.jpg"]
    assert len(items) == 2


def test_depth_without_its_colour_picture_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a_depth_mm.png").write_bytes(encoded(".png"))
    (item,) = open_source(tmp_path)
    assert isinstance(item, BadItem)
    assert "without its colour picture" in str(item.error)
    with pytest.raises(SourceError, match="depth picture"):
        open_source(tmp_path / "a_depth_mm.png")


def test_a_text_file_is_neither_picture_nor_video(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(SourceError, match="neither a picture"):
        open_source(tmp_path / "notes.txt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_named_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(SourceError, match="not a regular file"):
        load_image(tmp_path / "pipe.jpg")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(".png"))
    path.chmod(0)
    with pytest.raises(SourceError, match=r"(?i)permission"):
        load_image(path)


def test_an_error_of_the_file_system_becomes_a_typed_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(".png"))

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(SourceError, match="Permission denied") as caught:
        load_image(path)
    assert isinstance(caught.value.__cause__, PermissionError)


def test_a_dangling_link_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to(tmp_path / "gone.jpg")
    (item,) = open_source(tmp_path)
    assert isinstance(item, BadItem)
    assert "does not exist" in str(item.error)


@pytest.mark.parametrize("spec", ["", "a\0b", "x" * 5000])
def test_impossible_names_are_typed_errors(spec: str) -> None:
    with pytest.raises(FasEdgeError):
        open_source(spec)


# ------------------------------------------------------------------------------------------------------- videos


@pytest.mark.parametrize("content", [b"", b"not a video at all", b"\0\0\0\x18ftypisom\0\0\0\0isommp42"])
def test_a_file_that_only_pretends_to_be_a_video_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(SourceError, match=r"a\.mp4"):
        open_source(tmp_path / "a.mp4")


def test_a_picture_called_video_is_not_continued_with_its_neighbours(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        (tmp_path / f"clip0{number}.mp4").write_bytes(encoded(".png"))
    try:
        items = list(open_source(tmp_path / "clip01.mp4"))
    except SourceError:
        return
    assert len(items) == 1


def test_depth_of_another_size_is_a_frame_error_and_the_folder_goes_on(tmp_path: Path) -> None:
    (tmp_path / "a_rgb.png").write_bytes(encoded(".png", 8, 8))
    ok, depth = cv2.imencode(".png", np.ones((5, 5), np.uint16))
    assert ok
    (tmp_path / "a_depth_mm.png").write_bytes(depth.tobytes())
    (tmp_path / "b_rgb.png").write_bytes(encoded(".png", 8, 8))
    first, second = open_source(tmp_path)
    assert isinstance(first, BadItem)
    assert isinstance(first.error, FrameError)
    assert not isinstance(second, BadItem)
