"""The samples of a run: those that the guard holds back, and the batches on which rounds measure gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from hybrid_icbs.config import Config
from hybrid_icbs.data.calibration import Batch, CalibrationData
from hybrid_icbs.errors import PruningError

BATCH_SAMPLES = 1000
"""Default number of samples for the gradients of a round. No other setting, and no solver, lowers the loss of a
classifier as much (`energy_vs_loss.py` in benchmarks/README.md)."""

BATCH_SEQUENCES = 32
"""The same for text."""

GUARD_SAMPLES, GUARD_SEQUENCES = 5000, 64
"""Default upper bounds of the samples that the guard holds back."""

BLOCKS, REFITS = 1, 2
"""Random streams of batches: for blocks, and for refits of the kept weights."""

IndexArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Samples:
    """The calibration data of a run, divided by its seed.

    Attributes:
        data: all samples.
        guarded: indices of the samples on which the guard measures the loss [m]; empty without a guard.
        pool: indices of the samples from which batches are drawn.
        batch_size: samples in a batch, N.
        seed: of the run.
    """

    data: CalibrationData
    guarded: IndexArray
    pool: IndexArray
    batch_size: int
    seed: int

    @classmethod
    def of(cls, data: CalibrationData, config: Config) -> Samples:
        """Divide the samples as the settings say.

        Raises:
            PruningError: the guard would leave none for gradients.
        """
        most = GUARD_SEQUENCES if data.sequences else GUARD_SAMPLES
        size = min(most, len(data) // 3) if config.guard_size is None else config.guard_size
        if config.guard == "off":
            size = 0
        elif not 0 < size < len(data):
            raise PruningError(
                f"a guard of {size} samples leaves none of {len(data)} for gradients; give more calibration data, a "
                'smaller guard_size, or guard="off"'
            )
        batch_size = config.batch_size or (BATCH_SEQUENCES if data.sequences else BATCH_SAMPLES)
        return cls(data, *split(len(data), size, config.seed), batch_size, config.seed)

    def batch(self, number: int, device: torch.device | str = "cpu", *, stream: int = BLOCKS) -> Batch:
        """The batch of a round, drawn without replacement; each stream has its own."""
        rng = np.random.default_rng([self.seed, stream, number])
        size = min(self.batch_size, len(self.pool))
        return self.data.take(rng.choice(self.pool, size, replace=False), device)

    def first(self) -> Batch:
        """A fixed batch, by which a resumed run recognises its data."""
        return self.data.take(self.pool[: self.batch_size])


def split(count: int, held_back: int, seed: int) -> tuple[IndexArray, IndexArray]:
    """Indices of the held-back samples and of the others, both in random order."""
    order = np.random.default_rng([seed, 0]).permutation(count)
    return order[:held_back], order[held_back:]
