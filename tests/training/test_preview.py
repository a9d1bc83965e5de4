"""Contact sheets: drawn again over their own, never over files of somebody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.data.preview import contact_sheets
from training.errors import DataError


def test_sheets_are_drawn_again_also_after_an_interruption(face_pack: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheets"
    run = contact_sheets(face_pack, out, "dev", seed=3, tiles=1)
    # Until the first sheet is there.
    while not list(out.glob("*.png")):
        next(run)
    run.close()  # type: ignore[attr-defined]
    for _ in range(2):
        list(contact_sheets(face_pack, out, "dev", seed=3, tiles=1))
        assert {path.name for path in out.iterdir()} == {"index.md", "bona_fide.png", "print.png", "replay.png"}


@pytest.mark.parametrize("name", ["index.md", "mask.png"])
def test_files_of_somebody_else_are_not_overwritten(face_pack: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "sheets"
    out.mkdir()
    (out / name).write_text("# Mine")
    with pytest.raises(DataError, match=rf"{name}, which is no contact sheet.*choose another folder"):
        next(contact_sheets(face_pack, out, "dev", seed=3, tiles=1))
    assert [(path.name, path.read_text()) for path in tmp_path.rglob("*.*")] == [(name, "# Mine")]
