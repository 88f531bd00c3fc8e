"""Every solver of ours keeps the contract, and the kit that says so can fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from problems import BlockProblem
from solvers import Estimate, Outcome, Run, Solver, SolverError, get_solver
from solvers.testing import conformance_checks

BACKENDS = [
    "sa",
    "tabu",
    "exact",
    "exact?method=branch",
    "ocean-sa?num_sweeps=100",
    "ocean-tabu?num_restarts=2",
    "dimod:dwave.samplers.SteepestDescentSolver?num_reads=50",
    "qaoa?reps=1&mixer=xy-ring&sampler=statevector&shots=100&starts=1",
    "decompose?solver=exact&size=8",
    "decompose?solver=ocean-sa&size=20&rounds=5",
    "portfolio?solvers=sa+exact",
    "portfolio?solvers=tabu+exact&at_once=true",
]


@pytest.mark.parametrize("check", conformance_checks(), ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_solver_keeps_the_contract(backend, check):
    reason = check(lambda: get_solver(backend))
    if reason is not None:
        pytest.skip(reason)


# Solvers that break one promise each. The kit must notice, or passing it would mean nothing.


@dataclass(frozen=True)
class Greedy(Solver):
    """The cheapest variables by themselves, whatever their couplings."""

    name: ClassVar[str] = "greedy"

    def estimate(self, problem: BlockProblem) -> Estimate:
        return Estimate(1e-3)

    def _search(self, problem: BlockProblem, run: Run) -> Outcome:
        run.should_end()
        state = np.zeros(problem.n, np.int8)
        for g, members in enumerate(problem.constraint.members()):
            state[members[np.argsort(problem.single_energies[members])[: problem.constraint.counts[g]]]] = 1
        return Outcome(state[None])


@dataclass(frozen=True)
class Infeasible(Greedy):
    """All zeros, always."""

    def _search(self, problem: BlockProblem, run: Run) -> Outcome:
        return Outcome(np.zeros((1, problem.n), np.int8))


@dataclass(frozen=True)
class Forgetful(Greedy):
    """A random state, from a seed of its own."""

    def _search(self, problem: BlockProblem, run: Run) -> Outcome:
        return Outcome(problem.random_states(1))


@dataclass(frozen=True)
class Deaf(Greedy):
    """Never asks whether to end."""

    def _search(self, problem: BlockProblem, run: Run) -> Outcome:
        return Outcome(problem.random_states(1, 0))


@dataclass(frozen=True)
class Careless(Greedy):
    """Takes what it is given, and adds what JSON cannot hold to the record."""

    def _run(self, problem, seed, time_limit, target, initial_states, stop):  # type: ignore[no-untyped-def]
        return Run(seed or 0, None, target, None, stop)

    def _search(self, problem: BlockProblem, run: Run) -> Outcome:
        return Outcome(problem.random_states(1, run.seed), {"solver": self})


@dataclass
class Mutable:
    """Settings that can be changed under way."""

    sweeps: int = 1
    name: ClassVar[str] = "mutable"

    @property
    def backend(self) -> str:
        return self.name


@pytest.mark.parametrize(
    ("make", "promise", "complaint"),
    [
        (Greedy, "finds the optimum of small problems", "the optimum of"),
        (Deaf, "starts from initial states and never ends above them", "started from energy"),
        (Infeasible, "answers with feasible states for every cardinality", "infeasible"),
        (Forgetful, "repeats itself with the same seed", "two runs with one seed differ"),
        (Deaf, "ends when told to stop", "told to stop, ended by 'work'"),
        (Deaf, "ends at a target", "the optimum of"),
        (Careless, "leaves a complete record that JSON can hold", "JSON cannot hold"),
        (Careless, "refuses what makes no sense", "not in an error that explains itself"),
        (Mutable, "is immutable and shows its settings", "can be assigned"),
    ],
)
def test_the_kit_notices_a_broken_promise(make, promise, complaint):
    check = next(check for check in conformance_checks() if str(check) == promise)
    with pytest.raises((AssertionError, SolverError), match=complaint):
        check(make)


def test_a_solver_that_is_not_available_is_not_searched_with():
    @dataclass(frozen=True)
    class Absent(Infeasible):
        @classmethod
        def available(cls):
            from solvers import Availability

            return Availability(False, "its toolkit is not installed; pip install toolkit")

    for check in conformance_checks()[3:]:
        assert "not available" in check(Absent)
