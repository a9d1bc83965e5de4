"""Clues on pictures of living people: the change of colours, and which samples of a batch it is put on."""

from __future__ import annotations

import numpy as np
import pytest

from fasedge.types import UInt8Array
from training.data.clues import colour_jitter, recolour_attacks, shift_hue
from training.data.simulate.draws import Draws


def _flat(level: int) -> UInt8Array:
    return np.full((32, 32, 3), level, np.uint8)


def test_colour_jitter_of_a_grey_is_its_change_of_brightness_alone() -> None:
    for seed in range(6):
        d = Draws(seed, 0)
        made = colour_jitter(_flat(120), d)
        expected = min(255, round(120 * float(d.values["jitter_brightness"])))
        assert np.abs(made.astype(int) - expected).max() <= 1


def test_a_third_of_the_colour_circle_turns_red_into_green() -> None:
    red = np.array([[[255, 0, 0]]], np.uint8)
    assert shift_hue(red, 1 / 3).tolist() == [[[0, 255, 0]]]


def test_colour_jitter_is_that_of_torchvision_for_each_factor_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = np.random.default_rng(0).integers(60, 180, (16, 16, 3), np.uint8)
    values = picture.astype(np.float64)
    luma = values @ [0.299, 0.587, 0.114]
    for name, anchor in (("brightness", 0.0), ("contrast", luma.mean()), ("saturation", luma[..., None])):
        factors = {f"jitter_{other}": 1.0 for other in ("brightness", "contrast", "saturation")} | {"jitter_hue": 0.0}
        factors[f"jitter_{name}"] = 0.7
        monkeypatch.setattr(Draws, "uniform", lambda self, key, low, high, factors=factors: factors[key])
        made = colour_jitter(picture, Draws(1, 0)).astype(np.float64)
        # Hue goes there and back through eight bits, and every step rounds.
        assert np.abs(made - (anchor + (values - anchor) * 0.7)).max() <= 4, name


def _batch(n: int) -> tuple[UInt8Array, np.ndarray]:
    """Crops that say which they are: bona fide ones are red, attacks blue, each with its own number in green."""
    labels = np.arange(n) % 2
    crops = np.zeros((n, 8, 8, 3), np.uint8)
    crops[labels == 1, ..., 0] = 200
    crops[labels == 0, ..., 2] = 200
    crops[..., 1] = np.arange(n)[:, None, None]
    return crops, labels.astype(np.int64)


def test_only_attacks_are_replaced_as_many_as_asked_for_by_changed_copies_of_bona_fide_crops() -> None:
    crops, labels = _batch(20)
    before = crops.copy()
    made, places = recolour_attacks(crops, labels, 0.35, np.random.default_rng(3))
    assert len(places) == len(set(places.tolist())) == 3  # of ten attacks, rounded down
    assert not labels[places].any()
    rest = np.setdiff1d(np.arange(20), places)
    np.testing.assert_array_equal(made[rest], before[rest])
    np.testing.assert_array_equal(crops, before)
    for place in places:
        assert not any(np.array_equal(made[place], crop) for crop in before)
        assert len(np.unique(made[place].reshape(-1, 3), axis=0)) == 1  # still one colour: a copy, not a mixture


def test_equal_random_numbers_give_equal_batches_and_others_do_not() -> None:
    crops, labels = _batch(20)
    first, again, other = (recolour_attacks(crops, labels, 0.5, np.random.default_rng(seed))[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("label", [0, 1])
def test_a_batch_of_one_class_stays_as_it_is(label: int) -> None:
    crops = np.zeros((6, 8, 8, 3), np.uint8)
    made, places = recolour_attacks(crops, np.full(6, label), 1.0, np.random.default_rng(0))
    np.testing.assert_array_equal(made, crops)
    assert len(places) == 0
