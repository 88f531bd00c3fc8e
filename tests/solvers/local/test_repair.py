"""Repair makes any state feasible, cheaply; polish ends where no swap helps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import solvers.local.repair
from problems import BlockProblem, ProblemError
from solvers.local.repair import polish, repair, single_state


@st.composite
def problems(draw):
    n = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    groups = rng.integers(0, 3, n) if draw(st.booleans()) else None
    sizes = [n] if groups is None else np.bincount(groups, minlength=3)
    counts = [int(rng.integers(0, size + 1)) for size in sizes]
    cardinality = counts[0] if groups is None else counts
    if draw(st.booleans()):
        A = rng.normal(size=(n, 3)).astype(draw(st.sampled_from([np.float32, np.float64])))
        return BlockProblem.low_rank(A, rng.normal(size=n), cardinality, groups=groups)
    return BlockProblem(rng.normal(size=(n, n)), rng.normal(size=n), cardinality, groups=groups)


@pytest.fixture(params=[4096, 0], ids=["as matrices", "as factors"])
def dense_up_to(request, monkeypatch):
    """The same promises hold for the path that large low-rank problems take."""
    monkeypatch.setattr(solvers.local.repair, "DENSE_UP_TO", request.param)


@given(problem=problems(), seed=st.integers(0, 2**32 - 1), up_to=st.sampled_from([4096, 0]))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_repaired_states_are_feasible_and_feasible_ones_untouched(problem, seed, up_to):
    states = np.random.default_rng(seed).integers(0, 2, (5, problem.n)).astype(np.int8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solvers.local.repair, "DENSE_UP_TO", up_to)
        repaired, count = repair(problem, states)
    was_feasible = problem.is_feasible(states)
    assert problem.is_feasible(repaired).all()
    assert np.array_equal(repaired[was_feasible], states[was_feasible])
    assert count == np.count_nonzero(~was_feasible)


@given(problem=problems(), up_to=st.sampled_from([4096, 0]))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_polished_states_are_feasible_local_optima(problem, up_to):
    states = problem.random_states(3, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solvers.local.repair, "DENSE_UP_TO", up_to)
        polished = polish(problem, states)
    size = np.abs(problem.form.dense()).sum() + np.abs(problem.single_energies).sum()
    assert problem.is_feasible(polished).all()
    assert np.all(problem.energy(polished) <= problem.energy(states) + 1e-12 * size)
    for x in polished:
        for i in np.flatnonzero(x == 1):
            partners = np.flatnonzero((x == 0) & (problem.constraint.groups == problem.constraint.groups[i]))
            if len(partners):
                assert np.min(problem.swap_change(x, i, partners)) >= -1e-10 * size


def test_the_cheapest_variable_is_flipped_first():
    # Energies alone: 0 is cheapest, but it repels 1; so after 0 comes 2.
    problem = BlockProblem([[0, 4, 0], [4, 0, 0], [0, 0, 0]], [-3.0, -2.0, -1.0], cardinality=2)
    assert repair(problem, [0, 0, 0])[0].tolist() == [[1, 0, 1]]
    # From all ones, 0 and 1 cost most together, and 1 is worth less.
    assert repair(problem, [1, 1, 1])[0].tolist() == [[1, 0, 1]]


@pytest.mark.usefixtures("dense_up_to")
def test_a_greedy_start_beats_random_states():
    rng = np.random.default_rng(1)
    problem = BlockProblem.low_rank(rng.normal(size=(200, 20)), rng.normal(size=200), 100)
    greedy, changed = repair(problem, np.zeros((1, 200)))
    assert changed == 1
    assert problem.energy(greedy[0]) < problem.energy(problem.random_states(100, 0)).min()


def test_the_callers_states_stay_as_they_are():
    problem = BlockProblem(np.eye(4), cardinality=2)
    states = np.ones((2, 4), np.int8)
    repaired, _ = repair(problem, states)
    polish(problem, repaired)
    assert states.all()


def test_polish_ends_when_told():
    problem = BlockProblem(np.random.default_rng(0).normal(size=(30, 30)), cardinality=15)
    states = problem.random_states(3, 0)
    assert np.array_equal(polish(problem, states, lambda: True), states)


def test_states_of_another_size_are_refused():
    problem = BlockProblem(np.eye(4), cardinality=2)
    for function in (repair, polish):
        with pytest.raises(ProblemError, match="states have shape"):
            function(problem, np.zeros((2, 5)))


def test_the_only_feasible_state_is_known():
    assert single_state(BlockProblem(np.eye(3), cardinality=3)).tolist() == [[1, 1, 1]]
    assert single_state(BlockProblem(np.eye(4), cardinality=[2, 0], groups=[0, 1, 0, 1])).tolist() == [[1, 0, 1, 0]]
    assert single_state(BlockProblem(np.eye(3), cardinality=2)) is None


@pytest.mark.parametrize("groups", [None, [0, 0, 0, 1, 1, 1, 1, 1]])
def test_a_repair_flips_the_cheapest_variable_of_the_present_state_each_time(groups):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        cardinality = 5 if groups is None else [2, 3]
        problem = BlockProblem(rng.normal(size=(8, 8)), rng.normal(size=8), cardinality, groups=groups)
        x = np.zeros(8, np.int8)
        while not problem.is_feasible(x):
            missing = problem.constraint.counts - problem.constraint.counted(x[None])[0]
            useful = np.flatnonzero((x == 0) & (missing[problem.constraint.groups] > 0))
            after = [problem.energy(np.where(np.arange(8) == i, 1, x)) for i in useful]
            x[useful[int(np.argmin(after))]] = 1
        assert np.array_equal(repair(problem, np.zeros(8))[0][0], x)
