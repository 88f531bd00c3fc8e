"""Blocks larger than a solver can take, by sub-blocks around the best state known."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from problems import BlockProblem
from problems.forms import Float64Array, StateArray
from solvers.base import Availability, Capabilities, Estimate, Outcome, Solver
from solvers.checks import at_least
from solvers.errors import OptionError, UnavailableError
from solvers.local.repair import polish, single_state
from solvers.registry import get_solver
from solvers.run import Run

_NOISE = 0.03  # of the fields' spread, and so much more for each failure in a row
_CYCLE = 4  # after this many failures in a row the noise is reset: too much of it finds little
_LEAST_ROUNDS = 20


@dataclass(frozen=True)
class Decompose(Solver):
    """Let a solver improve one sub-block after the other, the rest of the block held as it is in the best state.

    A sub-block holds the variables that a walk of greedy swaps from the best state goes through, on fields with some
    noise, more of it after a failure, so that no sub-block is tried forever. A round that lowers the energy is kept.

    Args:
        solver: the solver of the sub-blocks, or a backend's name.
        size: variables in a sub-block; None for what suits the solver, else for the largest it takes.
        rounds: sub-blocks to solve where there is no time limit; None for ten times as many as cover the block.

    Raises:
        OptionError: a size that the solver does not take, or none where the solver has no largest.

    Example:
        >>> Decompose("exact", size=20).backend
        'decompose(exact)'
    """

    name: ClassVar[str] = "decompose"

    solver: Solver | str = "exact"
    size: int | None = None
    rounds: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "solver", get_solver(self.solver))
        inner = self.inner.capabilities
        if self.size is None:
            size = inner.best_variables or inner.max_variables
            if size is None:
                raise OptionError(
                    f"{self.inner.backend} takes blocks of any size; give size= to decompose nevertheless"
                )
            object.__setattr__(self, "size", size)
        at_least(2, size=self.size)
        if inner.max_variables is not None and self._size > inner.max_variables:
            raise OptionError(
                f"size {self.size} is more than the {inner.max_variables} variables of {self.inner.backend}"
            )
        if self.rounds is not None:
            at_least(1, rounds=self.rounds)

    @property
    def inner(self) -> Solver:
        """The solver of the sub-blocks."""
        assert isinstance(self.solver, Solver)
        return self.solver

    @property
    def backend(self) -> str:
        """The name with the inner solver's."""
        return f"{self.name}({self.inner.backend})"

    @property
    def capabilities(self) -> Capabilities:
        """Any n; what else the inner solver promises."""
        inner = self.inner.capabilities
        return Capabilities(
            native_cardinality=inner.native_cardinality,
            groups=inner.groups,
            deterministic=inner.deterministic,
            remote=inner.remote,
            device=inner.device,
        )

    @property
    def _size(self) -> int:
        assert self.size is not None
        return self.size

    @classmethod
    def available(cls) -> Availability:
        """Always; whether the inner solver is shows when it is used."""
        return Availability(True)

    def estimate(self, problem: BlockProblem) -> Estimate:
        """So many rounds of the inner solver's estimate."""
        if problem.n <= self._size:
            return self.inner.estimate(problem)
        if single_state(problem) is not None:
            return Estimate(1e-3, note="only one state is feasible")
        x = problem.random_states(1, 0)[0]
        one = self.inner.estimate(problem.restrict(sub_block(problem, x, self._size, 1.0, np.random.default_rng(0)), x))
        rounds = self._rounds(problem)
        note = f"{rounds} sub-blocks of {self._size} variables" + (f"; {one.note}" if one.note else "")
        return Estimate(
            rounds * (one.seconds + 1e-3), rounds * one.charge_seconds, one.fits, note,
            rounds * one.upload_bytes, rounds * one.calls,
        )  # fmt: skip

    def _rounds(self, problem: BlockProblem) -> int:
        return self.rounds or max(_LEAST_ROUNDS, 10 * math.ceil(problem.n / self._size))

    def _warm_up(self, problem: BlockProblem) -> None:
        ready = self.inner.available()
        if not ready:
            raise UnavailableError(f"{self.inner.backend}: {ready.reason}")
        if single_state(problem) is not None:
            return
        x = problem.random_states(1, 0)[0]
        polish(BlockProblem(np.ones((3, 3)), cardinality=1), [1, 0, 0])
        first = np.arange(problem.n)
        if problem.n > self._size:
            first = sub_block(problem, x, self._size, 1.0, np.random.default_rng(0))
        self.inner._warm_up(problem.restrict(first, x))

    def _search(self, problem: BlockProblem, run: Run) -> Outcome:
        if problem.n <= self._size:
            answer = self._solve_inner(problem, run, run.initial_states, run.seed, run.time_limit)
            if answer.info["ended_by"] != "work":
                run.end(answer.info["ended_by"])
            return Outcome(_states(answer), {"rounds": 1, "improved": 1, "solver": self.inner.backend})
        only = single_state(problem)
        if only is not None:
            return Outcome(only, {"rounds": 0, "improved": 0, "solver": self.inner.backend})
        rng = run.generator()
        starts = problem.random_states(1, rng) if run.initial_states is None else run.initial_states
        best = starts[[int(np.argmin(problem.energy(starts)))]]
        best = polish(problem, best, run.should_end)[0]
        energy = float(problem.energy(best))
        run.record(energy)
        rounds = improved = failures = 0
        longest = 0.0
        while not run.should_end() and (run.time_limit is not None or rounds < self._rounds(problem)):
            chosen = sub_block(problem, best, self._size, _NOISE * (1 + failures % _CYCLE), rng)
            sub = problem.restrict(chosen, best)
            seed = int(rng.integers(2**31))
            # A solver that hears `stop` needs no limit, and one would make it use all of it. Where the time that is
            # left may not be enough it is handed on, for solvers that do not hear.
            longest = longest or self.inner.estimate(sub).seconds
            limit = run.remaining() if run.remaining() < 2.0 * longest else None
            if limit is not None and limit <= 0.0:
                continue
            begun = time.perf_counter()
            answer = self._solve_inner(sub, run, best[chosen][None], seed, limit)
            longest = max(longest if rounds else 0.0, time.perf_counter() - begun)
            rounds += 1
            candidate = best.copy()
            candidate[chosen] = _states(answer)[0]
            now = float(problem.energy(candidate))
            # Differences in the last digits are rounding, not progress.
            if now < energy - 1e-12 * abs(energy):
                best, energy, failures = candidate, now, 0
                improved += 1
                run.record(energy)
            else:
                failures += 1
        return Outcome(best[None], {"rounds": rounds, "improved": improved, "solver": self.inner.backend})

    def _solve_inner(
        self, problem: BlockProblem, run: Run, initial: StateArray | None, seed: int, limit: float | None
    ) -> Any:
        answer = self.inner.solve(
            problem, seed=seed, time_limit=limit, target=run.target, initial_states=initial, stop=run.should_end
        )
        run.queue += answer.info["timing"].get("queue", 0.0)
        if answer.info["ended_by"] == "interrupt":  # the inner solve has taken the signal for itself
            run.end("interrupt")
        return answer


def fitted(solver: Solver, problem: BlockProblem) -> Solver:
    """The solver itself where it takes a problem of this size, else :class:`Decompose` around it."""
    largest = solver.capabilities.max_variables
    return solver if largest is None or problem.n <= largest else Decompose(solver)


def _states(answer: Any) -> StateArray:
    return np.ascontiguousarray(answer.record.sample, np.int8)


def sub_block(
    problem: BlockProblem, x: StateArray, size: int, noise: float, rng: np.random.Generator
) -> npt.NDArray[np.intp]:
    """Variables [size, or fewer where fewer can be swapped] that a walk of swaps from x goes through.

    Each step swaps the pair that costs least by the fields, among variables that were not swapped yet; so the
    sub-block holds what belongs together: a good answer to it may take any part of the walk.

    Args:
        problem: the block problem, of more than `size` variables.
        x: the state around which to choose.
        size: how many variables.
        noise: standard deviation of what is added to each field, in standard deviations of the fields.
        rng: where it comes from.
    """
    groups, count = problem.constraint.groups, len(problem.constraint.counts)
    fields = problem.local_fields(x)
    fields += noise * float(fields.std()) * rng.standard_normal(problem.n)
    saved = np.where(x == 1, fields, -np.inf)  # what is infinite has been swapped, or cannot be swapped this way
    spent = np.where(x == 0, fields, np.inf)
    chosen: list[int] = []
    while len(chosen) + 2 <= size:
        cheapest = np.full(count, np.inf)
        np.minimum.at(cheapest, groups, spent)
        leaves = int(np.argmax(saved - cheapest[groups]))
        row = problem.form.row(leaves)
        comes = int(np.argmin(np.where(groups == groups[leaves], spent - 2.0 * row, np.inf)))
        if not np.isfinite(saved[leaves]) or not np.isfinite(spent[comes]):
            break
        chosen += [leaves, comes]
        change = 2.0 * (problem.form.row(comes) - row)
        saved, spent = saved + change, spent + change
        saved[leaves], spent[comes] = -np.inf, np.inf
    return np.concatenate([chosen, _companions(groups, fields, x, chosen, size - len(chosen))]).astype(np.intp)


def _companions(
    groups: npt.NDArray[np.int64], fields: Float64Array, x: StateArray, chosen: list[int], count: int
) -> npt.NDArray[np.intp]:
    """Up to `count` more variables, where ones or zeros ran short: those that may best be swapped with chosen ones."""
    useful = np.isin(groups, groups[chosen])
    useful[chosen] = False
    rest = np.flatnonzero(useful)
    wish = np.where(x[rest] == 1, -fields[rest], fields[rest])
    return rest[np.argsort(wish, kind="stable")[:count]]
