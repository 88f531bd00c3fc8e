"""iCBS: masks by combinatorial optimisation. This file is its layer-wise form; `hybrid_icbs.blockwise` models the loss.

Rosenberg et al. 2024, "Scalable iterative pruning of large language and vision models using block coordinate descent"
(arXiv 2411.17796). Layer by layer, each row of a weight matrix is a block of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hybrid_icbs.layerwise.allocation import elimination_costs
from hybrid_icbs.layerwise.method import Choice, LayerMethod, LayerProblem
from hybrid_icbs.layerwise.refit import EXACT_UP_TO, damped, inverted
from hybrid_icbs.layerwise.windows import search_windows
from hybrid_icbs.methods.wanda import wanda


class Icbs(LayerMethod):
    """A tabu search over each row's mask.

    Without update it minimises the error of the layer's output with kept weights at their values. With "backsolve" it
    minimises the error after a refit; rows of more than 1,024 inputs are searched in windows
    (:mod:`hybrid_icbs.layerwise.windows`).
    """

    name = "icbs"

    def prune(self, problem: LayerProblem) -> Choice:
        if not problem.refitted:
            return Choice(_search(problem))
        if problem.W.shape[1] <= EXACT_UP_TO:
            return Choice(_search_refitted(problem))
        settings = problem.settings
        H = damped(problem.gram, settings.damping)
        return Choice(*search_windows(problem.W, H, problem.counts, settings.pattern, threads=settings.threads))

    def costs(self, problem: LayerProblem) -> npt.NDArray[np.float64]:
        """The increase of the error by each weight, pruned greedily one after the other."""
        if problem.refitted:
            return elimination_costs(problem)
        from solvers.rows import grow_rows

        W, settings = problem.W, problem.settings
        states, matrix = np.zeros(W.shape, np.uint8), _array(damped(problem.gram, settings.ridge))
        return grow_rows(matrix, _array(W), states, [W.shape[1]] * len(W), record=True, threads=settings.threads)[2]


def _search(problem: LayerProblem) -> torch.Tensor:
    from solvers.rows import solve_rows

    W, settings, pattern = problem.W, problem.settings, problem.settings.pattern
    start = wanda(W, problem.gram, problem.counts, pattern)
    states, _ = solve_rows(
        _array(damped(problem.gram, settings.ridge)), _array(W), _array(start), group=pattern.of if pattern else None,
        seed=problem.seed, threads=settings.threads,
    )  # fmt: skip
    return _mask(states, W)


def _search_refitted(problem: LayerProblem) -> torch.Tensor:
    from solvers.rows import solve_refitted_rows

    W, settings, pattern = problem.W, problem.settings, problem.settings.pattern
    group, most = (pattern.of, pattern.pruned) if pattern else (None, 0)
    inverse = inverted(damped(problem.gram, settings.damping))
    states, _, _ = solve_refitted_rows(
        _array(inverse), _array(W), np.zeros(W.shape, np.uint8), problem.counts, group=group, most=most,
        threads=settings.threads,
    )  # fmt: skip
    return _mask(states, W)


def _array(tensor: torch.Tensor) -> npt.NDArray[Any]:
    return tensor.cpu().numpy()


def _mask(states: npt.NDArray[np.uint8], like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(states.view(np.bool_)).to(like.device)
