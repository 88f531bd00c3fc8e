"""Faulty solvers and a correct one, run by test_race.py in worker processes."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import ClassVar

import dimod
import numpy as np

from problems import BlockProblem
from solvers import Estimate, Outcome, Run, Solver, UnavailableError


@dataclass(frozen=True)
class Guess(Solver):
    """Random states; prints, as toolkits do."""

    name: ClassVar[str] = "guess"

    count: int = 20
    threads: int | None = None

    def estimate(self, problem: BlockProblem) -> Estimate:
        return Estimate(0.0)

    def _search(self, problem: BlockProblem, run: Run) -> Outcome:
        print("thinking about it")
        os.write(1, b"on the file descriptor too\n")
        states = problem.random_states(self.count, run.generator())
        info = {
            "affinity": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            "variables": {name: value for name, value in os.environ.items() if name.endswith("_NUM_THREADS")},
        }
        if problem.n > 6:  # not the warm-up
            print(info, file=sys.stderr)
        return Outcome(states, info)


@dataclass(frozen=True)
class Dies(Guess):
    """Ends its process with the second seed, by a signal."""

    name: ClassVar[str] = "dies"

    def _search(self, problem: BlockProblem, run: Run) -> Outcome:
        if run.seed == 1:
            os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(60)
        return super()._search(problem, run)


@dataclass(frozen=True)
class Endless(Guess):
    """Does not end with the second seed, whatever its time limit."""

    name: ClassVar[str] = "endless"

    def _search(self, problem: BlockProblem, run: Run) -> Outcome:
        while run.seed == 1:
            time.sleep(1)
        return super()._search(problem, run)


@dataclass(frozen=True)
class Raises(Guess):
    """Raises with the second seed."""

    name: ClassVar[str] = "raises"

    def _search(self, problem: BlockProblem, run: Run) -> Outcome:
        if run.seed == 1:
            raise ZeroDivisionError("an unexpected error")
        return super()._search(problem, run)


@dataclass(frozen=True)
class Cheats(Guess):
    """Returns infeasible states and claims very low energies."""

    name: ClassVar[str] = "cheats"

    feasible: bool = False

    def solve(self, problem, **settings):
        states = np.ones((3, problem.n), np.int8)
        if self.feasible:
            states[2] = problem.random_states(1, settings["seed"])[0]
        # Samplers may return labels in any order, spins, and their own energies.
        answer = dimod.SampleSet.from_samples((states[:, ::-1], range(problem.n)[::-1]), "BINARY", energy=[-1e9] * 3)
        answer.info.update(incumbents=[[0.0, -1e9]], timing={"solve": 0.01}, ended_by="work")
        return answer.change_vartype("SPIN", inplace=False)


@dataclass(frozen=True)
class NotHere(Guess):
    """Cannot be created in another process."""

    name: ClassVar[str] = "not-here"

    def __post_init__(self) -> None:
        if os.environ.get("OMP_NUM_THREADS") == "1" and "solvers.comparison.racing.worker" in sys.orig_argv:
            raise ImportError("its library is missing here")


@dataclass(frozen=True)
class Lacks(Guess):
    """Is unavailable in another process."""

    name: ClassVar[str] = "lacks"

    def __post_init__(self) -> None:
        if "solvers.comparison.racing.worker" in sys.orig_argv:
            raise UnavailableError("its licence is taken here")
