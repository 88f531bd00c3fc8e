"""Tabu search by swaps on a matrix.

The neighbourhood is that of constrained swaps for the maximum diversity problem (Palubeckis, "Iterated tabu search for
the maximum diversity problem", Applied Mathematics and Computation 189, 2007), but of the swaps of a state the search
looks only at those of its best leaver: O(n) a step, where the papers look at pairs of two candidate lists.

Loops over variables are written for the vector unit: whole rows, no branches; a minimum first, then where it is.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from problems.compiling import compiled, helper
from solvers.local.kernels.lanes import lesser
from solvers.local.kernels.random import next64
from solvers.local.kernels.separate import separate
from solvers.local.kernels.states import copy
from solvers.local.kernels.structures import GroupLayout, Matrix, Search, State, Stream

LARGE = np.float32(1e30)
NEVER = np.int32(2**31 - 1)
ROUNDING = 1e-6  # share of the largest field by which a state must be better: less may be the rounding of float32
PRESENT, BEST, GAIN = 0, 1, 2  # places in `account`: energy of the present state, of the best, least gain that counts

_SMALL = 16  # groups of at most so many variables are looked at pair by pair: 64 pairs, cheaper than to be clever
_S16, _S32, _S48, _M16 = np.uint64(16), np.uint64(32), np.uint64(48), np.uint64(0xFFFF)
_ZERO, _ONE = np.uint64(0), np.uint64(1)
_BLOCK = np.uint64(128)  # variables whose minimum is taken before it is looked for: eight vectors of 512 bits
_LONGEST = 100  # times the patience, and four steps a variable: a search is over by then, whatever it finds


@compiled(nogil=True, error_model="numpy")
def begin_search(fields, energy, clock, account):  # type: ignore[no-untyped-def]
    """Set clock and account for a search from a state of these fields and this energy."""
    size = 0.0
    for l in range(fields.shape[0]):
        size = max(size, abs(fields[l]))
    clock[0] = clock[1] = 0
    account[PRESENT], account[BEST], account[GAIN] = energy, energy, ROUNDING * size


@helper(nogil=True, error_model="numpy")
def search_is_over(patience, n, target, clock, account):  # type: ignore[no-untyped-def]
    """Whether a search has nothing more to do: the loops of the kernels below end for the same reasons."""
    return (
        clock[0] - clock[1] >= patience or clock[0] >= _LONGEST * patience + 4 * n or account[BEST] <= target
    )  # fmt: skip


# No sums in another order: the rows of a swap are added in one of two places, as a halt may fall between two steps, and
# what a clock decides must not change a bit.
@separate(
    nb.int64, Matrix, State, Search, int, float, Stream, int,
    nogil=True, fastmath={"nnan", "ninf", "nsz", "arcp", "contract", "afn"}, error_model="numpy",
)  # fmt: skip
def tabu_matrix(Q, state, search, patience, target, stream, steps):  # type: ignore[no-untyped-def]
    """Take tabu steps among the swaps of a single group of variables.

    A step has three phases, each a pass over all variables: add the rows of the last swap to the fields and find the
    best leaver; find the best enterer for it; make the swap. The rows are added one step late, as the next pass reads
    the fields anyway; those of the last swap are added on return, so that fields are right between calls.

    Arrays:
        Q: couplings, float32 [n, n].
        state, search: what is kept between calls; `order` and `place` of the state are not used.
        patience: steps without a better state after which to return.
        target: energy (in half units) at which to return.
        stream: random stream.
        steps: most steps to take.

    Returns:
        Number of steps taken.
    """
    x, fields, best_x = state.x, state.fields, search.best_x
    leave_at, enter_at = search.leave_at, search.enter_at
    tenures, clock, account = search.tenures, search.clock, search.account
    n = np.uint64(x.shape[0])  # unsigned, as an index that cannot be negative makes shorter loops
    now, found = np.int32(clock[0]), np.int32(clock[1])
    energy, best, least = account[PRESENT], account[BEST], account[GAIN]
    longest = _LONGEST * patience + 4 * x.shape[0]
    stay, stay_spread = np.int32(tenures[0]), np.uint64(tenures[1])
    away, away_spread = np.int32(tenures[2]), np.uint64(tenures[3])
    shuffle = np.int32(1)
    while shuffle < x.shape[0]:
        shuffle *= np.int32(2)
    shuffle -= np.int32(1)
    out, into = np.int32(0), np.int32(0)
    moved = False
    done = 0
    while done < steps and now - found < patience and now < longest and best > target:
        done += 1
        now += np.int32(1)
        bits = next64(stream)
        # Minima are taken a block at a time; of equal ones the first or the last block's wins, and in it the variable
        # whose index, its bits flipped at random, is least: so none is always the first.
        flip = np.int32(bits & _M16) & shuffle
        last = (bits >> _S48) & _ONE
        low, block, lo = LARGE, _ZERO, _ZERO
        gained, lost = Q[into], Q[out]
        while lo < n:
            hi = min(n, lo + _BLOCK)
            here = LARGE
            if moved:  # the rows of the last swap are added in the same pass
                for l in range(lo, hi):
                    field = fields[l] + (gained[l] - lost[l])
                    fields[l] = field
                    here = lesser(here, -field if leave_at[l] <= now else LARGE)
            else:
                for l in range(lo, hi):
                    here = lesser(here, -fields[l] if leave_at[l] <= now else LARGE)
            if here < low or (here == low and last):
                low, block = here, lo
            lo += _BLOCK
        moved = False
        if low == LARGE:
            continue
        key = NEVER
        for l in range(block, min(n, block + _BLOCK)):
            same = (leave_at[l] <= now) & (-fields[l] == low)
            index = np.int32(l) ^ flip
            key = min(key, index if same else NEVER)
        out = key ^ flip
        row = Q[out]
        low, block, lo = LARGE, _ZERO, _ZERO
        while lo < n:
            hi = min(n, lo + _BLOCK)
            here = LARGE
            for l in range(lo, hi):
                here = lesser(here, fields[l] - row[l] if enter_at[l] <= now else LARGE)
            if here < low or (here == low and last):
                low, block = here, lo
            lo += _BLOCK
        if low == LARGE:
            continue
        key = NEVER
        for l in range(block, min(n, block + _BLOCK)):
            same = (enter_at[l] <= now) & (fields[l] - row[l] == low)
            index = np.int32(l) ^ flip
            key = min(key, index if same else NEVER)
        into = key ^ flip
        moved = True
        energy += np.float64(low) - np.float64(fields[out])
        x[out], x[into] = 0, 1
        leave_at[out], enter_at[into] = NEVER, NEVER
        enter_at[out] = now + away + np.int32((((bits >> _S16) & _M16) * away_spread) >> _S16)
        leave_at[into] = now + stay + np.int32((((bits >> _S32) & _M16) * stay_spread) >> _S16)
        if energy < best - least:
            best = energy
            copy(x, best_x)
            found = now
    if moved:
        gained, lost = Q[into], Q[out]
        for l in range(n):
            fields[l] += gained[l] - lost[l]
    clock[0], clock[1] = now, found
    account[PRESENT], account[BEST] = energy, best
    return done


@separate(
    nb.int64, Matrix, GroupLayout, State, Search, int, float, Stream, int,
    nogil=True, fastmath=True, error_model="numpy",
)  # fmt: skip
def tabu_groups(Q, groups, state, search, patience, target, stream, steps):  # type: ignore[no-untyped-def]
    """As :func:`tabu_matrix`, where a variable may only be swapped with one of its group.

    A step takes the best swap over all groups: the best of all pairs of a small group, the best pair of the best
    leaver of a large one. `order` and `place` of the state are updated too.
    """
    x, fields, order, place, best_x = state.x, state.fields, state.order, state.place, search.best_x
    starts, counts = groups.starts, groups.counts
    leave_at, enter_at = search.leave_at, search.enter_at
    tenures, clock, account = search.tenures, search.clock, search.account
    n = x.shape[0]
    number = counts.shape[0]
    now, found = np.int32(clock[0]), np.int32(clock[1])
    energy, best, least = account[PRESENT], account[BEST], account[GAIN]
    longest = _LONGEST * patience + 4 * x.shape[0]
    stay, stay_spread = np.int32(tenures[0]), np.uint64(tenures[1])
    away, away_spread = np.int32(tenures[2]), np.uint64(tenures[3])
    done = 0
    while done < steps and now - found < patience and now < longest and best > target:
        done += 1
        now += np.int32(1)
        bits = next64(stream)
        # Groups are looked at from a random one on: of equal swaps no group's is always taken.
        g = np.int64(((bits >> _S32) * np.uint64(number)) >> _S32)
        low = LARGE
        out, into = np.int32(0), np.int32(0)
        for _ in range(number):
            lo, mid, hi = starts[g], starts[g] + counts[g], starts[g + 1]
            if hi - lo <= _SMALL:
                for a in range(lo, mid):
                    i = order[a]
                    if leave_at[i] > now:
                        continue
                    for b in range(mid, hi):
                        j = order[b]
                        change = fields[j] - fields[i] - Q[i, j]
                        if change < low and enter_at[j] <= now:
                            low = change
                            out, into = i, j
            else:
                leaver = np.int64(-1)
                for a in range(lo, mid):
                    if leave_at[order[a]] <= now and (leaver < 0 or fields[order[a]] > fields[leaver]):
                        leaver = order[a]
                if leaver >= 0:
                    i = order[place[leaver]]
                    row = Q[i]
                    for b in range(mid, hi):
                        j = order[b]
                        change = fields[j] - fields[i] - row[j]
                        if change < low and enter_at[j] <= now:
                            low = change
                            out, into = i, j
            g += 1
            if g == number:
                g = np.int64(0)
        if low == LARGE:
            continue
        energy += np.float64(low)
        a, b = place[out], place[into]
        order[a], order[b] = into, out
        place[out], place[into] = b, a
        x[out], x[into] = 0, 1
        leave_at[out], enter_at[into] = NEVER, NEVER
        enter_at[out] = now + away + np.int32(((bits & _M16) * away_spread) >> _S16)
        leave_at[into] = now + stay + np.int32((((bits >> _S16) & _M16) * stay_spread) >> _S16)
        gained, lost = Q[into], Q[out]
        for l in range(n):
            fields[l] += gained[l] - lost[l]
        if energy < best - least:
            best = energy
            copy(x, best_x)
            found = now
    clock[0], clock[1] = now, found
    account[PRESENT], account[BEST] = energy, best
    return done
