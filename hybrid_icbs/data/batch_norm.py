"""Batch-norm statistics of a pruned model, where fresh ones serve it better than those of the dense model."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
from torch import nn

from hybrid_icbs.data.calibration import (
    CalibrationData,
    batch_norm_statistics,
    recalibrate_batch_norm,
    restore_batch_norm,
)
from hybrid_icbs.data.guard import Guard

logger = logging.getLogger(__name__)

RECALIBRATION_SAMPLES = 10_000
"""Samples over which batch-norm statistics are averaged: their error is then far below that of one training batch."""


def fresh_statistics(
    model: nn.Module,
    data: CalibrationData,
    pool: npt.NDArray[np.int64],
    guard: Guard | None,
    loss: float | None,
    *,
    must: bool,
) -> float | None:
    """Recompute the statistics for the final masks, unless the guard measures a higher loss.

    The masks were chosen under the dense model's statistics and may have come to fit them better than fresh ones.

    Args:
        model: the pruned model.
        data: the calibration data.
        pool: indices of the samples that the statistics may be taken of.
        guard: measures the loss, where there is one.
        loss: on its samples now.
        must: take fresh statistics whatever the guard measures.

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
    logger.info("fresh batch-norm statistics would raise the loss to %.4f: left out", found)
    restore_batch_norm(model, before)
    return loss
