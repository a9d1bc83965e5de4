"""Steps that are not done again while nothing that they read has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantize.steps import STEPS_NAME, Steps, files_sha256, set_sha256
from tests.training.fixtures.evaluation_sets import drawn_set, write_set


class StoppedError(Exception):
    """In the middle of a step."""


class Folder:
    """A step that copies a text into a file, and what is said of it."""

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, path / "copy"
        self.said: list[str] = []

    def take(self, text: str, *, stop: bool = False, **more: object) -> str:
        """Do the step; what it says."""
        self.said.clear()

        def work() -> None:
            if stop:
                raise StoppedError
            self.file.write_text(text)

        Steps(self.path / STEPS_NAME, self.said.append).take("copy", {"text": text}, [self.file], work, **more)
        return " ".join(self.said)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_step_is_done_once_and_again_for_other_inputs(folder: Folder) -> None:
    assert folder.take("a") == "copy"
    assert folder.take("a").startswith("copy: skipped")
    assert folder.take("b") == "copy: done again, changed: text"
    assert folder.file.read_text() == "b"
    assert folder.take("b").startswith("copy: skipped")


def test_what_a_step_wrote_is_made_anew_when_it_is_damaged_or_gone(folder: Folder) -> None:
    folder.take("a")
    folder.file.write_text("x")
    assert folder.take("a") == "copy: done again, copy is not what it wrote"
    folder.file.unlink()
    assert folder.take("a") == "copy: done again, copy is missing"
    assert folder.file.read_text() == "a"


def test_a_step_that_was_stopped_goes_on_and_makes_way_for_other_inputs_only(folder: Folder) -> None:
    made_way: list[int] = []
    for text, said in (("a", "copy"), ("a", "copy: goes on, it had not finished")):
        with pytest.raises(StoppedError):
            folder.take(text, stop=True, give_way=lambda: made_way.append(1))
        assert folder.said == [said]
    assert len(made_way) == 1  # what there was before the first, of which nothing was known
    assert folder.take("b", give_way=lambda: made_way.append(1)) == "copy: done again, changed: text"
    assert len(made_way) == 2
    folder.file.write_text("x")
    folder.take("b", give_way=lambda: made_way.append(1))
    assert len(made_way) == 3


@pytest.mark.parametrize("content", ["{", '{"copy": 1}', '{"copy": {"inputs": {"text": 3}}}', ""])
def test_a_damaged_record_counts_as_none(folder: Folder, content: str) -> None:
    made_way: list[int] = []
    folder.take("a")
    (folder.path / STEPS_NAME).write_text(content)
    said = folder.take("a", give_way=lambda: made_way.append(1))
    assert "cannot be used" in said
    assert said.endswith("every step is done again copy: done again, there is no record of it")
    assert len(made_way) == 1
    assert folder.take("a").startswith("copy: skipped")


def test_a_folder_is_whole_when_its_files_are(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    said: list[str] = []

    def take() -> str:
        said.clear()
        steps = Steps(tmp_path / STEPS_NAME, said.append)
        steps.take("publish", {}, [model], lambda: (model / "card.json").write_text("{}"))
        return said[0]

    assert take() == "publish"
    assert "skipped" in take()
    (model / "more").write_text("")
    assert take() == "publish: done again, model is not what it wrote"


def test_a_set_is_another_one_when_a_picture_a_row_or_its_depth_is(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "s", drawn_set("dev", depth=True))
    found = {set_sha256(folder)}
    (folder / "notes.txt").write_text("nobody is shown this")
    assert set_sha256(folder) in found
    for number, name in enumerate(("pictures.npy", "table.jsonl", "depth.npy", "set.json"), 2):
        content = bytearray((folder / name).read_bytes())
        content[-2] ^= 1
        (folder / name).write_bytes(content)
        found.add(set_sha256(folder))
        assert len(found) == number


def test_names_count_beside_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("same")
    (tmp_path / "b").write_text("same")
    assert files_sha256([tmp_path / "a"]) != files_sha256([tmp_path / "b"])
    assert files_sha256([tmp_path / "a"]) == files_sha256([tmp_path / "a", tmp_path / "none"])
