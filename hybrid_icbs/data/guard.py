"""The guard: the loss on calibration samples that no gradient sees."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import nn

from hybrid_icbs.data.calibration import CalibrationData, Loss, Score, score

IndexArray = npt.NDArray[np.int64]


class Guard:
    """Measures the loss on calibration samples that no gradient sees.

    Args:
        model: the model under pruning.
        data: the calibration data.
        index: the held-back samples [m].
        loss: per-sample loss.
    """

    def __init__(self, model: nn.Module, data: CalibrationData, index: IndexArray, loss: Loss) -> None:
        self._model, self._data, self._loss = model, data, loss
        self.index = index

    def score(self) -> Score:
        """Mean loss and accuracy of the model as it is now."""
        return score(self._model, self._data, self.index, self._loss)
