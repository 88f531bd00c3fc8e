"""The rows of a layer as block problems, for files and for any solver; all rows share the layer's Gram matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from hybrid_icbs.layerwise.method import RIDGE
from hybrid_icbs.layerwise.refit import damped
from hybrid_icbs.models.layers import Layer
from hybrid_icbs.models.patterns import Pattern
from problems import BlockProblem, Labels, SharedMatrix


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
    """Each row of a layer as a block problem, r^T (G + ridge) r with r = w * x.

    The method "icbs" solves these problems with update="none". With "backsolve" it minimises the refitted error, which
    is no quadratic function of the mask, so its best mask is another.

    Args:
        layer: the layer, for the problems' labels.
        W: its dense weights [R, d].
        gram: mean of x x^T over calibration tokens [d, d].
        counts: weights to prune in each row [R].
        pattern: N:M, which overrides the counts.
        ridge: added to the Gram matrix's diagonal, in units of its mean.
        provenance: of the problems; the row's number is added.

    Yields:
        A problem for each row; all share one matrix in memory.
    """
    rows, d = W.shape
    shared = SharedMatrix.of(damped(gram, ridge).cpu().numpy())
    scales = W.double().cpu().numpy()
    parameter = np.full(d, layer.number, np.int32)
    groups = np.arange(d) // pattern.of if pattern else None
    # Flat indices of a row, from the strides of the weight viewed as a matrix.
    down, right = layer.kind.matrix(torch.empty(layer.weight.shape, device="meta")).stride()
    for row in range(rows):
        yield BlockProblem.scaled(
            shared, scales[row], cardinality=pattern.pruned if pattern else int(counts[row]), groups=groups,
            labels=Labels(parameter, row * down + np.arange(d) * right),
            provenance={**(provenance or {}), "layer": layer.name, "row": row},
        )  # fmt: skip
