"""The methods that others compare with, written from their papers: magnitude, Wanda and SparseGPT.

All take a weight matrix W [R, d], one output a row, and say what they prune as a bool matrix of that shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hybrid_icbs.layerwise.grams import damped, inverted
from hybrid_icbs.models.masks import shares
from hybrid_icbs.models.patterns import Pattern

COLUMNS = 128
"""Columns whose masks SparseGPT chooses together, as in the paper's experiments."""


def magnitude(W: torch.Tensor, count: int, pattern: Pattern | None = None) -> torch.Tensor:
    """Prune the `count` smallest weights of a layer, or the smallest of each group of a pattern."""
    if pattern:
        return pattern.lowest(W.abs())
    return _lowest(W.abs().flatten(), count).reshape(W.shape)


def wanda(W: torch.Tensor, H: torch.Tensor, counts: Sequence[int], pattern: Pattern | None = None) -> torch.Tensor:
    """Prune the weights with the smallest |W_ij| |X_j|, compared within each row.

    Sun et al. 2023, "A simple and effective pruning approach for large language models" (arXiv 2306.11695), section 3.

    Args:
        W: weights [R, d].
        H: Gram matrix of the layer's inputs, up to a factor [d, d]; its diagonal holds the squared norms |X_j|^2.
        counts: weights to prune of each row [R].
        pattern: compare within groups of a row instead.
    """
    scores = W.abs() * H.diagonal().clamp(min=0).sqrt().to(W.dtype)
    if pattern:
        return pattern.lowest(scores)
    rank = torch.argsort(torch.argsort(scores, dim=1, stable=True), dim=1)
    return rank < torch.as_tensor(counts, device=W.device)[:, None]


def sparsegpt(
    W: torch.Tensor,
    H: torch.Tensor,
    count: int,
    pattern: Pattern | None = None,
    *,
    damping: float = 0.01,
    columns: int = COLUMNS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prune column by column, the columns still to come making up for each cut.

    Frantar and Alistarh 2023, "SparseGPT: massive language models can be accurately pruned in one-shot"
    (arXiv 2301.00774), algorithm 1. With U the upper Cholesky factor of inv(H), inv(H) = U^T U, row i of U divided by
    U_ii is the column of inverse Hessians that the paper's formula (4) wants: the inverse of H without the first i
    variables. The mask of each `columns` columns is chosen when they are reached, by w^2 / U_ii^2 over all rows.

    Args:
        W: weights [R, d].
        H: Gram matrix of the layer's inputs, up to a factor [d, d].
        count: weights to prune of the layer; each piece of `columns` columns has its share.
        pattern: choose within groups of a row instead, when the first column of a group is reached.
        damping: added to the diagonal of H, in units of its mean.
        columns: see above.

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
            cut[:] = _lowest((V / u.diagonal()).square().flatten(), share).reshape(V.shape)
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


def _lowest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` lowest of scores [m], of equal ones the first; bool [m]."""
    lowest = torch.zeros_like(scores, dtype=torch.bool)
    lowest[torch.argsort(scores, stable=True)[:count]] = True
    return lowest
