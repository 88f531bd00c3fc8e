"""
Write a solver
==============

A solver in thirty lines. The conformance checks test it, and it prunes a model.

An entry point in the pyproject.toml of your package gives it a backend name::

    [project.entry-points."hybrid_icbs.solvers"]
    hill-climber = "your_package:HillClimber"

It is then available as ``hybrid-icbs prune --backend "hill-climber?restarts=50"``.

Run it: python examples/bring_your_own_solver.py
"""

from dataclasses import dataclass
from typing import ClassVar

import matplotlib.pyplot as plt
import numpy as np

from hybrid_icbs import evaluate, prune
from hybrid_icbs.digits import digits_classifier, load_digits
from problems import BlockProblem
from solvers import Estimate, OptionError, Outcome, Run, Solver
from solvers.testing import conformance_checks


@dataclass(frozen=True)
class HillClimber(Solver):
    """Swap a random one with its best zero while that lowers the energy; restart from other states."""

    name: ClassVar[str] = "hill-climber"

    restarts: int = 20

    def __post_init__(self) -> None:
        if not isinstance(self.restarts, int) or self.restarts < 1:
            raise OptionError(f"restarts = {self.restarts!r} must be an integer of at least 1")

    def estimate(self, problem: BlockProblem) -> Estimate:
        return Estimate(seconds=1e-4 * self.restarts * problem.n, note="about one swap per variable and restart")

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
        groups = problem.constraint.groups  # one group for each N:M group; all zeros for a single cardinality
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
    accuracy = {}
    for solver in (HillClimber(restarts=2), "sa"):
        result = prune(model, calibration, density=0.05, backend=solver, steps=6, block_size=64, progress=False)
        accuracy[result.backend] = evaluate(result.model, test).accuracy
        print(f"{result.backend}: accuracy {accuracy[result.backend]:.2%}")

    figure, axes = plt.subplots(figsize=(7, 2), layout="constrained")
    axes.barh(list(accuracy), [100 * value for value in accuracy.values()])
    axes.set_xlabel("test accuracy after six blocks, %")
    plt.show()
