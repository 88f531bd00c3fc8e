"""The block problem: a second-order model of the change of the loss when some weights of a block are pruned.

The model is expanded around the current weights
(Rosenberg et al. 2024, arXiv 2411.17796, with the empirical Fisher matrix as curvature). For the n weights of a block:

    w0   value of a weight if it is kept             w    current value (w0 if kept now, 0 if pruned)
    dw = w - w0                                      x_i = 1 prunes weight i
    d(x) = -(dw + x w0)                              change of the weights
    dL(x) = gamma g.d + 1/2 d^T H d + rho |d|^2      predicted change of the loss

With H = G G^T / N for the per-sample gradients G [n, N] this is x^T A A^T x + c.x + offset with

    A = diag(w0) G / sqrt(2 N)
    c = w0 (H dw) - gamma w0 g + rho w0 (2 dw + w0)
    offset = 1/2 dw^T H dw - gamma g.dw + rho |dw|^2
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from problems import BlockProblem, Labels

FloatArray = npt.NDArray[np.floating[Any]]


def block_problem(
    gradients: npt.NDArray[np.float32],
    restore: FloatArray,
    pruned: npt.NDArray[np.bool_],
    *,
    gamma: float,
    rho: float,
    relative_rho: bool,
    cut: int = 0,
    groups: npt.NDArray[np.int64] | None = None,
    labels: Labels,
    provenance: Mapping[str, Any],
) -> BlockProblem:
    """The block problem of one step, in low-rank form.

    Args:
        gradients: per-sample gradients G of the block's weights [n, N].
        restore: value of each weight if it is kept, w0 [n].
        pruned: which weights are pruned now [n]; their number and `cut` are the cardinality.
        gamma: weight of the first-order term.
        rho: damping: weight of the squared change of the weights.
        relative_rho: whether rho is in units of the mean diagonal of H in the block; if not, it is absolute, as in the
            paper's code.
        cut: weights to prune in addition to those pruned now; 0 keeps the density.
        groups: group of each weight [n], 0..g-1; every group keeps its number of pruned weights. None for no groups.
        labels: layer number and flat index of each weight.
        provenance: origin of the block, stored with the problem.

    Returns:
        A problem whose energy is the predicted change of the loss; the current state has energy 0.
    """
    n, count = gradients.shape
    w0 = restore.astype(np.float64)
    dw = np.where(pruned, -w0, 0.0)
    damping = rho * _mean_square(gradients) if relative_rho else rho

    g = gradients.mean(axis=1, dtype=np.float64)
    products = gradients.T @ dw.astype(np.float32)  # G^T dw, so that H dw is one more product and H never exists
    h_dw = (gradients @ products).astype(np.float64) / count
    A = gradients * (w0 / np.sqrt(2.0 * count)).astype(np.float32)[:, None]
    linear = w0 * h_dw - gamma * w0 * g + damping * w0 * (2.0 * dw + w0)
    curvature = 0.5 * float(np.square(products, dtype=np.float64).sum()) / count
    offset = curvature - gamma * float(g @ dw) + damping * float(dw @ dw)
    return BlockProblem.low_rank(
        A,
        linear,
        int(pruned.sum()) + cut if groups is None else np.bincount(groups[pruned], minlength=int(groups.max()) + 1),
        groups=groups,
        offset=offset,
        labels=labels,
        provenance={**provenance, "rho": damping, "n": n},
    )


def _mean_square(gradients: npt.NDArray[np.float32]) -> float:
    """Mean diagonal of H = G G^T / N."""
    return float(np.einsum("is,is->", gradients, gradients, dtype=np.float64)) / gradients.size
