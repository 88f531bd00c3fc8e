"""Annealing by swaps: one kernel for matrices, one for factors.

Both scan the variables in order, which streams memory, and draw a partner for each at random among those that may be
swapped with it. `progress` and `account` ([energy]) hold all that the next call needs to continue.

What differs from textbook annealing:
1. The accepted change of energy is drawn before the change is computed (-T log u; Metropolis' rule in another order).
2. Weakly coupled variables propose no swaps while it is hot, see :func:`wake_temperatures`.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from problems.compiling import compiled, helper
from solvers.local.kernels.pairs import ROW, descend_pairs
from solvers.local.kernels.random import GAMMA, below, exponential, mixed, next64, share
from solvers.local.kernels.separate import read_only, separate
from solvers.local.kernels.states import arrange, copy, largest
from solvers.local.kernels.structures import (
    Annealing,
    Bytes2,
    Doubles,
    Floats,
    GroupLayout,
    Kernels,
    Longs,
    Matrix,
    PairScan,
    Search,
    State,
    Stream,
)
from solvers.local.kernels.tabu import GAIN, LARGE, NEVER, ROUNDING

STRETCH_BYTES = 1 << 19  # of a large factor: two such stretches of rows fit the second-level cache
NEAR_BYTES = 1 << 21  # a matrix of at most this size stays in the second-level cache
MOST_DISPUTED = 4096  # variables whose matrix is copied to be annealed: 64 MiB
_ROWS = 256  # random rows from which all norms are estimated: the matrix is symmetric
_DRAWS = 16  # for a partner within a stretch: enough where one variable in four is of its kind


@separate(
    nb.int64, Matrix, Floats, GroupLayout, State, Annealing, float, Doubles, Stream, int,
    nogil=True, fastmath=True, error_model="numpy",
)  # fmt: skip
def anneal_matrix(  # type: ignore[no-untyped-def]
    Q, reach, groups, state, annealing, target, account, stream, proposals
):  # fmt: skip
    """Propose swaps until the last sweep ends, the energy reaches the target or `proposals` were made.

    Nine proposals in ten are rejected. They are made without an unpredictable branch, and the largest acceptable change
    is drawn before the change itself is known, so that a processor works on several proposals at once and does not wait
    for the couplings that it reads at random. In a matrix larger than `NEAR_BYTES` a coupling is read only if the
    largest of its row could make the swap acceptable.

    Arrays:
        Q: couplings, float32 [n, n].
        reach: largest entry of each row of Q, float32 [n]; LARGE where it is not known.
        groups: which variables may be swapped.
        state, annealing: what is kept between calls.
        target: energy (in half units) at which to return.
        account: [energy], float64; updated.
        stream: random stream.
        proposals: most proposals to make; those of variables that are not awake count too.

    Returns:
        Number of proposals.
    """
    x, fields, order, place = state.x, state.fields, state.order, state.place
    group, starts, counts = groups.of, groups.starts, groups.counts
    temperatures, awake, progress = annealing.temperatures, annealing.awake, annealing.progress
    n = x.shape[0]
    sweep, i = progress[0], progress[1]
    energy = account[0]
    one_group, far = counts.shape[0] == 1, 4 * Q.size > NEAR_BYTES
    lo, k, hi = 0, counts[0], n
    listed = np.empty(n, np.int32)
    counter = stream[0]
    done = 0
    while done < proposals and sweep < temperatures.shape[0] and energy > target:
        temperature = temperatures[sweep]
        stretch = min(n, i + proposals - done)
        done += stretch - i
        up = 0
        for l in range(i, stretch):
            listed[up] = l
            up += temperature <= awake[l]
        for t in range(up):
            i = np.int64(listed[t])
            if not one_group:
                g = group[i]
                lo, k, hi = starts[g], counts[g], starts[g + 1]
            mid = lo + k
            if k == 0 or mid == hi:
                continue
            counter += GAMMA
            bits = mixed(counter)
            leaves = x[i] == 1
            partner = order[(mid if leaves else lo) + share(bits, hi - mid if leaves else k)]
            most = temperature * exponential(bits)
            sign = np.float32(1.0) if leaves else np.float32(-1.0)
            apart = sign * (fields[partner] - fields[i])
            if far and apart - reach[i] > most:
                continue
            change = apart - Q[i, partner]
            if change > most:
                continue
            energy += change
            out, into = (i, partner) if leaves else (partner, i)
            a, b = place[out], place[into]
            order[a], order[b] = into, out
            place[out], place[into] = b, a
            x[out], x[into] = 0, 1
            gained, lost = Q[into], Q[out]
            for l in range(n):
                fields[l] += gained[l] - lost[l]
            if energy <= target:
                done -= stretch - i - 1
                stretch = i + 1
                break
        sweep, i = (sweep + 1, 0) if stretch == n else (sweep, stretch)
    progress[0], progress[1] = sweep, i
    account[0] = energy
    stream[0] = counter
    return done


@helper(nogil=True, error_model="numpy")
def sorted_copy(values):  # type: ignore[no-untyped-def]
    """The values [t] in ascending order, by heapsort: numba's own `np.sort` takes ten times as long to compile."""
    heap = np.empty_like(values)
    copy(values, heap)
    end = heap.shape[0]
    root = end // 2
    while end > 1:
        if root > 0:  # first make a heap, then take the largest off it, again and again
            root -= 1
            value = heap[root]
        else:
            end -= 1
            value, heap[end] = heap[end], heap[0]
        hole = root
        child = 2 * hole + 1
        while child < end:
            if child + 1 < end and heap[child + 1] > heap[child]:
                child += 1
            if heap[child] <= value:
                break
            heap[hole] = heap[child]
            hole = child
            child = 2 * hole + 1
        heap[hole] = value
    return heap


_anneal_matrix, _descend_pairs = anneal_matrix.at, descend_pairs.at


@compiled(nogil=True, fastmath=True, error_model="numpy")
def wake_temperatures(Q, hot, stream, awake):  # type: ignore[no-untyped-def]
    """Fill in the temperature from which each variable proposes swaps, by the norm of its row.

    In a block with heavy-tailed couplings half of the variables hardly affect the others. At high temperature nearly
    all of their swaps are accepted, cost as much as any other swap, and decide nothing: a final descent places these
    variables as well. So the largest twentieth is awake from `hot` on, and each other variable from a temperature
    lower in proportion to its norm. Norms are capped at twice the upper quartile, so that outliers do not put all
    others to sleep. The annealing of an offspring begins hotter than that of a start, with few variables awake.

    Arrays:
        Q: couplings, float32 [n, n].
        hot: first temperature of a start's annealing.
        stream: random stream.
        awake: filled in, float32 [n].
    """
    n = Q.shape[0]
    rows = min(n, _ROWS)
    awake[:] = 0.0
    for _ in range(rows):
        row = Q[below(stream, n)]
        for l in range(n):
            awake[l] += row[l] * row[l]
    if _is_missed(Q, awake):  # a sparse problem, of which a few rows are not enough
        for i in range(n):
            row = Q[i]
            square = np.float32(0.0)
            for l in range(n):
                square += row[l] * row[l]
            awake[i] = square
    sizes = sorted_copy(awake)
    large = math.sqrt(min(sizes[n - 1 - n // 20], 4.0 * sizes[n - 1 - n // 4]))
    for l in range(n):
        awake[l] = hot * math.sqrt(awake[l]) / large if large > 0.0 else hot


@helper(nogil=True, error_model="numpy")
def _is_missed(Q, sums):  # type: ignore[no-untyped-def]
    """Whether some variable is coupled to others, but to none of the rows that were summed."""
    for i in range(Q.shape[0]):
        if sums[i] == 0.0:
            for l in range(Q.shape[0]):
                if Q[i, l] != 0.0:
                    return True
    return False


@separate(
    nb.types.Tuple((nb.int64, nb.float64, nb.int64)), Kernels, Matrix, Floats, State, Bytes2, Longs, int, Floats,
    Stream, nogil=True, fastmath=True, error_model="numpy",
)  # fmt: skip
def anneal_disputed(  # type: ignore[no-untyped-def]
    kernels, Q, awake, state, others, chosen, least, temperatures, stream
):  # fmt: skip
    """Anneal the variables in which a state differs from any of some others, and keep most of those that all share.

    Good states of one problem share most of their variables, so this is the annealing of a far smaller problem, whose
    matrix fits a nearer cache. It begins hot, as nothing of the parent's disputed variables needs to be kept, and ends
    with a descent among pairs of disputed variables, which costs far less than one among all. Where these are few,
    random others are annealed with them: the members of a population may agree on variables that a better state sets
    otherwise.

    Arrays:
        kernels: addresses of `anneal` and `descend`.
        Q: couplings, float32 [n, n].
        awake: temperature from which each variable proposes swaps, float32 [n].
        state: the state; x and fields are updated.
        others: states with as many ones, uint8 [p, n].
        chosen: which of them count, int64 [c].
        least: least number of variables to anneal, a quarter of all at most; 0 for the disputed ones alone.
        temperatures: temperature of each sweep, float32 [s].
        stream: random stream.

    Returns:
        Number of swaps made in the state, change of energy, and number of proposals. Where fewer than four variables
        would be annealed, or more than `MOST_DISPUTED` are disputed, the state stays as it was.
    """
    x, fields = state.x, state.fields
    n = x.shape[0]
    disputed = np.empty(n, np.int32)
    m = ones = 0
    for i in range(n):
        differs = False
        for c in chosen:
            differs |= x[i] != others[c, i]
        if differs:
            disputed[m] = i
            m += 1
            ones += x[i]
    if m > MOST_DISPUTED:
        return 0, 0.0, 0
    together = _with_others(disputed, m, min(least, n // 4), awake, stream)
    for a in range(m, together):
        ones += x[disputed[a]]
    m = together
    if m < 4 or ones == 0 or ones == m:
        return 0, 0.0, 0
    # The sub-problem of the m variables: its couplings, its state, and the fields that the others hold fixed.
    part, reach, part_awake = np.empty((m, m), np.float32), np.full((2, m), LARGE), np.empty(m, np.float32)
    inner = State(
        np.empty(m, np.uint8), np.empty(m, np.float32), np.arange(m, dtype=np.int32), np.empty(m, np.int32)
    )  # fmt: skip
    for a in range(m):
        row, copied = Q[disputed[a]], part[a]
        for b in range(m):
            copied[b] = row[disputed[b]]
        inner.x[a], inner.fields[a], part_awake[a] = x[disputed[a]], fields[disputed[a]], awake[disputed[a]]
    groups = GroupLayout(
        np.zeros(m, np.int32), inner.order.copy(), np.array([0, m], np.int32), np.array([ones], np.int32)
    )  # fmt: skip
    arrange(inner.x, groups, inner.order, inner.place)
    couplings = read_only(part)
    account, progress = np.zeros(4), np.zeros(2, np.int64)
    account[GAIN] = ROUNDING * largest(inner.fields)
    done = _anneal_matrix(
        kernels.anneal, couplings, reach[ROW], groups, inner, Annealing(temperatures, part_awake, progress), -np.inf,
        account, stream, temperatures.shape[0] * m,
    )  # fmt: skip
    for a in range(m):  # the arrays of the order, no longer needed, become those of the tenures
        inner.order[a] = 0 if inner.x[a] else NEVER
        inner.place[a] = NEVER if inner.x[a] else 0
    account[GAIN] = max(account[GAIN], ROUNDING * largest(inner.fields))
    progress[:] = 0
    pairs = PairScan(
        reach, np.empty((m, 0), np.uint32), np.empty((m, 0), np.float32), np.zeros(m, np.int32), progress
    )  # fmt: skip
    search = Search(inner.order, inner.place, inner.x, progress, progress, account)
    _descend_pairs(kernels.descend, couplings, pairs, inner, search, np.int32(0), -np.inf, n * m)
    change = 0.0
    swaps = a = b = 0
    while True:
        while a < m and inner.x[a] >= x[disputed[a]]:
            a += 1
        while b < m and inner.x[b] <= x[disputed[b]]:
            b += 1
        if a == m or b == m:
            return swaps, change, done
        out, into = disputed[a], disputed[b]
        change += np.float64(fields[into]) - np.float64(fields[out]) - np.float64(Q[out, into])
        x[out], x[into] = 0, 1
        gained, lost = Q[into], Q[out]
        for l in range(n):
            fields[l] += gained[l] - lost[l]
        swaps += 1


@helper(nogil=True, error_model="numpy")
def _with_others(variables, count, enough, awake, stream):  # type: ignore[no-untyped-def]
    """Append random others to the first `count` variables until there are `enough`; return their number.

    Of two drawn at random the one with larger couplings is taken: its change is more likely to change others.
    """
    n = awake.shape[0]
    taken = np.zeros(n, np.bool_)
    for a in range(count):
        taken[variables[a]] = True
    while count < enough:
        one, other = below(stream, n), below(stream, n)
        if taken[one] or (not taken[other] and awake[other] > awake[one]):
            one = other
        if not taken[one]:
            taken[one] = True
            variables[count] = one
            count += 1
    return count


@compiled(nogil=True, fastmath=True, error_model="numpy")
def anneal_factor(  # type: ignore[no-untyped-def]
    A, linear, groups, state, residual, annealing, target, account, stream, proposals
):  # fmt: skip
    """As :func:`anneal_matrix`, for e(x) = 1/2 |A^T x|^2 + c.x: O(rank) a proposal, for any n.

    With r = A^T x and d = A_j - A_i, the swap of i for j changes e by d.(r + d/2) + c_j - c_i. Variables are scanned in
    order, so one of the two rows is prefetched. So is the other where the factor is large and there is one group: the
    variables of one stretch of rows then have their partners in another stretch, drawn anew in each sweep.

    Arrays:
        A: factor, float32 [n, rank].
        linear: c, float32 [n].
        groups, annealing, target, account, stream, proposals: as for :func:`anneal_matrix`; all variables are awake.
        state: what is kept between calls; its fields hold r rounded to float32 [rank], for scoring.
        residual: r, float64 [rank]; updated. In float64 it needs no refreshing: 10^9 swaps leave 12 digits right.
    """
    x, rounded, order, place = state.x, state.fields, state.order, state.place
    group, starts, counts = groups.of, groups.starts, groups.counts
    temperatures, progress = annealing.temperatures, annealing.progress
    n, rank = A.shape
    stretch_of = max(64, STRETCH_BYTES // (4 * max(rank, 1)))
    half = np.float32(0.5)
    sweep, i = progress[0], progress[1]
    energy = account[0]
    one_group = counts.shape[0] == 1
    lo, k, hi = 0, counts[0], n
    near = one_group and n > 4 * stretch_of
    done = 0
    while done < proposals and sweep < temperatures.shape[0] and energy > target:
        temperature = temperatures[sweep]
        stretch = min(n, i + proposals - done)
        done += stretch - i
        while i < stretch:
            if not one_group:
                g = group[i]
                lo, k, hi = starts[g], counts[g], starts[g + 1]
            mid = lo + k
            if k == 0 or mid == hi:
                i += 1
                continue
            partner = -1
            if near:
                if i % stretch_of == 0:
                    progress[2] = below(stream, n - stretch_of + 1)
                for _ in range(_DRAWS):
                    j = progress[2] + below(stream, stretch_of)
                    if x[j] != x[i]:
                        partner = j
                        break
            if partner < 0:
                partner = order[mid + below(stream, hi - mid)] if x[i] else order[lo + below(stream, k)]
            out, into = (i, partner) if x[i] else (partner, i)
            gained, lost = A[into], A[out]
            change = np.float32(0.0)
            for l in range(rank):
                d = gained[l] - lost[l]
                change += d * (rounded[l] + half * d)
            change += linear[into] - linear[out]
            if change <= temperature * exponential(next64(stream)):
                energy += change
                a, b = place[out], place[into]
                order[a], order[b] = into, out
                place[out], place[into] = b, a
                x[out], x[into] = 0, 1
                for l in range(rank):
                    residual[l] += np.float64(gained[l]) - np.float64(lost[l])
                    rounded[l] = residual[l]
                if energy <= target:
                    done -= stretch - i - 1
                    stretch = i + 1
            i += 1
        if i >= n:
            sweep += 1
            i = 0
    progress[0], progress[1] = sweep, i
    account[0] = energy
    return done


@compiled(nogil=True, fastmath=True, error_model="numpy")
def matrix_swap_changes(Q, groups, state, stream, changes):  # type: ignore[no-untyped-def]
    """Fill in changes of energy by random feasible swaps of one state, float32 [t], from which temperatures follow."""
    order, fields = state.order, state.fields
    for t in range(changes.shape[0]):
        out, into = _random_swap(order, groups, stream)
        changes[t] = fields[into] - fields[out] - Q[out, into]


@compiled(nogil=True, fastmath=True, error_model="numpy")
def factor_swap_changes(A, linear, groups, state, stream, changes):  # type: ignore[no-untyped-def]
    """As :func:`matrix_swap_changes`, for a factor and the state of :func:`anneal_factor`."""
    order, rounded = state.order, state.fields
    half = np.float32(0.5)
    for t in range(changes.shape[0]):
        out, into = _random_swap(order, groups, stream)
        gained, lost = A[into], A[out]
        change = linear[into] - linear[out]
        for l in range(A.shape[1]):
            d = gained[l] - lost[l]
            change += d * (rounded[l] + half * d)
        changes[t] = change


@helper(nogil=True)
def _random_swap(order, groups, stream):  # type: ignore[no-untyped-def]
    # A group is drawn in proportion to its variables; one that is all ones or all zeros has no swap and is drawn again.
    n, starts, counts = order.shape[0], groups.starts, groups.counts
    while True:
        slot = below(stream, n)
        g, end = 0, counts.shape[0]
        while end - g > 1:  # the last group that starts at the slot or before
            middle = (g + end) // 2
            if starts[middle] <= slot:
                g = middle
            else:
                end = middle
        lo, k, hi = starts[g], counts[g], starts[g + 1]
        if 0 < k < hi - lo:
            return order[lo + below(stream, k)], order[lo + k + below(stream, hi - lo - k)]
