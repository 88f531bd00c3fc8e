"""One layer pruned row by row: a row is a block problem, and all rows share the layer's Gram matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from hybrid_icbs.layerwise.grams import damped, inverted
from hybrid_icbs.layerwise.refit import EXACT_UP_TO, TOLERANCE, TOLERANCE_HALF, refit
from hybrid_icbs.layerwise.windows import search_windows
from hybrid_icbs.methods import baselines
from hybrid_icbs.models.layers import Layer
from hybrid_icbs.models.patterns import Pattern
from problems import BlockProblem, Labels, SharedMatrix

Method: TypeAlias = Literal["icbs", "magnitude", "wanda", "sparsegpt"]
Update: TypeAlias = Literal["none", "backsolve"]

DAMPING = 0.01
"""Added to the diagonal of every Gram matrix that is inverted, in units of its mean (SparseGPT's value)."""

RIDGE = 0.5
"""Added likewise where masks are searched for survivors that keep their values, as `rho` is to a step of iCBS.

The error as it stands rewards large cuts that happen to cancel on the calibration tokens, and those do not cancel as
well on others: without it the better searched mask is the worse model. Chosen on held-out training text
(benchmarks/language_models.py --choosing).
"""


@dataclass(frozen=True, eq=False)
class PrunedMatrix:
    """What became of a layer.

    Attributes:
        kept: mask, bool [R, d].
        weights: new weights, zero where pruned, float64 [R, d].
    """

    kept: torch.Tensor
    weights: torch.Tensor


def prune_matrix(
    W: torch.Tensor,
    gram: torch.Tensor,
    counts: Sequence[int],
    *,
    method: Method = "icbs",
    update: Update = "none",
    pattern: Pattern | None = None,
    damping: float = DAMPING,
    ridge: float = RIDGE,
    seed: int = 0,
    threads: int | None = None,
) -> PrunedMatrix:
    """Choose what is pruned of a weight matrix, and refit what is left if asked.

    Args:
        W: the dense weights [R, d], one output a row.
        gram: mean of x x^T over calibration tokens [d, d].
        counts: weights to prune of each row [R]. Magnitude and SparseGPT compare weights across rows, as in their
            papers, and keep to the sum alone. A pattern overrules them.
        method: "icbs" searches each row's own block problem; the others are those of :mod:`hybrid_icbs.methods.baselines`.
        update: "backsolve" refits the survivors of each row exactly, and "icbs" then searches the refitted error
            (window by window where rows have more than 1,024 inputs, see :mod:`hybrid_icbs.layerwise.windows`); "none" keeps
            their values, except that SparseGPT always comes with its own.
        pattern: N:M.
        damping: of the Gram matrix where it is inverted, in units of its mean diagonal.
        ridge: of the Gram matrix where "icbs" searches without update, in the same units.
        seed: for the tabu search of "icbs" without update.
        threads: of the row search; None for all processors.
    """
    tolerance = TOLERANCE if W.dtype.itemsize > 2 else TOLERANCE_HALF
    W, gram = W.double(), gram.double()
    if pattern:
        counts = [W.shape[1] // pattern.of * pattern.pruned] * len(W)
    new: torch.Tensor | None = None
    if method == "magnitude":
        pruned = baselines.magnitude(W, sum(counts), pattern)
    elif method == "wanda":
        pruned = baselines.wanda(W, gram, counts, pattern)
    elif method == "sparsegpt":
        pruned, new = baselines.sparsegpt(W, gram, sum(counts), pattern, damping=damping)
    elif update == "backsolve" and W.shape[1] > EXACT_UP_TO:
        pruned, new = search_windows(W, damped(gram, damping), counts, pattern, threads=threads)
    elif update == "backsolve":
        pruned = _search_refitted(W, damped(gram, damping), counts, pattern, threads)
    else:
        pruned = _search_plain(W, gram, counts, pattern, ridge, seed, threads)
    if update == "backsolve":
        new = refit(W, damped(gram, damping), ~pruned, start=new, tolerance=tolerance)
    elif new is None:
        new = W.masked_fill(pruned, 0.0)
    return PrunedMatrix(~pruned, new)


def row_problems(
    layer: Layer,
    W: torch.Tensor,
    gram: torch.Tensor,
    counts: Sequence[int],
    pattern: Pattern | None = None,
    *,
    ridge: float = RIDGE,
    provenance: Mapping[str, Any] | None = None,
) -> Iterator[BlockProblem]:
    """Each row of a layer as a block problem, r^T (G + ridge) r with r = w * x, for files and other solvers.

    These are the problems that `prune_matrix` solves with update="none". With "backsolve" it searches the refitted
    error, which is no quadratic function of the mask, so the best state of these problems is another.

    Args:
        layer: whose labels the problems bear.
        W: its dense weights [R, d].
        gram: mean of x x^T over calibration tokens [d, d].
        counts: weights to prune of each row [R].
        pattern: N:M, which overrules the counts.
        ridge: as for :func:`prune_matrix`.
        provenance: for the record, with the row's number added.

    Yields:
        A problem for each row; all share one matrix in memory.
    """
    rows, d = W.shape
    shared = SharedMatrix.of(_array(damped(gram, ridge)))
    scales = _array(W.double())
    parameter = np.full(d, layer.number, np.int32)
    groups = np.arange(d) // pattern.of if pattern else None
    for row in range(rows):
        index = np.arange(d) * rows + row if layer.kind == "conv1d" else row * d + np.arange(d)
        yield BlockProblem.scaled(
            shared, scales[row], cardinality=pattern.pruned if pattern else int(counts[row]), groups=groups,
            labels=Labels(parameter, index), provenance={**(provenance or {}), "layer": layer.name, "row": row},
        )  # fmt: skip


def _search_plain(
    W: torch.Tensor,
    gram: torch.Tensor,
    counts: Sequence[int],
    pattern: Pattern | None,
    ridge: float,
    seed: int,
    threads: int | None,
) -> torch.Tensor:
    from solvers.rows import solve_rows

    start = baselines.wanda(W, gram, counts, pattern)
    group = pattern.of if pattern else None
    matrix = _array(damped(gram, ridge))
    states, _ = solve_rows(matrix, _array(W), _array(start), group=group, seed=seed, threads=threads)
    return _mask(states, W)


def _search_refitted(
    W: torch.Tensor, H: torch.Tensor, counts: Sequence[int], pattern: Pattern | None, threads: int | None
) -> torch.Tensor:
    from solvers.rows import solve_refitted_rows

    group, most = (pattern.of, pattern.pruned) if pattern else (None, 0)
    inverse = inverted(H)
    states, _, _ = solve_refitted_rows(
        _array(inverse), _array(W), np.zeros(W.shape, np.uint8), counts, group=group, most=most, threads=threads
    )  # fmt: skip
    return _mask(states, W)


def _array(tensor: torch.Tensor) -> npt.NDArray[Any]:
    return tensor.cpu().numpy()


def _mask(states: npt.NDArray[np.uint8], like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(states.view(np.bool_)).to(like.device)
