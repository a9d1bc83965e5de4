"""Evaluation of scores: thresholds from dev only, AUC by cause, confounds."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from fasedge.errors import MetricError
from tests.training.fixtures.toy_sets import toy_row, toy_set
from training.data.samples import SampleSet, SetInfo
from training.errors import DataError
from training.evaluate import (
    OPERATING_POINTS,
    ScoredSet,
    auc_by,
    auc_by_edge,
    confounds,
    evaluate_sets,
    thresholds,
    write_evaluation,
)


def scored(n: int, split: str, seed: int) -> ScoredSet:
    """Overlapping classes."""
    samples = toy_set(n, split=split)
    rng = np.random.default_rng(seed)
    return ScoredSet(samples, np.clip(rng.normal(0.3 + 0.4 * samples.labels, 0.15), 0, 1))


def test_thresholds_come_from_dev_and_from_nothing_else() -> None:
    dev = scored(200, "dev", 1)
    chosen = thresholds(dev)
    assert tuple(chosen) == OPERATING_POINTS
    live = dev.scores[dev.labels == 1]
    # bpcer5: of 100 bona fide presentations, at most 5 below the threshold, and the next one up would be the sixth.
    assert (live < chosen["bpcer5"].value).sum() == 5
    for split in ("train", "test"):
        with pytest.raises(DataError, match=f"dev split, got '{split}'"):
            thresholds(scored(40, split, 1))


def test_rates_are_not_measured_where_the_thresholds_were_chosen() -> None:
    dev = scored(60, "dev", 1)
    with pytest.raises(MetricError, match="flatter"):
        evaluate_sets(dev, dev)


def test_an_evaluation_is_plain_json_with_rates_at_the_thresholds_of_dev(tmp_path: Path) -> None:
    dev, test = scored(120, "dev", 1), scored(100, "test", 2)
    results = evaluate_sets(dev, test)
    write_evaluation(tmp_path / "out", test, results)
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found == results
    for name, value in thresholds(dev).items():
        assert found["thresholds"][name] == value.value
        at = found["reports"][name]["at_threshold"]
        live = test.scores[test.labels == 1]
        assert at["bpcer"]["value"] == pytest.approx(float((live < value.value).mean()))
        for species in ("print", "replay"):
            attacks = test.scores[np.array(test.column("species")) == species]
            assert at["apcer"]["per_species"][species]["value"] == pytest.approx(float((attacks >= value.value).mean()))
    with (tmp_path / "out" / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["score"]) for row in rows] == pytest.approx(test.scores.tolist(), abs=1e-6)
    assert [row["identity"] for row in rows] == test.column("identity")


def test_an_evaluation_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_evaluation(tmp_path / "file", scored(4, "test", 1), {})


def hand_made() -> ScoredSet:
    """Two sources; (label, source, species, subtype, score)."""
    table = [
        (1, "office", "bona_fide", "bona_fide", 0.9),
        (1, "office", "bona_fide", "bona_fide", 0.4),
        (0, "office", "replay", "phone", 0.5),
        (0, "office", "print", "laser", 0.1),
        (1, "studio", "bona_fide", "bona_fide", 0.2),
        (0, "studio", "replay", "phone", 0.8),
        (0, "yard", "print", "laser", 0.3),
    ]
    rows = [
        toy_row(i, label, split="test", source=source, species=species, subtype=subtype)
        for i, (label, source, species, subtype, _) in enumerate(table)
    ]
    samples = SampleSet(np.zeros((7, 4, 4, 3), np.uint8), rows, SetInfo(split="test", seed=0, n=7))
    return ScoredSet(samples, np.array([row[-1] for row in table]))


def test_auc_by_source_compares_within_the_source() -> None:
    # Office: of 0.9 and 0.4 against 0.5 and 0.1 three pairs of four are in order. The yard has no live person.
    assert auc_by(hand_made(), "source") == {"office": 0.75, "studio": 0.0}


def test_auc_by_species_compares_with_everybody_alive() -> None:
    # 0.9, 0.4, 0.2 against replays 0.5, 0.8: two of six in order; against prints 0.1, 0.3: five of six.
    expected = {"print": pytest.approx(5 / 6), "replay": pytest.approx(2 / 6)}
    assert auc_by(hand_made(), "species") == expected
    assert auc_by(hand_made(), "subtype") == {"laser": expected["print"], "phone": expected["replay"]}


def test_attacks_are_told_apart_by_whether_their_edge_is_seen() -> None:
    edges = [None, 0, 0, None, 1, 1, None]  # the last attack does not say
    labels = [1, 0, 0, 1, 0, 0, 0]
    rows = [
        toy_row(i, label, params={} if edge is None else {"edge_visible": edge})
        for i, (label, edge) in enumerate(zip(labels, edges, strict=True))
    ]
    samples = SampleSet(np.zeros((7, 48, 48, 3), np.uint8), rows, SetInfo(split="test", seed=0, n=7))
    found = auc_by_edge(ScoredSet(samples, np.array([0.9, 0.95, 0.1, 0.6, 0.2, 0.3, 0.99])))
    # 0.9 and 0.6 against 0.95 and 0.1: two pairs of four in order; against 0.2 and 0.3: all four.
    assert found == {"hidden": 0.5, "visible": 1.0}
    assert auc_by_edge(scored(20, "test", 1)) == {}


def test_an_unknown_column_is_refused() -> None:
    with pytest.raises(DataError, match="no column 'colour'; expected one of index"):
        auc_by(hand_made(), "colour")


#: What each scalar cannot help moving: more grain also spreads the grey values, more light makes the same grain less.
RELATED = {
    "brightness": {"black_level", "contrast"},
    "sharpness": {"black_level", "contrast"},
    "contrast": {"black_level"},
    "black_level": {"contrast", "sharpness"},
    "clipped": {"contrast", "sharpness", "saturation"},
}


@pytest.mark.parametrize(
    "name", ["brightness", "sharpness", "saturation", "red_blue", "black_level", "contrast", "clipped"]
)
def test_the_scalar_that_separates_a_constructed_set_is_found_and_only_it(name: str) -> None:
    rng = np.random.default_rng(3)
    n = 80
    labels = np.arange(n) % 2
    grain = rng.normal(0, 4, (n, 32, 32, 1))
    # Deviations from grey that cancel in the luma (0.299 R + 0.587 G + 0.114 B).
    level = rng.uniform(110, 140, n)
    tint = rng.uniform(-2, 2, n)
    if name == "brightness":
        level += 40 * labels
    if name == "sharpness":
        grain *= np.where(labels, 3, 1)[:, None, None, None]
    pictures = np.repeat(level[:, None, None, None] + grain, 3, axis=3)
    if name == "contrast":  # light falls off across the face
        pictures += np.where(labels, 25, 0)[:, None, None, None] * np.linspace(1, -1, 32)[:, None, None]
    if name == "black_level":  # a dark spot of 4 x 4 in 24 x 24 pixels, behind which the mean stays
        pictures[labels == 1, 10:14, 10:14] -= 40
        pictures[labels == 1] += 40 * 16 / 24**2
    checks = np.indices((32, 32)).sum(0) % 4 < 2
    if name == "saturation":  # red here, cyan there: more spread, the same mean colour
        sign = np.where(checks, 1.0, -1.0)[None, :, :, None] * np.where(labels, 30, 10)[:, None, None, None]
        pictures = pictures + sign * np.array([1.0, -0.299 / 0.587, 0.0])
    if name == "red_blue":  # the same spread of colours, turned the other way
        tint = np.where(labels, 20.0, -20.0) + tint
    pictures = pictures + tint[:, None, None, None] * np.array([1.0, -(0.299 - 0.114) / 0.587, -1.0])
    if name == "clipped":  # a red spot and a blue one
        for channel, at in ((0, 8), (2, 18)):
            pictures[labels == 1, at : at + 2, at : at + 2, channel] = 255
    rows = [toy_row(i, int(label), box_xyxy=(4, 4, 28, 28)) for i, label in enumerate(labels)]
    info = SetInfo(split="train", seed=0, n=n)
    found = confounds(SampleSet(np.clip(pictures, 0, 255).astype(np.uint8), rows, info))
    assert found[name] > 0.97
    others = found.keys() - {name} - RELATED.get(name, set())
    assert all(0.5 <= found[other] < 0.75 for other in others), found


def test_only_the_face_counts_for_confounds() -> None:
    """The frame is bright round live people; the box, half outside the picture, is not."""
    labels = np.arange(20) % 2
    pictures = np.random.default_rng(0).integers(90, 110, (20, 32, 32, 3))
    pictures[labels == 1, :, 20:] = 250
    rows = [toy_row(i, int(label), box_xyxy=(-10.0, -10.0, 16.0, 16.0)) for i, label in enumerate(labels)]
    found = confounds(SampleSet(pictures.astype(np.uint8), rows, SetInfo(split="train", seed=0, n=20)))
    assert found["brightness"] < 0.8
