"""Annealing by swaps: one kernel for matrices, one for factors.

Both scan the variables in order, which streams memory, and draw a partner for each at random among those that may be
swapped with it. `progress` holds [sweep, variable], and for factors where partners come from; `account` holds [energy];
both say where the next proposal goes on.
"""

from __future__ import annotations

import math

import numpy as np

from problems.compiling import compiled
from solvers.local.kernels.pairs import ROW, descend_pairs
from solvers.local.kernels.random import GAMMA, below, exponential, mixed, next64, share
from solvers.local.kernels.states import arrange, largest
from solvers.local.kernels.tabu import GAIN, LARGE, NEVER, ROUNDING

STRETCH_BYTES = 1 << 19  # of a large factor: two such stretches stay in the second cache while they are worked on
NEAR_BYTES = 1 << 21  # of a matrix that stays in the second cache, to be read without a thought
MOST_DISPUTED = 4096  # variables whose matrix is copied to be annealed: 64 MiB
_ROWS = 256  # that tell the norms of all: the matrix is symmetric
_DRAWS = 16  # for a partner within a stretch: enough where one variable in four is of its kind


@compiled(nogil=True, fastmath=True, error_model="numpy")
def anneal_matrix(  # type: ignore[no-untyped-def]
    Q, reach, awake, fields, x, order, place, group, starts, counts, temperatures, target, progress, account, stream,
    proposals,
):  # fmt: skip
    """Propose so many swaps, or fewer where the last sweep ends or the energy comes down to the target.

    Nine proposals in ten are turned down. They are made without a branch that could go either way, and what a swap may
    cost is drawn before what it does cost is known: so a processor is at several of them at once, and does not wait for
    the couplings that it reads here and there. Where these lie far away, in a matrix larger than `NEAR_BYTES`, they are
    read only if the largest of the row could make the swap acceptable.

    Arrays:
        Q: couplings, float32 [n, n].
        reach: largest entry of each row of Q, float32 [n]; LARGE where it is not known.
        awake: temperature down to which each variable sleeps, and proposes no swap, float32 [n]; see
            :func:`wake_temperatures`.
        fields: g = s + Q x, float32 [n]; kept up.
        x: the state, uint8 [n]; kept up.
        order, place: variables by group, ones first, and where each stands, int32 [n]; kept up.
        group, starts, counts: groups as in :class:`solvers.local.arrays.Groups`.
        temperatures: one for each sweep, float32 [s].
        target: energy (in half units) at which to return.
        progress: [sweep, variable] of the next proposal, int64 [2].
        account: [energy], float64 [1].
        stream: random stream, uint64 [1].
        proposals: how many to make at most, those that a sleeper does not make among them.

    Returns:
        How many were made.
    """
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


@compiled(nogil=True, fastmath=True, error_model="numpy")
def wake_temperatures(Q, hot, stream, awake):  # type: ignore[no-untyped-def]
    """Temperatures from which variables are worth an annealer's time, by the size of their rows.

    In a block of heavy tails half of the variables hardly touch the others. While it is hot, nearly all of their swaps
    are accepted, each at the price of any other swap, and settle nothing: a descent finds as well where they end. So
    the largest twentieth is awake from `hot` on, and others from a temperature as much lower as their rows are;
    outliers, of twice the norm that one in four exceeds, do not send the rest to sleep. A child's annealing begins
    hotter, with few awake.

    Arrays:
        Q: couplings, float32 [n, n].
        hot: temperature at the beginning of a start's annealing.
        stream: random stream, uint64 [1].
        awake: what is filled in, float32 [n].
    """
    n = Q.shape[0]
    rows = min(n, _ROWS)
    awake[:] = 0.0
    for _ in range(rows):
        row = Q[below(stream, n)]
        for l in range(n):
            awake[l] += row[l] * row[l]
    if _is_missed(Q, awake):  # a sparse problem, of which a few rows tell little
        for i in range(n):
            row = Q[i]
            square = np.float32(0.0)
            for l in range(n):
                square += row[l] * row[l]
            awake[i] = square
    sizes = np.sort(awake)
    large = math.sqrt(min(sizes[n - 1 - n // 20], 4.0 * sizes[n - 1 - n // 4]))
    for l in range(n):
        awake[l] = hot * math.sqrt(awake[l]) / large if large > 0.0 else hot


@compiled(nogil=True, error_model="numpy")
def _is_missed(Q, sums):  # type: ignore[no-untyped-def]
    """Whether a variable is coupled to others, and to none of the rows that were summed."""
    for i in range(Q.shape[0]):
        if sums[i] == 0.0:
            for l in range(Q.shape[0]):
                if Q[i, l] != 0.0:
                    return True
    return False


@compiled(nogil=True, fastmath=True, error_model="numpy")
def anneal_disputed(Q, awake, x, others, chosen, least, fields, temperatures, stream):  # type: ignore[no-untyped-def]
    """Anneal the variables in which a state differs from any of some others; most of those that all share stay.

    Good states of one problem share most of their variables, so this is an annealing of a far smaller problem, whose
    matrix fits a nearer cache. It begins hot, as nothing of a parent needs to be left among what they dispute, and ends
    with a descent among pairs of the disputed ones, which costs far less than one among all. Where they are few, others
    may join them at random: a population comes to agree on a state that is a few swaps from a better one, and could
    never make those swaps by its disputes alone.

    Arrays:
        Q: couplings, float32 [n, n].
        awake: as :func:`anneal_matrix` takes it.
        x: the state, uint8 [n]; kept up.
        others, chosen: states with as many ones, uint8 [p, n], and which of them count, int64 [c].
        least: how many variables are annealed at least, a quarter of all at most; 0 for the disputed ones alone.
        fields: those of x, float32 [n]; kept up.
        temperatures: one for each sweep, float32 [s].
        stream: random stream, uint64 [1].

    Returns:
        Swaps by which x has changed, the change of energy, and how many proposals were made. Where fewer than four
        variables would be annealed, or more than `MOST_DISPUTED` are disputed, x stays as it was.
    """
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
    together = _joined(disputed, m, min(least, n // 4), awake, stream)
    for a in range(m, together):
        ones += x[disputed[a]]
    m = together
    if m < 4 or ones == 0 or ones == m:
        return 0, 0.0, 0
    part, part_x, reach = np.empty((m, m), np.float32), np.empty(m, np.uint8), np.full((2, m), LARGE)
    part_fields, part_awake = np.empty(m, np.float32), np.empty(m, np.float32)
    for a in range(m):
        row, copied = Q[disputed[a]], part[a]
        for b in range(m):
            copied[b] = row[disputed[b]]
        part_x[a], part_fields[a], part_awake[a] = x[disputed[a]], fields[disputed[a]], awake[disputed[a]]
    order, place, group = np.arange(m, dtype=np.int32), np.empty(m, np.int32), np.zeros(m, np.int32)
    starts, counts = np.array([0, m], np.int32), np.array([ones], np.int32)
    arrange(part_x, order.copy(), starts, counts, order, place)
    account, progress = np.zeros(3), np.zeros(2, np.int64)
    account[GAIN] = ROUNDING * largest(part_fields)
    done = anneal_matrix(
        part, reach[ROW], part_awake, part_fields, part_x, order, place, group, starts, counts, temperatures, -np.inf,
        progress, account, stream, temperatures.shape[0] * m,
    )  # fmt: skip
    for a in range(m):  # from here on they mean when a variable may leave, and when it may enter
        order[a] = 0 if part_x[a] else NEVER
        place[a] = NEVER if part_x[a] else 0
    account[GAIN] = max(account[GAIN], ROUNDING * largest(part_fields))
    progress[:] = 0
    descend_pairs(
        part, reach, np.empty((m, 0), np.uint32), np.empty((m, 0), np.float32), np.zeros(m, np.int32), part_fields,
        part_x, order, place, progress, np.int32(0), -np.inf, account, n * m,
    )  # fmt: skip
    change = 0.0
    swaps = a = b = 0
    while True:
        while a < m and part_x[a] >= x[disputed[a]]:
            a += 1
        while b < m and part_x[b] <= x[disputed[b]]:
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


@compiled(nogil=True, error_model="numpy")
def _joined(variables, count, enough, awake, stream):  # type: ignore[no-untyped-def]
    """Let others join the first `count` variables until there are `enough`; return how many there are.

    Of two drawn at random the one of larger couplings joins: it is more likely to be one whose change changes others.
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
    A, linear, residual, rounded, x, order, place, group, starts, counts,
    temperatures, target, progress, account, stream, proposals,
):  # fmt: skip
    """As :func:`anneal_matrix`, for e(x) = 1/2 |A^T x|^2 + c.x: O(rank) a proposal, whatever n is.

    With r = A^T x and d = A_j - A_i, the swap of i for j changes e by d.(r + d/2) + c_j - c_i. Variables are scanned in
    order, so one of the two rows comes from memory before it is asked for. So does the other where the factor is large
    and there is one group: the variables of one stretch then have their partners in another, drawn for each sweep anew.

    Arrays:
        A: factor, float32 [n, rank].
        linear: c, float32 [n].
        residual: r, float64 [rank]; kept up. In float64 it needs no refreshing: 10^9 swaps leave 12 digits right.
        rounded: r in float32 [rank], for scoring; kept up.
        progress: [sweep, variable, first variable of the stretch that partners come from], int64 [3].
    """
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
def matrix_swap_changes(Q, fields, order, starts, counts, stream, changes):  # type: ignore[no-untyped-def]
    """Changes of energy by random feasible swaps of one state, float32 [t]: what temperatures are measured by."""
    for t in range(changes.shape[0]):
        out, into = _random_swap(order, starts, counts, stream)
        changes[t] = fields[into] - fields[out] - Q[out, into]


@compiled(nogil=True, fastmath=True, error_model="numpy")
def factor_swap_changes(A, linear, rounded, order, starts, counts, stream, changes):  # type: ignore[no-untyped-def]
    """As :func:`matrix_swap_changes`, for a factor."""
    half = np.float32(0.5)
    for t in range(changes.shape[0]):
        out, into = _random_swap(order, starts, counts, stream)
        gained, lost = A[into], A[out]
        change = linear[into] - linear[out]
        for l in range(A.shape[1]):
            d = gained[l] - lost[l]
            change += d * (rounded[l] + half * d)
        changes[t] = change


@compiled(nogil=True)
def _random_swap(order, starts, counts, stream):  # type: ignore[no-untyped-def]
    # A group is met as often as it has variables; one that is all ones or all zeros has no swap and is passed over.
    n = order.shape[0]
    while True:
        slot = below(stream, n)
        g = np.searchsorted(starts, slot, side="right") - 1
        lo, k, hi = starts[g], counts[g], starts[g + 1]
        if 0 < k < hi - lo:
            return order[lo + below(stream, k)], order[lo + k + below(stream, hi - lo - k)]
