"""Compiled products for per-sample gradients; imported only where used, as numba is slow to import."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from problems.compiling import compiled


@compiled(nogil=True, fastmath=True)
def add_outer_entries(D: Any, X: Any, rows: Any, columns: Any, out: Any) -> None:
    """out[e, s] += D[s, rows[e]] * X[s, columns[e]], for D [N, O], X [N, I], out [n, N]."""
    for s in range(D.shape[0]):
        for e in range(rows.shape[0]):
            out[e, s] += D[s, rows[e]] * X[s, columns[e]]


@compiled(nogil=True, fastmath=True)
def add_dot_entries(D: Any, X: Any, rows: Any, columns: Any, shifts: Any, out: Any) -> None:
    """out[e, s] += sum_t D[s, rows[e], t] * X[s, columns[e], t + shifts[e]], for D [N, O, T], X [N, I, P].

    Both operands of the inner sum are contiguous. Entries should be ordered by row, so that a row of D stays in the
    first-level cache. D and X are C-contiguous.
    """
    flat_d, flat_x = D.reshape(-1), X.reshape(-1)
    for s in range(D.shape[0]):
        for e in range(rows.shape[0]):
            # Unsigned offsets: a signed index may be negative, and the check for it prevents vectorisation.
            d = numba.uint64((s * D.shape[1] + rows[e]) * D.shape[2])
            x = numba.uint64((s * X.shape[1] + columns[e]) * X.shape[2] + shifts[e])
            total = np.float32(0.0)
            for t in range(numba.uint64(D.shape[2])):
                total += flat_d[d + numba.uint64(t)] * flat_x[x + numba.uint64(t)]
            out[e, s] += total
