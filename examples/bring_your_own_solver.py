"""A solver of your own, in about thirty lines: it prunes a model, and the kit of tests says whether it is sound.

To give it a name for every user, put this into the pyproject.toml of your package:

    [project.entry-points."hybrid_icbs.solvers"]
    hill-climber = "your_package:HillClimber"

and then: hybrid-icbs prune --backend "hill-climber?restarts=50" ...

Run it: python examples/bring_your_own_solver.py
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hybrid_icbs import evaluate, prune
from hybrid_icbs.digits import digits_classifier, load_digits
from problems import BlockProblem
from solvers import Estimate, OptionError, Outcome, Run, Solver
from solvers.testing import conformance_checks


@dataclass(frozen=True)
class HillClimber(Solver):
    """Swap a random one with the best zero as long as that helps; begin again from another state."""

    name: ClassVar[str] = "hill-climber"

    restarts: int = 20

    def __post_init__(self) -> None:
        if not isinstance(self.restarts, int) or self.restarts < 1:
            raise OptionError(f"restarts {self.restarts!r} must be a whole number of at least 1")

    def estimate(self, problem: BlockProblem) -> Estimate:
        return Estimate(seconds=1e-4 * self.restarts * problem.n, note="about one swap a variable and restart")

    def _search(self, problem: BlockProblem, run: Run) -> Outcome:
        rng = run.generator()
        states = problem.random_states(self.restarts, rng)
        if run.initial_states is not None:
            states = np.concatenate([run.initial_states, states])
        for x in states:
            self._climb(problem, x, run, rng)
            run.record(problem.energy(x))
        return Outcome(states)

    def _climb(self, problem: BlockProblem, x: np.ndarray, run: Run, rng: np.random.Generator) -> None:
        groups = problem.constraint.groups  # of N:M patterns; all zeros where there is one cardinality
        ones = list(rng.permutation(np.flatnonzero(x)))
        while ones and not run.should_end():
            one = ones.pop()
            zeros = np.flatnonzero((x == 0) & (groups == groups[one]))
            changes = problem.swap_change(x, one, zeros)
            if len(zeros) and changes.min() < -1e-12 * np.abs(changes).max():
                x[[one, zeros[changes.argmin()]]] = 0, 1
                ones = list(rng.permutation(np.flatnonzero(x)))


if __name__ == "__main__":
    for check in conformance_checks():
        print(f"{check}: {check(HillClimber) or 'passed'}")

    model, calibration, test = digits_classifier(), load_digits("train"), load_digits("test")
    for solver in (HillClimber(restarts=2), "sa"):
        result = prune(model, calibration, density=0.05, backend=solver, steps=6, block_size=64, progress=False)
        print(f"{result.backend}: accuracy {evaluate(result.model, test).accuracy:.2%}")
