"""Kernels that minimise the error of masks alone: tabu search and greedy growth, for rows that share one matrix.

Row a is the problem  E(x) = r^T B r  with  r = s_a * x  over x in {0, 1}^d: one B [d, d] for all rows, its diagonal
included, and one s_a [d] for each. Q = diag(s) B diag(s) is not formed, nor any other matrix of a row. The fields are
F = B r: setting x_i to 1 changes the energy by  s_i^2 B_ii + 2 s_i F_i, setting it to 0 by  s_i^2 B_ii - 2 s_i F_i.
"""

from __future__ import annotations

import numpy as np

from problems.compiling import compiled
from solvers.local.kernels.lanes import lesser
from solvers.local.kernels.random import below

LARGE = np.float64(1e300)
_ROUNDING = 1e-12  # least improvement, relative to the largest energy visited: less may be rounding
_LONGEST = 100  # most steps of a row, as a multiple of the patience


@compiled(nogil=True, fastmath=True, error_model="numpy")
def fields_of(B, s, x, F):  # type: ignore[no-untyped-def]
    """Set F = B (s * x) in place; return the energy (s * x) . F."""
    F[:] = 0.0
    for j in range(x.shape[0]):
        if x[j]:
            row, scale = B[j], s[j]
            for l in range(x.shape[0]):
                F[l] += scale * row[l]
    energy = 0.0
    for j in range(x.shape[0]):
        if x[j]:
            energy += s[j] * F[j]
    return energy


@compiled(nogil=True, fastmath=True, error_model="numpy")
def tabu_rows(rows, patience, tenure, streams, energies):  # type: ignore[no-untyped-def]
    """Tabu search by swaps for each row; the best states found replace `rows.states`.

    A step takes the best variable to set to 0 that is not tabu, and the best to set to 1 in exchange; with groups of
    `width` consecutive variables, the best pair within any group. Both are then tabu for `tenure` steps and up to as
    many more at random.

    Args:
        rows: :class:`solvers.rows.batch.Rows`; the scales are s.
        patience: steps without a better state after which a row ends.
        tenure: steps for which a swapped variable is tabu, at least 1.
        streams: random streams, uint64 [R].
        energies: receives the energies of the best states, float64 [R].
    """
    B, S, X, width, _ = rows
    d = B.shape[0]
    F, own, free_at = np.empty(d), np.empty(d), np.empty(d, np.int64)
    leaving, entering = np.empty(d), np.empty(d)
    for a in range(S.shape[0]):
        s, x, stream = S[a], X[a].copy(), streams[a : a + 1]
        energy = fields_of(B, s, x, F)
        best, largest = energy, abs(energy)
        for l in range(d):
            own[l] = s[l] * s[l] * B[l, l]
        free_at[:] = 0
        now = found = 0
        while now - found < patience and now < _LONGEST * patience:
            now += 1
            for l in range(d):
                both = 2.0 * s[l] * F[l]
                free = free_at[l] <= now
                leaving[l] = own[l] - both if free and x[l] == 1 else LARGE
                entering[l] = own[l] + both if free and x[l] == 0 else LARGE
            out, into, change = _best_swap(B, s, leaving, entering, width)
            if out < 0:
                continue
            energy += change
            x[out], x[into] = 0, 1
            gained, lost, up, down = B[into], B[out], s[into], s[out]
            for l in range(d):
                F[l] += up * gained[l] - down * lost[l]
            free_at[out] = now + tenure + below(stream, tenure) + 1
            free_at[into] = now + tenure + below(stream, tenure) + 1
            largest = max(largest, abs(energy))
            if energy < best - _ROUNDING * largest:
                best, found = energy, now
                X[a] = x
        energies[a] = fields_of(B, s, X[a], F)


@compiled(nogil=True, fastmath=True, error_model="numpy")
def _best_swap(B, s, leaving, entering, width):  # type: ignore[no-untyped-def]
    """The best swap: variable set to 0, variable set to 1, change of energy; -1, -1 where there is none."""
    d = s.shape[0]
    out = into = -1
    change = LARGE
    if width:
        for lo in range(0, d, width):
            for i in range(lo, lo + width):
                if leaving[i] >= LARGE:
                    continue
                for j in range(lo, lo + width):
                    here = leaving[i] + entering[j] - 2.0 * s[i] * s[j] * B[i, j]
                    if here < change:
                        out, into, change = i, j, here
        return (out, into, change) if change < 0.5 * LARGE else (-1, -1, 0.0)
    low = LARGE
    for l in range(d):
        low = lesser(low, leaving[l])
    if low >= LARGE:
        return -1, -1, 0.0
    for l in range(d):
        if leaving[l] == low:
            out = l
            break
    row, double = B[out], 2.0 * s[out]
    best = LARGE
    for l in range(d):
        entering[l] -= double * s[l] * row[l]
        best = lesser(best, entering[l])
    if best >= 0.5 * LARGE:
        return -1, -1, 0.0
    for l in range(d):
        if entering[l] == best:
            into = l
            break
    return out, into, low + best


@compiled(nogil=True, fastmath=True, error_model="numpy")
def grow_rows(rows, counts, order, costs):  # type: ignore[no-untyped-def]
    """Add ones to each row's state, the cheapest first, up to `counts`.

    Args:
        rows: as in `tabu_rows`, with initial states, which are replaced by the final ones.
        counts: ones of each row at the end, int64 [R].
        order: receives the variable added at each step, int64 [R, c], c the largest count, or [R, 0] to record nothing.
        costs: receives the increase of the energy at each step, float64, shaped like `order`.
    """
    B, S, X, width, most = rows
    d = B.shape[0]
    F, own, price = np.empty(d), np.empty(d), np.empty(d)
    for a in range(S.shape[0]):
        s, x = S[a], X[a]
        fields_of(B, s, x, F)
        ones = 0
        for l in range(d):
            ones += x[l]
            own[l] = s[l] * s[l] * B[l, l]
        step = 0
        while ones < counts[a]:
            low = LARGE
            for l in range(d):
                price[l] = LARGE if x[l] else 2.0 * s[l] * F[l] + own[l]
            if width:
                for lo in range(0, d, width):
                    if x[lo : lo + width].sum() >= most:
                        price[lo : lo + width] = LARGE
            for l in range(d):
                low = lesser(low, price[l])
            into = 0
            while price[into] != low:
                into += 1
            x[into] = 1
            row, scale = B[into], s[into]
            for l in range(d):
                F[l] += scale * row[l]
            if order.shape[1]:
                order[a, step], costs[a, step] = into, low
            ones += 1
            step += 1
