"""Descent by swaps in float32 among all pairs of a one and a zero, as a tabu search needs it between its steps.

A tabu step looks only at the swaps of one leaver. Where couplings are strong, as among the weights of one neuron, the
swap that pays is that of two variables that stand for one another, and neither of them is the best of its kind. This
descent finds those; :mod:`solvers.kernels.descent` does the same in float64, for answers.
"""

from __future__ import annotations

import numpy as np

from problems.compiling import compiled
from solvers.kernels.lanes import lesser
from solvers.kernels.tabu import GAIN, LARGE, NEVER, PRESENT

SLOT, QUIET = 0, 1  # places in `scan`: the variable to look at next, variables looked at since the last gain
QUARTERS = 4  # a look reads one row, a quarter of what a tabu step costs; a swap costs as much as a step

_ONE = np.uint64(1)


@compiled(nogil=True, fastmath=True, error_model="numpy")
def descend_pairs(  # type: ignore[no-untyped-def]
    Q, reach, fields, x, leave_at, enter_at, scan, now, target, account, quarters
):
    """Take the best swap of each one in turn until no swap of any pair improves; for a single group.

    Arrays:
        Q, fields, x, leave_at, enter_at, account: as :func:`solvers.kernels.tabu.tabu_matrix` takes them.
        reach: largest entry of each row of Q, by more than which no coupling can help a swap, float32 [n]; LARGE where
            it is not known yet. Filled in as rows are read.
        scan: see above, int64 [2]; moved on. The descent is over when `scan[QUIET]` is n.
        now: the step from which what is swapped here may be swapped again.
        target: energy (in half units) at which to return.
        quarters: quarters of a step to spend at most.

    Returns:
        How many were spent.
    """
    n = np.uint64(x.shape[0])
    i, quiet = np.uint64(scan[SLOT]), np.uint64(scan[QUIET])
    energy, least = account[PRESENT], account[GAIN]
    lowest = _lowest_zero(fields, enter_at)
    spent = 0
    while quiet < n and spent < quarters and energy > target:
        quiet += _ONE
        out = i
        i = i + _ONE if i + _ONE < n else np.uint64(0)
        # What the best partner could gain at most: most ones of a good state are ruled out by it.
        if not x[out] or lowest - fields[out] >= reach[out] - least:
            continue
        spent += 1
        row = Q[out]
        low = LARGE
        if reach[out] == LARGE:
            most = LARGE
            for l in range(n):
                most = lesser(most, -row[l])
            reach[out] = -most
        for l in range(n):
            low = lesser(low, fields[l] - row[l] if enter_at[l] != NEVER else LARGE)
        change = np.float64(low) - np.float64(fields[out])
        if low == LARGE or change >= -least:
            continue
        into = np.int64(0)
        for l in range(n):  # the last of equal ones: a loop without a way out is one for the vector unit
            here = (enter_at[l] != NEVER) & (fields[l] - row[l] == low)
            into = np.int64(l) if here else into
        spent += QUARTERS
        quiet = np.uint64(0)
        energy += change
        gained = Q[into]
        for l in range(n):
            fields[l] += gained[l] - row[l]
        x[out], x[into] = 0, 1
        leave_at[out], enter_at[into] = NEVER, NEVER
        enter_at[out], leave_at[into] = now, now
        lowest = _lowest_zero(fields, enter_at)
    scan[SLOT], scan[QUIET] = i, quiet
    account[PRESENT] = energy
    return spent


@compiled(nogil=True, fastmath=True, error_model="numpy")
def take_back(Q, x, fields, leave_at, enter_at, best_x, now):  # type: ignore[no-untyped-def]
    """Bring x and its fields back to `best_x`, a state with as many ones, by swaps; return how many it took."""
    n = x.shape[0]
    out = into = swaps = 0
    while True:
        while out < n and x[out] <= best_x[out]:
            out += 1
        while into < n and x[into] >= best_x[into]:
            into += 1
        if out == n or into == n:
            return swaps
        swaps += 1
        gained, lost = Q[into], Q[out]
        for l in range(n):
            fields[l] += gained[l] - lost[l]
        x[out], x[into] = 0, 1
        leave_at[out], enter_at[into] = NEVER, NEVER
        enter_at[out], leave_at[into] = now, now


@compiled(nogil=True, fastmath=True, error_model="numpy")
def _lowest_zero(fields, enter_at):  # type: ignore[no-untyped-def]
    lowest = LARGE
    for l in range(np.uint64(fields.shape[0])):
        lowest = lesser(lowest, fields[l] if enter_at[l] != NEVER else LARGE)
    return lowest
