"""Wanda: weights by their magnitude times the norm of their input, compared within each row.

Sun et al. 2023, "A simple and effective pruning approach for large language models" (arXiv 2306.11695), section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hybrid_icbs.layerwise.method import Choice, LayerMethod, LayerProblem
from hybrid_icbs.models.patterns import Pattern


class Wanda(LayerMethod):
    """Wanda."""

    name = "wanda"

    def prune(self, problem: LayerProblem) -> Choice:
        return Choice(wanda(problem.W, problem.gram, problem.counts, problem.settings.pattern))


def wanda(W: torch.Tensor, H: torch.Tensor, counts: Sequence[int], pattern: Pattern | None = None) -> torch.Tensor:
    """Prune the weights with the smallest |W_ij| |X_j|, compared within each row.

    Args:
        W: weights [R, d].
        H: Gram matrix of the layer's inputs, up to a factor [d, d]; its diagonal holds the squared norms |X_j|^2.
        counts: weights to prune in each row [R].
        pattern: compare within groups of a row instead.

    Returns:
        What is pruned, bool [R, d].
    """
    scores = W.abs() * H.diagonal().clamp(min=0).sqrt().to(W.dtype)
    if pattern:
        return pattern.lowest(scores)
    rank = torch.argsort(torch.argsort(scores, dim=1, stable=True), dim=1)
    return rank < torch.as_tensor(counts, device=W.device)[:, None]
