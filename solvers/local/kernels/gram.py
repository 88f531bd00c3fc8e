"""The matrix of a factor: Q = A A^T, both triangles equal to the bit."""

from __future__ import annotations

import numpy as np

from problems.compiling import compiled

_TILE = 32  # the lower triangle is mirrored in squares of so many, which fit the first cache


@compiled(nogil=True, fastmath=True, error_model="numpy")
def gram(A, Q):  # type: ignore[no-untyped-def]
    """Fill Q [n, n] with A A^T for a factor A [n, r], both float32, and its diagonal with zeros.

    As fast as a BLAS product on one core, and unlike one it neither starts threads, which fight with other solves for
    the processors, nor gives other digits when their number changes.

    Returns:
        The diagonal, float64 [n].
    """
    n, rank = A.shape
    zero = np.float32(0.0)
    whole = n - n % 4
    diagonal = np.empty(n)
    for i in range(0, whole, 4):
        a0, a1, a2, a3 = A[i], A[i + 1], A[i + 2], A[i + 3]
        for j in range(0, i + 4, 4):
            b0, b1, b2, b3 = A[j], A[j + 1], A[j + 2], A[j + 3]
            s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = zero
            s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = zero
            # Sixteen sums at once: each number that is loaded is used four times.
            for l in range(rank):
                x0, x1, x2, x3 = a0[l], a1[l], a2[l], a3[l]
                y0, y1, y2, y3 = b0[l], b1[l], b2[l], b3[l]
                s00 += x0 * y0
                s01 += x0 * y1
                s02 += x0 * y2
                s03 += x0 * y3
                s10 += x1 * y0
                s11 += x1 * y1
                s12 += x1 * y2
                s13 += x1 * y3
                s20 += x2 * y0
                s21 += x2 * y1
                s22 += x2 * y2
                s23 += x2 * y3
                s30 += x3 * y0
                s31 += x3 * y1
                s32 += x3 * y2
                s33 += x3 * y3
            Q[i, j], Q[i, j + 1], Q[i, j + 2], Q[i, j + 3] = s00, s01, s02, s03
            Q[i + 1, j], Q[i + 1, j + 1], Q[i + 1, j + 2], Q[i + 1, j + 3] = s10, s11, s12, s13
            Q[i + 2, j], Q[i + 2, j + 1], Q[i + 2, j + 2], Q[i + 2, j + 3] = s20, s21, s22, s23
            Q[i + 3, j], Q[i + 3, j + 1], Q[i + 3, j + 2], Q[i + 3, j + 3] = s30, s31, s32, s33
    for i in range(whole, n):
        for j in range(i + 1):
            total = zero
            for l in range(rank):
                total += A[i, l] * A[j, l]
            Q[i, j] = total
    for i in range(n):
        diagonal[i] = Q[i, i]
        Q[i, i] = zero
    for i0 in range(0, n, _TILE):
        for j0 in range(0, i0 + 1, _TILE):
            for i in range(i0, min(n, i0 + _TILE)):
                for j in range(j0, min(i, j0 + _TILE)):
                    Q[j, i] = Q[i, j]
    return diagonal
