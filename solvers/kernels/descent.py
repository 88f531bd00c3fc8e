"""Descent by swaps from a feasible state to one that no swap improves, for matrices and for factors."""

from __future__ import annotations

import numba as nb


@nb.njit(cache=True, nogil=True)
def descend_matrix(matrix, group, tolerance, fields, x, place, most):  # type: ignore[no-untyped-def]
    """Give each one its best partner among the zeros, round by round, until a whole round changes nothing.

    Args:
        matrix: Q, symmetric with a zero diagonal, read-only [n, n].
        group: group of each variable; only variables of one group are swapped [n].
        tolerance: a swap must lower the energy by more than this.
        fields: local fields h_i = s_i + 2 sum_j Q_ij x_j, float64 [n]; kept up.
        x: the state, int8 [n]; kept up.
        place: [variable to look at next, variables looked at since the last swap], int64 [2]; moved on.
        most: look at this many ones at most, n operations each.

    Returns:
        Whether x is a local optimum.
    """
    n = x.shape[0]
    i, since = place[0], place[1]
    while since < n and most > 0:
        if x[i] == 1:
            most -= 1
            row = matrix[i]
            best, partner = fields[i] - tolerance, -1
            for j in range(n):
                value = fields[j] - 2.0 * row[j]
                if value < best and x[j] == 0 and group[j] == group[i]:
                    best, partner = value, j
            if partner >= 0:
                x[i], x[partner] = 0, 1
                gained = matrix[partner]
                for j in range(n):
                    fields[j] += 2.0 * (gained[j] - row[j])
                since = -1
        since += 1
        i = i + 1 if i + 1 < n else 0
    place[0], place[1] = i, since
    return since >= n


@nb.njit(cache=True, nogil=True)
def descend_factor(factor, norms, group, tolerance, fields, x, place, most):  # type: ignore[no-untyped-def]
    """The same for Q = A A^T without its matrix.

    A coupling is at most the product of two rows' norms, which rules most partners out before a scalar product is
    computed; a swap costs n scalar products. `factor` is A, read-only [n, r], `norms` are the Euclidean norms of
    its rows, float64 [n]; the other arguments are those of :func:`descend_matrix`.
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


@nb.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _product(factor, i, j, rank):  # type: ignore[no-untyped-def]
    total = 0.0
    for t in range(rank):
        total += float(factor[i, t]) * factor[j, t]
    return total
