"""Face finders with their engines: the network files, opening, and both finders side by side."""

from __future__ import annotations

import csv
import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from fasedge.backends import Backend, available_engines, open_backend
from fasedge.errors import EngineError, EngineUnavailableError, FrameError, InputError, IntegrityError
from fasedge.faces import BlazeFaceFinder, FaceFinder, _assets, open_finder
from fasedge.faces._assets import BLAZEFACE_ONNX, BLAZEFACE_TFLITE, assets_folder, verified_asset
from fasedge.faces._blazeface import BLAZEFACE_NAMES
from fasedge.faces._windows import Window, sample
from fasedge.geometry import iou
from fasedge.testing import synthetic_face, synthetic_frame
from fasedge.types import Box, Face, UInt8Array

ENGINES = tuple(available_engines())
HAS_MEDIAPIPE = importlib.util.find_spec("mediapipe") is not None
needs_mediapipe = pytest.mark.skipif(not HAS_MEDIAPIPE, reason="MediaPipe is not installed")
needs_engine = pytest.mark.skipif(not ENGINES, reason="no inference engine is installed")
FINDERS = [pytest.param("blazeface", engine, id=engine) for engine in ENGINES]
FINDERS.append(pytest.param("mediapipe", "auto", id="mediapipe", marks=needs_mediapipe))


def blank(width: int, height: int, value: int = 128) -> UInt8Array:
    return np.full((height, width, 3), value, np.uint8)


@pytest.fixture(scope="module")
def plain() -> Iterator[FaceFinder]:
    if not ENGINES:
        pytest.skip("no inference engine is installed")
    with BlazeFaceFinder(_network(ENGINES[0]), zoom=False) as finder:
        yield finder


@pytest.fixture(scope="module")
def zooming() -> Iterator[FaceFinder]:
    if not ENGINES:
        pytest.skip("no inference engine is installed")
    with BlazeFaceFinder(_network(ENGINES[0])) as finder:
        yield finder


@pytest.fixture(scope="module")
def mediapipe() -> Iterator[FaceFinder]:
    if not HAS_MEDIAPIPE:
        pytest.skip("MediaPipe is not installed")
    finder = open_finder("mediapipe")
    yield finder
    finder.close()


def _network(engine: str) -> Backend:
    asset = BLAZEFACE_TFLITE if engine == "litert" else BLAZEFACE_ONNX
    return open_backend(engine, assets_folder() / asset.name, names=BLAZEFACE_NAMES, threads=1)


# --- The network files


@pytest.mark.parametrize("asset", [BLAZEFACE_TFLITE, BLAZEFACE_ONNX])
def test_network_file_carries_its_hash_and_is_described_in_the_readme(asset: _assets.Asset) -> None:
    path = verified_asset(asset)
    line = next(x for x in (assets_folder() / "README.md").read_text().splitlines() if f"`{asset.name}` |" in x)
    assert asset.sha256 in line
    assert f"| {path.stat().st_size} |" in line
    assert path.stat().st_size <= 500_000


@pytest.mark.parametrize(("finder", "engine"), FINDERS)
def test_altered_network_file_is_refused(
    finder: str, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for asset in (BLAZEFACE_TFLITE, BLAZEFACE_ONNX):
        data = bytearray((assets_folder() / asset.name).read_bytes())
        data[len(data) // 2] ^= 1
        (tmp_path / asset.name).write_bytes(data)
    monkeypatch.setattr(_assets, "assets_folder", lambda: tmp_path)
    with pytest.raises(IntegrityError, match="was altered"):
        open_finder(finder, engine=engine)


def test_onnx_network_computes_what_litert_computes_alone_and_in_a_batch() -> None:
    if not {"litert", "onnxruntime"} <= set(ENGINES):
        pytest.skip("needs LiteRT and ONNX Runtime")
    frame = synthetic_frame(256, 256, faces=(synthetic_face((128, 128), 110),))
    batch = sample(frame.rgb, [Window(0, 0, 256), Window(20, 30, 180), Window(-40, -10, 300)])
    with _network("litert") as litert, _network("onnxruntime") as ort:
        got = ort.infer({"picture": batch})
        for i in range(len(batch)):
            wanted = litert.infer({"picture": batch[i : i + 1]})
            for name in ("boxes", "scores"):
                one = np.asarray(wanted[name], np.float32)[0]
                np.testing.assert_allclose(np.asarray(got[name], np.float32)[i], one, rtol=1e-4, atol=1e-4)


def test_shipped_onnx_network_is_what_the_converter_builds() -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("ai_edge_litert")
    from quantize.blazeface_onnx import convert

    built = onnx.load_from_string(convert((assets_folder() / BLAZEFACE_TFLITE.name).read_bytes()))
    shipped = onnx.load_from_string((assets_folder() / BLAZEFACE_ONNX.name).read_bytes())
    assert [(n.op_type, list(n.input)) for n in built.graph.node] == [
        (n.op_type, list(n.input)) for n in shipped.graph.node
    ]
    assert [(t.name, t.raw_data) for t in built.graph.initializer] == [
        (t.name, t.raw_data) for t in shipped.graph.initializer
    ]


# --- Opening


def test_importing_the_finders_imports_no_engine(repository: Path) -> None:
    code = (
        "import sys, fasedge.faces; "
        "print([m for m in ('mediapipe', 'openvino', 'ai_edge_litert', 'tflite_runtime', 'onnxruntime', 'matplotlib', "
        "'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        {"finder": "yunet"},
        {"engine": "tensorrt"},
        {"min_score": 1.5},
        {"min_score": float("nan")},
        {"finder": "mediapipe", "engine": "openvino"},
    ],
)
def test_impossible_arguments_are_refused(arguments: dict[str, str]) -> None:
    with pytest.raises(InputError):
        open_finder(**arguments)  # type: ignore[arg-type]


def test_without_any_engine_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("openvino", "ai_edge_litert", "tflite_runtime", "onnxruntime", "mediapipe"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    for finder in ("auto", "blazeface", "mediapipe"):
        with pytest.raises(EngineUnavailableError, match=r"pip install 'fasedge\["):
            open_finder(finder)
    with pytest.raises(EngineUnavailableError) as caught:
        open_finder()
    for extra in ("openvino", "litert", "onnxruntime", "mediapipe"):
        assert f"pip install 'fasedge[{extra}]'" in str(caught.value)


@needs_mediapipe
def test_auto_falls_back_to_mediapipe_only_without_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    if ENGINES:
        with open_finder() as finder:
            assert finder.name == f"blazeface({ENGINES[0]})"
    for module in ("openvino", "ai_edge_litert", "tflite_runtime", "onnxruntime"):
        monkeypatch.setitem(sys.modules, module, None)
    finder = open_finder()
    assert finder.name == "mediapipe"
    finder.close()


# --- Both finders on drawn pictures


@pytest.mark.parametrize(("finder", "engine"), FINDERS)
def test_pictures_without_a_face_and_odd_shapes_give_nothing_and_never_crash(finder: str, engine: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    with open_finder(finder, engine=engine, threads=1) as opened:
        for rgb in (
            blank(1, 1),
            blank(5000, 1),
            blank(1, 5000),
            blank(2, 3, 255),
            blank(640, 480),
            blank(1280, 960, 0),
            noise,
        ):
            assert opened.find(rgb) == ()


@pytest.mark.parametrize(("finder", "engine"), FINDERS)
def test_what_is_no_picture_is_a_frame_error(finder: str, engine: str) -> None:
    with open_finder(finder, engine=engine, threads=1) as opened:
        for bad in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((0, 8, 3), np.uint8), None):
            with pytest.raises(FrameError, match=r"face finder|sides"):
                opened.find(bad)  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="closed"):
        opened.find(blank(8, 8))
    opened.close()


@pytest.mark.parametrize(("finder", "engine"), FINDERS)
def test_drawn_face_is_found_where_it_was_drawn_in_any_memory_layout(finder: str, engine: str) -> None:
    drawn = synthetic_face((300, 240), 180)
    frame = synthetic_frame(640, 480, faces=(drawn,))  # read-only
    mirrored = frame.rgb[:, ::-1]  # negative stride
    with open_finder(finder, engine=engine, threads=1) as opened:
        (face,) = opened.find(frame.rgb)
        (other,) = opened.find(mirrored)
    assert iou(face.box, drawn.box) > 0.6
    assert face.key_points is not None
    assert drawn.key_points is not None
    # Eyes, nose and mouth; the drawing has no ears. The subject's right is the picture's left.
    assert np.abs(face.key_points[:4] - drawn.key_points[:4]).max() < 0.15 * 180
    assert other.box.center[0] == pytest.approx(640 - face.box.center[0], abs=15)


@needs_engine
@needs_mediapipe
@pytest.mark.parametrize("size", [(640, 480), (333, 500), (1000, 1000), (521, 347)])
def test_blazeface_reproduces_mediapipe_on_drawn_faces(
    plain: FaceFinder, mediapipe: FaceFinder, size: tuple[int, int]
) -> None:
    width, height = size
    side = 0.35 * min(size)
    faces = [synthetic_face((0.3 * width, 0.4 * height), side), synthetic_face((0.75 * width, 0.6 * height), side)]
    rgb = synthetic_frame(width, height, faces=faces).rgb
    _assert_same(plain.find(rgb), mediapipe.find(rgb))


@needs_engine
def test_forty_drawn_faces_are_found_with_zoom(zooming: FaceFinder, plain: FaceFinder) -> None:
    places = [(80 + 160 * column, 80 + 160 * row) for row in range(5) for column in range(8)]
    drawn = [synthetic_face(place, 85) for place in places]
    rgb = synthetic_frame(1280, 800, faces=drawn).rgb
    found = zooming.find(rgb)
    assert sum(any(iou(d.box, f.box) > 0.4 for f in found) for d in drawn) >= 38
    assert len(found) <= 42
    assert len(plain.find(rgb)) < 38


# --- Both finders on photographs


def _rows(data_folder: Path, count: int) -> list[dict[str, str]]:
    """Pictures spread evenly over the sources and over each source."""
    with (data_folder / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    by_source: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_source.setdefault(row["source"], []).append(row)
    share = -(-count // len(by_source))
    picked = []
    for group in by_source.values():
        picked += [group[i] for i in np.linspace(0, len(group) - 1, min(share, len(group))).astype(int)]
    rest = [row for row in rows if row not in picked]
    picked += [rest[i] for i in np.linspace(0, len(rest) - 1, max(count - len(picked), 1)).astype(int)]
    return picked[: max(count, len(picked))]


def _read(path: Path) -> UInt8Array:
    bgr = cv2.imread(str(path))
    assert bgr is not None
    return np.ascontiguousarray(bgr[..., ::-1]).astype(np.uint8)


def _mosaic(data_folder: Path, columns: int, rows: int, cell: int) -> tuple[UInt8Array, list[Box]]:
    picture, boxes = blank(columns * cell, rows * cell), []
    for i, row in enumerate(_rows(data_folder, columns * rows)[: columns * rows]):
        x, y, w, h = (float(row[f"face_{k}"]) for k in "xywh")
        factor = 0.55 * cell / w
        shift = [cell / 2 - factor * (x + w / 2), cell / 2 - factor * (y + h / 2)]
        matrix = np.array([[factor, 0, shift[0]], [0, factor, shift[1]]])
        tile = cv2.warpAffine(
            _read(data_folder / row["path"]),
            matrix,
            (cell, cell),
            flags=cv2.INTER_AREA,
            borderMode=cv2.BORDER_REPLICATE,
        )
        left, top = i % columns * cell, i // columns * cell
        picture[top : top + cell, left : left + cell] = tile
        half_w, half_h = factor * w / 2, factor * h / 2
        middle = (left + cell / 2, top + cell / 2)
        boxes.append(Box(middle[0] - half_w, middle[1] - half_h, middle[0] + half_w, middle[1] + half_h))
    return picture, boxes


def _assert_same(ours: Sequence[Face], theirs: Sequence[Face], *, at_least: int = 1) -> None:
    assert len(ours) == len(theirs) >= at_least
    left = list(theirs)
    for face in ours:
        other = max(left, key=lambda f: iou(f.box, face.box))
        left.remove(other)
        assert face.key_points is not None
        assert other.key_points is not None
        # Key points come with fractions on both sides; MediaPipe cuts boxes to whole pixels.
        assert np.abs(face.key_points - other.key_points).max() < 0.05
        assert np.abs(np.subtract(face.box.xyxy, other.box.xyxy)).max() < 1.01
        assert face.score == pytest.approx(other.score, abs=1e-3)


def test_blazeface_reproduces_mediapipe_on_a_hundred_photographs(
    plain: FaceFinder, mediapipe: FaceFinder, data_folder: Path
) -> None:
    rows = _rows(data_folder, 100)
    assert len(rows) >= 100
    for row in rows:
        rgb = _read(data_folder / row["path"])
        _assert_same(plain.find(rgb), mediapipe.find(rgb), at_least=0)


@pytest.mark.parametrize("columns_rows", [(2, 1), (3, 2), (4, 2)])
def test_blazeface_reproduces_mediapipe_on_pictures_of_several_people(
    plain: FaceFinder, mediapipe: FaceFinder, data_folder: Path, columns_rows: tuple[int, int]
) -> None:
    rgb, _ = _mosaic(data_folder, *columns_rows, cell=240)
    _assert_same(plain.find(rgb), mediapipe.find(rgb), at_least=2)


@pytest.mark.parametrize("cell", [100, 160])
def test_forty_people_in_one_picture_are_found_with_zoom(zooming: FaceFinder, data_folder: Path, cell: int) -> None:
    rgb, boxes = _mosaic(data_folder, 8, 5, cell)
    found = zooming.find(rgb)
    hits = sum(any(iou(box, face.box) > 0.4 for face in found) for box in boxes)
    assert hits >= (38 if cell == 160 else 30)
    assert len(found) <= hits + 1


def test_rooms_without_people_are_empty_in_both_finders(
    plain: FaceFinder, zooming: FaceFinder, mediapipe: FaceFinder, data_folder: Path
) -> None:
    paths = sorted((data_folder / "backgrounds").glob("*.jpg"))[::4]
    assert len(paths) > 20
    pictures = [_read(path) for path in paths]
    assert [p.name for p, rgb in zip(paths, pictures, strict=True) if plain.find(rgb) or mediapipe.find(rgb)] == []
    assert sum(bool(zooming.find(rgb)) for rgb in pictures) <= 1
