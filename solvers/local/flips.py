"""Searches by single flips, for models without a cardinality: what stands behind the dimod face of `sa` and `tabu`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from problems.forms import Float64Array
from solvers.local.arrays import DenseArrays, Float32Array, UintArray, stream_of
from solvers.local.populations import Plan
from solvers.local.temperatures import temperature_range
from solvers.run import Pace

_STEPS = 5  # tabu steps of an offspring, times the plan's: here they are a fixed number, not a patience


class FlipAnnealing:
    """Annealings of one model.

    Args:
        arrays: the model; its groups are not looked at.
        sweeps: proposals a variable in each annealing.
        seed: where randomness starts.
        should_end: asked every few milliseconds.
    """

    def __init__(self, arrays: DenseArrays, sweeps: int, seed: int, should_end: Callable[[], bool]) -> None:
        self._arrays, self._seed, self._should_end = arrays, seed, should_end
        state = settled(arrays, _random_state(arrays.n, np.random.default_rng(seed)))
        fields, _ = fields_of(arrays, state)
        hot, cold = temperature_range((1.0 - 2.0 * state.astype(np.float32)) * fields)
        self._temperatures = np.geomspace(hot, cold, sweeps).astype(np.float32)

    def read(self, number: int) -> UintArray:
        """The state [n] at the end of annealing `number`."""
        from solvers.local.kernels.flips import anneal_flips

        state = _random_state(self._arrays.n, np.random.default_rng([self._seed, number]))
        fields, energy = fields_of(self._arrays, state)
        progress, account = np.zeros(2, np.int64), np.array([energy])
        stream = stream_of(self._seed, number)
        pace = Pace()
        while not self._should_end():
            done = anneal_flips(
                self._arrays.matrix, fields, state, self._temperatures, progress, account, stream, pace.begin(1 << 62)
            )
            if not done:
                break
            pace.done(done)
        return settled(self._arrays, state)


class FlipTabu:
    """Tabu searches of one model, each with a population whose offspring keep what two of its members share.

    Args:
        arrays: the model; its groups are not looked at.
        plan: how much each of them searches.
        seed: where randomness starts.
        should_end: asked between offspring.
    """

    def __init__(self, arrays: DenseArrays, plan: Plan, seed: int, should_end: Callable[[], bool]) -> None:
        self._arrays, self._plan, self._seed, self._should_end = arrays, plan, seed, should_end
        rest = min(10, (arrays.n + 1) // 4)
        self._tenure = np.array([rest, max(1, min(15, arrays.n // 2 - rest))])

    def read(self, number: int) -> UintArray:
        """The best state [n] of search `number`."""
        rng = np.random.default_rng([self._seed, number])
        stream = stream_of(self._seed, number)
        members: list[tuple[float, UintArray]] = []
        for _ in range(self._plan.offspring):
            if members and self._should_end():
                break
            offspring = _random_state(self._arrays.n, rng)
            if len(members) == self._plan.population:
                first, second = rng.choice(len(members), 2, replace=False)
                one, other = members[first][1], members[second][1]
                offspring = np.where(one == other, one, offspring)
            energy, state = self._search(offspring, stream)
            if any(np.array_equal(state, known) for _, known in members):
                continue
            members.append((energy, state))
            members.sort(key=lambda member: member[0])
            del members[self._plan.population :]
        return settled(self._arrays, members[0][1])

    def _search(self, state: UintArray, stream: npt.NDArray[np.uint64]) -> tuple[float, UintArray]:
        from solvers.local.kernels.flips import tabu_flips
        from solvers.local.kernels.structures import FlipState, Search
        from solvers.local.kernels.tabu import BEST, begin_search

        fields, energy = fields_of(self._arrays, state)
        best, clock, account = state.copy(), np.zeros(2, np.int64), np.empty(3)
        begin_search(fields, energy, clock, account)
        signs = 1.0 - 2.0 * state.astype(np.float32)
        free_at = np.zeros(len(state), np.int32)
        tabu_flips(
            self._arrays.matrix, FlipState(state, fields, signs),
            Search(free_at, free_at, best, self._tenure, clock, account), stream, _STEPS * self._plan.iterations,
        )  # fmt: skip
        return float(account[BEST]), best


def settled(arrays: DenseArrays, state: UintArray) -> UintArray:
    """The state [n] after a descent by flips on the model's own coefficients."""
    from solvers.local.kernels import flips, states

    settled_state = state.copy()
    fields: Float64Array = np.empty(arrays.n)
    states.matrix_fields(arrays.exact, arrays.exact_single, settled_state, fields)
    flips.descend_flips(arrays.exact, fields, settled_state)
    return settled_state


def fields_of(arrays: DenseArrays, state: UintArray) -> tuple[Float32Array, float]:
    """The fields of a state [n] and its energy, in half units."""
    from solvers.local.kernels import states

    wide: Float64Array = np.empty(arrays.n)
    energy = states.matrix_fields(arrays.matrix, arrays.single, state, wide)
    return wide.astype(np.float32), float(energy)


def _random_state(n: int, rng: np.random.Generator) -> UintArray:
    return rng.integers(0, 2, n, dtype=np.uint8)
