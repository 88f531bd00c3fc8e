"""One population of the memetic tabu search, with the arrays that its kernel keeps up."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from problems.forms import StateArray
from solvers.local.arrays import DenseArrays, UintArray, stream_of
from solvers.local.target import Goal
from solvers.run import Pace

UNENDING = 1 << 60  # kernels multiply it by small numbers
"""Children of a search that only its time limit ends."""


@dataclass(frozen=True)
class Plan:
    """How much a population searches.

    Attributes:
        population: members.
        children: tabu searches in all, those of the first members among them.
        iterations: tabu steps without a better state that end each.
        patience: children in a row that do not enter, after which a population has no more to give.
        brood: children after which it has had its turn whether it has more to give or not.
        stray: swaps by which a child differs from its parent at least; the other parent alone may give fewer.
    """

    population: int
    children: int
    iterations: int
    patience: int
    brood: int = UNENDING
    stray: int = 15


class Island:
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
        from solvers.local.kernels.pairs import ONE_LISTED_OF
        from solvers.local.kernels.tabu import CHILD, LARGE, PRESENT

        n, groups = arrays.n, arrays.groups
        self._evolve, self._rounded = kernel.evolve_matrix, [PRESENT, CHILD, kernel.SETTLED]
        self._child_x, self._best_x = np.zeros(n, np.uint8), np.zeros(n, np.uint8)
        self._best, self._account = np.array([np.inf]), np.zeros(4)
        self._progress = np.zeros(kernel.COUNTS + kernel.LEVELS, np.int64)
        listed = n // ONE_LISTED_OF
        room = (kernel.LEVELS, kernel.CROWD * plan.population)
        self._before = (
            arrays.matrix, arrays.single, groups.of, groups.members, groups.starts, groups.counts,
            np.zeros((0, n), np.uint8) if initial is None else initial.astype(np.uint8),
            np.zeros(n, np.uint8) if greedy is None else greedy.copy(),
            np.empty((*room, n), np.uint8), np.empty((*room, n)), np.empty(room),
            np.zeros(n, np.uint8), np.zeros(n, np.float32), np.zeros(n),
            np.zeros(n, np.int32), np.zeros(n, np.int32), np.zeros(n, np.int32), np.zeros(n, np.int32),
            self._child_x, self._best_x, self._best, np.full((2, n), LARGE, np.float32),
            np.empty((n, listed), np.uint32), np.empty((n, listed), np.float32), np.zeros(n, np.int32),
            np.zeros(kernel.SWEEPS + kernel.START_SWEEPS, np.float32), np.zeros(n, np.float32), np.zeros((2, 2)),
            groups.tenures,
            np.array([
                plan.iterations, plan.children, plan.patience, plan.stray, plan.brood, plan.population,
                UNENDING if greedy is None else 0 if greedy_first else 1,
            ]),
        )  # fmt: skip
        self._after = (
            self._progress, np.zeros(4, np.int64), np.zeros(2, np.int64), self._account, stream_of(seed, stream)
        )  # fmt: skip

    @property
    def energy(self) -> float:
        """Energy of the best state, in half units; infinite before the first child is searched."""
        return float(self._best[0])

    @property
    def unfinished(self) -> float:
        """Energy of the best state of an unfinished child, rounded as float32 rounds; infinite where there is none."""
        return float(self._account[1]) if self._progress[0] else math.inf

    @property
    def state(self) -> StateArray:
        """The best state [n], the best of an unfinished child where that is better; feasible after one `advance`."""
        return (self._child_x if self.unfinished < self._best[0] else self._best_x).astype(np.int8)

    def correct(self, energy: float) -> None:
        """Tell the true energy of the unfinished child's best state: what has been rounded is put right."""
        self._account[self._rounded] += energy - self.unfinished

    @property
    def children(self) -> int:
        """Children searched so far."""
        return int(self._progress[2])

    def advance(self, target: float, steps: int) -> int:
        """Go on for about so many tabu steps, or until a state seems to reach the target; how many were taken."""
        done: int = self._evolve(*self._before, target, *self._after, steps)
        return done


def evolve(island: Island, should_end: Callable[[], bool], goal: Goal | None = None) -> None:
    """Let a population search until its plan is done, its goal reached, or it is told to end."""
    pace = Pace()
    lowest = math.inf
    while True:
        threshold = goal.threshold if goal else -math.inf
        done = island.advance(threshold, pace.begin(UNENDING))
        pace.done(done)
        if island.energy < lowest:
            lowest = island.energy
            if goal:
                goal.note(lowest, island.state)
        if goal and island.unfinished <= threshold:
            island.correct(goal.note(island.unfinished, island.state))
        if not done or should_end():
            return
