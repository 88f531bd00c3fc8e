"""Repair and polish: from any state to a feasible one with the given number of ones, then descent by swaps.

Toolkits without cardinality constraints get a penalty, and may return states with too many or too few ones.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from problems import BlockProblem, LowRankForm
from problems.forms import Float64Array, StateArray
from solvers.local.arrays import dense_arrays
from solvers.local.walks import settled

DENSE_UP_TO = 4096
"""Low-rank problems of at most so many variables are made dense (134 MB) for repair and polish: it is faster."""

_BATCH = 1 << 24  # fields are held for this many (row, variable) pairs at once: 128 MB
_BATCHES_OF_FLIPS = 16  # of a large low-rank problem, where new fields after every flip would cost too much
_LOOKS = 256  # ones that a descent looks at before it asks whether to end


def repair(problem: BlockProblem, states: npt.ArrayLike) -> tuple[StateArray, int]:
    """Make states feasible by flipping, one after the other, the variable that costs least.

    A group with too many ones loses the one whose removal saves most; a group with too few gains the cheapest
    zero. Low-rank problems of more than `DENSE_UP_TO` variables flip a sixteenth of what is missing at a time.

    Args:
        problem: the block problem.
        states: one state [n] or several [b, n].

    Returns:
        The states [b, n] (int8, a copy), all feasible, and how many had to be changed.

    Raises:
        ProblemError: states of another shape, or not made of zeros and ones.
    """
    given, _ = problem.checked_states(states)
    repaired = given.copy()
    wrong = np.flatnonzero(~problem.constraint.feasible(given))
    if len(wrong):
        workable = _workable(problem)
        for rows in np.array_split(wrong, -(-len(wrong) * problem.n // _BATCH)):
            repaired[rows] = _balanced(workable, repaired[rows])
    return repaired, len(wrong)


def single_state(problem: BlockProblem) -> StateArray | None:
    """The only feasible state [1, n], where every group demands none or all of its variables; otherwise None."""
    counts, sizes = problem.constraint.counts, problem.constraint.sizes
    if np.any((counts > 0) & (counts < sizes)):
        return None
    return np.asarray(counts[problem.constraint.groups] > 0, np.int8)[None]


def polish(problem: BlockProblem, states: npt.ArrayLike, should_end: Callable[[], bool] | None = None) -> StateArray:
    """Descend from feasible states, by swaps that lower the energy, to states that no swap improves.

    Each one in turn is swapped with its best partner among the zeros of its group, if that lowers the energy.
    Low-rank problems of more than `DENSE_UP_TO` variables are descended in factored form: n * rank operations a swap.

    Args:
        problem: the block problem.
        states: one feasible state [n] or several [b, n].
        should_end: asked every few milliseconds; True returns the states as they have become by then.

    Returns:
        The states [b, n] (int8, a copy), none of higher energy than before beyond rounding.

    Raises:
        ProblemError: states of another shape, or not made of zeros and ones.
    """
    given, _ = problem.checked_states(states)
    polished = given.copy()
    workable = _workable(problem)
    arrays = None if isinstance(workable.form, LowRankForm) else dense_arrays(workable)
    end = should_end or _never
    for x in polished:
        if end():
            break
        if arrays is None:
            _descend(workable, x, end)
        else:
            x[:], _ = settled(arrays, x, end)
    return polished


def _workable(problem: BlockProblem) -> BlockProblem:
    return problem.to_dense() if problem.n <= DENSE_UP_TO else problem


def _balanced(problem: BlockProblem, states: StateArray) -> StateArray:
    """Infeasible states [b, n], made feasible in place."""
    constraint, form = problem.constraint, problem.form
    fields = np.atleast_2d(problem.local_fields(states))
    excess = constraint.counted(states) - constraint.counts
    for x, h, over in zip(states, fields, excess, strict=True):
        at_once = -(-np.abs(over).sum() // _BATCHES_OF_FLIPS) if isinstance(form, LowRankForm) else 1
        while over.any():
            flips = _cheapest_flips(x, h, constraint.groups, over, int(at_once))
            signs = 1 - 2 * x[flips]
            x[flips] += signs
            np.add.at(over, constraint.groups[flips], signs)
            if len(flips) == 1:
                h += (2.0 * signs[0]) * form.row(int(flips[0]))
            else:
                h[:] = problem.local_fields(x)
    return states


def _cheapest_flips(
    x: StateArray, fields: Float64Array, groups: npt.NDArray[np.int64], excess: npt.NDArray[np.int64], most: int
) -> npt.NDArray[np.intp]:
    """The flips, `most` of them at most, that cost least among those that bring a group nearer to its number."""
    over = excess if len(excess) == 1 else excess[groups]
    useful = np.where(x == 1, over > 0, over < 0)
    costs = np.where(useful, np.where(x == 1, -fields, fields), np.inf)
    if most == 1:
        return np.array([costs.argmin()])
    most = min(most, int(np.count_nonzero(useful)))
    chosen = np.argpartition(costs, most - 1)[:most]
    chosen = chosen[np.lexsort((costs[chosen], groups[chosen]))]
    starts = np.flatnonzero(np.diff(groups[chosen], prepend=-1))
    rank = np.arange(len(chosen)) - np.repeat(starts, np.diff(starts, append=len(chosen)))
    return chosen[rank < np.abs(excess[groups[chosen]])]


def _descend(problem: BlockProblem, x: StateArray, should_end: Callable[[], bool]) -> None:
    """Descend from a state [n] of a low-rank problem, in place."""
    from solvers.local.kernels.descent import descend_factor

    form = problem.form
    assert isinstance(form, LowRankForm)
    fields = problem.local_fields(x)
    tolerance = 1e-12 * float(np.abs(fields).max(initial=0.0))
    norms, place = np.sqrt(form.diagonal), np.zeros(2, np.int64)
    groups = problem.constraint.groups
    while not descend_factor(form.factor, norms, groups, tolerance, fields, x, place, _LOOKS):
        if should_end():
            return


def _never() -> bool:
    return False
