"""Kernels see every problem in a range that float32 can tell apart, and targets up to what rounding allows."""

from __future__ import annotations

import numpy as np
import pytest

from problems import BlockProblem, ProblemError, instances
from solvers import get_solver
from solvers.local.arrays import dense_arrays, factor_arrays
from solvers.testing import optimum


@pytest.mark.parametrize("backend", ["tabu", "sa"])
@pytest.mark.parametrize("form", ["dense", "low rank", "groups"])
def test_a_constant_in_the_linear_term_changes_no_answer(backend, form):
    rng = np.random.default_rng(0)
    n, linear = 60, rng.normal(size=60)
    counts = [8, 12, 6] if form == "groups" else 26
    groups = np.arange(n) % 3 if form == "groups" else None
    if form == "low rank":
        A = rng.normal(size=(n, 9))
        plain, moved = (BlockProblem.low_rank(A, linear + c, counts) for c in (0.0, 1e7))
    else:
        Q = rng.normal(size=(n, n))
        plain, moved = (BlockProblem(Q, linear + c, counts, groups=groups) for c in (0.0, 1e7))
    solver = get_solver(f"{backend}?threads=1")
    best = solver.solve(plain, seed=0).first.energy
    assert solver.solve(moved, seed=0).first.energy - 26 * 1e7 == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("groups", [None, [0] * 4 + [2] * 6])
def test_kernel_energies_are_those_of_the_problem(centred, groups):
    rng = np.random.default_rng(1)
    counts = 5 if groups is None else [2, 0, 3]
    A, linear = rng.normal(size=(10, 3)), 1e3 + rng.normal(size=10)
    low_rank = BlockProblem.low_rank(A, linear, counts, groups=groups, offset=2.0)
    for problem in (low_rank, low_rank.to_dense()):
        arrays = dense_arrays(problem, centred=centred)
        for x in problem.random_states(5, 0).astype(float):
            half = 0.5 * x @ arrays.matrix @ x + arrays.single @ x
            assert arrays.energy(half) == pytest.approx(problem.energy(x), rel=1e-6)
    arrays = factor_arrays(low_rank, centred=centred)
    for x in low_rank.random_states(5, 0).astype(float):
        half = 0.5 * np.square(arrays.factor.T @ x).sum() + arrays.linear @ x
        assert arrays.energy(half) == pytest.approx(low_rank.energy(x), rel=1e-6)


@pytest.mark.parametrize("form", ["dense", "dense float32", "low rank", "scaled"])
@pytest.mark.parametrize("groups", [None, [0, 1, 2] * 4])
def test_the_greedy_state_has_the_smallest_mean_fields_of_each_group(form, groups):
    rng = np.random.default_rng(2)
    counts = 5 if groups is None else [2, 0, 3]
    low_rank = BlockProblem.low_rank(rng.normal(size=(12, 3)), rng.normal(size=12), counts, groups=groups, offset=2.0)
    dtype = np.float32 if form == "dense float32" else np.float64
    problem = low_rank if form == "low rank" else low_rank.to_dense(dtype)
    if form == "scaled":
        problem = BlockProblem.scaled(
            problem.form.matrix, rng.uniform(0.5, 2.0, 12), problem.linear, counts, groups=groups
        )
    arrays = dense_arrays(problem)
    of = problem.constraint.groups
    shares = np.atleast_1d(counts)[of] / np.bincount(of)[of]
    matrix = problem.to_dense().form.matrix.astype(float)
    expected = problem.single_energies + 2.0 * (matrix - np.diag(np.diag(matrix))) @ shares
    np.testing.assert_allclose(arrays.mean_fields, expected, rtol=1e-4, atol=1e-4)
    state = arrays.greedy
    assert problem.is_feasible(state.astype(np.int8))
    for g in np.unique(of):
        here = expected[of == g]
        kept = state[of == g].astype(bool)
        if kept.any() and not kept.all():
            assert here[kept].max() <= here[~kept].min()


def test_linear_terms_at_the_end_of_float64_are_left_as_they_are():
    problem = BlockProblem(np.zeros((4, 4)), [1.7e308, -1.7e308, 0.0, 1.0], 1)
    assert get_solver("sa").solve(problem, seed=0).first.energy == -1.7e308


@pytest.mark.parametrize("backend", ["tabu", "sa"])
@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1e-40, 1e150])
def test_coefficients_of_any_size_are_taken(backend, scale):
    rng = np.random.default_rng(0)
    solver = get_solver(f"{backend}?threads=1")
    dense = BlockProblem(scale * rng.normal(size=(10, 10)), scale * rng.normal(size=10), 4)
    best = optimum(dense)
    assert solver.solve(dense, seed=0).first.energy <= best + 1e-9 * abs(best)
    low_rank = BlockProblem.low_rank(scale * rng.normal(size=(10, 3)), None, 4)
    best = optimum(low_rank)
    assert solver.solve(low_rank, seed=0).first.energy <= best + 1e-9 * abs(best)


def test_a_tiny_float32_factor_is_taken():
    A = np.full((8, 2), 1e-44, np.float32)
    arrays = factor_arrays(BlockProblem.low_rank(A, None, 4))
    assert np.all(arrays.factor == arrays.factor[0, 0])
    assert 0.25 <= arrays.factor[0, 0] <= 1.0


def test_a_factor_whose_matrix_would_be_infinite_is_refused():
    A = np.ones((5, 3))
    A[3] = 1e200
    with pytest.raises(ProblemError, match=r"A\[3\] has entries of up to 1e\+200.*scale A down"):
        BlockProblem.low_rank(A, None, 2)
    A[3] = 1e153
    assert BlockProblem.low_rank(A, None, 2).n == 5


@pytest.mark.parametrize("backend", ["tabu", "sa"])
def test_the_energy_of_a_known_state_is_recognised_as_a_target_though_its_terms_cancel(backend):
    for seed in range(16):
        rng = np.random.default_rng(seed)
        A = rng.normal(size=(24, 24))
        x = np.zeros(24, np.int8)
        x[rng.permutation(24)[:10]] = 1
        # |A^T (y - x)|^2 is 0 at x alone; in another order of sums x has an energy that differs in the last digits.
        residual = A[::-1].T @ x[::-1]
        problem = BlockProblem.low_rank(A, -2.0 * (A @ residual), 10, offset=float(residual @ residual))
        answer = get_solver(f"{backend}?threads=1").solve(problem, seed=seed, target=0.0)
        assert answer.info["ended_by"] == "target"
        assert abs(answer.first.energy) < 1e-10
        without = BlockProblem.low_rank(A, -2.0 * (A @ residual), 10)
        answer = get_solver(f"{backend}?threads=1").solve(without, seed=seed, target=without.energy(x))
        assert answer.info["ended_by"] == "target"


def test_a_target_that_is_truly_lower_is_not_said_to_be_reached():
    problem = instances.random(14, 7, seed=1)
    best = optimum(problem)
    for backend in ("tabu?offspring=20", "sa"):
        assert get_solver(backend).solve(problem, seed=0, target=best - 1e-8).info["ended_by"] == "work"


@pytest.mark.parametrize("groups", [None, [0, 1] * 30])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("form", ["dense", "low rank"])
def test_a_penalty_within_the_model_leaves_float32_the_digits_that_it_can(groups, whole, form):
    rng = np.random.default_rng(0)
    A, linear = rng.normal(size=(60, 100)), 50 * rng.normal(size=60)
    if whole:
        A, linear = np.rint(2 * A), np.rint(linear)
    counts = 20 if groups is None else np.array([12, 8])
    member = np.eye(1 if groups is None else 2)[groups or [0] * 60]
    penalty = 4.0**8
    plain = BlockProblem.low_rank(A, linear, counts, groups=groups)
    terms = linear - 2.0 * penalty * member @ np.atleast_1d(counts)
    own = BlockProblem.low_rank(np.hstack([A, 2.0**8 * member]), terms, counts, groups=groups)
    if form == "dense":
        plain, own = plain.to_dense(), own.to_dense()
    arrays = dense_arrays(own)
    for x in own.random_states(5, 1).astype(float):
        assert np.abs(arrays.single + arrays.matrix @ x).max() < 1.01 * penalty  # not 20 times that
    if whole:
        assert np.array_equal(2 * arrays.single, np.rint(2 * arrays.single))
    solver = get_solver("tabu?threads=1")
    best, found = (solver.solve(each, seed=0).first.energy for each in (plain, own))
    assert found == pytest.approx(best - penalty * np.square(counts).sum(), abs=1e-4)
