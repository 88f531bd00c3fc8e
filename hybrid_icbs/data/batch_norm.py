"""Batch-norm statistics of a pruned model, recomputed where that does not raise its loss."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hybrid_icbs.data.calibration import CalibrationData
from hybrid_icbs.data.evaluation import Guard
from hybrid_icbs.data.forward import EVALUATION_BATCH, device_of, evaluation_mode, run_model
from hybrid_icbs.errors import PruningError
from hybrid_icbs.models.layers import BATCH_NORMS

logger = logging.getLogger(__name__)

RECALIBRATION_SAMPLES = 10_000
"""Samples over which batch-norm statistics are averaged; their error is far below that of one training batch."""


def fresh_statistics(
    model: nn.Module,
    data: CalibrationData,
    pool: npt.NDArray[np.int64],
    guard: Guard | None,
    loss: float | None,
    *,
    must: bool,
) -> float | None:
    """Recompute the statistics for the final masks, unless the guard measures a higher loss with them.

    The masks were chosen with the dense model's statistics and may fit them better than recomputed ones.

    Args:
        model: the pruned model.
        data: the calibration data.
        pool: indices of the samples that may be used.
        guard: measures the loss; None for no guard.
        loss: the loss on its samples now.
        must: keep the recomputed statistics whatever the guard measures.

    Returns:
        The loss on the guard's samples with the statistics that the model has now.
    """
    before = batch_norm_statistics(model)
    recalibrate_batch_norm(model, data, pool[:RECALIBRATION_SAMPLES])
    if guard is None or loss is None:
        return loss
    found = guard.score().loss
    if must or found <= loss:
        return found
    logger.info("recomputed batch-norm statistics would raise the loss to %.4f; the former ones are kept", found)
    restore_batch_norm(model, before)
    return loss


@torch.no_grad()
def recalibrate_batch_norm(model: nn.Module, data: CalibrationData, index: npt.NDArray[np.int64]) -> None:
    """Recompute the running statistics of every batch norm as plain averages over the samples of some indices.

    Pruning changes the distribution of every activation; statistics of the dense model no longer describe it.
    """
    if len(index) < 2:
        raise PruningError(f"batch-norm statistics need at least two samples; there are {len(index)}")
    norms = [m for m in model.modules() if isinstance(m, BATCH_NORMS) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    # Torch's cumulative average weighs batches alike, so they must be of one size (or differ by one sample).
    parts = np.array_split(index, -(-len(index) // EVALUATION_BATCH))
    try:
        with evaluation_mode(model):
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a cumulative average
                norm.train()
            for part in parts:
                run_model(model, data.take(part, device_of(model)).inputs)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def batch_norm_statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the running statistics of every batch norm, by name."""
    norms = {name: module for name, module in model.named_modules() if isinstance(module, BATCH_NORMS)}
    return {f"{name}.{key}": value.clone() for name, norm in norms.items() for key, value in norm.named_buffers()}


@torch.no_grad()
def restore_batch_norm(model: nn.Module, statistics: dict[str, torch.Tensor]) -> None:
    """Restore running statistics."""
    for name, value in statistics.items():
        model.get_buffer(name).copy_(value)
