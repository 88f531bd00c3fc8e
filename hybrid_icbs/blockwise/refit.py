"""Refit the surviving weights of all layers for the loss, after a round is merged.

Gradients are measured at the new masks: g = G^T 1 / N and H = G^T G / N for the per-sample gradients G
[N, all weights]. The kept weights K take the step that minimises the quadratic model of the loss with damping lambda (a
trust region); pruned weights stay zero:

    d_K = -(H_KK + lambda I)^-1 g_K

Since g is a mean of the samples' gradients, Woodbury's identity gives

    d_K = -G_K^T u        (G_K G_K^T + N lambda I) u = 1        u [N]

with one N x N matrix, accumulated layer by layer in chunks of rows, and one more backward pass with the samples
weighted by u. No matrix of N x all weights is formed. The N x N algebra is in float64.

The quadratic model holds only near the current weights, so the step length is chosen by the loss on the guard's
samples. WoodFisher and CHITA use the gradients before pruning, with a term H_KP d_P for the pruned weights; measuring
gradients after pruning costs the same and was as accurate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from hybrid_icbs.blockwise.snapshots import Values, kept_values, step_values, write_values
from hybrid_icbs.data.calibration import Batch
from hybrid_icbs.data.evaluation import Guard
from hybrid_icbs.data.forward import evaluation_mode, samples_per_pass
from hybrid_icbs.data.losses import Loss, sample_losses
from hybrid_icbs.gradients.hooks import Call, bytes_of, only_weights_require_grad, watching
from hybrid_icbs.gradients.passes import KEPT, scale_of, weighted_gradients
from hybrid_icbs.models.layers import Layer
from hybrid_icbs.models.masks import Masks

RIDGE = 5.0
"""Lambda in units of the mean of the at most N nonzero eigenvalues of H_KK, which makes it independent of N and of the
number of weights.

Chosen by the loss on held-out training samples, benchmarks/README.md.
"""

LENGTHS = (1.0, 0.5, 0.25)
"""Step lengths that are tried, the longest first; no step is taken if none lowers the loss."""

CHUNK = 2**23
"""Number of per-sample gradients in memory at a time: 32 MiB, and twice that in float64."""


@dataclass(frozen=True, eq=False)
class Refit:
    """Result of a refit: step length (0 for no step), loss on the guard's samples, values of the kept weights."""

    length: float
    loss: float
    values: Values


def refit(
    model: nn.Module, layers: Sequence[Layer], masks: Masks, batch: Batch, loss: Loss, guard: Guard, before: float
) -> Refit:
    """Refit the kept weights of a model, with the step length of lowest loss on the guard's samples.

    Args:
        model: the model, changed in place; the loss is measured with weights rounded to their own dtype.
        layers: the layers.
        masks: which weights are kept.
        batch: N samples for the gradients.
        loss: per-sample loss.
        guard: measures the loss of each step length.
        before: its loss before the refit.
    """
    values = kept_values(layers, masks)
    step = refit_step(model, layers, masks, batch, loss)
    length, least, written = 0.0, before, 0.0
    for tried in LENGTHS if step is not None else ():
        step_values(layers, masks, values, step, tried)
        written, found = tried, guard.score().loss
        if found < least:
            length, least = tried, found
        elif length:
            break  # the loss rises again as the step gets shorter
    if length and written != length:
        step_values(layers, masks, values, step, length)
    elif written != length:
        write_values(layers, masks, values)
    return Refit(length, least, kept_values(layers, masks) if length else values)


def refit_step(
    model: nn.Module, layers: Sequence[Layer], masks: Masks, batch: Batch, loss: Loss, ridge: float = RIDGE
) -> Mapping[int, torch.Tensor] | None:
    """The full step (length 1) of the kept weights.

    Args:
        model: the model.
        layers: the layers.
        masks: which weights are kept.
        batch: N samples.
        loss: per-sample loss.
        ridge: lambda, in units of trace(H_KK) / N.

    Returns:
        The step by layer number, shaped like the weights; entries at pruned weights must be ignored. None if all
        gradients are zero.

    Source:
        Singh and Alistarh 2020 (WoodFisher, arXiv 2004.14340); Benbaki et al. 2023 (CHITA, arXiv 2302.14623).
    """
    matrix = products(model, layers, masks, batch, loss)
    trace = float(matrix.diagonal().sum())
    if not trace > 0.0:
        return None
    matrix.diagonal().add_(ridge * trace / batch.size)  # N lambda: the trace is N times that of H_KK
    ones = torch.ones(batch.size, 1, dtype=torch.float64, device=matrix.device)
    u = torch.cholesky_solve(ones, torch.linalg.cholesky(matrix))[:, 0]
    return weighted_gradients(model, layers, batch, loss, -u)


def products(model: nn.Module, layers: Sequence[Layer], masks: Masks, batch: Batch, loss: Loss) -> torch.Tensor:
    """G_K G_K^T for the per-sample gradients of the kept weights of all layers, float64 [N, N]."""
    total: torch.Tensor | None = None
    for layer, calls in _calls(model, layers, batch, loss):
        kept = np.flatnonzero(masks.flat(layer.name))
        rows = max(1, CHUNK // batch.size)
        for begin in range(0, len(kept), rows):
            index = kept[begin : begin + rows]
            gradients = np.zeros((len(index), batch.size), np.float32)
            for call in calls:
                call.add(layer, index, gradients)
            G = torch.from_numpy(gradients).to(layer.weight.device, torch.float64)
            own = G.T @ G
            total = own if total is None else total.add_(own.to(total.device))
    assert total is not None
    return total / scale_of(layers) ** 2


def _calls(model: nn.Module, layers: Sequence[Layer], batch: Batch, loss: Loss) -> Iterator[tuple[Layer, list[Call]]]:
    """Inputs and output gradients of each layer, for as many layers in one pass as fit in memory."""
    size = samples_per_pass(model, batch, batch.size)
    scale, left = scale_of(layers), list(layers)
    while left:
        calls: dict[int, list[Call]] = {layer.number: [] for layer in left}
        first = 0
        with evaluation_mode(model), only_weights_require_grad(model, ()):
            for part in batch.split(size):
                with watching([layer for layer in left if layer.number in calls], calls, first, part.size, None):
                    own = sample_losses(model, part, loss)[1]
                    if own.requires_grad:
                        (own.sum() * scale).backward()
                del own
                first += part.size
                while len(calls) > 1 and bytes_of(calls) * (batch.size / first) > KEPT:
                    calls.popitem()
        done, left = left[: len(calls)], left[len(calls) :]
        for layer in done:
            yield layer, calls.pop(layer.number)
