"""SparseGPT: columns pruned from left to right, with later columns compensating for each cut.

Frantar and Alistarh 2023, "SparseGPT: massive language models can be accurately pruned in one-shot" (arXiv 2301.00774).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from hybrid_icbs.layerwise.allocation import elimination_costs
from hybrid_icbs.layerwise.method import Choice, LayerMethod, LayerProblem
from hybrid_icbs.layerwise.refit import damped, inverted
from hybrid_icbs.methods.magnitude import lowest
from hybrid_icbs.models.masks import shares
from hybrid_icbs.models.patterns import Pattern

COLUMNS = 128
"""Columns whose masks are chosen together, as in the paper's experiments."""


class SparseGpt(LayerMethod):
    """SparseGPT, which changes the kept weights with the masks."""

    name = "sparsegpt"

    def prune(self, problem: LayerProblem) -> Choice:
        settings = problem.settings
        count = sum(problem.counts)
        return Choice(*sparsegpt(problem.W, problem.gram, count, settings.pattern, damping=settings.damping))

    def costs(self, problem: LayerProblem) -> npt.NDArray[np.float64]:
        """The increase of the refitted error by each weight."""
        return elimination_costs(problem)


def sparsegpt(
    W: torch.Tensor,
    H: torch.Tensor,
    count: int,
    pattern: Pattern | None = None,
    *,
    damping: float = 0.01,
    columns: int = COLUMNS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prune column by column; the columns to the right compensate for each cut (the paper's algorithm 1).

    With U the upper Cholesky factor of inv(H), inv(H) = U^T U, row i of U divided by U_ii is the column of inverse
    Hessians in the paper's formula (4): the inverse of H without the first i variables. The mask of each `columns`
    columns is chosen when they are reached, by w^2 / U_ii^2 over all rows.

    Args:
        W: weights [R, d].
        H: Gram matrix of the layer's inputs, up to a factor [d, d].
        count: weights to prune in the layer, in equal shares for each piece of `columns` columns.
        pattern: choose within groups of a row instead, when the first column of a group is reached.
        damping: added to the diagonal of H, in units of its mean.
        columns: columns whose masks are chosen together.

    Returns:
        What is pruned, bool [R, d], and the updated weights, zero there [R, d].
    """
    W, pruned = W.clone(), torch.zeros_like(W, dtype=torch.bool)
    rows, d = W.shape
    U = _inverse_factor(damped(H, damping)).to(W.dtype)
    pieces = [slice(begin, min(d, begin + columns)) for begin in range(0, d, columns)]
    sizes = [rows * (piece.stop - piece.start) for piece in pieces]
    for piece, share in zip(pieces, shares(count, sizes, sizes), strict=True):
        V, u, cut = W[:, piece], U[piece, piece], pruned[:, piece]
        if pattern is None:
            cut[:] = lowest((V / u.diagonal()).square().flatten(), share).reshape(V.shape)
        errors = torch.zeros_like(V)
        for i in range(V.shape[1]):
            if pattern and i % pattern.of == 0:
                group = slice(i, i + pattern.of)
                cut[:, group] = pattern.lowest((V[:, group] / u.diagonal()[group]).square())
            errors[:, i] = torch.where(cut[:, i], V[:, i], 0) / u[i, i]
            V[:, i:] -= torch.outer(errors[:, i], u[i, i:])
            V[cut[:, i], i] = 0  # not merely up to rounding
        W[:, piece.stop :] -= errors @ U[piece, piece.stop :]
    return pruned, W


def _inverse_factor(H: torch.Tensor) -> torch.Tensor:
    """The upper triangular U with inv(H) = U^T U."""
    factor: torch.Tensor = torch.linalg.cholesky(inverted(H), upper=True)
    return factor
