"""The sample pictures that ship with fasedge, and the program that builds them."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import math
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from fasedge.backends import available_engines
from fasedge.cli._demo import load_index
from fasedge.faces import open_finder
from fasedge.quality import assess
from fasedge.sources import BadItem, open_source
from fasedge.types import Frame

SAMPLES = Path(__file__).resolve().parent.parent / "fasedge" / "assets" / "samples"
INDEX: list[dict[str, Any]] = json.loads((SAMPLES / "index.json").read_bytes())
SUBTYPES = {
    "replay": {"phone", "tablet", "laptop", "monitor"},
    "print": {"laser", "inkjet", "photo_paper", "newsprint"},
}
needs_finder = pytest.mark.skipif(not available_engines(), reason="no inference engine is installed")
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")


def frames(entry: dict[str, Any]) -> list[Frame]:
    """All frames of a sample, read as the demo reads them."""
    with contextlib.closing(open_source(str(SAMPLES / entry["file"]))) as source:
        items = list(source)
    assert not [item for item in items if isinstance(item, BadItem)]
    return [item for item in items if isinstance(item, Frame)]


def only(kind: str) -> dict[str, Any]:
    """The one sample of its kind."""
    [entry] = [entry for entry in INDEX if entry["kind"] == kind]
    return entry


# --- What ships


def test_the_index_lists_every_file_and_every_listed_file_exists() -> None:
    listed = [entry["file"] for entry in INDEX] + [e["depth_file"] for e in INDEX if "depth_file" in e]
    assert len(listed) == len(set(listed))
    assert {*listed, "index.json", "ATTRIBUTION.md"} == {path.name for path in SAMPLES.iterdir()}


def test_the_demo_reads_the_index() -> None:
    assert [sample.file for sample in load_index(SAMPLES)] == [entry["file"] for entry in INDEX]


def test_the_pack_stays_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in SAMPLES.iterdir()) <= 3_000_000
    assert (SAMPLES / only("video")["file"]).stat().st_size <= 400_000


def test_truth_and_species_are_known_words_that_fit_together() -> None:
    for entry in INDEX:
        assert entry["truth"] == ("bona_fide" if entry["species"] is None else "attack")
        if entry["truth"] == "attack":
            assert entry["subtype"] in SUBTYPES[entry["species"]]
            assert entry["simulation"]["params"]["subtype"] == entry["subtype"]
            assert entry["simulation"]["params"]["species"] == entry["species"]


def test_every_kind_of_attack_is_there_beside_a_dozen_genuine_photographs() -> None:
    pictures = [entry for entry in INDEX if entry["kind"] == "image"]
    attacks = sorted((entry["species"], entry["subtype"]) for entry in pictures if entry["species"])
    assert attacks == sorted((name, subtype) for name, kinds in SUBTYPES.items() for subtype in kinds)
    genuine = [entry["source"] for entry in pictures if not entry["species"]]
    assert sorted(genuine) == ["congress"] * 6 + ["london"] * 6


def test_nobody_is_in_the_pack_twice() -> None:
    people = [Path(entry["made_from"]).stem.partition("_")[0] for entry in INDEX]
    assert len(people) == len(set(people))


def test_only_licences_that_let_the_pictures_be_passed_on() -> None:
    for entry in INDEX:
        assert (entry["source"], entry["licence"]) in {("london", "CC-BY-4.0"), ("congress", "public-domain")}


def test_every_sample_is_credited_with_its_changes_on_the_page_of_attributions() -> None:
    page = (SAMPLES / "ATTRIBUTION.md").read_text(encoding="utf-8")
    london = (
        "DeBruine, L., & Jones, B. (2017). Face Research Lab London Set (Version 5). figshare. "
        "https://doi.org/10.6084/m9.figshare.5047666.v5. CC BY 4.0; "
    )
    for entry in INDEX:
        [line] = [line for line in page.splitlines() if line.startswith(f"* `{entry['file']}`")]
        assert line.endswith(entry["attribution"])
        if entry["source"] == "london":
            assert entry["attribution"].startswith(london)
        altered = "; altered: simulated presentation attack (" in entry["attribution"]
        assert altered == (entry["truth"] == "attack")
        assert altered or "; resized" in entry["attribution"]
    assert "https://creativecommons.org/licenses/by/4.0/" in page
    assert "**rendered, not measured.**" in page


def test_the_notice_names_the_page_of_attributions(repository: Path) -> None:
    assert "fasedge/assets/samples/ATTRIBUTION.md" in (repository / "NOTICE").read_text(encoding="utf-8")


def test_pictures_carry_no_metadata_and_are_no_larger_than_stated() -> None:
    for path in SAMPLES.glob("*.jpg"):
        data = path.read_bytes()
        assert b"Exif" not in data
        assert b"http://ns.adobe.com" not in data
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        assert max(picture.shape) <= 600


@needs_finder
def test_the_finder_finds_exactly_one_face_fit_to_be_judged_in_every_frame() -> None:
    with open_finder() as finder:
        for entry in INDEX:
            for frame in frames(entry):
                faces = finder.find(frame.rgb)
                assert len(faces) == 1, frame.name
                assert assess(frame, faces[0]).is_usable, frame.name


def test_the_clip_decodes_to_its_last_frame_and_moves_smoothly() -> None:
    entry = only("video")
    shown = frames(entry)
    made = entry["simulation"]
    assert len(shown) == made["frames"]
    assert 1.3 <= len(shown) / made["fps"] <= 1.7
    assert shown[1].timestamp_s == pytest.approx(1 / made["fps"], abs=1e-3)
    grey = [cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2GRAY).astype(np.float32) for frame in shown]
    window = cv2.createHanningWindow((grey[0].shape[1], grey[0].shape[0]), cv2.CV_32F)
    steps = [math.hypot(*cv2.phaseCorrelate(a, b, window)[0]) for a, b in itertools.pairwise(grey)]
    assert max(steps) < 8
    assert sum(steps) > 8


# --- Depth


def test_depth_is_aligned_and_the_face_stands_out_from_the_wall() -> None:
    [frame] = frames(only("rgbd"))
    depth = frame.depth_mm
    assert depth is not None
    assert depth.shape == frame.rgb.shape[:2]
    height, width = depth.shape
    seen = depth[depth > 0]
    assert seen.min() >= 300
    assert seen.max() <= 1500
    corners = np.concatenate([depth[:60, :60].ravel(), depth[:60, -60:].ravel()])
    assert np.median(corners) == pytest.approx(1300, abs=30)
    middle = depth[int(0.45 * height) : int(0.6 * height), int(0.45 * width) : int(0.55 * width)]
    assert np.median(middle[middle > 0]) == pytest.approx(600, abs=60)


@needs_finder
def test_the_depth_face_has_relief_where_the_finder_sees_the_face() -> None:
    [frame] = frames(only("rgbd"))
    assert frame.depth_mm is not None
    with open_finder() as finder:
        [face] = finder.find(frame.rgb)
    assert face.key_points is not None

    def near(x: float, y: float) -> float:
        assert frame.depth_mm is not None
        patch = frame.depth_mm[int(y) - 4 : int(y) + 5, int(x) - 4 : int(x) + 5]
        return float(np.median(patch[patch > 0]))

    right_eye, left_eye, nose = (near(*face.key_points[i]) for i in range(3))
    assert right_eye == pytest.approx(600, abs=25)
    assert left_eye == pytest.approx(600, abs=25)
    assert 15 <= min(right_eye, left_eye) - nose <= 60


def test_depth_has_the_holes_of_a_camera_on_one_side_of_the_person() -> None:
    depth = cv2.imread(str(SAMPLES / only("rgbd")["depth_file"]), cv2.IMREAD_UNCHANGED)
    assert depth is not None
    assert depth.dtype == np.uint16
    assert 0.005 < np.mean(depth == 0) < 0.10
    row = depth[int(0.45 * depth.shape[0])]  # at the height of the eyes
    person = np.flatnonzero((row > 0) & (row < 1000))
    left = int((row[: person[0]] == 0).sum())
    right = int((row[person[-1] + 1 :] == 0).sum())
    assert left > right + 5


# --- The builder


@needs_torch
def test_a_thin_plate_through_points_of_a_plane_is_that_plane() -> None:
    from training.sample_depth import _thin_plate

    rng = np.random.default_rng(1)
    at, where = rng.uniform(-50, 50, (40, 2)), rng.uniform(-50, 50, (30, 2))
    values = 3 + 0.5 * at[:, 0] - 0.2 * at[:, 1]
    expected = 3 + 0.5 * where[:, 0] - 0.2 * where[:, 1]
    np.testing.assert_allclose(_thin_plate(at, values, where), expected, atol=1e-6)


@needs_torch
def test_the_second_eye_misses_the_wall_left_of_a_near_thing() -> None:
    from training.sample_depth import BASELINE_MM, _shadow

    depth = np.full((1, 30), 1300.0)
    depth[0, 10:20] = 600.0
    # The wall is hidden from x = 10 - f·b·(1/600 - 1/1300) on; this focal length makes that 10 - 5.2.
    focal_px = 5.2 / (1 / 600 - 1 / 1300) / BASELINE_MM
    assert np.flatnonzero(_shadow(depth, focal_px)[0]).tolist() == [5, 6, 7, 8, 9]


@needs_torch
def test_depth_is_refused_for_a_wrong_mesh_or_a_picture_without_a_person() -> None:
    from training.errors import DataError
    from training.sample_depth import render_depth

    wall = np.full((100, 100, 3), 200, np.uint8)
    with pytest.raises(DataError, match="478"):
        render_depth(wall, np.zeros((468, 3)), 1)
    mesh = np.full((478, 3), 50.0)
    with pytest.raises(DataError, match="no person"):
        render_depth(wall, mesh, 1)


@needs_torch
def test_pictures_of_other_sources_cannot_get_into_the_pack() -> None:
    from training.errors import DataError
    from training.sample_credits import credit

    with pytest.raises(DataError, match="caltech"):
        credit("caltech", "resized")


@needs_torch
def test_the_clip_starts_as_drawn_and_only_the_view_and_the_bands_move() -> None:
    from training.sample_pack import moved

    values = only("video")["simulation"]["params"]
    assert moved(values, 0) == values
    changed = {name for name, value in moved(values, 5).items() if value != values[name]}
    assert changed == {*(f"view_{x}" for x in ("roll", "zoom", "x", "y", "tilt_x")), "display_band_phase"}


def _simulator(**options: Any) -> Any:
    from training.data.simulate import Simulator

    rng = np.random.default_rng(3)
    tiles = rng.integers(0, 255, (2, 40, 40, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    rooms = rng.integers(0, 255, (2, 32, 32, 3), np.uint8)
    pictures: list[Any] = [SimpleNamespace(source="drawn", identity="nobody")] * 2
    return Simulator(pictures, tiles, rooms, seed=9, **options)


@needs_torch
def test_a_larger_picture_keeps_every_drawn_parameter_and_scales_the_face() -> None:
    small = _simulator().samples(range(6))
    large = _simulator(picture_px=288, sensors_px={"288": 0.7, "360": 0.3}).samples(range(6))
    for a, b in zip(small, large, strict=True):
        assert a.picture.shape == (192, 192, 3)
        assert b.picture.shape == (288, 288, 3)
        assert {**a.params, "sensor_px": 0} == {**b.params, "sensor_px": 0}
        assert int(b.params["sensor_px"]) == int(a.params["sensor_px"]) * 1.5
        np.testing.assert_allclose(np.array(b.box_xyxy), np.array(a.box_xyxy) * 1.5, rtol=1e-5)


@needs_torch
def test_rendering_drawn_parameters_gives_the_sample_of_that_number() -> None:
    simulator = _simulator()
    for index in range(4):
        [drawn], [rendered] = simulator.samples([index]), simulator.render([simulator.draw(index)])
        np.testing.assert_array_equal(drawn.picture, rendered.picture)


@needs_torch
@pytest.mark.parametrize("sensors", [{}, {"191": 1.0}, {"0": 1.0}])
def test_a_sensor_without_whole_bayer_cells_is_refused(sensors: dict[str, float]) -> None:
    from training.errors import DataError

    with pytest.raises(DataError, match="even"):
        _simulator(sensors_px=sensors)


@pytest.mark.slow
@needs_torch
@needs_finder
@pytest.mark.skipif(not os.environ.get("FASEDGE_DATA"), reason="FASEDGE_DATA is not set")
def test_building_again_gives_the_same_pictures(data_folder: Path, tmp_path: Path) -> None:
    from training.sample_pack import build_pack

    built = {path.name: path.read_bytes() for path in build_pack(data_folder, tmp_path)}
    assert set(built) == {path.name for path in SAMPLES.iterdir()}
    for name, data in built.items():
        if not name.endswith(".mp4"):  # an encoder writes its version into the file
            hint = f"{name}: if the simulator was changed on purpose, run `python -m training sample-pack`"
            assert data == (SAMPLES / name).read_bytes(), hint
