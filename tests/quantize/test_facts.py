"""Facts for the card, nothing by hand."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from fasedge.cards import Evaluation
from quantize.errors import CalibrationDataError
from quantize.facts import (
    TEXTS,
    as_scored,
    golden_indices,
    network_notes,
    read_evaluations,
    rounding_cost,
    simulated_evaluation,
)
from quantize.rgbd import METHOD
from quantize.students import STUDENTS
from tests.quantize.sample_sets import sample_set
from training.config import MethodConfig


def test_the_evaluation_counts_both_classes_and_names_the_kind() -> None:
    test = sample_set("test")
    found = simulated_evaluation(as_scored(test, np.where(test.labels == 1, 0.9, 0.1)), "fp32")
    assert (found.kind, found.n_bona_fide, found.n_attack, found.auc, found.eer) == ("simulated", 20, 20, 1.0, 0.0)


def test_golden_pictures_alternate_and_are_free() -> None:
    samples = sample_set("test")
    chosen = golden_indices(samples, {"a.jpg": "public-domain", "b.jpg": "CC-BY-4.0"}, 4)
    assert [samples.table[i].picture for i in chosen] == ["a.jpg"] * 4
    assert [samples.table[i].label for i in chosen] == [0, 1, 0, 1]


def test_too_few_free_pictures_are_an_error() -> None:
    with pytest.raises(CalibrationDataError, match="public-domain"):
        golden_indices(sample_set("test"), {"a.jpg": "CC-BY-4.0"})


def test_evaluations_of_other_programs_are_read_and_bad_ones_refused(tmp_path: Path) -> None:
    item = Evaluation(dataset="d", kind="real", n_bona_fide=1, n_attack=1, auc=0.5, auc_low=0, auc_high=1, eer=0.5)
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_bytes(msgspec.json.encode([item]))
    bad.write_text("{}")
    assert read_evaluations([good]) == [item]
    with pytest.raises(CalibrationDataError, match=r"bad\.json"):
        read_evaluations([bad])


def test_the_cost_of_rounding_compares_decisions_at_the_same_share_of_rejected_people() -> None:
    test = sample_set("test")
    before = np.where(test.labels == 1, 0.8, 0.2) + np.linspace(0, 0.1, 40)
    # Another calibration alone changes no decision.
    same = rounding_cost(before, before / 2, test, bpcer_threshold=0.3)
    assert same["decisions_changed_by_rounding_percent"] == "0.00"
    assert same["auc_before_rounding"] == same["auc_after_rounding"] == "1.0000"
    after = before.copy()
    after[[0, 2]] = 0.99  # two attacks of forty pictures pass
    found = rounding_cost(before, after, test, bpcer_threshold=0.5)
    assert found["decisions_changed_by_rounding_percent"] == "5.00"
    assert found["auc_after_rounding"] == "0.9000"


def test_a_card_says_which_network_it_is_and_where_its_weights_come_from() -> None:
    plain = MethodConfig(name="binary-trunk", trunk="plain_m")
    assert network_notes(plain, {}) == "plain_m up to stride 16: plain 3x3 convolutions (as RepVGG, CVPR 2021), merged"
    taught = network_notes(plain, {"teacher_sha256": "aa, bb"}, "teachers from Apache-2.0 weights")
    assert taught.endswith("; taught by 2 full-precision networks, see provenance; teachers from Apache-2.0 weights")
    lite = MethodConfig(trunk="efficientnet_lite0", pretrained=True)
    assert network_notes(lite, {}) == "efficientnet_lite0 up to stride 16; from ImageNet weights (Apache-2.0)"
    untrained = MethodConfig(trunk="efficientnet_lite0")
    assert network_notes(untrained, {"teacher_sha256": "aa"}).endswith(
        "taught by 1 full-precision network, see provenance"
    )


def test_every_method_with_a_student_has_its_words_for_the_card() -> None:
    assert set(TEXTS) == {*STUDENTS, METHOD}
