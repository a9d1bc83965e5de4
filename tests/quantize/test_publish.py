import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fasedge.cards import OperatingPoint, Rate, Source, load_card, sha256_of
from fasedge.errors import IntegrityError
from fasedge.preprocess import InputSpec
from fasedge.selftest import run_selftest
from quantize import publish as publishing
from quantize.errors import ConversionError, ParityError, PublishError
from quantize.export import CalibrationFile, artefact, artefacts, export_int8
from quantize.grid import conv_names, release
from quantize.latency import cpu_name, measure_latency, time_published, write_latency
from quantize.parity import Presentations, measure, reference_scores, write_parity
from quantize.publish import Facts, hashes_of, publish, read_facts
from quantize.students import ExportModel, Platt
from training.inputs import BrightnessNorm

pytestmark = pytest.mark.slow  # the conversions, once for all of these tests
SPEC = InputSpec(size_px=32, crop_scale=1.5)


def rate(value: float) -> Rate:
    return Rate(value=value, errors=round(100 * value), n=100, low=0.0, high=1.0)


FACTS = Facts(
    id="tiny",
    version="1.0.0",
    summary="Tells reddish from bluish pictures.",
    licence="CC0-1.0",
    source=Source(method="test", paper="none", equations="none"),
    operating_points=(
        OperatingPoint(
            name="bpcer5",
            threshold=0.5,
            criterion="none",
            modalities=("rgb",),
            precision="int8",
            apcer={"print": rate(0.1)},
            apcer_max=0.1,
            bpcer=rate(0.05),
            acer=0.075,
        ),
    ),
    default_operating_point="bpcer5",
    training_data=(),
    evaluation=(),
    intended_use="tests",
    limitations=("is a toy",),
)


@pytest.fixture
def folder(bench, exported, tmp_path) -> Path:
    """Own copy of the artefacts with their parity."""
    copy = tmp_path / "artefacts"
    shutil.copytree(exported[0], copy)
    species = ["" if label else "print" for label in bench.labels]
    data = Presentations(bench.crops, bench.labels, species, 0.5)
    items = artefacts(copy)
    write_parity(copy, measure(items, reference_scores(bench.model, bench.crops), data, threads=1))
    write_latency(copy, items, measure_latency(items, bench.crops[:3], rounds=1))
    for name in ("rounded.safetensors", "calibration.json"):
        (copy / name).write_text(name)
    return copy


def hashes(folder: Path) -> dict[str, str]:
    return hashes_of(folder / "rounded.safetensors", folder / "calibration.json", folder)


def put(bench, folder, models, **changes):
    measured = hashes(folder)
    arguments = {
        "facts": msgspec.structs.replace(FACTS, measured_with=measured),
        "spec": SPEC,
        "calibration": CalibrationFile(scale=6.0, bias=0.1, fitted_on="nothing"),
        "hashes": measured,
        "golden_rgb": bench.crops[:6],
        "models": models,
    }
    return publish(changes.pop("model", bench.model), folder, **(arguments | changes))


def test_a_published_model_passes_the_self_test_on_every_engine(bench, folder, tmp_path):
    target = put(bench, folder, tmp_path / "models")
    card = load_card(target)
    assert (card.id, len(card.files), len(card.parity)) == ("tiny", 6, 6)
    for item in card.files:
        assert run_selftest(target, item.engine, item.precision).passed
    assert card.file("openvino", "int8").bytes == sum(p.stat().st_size for p in folder.glob("int8.[xb]*"))
    assert card.input_spec() == SPEC
    assert folders(tmp_path / "models") == ["tiny"]


def test_the_card_says_how_long_each_file_takes_and_where(bench, folder, tmp_path):
    card = load_card(put(bench, folder, tmp_path / "models"))
    assert {(r.engine, r.precision) for r in card.latency} == {(f.engine, f.precision) for f in card.files}
    for record in card.latency:
        assert (record.threads, record.n, record.cpu) == (1, 12, cpu_name())
        assert 0 < record.median_ms <= record.p95_ms


def test_a_published_model_is_timed_again_and_only_its_latencies_change(bench, folder, tmp_path):
    target = put(bench, folder, tmp_path / "models")
    before, files = load_card(target), sorted(path.name for path in target.iterdir())
    after = time_published(target, rounds=2)
    assert load_card(target) == after
    assert {record.n for record in after.latency} == {24}
    assert msgspec.structs.replace(after, latency=before.latency) == before
    assert sorted(path.name for path in target.iterdir()) == files
    (target / before.file("litert", "int8").path).write_bytes(b"altered")
    with pytest.raises(IntegrityError):
        time_published(target, rounds=1)
    assert load_card(target) == after


@pytest.mark.parametrize("damage", ["missing", "malformed", "of another file"])
def test_latencies_that_are_not_of_these_files_are_not_published(bench, folder, tmp_path, damage):
    path = folder / "latency.json"
    if damage == "missing":
        path.unlink()
    elif damage == "malformed":
        path.write_text("{")
    else:
        path.write_text(path.read_text().replace(sha256_of(folder / "int8.tflite"), "0" * 64))
    with pytest.raises(PublishError, match=r"run `python -m quantize latency`|int8.tflite is not the file"):
        put(bench, folder, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_publishing_again_replaces_the_folder_as_a_whole(bench, folder, tmp_path):
    target = put(bench, folder, tmp_path / "models")
    (target / "left_over.txt").write_text("old")
    put(bench, folder, tmp_path / "models", golden_rgb=bench.crops[:4])
    assert load_card(target).golden.n == 4
    assert not (target / "left_over.txt").exists()


def folders(models: Path) -> list[str]:
    """All but the file that publications wait for each other with, which stays and is empty."""
    return sorted(path.name for path in models.iterdir() if path.is_dir())


def contents(models: Path) -> dict[str, bytes]:
    return {str(p.relative_to(models)): p.read_bytes() for p in sorted(models.rglob("[!.]*")) if p.is_file()}


@pytest.fixture
def published(bench, folder, tmp_path):
    models = tmp_path / "models"
    put(bench, folder, models)
    return models


def test_an_artefact_that_fails_its_self_test_is_not_published_and_the_old_model_stays(bench, folder, published):
    before = contents(published)
    # Golden outputs from a network with another calibration: every artefact now disagrees with them.
    other = ExportModel(bench.student, Platt(30.0, 0.1), BrightnessNorm())
    with pytest.raises(PublishError, match=r"was not published.*unchanged"):
        put(
            bench,
            folder,
            published,
            model=other,
            calibration=CalibrationFile(scale=30.0, bias=0.1, fitted_on="nothing"),
        )
    assert contents(published) == before


def test_a_crash_while_the_folder_is_put_together_leaves_nothing(bench, folder, published, monkeypatch):
    before = contents(published)

    def crash(*_):
        raise OSError("disk full")

    monkeypatch.setattr(publishing, "_write_golden", crash)
    with pytest.raises(PublishError, match="disk full"):
        put(bench, folder, published)
    assert contents(published) == before
    assert folders(published) == ["tiny"]


def test_a_model_is_there_at_every_moment_of_its_replacement(bench, folder, published, monkeypatch):
    """Where the system lets two folders change places in one step: no rename moves the old one away first."""
    card = published / "tiny" / "card.json"
    card.write_text(card.read_text().replace('"summary": "', '"summary": "Old. '))
    one = published.parent / "one"
    one.mkdir()
    if not publishing._exchange(one, published):
        pytest.skip("this system cannot exchange two folders in one step")
    assert publishing._exchange(one, published)

    def refused(self, target):
        raise AssertionError(f"{self} was renamed to {target}")

    monkeypatch.setattr(Path, "replace", refused)
    put(bench, folder, published)
    assert not load_card(published / "tiny").summary.startswith("Old.")
    assert folders(published) == ["tiny"]


def test_when_the_last_rename_fails_the_old_model_is_put_back(bench, folder, published, monkeypatch):
    monkeypatch.setattr(publishing, "_exchange", lambda *_: False)
    before = contents(published)
    rename = Path.replace

    def fail_for_the_new_one(self, target):
        if Path(target) == published / "tiny" and not self.name.startswith("old-"):
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", fail_for_the_new_one)
    with pytest.raises(PublishError, match="no"):
        put(bench, folder, published)
    assert contents(published) == before


@pytest.mark.parametrize("back", [True, False], ids=["put back", "not even put back"])
def test_who_interrupts_between_the_two_renames_loses_no_model(bench, folder, published, monkeypatch, back):
    monkeypatch.setattr(publishing, "_exchange", lambda *_: False)
    before = contents(published / "tiny")
    rename = Path.replace

    def interrupted(self, target):
        if Path(target) == published / "tiny" and not (back and self.name.startswith("old-")):
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            put(bench, folder, published)
    if back:
        assert folders(published) == ["tiny"]
    else:
        assert [name[:9] for name in folders(published)] == [".staging-"]
        publishing._clear_up(published)
    assert contents(published) == {f"tiny/{name}": content for name, content in before.items()}


def test_what_a_killed_publication_left_is_cleared_up_by_the_next(bench, folder, published):
    shutil.copytree(published / "tiny", published / ".staging-a" / "old-1")  # replaced already
    (published / ".staging-a" / "new").mkdir()
    other = published / ".staging-b" / "old-2"  # the only copy
    shutil.copytree(published / "tiny", other)
    card = other / "card.json"
    card.write_text(card.read_text().replace('"id": "tiny"', '"id": "other"'))
    (published / ".staging-c" / "old-3").mkdir(parents=True)  # no telling whose it is
    put(bench, folder, published)
    assert folders(published) == [".staging-c", "other", "tiny"]
    assert load_card(published / "other").id == "other"


def test_a_publication_waits_for_another_one(tmp_path):
    def second() -> bool:
        with publishing._staging_for(tmp_path / "tiny"):
            return staging.exists()

    with ThreadPoolExecutor(1) as pool:
        with publishing._staging_for(tmp_path / "tiny") as staging:
            waiting = pool.submit(second)
            with pytest.raises(TimeoutError):
                waiting.result(0.2)
            assert staging.is_dir()
        assert not waiting.result(60)


def test_a_file_that_changed_after_parity_was_measured_is_not_published(bench, folder, tmp_path):
    with artefact(folder, "litert", "int8").path.open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(ParityError, match="litert/int8"):
        put(bench, folder, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_missing_artefact_is_not_published(bench, folder, tmp_path):
    artefact(folder, "onnxruntime", "fp32").path.unlink()
    with pytest.raises(ConversionError, match="onnxruntime/fp32 did not finish"):
        put(bench, folder, tmp_path / "models")


def test_a_missing_int8_file_has_no_facts(folder):
    (folder / "int8.bin").unlink()
    with pytest.raises(ConversionError, match=r"int8\.bin is missing or empty"):
        hashes(folder)


def test_a_card_that_would_state_another_calibration_than_the_graph_is_refused(bench, folder, tmp_path):
    with pytest.raises(PublishError, match="another calibration"):
        put(bench, folder, tmp_path / "models", calibration=CalibrationFile(scale=5.0, bias=0.1, fitted_on="x"))


@pytest.mark.parametrize("changed", ["checkpoint", "calibration", "int8.xml", "int8.bin"])
def test_facts_that_were_measured_with_other_files_are_not_published(bench, folder, tmp_path, changed):
    facts = msgspec.structs.replace(FACTS, measured_with=hashes(folder) | {changed: "0" * 64})
    with pytest.raises(PublishError, match=f"not measured with this {changed}; run `python -m quantize facts` again"):
        put(bench, folder, tmp_path / "models", facts=facts)
    with pytest.raises(PublishError, match=r"this checkpoint and calibration and int8\.xml and int8\.bin;"):
        put(bench, folder, tmp_path / "models", facts=FACTS)  # of a version that did not say
    assert not (tmp_path / "models").exists()


def test_operating_points_of_int8_files_that_were_written_anew_are_stale(bench, folder, tmp_path):
    facts = msgspec.structs.replace(FACTS, measured_with=hashes(folder))
    export_int8(release(bench.grid, conv_names(bench.grid, 1)), folder, 32, bench.calibration[:1])
    species = ["" if label else "print" for label in bench.labels]
    items = artefacts(folder)
    data = Presentations(bench.crops, bench.labels, species, 0.5)
    write_parity(folder, measure(items, reference_scores(bench.model, bench.crops), data, threads=1))
    write_latency(folder, items, measure_latency(items, bench.crops[:3], rounds=1))
    with pytest.raises(PublishError, match=r"not measured with this int8\.xml"):
        put(bench, folder, tmp_path / "models", facts=facts)
    put(bench, folder, tmp_path / "models")


def test_golden_pictures_of_the_wrong_kind_are_refused(bench, folder, tmp_path):
    with pytest.raises(PublishError, match="golden vectors need uint8"):
        put(bench, folder, tmp_path / "models", golden_rgb=np.zeros((0, 32, 32, 3), np.uint8))
    for shape in ((6, 32, 32, 4), (6, 40, 40, 3)):
        with pytest.raises(PublishError, match=r"looks at pictures of \(32, 32, 3\), the golden ones are"):
            put(bench, folder, tmp_path / "models", golden_rgb=np.zeros(shape, np.uint8))
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("name", ["", "../evil", "/evil", "two words", ".hidden", "a/b"])
@pytest.mark.parametrize("field", ["id", "version"])
def test_facts_whose_id_or_version_is_no_plain_name_are_refused_before_anything_is_written(tmp_path, field, name):
    with pytest.raises(PublishError, match=f"--{field} must be a plain name"):
        publish(
            None,
            tmp_path,
            msgspec.structs.replace(FACTS, **{field: name}),
            spec=SPEC,
            calibration=None,
            hashes={},
            golden_rgb=None,
            models=tmp_path / "models",
        )
    assert not list(tmp_path.iterdir())


def test_facts_are_read_strictly(tmp_path):
    path = tmp_path / "facts.json"
    path.write_bytes(msgspec.json.encode(FACTS))
    assert read_facts(path) == FACTS
    path.write_bytes(msgspec.json.encode(msgspec.to_builtins(FACTS) | {"acer": 0.0}))
    with pytest.raises(PublishError, match="unknown field `acer`"):
        read_facts(path)
