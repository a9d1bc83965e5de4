from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest

from fasedge.preprocess import InputSpec
from fasedge.types import Box
from quantize.calibrate import calibration_crops, choose_samples
from quantize.errors import CalibrationDataError


@dataclass(frozen=True)
class Row:
    label: int
    species: str
    source: str
    split: str = "train"


class FakeSet:
    def __init__(self, table):
        self.table = table

    def boxes(self, indices):
        return [Box(0, 0, 1, 1)] * len(indices)

    def crops(self, indices, spec, *, boxes):
        return np.full((len(boxes), spec.size_px, spec.size_px, 3), 7, np.uint8)


def lopsided():
    """1000 bona fide of one source, few attacks: 200 prints, 50 replays of two sources."""
    return (
        [Row(1, "", "a")] * 1000
        + [Row(0, "print", "a")] * 200
        + [Row(0, "replay", "a")] * 45
        + [Row(0, "replay", "b")] * 5
    )


def test_classes_then_species_then_sources_weigh_the_same():
    table = lopsided()
    chosen = choose_samples(table, 40)
    assert Counter(table[i].label for i in chosen) == {1: 20, 0: 20}
    assert Counter(table[i].species for i in chosen) == {"": 20, "print": 10, "replay": 10}
    assert Counter(table[i].source for i in chosen if table[i].species == "replay") == {"a": 5, "b": 5}


def test_what_a_small_group_lacks_is_taken_from_its_neighbours():
    table = lopsided()
    chosen = choose_samples(table, 600)
    assert len(chosen) == len(set(chosen)) == 600
    counts = Counter((table[i].label, table[i].species) for i in chosen)
    # 250 attacks are all there are: the rest is bona fide.
    assert counts == {(0, "print"): 200, (0, "replay"): 50, (1, ""): 350}


def test_asking_for_more_than_there_is_gives_everything_once():
    assert sorted(choose_samples([Row(1, "", "a"), Row(0, "print", "a")], 10)) == [0, 1]


def test_the_draw_is_reproducible_and_depends_on_the_seed():
    table = lopsided()
    assert choose_samples(table, 40, seed=1) == choose_samples(table, 40, seed=1)
    assert choose_samples(table, 40, seed=1) != choose_samples(table, 40, seed=2)


def test_one_row_of_the_test_split_is_enough_to_be_refused():
    table = lopsided()
    table[3] = replace(table[3], split="test")
    with pytest.raises(CalibrationDataError, match=r"train split only; 1 of 1250 samples are of test"):
        choose_samples(table, 40)


@pytest.mark.parametrize(
    ("table", "message"),
    [([], "is empty"), ([Row(1, "", "a")] * 5, "needs attacks"), ([Row(0, "print", "a")] * 5, "needs attacks")],
)
def test_unusable_sample_sets_are_refused_in_words(table, message):
    with pytest.raises(CalibrationDataError, match=message):
        choose_samples(table, 4)


def test_crops_have_the_shape_of_the_input():
    crops = calibration_crops(FakeSet(lopsided()), InputSpec(size_px=16), 12)
    assert crops.shape == (12, 16, 16, 3)


def test_crops_of_another_shape_are_refused():
    class Wrong(FakeSet):
        def crops(self, indices, spec, *, boxes):
            return np.zeros((len(boxes), 8, 8, 3), np.uint8)

    with pytest.raises(CalibrationDataError, match=r"uint8 \(12, 16, 16, 3\), got uint8 \(12, 8, 8, 3\)"):
        calibration_crops(Wrong(lopsided()), InputSpec(size_px=16), 12)
