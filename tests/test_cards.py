"""Cards are strict, and no model file is loaded without its hash."""

from __future__ import annotations

import hashlib
import json

import msgspec
import pytest

from fasedge.cards import (
    CARD_NAME,
    ParityRecord,
    dump_card,
    find_model,
    list_models,
    load_card,
    parse_card,
    sha256_of,
    verified_model_path,
    verify_file,
)
from fasedge.errors import CardError, IntegrityError, ModelNotFoundError
from fasedge.testing import fake_card

_DIGEST = hashlib.sha256(b"weights").hexdigest()


@pytest.fixture
def raw():
    """A valid card as plain JSON values, to be spoilt."""
    return json.loads(dump_card(fake_card(precisions=("int8", "fp32"))))


def _parse(raw):
    return parse_card(json.dumps(raw), origin="spoilt.json")


def test_a_card_survives_writing_and_reading():
    card = fake_card()
    text = dump_card(card)
    assert parse_card(text) == card
    assert text.endswith("}\n")


@pytest.mark.parametrize("path", [(), ("source",), ("inputs", 0), ("operating_points", 0, "bpcer"), ("golden",)])
def test_an_unknown_field_at_any_depth_is_refused_by_name(raw, path):
    place = raw
    for key in path:
        place = place[key]
    place["colour"] = "blue"
    with pytest.raises(CardError, match=r"spoilt\.json .*colour"):
        _parse(raw)


@pytest.mark.parametrize("field", ["id", "files", "golden", "operating_points", "schema_version", "limitations"])
def test_a_missing_field_is_refused_by_name(raw, field):
    del raw[field]
    with pytest.raises(CardError, match=field):
        _parse(raw)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", b"\xff\xfe", "NaN"])
def test_what_is_not_a_card_is_a_card_error(text):
    with pytest.raises(CardError, match="not a valid model card"):
        parse_card(text)


def test_another_schema_version_is_refused(raw):
    raw["schema_version"] = 2
    with pytest.raises(CardError):
        _parse(raw)


_BAD_NAMES = ["../x", "/etc/passwd", "a/b", "..", ".", "", "..\\x", "C:\\x", "C:x", ".hidden", "a\0b", "a b", "x\n"]


@pytest.mark.parametrize("name", _BAD_NAMES)
def test_a_file_name_that_leaves_the_folder_is_refused(raw, name):
    raw["files"][0]["path"] = name
    with pytest.raises(CardError, match="plain names"):
        _parse(raw)


@pytest.mark.parametrize("name", _BAD_NAMES)
def test_golden_vectors_and_companions_may_not_leave_the_folder_either(raw, name):
    golden, companion = json.loads(json.dumps(raw)), raw
    golden["golden"]["path"] = name
    companion["files"][0]["companions"][name] = "0" * 64
    for spoilt in (golden, companion):
        with pytest.raises(CardError, match="plain names"):
            _parse(spoilt)


def test_an_id_that_is_a_path_is_refused(raw):
    raw["id"] = "../other"
    with pytest.raises(CardError, match="id must be"):
        _parse(raw)


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 65, "G" * 64, "A" * 64, "0" * 64 + "\n"])
def test_a_hash_that_is_no_sha256_is_refused(raw, digest):
    raw["files"][0]["sha256"] = digest
    with pytest.raises(CardError, match="sha256"):
        _parse(raw)


def test_an_openvino_model_without_a_hash_of_its_weights_is_refused(raw):
    raw["files"][0]["companions"] = {}
    with pytest.raises(CardError, match=r"fake-int8\.bin"):
        _parse(raw)


@pytest.mark.parametrize("key", ["files", "inputs", "outputs", "operating_points"])
def test_an_entry_that_stands_twice_is_refused(raw, key):
    raw[key].append(raw[key][0])
    with pytest.raises(CardError, match="twice"):
        _parse(raw)


@pytest.mark.parametrize("key", ["files", "inputs", "outputs", "operating_points"])
def test_a_card_that_lists_nothing_is_refused(raw, key):
    raw[key] = []
    with pytest.raises(CardError, match="at least one"):
        _parse(raw)


def test_a_default_operating_point_that_is_not_listed_is_refused(raw):
    raw["default_operating_point"] = "eer"
    with pytest.raises(CardError, match="'eer' is not in the list"):
        _parse(raw)


@pytest.mark.parametrize("threshold", [-0.01, 1.01])
def test_a_threshold_outside_the_scores_range_is_refused(raw, threshold):
    raw["operating_points"][0]["threshold"] = threshold
    with pytest.raises(CardError, match="threshold"):
        _parse(raw)


@pytest.mark.parametrize(
    "change", [{"value": 1.2, "high": 1.3}, {"low": 0.2}, {"high": 0.01}, {"errors": 101}, {"errors": -1}]
)
def test_a_rate_that_contradicts_itself_is_refused(raw, change):
    raw["operating_points"][0]["bpcer"].update(change)
    with pytest.raises(CardError, match="bpcer"):
        _parse(raw)


def _rate(errors, n, **people):
    span = {"people": people} if people else {}
    return {"value": errors / n, "errors": errors, "n": n, "low": 0.0, "high": 1.0} | span


@pytest.fixture
def by_source(raw):
    """The same card with rates by source and intervals over people at its first operating point: 5 of 100 each."""
    raw["operating_points"][0] |= {
        "apcer": {"print": _rate(5, 100, low=0.01, high=0.2)},
        "bpcer": _rate(5, 100, low=0.02, high=0.09),
        "acer_people": {"low": 0.02, "high": 0.15},
        "apcer_by_source": {"here": {"print": _rate(5, 60, low=0.01, high=0.3)}, "there": {"print": _rate(0, 40)}},
        "bpcer_by_source": {"here": _rate(1, 60), "there": _rate(4, 40)},
    }
    return raw


def test_rates_by_source_and_over_people_survive_writing_and_reading(by_source):
    card = _parse(by_source)
    point = card.operating_points[0]
    assert point.apcer_by_source["here"]["print"].people.high == 0.3
    assert point.apcer_by_source["there"]["print"].people is None
    assert (point.bpcer_by_source["there"].errors, point.acer_people.low) == (4, 0.02)
    assert parse_card(dump_card(card)) == card


def test_a_card_without_rates_by_source_loads_and_is_written_as_it_was(raw):
    point = _parse(raw).operating_points[0]
    assert (point.apcer_by_source, point.bpcer_by_source, point.acer_people, point.bpcer.people) == ({}, {}, None, None)
    assert json.loads(dump_card(_parse(raw))) == raw
    assert "people" not in json.dumps(raw)
    assert "by_source" not in json.dumps(raw["operating_points"])


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("bpcer_by_source", "here", "errors"), 2, "'bpcer' of 'bpcer5' must add up to 5 errors of 100, they are 6 of"),
        (("bpcer_by_source", "there", "n"), 41, "add up to 5 errors of 100, they are 5 of 101"),
        (("apcer_by_source", "here", "print", "n"), 59, "'print' of 'bpcer5' must add up to 5 errors of 100, they are"),
        (("apcer_by_source",), {"here": {}}, "'print' of 'bpcer5' must add up to 5 errors of 100, they are 0 of 0"),
        (("apcer_by_source", "here", "mask"), _rate(1, 9), "has mask by source, but no rate of all sources"),
        (("apcer_by_source", "here", "print", "errors"), 61, "rate 'print, here'"),
        (("bpcer_by_source", "here", "value"), 1.01, "rate 'bpcer, here'"),
        (("bpcer", "people", "low"), 0.06, "rate 'bpcer'"),
        (("bpcer", "people", "high"), 0.04, "rate 'bpcer'"),
        (("apcer", "print", "people", "low"), -0.1, "rate 'print'"),
        (("acer_people", "low"), 0.16, "ACER of 'bpcer5' needs an interval"),
        (("acer_people", "high"), 1.1, "ACER of 'bpcer5' needs an interval"),
    ],
)
def test_rates_by_source_and_over_people_that_contradict_the_others_are_refused(by_source, path, value, message):
    place = by_source["operating_points"][0]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(CardError, match=message):
        _parse(by_source)


@pytest.mark.parametrize("change", [{"size_px": 0}, {"crop_scale": 0}, {"crop_scale": 1000.0}])
def test_an_input_that_cannot_be_made_is_refused(raw, change):
    raw["inputs"][0].update(change)
    with pytest.raises(CardError, match="input 'rgb'"):
        _parse(raw)


@pytest.mark.parametrize("change", [{"n": 0}, {"tolerance": 0}, {"tolerance": 1.0}])
def test_golden_vectors_that_test_nothing_are_refused(raw, change):
    raw["golden"].update(change)
    with pytest.raises(CardError, match="golden"):
        _parse(raw)


def test_looking_up_what_the_card_lacks_names_what_it_has():
    card = fake_card(engines=("litert",))
    with pytest.raises(ModelNotFoundError, match=r"openvino/int8; it has litert/int8"):
        card.file("openvino", "int8")
    with pytest.raises(CardError, match="no input 'depth'"):
        card.input_spec("depth")
    with pytest.raises(CardError, match=r"no operating point 'eer' .*bpcer10"):
        card.operating_point("eer")


def test_an_operating_point_is_valid_for_its_own_precision_and_modalities_only():
    card = fake_card(precisions=("int8",))
    assert card.operating_point().name == "bpcer5"
    with pytest.raises(CardError, match="fp32"):
        card.operating_point("bpcer5", precision="fp32")
    with pytest.raises(CardError, match=r"rgb\+depth"):
        card.operating_point("bpcer5", modalities=("rgb", "depth"))


def _write_model(folder, raw):
    """Write the card and files of one OpenVINO artefact with their true hashes."""
    item = raw["files"][0]
    item.update(sha256=_DIGEST, companions={"fake-int8.bin": _DIGEST})
    for name in ("fake-int8.xml", "fake-int8.bin"):
        (folder / name).write_bytes(b"weights")
    (folder / CARD_NAME).write_text(json.dumps(raw))
    return load_card(folder)


def test_untouched_weights_are_passed_on(tmp_path, raw):
    card = _write_model(tmp_path, raw)
    assert verified_model_path(tmp_path, card.file("openvino")) == tmp_path / "fake-int8.xml"


@pytest.mark.parametrize("name", ["fake-int8.xml", "fake-int8.bin"])
def test_altered_weights_are_an_integrity_error(tmp_path, raw, name):
    card = _write_model(tmp_path, raw)
    (tmp_path / name).write_bytes(b"weightz")
    with pytest.raises(IntegrityError, match="altered"):
        verified_model_path(tmp_path, card.file("openvino"))


@pytest.mark.parametrize("name", ["fake-int8.xml", "fake-int8.bin"])
def test_missing_weights_are_a_model_not_found_error(tmp_path, raw, name):
    card = _write_model(tmp_path, raw)
    (tmp_path / name).unlink()
    with pytest.raises(ModelNotFoundError, match=name):
        verified_model_path(tmp_path, card.file("openvino"))


def test_sha256_of_a_file_larger_than_one_block_equals_hashlib(tmp_path):
    content = bytes(range(256)) * 5000
    path = tmp_path / "big"
    path.write_bytes(content)
    assert sha256_of(path) == hashlib.sha256(content).hexdigest()
    assert verify_file(tmp_path, "big", hashlib.sha256(content).hexdigest()) == path


def test_a_folder_without_a_card_says_what_was_expected(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"card\.json"):
        load_card(tmp_path)


def test_a_model_is_found_by_the_path_of_its_folder(tmp_path, raw):
    _write_model(tmp_path, raw)
    assert find_model(tmp_path) == tmp_path
    assert find_model(str(tmp_path)) == tmp_path


def test_a_folder_by_path_may_have_any_name_but_a_model_by_name_must_be_the_one_of_its_card(tmp_path, raw, monkeypatch):
    folder = tmp_path / "other"
    folder.mkdir()
    _write_model(folder, raw)
    assert find_model(folder) == folder
    monkeypatch.setattr("fasedge.cards.models_folder", lambda: tmp_path)
    with pytest.raises(CardError, match="holds the card of 'fake-model', not of 'other'"):
        find_model("other")
    assert find_model(folder.rename(tmp_path / "fake-model").name) == tmp_path / "fake-model"


@pytest.mark.parametrize("model", ["no-such-model", "", "..", "../models"])
def test_an_unknown_model_is_refused(model):
    with pytest.raises(ModelNotFoundError, match="unknown model"):
        find_model(model)


def test_every_embedded_model_has_a_valid_card_under_its_own_id_and_intact_files():
    ids = list_models()
    assert list(ids) == sorted(ids)
    for model in ids:
        folder = find_model(model)
        card = load_card(folder)
        assert card.id == model
        for item in card.files:
            files = [verified_model_path(folder, item), *(folder / name for name in item.companions)]
            assert sum(path.stat().st_size for path in files) == item.bytes
        verify_file(folder, card.golden.path, card.golden.sha256)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"calibration": {"heads": {}}}, "need a calibration each, there are those of none"),
        ({"calibration": {"heads": {"score_rgb": {"scale": -1.0, "bias": 0.0}}}}, "need a calibration each"),
        (
            {"calibration": {"heads": {n: {"scale": -1.0, "bias": 0.0} for n in ("score_rgb", "score_depth")}}},
            "needs scale > 0 and a finite bias",
        ),
        ({"inputs": [0]}, "operating points from depth, which is no input of the model"),
    ],
)
def test_what_a_card_says_of_heads_and_modalities_must_fit_the_model(changes, message):
    document = msgspec.to_builtins(fake_card(depth=True))
    parse_card(msgspec.json.encode(document))
    if "calibration" in changes:
        document["calibration"] |= changes["calibration"]
    if "inputs" in changes:
        document["inputs"] = document["inputs"][:1]
    with pytest.raises(CardError, match=message):
        parse_card(msgspec.json.encode(document))


def test_parity_may_speak_only_of_outputs_that_the_model_has():
    record = ParityRecord(
        engine="openvino", precision="int8", n=1, score_abs_diff_p99=0.0, score_abs_diff_max=0.0, auc=1.0,
        auc_reference=1.0, acer_points=0.0, acer_points_reference=0.0, decision_flips_percent=0.0, output="score_rgb",
    )  # fmt: skip
    of_both = msgspec.structs.replace(fake_card(depth=True), parity=(record,))
    assert parse_card(dump_card(of_both)) == of_both
    with pytest.raises(CardError, match="parity speaks of outputs that the model does not have: score_rgb"):
        parse_card(dump_card(msgspec.structs.replace(fake_card(), parity=(record,))))
