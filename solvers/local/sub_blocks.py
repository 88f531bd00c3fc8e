"""Descent and search on low-rank problems too large for a matrix: fields say where it is worth looking.

All fields of a state cost one product of the factor with the residual. They name the ones that cost most and the zeros
that would cost least; either many of them are exchanged at once, while that helps, or some hundreds of them become a
dense problem of their own, which the kernels for matrices solve in milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from problems.forms import Float64Array, StateArray
from solvers.local.arrays import (
    DenseArrays,
    FactorArrays,
    Float32Array,
    Groups,
    Int32Array,
    UintArray,
    restricted,
    restricted_factor,
)

SUB_BLOCK = 512
"""Variables of a sub-block: many small ones, each on new fields, beat few large ones, and 1 MB stays in cache."""

_POOL = 16 * SUB_BLOCK
"""Variables among which the sub-blocks of a descent are chosen: a pass over their rows takes less than a millisecond,
one over the rows of a million a tenth of a second."""

_FEWEST_AT_ONCE = SUB_BLOCK // 4  # below so many exchanges at once a sub-block finds the better ones

Improve = Callable[[DenseArrays, StateArray], StateArray]
"""Takes a sub-block and its present state, gives one that is not worse."""


class SubBlockSearch:
    """A state of a large low-rank problem, improved many variables at a time.

    Args:
        arrays: the problem.
        state: where to start [n].
        residual: A^T x of that state where it is known, float64 [rank].
        should_end: asked between passes over the factor.
    """

    def __init__(
        self,
        arrays: FactorArrays,
        state: npt.NDArray[np.integer[Any]],
        should_end: Callable[[], bool],
        residual: Float64Array | None = None,
    ) -> None:
        from solvers.local.kernels import states

        self._kernels, self._arrays, self._should_end = states, arrays, should_end
        self.x: UintArray = state.astype(np.uint8)
        self._residual: Float64Array = np.empty(arrays.rank)
        if residual is None:
            states.factor_residual(arrays.factor, arrays.linear, self.x, self._residual)
        else:
            self._residual[:] = residual
        self._fields: Float32Array = np.empty(arrays.n, np.float32)
        self.energy = self._counted()

    def descend_in_bulk(self) -> None:
        """Exchange the pairs that promise most, as many at once as still lower the energy."""
        at_once = self._arrays.groups.pairs // 4
        while at_once >= _FEWEST_AT_ONCE and not self._should_end():
            out, into = promising_pairs(self._new_fields(), self.x, self._arrays.groups, at_once)
            if not self._exchange_if_better(out, into):
                at_once //= 4

    def improve_sub_block(self, improve: Improve, rng: np.random.Generator, width: int = 1) -> bool:
        """Solve a sub-block of promising pairs; whether the energy fell.

        Args:
            improve: what solves it.
            rng: draws the pairs where there is a choice.
            width: the pairs are drawn from so many times as many as the sub-block holds; 1 takes the most promising.
        """
        fields = self._new_fields()
        pairs = SUB_BLOCK // 2
        out, into = promising_pairs(fields, self.x, self._arrays.groups, width * pairs, any_gain=True)
        if len(out) > pairs:
            drawn = rng.permutation(len(out))[:pairs]
            out, into = out[drawn], into[drawn]
        chosen = self._filled_up(np.concatenate([out, into]), rng)
        present = self.x[chosen].astype(np.int8)
        found = improve(restricted(self._arrays, chosen, fields, self.x), present)
        out, into = chosen[(present == 1) & (found == 0)], chosen[(present == 0) & (found == 1)]
        return self._exchange_if_better(out, into)

    def _filled_up(self, chosen: Int32Array, rng: np.random.Generator) -> Int32Array:
        """As many variables as a sub-block holds, ascending: where there are too few pairs, others at random."""
        missing = min(SUB_BLOCK, self._arrays.n) - len(chosen)
        if missing > 0:
            others = np.setdiff1d(np.arange(self._arrays.n, dtype=np.int32), chosen, assume_unique=True)
            chosen = np.concatenate([chosen, rng.permutation(others)[:missing]])
        return np.sort(chosen)

    def descend(self, improve: Improve, rng: np.random.Generator, most: int) -> None:
        """Go down by bulk exchanges, then by sub-blocks, `most` at most, until the most promising gains nothing."""
        self.descend_in_bulk()
        few = self._arrays.groups.pairs < SUB_BLOCK  # then a sub-block of the whole holds more than the pool would
        if self._arrays.n > 2 * _POOL and not few and not self._should_end():
            self._improve_pool(improve, rng, most)
            return
        for _ in range(most):
            if self._should_end() or not self.improve_sub_block(improve, rng):
                return

    def _improve_pool(self, improve: Improve, rng: np.random.Generator, most: int) -> None:
        """Improve sub-blocks of the variables that promise most, as a problem of their own, while the others stay."""
        pairs = np.concatenate(
            promising_pairs(self._new_fields(), self.x, self._arrays.groups, _POOL // 2, any_gain=True)
        )  # fmt: skip
        chosen = np.sort(pairs)
        inner = SubBlockSearch(
            restricted_factor(self._arrays, chosen, self._residual, self.x), self.x[chosen], self._should_end
        )  # fmt: skip
        for _ in range(most):
            if self._should_end() or not inner.improve_sub_block(improve, rng):
                break
        self._exchange_if_better(chosen[inner.x < self.x[chosen]], chosen[inner.x > self.x[chosen]])

    def _new_fields(self) -> Float32Array:
        a = self._arrays
        self._kernels.factor_fields(a.factor, a.linear, self._residual.astype(np.float32), self.x, self._fields)
        return self._fields

    def _exchange_if_better(self, out: Int32Array, into: Int32Array) -> bool:
        before = self.energy
        self._exchange(out, into)
        if self.energy < before:
            return True
        self._exchange(into, out)
        return False

    def _exchange(self, out: Int32Array, into: Int32Array) -> None:
        self._kernels.exchange_rows(self._arrays.factor, out, into, self.x, self._residual)
        self.energy = self._counted()

    def _counted(self) -> float:
        linear = float(self._arrays.linear @ self.x.astype(np.float64))
        return linear + 0.5 * float(self._residual @ self._residual)


def promising_pairs(
    fields: Float32Array, x: UintArray, groups: Groups, most: int, *, any_gain: bool = False
) -> tuple[Int32Array, Int32Array]:
    """The pairs of a one and a zero of one group whose fields lie furthest apart: couplings left aside, they gain most.

    The costliest one of a group is paired with its cheapest zero, the second with the second, and so on.

    Args:
        fields: what each variable adds to the state [n].
        x: the state [n].
        groups: who may swap with whom.
        most: pairs at most.
        any_gain: also take pairs that promise a loss.

    Returns:
        The ones and the zeros, int32 [p] each.
    """
    if len(groups.counts) == 1:
        out = _extreme(-fields, np.flatnonzero(x), most)
        into = _extreme(fields, np.flatnonzero(x == 0), most)
        pairs = min(len(out), len(into))
        out, into = out[:pairs], into[:pairs]
    else:
        out, into = _pairs_of_groups(fields, x, groups)
        gains = fields[out] - fields[into]
        best = _extreme(-gains, np.arange(len(gains)), most)
        out, into = out[best], into[best]
    if not any_gain:
        gaining = fields[out] > fields[into]
        out, into = out[gaining], into[gaining]
    return out.astype(np.int32), into.astype(np.int32)


def _extreme(values: Float32Array, among: npt.NDArray[np.intp], most: int) -> npt.NDArray[np.intp]:
    """Those of least value, in order."""
    part = values[among]
    if most < len(among):
        chosen = np.argpartition(part, most - 1)[:most]
        among, part = among[chosen], part[chosen]
    return among[np.argsort(part, kind="stable")]


def _pairs_of_groups(
    fields: Float32Array, x: UintArray, groups: Groups
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """All pairs of the p-th costliest one and the p-th cheapest zero of each group."""
    cost = np.where(x == 1, -fields, fields)
    order = np.lexsort((cost, 1 - x.astype(np.int8), groups.of))  # by group, ones before zeros, best first
    starts, counts = groups.starts[:-1], groups.counts
    pairs = np.minimum(counts, np.diff(groups.starts) - counts)
    group = np.repeat(np.arange(len(counts)), pairs)
    rank = np.arange(len(group)) - np.repeat(np.cumsum(pairs) - pairs, pairs)
    return order[starts[group] + rank], order[starts[group] + counts[group] + rank]
