"""Masks of wide layers by the refitted error, in windows of columns.

The exact search, `solvers.rows.solve_refitted_rows`, costs the cube of a row's width. In wide layers the columns
are searched in windows from left to right, as SparseGPT does with single columns (Frantar and Alistarh 2023, arXiv
2301.00774): columns to the left are final, columns to the right compensate for the cuts. With C the inverse of H
restricted to the window S and the columns R to its right,

    the refitted error of a mask within S is that of the Gram matrix inv(C_SS);
    a change d_S of the window's weights moves the weights to its right by  d_S inv(C_SS) C_SR.

With the upper Cholesky factor U of the whole inverse, inv(H) = U^T U, these are C_SS = U_SS^T U_SS and
inv(C_SS) C_SR = inv(U_SS) U_SR, so that only U is factorised.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from hybrid_icbs.layerwise.refit import inverted
from hybrid_icbs.models.patterns import Pattern

COLUMNS = 256
"""Columns of a window: a row of 4,096 takes about 16 ms on one core, where the exact search would take seconds."""


def search_windows(
    W: torch.Tensor,
    H: torch.Tensor,
    counts: Sequence[int],
    pattern: Pattern | None = None,
    *,
    columns: int | None = None,
    threads: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Search each row's mask window by window.

    Args:
        W: the dense weights, float64 [R, d].
        H: damped Gram matrix, positive definite, float64 [d, d].
        counts: weights to prune in each row [R]; they are divided among the windows by what pruning each weight alone
            would cost.
        pattern: N:M.
        columns: width of a window (None: 256), rounded down to a multiple of the pattern's M.
        threads: of the search.

    Returns:
        What is pruned, bool [R, d], and the new weights, zero there [R, d]. A refit on the mask lowers the error
        further, as it can change columns that were final here.
    """
    from solvers.rows import solve_refitted_rows

    d = W.shape[1]
    group, most = (pattern.of, pattern.pruned) if pattern else (None, 0)
    step = max(1, (columns or COLUMNS) // (group or 1)) * (group or 1)
    windows = [slice(begin, min(d, begin + step)) for begin in range(0, d, step)]
    inverse = inverted(H)
    U = torch.linalg.cholesky(inverse, upper=True)
    shares = _shares(W.square() / inverse.diagonal(), counts, windows)
    del inverse
    new, pruned = W.clone(), torch.zeros_like(W, dtype=torch.bool)
    for window, share in zip(windows, shares, strict=True):
        u = U[window, window]
        wanted = [(window.stop - window.start) // group * most] * len(W) if group else share
        states, weights, _ = solve_refitted_rows(
            (u.T @ u).cpu().numpy(), new[:, window].cpu().numpy(), np.zeros((len(W), len(u)), np.uint8), wanted,
            group=group, most=most, threads=threads,
        )  # fmt: skip
        pruned[:, window] = torch.from_numpy(states).to(W.device, torch.bool)
        refitted = torch.from_numpy(weights).to(W.device)
        if window.stop < d:
            moves = torch.linalg.solve_triangular(u, U[window, window.stop :], upper=True)
            new[:, window.stop :] += (refitted - new[:, window]) @ moves
        new[:, window] = refitted
    return pruned, new


def _shares(costs: torch.Tensor, counts: Sequence[int], windows: Sequence[slice]) -> list[list[int]]:
    """How many of each row's cheapest weights lie in each window."""
    rank = torch.argsort(torch.argsort(costs, dim=1, stable=True), dim=1)
    cheapest = rank < torch.as_tensor(counts, device=costs.device)[:, None]
    return [cheapest[:, window].sum(1).tolist() for window in windows]
