"""Descent by swaps in float32 among all pairs of a one and a zero, as a tabu search needs it between its steps.

A tabu step looks only at the swaps of one leaver. Where couplings are strong, as among the weights of one neuron, the
swap that pays is that of two variables that stand for one another, and neither of them is the best of its kind. This
descent finds those; :mod:`solvers.local.kernels.descent` does the same in float64, for answers.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from problems.compiling import compiled, helper
from solvers.local.kernels.lanes import LANES, lesser, put_larger
from solvers.local.kernels.separate import separate
from solvers.local.kernels.structures import Matrix, PairScan, Search, State
from solvers.local.kernels.tabu import GAIN, LARGE, NEVER, PRESENT

SLOT, QUIET = 0, 1  # places in `scan`: the variable to look at next, variables looked at since the last gain
QUARTERS = 4  # a look reads one row, a quarter of what a tabu step costs; a swap costs as much as a step
ONE_LISTED_OF = 16  # entries of a row, on its list: nine looks in ten need no others

ROW, REST = 0, 1  # places in `reach`
_WORTH_A_LIST = 4  # looks at a row; to list its largest couplings takes about as long
_HALVINGS = 12  # of what the largest coupling is, at most, to find what few enough are larger than
_GOLDEN = 0.6180339887498949
_LANES, _ONE = np.uint64(LANES), np.uint64(1)
_NONE, _EACH = np.float32(0.0), np.float32(1.0)


@separate(
    nb.int64, Matrix, PairScan, State, Search, nb.int32, float, int, nogil=True, fastmath=True, error_model="numpy"
)  # fmt: skip
def descend_pairs(Q, pairs, state, search, now, target, quarters):  # type: ignore[no-untyped-def]
    """Take the best swap of each one in turn until no swap of any pair improves; for a single group.

    A swap gains only if its coupling makes up for the difference of the fields. The largest coupling rules out most
    ones of a good state; for most of the others the list of their largest couplings is enough, once there is one. The
    result is that of reading every row.

    Arrays:
        Q: couplings, float32 [n, n].
        pairs, state, search: what is kept between calls; `scan[QUIET]` is n when the descent is over.
        now: step from which the swapped variables may be swapped again, int32.
        target: energy (in half units) at which to return.
        quarters: most quarters of a tabu step to spend; looks at lists are free.

    Returns:
        Quarters of a step spent.
    """
    x, fields, leave_at, enter_at, account = state.x, state.fields, search.leave_at, search.enter_at, search.account
    reach, near, strong, looks, scan = pairs.reach, pairs.near, pairs.strong, pairs.looks, pairs.scan
    n = np.uint64(x.shape[0])
    i, quiet = np.uint64(scan[SLOT]), np.uint64(scan[QUIET])
    energy, least, step = account[PRESENT], account[GAIN], stride(n)
    asked = np.empty(x.shape[0], np.float32)
    lowest = _asked(fields, enter_at, asked)
    spent = 0
    while quiet < n and spent < quarters and energy > target:
        quiet += _ONE
        out = i
        i += step
        if i >= n:
            i -= n
        enough = lowest - fields[out] + least  # what a coupling must be for a swap to gain
        if not x[out] or enough > reach[ROW, out]:
            continue
        row = Q[out]
        if enough > reach[REST, out]:
            low = _least_of_list(asked, near[out], strong[out], enough)
        else:
            low = LARGE
            for l in range(n):
                low = lesser(low, asked[l] - row[l])
            spent += 1
            looks[out] += 1
            if looks[out] == 1:
                reach[ROW, out] = _largest_of(row)
            if looks[out] == _WORTH_A_LIST and near.shape[1]:
                reach[REST, out] = list_largest(row, reach[ROW, out], near[out], strong[out])
        change = np.float64(low) - np.float64(fields[out])
        if change >= -least:
            continue
        into = np.int64(0)
        for l in range(n):  # the last of equal ones: a loop without a way out is one for the vector unit
            into = np.int64(l) if asked[l] - row[l] == low else into
        spent += QUARTERS
        quiet = np.uint64(0)
        energy += change
        gained = Q[into]
        for l in range(n):
            fields[l] += gained[l] - row[l]
        x[out], x[into] = 0, 1
        leave_at[out], enter_at[into] = NEVER, NEVER
        enter_at[out], leave_at[into] = now, now
        lowest = _asked(fields, enter_at, asked)
    scan[SLOT], scan[QUIET] = i, quiet
    account[PRESENT] = energy
    return spent


@compiled(nogil=True, fastmath=True, error_model="numpy")
def take_back(Q, state, search, now):  # type: ignore[no-untyped-def]
    """Return the state and its fields to `search.best_x`, a state with as many ones, by swaps; return their number."""
    x, fields, best_x, leave_at, enter_at = state.x, state.fields, search.best_x, search.leave_at, search.enter_at
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


@compiled(nogil=True, error_model="numpy")
def stride(n):  # type: ignore[no-untyped-def]
    """How far apart in the list those are that are looked at in turn: so far that they seldom belong together.

    Variables of one neuron stand side by side, and a descent that looks at them in a row ends higher, after more looks.
    About n over the golden ratio, and without a divisor that n has: n such strides come by all.
    """
    step = np.uint64(_GOLDEN * np.float64(n)) + _ONE
    while True:
        a, b = n, step
        while b > np.uint64(0):
            a, b = b, a % b
        if a == _ONE:
            return step % n
        step += _ONE


@helper(nogil=True, fastmath=True, error_model="numpy")
def _asked(fields, enter_at, asked):  # type: ignore[no-untyped-def]
    """Fill in the field of each zero, and LARGE for ones; return the least."""
    lowest = LARGE
    for l in range(np.uint64(fields.shape[0])):
        asked[l] = fields[l] if enter_at[l] != NEVER else LARGE
        lowest = lesser(lowest, asked[l])
    return lowest


@helper(nogil=True, fastmath=True, error_model="numpy")
def _least_of_list(asked, near, strong, enough):  # type: ignore[no-untyped-def]
    """The least of what those on a list ask for less their couplings, where these are enough; LARGE if none are."""
    low = LARGE
    lo, end = np.uint64(0), np.uint64(near.shape[0])
    while lo < end and strong[lo] >= enough:
        hi = min(end, lo + _LANES)
        for t in range(lo, hi):
            low = lesser(low, asked[near[t]] - strong[t])
        lo = hi
    return low


@helper(nogil=True, fastmath=True, error_model="numpy")
def _largest_of(row):  # type: ignore[no-untyped-def]
    low = LARGE
    for l in range(np.uint64(row.shape[0])):
        low = lesser(low, -row[l])
    return -low


@compiled(nogil=True, fastmath=True, error_model="numpy")
def list_largest(row, largest, near, strong):  # type: ignore[no-untyped-def]
    """List the largest positive entries of a row, as many as there is room for, and return what no other exceeds.

    Counts are in float32, as those of integers would be widened to 64 bits and take twice as long.
    """
    n, room = np.uint64(row.shape[0]), np.float32(near.shape[0])
    rest, too_low = max(largest, _NONE), _NONE
    for _ in range(_HALVINGS):
        middle = np.float32(0.5) * (rest + too_low)
        above = _NONE
        for l in range(n):
            above += _EACH if row[l] > middle else _NONE
        if above > room:
            too_low = middle
        else:
            rest = middle
            if above == room:
                break
    where, what = np.empty(near.shape[0] + LANES, np.uint32), np.empty(near.shape[0] + LANES, np.float32)
    found = lo = np.uint64(0)
    while lo + _LANES <= n:
        found += put_larger(row, lo, rest, where, what, found)
        lo += _LANES
    for l in range(lo, n):
        if row[l] > rest:
            where[found], what[found] = l, row[l]
            found += _ONE
    near[:], strong[:] = 0, -LARGE
    what[found : found + _LANES] = -LARGE
    end = (found + _LANES - _ONE) // _LANES * _LANES
    for t in range(found):
        larger = _NONE
        for u in range(end):
            larger += _EACH if what[u] > what[t] else _NONE
        place = np.uint64(larger)
        while strong[place] > -LARGE:  # taken by an equal one
            place += _ONE
        near[place], strong[place] = where[t], what[t]
    return rest
