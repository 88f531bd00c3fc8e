"""A search for unconstrained problems, made to keep the cardinality: penalty, repair, polish."""

from __future__ import annotations

import abc
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import dimod
import numpy as np

from problems import BlockProblem
from problems.forms import StateArray
from problems.penalty import KINDS, penalty
from solvers.base import Capabilities, Estimate, Outcome, Solver
from solvers.errors import OptionError, SolverError
from solvers.local.repair import polish, repair, single_state
from solvers.run import Run

LARGEST = 10_000
"""Most variables: a BQM of a dense problem of this size takes about 2 GB while it is built."""

KEPT = 100
"""At most so many different rows of one call to a sampler are repaired and polished, the best ones."""

_GRACE = 0.01  # seconds of polishing after the end of a run: half the tolerance of a time limit


@dataclass(frozen=True)
class Penalised(Solver):
    """What all solvers with penalties have in common; a subclass says how its toolkit samples a BQM.

    Args:
        penalty: the strength P of the penalty P (ones - cardinality)^2 of each group: a number, "sufficient" (the
            smallest that the proof in :mod:`problems.penalty` gives) or "measured" (smaller, which all samplers like
            better; the few rows that break the cardinality are repaired, and where all do, the search begins
            again with the sufficient one).
        polish: whether to descend by swaps from every row.
    """

    patience: ClassVar[int] = 1
    """Rows after which a search without a feasible one begins again with the sufficient penalty."""

    penalty: float | str = "measured"
    polish: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.penalty, str):
            if self.penalty not in KINDS:
                raise OptionError(f"penalty {self.penalty!r} must be a number, 'sufficient' or 'measured'")
        elif isinstance(self.penalty, bool) or not 0.0 <= self.penalty < math.inf:
            raise OptionError(f"penalty {self.penalty!r} must be a finite number of at least 0")
        if not isinstance(self.polish, bool):
            raise OptionError(f"polish {self.polish!r} must be true or false")

    @property
    def capabilities(self) -> Capabilities:
        """Up to `LARGEST` variables; low-rank problems are made dense."""
        return Capabilities(max_variables=LARGEST, native_cardinality=False, low_rank=False)

    @abc.abstractmethod
    def _samples(self, problem: BlockProblem, bqm: dimod.BinaryQuadraticModel, run: Run) -> Iterator[StateArray]:
        """States of the sampler [s, n], feasible or not, as they come; the search ends where they do."""

    def _warm_up(self, problem: BlockProblem) -> None:
        if self.polish:
            polish(BlockProblem(np.ones((3, 3)), cardinality=1), [1, 0, 0])

    def _search(self, problem: BlockProblem, run: Run) -> Outcome:
        only = single_state(problem)
        if only is not None:
            return Outcome(only, {"penalty": None, "rows": 0})
        found = [] if run.initial_states is None else [run.initial_states]
        rows = feasible = repaired = 0
        raw: float | None = None
        kinds = ["measured", "sufficient"] if self.penalty == "measured" else [self.penalty]
        while kinds:
            kind = kinds.pop(0)
            strength = penalty(problem, kind) if isinstance(kind, str) else float(kind)
            for states in self._samples(problem, problem.to_bqm(strength), run):
                kept = np.atleast_1d(problem.is_feasible(states))
                rows, feasible = rows + len(states), feasible + int(kept.sum())
                if kept.any():
                    raw = min(float(problem.energy(states[kept]).min()), math.inf if raw is None else raw)
                    run.record(raw)
                states, changed = repair(problem, most_promising(problem, states))
                repaired += changed
                if self.polish:
                    states = polish(problem, states, stop_after_grace(run))
                found.append(states)
                run.record(float(problem.energy(states).min()))
                if run.should_end() or (kinds and feasible == 0 and rows >= self.patience):
                    break
            if feasible > 0 or run.should_end():
                break
        if not found:
            raise SolverError(f"{self.backend} ended before its first answer; give it a longer time_limit")
        info = {"penalty": strength, "rows": rows}
        share = feasible / rows if rows else 0.0
        return Outcome(np.concatenate(found), info, repaired, {"energy": raw, "feasible": share})


def fitting(problem: BlockProblem, seconds: float, note: str = "") -> Estimate:
    """An estimate that does not fit beyond `LARGEST` variables."""
    if problem.n > LARGEST:
        return Estimate(math.inf, fits=False, note=f"n = {problem.n} is more than {LARGEST} variables")
    return Estimate(seconds, note=note)


def most_promising(problem: BlockProblem, states: StateArray) -> StateArray:
    """At most `KEPT` distinct rows: the closest to the demanded numbers of ones first, then by energy."""
    states = np.unique(states, axis=0)
    if len(states) <= KEPT:
        return states
    missed = np.abs(problem.constraint.counted(states) - problem.constraint.counts).sum(axis=1)
    return states[np.lexsort((problem.energy(states), missed))[:KEPT]]


def stop_after_grace(run: Run) -> Callable[[], bool]:
    """A stop for polishing: true when the run has ended, but not in the first `_GRACE` seconds from this call.

    So the samples of a sampler that used the whole time limit are still polished.
    """
    begun = time.perf_counter()
    return lambda: run.should_end() and time.perf_counter() - begun > _GRACE
