"""The exact solver proves optima, or reports the remaining gap."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from problems import BlockProblem
from solvers import OptionError, SolverError, get_solver
from solvers.exact import Exact
from solvers.exact.solver import feasible_states
from solvers.testing import optimum


def random_problem(n, k, seed=0, **options):
    rng = np.random.default_rng(seed)
    return BlockProblem(rng.normal(size=(n, n)), rng.normal(size=n), k, offset=1.5, **options)


@st.composite
def problems(draw):
    n = draw(st.integers(1, 10))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    Q = rng.normal(size=(n, n)) * rng.choice([0.0, 1.0, 1e3], size=n)
    if draw(st.booleans()):
        Q = np.round(Q)  # many states of equal energy
    if draw(st.booleans()):
        groups = rng.integers(0, 3, n)
        counts = [int(rng.integers(0, size + 1)) for size in np.bincount(groups, minlength=3)]
        return BlockProblem(Q, rng.normal(size=n), counts, groups=groups)
    return BlockProblem(Q, rng.normal(size=n), int(rng.integers(0, n + 1)))


@pytest.mark.parametrize("method", ["auto", "branch", "enumerate"])
@given(problem=problems())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_method_proves_the_optimum_of_brute_force(method, problem):
    if method == "enumerate" and problem.groups is not None:
        method = "branch"
    answer = Exact(method=method).solve(problem, seed=0)
    best = optimum(problem)
    size = np.abs(problem.form.dense()).sum() + np.abs(problem.single_energies).sum()
    assert answer.first.energy == pytest.approx(best, abs=1e-12 * size)
    assert answer.info["proven"]
    assert answer.info["gap"] == 0.0
    assert answer.info["lower_bound"] == answer.first.energy


def test_brute_force_over_twenty_variables_agrees():
    problem = random_problem(20, 10)
    states = np.zeros((math.comb(20, 10), 20), np.int8)
    for row, ones in enumerate(itertools.combinations(range(20), 10)):
        states[row, ones] = 1
    best = problem.energy(states).min()
    for method in ("branch", "enumerate"):
        assert Exact(method=method).solve(problem).first.energy == pytest.approx(best, rel=1e-12)


def test_enumeration_visits_every_state_once_and_keeps_the_best():
    problem = random_problem(12, 5)
    answer = Exact(method="enumerate").solve(problem)
    assert answer.info["visited"] == {"nodes": 0, "states": math.comb(12, 5)}
    states = np.array([x for x in itertools.product((0, 1), repeat=12) if sum(x) == 5], np.int8)
    assert answer.record.energy[:10] == pytest.approx(np.sort(problem.energy(states))[:10])


def test_groups_are_branched_on():
    groups = np.repeat(np.arange(6), 4)
    problem = random_problem(24, np.full(6, 2), groups=groups)
    answer = Exact().solve(problem, seed=0)
    assert answer.info["proven"]
    assert answer.info["method"] == "branch"
    # All combinations of two halves of the groups, whose energies are summed with the couplings between the halves.
    halves = [[sum(c, ()) for c in itertools.product(*_pairs(range(g, g + 3)))] for g in (0, 3)]
    left, right = (np.array([np.bincount(c, minlength=24) for c in half], np.int8) for half in halves)
    Q = problem.form.dense()
    energies = problem.energy(left)[:, None] + problem.energy(right) - problem.offset + 2.0 * (left @ Q @ right.T)
    assert answer.first.energy == pytest.approx(energies.min(), rel=1e-12)


def _pairs(groups):
    return [list(itertools.combinations(range(4 * g, 4 * g + 4), 2)) for g in groups]


@pytest.mark.parametrize(
    "problem", [random_problem(40, 20), random_problem(44, np.full(11, 2), groups=np.arange(44) // 4)]
)
def test_an_incomplete_proof_reports_its_gap(problem):
    cut_off = Exact(max_nodes=10).solve(problem, seed=0)
    assert not cut_off.info["proven"]
    assert cut_off.info["gap"] == pytest.approx(cut_off.first.energy - cut_off.info["lower_bound"])
    assert cut_off.info["gap"] > 0.0
    proven = Exact().solve(problem, seed=0)
    assert proven.info["proven"]
    assert cut_off.info["lower_bound"] <= proven.first.energy <= cut_off.first.energy
    assert cut_off.info["visited"]["nodes"] == 10


def test_the_bound_holds_wherever_the_tree_is_cut_off():
    problem = random_problem(14, 7, seed=3)
    best = optimum(problem)
    bounds = [
        Exact(max_nodes=nodes, method="branch").solve(problem, seed=0).info["lower_bound"] for nodes in (1, 5, 25, 125)
    ]
    assert all(bound <= best + 1e-12 * abs(best) for bound in bounds)
    assert bounds == sorted(bounds)


def test_a_stopped_enumeration_proves_nothing():
    problem = random_problem(30, 15)
    calls = iter(range(100))
    # stop is called before each of 22 descents, once before the enumeration, and before each of its pieces. They have
    # 100,000 states at first and at most four times as many each time, however fast the machine: call 27 comes after at
    # most 2.1 of 155 million states.
    answer = Exact(method="enumerate").solve(problem, seed=0, stop=lambda: next(calls) >= 26)
    assert answer.info["ended_by"] == "stop"
    assert not answer.info["proven"]
    assert 0 < answer.info["visited"]["states"] < feasible_states(problem)


def test_a_large_block_of_few_states_is_enumerated():
    problem = random_problem(60, 2)
    assert Exact(method="enumerate").solve(problem).info["visited"]["states"] == math.comb(60, 2)


def test_equal_energies_do_not_enlarge_the_tree():
    answer = Exact(method="branch").solve(BlockProblem(np.ones((40, 40)), cardinality=20))
    assert answer.info["proven"]
    assert answer.info["visited"]["nodes"] < 1000


def test_a_low_rank_problem_is_solved_as_its_matrix():
    A, c = np.random.default_rng(5).normal(size=(14, 3)), np.linspace(-1, 1, 14)
    low_rank = BlockProblem.low_rank(A.astype(np.float32), c, 6)
    assert Exact().solve(low_rank).first.energy == pytest.approx(Exact().solve(low_rank.to_dense()).first.energy)


def test_problems_too_large_to_enumerate_are_refused_with_the_number():
    with pytest.raises(SolverError, match=r"e\+\d+ feasible states; use method='auto'|has 1.38e\+11"):
        Exact(method="enumerate").solve(random_problem(40, 20))
    with pytest.raises(SolverError, match="groups"):
        Exact(method="enumerate").solve(random_problem(8, [1, 1], groups=np.arange(8) % 2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("exact?max_nodes=0", "max_nodes 0 must be"),
        ("exact?method=magic", "method 'magic' must be"),
        ("exact?nodes=5", "did you mean 'max_nodes'"),
        ("exact?max_nodes=many", "max_nodes='many' must be int"),
    ],
)
def test_invalid_settings_are_refused(text, message):
    with pytest.raises(OptionError, match=message):
        get_solver(text)


def test_the_estimate_grows_with_the_work():
    few, many = (Exact().estimate(random_problem(n, n // 2)).seconds for n in (20, 30))
    assert 0 < few < many < 20
    assert not Exact().estimate(BlockProblem.low_rank(np.ones((300, 1)), cardinality=3)).fits
