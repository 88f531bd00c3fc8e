"""One population of the memetic tabu search, with the arrays that its kernel keeps up."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from problems.forms import StateArray
from solvers.local.arrays import DenseArrays, UintArray, stream_of
from solvers.local.target import TargetWatch
from solvers.run import Pace

UNENDING = 1 << 60  # kernels multiply it by small numbers
"""Offspring of a search that only its time limit ends."""


@dataclass(frozen=True)
class Plan:
    """How much a population searches.

    Attributes:
        population: members.
        offspring: tabu searches in all, those of the first members among them.
        iterations: tabu steps without a better state that end each.
        patience: offspring in a row that do not enter, after which a population is replaced.
        turn: offspring after which a population is replaced in any case.
        least_swaps: least number of swaps by which an offspring differs from its parent; the other parent alone may
            give fewer.
    """

    population: int
    offspring: int
    iterations: int
    patience: int
    turn: int = UNENDING
    least_swaps: int = 15


class Population:
    """A population under way.

    Args:
        arrays: the problem, with at least one swap possible.
        plan: how much to search.
        stream: number of the random stream under `seed`.
        initial: states that the first members start from [b, n]; others start at random.
        greedy: a state that one of those starts from instead [n].
        greedy_first: whether it is the first of those, or the second.
    """

    def __init__(
        self,
        arrays: DenseArrays,
        plan: Plan,
        *,
        seed: int,
        stream: int = 0,
        initial: StateArray | None = None,
        greedy: UintArray | None = None,
        greedy_first: bool = False,
    ) -> None:
        from solvers.local.kernels import population as kernel
        from solvers.local.kernels import structures
        from solvers.local.kernels.pairs import ONE_LISTED_OF
        from solvers.local.kernels.tabu import BEST, LARGE, PRESENT

        n, groups = arrays.n, arrays.groups
        self._evolve, self._rounded = kernel.evolve_matrix, [PRESENT, BEST, kernel.SETTLED]
        self._account = np.zeros(4)
        self.progress = np.zeros(kernel.COUNTS + kernel.LEVELS, np.int64)
        listed, room = n // ONE_LISTED_OF, (kernel.LEVELS, kernel.CROWD * plan.population)
        self.arrays = structures.PopulationArrays(
            x=np.empty((*room, n), np.uint8), fields=np.empty((*room, n)), energy=np.empty(room),
            best_x=np.zeros(n, np.uint8), best=np.array([np.inf]), progress=self.progress, trials=np.zeros((2, 2)),
        )  # fmt: skip
        self._search = structures.Search(
            leave_at=np.zeros(n, np.int32), enter_at=np.zeros(n, np.int32), best_x=np.zeros(n, np.uint8),
            tenures=groups.tenures.copy(), clock=np.zeros(2, np.int64), account=self._account,
        )  # fmt: skip
        self.stream = stream_of(seed, stream)
        self._structures = (
            kernel.kernels_for(len(groups.counts)),
            structures.Problem(arrays.matrix, arrays.single, groups.layout),
            structures.Starts(
                np.zeros((0, n), np.uint8) if initial is None else initial.astype(np.uint8),
                np.zeros(n, np.uint8) if greedy is None else greedy.copy(),
            ),
            self.arrays,
            structures.State(
                np.zeros(n, np.uint8), np.zeros(n, np.float32), np.zeros(n, np.int32), np.zeros(n, np.int32)
            ),
            self._search,
            structures.PairScan(
                reach=np.full((2, n), LARGE, np.float32), near=np.empty((n, listed), np.uint32),
                strong=np.empty((n, listed), np.float32), looks=np.zeros(n, np.int32), scan=np.zeros(2, np.int64),
            ),
            structures.Annealing(
                np.zeros(kernel.START_SWEEPS, np.float32), np.zeros(n, np.float32), np.zeros(2, np.int64)
            ),
            np.zeros(kernel.SWEEPS, np.float32),
            np.zeros(n),
            structures.SearchPlan(
                plan.iterations, plan.offspring, plan.patience, plan.least_swaps, plan.turn, plan.population,
                UNENDING if greedy is None else 0 if greedy_first else 1,
            ),
        )  # fmt: skip

    @property
    def energy(self) -> float:
        """Energy of the best state, in half units; infinite before the first offspring is searched."""
        return float(self.arrays.best[0])

    @property
    def unfinished(self) -> float:
        """Energy of an unfinished offspring's best state, rounded as float32 rounds; infinite where there is none."""
        return float(self._account[1]) if self.progress[0] else math.inf

    @property
    def state(self) -> StateArray:
        """The best state [n], of an unfinished offspring too; feasible after one `advance`."""
        best = self._search.best_x if self.unfinished < self.energy else self.arrays.best_x
        return np.asarray(best, np.int8)

    def correct(self, energy: float) -> None:
        """Correct the rounded energies by the exact energy of the unfinished offspring's best state."""
        self._account[self._rounded] += energy - self.unfinished

    @property
    def offspring(self) -> int:
        """Offspring searched so far."""
        return int(self.progress[2])

    def advance(self, target: float, steps: int) -> int:
        """Search for about so many tabu steps, or until a state seems to reach the target; return the number taken."""
        done: int = self._evolve(*self._structures, target, self.stream, steps)
        return done


def evolve(population: Population, should_end: Callable[[], bool], watch: TargetWatch | None = None) -> None:
    """Let a population search until its plan is done, the target is reached, or `should_end` returns True."""
    pace = Pace()
    lowest = math.inf
    while True:
        threshold = watch.threshold if watch else -math.inf
        done = population.advance(threshold, pace.begin(UNENDING))
        pace.done(done)
        if population.energy < lowest:
            lowest = population.energy
            if watch:
                watch.note(lowest, population.state)
        if watch and population.unfinished <= threshold:
            population.correct(watch.note(population.unfinished, population.state))
        if not done or should_end():
            return
