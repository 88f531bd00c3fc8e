"""Row problems: reported errors are exact, and answers on small rows are mostly the best of all states."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from problems import BlockProblem, SharedMatrix
from solvers import OptionError
from solvers.rows import elimination_costs, grow_rows, solve_refitted_rows, solve_rows

some = settings(max_examples=30, deadline=None, derandomize=True)


def layer(seed: int, d: int, rows: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """A curvature of correlated inputs [d, d] and weights [rows, d]."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((2 * d, d)) @ rng.standard_normal((d, d))
    H = X.T @ X / (2 * d * d)
    return (H + H.T) / 2 + 0.01 * np.eye(d), rng.standard_normal((rows, d))


def refitted(H: np.ndarray, w: np.ndarray, x: np.ndarray) -> tuple[float, np.ndarray]:
    """The least error with x pruned, by the normal equations, and its weights."""
    kept = np.flatnonzero(x == 0)
    v = np.zeros(len(w))
    v[kept] = np.linalg.solve(H[np.ix_(kept, kept)], (H @ w)[kept])
    return float((v - w) @ H @ (v - w)), v


def states(d: int, k: int, group: int | None = None) -> np.ndarray:
    every = np.array(list(itertools.product((0, 1), repeat=d)), np.uint8)
    if group:
        return every[(every.reshape(len(every), -1, group).sum(2) == k).all(1)]
    return every[every.sum(1) == k]


# The refitted error


@some
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.data())
def test_refitted_errors_and_weights_are_those_of_the_normal_equations(seed: int, d: int, data: st.DataObject) -> None:
    H, W = layer(seed, d)
    counts = [data.draw(st.integers(0, d)) for _ in W]
    X, V, errors = solve_refitted_rows(np.linalg.inv(H), W, np.zeros(W.shape), counts)
    assert X.sum(1).tolist() == counts
    for x, v, w, error in zip(X, V, W, errors, strict=True):
        expected, weights = refitted(H, w, x)
        assert error == pytest.approx(expected, rel=1e-7, abs=1e-9)
        assert np.allclose(v, weights, rtol=1e-7, atol=1e-8)
        assert not v[x == 1].any()


@some
@given(st.integers(0, 2**32 - 1), st.sampled_from([None, 4]))
def test_no_swap_lowers_the_refitted_error_of_an_answer(seed: int, group: int | None) -> None:
    H, W = layer(seed, 8)
    X, _, errors = solve_refitted_rows(
        np.linalg.inv(H), W, np.zeros(W.shape), 4, group=group, most=2 if group else 0
    )  # fmt: skip
    allowed = states(8, 2 if group else 4, group)
    for x, w, error in zip(X, W, errors, strict=True):
        assert (allowed == x).all(1).any()
        near = allowed[np.abs(allowed.astype(int) - x).sum(1) == 2]
        assert min(refitted(H, w, y)[0] for y in near) >= error * (1 - 1e-7)


def test_most_answers_on_small_rows_are_the_best_of_all_states() -> None:
    H, W = layer(5, 9, rows=40)
    _, _, errors = solve_refitted_rows(np.linalg.inv(H), W, np.zeros(W.shape), 5)
    best = [min(refitted(H, w, x)[0] for x in states(9, 5)) for w in W]
    assert np.isclose(errors, best, rtol=1e-7).mean() > 0.7
    assert errors.sum() < 1.1 * sum(best)


def test_swaps_improve_the_greedy_answer_and_a_start_is_kept() -> None:
    H, W = layer(6, 40, rows=10)
    inverse, none = np.linalg.inv(H), np.zeros((10, 40))
    start, _, greedy = solve_refitted_rows(inverse, W, none, 20, swaps=0)
    _, _, better = solve_refitted_rows(inverse, W, none, 20)
    again, _, same = solve_refitted_rows(inverse, W, start, 20, swaps=0)
    assert np.all(better <= greedy * (1 + 1e-9))
    assert better.sum() < greedy.sum()
    assert np.array_equal(again, start)
    assert np.allclose(same, greedy, rtol=1e-6)


@some
@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_elimination_costs_add_up_to_the_refitted_errors(seed: int, d: int) -> None:
    H, W = layer(seed, d)
    order, costs = elimination_costs(np.linalg.inv(H), W, d)
    for w, sequence, cost in zip(W, order, costs, strict=True):
        assert sorted(sequence.tolist()) == list(range(d))
        for pruned in range(d + 1):
            x = np.zeros(d)
            x[sequence[:pruned]] = 1
            assert cost[:pruned].sum() == pytest.approx(refitted(H, w, x)[0], rel=1e-6, abs=1e-8)


# The error without refitting


@some
@given(st.integers(0, 2**32 - 1), st.sampled_from([None, 4]))
def test_answers_have_the_energy_of_the_scaled_block_problem(seed: int, group: int | None) -> None:
    H, W = layer(seed, 8)
    start = np.tile([1, 1, 0, 0, 0, 1, 1, 0], (len(W), 1))
    X, energies = solve_rows(H, W, start, group=group, seed=1)
    shared = SharedMatrix.of(H)
    for x, w, energy, begun in zip(X, W, energies, start, strict=True):
        problem = BlockProblem.scaled(
            shared, w, cardinality=2 if group else 4, groups=np.arange(8) // 4 if group else None
        )  # fmt: skip
        assert problem.is_feasible(x)
        assert energy == pytest.approx(problem.energy(x), rel=1e-10)
        assert energy <= problem.energy(begun) * (1 + 1e-12)


def test_a_search_ends_if_the_best_energy_is_below_the_rounding_of_others() -> None:
    # One weight of almost no cost is pruned. Energies updated step by step lose more than this cost to rounding, so
    # the same state can look better each time the search returns to it.
    for seed in range(8):
        rng = np.random.default_rng(seed)
        X = rng.standard_normal((32, 16)) @ rng.standard_normal((16, 16))
        B = X.T @ X / 512
        B = (B + B.T) / 2 + 0.3 * np.eye(16) * np.trace(B) / 16
        w, x = 0.4 * rng.standard_normal((1, 16)), np.zeros((1, 16))
        w[0, 7], x[0, 7] = -7e-4, 1
        found, _ = solve_rows(B, w, x, seed=0)
        assert np.array_equal(found, x)


def test_small_rows_are_solved_to_the_best_of_all_states() -> None:
    H, W = layer(7, 10, rows=30)
    start = np.tile([1, 0] * 5, (30, 1))
    _, energies = solve_rows(H, W, start, seed=0)
    best = [min((x * w) @ H @ (x * w) for x in states(10, 5)) for w in W]
    assert np.isclose(energies, best, rtol=1e-9).mean() > 0.9


@some
@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_growing_adds_the_cheapest_variable_and_reports_its_cost(seed: int, d: int) -> None:
    B, W = layer(seed, d)
    _, order, costs = grow_rows(B, W, np.zeros(W.shape), d, record=True)
    for w, sequence, cost in zip(W, order, costs, strict=True):
        problem = BlockProblem.scaled(B, w, cardinality=0)
        x = np.zeros(d, int)
        for variable, price in zip(sequence, cost, strict=True):
            changes = problem.flip_changes(x)[x == 0]
            assert price == pytest.approx(changes.min(), rel=1e-8, abs=1e-9)
            x[variable] = 1


def test_growing_keeps_the_limit_of_each_group() -> None:
    B, W = layer(8, 12)
    X, _, _ = grow_rows(B, W, np.zeros(W.shape), 6, group=4, most=2)
    assert (X.reshape(-1, 3, 4).sum(2) == 2).all()


# Both errors


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_answers_depend_on_the_seed_and_not_on_the_threads(threads: int) -> None:
    H, W = layer(9, 48, rows=33)
    start = np.tile([1, 0], (33, 24))
    one, other = solve_rows(H, W, start, seed=3, threads=1), solve_rows(H, W, start, seed=3, threads=threads)
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    inverse = np.linalg.inv(H)
    one_refit = solve_refitted_rows(inverse, W, np.zeros(W.shape), 24, threads=1)
    other_refit = solve_refitted_rows(inverse, W, np.zeros(W.shape), 24, threads=threads)
    assert all(np.array_equal(a, b) for a, b in zip(one_refit, other_refit, strict=True))


def test_arguments_are_not_modified() -> None:
    H, W = layer(10, 8)
    start = np.tile([1, 0], (4, 4)).astype(np.uint8)
    kept = start.copy()
    solve_rows(H, W, start)
    solve_refitted_rows(np.linalg.inv(H), W, start, 6)
    assert np.array_equal(start, kept)


def test_invalid_arguments_are_refused() -> None:
    H, W = layer(11, 8)
    with pytest.raises(OptionError, match=r"square"):
        solve_rows(H[:4], W, np.zeros(W.shape))
    with pytest.raises(OptionError, match=r"rows \[4, 8\] and states \[4, 7\]"):
        solve_rows(H, W, np.zeros((4, 7)))
    with pytest.raises(OptionError, match="groups of 3 do not divide rows of 8"):
        solve_rows(H, W, np.zeros(W.shape), group=3)
    with pytest.raises(OptionError, match="row 1 must have 9 ones; it starts with 0 and has room for 8"):
        solve_refitted_rows(H, W, np.zeros(W.shape), [2, 9, 2, 2])
    with pytest.raises(OptionError, match="starts with 8 and has room"):
        grow_rows(H, W, np.ones(W.shape), 2)
    with pytest.raises(OptionError, match="finite numbers"):
        elimination_costs(np.full((8, 8), np.nan), W, 2)
    with pytest.raises(OptionError, match="raise the damping"):
        elimination_costs(-H, W, 2)
