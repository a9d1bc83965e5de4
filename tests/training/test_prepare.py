"""From recordings to sample sets, with a face finder that finds what is drawn; nothing of it is anybody's likeness."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from fasedge.errors import EngineError
from fasedge.faces import FaceFinder
from fasedge.testing import FakeFaceFinder, synthetic_face
from fasedge.types import Face, UInt8Array
from tests.training.fixtures import recordings
from tests.training.fixtures.recordings import FRAMES, HEIGHT, WIDTH, Tree, write_video
from training import prepare as program
from training.data import parts, preparing
from training.data.align import RULES, CropRule
from training.data.prepare_report import write_report
from training.data.preparing import Request, check_recordings, check_result, prepare
from training.data.presentations import evenly, read_frames
from training.data.protocols import Record, load_protocol
from training.data.samples import SampleSet
from training.errors import ConfigError, DataError, ProtocolError

FACE = synthetic_face((WIDTH / 2, HEIGHT / 2), 100.0)
FINDER = partial(FakeFaceFinder, (FACE,))
RULE = CropRule("test", "box", 32, 1.0, 3, 20)


class Drawn:
    """Finds the drawn face only where it stands upright: its eyes are light spots in the upper half."""

    name = "drawn"

    def find(self, rgb: UInt8Array) -> tuple[Face, ...]:
        if rgb.shape[:2] != (HEIGHT, WIDTH):
            return ()
        upper, lower = (float((half > 225).all(2).mean()) for half in (rgb[: HEIGHT // 2], rgb[HEIGHT // 2 :]))
        return (FACE,) if upper > lower else ()

    def close(self) -> None:
        pass


def request(root: Path, out: Path, **changes: object) -> Request:
    fields: dict[str, object] = {
        "protocol": load_protocol("generic", {"generic": root}),
        "rule": RULE,
        "finder": FINDER,
        "finder_name": "fake",
        "out": out,
    }
    return Request(**(fields | changes))  # type: ignore[arg-type]


def run(made: Request) -> list[str]:
    """Prepare to the end; the steps in their order."""
    steps = list(dict.fromkeys(step.step for step in prepare(made)))
    check_result(made)
    return steps


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return recordings.own_tree(tmp_path / "own")


def content(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("total", "wanted", "expected"),
    [(10, 2, [2, 7]), (6, 3, [1, 3, 5]), (3, 3, [0, 1, 2]), (2, 5, [0, 1]), (0, 4, []), (100, 1, [50])],
)
def test_frames_are_the_middles_of_equal_parts(total: int, wanted: int, expected: list[int]) -> None:
    assert evenly(total, wanted) == expected


def test_a_prepared_tree_becomes_sets_that_training_reads(tree: Tree, tmp_path: Path) -> None:
    steps = run(request(tree.root, tmp_path / "out"))
    assert steps == ["checking recordings", "finding faces", "writing sets"]
    for split in ("train", "dev", "test"):
        samples = SampleSet.load(tmp_path / "out" / split)
        # Two people, one bona fide and two attacks each, three frames of each recording.
        assert (len(samples), samples.labels.sum()) == (2 * 3 * 3, 2 * 3)
        assert samples.picture(0).shape == (32, 32, 3)
        row = samples.table[0]
        assert (row.source, row.species, row.identity) == ("generic", "print", f"generic/{split}_anna")
        assert [r.params["frame"] for r in samples.table[:3]] == [1, 3, 5]
        assert len({r.params["video"] for r in samples.table}) == 6
        assert [r.index for r in samples.table] == list(range(18))
        assert samples.info.split == split
    assert not (tmp_path / "out" / "parts").exists()


def test_a_crop_at_scale_one_gives_the_prepared_picture_back(tree: Tree, tmp_path: Path) -> None:
    from fasedge.preprocess import InputSpec

    run(request(tree.root, tmp_path / "out"))
    samples = SampleSet.load(tmp_path / "out" / "dev")
    np.testing.assert_array_equal(samples.crops([4], InputSpec(size_px=32, crop_scale=1.0))[0], samples.picture(4))


def test_processes_give_the_same_sets_as_one(tree: Tree, tmp_path: Path) -> None:
    run(request(tree.root, tmp_path / "one"))
    run(request(tree.root, tmp_path / "two", workers=2))
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_an_interrupted_preparation_goes_on_where_it_stopped(tree: Tree, tmp_path: Path) -> None:
    run(request(tree.root, tmp_path / "whole"))
    steps = prepare(request(tree.root, tmp_path / "out"))
    for step in steps:
        if step.step == "finding faces" and step.done == 7:
            break
    steps.close()  # type: ignore[attr-defined]  # a generator
    (tmp_path / "out" / "parts" / "killed.123.partial").write_bytes(b"half")
    again = [step for step in prepare(request(tree.root, tmp_path / "out")) if step.step == "finding faces"]
    assert [step.done for step in again] == list(range(8, 19))
    assert content(tmp_path / "whole") == content(tmp_path / "out")
    assert run(request(tree.root, tmp_path / "out")) == ["writing sets"]


def test_a_set_that_was_not_written_to_its_end_is_written_anew(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = request(tree.root, tmp_path / "out")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(preparing, "_info", stop)
        with pytest.raises(KeyboardInterrupt):
            run(made)
    with pytest.raises(DataError):
        SampleSet.load(tmp_path / "out" / "train")
    run(made)
    assert len(SampleSet.load(tmp_path / "out" / "train")) == 18


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": CropRule("test", "box", 48, 1.0, 3, 20)}, "another rule"),
        ({"finder_name": "mediapipe"}, "another finder"),
    ],
)
def test_a_folder_with_another_preparation_is_refused(
    tree: Tree, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    run(request(tree.root, tmp_path / "out"))
    with pytest.raises(DataError, match=message):
        run(request(tree.root, tmp_path / "out", **changes))


def test_a_folder_with_something_else_in_it_is_refused(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("")
    with pytest.raises(DataError, match="is not empty"):
        run(request(tree.root, tmp_path / "out"))
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_every_recording_that_cannot_be_read_is_named_before_the_work(tree: Tree, tmp_path: Path) -> None:
    def replace(path: str, data: bytes) -> None:
        (tree.root / path).unlink()  # a hard link: the others keep their content
        (tree.root / path).write_bytes(data)

    replace("train/bona_fide/train_anna/clip.avi", b"")
    replace("dev/attack/print/dev_anna/clip.avi", b"not a video at all")
    with pytest.raises(ProtocolError) as caught:
        run(request(tree.root, tmp_path / "out"))
    assert len(caught.value.problems) == 2
    assert "is empty (0 bytes)" in caught.value.problems[0]
    assert not (tmp_path / "out").exists()


def test_a_video_that_breaks_off_gives_what_it_has_and_says_so(tree: Tree, tmp_path: Path) -> None:
    path = tree.root / "test/bona_fide/test_anna/clip.avi"
    path.unlink()
    write_video(path, 60)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    made = request(tree.root, tmp_path / "out")
    run(made)
    report = write_report(made)
    assert report["splits"]["test"]["dropped"] == {"unreadable": 1}  # type: ignore[index]
    assert "breaks off after frame" in (tmp_path / "out/test/dropped.jsonl").read_text()


class Picky:
    """Finds the face in every second picture only."""

    name = "picky"

    def __init__(self) -> None:
        self.calls = 0

    def find(self, rgb: UInt8Array) -> tuple[Face, ...]:
        self.calls += 1
        return (FACE,) if self.calls % 2 else ()

    def close(self) -> None:
        pass


def test_the_report_counts_what_was_dropped_and_why(tree: Tree, tmp_path: Path) -> None:
    made = request(tree.root, tmp_path / "out", finder=Picky)
    run(made)
    report = write_report(made)
    train = report["splits"]["train"]  # type: ignore[index]
    assert train["dropped"] == {"no_face": 9}
    assert sum(train["frames"].values()) == 9
    assert json.loads((tmp_path / "out/report.json").read_text()) == json.loads(json.dumps(report))
    page = (tmp_path / "out/report.md").read_text()
    assert "| train | bona_fide | 2 | " in page
    assert "no_face" in page


def test_recordings_without_any_face_are_listed_and_a_split_without_a_class_is_an_error(
    tree: Tree, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="a class is empty"):
        run(request(tree.root, tmp_path / "out", finder=FakeFaceFinder))
    small = partial(FakeFaceFinder, (synthetic_face((80, 60), 12),))
    with pytest.raises(DataError, match="a class is empty"):
        run(request(tree.root, tmp_path / "small", finder=small))
    made = request(tree.root, tmp_path / "small", finder=small)
    lost = write_report(made)["splits"]["train"]["lost"]  # type: ignore[index]
    assert [item["reason"] for item in lost] == ["face_too_small"] * 6


def test_recordings_without_depth_are_refused_by_a_method_that_needs_it(tree: Tree, tmp_path: Path) -> None:
    (tree.root / "train/bona_fide/train_anna/clip_depth.npy").write_bytes(b"")
    with pytest.raises(ProtocolError, match="cmfl needs depth, but 17 of 18 recordings have none"):
        run(request(tree.root, tmp_path / "out", rule=RULES["cmfl"]))
    assert not (tmp_path / "out").exists()


def test_a_face_finder_that_fails_stops_the_work(tree: Tree, tmp_path: Path) -> None:
    broken = partial(FakeFaceFinder, (FACE,), error=EngineError("the engine is gone"))
    with pytest.raises(EngineError, match="the engine is gone"):
        run(request(tree.root, tmp_path / "out", finder=broken))


def test_a_disk_that_is_too_small_is_said_before_the_work(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(preparing.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"MB are needed, 0\.0 MB are free"):
        run(request(tree.root, tmp_path / "out"))


def test_a_disk_that_fills_up_leaves_no_half_file_and_the_work_goes_on_later(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = request(tree.root, tmp_path / "out")
    real, calls = np.savez, iter(range(100))

    def full(stream: object, **arrays: object) -> None:
        if next(calls) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(stream, **arrays)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(parts.np, "savez", full)
        with pytest.raises(DataError, match="No space left on device"):
            run(made)
    assert len(list((tmp_path / "out" / "parts").iterdir())) == 4
    run(made)
    assert len(SampleSet.load(tmp_path / "out" / "test")) == 18


def test_a_damaged_part_is_named(tree: Tree, tmp_path: Path) -> None:
    made = request(tree.root, tmp_path / "out")
    for step in prepare(made):
        if step.step == "finding faces" and step.done == 18:
            break
    part = next((tmp_path / "out" / "parts").iterdir())
    part.write_bytes(b"rubbish")
    with pytest.raises(DataError, match=f"{part.name} is damaged"):
        run(made)


def record(path: Path, **changes: object) -> Record:
    from fasedge.types import Label

    fields: dict[str, object] = {
        "dataset": "generic", "split": "train", "subject": "anna", "video_id": "clip", "label": Label.BONA_FIDE,
        "pai_species": "bona_fide", "pai_subtype": "bona_fide", "rgb": path,
    }  # fmt: skip
    return Record(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("ending", [".mp4", ".avi", ".mov"])
def test_videos_of_all_endings_are_read(tmp_path: Path, ending: str) -> None:
    path = write_video(tmp_path / f"clip{ending}")
    found = list(read_frames(record(path), 3, depth=False))
    assert [item.index for item in found] == [1, 3, 5]
    assert all(item.frame is not None and item.frame.rgb.shape == (HEIGHT, WIDTH, 3) for item in found)


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_a_video_that_lies_on_its_side_is_turned_upright(tmp_path: Path, turn: int) -> None:
    path = write_video(tmp_path / "clip.avi", turn=turn)
    finder: FaceFinder = Drawn()
    part = parts.make_part(record(path, upright=False), RULE, finder)
    assert len(part.rows) == 3
    assert {row.params["turn"] for row in part.rows} == {(4 - turn) % 4}


def test_pictures_with_depth_are_cut_together(tmp_path: Path) -> None:
    rgb, depth = np.full((HEIGHT, WIDTH, 3), 90, np.uint8), np.full((HEIGHT, WIDTH), 800, np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), rgb)
    cv2.imwrite(str(tmp_path / "a_depth.png"), depth)
    rule = CropRule("test", "eyes", 64, 1.0, 3, 20, depth=True)
    both = record(tmp_path / "a.png", depth=tmp_path / "a_depth.png", reader="picture")
    part = parts.make_part(both, rule, FINDER())
    assert len(part.depth_mm) == 1
    assert set(np.unique(part.depth_mm[0]).tolist()) <= {0, 800}
    assert part.rows[0].params["depth_median_mm"] == 800
    alone = parts.make_part(record(tmp_path / "a.png", reader="picture"), rule, FINDER())
    assert "comes without depth" in alone.dropped[0].detail
    cv2.imwrite(str(tmp_path / "a_depth.png"), depth.astype(np.uint8))
    assert "16-bit" in parts.make_part(both, rule, FINDER()).dropped[0].detail


def test_a_video_with_another_number_of_depth_maps_is_dropped_with_both_numbers(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi")
    np.save(tmp_path / "clip_depth.npy", np.full((FRAMES, HEIGHT, WIDTH), 700, np.uint16))
    rule = CropRule("test", "box", 64, 1.0, 3, 20, depth=True)
    both = record(path, depth=tmp_path / "clip_depth.npy")
    assert len(parts.make_part(both, rule, FINDER()).depth_mm) == 3
    np.save(tmp_path / "clip_depth.npy", np.full((FRAMES - 1, HEIGHT, WIDTH), 700, np.uint16))
    assert "has 5 maps" in parts.make_part(both, rule, FINDER()).dropped[0].detail


@pytest.fixture
def finder_of_tests(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(program, "open_finder", lambda *_, **__: FINDER())
    return None


@pytest.mark.usefixtures("finder_of_tests")
def test_the_command_checks_prepares_and_reports(
    tree: Tree, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program.prepare_command("generic", [str(tree.root)], tmp_path / "out", frames=2, workers=1)
    assert len(SampleSet.load(tmp_path / "out" / "train")) == 12
    assert (tmp_path / "out" / "report.md").is_file()
    assert "train 2 + 4" in capsys.readouterr().out


@pytest.mark.usefixtures("finder_of_tests")
def test_the_command_lists_all_problems_and_prepares_nothing(
    tree: Tree, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree.add("train/real/x/clip.avi")
    tree.add("dev/bona_fide/train_anna/clip.avi")
    with pytest.raises(DataError, match="2 problems, listed above; nothing was prepared"):
        program.prepare_command("generic", [str(tree.root)], tmp_path / "out")
    printed = capsys.readouterr().out
    assert "(1) " in printed
    assert "(2) " in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("finder_of_tests")
def test_of_many_problems_the_first_are_shown_and_all_are_in_a_file(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def broken(*_: object, **__: object) -> None:
        raise ProtocolError("mine", [f"clip [{k}] is empty" for k in range(25)])

    monkeypatch.setattr(program, "load_protocol", broken)
    for out, name in ((tmp_path / "new" / "out", "new/out_problems.txt"), (None, "problems.txt")):
        with pytest.raises(DataError, match=rf"25 problems, the first 20 listed above, all of them in .*{name};"):
            program.prepare_command("generic", [str(tree.root)], out, check_only=out is None)
        printed = capsys.readouterr().out
        assert "(20) clip [19] is empty" in printed
        assert "(21)" not in printed
        assert (tmp_path / name).read_text().splitlines() == [f"clip [{k}] is empty" for k in range(25)]
    assert not (tmp_path / "new" / "out").exists()


@pytest.mark.usefixtures("finder_of_tests")
def test_where_no_file_can_be_written_all_problems_are_shown(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ProtocolError("mine", [f"clip {k} is empty" for k in range(25)])

    monkeypatch.setattr(program, "load_protocol", broken)
    (tmp_path / "a_file").write_text("")
    with pytest.raises(DataError, match="25 problems, listed above"):
        program.prepare_command("generic", [str(tree.root)], tmp_path / "a_file" / "out")
    assert "(25) clip 24 is empty" in capsys.readouterr().out


def test_check_only_opens_every_recording(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    program.prepare_command("generic", [str(tree.root)], check_only=True)
    assert "checking recordings" in capsys.readouterr().out
    found = load_protocol("generic", {"generic": tree.root})
    assert list(check_recordings(list(found.records["train"])))[-1].done == 6


def test_check_only_looks_for_what_the_method_needs(tree: Tree) -> None:
    with pytest.raises(DataError, match="cmfl needs depth, but 18 of 18 recordings have none"):
        program.prepare_command("generic", [str(tree.root)], method="cmfl", check_only=True)


def test_depth_that_cannot_be_used_is_named_before_the_work(tmp_path: Path) -> None:
    """Each of these would cost the recording, after all faces have been looked for."""
    clip, maps = write_video(tmp_path / "clip.avi"), tmp_path / "clip_depth.npy"
    both = record(clip, depth=maps)

    def problem(content: bytes | np.ndarray) -> str:
        maps.write_bytes(content) if isinstance(content, bytes) else np.save(maps, content)
        try:
            return "" if list(check_recordings([both], depth=True)) else "nothing done"
        except ProtocolError as error:
            return str(error)

    good = np.full((FRAMES, HEIGHT, WIDTH), 700, np.uint16)
    assert problem(good) == ""
    assert f"has {FRAMES - 1} maps" in problem(good[1:])
    assert "must be uint16" in problem(good.astype(np.float32))
    assert "depth" in problem(good[:, ::2])
    said = problem(maps.read_bytes()[:300])
    assert "not a .npy file of depth maps, or cut off" in said
    assert "pickle" not in said
    assert list(check_recordings([both]))[-1].done == 1  # colour alone is fine


@pytest.mark.parametrize(
    ("dataset", "roots", "message"),
    [
        ("generic", ["a", "b"], "expected one --root"),
        ("domains", ["a"], "NAME=FOLDER"),
        ("domains", ["O=a", "O=b"], "name each once"),
    ],
)
def test_roots_that_are_written_wrongly_are_refused(dataset: str, roots: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        program.parse_roots(dataset, roots)


def test_pictures_can_show_more_than_the_crop_and_the_default_says_nothing_of_it(tree: Tree, tmp_path: Path) -> None:
    from fasedge.preprocess import InputSpec

    run(request(tree.root, tmp_path / "plain"))
    wide = replace(RULE, shown=1.75)
    run(request(tree.root, tmp_path / "wide", rule=wide))
    plain, found = (SampleSet.load(tmp_path / name / "dev") for name in ("plain", "wide"))
    # A margin of 0.75 * 32 / 2 = 12 px; the face lies in the middle.
    assert (found.info.picture_px, found.info.canvas_scale, found.picture(0).shape) == (56, 1.75, (56, 56, 3))
    assert {row.box_xyxy for row in found.table} == {(12.0, 12.0, 44.0, 44.0)}
    whole = found.crops([4], InputSpec(size_px=56, crop_scale=1.75))[0]
    np.testing.assert_array_equal(whole, found.picture(4))
    # Preparations from before the option go on, and sets are what they were.
    claim = json.loads((tmp_path / "plain" / "prepare.json").read_text())
    assert set(claim["rule"]) == {"method", "kind", "size_px", "scale", "frames", "min_face_px", "depth"}
    assert (plain.info.canvas_scale, plain.table[0].box_xyxy) == (2.0, (0.0, 0.0, 32.0, 32.0))
    assert plain.info.origin.split("; ")[1] == found.info.origin.split("; ")[1] == "test"
    with pytest.raises(DataError, match="another rule"):
        run(request(tree.root, tmp_path / "plain", rule=wide))
    assert "pictures of 56 px that show 1.75 face boxes" in _page(request(tree.root, tmp_path / "wide", rule=wide))


def _page(made: Request) -> str:
    write_report(made)
    return (made.out / "report.md").read_text()


def test_a_crop_scale_that_means_something_else_goes_under_another_name() -> None:
    """Of RFMeta's own crops 1 is 1.2 face boxes; in wider pictures it is one."""
    assert RULES["rfmeta"].counted == "rfmeta"
    assert replace(RULES["rfmeta"], shown=1.8).counted == "rfmeta in face boxes"
    assert replace(RULES["a-deeppixbis"], shown=1.8).counted == "a-deeppixbis"


def test_recordings_that_are_crops_already_cannot_show_more(tree: Tree, tmp_path: Path) -> None:
    found = load_protocol("generic", {"generic": tree.root})
    crops = {split: tuple(replace(r, reader="bob_hdf5") for r in rows) for split, rows in found.records.items()}
    made = request(tree.root, tmp_path / "out", protocol=replace(found, records=crops), rule=replace(RULE, shown=1.5))
    with pytest.raises(ProtocolError, match=r"asks for 1\.5 face boxes, but 18 of 18 recordings hold face crops"):
        run(made)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("finder_of_tests")
def test_the_command_takes_a_scale(tree: Tree, tmp_path: Path) -> None:
    program.prepare_command("generic", [str(tree.root)], tmp_path / "out", frames=1, scale=1.8, workers=1)
    assert SampleSet.load(tmp_path / "out" / "train").info.canvas_scale == 1.8
    assert program.choose_rule("rfmeta", None, 1.0) == RULES["rfmeta"]
    with pytest.raises(ConfigError, match=r"can show 1\.2"):
        program.choose_rule("rfmeta", None, 1.1)


def test_methods_that_do_not_exist_are_named() -> None:
    with pytest.raises(ValueError, match="did you mean 'rfmeta'"):
        program.choose_rule("rfmta", None)
