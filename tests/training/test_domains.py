"""Domain-balanced batches: what holds for every seed, step and mixture of domains."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.domains import DomainSampler
from training.errors import ConfigError, DataError


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[list[str], list[int]]:
    """Up to four domains with one to nine samples of each class, in any order."""
    names = draw(st.lists(st.sampled_from(["a", "b", "Ω", "a\0", " "]), min_size=1, max_size=4, unique=True))
    rows = [(name, label) for name in names for label in (0, 1) for _ in range(draw(st.integers(1, 9)))]
    rows = draw(st.permutations(rows))
    return [name for name, _ in rows], [label for _, label in rows]


MIXTURE = (["a"] * 7 + ["b"] * 5, [1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0])


@settings(deadline=None, max_examples=30)
@given(mixtures(), st.integers(1, 6), st.integers(0, 2**40), st.integers(0, 10**6))
def test_every_domain_has_one_batch_with_as_many_bona_fide_samples_as_attacks(
    mixture: tuple[list[str], list[int]], per_class: int, seed: int, number: int
) -> None:
    domains, labels = mixture
    step = DomainSampler(domains, labels, per_class=per_class, seed=seed).step(number)
    assert sorted(step.domains) == sorted(set(domains))
    for name, indices in zip(step.domains, step.indices, strict=True):
        assert {domains[i] for i in indices} == {name}
        assert Counter(labels[i] for i in indices) == {0: per_class, 1: per_class}


@settings(deadline=None, max_examples=20)
@given(mixtures(), st.integers(1, 5), st.integers(0, 2**40))
def test_no_sample_is_more_than_once_ahead_of_another_of_its_domain_and_class(
    mixture: tuple[list[str], list[int]], per_class: int, seed: int
) -> None:
    domains, labels = mixture
    sampler, seen = DomainSampler(domains, labels, per_class=per_class, seed=seed), Counter[int]()
    for step in sampler.steps(0, 12):
        seen.update(int(i) for indices in step.indices for i in indices)
        for key in set(zip(domains, labels, strict=True)):
            times = [seen[i] for i in range(len(labels)) if (domains[i], labels[i]) == key]
            assert max(times) - min(times) <= 1


@settings(deadline=None, max_examples=20)
@given(mixtures(), st.integers(1, 3), st.integers(1, 4), st.integers(0, 1000))
def test_processes_together_read_what_one_process_with_larger_batches_reads(
    mixture: tuple[list[str], list[int]], per_class: int, replicas: int, number: int
) -> None:
    domains, labels = mixture
    whole = DomainSampler(domains, labels, per_class=per_class * replicas, seed=5).step(number)
    parts = [
        DomainSampler(domains, labels, per_class=per_class, seed=5, replica=r, replicas=replicas).step(number)
        for r in range(replicas)
    ]
    assert all(part.domains == whole.domains for part in parts)
    for place in range(len(whole.domains)):
        together = np.concatenate([part.indices[place] for part in parts])
        assert sorted(together) == sorted(whole.indices[place])


def test_a_step_is_the_same_whether_or_not_those_before_it_were_made() -> None:
    through, resumed = DomainSampler(*MIXTURE, per_class=2, seed=3), DomainSampler(*MIXTURE, per_class=2, seed=3)
    steps = list(through.steps(0, 9))
    again = resumed.step(8)
    assert again.domains == steps[8].domains
    for one, other in zip(again.indices, steps[8].indices, strict=True):
        np.testing.assert_array_equal(one, other)


def test_another_domain_does_not_change_what_is_drawn_from_this_one() -> None:
    alone = DomainSampler(MIXTURE[0][:7], MIXTURE[1][:7], per_class=2, seed=3)
    beside = DomainSampler(*MIXTURE, per_class=2, seed=3)
    for number in range(5):
        step = beside.step(number)
        np.testing.assert_array_equal(alone.step(number).indices[0], step.indices[step.domains.index("a")])


def test_each_domain_is_held_out_in_about_its_share_of_the_steps_and_seeds_differ() -> None:
    domains, labels = [name for name in "abc" for _ in range(20)], [0, 1] * 30
    samplers = [DomainSampler(domains, labels, per_class=2, seed=seed) for seed in (0, 1)]
    last = [[step.domains[-1] for step in sampler.steps(0, 300)] for sampler in samplers]
    for names in last:
        # Binomial(300, 1/3) has mean 100 and standard deviation 8.2.
        assert all(60 < count < 140 for count in Counter(names).values())
        assert len(set(names)) == 3
    assert last[0] != last[1]
    one, other = (np.concatenate(sampler.step(0).indices) for sampler in samplers)
    assert sorted(one) != sorted(other)


def test_classes_are_mixed_within_a_batch() -> None:
    sampler = DomainSampler(["a"] * 20, [0, 1] * 10, per_class=4)
    first = {int(sampler.step(number).indices[0][0]) % 2 for number in range(20)}
    assert first == {0, 1}


def test_an_epoch_is_as_long_as_the_largest_class_of_any_domain() -> None:
    domains, labels = ["a"] * 30 + ["b"] * 12, [1] * 5 + [0] * 25 + [0, 1] * 6
    assert DomainSampler(domains, labels, per_class=10).steps_per_epoch == 2  # 25 attacks of a
    assert DomainSampler(domains, labels, per_class=2, replicas=3).steps_per_epoch == 4
    assert DomainSampler(domains, labels, per_class=99).steps_per_epoch == 1


def test_impossible_sets_and_settings_are_refused_by_name() -> None:
    with pytest.raises(DataError, match="'b' has no bona fide presentations"):
        DomainSampler(["a", "a", "b"], [0, 1, 0])
    with pytest.raises(DataError, match="'a' has no attacks"):
        DomainSampler(["a"], [1])
    with pytest.raises(DataError, match="got 2 for sample 1"):
        DomainSampler(["a", "a"], [0, 2])
    with pytest.raises(DataError, match="got 2 and 1"):
        DomainSampler(["a", "a"], [0])
    with pytest.raises(DataError, match="at least one"):
        DomainSampler([], [])
    for bad in ({"per_class": 0}, {"seed": -1}, {"replicas": 0}, {"replica": 1}, {"replica": -1}):
        with pytest.raises(ConfigError, match="per_class >= 1"):
            DomainSampler(["a", "a"], [0, 1], **bad)
    with pytest.raises(ConfigError, match="counted from 0"):
        DomainSampler(["a", "a"], [0, 1]).step(-1)
