"""The current state of a search: the arrays that kernels update, behind the few moves that a search makes.

Energies are in half units, see :mod:`solvers.local.arrays`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from problems.forms import Float64Array, StateArray
from solvers.local.arrays import DenseArrays, FactorArrays, Float32Array, Groups, Int32Array, UintArray

_LOOKS = 4096  # variables that a descent looks at between two looks at the clock


class Walk(Protocol):
    """What annealing asks of a state under way."""

    x: UintArray

    @property
    def energy(self) -> float:
        """Energy of the present state."""

    def anneal(self, temperatures: Float32Array, progress: npt.NDArray[np.int64], target: float, proposals: int) -> int:
        """Propose at most so many swaps, from `progress` = [sweep, variable, ..] on; how many were made, 0 at the end.

        Ends early if the energy reaches `target`.
        """

    def sample_changes(self, count: int) -> Float32Array:
        """Changes of energy by random feasible swaps of the present state [count]."""


class MatrixWalk:
    """A state of a problem whose matrix is at hand.

    Args:
        arrays: the problem.
        state: where to start [n].
        stream: random stream, uint64 [1]; moved on as the walk goes.
        awake: temperature down to which each variable sleeps [n]; none does where this is None.
    """

    def __init__(
        self,
        arrays: DenseArrays,
        state: StateArray,
        stream: npt.NDArray[np.uint64],
        awake: Float32Array | None = None,
    ) -> None:
        from solvers.local.kernels import annealing, states, structures

        self._kernels, self._arrays, self._stream = annealing, arrays, stream
        self._annealing = structures.Annealing
        self.x: UintArray = state.astype(np.uint8)
        wide = np.empty(arrays.n)
        self._account = np.array([states.matrix_fields(arrays.matrix, arrays.single, self.x, wide)])
        self._state = structures.State(self.x, wide.astype(np.float32), *_arranged(self.x, arrays.groups))
        self._awake = np.full(arrays.n, np.inf, np.float32) if awake is None else awake

    @property
    def energy(self) -> float:
        return float(self._account[0])

    def anneal(self, temperatures: Float32Array, progress: npt.NDArray[np.int64], target: float, proposals: int) -> int:
        a = self._arrays
        annealing = self._annealing(temperatures, self._awake, progress)
        done: int = self._kernels.anneal_matrix(
            a.matrix, a.reach, a.groups.layout, self._state, annealing, target, self._account, self._stream, proposals
        )  # fmt: skip
        return done

    def sample_changes(self, count: int) -> Float32Array:
        changes = np.empty(count, np.float32)
        a = self._arrays
        self._kernels.matrix_swap_changes(a.matrix, a.groups.layout, self._state, self._stream, changes)
        return changes


class FactorWalk:
    """A state of a low-rank problem, with its residual r = A^T x in place of fields.

    Arguments are those of :class:`MatrixWalk`, but no variable sleeps.
    """

    def __init__(self, arrays: FactorArrays, state: StateArray, stream: npt.NDArray[np.uint64]) -> None:
        from solvers.local.kernels import annealing, states, structures

        self._kernels, self._arrays, self._stream = annealing, arrays, stream
        self._annealing = structures.Annealing
        self.x: UintArray = state.astype(np.uint8)
        self.residual: Float64Array = np.empty(arrays.rank)
        self._account = np.array([states.factor_residual(arrays.factor, arrays.linear, self.x, self.residual)])
        rounded = self.residual.astype(np.float32)
        self._state = structures.State(self.x, rounded, *_arranged(self.x, arrays.groups))
        self._awake = np.empty(0, np.float32)  # not used: all variables are awake

    @property
    def energy(self) -> float:
        return float(self._account[0])

    def anneal(self, temperatures: Float32Array, progress: npt.NDArray[np.int64], target: float, proposals: int) -> int:
        a = self._arrays
        annealing = self._annealing(temperatures, self._awake, progress)
        done: int = self._kernels.anneal_factor(
            a.factor, a.linear, a.groups.layout, self._state, self.residual, annealing, target, self._account,
            self._stream, proposals,
        )  # fmt: skip
        return done

    def sample_changes(self, count: int) -> Float32Array:
        changes = np.empty(count, np.float32)
        a = self._arrays
        self._kernels.factor_swap_changes(a.factor, a.linear, a.groups.layout, self._state, self._stream, changes)
        return changes


def wake_temperatures(arrays: DenseArrays, hot: float, stream: npt.NDArray[np.uint64]) -> Float32Array:
    """Temperatures from which an annealing that begins at `hot` attends to each variable, in half units [n]."""
    from solvers.local.kernels import annealing

    awake = np.empty(arrays.n, np.float32)
    annealing.wake_temperatures(arrays.matrix, np.float32(hot), stream, awake)
    return awake


class Descent:
    """A descent to a state that no swap improves, in float64 on `arrays.exact`.

    These are the problem's own coefficients, or of a low-rank problem their products, rounded to float32: there a swap
    may be left that gains less than that.
    """

    def __init__(self, arrays: DenseArrays, state: npt.NDArray[np.integer[Any]]) -> None:
        from solvers.local.kernels import descent, states, structures

        self._descend, self._arrays = descent.descend_matrix, arrays
        self.x: UintArray = state.astype(np.uint8)
        self._fields: Float64Array = np.empty(arrays.n)
        self._state = structures.State(self.x, self._fields, *_arranged(self.x, arrays.groups))
        states.matrix_fields(arrays.exact, arrays.exact_single, self.x, self._fields)
        # Gains below this are rounding, and could go round in circles.
        self._tolerance = 1e-12 * float(np.abs(self._fields).max(initial=0.0))
        self._progress = np.zeros(2, np.int64)

    @property
    def energy(self) -> float:
        """The problem's energy of the present state, up to rounding of its last digits."""
        half = 0.5 * float((self._fields + self._arrays.exact_single) @ self.x)
        return 2.0 * half / self._arrays.exact_scale + self._arrays.offset

    def advance(self, looks: int) -> bool:
        """Look at so many variables at most; whether the state is a swap-local optimum."""
        a = self._arrays
        done = self._descend(
            a.exact, a.exact_reach, self._tolerance, a.groups.layout, self._state, self._progress, looks
        )  # fmt: skip
        return bool(done < looks)


def settled(arrays: DenseArrays, state: StateArray, should_end: Callable[[], bool]) -> tuple[StateArray, float]:
    """The state [n] after a descent by swaps, to its end unless there is no time, and its energy up to rounding."""
    descent = Descent(arrays, state)
    while not descent.advance(_LOOKS) and not should_end():
        pass
    return descent.x.astype(np.int8), descent.energy


def _arranged(x: UintArray, groups: Groups) -> tuple[Int32Array, Int32Array]:
    from solvers.local.kernels import states

    order, place = np.empty(len(x), np.int32), np.empty(len(x), np.int32)
    states.arrange(x, groups.layout, order, place)
    return order, place
