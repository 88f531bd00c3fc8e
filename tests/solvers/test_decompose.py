"""Large blocks are solved by sub-blocks, with whatever solver takes only small ones."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from problems import BlockProblem
from solvers import Capabilities, Decompose, Estimate, OptionError, Outcome, Solver, get_solver, solve
from solvers.decompose import sub_block
from solvers.exact import Exact
from solvers.local.repair import polish

ASKED: list[BlockProblem] = []


@dataclass(frozen=True)
class Tiny(Solver):
    """Takes ten variables at most, and remembers what it was asked."""

    name: ClassVar[str] = "tiny"

    @property
    def capabilities(self):
        return Capabilities(max_variables=10, deterministic=False)

    def estimate(self, problem):
        return Estimate(0.01, charge_seconds=2.0)

    def _search(self, problem, run):
        ASKED.append(problem)
        assert run.initial_states is not None
        return Outcome(Exact().solve(problem, seed=0, initial_states=run.initial_states).record.sample)


def random_problem(n, k, seed=0, **options):
    rng = np.random.default_rng(seed)
    return BlockProblem.low_rank(rng.normal(size=(n, 12)), rng.normal(size=n), k, **options)


@pytest.fixture(autouse=True)
def nothing_asked_yet():
    ASKED.clear()


def test_no_sub_block_is_larger_than_the_solver_takes():
    problem = random_problem(50, 20)
    answer = Decompose(Tiny(), rounds=15).solve(problem, seed=0)
    assert problem.is_feasible(answer.record.sample).all()
    assert [sub.n for sub in ASKED] == [10] * 15
    assert answer.info["rounds"] == 15
    assert answer.info["backend"] == "decompose(tiny)"


def test_sub_blocks_improve_on_a_descent_and_differ():
    problem = random_problem(120, 60, seed=1)
    start = problem.random_states(1, 0)
    answer = Decompose(Tiny(), rounds=40).solve(problem, seed=0, initial_states=start)
    assert answer.first.energy < problem.energy(polish(problem, start))[0]
    assert answer.info["improved"] > 0
    assert len({tuple(sub.single_energies) for sub in ASKED}) > 30


def test_a_block_of_thirty_reaches_its_proven_optimum():
    problem = random_problem(30, 15, seed=2)
    answer = Decompose("exact", size=16, rounds=60).solve(problem, seed=0)
    assert answer.first.energy == pytest.approx(Exact().solve(problem).first.energy)


def test_groups_keep_their_numbers():
    problem = random_problem(80, np.full(20, 2), groups=np.arange(80) // 4)
    answer = Decompose("exact", size=12, rounds=20).solve(problem, seed=0)
    assert problem.is_feasible(answer.record.sample).all()
    assert answer.info["rounds"] == 20


def test_a_block_that_fits_is_solved_whole():
    problem = random_problem(9, 4)
    answer = Decompose(Tiny()).solve(problem, seed=0, initial_states=problem.random_states(1, 0))
    assert [sub.n for sub in ASKED] == [9]
    assert answer.first.energy == pytest.approx(Exact().solve(problem).first.energy)


@given(
    n=st.integers(3, 40), size=st.integers(2, 20), seed=st.integers(0, 2**32 - 1), groups=st.integers(1, 8)
)  # fmt: skip
@settings(max_examples=80, deadline=None, derandomize=True)
def test_a_sub_block_can_be_swapped_within(n, size, seed, groups):
    rng = np.random.default_rng(seed)
    group = rng.integers(0, groups, n)
    sizes = np.bincount(group, minlength=groups)
    counts = [int(rng.integers(0, m + 1)) for m in sizes]
    problem = BlockProblem(rng.normal(size=(n, n)), rng.normal(size=n), counts, groups=group)
    x = problem.random_states(1, 0)[0]
    chosen = sub_block(problem, x, size, 0.1, rng)
    assert len(set(chosen.tolist())) == len(chosen) <= max(size, 2)
    free = [g for g in range(groups) if 0 < counts[g] < sizes[g]]
    if free:
        sub = problem.restrict(chosen, x)
        assert np.any((sub.constraint.counts > 0) & (sub.constraint.counts < sub.constraint.sizes))


def test_the_text_form_names_the_inner_solver_and_the_size():
    solver = get_solver("decompose?solver=exact&size=8&rounds=3")
    assert solver == Decompose(Exact(), 8, 3)
    assert solver.size == 8
    assert Decompose("exact").size == Exact().capabilities.best_variables
    assert Decompose(Tiny()).size == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"solver": Tiny(), "size": 11}, "size 11 is more than the 10 variables of tiny"),
        ({"solver": "exact", "size": 1}, "size 1 must be"),
        ({"solver": "exact", "rounds": 0}, "rounds 0 must be"),
        ({"solver": "exakt"}, "did you mean 'exact'"),
        ({"solver": Decompose("exact")}, "takes blocks of any size; give size="),
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(OptionError, match=message):
        Decompose(**arguments)


def test_the_refusal_of_a_large_problem_points_here():
    problem = random_problem(300, 100)
    with pytest.raises(RuntimeError, match=r"at most 256 variables, the problem has 300; .*Decompose"):
        solve(problem, "exact")
    assert len(solve(problem, "decompose?solver=exact&rounds=2", seed=0)) == 1


def test_the_estimate_adds_up():
    estimate = Decompose(Tiny(), rounds=7).estimate(random_problem(100, 50))
    assert estimate.charge_seconds == 14.0
    assert estimate.seconds >= 0.07


def test_what_the_inner_solver_promises_is_promised_on():
    assert not Decompose(Tiny()).capabilities.deterministic
    assert Decompose("exact").capabilities.deterministic
    assert Decompose("exact").capabilities.max_variables is None


def test_a_block_of_one_feasible_state_is_no_work():
    assert Decompose(Tiny()).solve(random_problem(50, 50), seed=0).first.energy == random_problem(50, 50).energy(
        [1] * 50
    )
    assert not ASKED


def test_ctrl_c_in_the_midst_of_a_sub_block_ends_the_whole():
    @dataclass(frozen=True)
    class Interrupted(Tiny):
        def _search(self, problem, run):
            os.kill(os.getpid(), signal.SIGINT)
            return super()._search(problem, run)

    answer = Decompose(Interrupted(), rounds=50).solve(random_problem(50, 20), seed=0)
    assert answer.info["ended_by"] == "interrupt"
    assert answer.info["rounds"] == 1
