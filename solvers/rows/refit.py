"""Kernels that minimise the error of rows after their surviving weights are refitted exactly.

For weights w [d] and a curvature H [d, d], the refitted error of pruning a set P is  min (v - w)^T H (v - w)  over v
with v_P = 0. It is updated by the *sweep operator* of stepwise regression (Beaton 1964; Goodnight, "A tutorial on the
SWEEP operator", The American Statistician 33, 1979) on the tableau [[H, H w], [w^T H, w^T H w]]. With the kept
variables K swept in, the tableau holds

    -inv(H_KK) in K x K,    inv(H_KK) H_KP in K x P,    the Schur complement H_PP - H_PK inv(H_KK) H_KP in P x P,

its last column the refitted weights on K and the residual correlations on P, and its corner the refitted error.
Pruning k costs v_k^2 / inv(H_KK)_kk (the saliency of Optimal Brain Surgeon, Hassibi and Stork 1993), restoring j gains
r_j^2 / S_jj, and one sweep (a rank-one update of the inverse) does either.

Only the lower triangle of a tableau is stored and updated. All in float64: tableaux are as ill-conditioned as H.
"""

from __future__ import annotations

import numpy as np

from problems.compiling import compiled

LARGE = np.float64(1e300)
_LEAST_GAIN = 1e-9  # relative decrease of the error that a swap must give: less may be rounding


@compiled(nogil=True, fastmath=True, error_model="numpy")
def sweep(T, k, sign, column):  # type: ignore[no-untyped-def]
    """Pivot on variable k of a tableau (lower triangle [d + 1, d + 1]): sign 1 keeps k, -1 prunes it.

    `column` is scratch [d + 1].
    """
    size = T.shape[0]
    for l in range(k):
        column[l] = T[k, l]
    for l in range(k, size):
        column[l] = T[l, k]
    pivot = column[k]
    column[k] = 0.0
    for i in range(size):
        factor = column[i] / pivot
        if factor == 0.0:
            continue
        row = T[i]
        for j in range(i + 1):
            row[j] -= factor * column[j]
    for l in range(k):
        T[k, l] = sign * column[l] / pivot
    for l in range(k + 1, size):
        T[l, k] = sign * column[l] / pivot
    T[k, k] = -1.0 / pivot


@compiled(nogil=True, fastmath=True, error_model="numpy")
def search_refitted(rows, counts, swaps, out, errors):  # type: ignore[no-untyped-def]
    """Prune each row greedily to its count, then apply the best swap as long as one lowers the refitted error.

    Args:
        rows: :class:`solvers.rows.batch.Rows`; the matrix is inv(H), the scales are w. The initial states, 1 = pruned,
            are replaced by the answers.
        counts: final number of pruned variables of each row, int64 [R]; at least as many as its initial state has.
        swaps: most swaps of a row.
        out: receives the refitted weights, zero where pruned, float64 [R, d].
        errors: receives the refitted errors, float64 [R].
    """
    inverse, W, X, width, most = rows
    d = W.shape[1]
    T, column = np.empty((d + 1, d + 1)), np.empty(d + 1)
    scratch = np.empty((4, d))
    for a in range(W.shape[0]):
        x = X[a]
        for i in range(d):
            T[i, : i + 1] = -inverse[i, : i + 1]
            T[d, i] = W[a, i]
        T[d, d] = 0.0
        pruned = 0
        for k in range(d):
            if x[k]:
                sweep(T, k, -1.0, column)
                pruned += 1
        while pruned < counts[a]:
            k = _cheapest(T, x, width, most)
            sweep(T, k, -1.0, column)
            x[k] = 1
            pruned += 1
        for _ in range(swaps):
            k, j = _best_swap(T, x, width, scratch)
            if k < 0:
                break
            sweep(T, k, -1.0, column)
            sweep(T, j, 1.0, column)
            x[k], x[j] = 1, 0
        for l in range(d):
            out[a, l] = 0.0 if x[l] else T[d, l]
        errors[a] = T[d, d]


@compiled(nogil=True, fastmath=True, error_model="numpy")
def _cheapest(T, x, width, most):  # type: ignore[no-untyped-def]
    """The kept variable whose pruning raises the refitted error least, in a group with room for one more."""
    d = x.shape[0]
    best, low, room = -1, LARGE, True
    for l in range(d):
        if width and l % width == 0:
            room = x[l : l + width].sum() < most
        if x[l] or not room:
            continue
        cost = -T[d, l] * T[d, l] / T[l, l]
        if cost < low:
            best, low = l, cost
    return best


@compiled(nogil=True, fastmath=True, error_model="numpy")
def _best_swap(T, x, width, scratch):  # type: ignore[no-untyped-def]
    """The kept variable k to prune and the pruned j to restore that lower the refitted error most; -1, -1 for none.

    With k pruned, the Schur complement and the correlation of a pruned j are S_jj + T_jk^2 C and r_j + T_jk u, for
    C = 1 / inv(H_KK)_kk and u = v_k C; the change is v_k u - (r_j + T_jk u)^2 / (S_jj + T_jk^2 C). A pair is better
    than the best so far, `low`, where (r_j + T_jk u)^2 > (v_k u - low) (S_jj + T_jk^2 C): so few pairs need a division.
    """
    d = x.shape[0]
    schur, residual, weight, precision = scratch[0], scratch[1], scratch[2], scratch[3]
    for l in range(d):  # neutral values for variables of the other kind, so that the loops below need no branch
        schur[l] = T[l, l] if x[l] else LARGE
        residual[l] = T[d, l] if x[l] else 0.0
        weight[l] = 0.0 if x[l] else T[d, l]
        precision[l] = 0.0 if x[l] else -1.0 / T[l, l]
    low = -_LEAST_GAIN * T[d, d]
    out = into = -1
    for i in range(d):
        begin = (i // width) * width if width else 0
        row = T[i]
        promising = 0.0
        if x[i]:  # restore i, prune a kept l < i
            r, s = residual[i], schur[i]
            for l in range(begin, i):
                u = weight[l] * precision[l]
                top, below = r + row[l] * u, s + row[l] * row[l] * precision[l]
                gain = top * top - (weight[l] * u - low) * below
                promising = max(promising, gain if precision[l] > 0.0 else 0.0)
        else:  # prune i, restore a pruned l < i
            u, C = weight[i] * precision[i], precision[i]
            bar = weight[i] * u - low
            for l in range(begin, i):
                top, below = residual[l] + row[l] * u, schur[l] + row[l] * row[l] * C
                promising = max(promising, top * top - bar * below)
        if promising <= 0.0:
            continue
        for l in range(begin, i):
            if x[l] == x[i]:
                continue
            k, j = (l, i) if x[i] else (i, l)
            u = weight[k] * precision[k]
            top = residual[j] + row[l] * u
            change = weight[k] * u - top * top / (schur[j] + row[l] * row[l] * precision[k])
            if change < low:
                low, out, into = change, k, j
    return out, into


@compiled(nogil=True, fastmath=True, error_model="numpy")
def eliminate_rows(inverse, W, counts, order, costs):  # type: ignore[no-untyped-def]
    """Prune each row greedily, the surviving weights refitted at every step, and record the cost of each step.

    The inverse of the kept sub-matrix shrinks with every step: pruning all d takes d^3 / 3 multiplications per row.

    Args:
        inverse: inv(H), float64 [d, d].
        W: weights w, float64 [R, d].
        counts: variables to prune of each row, int64 [R].
        order: receives the variable pruned at each step, int64 [R, c]; c is at least the largest count.
        costs: receives the increase of the refitted error at each step, float64 [R, c].
    """
    d = W.shape[1]
    C, v, column = np.empty((d, d)), np.empty(d), np.empty(d)
    names = np.empty(d, np.int64)
    for a in range(W.shape[0]):
        for i in range(d):
            C[i, : i + 1] = inverse[i, : i + 1]
            v[i], names[i] = W[a, i], i
        n = d
        for step in range(counts[a]):
            best, low = 0, LARGE
            for l in range(n):
                cost = v[l] * v[l] / C[l, l]
                if cost < low:
                    best, low = l, cost
            order[a, step], costs[a, step] = names[best], low
            # The last variable takes the place of the pruned one, so that the kept ones stay in the first n.
            n -= 1
            for l in range(best):
                column[l] = C[best, l]
            for l in range(best, n + 1):
                column[l] = C[l, best]
            pivot, value = column[best], v[best]
            if best < n:
                for l in range(best):
                    C[best, l] = C[n, l]
                for l in range(best + 1, n):
                    C[l, best] = C[n, l]
                C[best, best] = C[n, n]
                v[best], names[best], column[best] = v[n], names[n], column[n]
            for i in range(n):
                factor = column[i] / pivot
                row = C[i]
                for j in range(i + 1):
                    row[j] -= factor * column[j]
                v[i] -= factor * value
