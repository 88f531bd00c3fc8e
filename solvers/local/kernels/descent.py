"""Descent by swaps from a feasible state to one that no swap improves, for matrices and for factors."""

from __future__ import annotations

import numpy as np

from problems.compiling import compiled, helper
from solvers.local.kernels.lanes import lesser


# Not fastmath as a whole: the infinity that closes ones must be one, however large coefficients are.
@compiled(nogil=True, fastmath={"nnan", "nsz", "reassoc", "contract"}, error_model="numpy")
def descend_matrix(Q, reach, tolerance, groups, state, progress, looks):  # type: ignore[no-untyped-def]
    """Take the best improving swap of each one in turn until no swap of any pair improves.

    Arrays:
        Q: couplings [n, n], of any float dtype.
        reach: largest entry of each row, at least 0 [n]: the most by which a coupling can help a swap.
        tolerance: a swap must lower the energy by more than this.
        groups: which variables may be swapped.
        state: updated; its fields are float64.
        progress: [slot of `order` to look at, slots looked at since the last gain], int64 [2]; updated.
        looks: most slots to look at.

    Returns:
        Number of slots looked at; fewer than `looks` when the state is a swap-local optimum.
    """
    x, fields, order, place = state.x, state.fields, state.order, state.place
    group, starts, counts = groups.of, groups.starts, groups.counts
    n = np.uint64(x.shape[0])  # unsigned, as an index that cannot be negative makes shorter loops
    slot, quiet = progress[0], progress[1]
    one_group = counts.shape[0] == 1
    closed = np.empty(x.shape[0])  # infinity for ones, which cannot enter: a sum is faster than a choice
    lowest = np.inf
    for l in range(n):
        closed[l] = np.inf if x[l] else 0.0
        lowest = lesser(lowest, fields[l] + closed[l])
    done = 0
    while done < looks and quiet < x.shape[0]:
        if slot >= x.shape[0]:
            slot = 0
        done += 1
        quiet += 1
        out = order[slot]
        slot += 1
        if not x[out] or lowest - reach[out] - fields[out] >= -tolerance:
            continue
        row = Q[out]
        best = np.inf
        into = np.int64(-1)
        if one_group:
            for l in range(n):
                best = lesser(best, fields[l] + closed[l] - row[l])
        else:
            g = group[out]
            for t in range(starts[g] + counts[g], starts[g + 1]):
                j = order[t]
                value = fields[j] - row[j]
                if value < best:
                    best = value
                    into = j
        if best == np.inf or best - fields[out] >= -tolerance:
            continue
        if one_group:
            for l in range(n):  # the last of equal ones: a loop without a way out is one for the vector unit
                into = np.int64(l) if fields[l] + closed[l] - row[l] == best else into
        quiet = 0
        a, b = place[out], place[into]
        order[a], order[b] = into, out
        place[out], place[into] = b, a
        x[out], x[into] = 0, 1
        closed[out], closed[into] = 0.0, np.inf
        gained = Q[into]
        lowest = np.inf
        for l in range(n):
            fields[l] += np.float64(gained[l]) - np.float64(row[l])
            lowest = lesser(lowest, fields[l] + closed[l])
    progress[0], progress[1] = slot, quiet
    return done


@compiled(nogil=True)
def descend_factor(factor, norms, group, tolerance, fields, x, place, most):  # type: ignore[no-untyped-def]
    """The same for Q = A A^T without its matrix, and for the problem's own fields instead of their halves.

    A coupling is at most the product of two rows' norms, which rules most partners out before a scalar product is
    computed; a swap costs n scalar products.

    Arrays:
        factor: A, read-only [n, r].
        norms: Euclidean norms of its rows, float64 [n].
        group: group of each variable; only variables of one group are swapped [n].
        tolerance: a swap must lower the energy by more than this.
        fields: local fields h_i = s_i + 2 sum_j Q_ij x_j, float64 [n]; kept up.
        x: the state, int8 [n]; kept up.
        place: [variable to look at next, variables looked at since the last swap], int64 [2]; moved on.
        most: look at this many ones at most.

    Returns:
        Whether x is a local optimum.
    """
    n, rank = factor.shape
    i, since = place[0], place[1]
    while since < n and most > 0:
        if x[i] == 1:
            most -= 1
            best, partner = fields[i] - tolerance, -1
            for j in range(n):
                if x[j] == 1 or fields[j] - 2.0 * norms[i] * norms[j] >= best or group[j] != group[i]:
                    continue
                value = fields[j] - 2.0 * _product(factor, i, j, rank)
                if value < best:
                    best, partner = value, j
            if partner >= 0:
                coupling = _product(factor, i, partner, rank)
                x[i], x[partner] = 0, 1
                for j in range(n):
                    if j == i:
                        fields[j] += 2.0 * coupling
                    elif j == partner:
                        fields[j] -= 2.0 * coupling
                    else:
                        change = 0.0
                        for t in range(rank):
                            change += factor[j, t] * (float(factor[partner, t]) - factor[i, t])
                        fields[j] += 2.0 * change
                since = -1
        since += 1
        i = i + 1 if i + 1 < n else 0
    place[0], place[1] = i, since
    return since >= n


@helper(nogil=True, fastmath={"reassoc", "contract"})
def _product(factor, i, j, rank):  # type: ignore[no-untyped-def]
    total = 0.0
    for t in range(rank):
        total += float(factor[i, t]) * factor[j, t]
    return total
