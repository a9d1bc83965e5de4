"""The reader of the face pack: what it returns, and what it refuses by line."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.training.fixtures.face_pack import COLUMNS, read_rows, write_rows
from training.data.manifest import data_folder, read_manifest
from training.errors import DataError


@pytest.fixture
def pack(face_pack: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(face_pack, tmp_path / "pack"))


def change(pack: Path, line: int, **values: str) -> None:
    """Change a row; line 1 is the header, as an editor counts."""
    rows = read_rows(pack)
    rows[line - 2] |= values
    write_rows(pack, rows)


def test_pictures_come_with_box_key_points_and_names_of_the_manifest(face_pack: Path) -> None:
    rows, pictures = read_rows(face_pack), read_manifest(face_pack)
    assert [p.key for p in pictures] == [row["path"] for row in rows]
    row, picture = rows[3], pictures[3]
    x, y, w, h = (float(row[f"face_{c}"]) for c in "xywh")
    assert picture.box.xyxy == pytest.approx((x, y, x + w, y + h))
    assert picture.key_points.shape == (6, 2)
    assert picture.key_points[2].tolist() == pytest.approx([float(row["nose_x"]), float(row["nose_y"])], abs=1e-3)
    assert (picture.source, picture.identity, picture.split) == (row["source"], row["identity"], row["split"])


def test_a_picture_is_read_red_first(face_pack: Path) -> None:
    import cv2

    picture = read_manifest(face_pack)[0]
    rgb = picture.read(verify=True)
    assert rgb.dtype == np.uint8
    np.testing.assert_array_equal(rgb, cv2.imread(str(picture.path))[..., ::-1])


def test_only_the_wanted_splits_are_returned(face_pack: Path) -> None:
    assert {p.split for p in read_manifest(face_pack, ["dev", "test"])} == {"dev", "test"}


def test_an_unknown_split_is_refused(face_pack: Path) -> None:
    with pytest.raises(DataError, match="unknown split"):
        read_manifest(face_pack, ["validation"])  # type: ignore[list-item]


def test_missing_columns_are_named(pack: Path) -> None:
    write_rows(pack, read_rows(pack), tuple(c for c in COLUMNS if c not in ("licence", "nose_y")))
    with pytest.raises(DataError, match="columns missing: licence, nose_y"):
        read_manifest(pack)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"face_w": "wide"}, "not numbers"),
        ({"face_h": "-3"}, "not numbers"),
        ({"face_x": "nan"}, "not numbers"),
        ({"nose_x": "inf"}, "finite"),
        ({"split": "validation"}, "split 'validation'"),
        ({"path": "/etc/passwd"}, "leads out"),
        ({"path": "faces/../../x.png"}, "leads out"),
        ({"path": ""}, "no value for path"),
        ({"identity": ""}, "no value for identity"),
    ],
)
def test_a_malformed_row_is_named_by_its_line(pack: Path, values: dict[str, str], message: str) -> None:
    change(pack, 5, **values)
    with pytest.raises(DataError, match=message) as error:
        read_manifest(pack)
    assert "manifest.csv:5:" in str(error.value)


@pytest.mark.parametrize("cut", [1, 3, 20])
def test_a_row_that_is_too_short_is_named_by_its_line(pack: Path, cut: int) -> None:
    path = pack / "manifest.csv"
    lines = path.read_text().splitlines()
    lines[2] = ",".join(lines[2].split(",")[:-cut])
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"manifest\.csv:3: no value for .*sha256"):
        read_manifest(pack)


def test_a_row_that_is_too_long_is_named_by_its_line(pack: Path) -> None:
    path = pack / "manifest.csv"
    lines = path.read_text().splitlines()
    lines[4] += ",more"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"manifest\.csv:5: more values than columns"):
        read_manifest(pack)


def test_a_manifest_that_is_not_text_is_refused(pack: Path) -> None:
    (pack / "manifest.csv").write_bytes(b"path,\xff\xfe\n")
    with pytest.raises(DataError, match="UTF-8"):
        read_manifest(pack)


def test_a_person_in_two_splits_is_refused_even_when_only_one_is_asked_for(pack: Path) -> None:
    rows = read_rows(pack)
    test_person = next(row["identity"] for row in rows if row["split"] == "test")
    change(pack, 2, identity=test_person)
    with pytest.raises(DataError, match=f"more than one split: {test_person}"):
        read_manifest(pack, ["dev"])


def test_an_altered_picture_is_found_when_verifying_and_only_then(pack: Path) -> None:
    first, second = read_manifest(pack)[:2]
    shutil.copy(second.path, first.path)
    first.read()
    with pytest.raises(DataError, match="SHA-256"):
        first.read(verify=True)


@pytest.mark.parametrize(("content", "message"), [(None, "cannot be read"), (b"", "OpenCV"), (b"no picture", "OpenCV")])
def test_a_picture_that_is_gone_or_broken_is_refused(pack: Path, content: bytes | None, message: str) -> None:
    picture = read_manifest(pack)[0]
    picture.path.unlink()
    if content is not None:
        picture.path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        picture.read()


def test_the_folder_is_the_argument_else_the_environment_variable(
    face_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FASEDGE_DATA", raising=False)
    with pytest.raises(DataError, match="set FASEDGE_DATA or pass --data"):
        data_folder()
    monkeypatch.setenv("FASEDGE_DATA", str(face_pack))
    assert data_folder() == face_pack
    with pytest.raises(DataError, match=r"no manifest\.csv"):
        data_folder(tmp_path)


def test_no_person_of_the_real_pack_is_in_two_splits(data_folder: Path) -> None:
    splits: dict[str, set[str]] = {}
    for picture in read_manifest(data_folder):
        splits.setdefault(picture.identity, set()).add(picture.split)
    assert len(splits) > 1000
    assert all(len(found) == 1 for found in splits.values())
