"""The demanded number of ones: one number, or one for each group of variables (N:M patterns)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from problems.errors import ProblemError
from problems.forms import IntArray, StateArray


@dataclass(frozen=True, eq=False)
class Cardinality:
    """A checked cardinality: `counts[g]` ones among the variables of group g; without groups there is one group.

    Attributes:
        counts: demanded number of ones of each group, int64 [g].
        groups: group of each variable, int64 [n].
        sizes: number of variables of each group, int64 [g].
    """

    counts: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]

    @classmethod
    def of(cls, cardinality: Any, groups: npt.ArrayLike | None, n: int) -> Cardinality:
        """Check a cardinality for n variables.

        Args:
            cardinality: the number of ones, or with `groups` one number for each group [g].
            groups: group of each variable, integers 0..g-1 [n], or None.
            n: number of variables.

        Raises:
            ProblemError: a number is not an integer, or no state can satisfy it.
        """
        counts = _integers(cardinality, "cardinality")
        if groups is None:
            if counts.ndim != 0:
                raise ProblemError(
                    f"cardinality has {counts.size} numbers but no groups are given; "
                    "pass groups=, the group of each variable, or one number"
                )
            counts, group_of = counts.reshape(1), np.zeros(n, np.int64)
        else:
            group_of = _integers(groups, "groups")
            if group_of.shape != (n,):
                raise ProblemError(f"groups has shape {group_of.shape}; the block has {n} variables, so [{n}]")
            named = n if counts.ndim == 0 else len(counts)  # one number for all groups, of which there are at most n
            if n and (group_of.min() < 0 or group_of.max() >= named):
                raise ProblemError(
                    f"groups contains numbers in {group_of.min()}..{group_of.max()}; they must be in 0..{named - 1}"
                )
            if counts.ndim == 0:
                counts = np.full(int(group_of.max(initial=-1)) + 1, counts)  # 2:4 is cardinality=2, groups of 4
        sizes = np.bincount(group_of, minlength=len(counts)).astype(np.int64)
        for bad in np.flatnonzero((counts < 0) | (counts > sizes)):
            what = f"the block's {n} variables" if groups is None else f"the {sizes[bad]} variables of group {bad}"
            if counts[bad] < 0:
                raise ProblemError(f"cardinality {counts[bad]} is negative; it is a number of ones among {what}")
            raise ProblemError(f"cardinality {counts[bad]} is larger than {what}")
        for array in (counts, group_of, sizes):
            array.flags.writeable = False
        return cls(counts, group_of, sizes)

    @property
    def total(self) -> int:
        """Number of ones in every feasible state."""
        return int(self.counts.sum())

    def counted(self, states: StateArray) -> npt.NDArray[np.int64]:
        """Number of ones of each group in each state [b, g], for states [b, n]."""
        if len(self.counts) == 1:
            return np.asarray(states.sum(axis=1, dtype=np.int64)[:, None])
        counted = np.zeros((len(states), len(self.counts)), np.int64)
        rows, columns = np.nonzero(states)
        np.add.at(counted, (rows, self.groups[columns]), 1)
        return counted

    def feasible(self, states: StateArray) -> npt.NDArray[np.bool_]:
        """Whether each state has the demanded number of ones [b], for states [b, n]."""
        return np.asarray((self.counted(states) == self.counts).all(axis=1))

    def members(self) -> list[IntArray]:
        """The variables of each group, ascending."""
        order = np.argsort(self.groups, kind="stable")
        return list(np.split(order, np.cumsum(self.sizes)[:-1]))

    def random_states(self, count: int, rng: np.random.Generator) -> StateArray:
        """Independent, uniformly random feasible states [count, n], int8."""
        states = np.zeros((count, len(self.groups)), np.int8)
        # A shuffle within groups: sorted by (group, random key), the first counts[g] variables of group g become one.
        starts = np.cumsum(self.sizes) - self.sizes
        place = np.arange(len(self.groups))
        for state in states:
            order = np.lexsort((rng.random(len(state)), self.groups))
            group = self.groups[order]
            state[order[place - starts[group] < self.counts[group]]] = 1
        return states


def _integers(values: Any, name: str) -> npt.NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim > 1:
        raise ProblemError(f"{name} has shape {array.shape}; one integer, or a list of integers, is needed")
    whole = array.dtype.kind in "iu" or (array.dtype.kind == "f" and bool((array == np.trunc(array)).all()))
    if not whole or (array.dtype.kind == "f" and not bool((np.abs(array) < 2**62).all())):
        raise ProblemError(f"{name} {values!r} must be made of integers")
    return array.astype(np.int64)
