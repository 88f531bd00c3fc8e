"""Magnitude pruning: the smallest weights of a layer.

Han et al. 2015, "Learning both weights and connections for efficient neural networks" (arXiv 1506.02626).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from hybrid_icbs.layerwise.method import Choice, LayerMethod, LayerProblem
from hybrid_icbs.models.patterns import Pattern


class Magnitude(LayerMethod):
    """Magnitude pruning; weights are compared over the whole layer."""

    name = "magnitude"

    def prune(self, problem: LayerProblem) -> Choice:
        return Choice(magnitude(problem.W, sum(problem.counts), problem.settings.pattern))

    def costs(self, problem: LayerProblem) -> npt.NDArray[np.float64]:
        """The squared weights of each row, sorted."""
        return problem.W.square().sort(dim=1).values.cpu().numpy()


def magnitude(W: torch.Tensor, count: int, pattern: Pattern | None = None) -> torch.Tensor:
    """Prune the `count` smallest weights of a layer, or the smallest of each group of a pattern.

    Args:
        W: weights [R, d].
        count: weights to prune.
        pattern: N:M.

    Returns:
        What is pruned, bool [R, d].
    """
    if pattern:
        return pattern.lowest(W.abs())
    return lowest(W.abs().flatten(), count).reshape(W.shape)


def lowest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` lowest of scores [m], of equal ones the first; bool [m]."""
    found = torch.zeros_like(scores, dtype=torch.bool)
    found[torch.argsort(scores, stable=True)[:count]] = True
    return found
