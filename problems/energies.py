"""The compiled kernel of energies. It imports numba, so it is itself imported when the first energy is computed."""

from __future__ import annotations

import numpy as np

from problems.compiling import compiled

_ONE = np.uint64(1)


# Not all of fastmath, which assumes finite numbers: sums of large coefficients may be infinite.
@compiled(nogil=True, fastmath={"reassoc", "contract", "nsz"}, error_model="numpy")
def matrix_energies(Q, scales, states, energies):  # type: ignore[no-untyped-def]
    """Fill in r^T Q r, r = s * x, of each state x, without the diagonal; coefficients are converted to float64 first.

    As the matrix is symmetric, only its upper triangle is read: the rows of the state's ones, four rows a pass.

    Arrays:
        Q: symmetric, float32 or float64 [n, n].
        scales: s, float64 [n].
        states: zeros and ones, int8 [b, n].
        energies: float64 [b].
    """
    n = np.uint64(Q.shape[0])  # unsigned: numba then omits the check for negative indices
    r = np.empty(n)
    ones = np.empty(n, np.uint64)
    for s in range(states.shape[0]):
        count = 0
        for l in range(n):
            r[l] = scales[l] if states[s, l] else 0.0
            if states[s, l]:
                ones[count] = l
                count += 1
        energy = 0.0
        fours = count - count % 4
        for t in range(0, fours, 4):
            a, b, c, d = ones[t], ones[t + 1], ones[t + 2], ones[t + 3]
            row_a, row_b, row_c, row_d = Q[a], Q[b], Q[c], Q[d]
            r_a, r_b, r_c, r_d = r[a], r[b], r[c], r[d]
            energy += r_a * (r_b * row_a[b] + r_c * row_a[c] + r_d * row_a[d])
            energy += r_b * (r_c * row_b[c] + r_d * row_b[d]) + r_c * r_d * row_c[d]
            for l in range(d + _ONE, n):
                first = r_a * np.float64(row_a[l]) + r_b * np.float64(row_b[l])
                second = r_c * np.float64(row_c[l]) + r_d * np.float64(row_d[l])
                energy += r[l] * (first + second)
        for t in range(fours, count):
            row = Q[ones[t]]
            for l in range(ones[t] + _ONE, n):
                energy += r[ones[t]] * r[l] * np.float64(row[l])
        if not np.isfinite(energy):  # an infinite coefficient sum times a zero is nan: add up the pairs of ones alone
            energy = 0.0
            for t in range(count):
                for w in range(t + 1, count):
                    energy += r[ones[t]] * r[ones[w]] * np.float64(Q[ones[t], ones[w]])
        energies[s] = 2.0 * energy
