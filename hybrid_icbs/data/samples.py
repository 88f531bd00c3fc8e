"""The samples of a run: what the guard holds back, and the batch on which a round measures its gradients."""

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
"""The same where the samples are text."""

GUARD_SAMPLES, GUARD_SEQUENCES = 5000, 64
"""The most that the guard holds back where nothing is said."""

BLOCKS, REFITS = 1, 2
"""Streams of batches: those that blocks are made of, and those on which survivors are refitted."""

IndexArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Samples:
    """The calibration data of a run, dealt out by its seed.

    Attributes:
        data: all of them.
        guarded: indices of those on which the guard measures the loss [m]; none without a guard.
        pool: indices of those from which batches are drawn.
        batch_size: samples of a batch, N.
        seed: the run's.
    """

    data: CalibrationData
    guarded: IndexArray
    pool: IndexArray
    batch_size: int
    seed: int

    @classmethod
    def of(cls, data: CalibrationData, config: Config) -> Samples:
        """Deal the samples out as the settings say.

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
        """The batch of a round, drawn without replacement; another one for each stream."""
        rng = np.random.default_rng([self.seed, stream, number])
        size = min(self.batch_size, len(self.pool))
        return self.data.take(rng.choice(self.pool, size, replace=False), device)

    def first(self) -> Batch:
        """As many samples as a batch has, always the same: by them a resumed run knows its data again."""
        return self.data.take(self.pool[: self.batch_size])


def split(count: int, held_back: int, seed: int) -> tuple[IndexArray, IndexArray]:
    """Indices of samples that are held back, and of the others, both in random order."""
    order = np.random.default_rng([seed, 0]).permutation(count)
    return order[:held_back], order[held_back:]
