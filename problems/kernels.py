"""What numba compiles for problems. Importing this imports numba, so it is done when a first energy is asked for."""

from __future__ import annotations

import numba as nb
import numpy as np

_ONE = np.uint64(1)


# Not fastmath as a whole: coefficients may be so large that their sums are infinite.
@nb.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"}, error_model="numpy")
def matrix_energies(Q, states, energies):  # type: ignore[no-untyped-def]
    """Fill in x^T Q x of each state, every coefficient widened to float64 before it is added.

    Of the rows of a state's ones only what lies right of the diagonal is read, four rows a pass, as both halves of the
    matrix are the same.

    Arrays:
        Q: symmetric, with a zero diagonal, of any float dtype [n, n].
        states: zeros and ones, int8 [b, n].
        energies: float64 [b].
    """
    n = np.uint64(Q.shape[0])  # unsigned, as an index that cannot be negative makes shorter loops
    weights = np.empty(n)
    ones = np.empty(n, np.uint64)
    for s in range(states.shape[0]):
        count = 0
        for l in range(n):
            weights[l] = states[s, l]
            if states[s, l]:
                ones[count] = l
                count += 1
        energy = 0.0
        fours = count - count % 4
        for t in range(0, fours, 4):
            a, b, c, d = ones[t], ones[t + 1], ones[t + 2], ones[t + 3]
            p, q, u, v = Q[a], Q[b], Q[c], Q[d]
            energy += (np.float64(p[b]) + np.float64(p[c]) + np.float64(p[d])) + (
                np.float64(q[c]) + np.float64(q[d]) + np.float64(u[d])
            )
            for l in range(d + _ONE, n):
                energy += weights[l] * (
                    (np.float64(p[l]) + np.float64(q[l])) + (np.float64(u[l]) + np.float64(v[l]))
                )  # fmt: skip
        for t in range(fours, count):
            row = Q[ones[t]]
            for l in range(ones[t] + _ONE, n):
                energy += weights[l] * np.float64(row[l])
        energies[s] = 2.0 * energy
