"""Time to solution, its intervals, and sign tests against values computed by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from solvers.comparison.statistics import holm, sign_test, time_to_solution

NEVER = math.inf


def test_time_to_solution_minimises_the_formula_over_time():
    # Three of five runs are there after 1 s, all that ever are after 4 s.
    found = time_to_solution([1.0, 4.0, 1.0, 1.0, NEVER])
    at_one, at_four = (t * math.log(0.01) / math.log(1 - s) for t, s in ((1.0, 3 / 6), (4.0, 4 / 6)))
    assert found.value == pytest.approx(min(at_one, at_four))
    assert found.value == pytest.approx(6.6438562)


def test_times_with_success_below_one_half_are_ignored():
    assert time_to_solution([1e-6, 1.0, 1.0]).value == pytest.approx(math.log(0.01) / math.log(1 - 3 / 4))


def test_success_of_all_runs_is_certain_only_for_many_runs():
    assert time_to_solution([0.3] * 5).value == pytest.approx(0.3 * math.log(0.01) / math.log(1 - 5 / 6))
    assert time_to_solution([0.3] * 200).value == pytest.approx(0.3)


@pytest.mark.parametrize("runs", [1, 5, 10])
def test_the_interval_covers_the_true_value_of_a_memoryless_solver(runs):
    truth = math.log(100.0)  # by whatever time it begins anew
    rng = np.random.default_rng(runs)
    found = [time_to_solution(rng.exponential(size=runs), seed) for seed in range(100)]
    assert sum(each.low <= truth <= each.high for each in found) >= 90


def test_without_a_success_time_and_interval_are_infinite():
    found = time_to_solution([NEVER, NEVER])
    assert (found.value, found.low, found.high) == (NEVER, NEVER, NEVER)
    assert time_to_solution([]).value == NEVER


def test_an_interval_is_reproducible_and_contains_the_value():
    hits = [0.1 * i for i in range(1, 15)] + [NEVER] * 6
    first, again = time_to_solution(hits, seed=3), time_to_solution(hits, seed=3)
    assert first == again
    assert first.low < first.value < first.high


def test_one_success_of_a_few_runs_leaves_a_wide_interval():
    found = time_to_solution([0.5, NEVER, NEVER, NEVER])
    assert found.value == pytest.approx(0.5 * math.log(0.01) / math.log(1 - 1 / 5))
    assert found.low < found.value < 10 * found.value < found.high < NEVER


@given(st.lists(st.floats(1e-6, 1e3) | st.just(NEVER), min_size=1, max_size=8), st.floats(0.1, 10.0))
def test_time_to_solution_scales_with_the_clock(hits, factor):
    once, scaled = time_to_solution(hits), time_to_solution([factor * hit for hit in hits])
    for name in ("value", "low", "high"):
        assert getattr(scaled, name) == pytest.approx(factor * getattr(once, name), rel=1e-9)


def test_a_sign_test_counts_pairs_and_ignores_ties():
    test = sign_test([1, 1, 1, 5, 2, NEVER, NEVER], [2, 2, 2, 4, 2, NEVER, 1])
    assert (test.wins, test.losses, test.ties) == (3, 2, 2)
    assert test.p == pytest.approx(1.0)
    assert test.noise


def test_a_sign_test_is_two_sided_and_exact():
    assert sign_test([0] * 6, [1] * 6).p == pytest.approx(2 * 0.5**6)
    assert sign_test([1] * 6, [0] * 6).p == pytest.approx(2 * 0.5**6)
    assert not sign_test([0] * 6, [1] * 6).noise
    assert sign_test([0] * 5, [1] * 5).noise  # five of five are not enough
    assert sign_test([], []).p == 1.0


def test_differences_within_the_tolerance_are_ties():
    assert sign_test([1.0, 1.0], [1.0 + 1e-12, 2.0], [1e-9, 1e-9]).ties == 1
    assert sign_test([1.0], [1.5], 1.0).ties == 1


def test_p_values_are_corrected_for_multiple_testing():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0.0, 1.0), max_size=10))
def test_adjusted_p_values_are_never_smaller_and_keep_their_order(values):
    adjusted = holm(values)
    assert all(a >= p and a <= 1.0 for a, p in zip(adjusted, values, strict=True))
    order = sorted(range(len(values)), key=values.__getitem__)
    assert all(adjusted[i] <= adjusted[j] for i, j in itertools.pairwise(order))
