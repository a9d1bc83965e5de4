"""Protocols of public data sets, on trees with the real names; the published counts are written down here again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fasedge.types import Label
from tests.training.fixtures import recordings
from tests.training.fixtures.recordings import Tree
from training.data.protocols import DATASETS, Protocol, load_protocol
from training.data.protocols.record import hold_out
from training.data.protocols.wmca import category
from training.errors import DataError, ProtocolError

PUBLIC = ("oulu_npu", "replay_mobile", "replay_attack", "msu_mfsd", "casia_fasd")


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Whole trees of the data sets; not to be changed."""
    folder = tmp_path_factory.mktemp("datasets")
    return {name: getattr(recordings, name)(folder / name).root for name in (*PUBLIC, "wmca")}


def load(root: Path, dataset: str, protocol: str | None = None, fold: int | None = None, **options: bool) -> Protocol:
    return load_protocol(dataset, {dataset: root}, protocol, fold, **options)


def problems_of(root: Path, dataset: str, protocol: str | None = None, fold: int | None = None) -> str:
    """All problems, a line each."""
    with pytest.raises(ProtocolError) as caught:
        load(root, dataset, protocol, fold)
    return "\n".join(caught.value.problems)


def totals(protocol: Protocol) -> list[tuple[int, int]]:
    return [(count["bona_fide"], count["attack"]) for count in protocol.counts().values()]


OULU = {
    "1": [(240, 960), (180, 720), (120, 480)],
    "2": [(360, 720), (270, 540), (360, 720)],
    "3": [(300, 1200), (225, 900), (60, 240)],
    "4": [(200, 400), (150, 300), (20, 40)],
}


@pytest.mark.parametrize(
    ("protocol", "fold"), [("1", None), ("2", None), *((p, fold) for p in ("3", "4") for fold in (1, 6))]
)
def test_oulu_npu_has_the_published_counts_in_every_protocol_and_fold(
    trees: dict[str, Path], protocol: str, fold: int | None
) -> None:
    found = load(trees["oulu_npu"], "oulu_npu", protocol, fold)
    assert totals(found) == OULU[protocol]
    if fold is not None:
        phones = {split: {dict(r.tags)["phone"] for r in records} for split, records in found.records.items()}
        assert phones["test"] == {str(fold)}
        assert str(fold) not in phones["train"] | phones["dev"]
        assert len(phones["train"]) == 5


@pytest.fixture(scope="module")
def without_lists(trees: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("oulu_without_lists")
    for folder in ("Train_files", "Dev_files", "Test_files"):
        (root / folder).symlink_to(trees["oulu_npu"] / folder)
    return root


@pytest.mark.parametrize(
    ("protocol", "fold"), [("1", None), ("2", None), *((p, fold) for p in ("3", "4") for fold in range(1, 7))]
)
def test_oulu_npu_without_lists_has_the_videos_of_the_lists_and_says_that_they_were_derived(
    trees: dict[str, Path], without_lists: Path, protocol: str, fold: int | None
) -> None:
    listed = load(trees["oulu_npu"], "oulu_npu", protocol, fold)
    found = load(without_lists, "oulu_npu", protocol, fold)
    assert totals(found) == OULU[protocol]
    for split, records in found.records.items():
        # The lists of the fixture are written from the description, not by the loader's rules.
        lines = recordings.oulu_list(split.capitalize(), int(protocol), fold or 0)
        assert sorted(r.video_id for r in records) == sorted(line.split(",")[1] for line in lines)
        assert {(r.video_id, r.label, r.pai_subtype) for r in records} == {
            (r.video_id, r.label, r.pai_subtype) for r in listed.records[split]
        }
    assert not listed.notes
    (note,) = found.notes
    assert "has no list of this protocol: derived from the file names" in note
    assert f"Protocol_{protocol}" in note


def test_oulu_npu_without_lists_still_wants_every_video(without_lists: Path, tmp_path: Path) -> None:
    for folder in ("Train_files", "Test_files"):
        (tmp_path / folder).symlink_to(without_lists / folder)
    dev = Tree(tmp_path)
    for path in (without_lists / "Dev_files").iterdir():
        if path.stem not in {"1_1_21_1", "2_2_22_2", "3_3_23_3"}:
            dev.add(f"Dev_files/{path.name}")
    said = problems_of(tmp_path, "oulu_npu", "1")
    # The third is of session 3, which protocol 1 has in test alone.
    assert "dev: 2 of 900 files are missing" in said
    assert "dev: 179 bona_fide presentations, published are 180" in said
    assert "dev: 719 attack presentations, published are 720" in said
    partial = load(tmp_path, "oulu_npu", "1", partial=True)
    assert any("derived from the file names" in note for note in partial.notes)
    assert any("2 of 900 files are missing" in note for note in partial.notes)


def test_protocol_all_of_oulu_npu_needs_no_list_and_derives_none(without_lists: Path) -> None:
    assert load(without_lists, "oulu_npu", "all").notes == ()


def test_an_oulu_npu_video_says_who_what_and_where(trees: dict[str, Path]) -> None:
    record = next(r for r in load(trees["oulu_npu"], "oulu_npu", "1").records["test"] if r.video_id == "6_3_40_5")
    assert (record.subject, record.label, record.pai_species, record.pai_subtype) == (
        "40", Label.ATTACK, "replay", "display2",
    )  # fmt: skip
    assert record.rgb == trees["oulu_npu"] / "Test_files" / "6_3_40_5.avi"


@pytest.mark.parametrize(
    ("dataset", "protocol", "expected"),
    [
        ("replay_mobile", "grandtest", [(120, 192), (160, 256), (110, 192)]),
        ("replay_mobile", "print", [(120, 96), (160, 128), (110, 96)]),
        ("replay_attack", "grandtest", [(60, 300), (60, 300), (80, 400)]),
        ("replay_attack", "print", [(60, 60), (60, 60), (80, 80)]),
        ("msu_mfsd", "official", [(30, 90), (0, 0), (40, 120)]),
        ("msu_mfsd", "holdout", [(24, 72), (6, 18), (40, 120)]),
        ("casia_fasd", "official", [(60, 180), (0, 0), (90, 270)]),
        ("casia_fasd", "holdout", [(48, 144), (12, 36), (90, 270)]),
        ("wmca", "grandtest", [(124, 441), (108, 449), (115, 442)]),
        ("wmca", "LOO_papermask", [(124, 441), (108, 449), (115, 71)]),
        ("wmca", "LOO_fakehead", [(124, 388), (108, 397), (115, 17)]),
    ],
)
def test_data_sets_have_their_published_counts(
    trees: dict[str, Path], dataset: str, protocol: str, expected: list[tuple[int, int]]
) -> None:
    assert totals(load(trees[dataset], dataset, protocol)) == expected


@pytest.mark.parametrize(
    ("task", "train_and_dev", "test"),
    [
        # O gives 1,800 + 1,800 to train or test and 1,350 to dev, I 840 and 360, C 600, M 280.
        ("O&C&I->M", 4950 + 600 + 1200, 280),
        ("O&M&I->C", 4950 + 280 + 1200, 600),
        ("O&C&M->I", 4950 + 600 + 280, 840),
        ("I&C&M->O", 1200 + 600 + 280, 3600),
    ],
)
def test_leave_one_domain_out_tests_on_a_data_set_that_training_never_saw(
    trees: dict[str, Path], task: str, train_and_dev: int, test: int
) -> None:
    letters = {"O": "oulu_npu", "C": "casia_fasd", "I": "replay_attack", "M": "msu_mfsd"}
    roots = {letter: trees[name] for letter, name in letters.items()}
    found = load_protocol("domains", roots, task)
    sizes = [len(found.records[split]) for split in ("train", "dev", "test")]
    assert (sizes[0] + sizes[1], sizes[2]) == (train_and_dev, test)
    seen = {record.dataset for split in ("train", "dev") for record in found.records[split]}
    assert seen.isdisjoint({record.dataset for record in found.records["test"]})


def test_from_one_data_set_to_another_takes_the_splits_of_each(trees: dict[str, Path]) -> None:
    roots = {name: trees[name] for name in ("oulu_npu", "replay_mobile")}
    found = load_protocol("domains", roots, "oulu_npu:1->replay_mobile:grandtest")
    assert totals(found) == [(240, 960), (180, 720), (110, 192)]


def test_a_task_names_every_root_that_is_missing_and_every_name_that_is_wrong(trees: dict[str, Path]) -> None:
    with pytest.raises(ProtocolError, match="no folder for casia_fasd, replay_attack"):
        load_protocol("domains", {"O": trees["oulu_npu"], "M": trees["msu_mfsd"]}, "O&C&I->M")
    with pytest.raises(ProtocolError, match="did you mean 'oulu_npu'"):
        load_protocol("domains", {}, "oulu_nppu:1->M")
    with pytest.raises(ProtocolError, match="expected SOURCE&SOURCE->TARGET"):
        load_protocol("domains", {}, "O&C&I")
    with pytest.raises(ProtocolError, match="named twice"):
        load_protocol("domains", {}, "O&C->O")


def test_leave_one_attack_out_hides_the_attack_from_train_and_dev(trees: dict[str, Path]) -> None:
    found = load(trees["wmca"], "wmca", "LOO_replay")
    species = {split: {r.pai_species for r in records} for split, records in found.records.items()}
    assert "replay" not in species["train"] | species["dev"]
    assert species["test"] == {"bona_fide", "replay"}


@pytest.mark.parametrize(
    ("kind", "pai", "expected"),
    [
        (0, 0, "bona_fide"), (0, 7, "bona_fide"), (1, 1, "glasses"), (1, 2, "rigidmask"), (1, 8, "wig"),
        (2, 7, "fakehead"), (2, 8, "papermask"), (2, 17, "rigidmask"), (2, 18, "flexiblemask"), (2, 99, "flexiblemask"),
        (3, 5, "replay"), (3, 4, "prints"), (3, 14, "prints"), (4, 18, "replay"), (5, 3, "makeup"), (3, 16, None),
    ],
)  # fmt: skip
def test_wmca_codes_give_the_documented_category(kind: int, pai: int, expected: str | None) -> None:
    assert category(kind, pai) == expected


@pytest.mark.parametrize("dataset", [*PUBLIC, "wmca", "hq_wmca", "generic"])
def test_a_root_that_is_not_there_and_a_protocol_that_does_not_exist_are_named(dataset: str, tmp_path: Path) -> None:
    assert "is not a folder" in problems_of(tmp_path / "none", dataset)
    if dataset != "generic":
        assert "there is no protocol 'grandtset'" in problems_of(tmp_path, dataset, "grandtset")


@pytest.mark.parametrize(
    ("dataset", "protocol", "fold", "message"),
    [
        ("oulu_npu", "3", 7, "protocol 3 has no fold 7; expected 1 to 6"),
        ("oulu_npu", "3", 0, "protocol 3 has no fold 0"),
        ("oulu_npu", "1", 1, "protocol 1 has no folds"),
        ("msu_mfsd", "holdout", 6, "expected 1 to 5"),
        ("wmca", "LOO_mask", None, "did you mean"),
    ],
)
def test_a_fold_or_attack_that_does_not_exist_is_named(
    trees: dict[str, Path], dataset: str, protocol: str, fold: int | None, message: str
) -> None:
    assert message in problems_of(trees[dataset], dataset, protocol, fold)


def test_an_unknown_data_set_is_named_with_the_nearest_known(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="did you mean 'oulu_npu'"):
        load_protocol("oulu_nup", {"oulu_nup": tmp_path})


def test_everything_that_is_wrong_in_oulu_npu_is_said_at_once(trees: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "oulu"
    root.mkdir()
    for folder in ("Train_files", "Dev_files", "Test_files"):
        (root / folder).symlink_to(trees["oulu_npu"] / folder)
    tree = Tree(root)
    lines = recordings.oulu_list("Train", 1)
    lines[0] = "+1,1_1_01_9"
    lines[1] = "real,1_1_01_2"
    lines[2] = "+1,1_1_01_3"
    lines[3] = "-1,1_1_21_4"
    lines[4] = "-1,1_3_01_5"
    lines[6] = lines[5]
    tree.text("Protocols/Protocol_1/Train.txt", "\n".join(lines))
    tree.text("Protocols/Protocol_1/Dev.txt", "\n".join(recordings.oulu_list("Dev", 1)[:-1]))
    said = problems_of(root, "oulu_npu", "1")
    for expected in (
        "Train.txt:1: '1_1_01_9' is not phone(1-6)",
        "Train.txt:2: expected +1,P_S_UU_F",
        "Train.txt:3: 1_1_01_3 is labelled +1, but file 3 is print2",
        "Train.txt:4: user 21 is not of split train (users 1 to 20)",
        "Train.txt:5: 1_3_01_5 does not belong",
        "listed more than once",
        "Dev.txt: videos of protocol 1 are not listed: 6_2_35_5",
        "Test.txt: the list of split test cannot be read",
        "dev: 719 attack presentations, published are 720",
        "test: 0 bona_fide presentations, published are 120",
    ):
        assert expected in said


def test_missing_videos_are_named_or_let_pass_with_a_note(tmp_path: Path) -> None:
    tree = recordings.casia_fasd(tmp_path / "casia")
    (tree.root / "train_release/7/HR_1.avi").unlink()
    (tree.root / "test_release/30/3.avi").unlink()
    (tree.root / "test_release/31").mkdir()
    said = problems_of(tree.root, "casia_fasd")
    for expected in ("train: 1 of 192 files are missing", "7/HR_1.avi", "test: 1 of 360", "expected folders 1 to 30"):
        assert expected in said
    (tree.root / "test_release/31").rmdir()
    found = load(tree.root, "casia_fasd", partial=True)
    assert totals(found) == [(47, 144), (12, 36), (90, 269)]
    assert any("published are 48" in note for note in found.notes)


def test_wrong_names_and_people_in_the_wrong_split_are_named(tmp_path: Path) -> None:
    mobile = recordings.replay_mobile(tmp_path / "mobile")
    (mobile.root / "train/real/client001_session02_authenticate_mobile_adverse.mov").rename(
        mobile.root / "train/real/client001_session02_authenticate_mobile_advers.mov"
    )
    mobile.add("devel/real/client002_session02_authenticate_mobile_adverse.mov")
    said = problems_of(mobile.root, "replay_mobile")
    assert "names that are not of this data set: client001_session02_authenticate_mobile_advers.mov" in said
    assert "client 002 is not of split dev" in said
    assert "train: 119 bona_fide presentations, published are 120" in said

    attack = recordings.replay_attack(tmp_path / "attack")
    attack.add("devel/real/client001_session01_webcam_authenticate_adverse_1.mov")
    assert "1 subjects are in more than one split: 001 (dev and train)" in problems_of(attack.root, "replay_attack")


def test_msu_lists_are_compared_with_the_published_ones(tmp_path: Path) -> None:
    tree = recordings.msu_mfsd(tmp_path / "msu")
    tree.text("train_sub_list.txt", "02\nthree\n01\n")
    said = problems_of(tree.root, "msu_mfsd")
    assert "expected a number per line, got three" in said
    assert "not published [1]" in said
    assert "client 001 is in more than one list" in said
    (tree.root / "test_sub_list.txt").unlink()
    assert "the list of split test cannot be read" in problems_of(tree.root, "msu_mfsd")


def test_hold_outs_share_nobody_with_train_and_cover_everybody_once(trees: dict[str, Path]) -> None:
    official = load(trees["casia_fasd"], "casia_fasd", "official").records["train"]
    held = [{r.subject for r in hold_out(official, fold, 5)[1]} for fold in range(1, 6)]
    assert sorted(name for people in held for name in people) == sorted({r.subject for r in official})
    for fold in range(1, 6):
        train, dev = hold_out(official, fold, 5)
        assert {r.subject for r in train}.isdisjoint({r.subject for r in dev})


def test_wmca_asks_for_its_lists_and_names_what_is_wrong_in_them(tmp_path: Path) -> None:
    tree = recordings.wmca(tmp_path / "wmca")
    path = tree.root / "PROTOCOL-grandtest.csv"
    lines = path.read_text().splitlines()
    lines[1] = lines[1].replace(",train", ",trian")
    lines.append("face-station/20.03.18/900_01_001_3_16.h5,train")
    lines.append(lines[5])
    path.write_text("\n".join(lines))
    said = problems_of(tree.root, "wmca")
    for expected in (
        "PROTOCOL-grandtest.csv:2: expected a file and train, dev or eval",
        "did you mean 'train'?",
        "900_01_001_3_16: attack code type 3, instrument 16 is not known",
        "1 of 1685 listed files are missing",
        "listed more than once",
        "train: 123 bona_fide presentations, published are 124",
    ):
        assert expected in said
    path.write_text("video name,part\na,b\n")
    assert "needs a column path or file" in problems_of(tree.root, "wmca")
    path.unlink()
    assert "expected PROTOCOL-grandtest.csv, or a folder grandtest" in problems_of(tree.root, "wmca")


def test_hq_wmca_asks_for_what_is_not_published_instead_of_guessing(tmp_path: Path) -> None:
    tree = recordings.hq_wmca(tmp_path / "hq")
    found = load(tree.root, "hq_wmca")
    assert totals(found) == [(2, 4), (2, 4), (2, 4)]
    assert any("unverified" in note for note in found.notes)
    assert {r.depth for r in found.records["train"]} == {r.rgb for r in found.records["train"]}
    left = load(tree.root, "hq_wmca", "LOO_Print")
    assert totals(left) == [(2, 2), (2, 2), (2, 2)]

    text = (tree.root / "hq_wmca.toml").read_text()
    (tree.root / "hq_wmca.toml").write_text(text.replace('"2" = "Print"', '"3" = "Prints"'))
    said = problems_of(tree.root, "hq_wmca")
    assert "code 3 is 'Prints' (did you mean 'Print'?)" in said
    (tree.root / "hq_wmca.toml").write_text(text.replace('"2" = "Print"', ""))
    assert "no category for the codes 2_1_1" in problems_of(tree.root, "hq_wmca")
    (tree.root / "hq_wmca.toml").unlink()
    assert "is published with the data set only" in problems_of(tree.root, "hq_wmca")


def test_ones_own_tree_is_read_with_depth_beside_colour(tmp_path: Path) -> None:
    tree = recordings.own_tree(tmp_path / "own")
    (tree.root / "train/bona_fide/train_anna/clip_depth.npy").write_bytes(b"")
    found = load(tree.root, "generic")
    assert totals(found) == [(2, 4), (2, 4), (2, 4)]
    with_depth = [r for r in found.records["train"] if r.depth is not None]
    assert [r.subject for r in with_depth] == ["train_anna"]
    assert totals(load(tree.root, "generic", "LOO_print")) == [(2, 2), (2, 2), (2, 2)]


def test_everything_that_is_wrong_in_ones_own_tree_is_said_at_once(tmp_path: Path) -> None:
    tree = recordings.own_tree(tmp_path / "own")
    tree.add("train/bonafide/carl/clip.avi")
    tree.add("dev/bona_fide/train_anna/clip.avi")
    tree.add("dev/attack/print/clip.avi")
    tree.text("test/bona_fide/test_anna/notes.doc", "")
    tree.text("test/bona_fide/test_anna/other_depth.npy", "")
    said = problems_of(tree.root, "generic")
    for expected in (
        "'bonafide' (did you mean 'bona_fide'?)",
        "train_anna (dev and train)",
        "expected a folder per subject",
        "neither video nor picture by their ending: notes.doc",
        "depth without its colour: other_depth.npy",
    ):
        assert expected in said


@pytest.mark.parametrize(
    ("name", "meant"), [("dve", "dev"), ("validation", "dev"), ("Train", "train"), ("holdout", "")]
)
def test_a_split_under_another_name_is_refused(tmp_path: Path, name: str, meant: str) -> None:
    """Otherwise nobody would be trained, or tested, on it, and nobody would know."""
    tree = recordings.own_tree(tmp_path / "own")
    tree.add(f"{name}/bona_fide/carl/clip.avi")
    hint = f" (did you mean {meant!r}?)" if meant else ""
    assert f"{name!r} is not a split{hint}; expected train, dev, test" in problems_of(tree.root, "generic")


def test_other_folders_beside_the_splits_are_named(tmp_path: Path) -> None:
    tree = recordings.own_tree(tmp_path / "own")
    tree.text("consent/forms.txt", "")
    assert any("folders that are not used: consent" in note for note in load(tree.root, "generic").notes)


HEADING = "path,label,split,subject,species,depth"


def test_everything_that_is_wrong_in_ones_own_table_is_said_at_once(tmp_path: Path) -> None:
    tree = recordings.own_tree(tmp_path / "own")
    rows = [
        "train/bona_fide/train_anna/clip.avi,bona_fide,train,anna,,",
        "train/bona_fide/train_bert/clip.avi,bonafide,train,bert,,",
        "train/attack/print/train_anna/clip.avi,attack,trian,anna,print,",
        "train/attack/print/train_bert/clip.avi,attack,train,,print,",
        "/etc/clip.avi,attack,train,bert,print,",
        "dev/bona_fide/dev_anna/clip.avi,bona_fide,dev,anna,print,",
        "dev/attack/print/dev_anna/clip.avi,attack,dev,anna,print,gone.npy",
        "dev/attack/print/dev_anna/none.avi,attack,dev,dora,print,",
        "test/clip.txt,attack,test,emil,print,",
        "a,b,c,d,e,f,g",
    ]
    tree.text("manifest.csv", "\n".join([HEADING, *rows]))
    said = problems_of(tree.root, "generic")
    for expected in (
        "manifest.csv:3: label 'bonafide' (did you mean 'bona_fide'?)",
        "manifest.csv:4: split 'trian' (did you mean 'train'?)",
        "manifest.csv:5: no value for subject",
        "manifest.csv:6: path '/etc/clip.avi' leads out of the folder",
        "manifest.csv:7: labelled bona_fide, but its species is 'print'",
        "1 depth files are missing beside their colour",
        "none.avi",
        "manifest.csv:10: 'test/clip.txt' is neither a video nor a picture",
        "manifest.csv:11: more values than columns",
        "anna (dev and train)",
        "test: no presentation at all",
    ):
        assert expected in said
    tree.text("manifest.csv", "path,label\n")
    assert "columns missing: split, subject" in problems_of(tree.root, "generic")


def test_ones_own_table_is_read(tmp_path: Path) -> None:
    tree = recordings.own_tree(tmp_path / "own")
    rows = [
        f"{split}/{kind}/{split}_anna/clip.avi,{label},{split},{split}_anna,{species},"
        for split in ("train", "dev", "test")
        for kind, label, species in (("bona_fide", "bona_fide", ""), ("attack/print", "attack", "print"))
    ]
    tree.text("manifest.csv", "\n".join([HEADING, *rows]))
    found = load(tree.root, "generic")
    assert totals(found) == [(1, 1)] * 3
    assert found.counts()["test"]["print"] == 1


def test_pictures_of_one_recording_have_to_agree(tmp_path: Path) -> None:
    """A slip in one row, which training would not notice."""
    tree = recordings.own_tree(tmp_path / "own")
    heading = "path,label,split,subject,species,subtype,video"
    rows = ["a.png,bona_fide,dev,anna,,,clip", "b.png,attack,dev,anna,print,,clip", "c.png,bona_fide,train,bert,,,clip"]
    rows += ["d.png,attack,test,carl,print,laser,other", "e.png,attack,test,carl,print,ink,other"]
    tree.text("manifest.csv", "\n".join([heading, *rows]))
    said = problems_of(tree.root, "generic")
    for expected in (
        "recording 'clip' disagree about its label or species: 'bona_fide' (a.png), 'print' (b.png)",
        "recording 'clip' disagree about its split: 'dev' (a.png), 'train' (c.png)",
        "recording 'clip' disagree about its subject: 'anna' (a.png), 'bert' (c.png)",
        "recording 'other' disagree about its subtype: 'ink' (e.png), 'laser' (d.png)",
    ):
        assert expected in said


def test_the_error_shows_ten_problems_and_counts_the_rest() -> None:
    error = ProtocolError("here", [f"problem {i}" for i in range(12)])
    assert isinstance(error, DataError)
    assert "problem 9" in str(error)
    assert "problem 10" not in str(error)
    assert "12 problems" in str(error)
    assert "and 2 more" in str(error)


def test_every_data_set_has_its_usual_protocol_among_its_protocols() -> None:
    assert all(found.default in found.protocols for found in DATASETS.values())


def test_a_tree_without_one_folder_names_that_folder(trees: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "msu"
    shutil.copytree(trees["msu_mfsd"] / "scene01/real", root / "scene01/real")
    assert f"{root / 'scene01/attack'} is missing" in problems_of(root, "msu_mfsd")
