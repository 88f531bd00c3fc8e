"""What searches start from and end with: a state's fields, residual and energy, and descent by swaps."""

from __future__ import annotations

import numba as nb
import numpy as np

from solvers.kernels.lanes import lesser

_LARGE = 1e300
_LOCAL = 1e-12  # a descent ignores gains below this share of the fields' size: they are rounding, and could cycle


@nb.njit(cache=True, nogil=True, error_model="numpy", boundscheck=False)
def arrange(x, members, starts, counts, order, place):  # type: ignore[no-untyped-def]
    """Fill `order` with the variables of each group, ones first, and `place` with where each stands, int32 [n]."""
    for g in range(counts.shape[0]):
        one, zero = starts[g], starts[g] + counts[g]
        for t in range(starts[g], starts[g + 1]):
            i = members[t]
            if x[i]:
                order[one] = i
                place[i] = one
                one += 1
            else:
                order[zero] = i
                place[i] = zero
                zero += 1


@nb.njit(cache=True, nogil=True, fastmath=True, error_model="numpy", boundscheck=False)
def matrix_fields(Q, single, x, fields):  # type: ignore[no-untyped-def]
    """Fill g = s + Q x, accumulated in the dtype of `fields` [n], and return the energy of x in half units."""
    n = x.shape[0]
    for l in range(n):
        fields[l] = single[l]
    i = 0
    while i < n:
        # Four rows a pass: the fields are read and written a quarter as often.
        rows = np.zeros(4, np.int64)
        found = 0
        while i < n and found < 4:
            if x[i]:
                rows[found] = i
                found += 1
            i += 1
        if found == 4:
            a, b, c, d = Q[rows[0]], Q[rows[1]], Q[rows[2]], Q[rows[3]]
            for l in range(n):
                fields[l] += (a[l] + b[l]) + (c[l] + d[l])
        else:
            for t in range(found):
                row = Q[rows[t]]
                for l in range(n):
                    fields[l] += row[l]
    energy = 0.0
    for l in range(n):
        if x[l]:
            energy += 0.5 * (np.float64(fields[l]) + np.float64(single[l]))
    return energy


@nb.njit(cache=True, nogil=True, fastmath=True, error_model="numpy", boundscheck=False)
def factor_residual(A, linear, x, residual):  # type: ignore[no-untyped-def]
    """Fill r = A^T x in float64 [rank], and return the energy of x in half units."""
    energy = 0.0
    residual[:] = 0.0
    for i in range(x.shape[0]):
        if x[i]:
            row = A[i]
            for l in range(row.shape[0]):
                residual[l] += row[l]
            energy += linear[i]
    for l in range(residual.shape[0]):
        energy += 0.5 * residual[l] * residual[l]
    return energy


@nb.njit(cache=True, nogil=True, fastmath=True, error_model="numpy", boundscheck=False)
def factor_fields(A, linear, residual, x, fields):  # type: ignore[no-untyped-def]
    """Fill the fields of a state, float32 [n], from its residual r = A^T x, float32 [rank].

    A zero adds A_i.r + |A_i|^2 / 2 + c_i when it enters; of a one, whose own row is in r, |A_i|^2 is taken off again.
    """
    half = np.float32(0.5)
    for i in range(x.shape[0]):
        row = A[i]
        product = np.float32(0.0)
        norm = np.float32(0.0)
        for l in range(row.shape[0]):
            product += row[l] * residual[l]
            norm += row[l] * row[l]
        fields[i] = linear[i] + product + (half - np.float32(x[i])) * norm


@nb.njit(cache=True, nogil=True, fastmath=True, error_model="numpy", boundscheck=False)
def exchange_rows(A, out, into, x, residual):  # type: ignore[no-untyped-def]
    """Swap out[t] for into[t] for all t at once: x [n] and the residual, float64 [rank], are brought up to date."""
    for t in range(out.shape[0]):
        x[out[t]], x[into[t]] = 0, 1
        gained, lost = A[into[t]], A[out[t]]
        for l in range(residual.shape[0]):
            residual[l] += np.float64(gained[l]) - np.float64(lost[l])


@nb.njit(cache=True, nogil=True, fastmath=True, error_model="numpy", boundscheck=False)
def descend_matrix(  # type: ignore[no-untyped-def]
    Q, reach, fields, x, order, place, group, starts, counts, progress, account, looks
):
    """Take the best improving swap of each one in turn until no swap of any pair improves.

    Arrays:
        Q: couplings [n, n], of any float dtype.
        reach: largest entry of each row, at least 0 [n].
        fields: g = s + Q x, float64 [n]; kept up, as are x, order and place.
        progress: [slot of `order` to look at, slots looked at since the last gain], int64 [2].
        account: [energy], float64 [1].
        looks: slots to look at, at most.

    Returns:
        How many were looked at; fewer than `looks` when the state is a swap-local optimum.
    """
    n = x.shape[0]
    slot, quiet = progress[0], progress[1]
    energy = account[0]
    size = 0.0
    for l in range(n):
        size = max(size, abs(fields[l]))
    least = -_LOCAL * size
    lowest = _lowest_zero(fields, x)
    done = 0
    while done < looks and quiet < n:
        if slot >= n:
            slot = 0
        done += 1
        quiet += 1
        out = order[slot]
        slot += 1
        if not x[out] or lowest - reach[out] - fields[out] >= least:
            continue
        g = group[out]
        row = Q[out]
        best = _LARGE
        into = -1
        for t in range(starts[g] + counts[g], starts[g + 1]):
            j = order[t]
            value = fields[j] - row[j]
            if value < best:
                best = value
                into = j
        change = best - fields[out]
        if into < 0 or change >= least:
            continue
        quiet = 0
        energy += change
        a, b = place[out], place[into]
        order[a], order[b] = into, out
        place[out], place[into] = b, a
        x[out], x[into] = 0, 1
        gained = Q[into]
        for l in range(n):
            fields[l] += np.float64(gained[l]) - np.float64(row[l])
        lowest = _lowest_zero(fields, x)
    progress[0], progress[1] = slot, quiet
    account[0] = energy
    return done


@nb.njit(cache=True, nogil=True, fastmath=True, error_model="numpy", boundscheck=False)
def _lowest_zero(fields, x):  # type: ignore[no-untyped-def]
    lowest = _LARGE
    for l in range(x.shape[0]):
        lowest = lesser(lowest, _LARGE if x[l] else fields[l])
    return lowest
