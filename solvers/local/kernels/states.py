"""What searches start from: the order, fields, residual and energy of a state."""

from __future__ import annotations

import numpy as np

from problems.compiling import compiled, helper
from solvers.local.kernels.lanes import lesser


@helper(nogil=True, error_model="numpy")
def copy(source, into):  # type: ignore[no-untyped-def]
    """As `into[:] = source` for arrays [n], which takes ten times as long to compile."""
    for l in range(into.shape[0]):
        into[l] = source[l]


@compiled(nogil=True, error_model="numpy")
def arrange(x, groups, order, place):  # type: ignore[no-untyped-def]
    """Fill in the variables of each group, ones first, and the position of each variable in that order, int32 [n]."""
    members, starts, counts = groups.members, groups.starts, groups.counts
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


@compiled(nogil=True, fastmath=True, error_model="numpy")
def matrix_fields(Q, single, x, fields):  # type: ignore[no-untyped-def]
    """Fill g = s + Q x, accumulated in the dtype of `fields` [n], and return the energy of x in half units."""
    n, wide = x.shape[0], fields.dtype.type
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
                fields[l] += (wide(a[l]) + wide(b[l])) + (wide(c[l]) + wide(d[l]))
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


@compiled(nogil=True, fastmath=True, error_model="numpy")
def largest(array):  # type: ignore[no-untyped-def]
    """Largest magnitude of floats [n]."""
    low = array[0]
    high = -array[0]
    for l in range(array.shape[0]):
        low = lesser(low, array[l])
        high = lesser(high, -array[l])
    return max(-low, -high)


@compiled(nogil=True, fastmath=True, error_model="numpy")
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


@compiled(nogil=True, fastmath=True, error_model="numpy")
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


@compiled(nogil=True, fastmath=True, error_model="numpy")
def exchange_rows(A, out, into, x, residual):  # type: ignore[no-untyped-def]
    """Swap out[t] for into[t] for all t at once: x [n] and the residual, float64 [rank], are brought up to date."""
    for t in range(out.shape[0]):
        x[out[t]], x[into[t]] = 0, 1
        gained, lost = A[into[t]], A[out[t]]
        for l in range(residual.shape[0]):
            residual[l] += np.float64(gained[l]) - np.float64(lost[l])
