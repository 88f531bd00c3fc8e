"""How a run deals out its calibration data."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hybrid_icbs import Config
from hybrid_icbs.data.calibration import CalibrationData
from hybrid_icbs.data.samples import Samples


def data(count: int) -> CalibrationData:
    return CalibrationData((torch.arange(count, dtype=torch.float32)[:, None], torch.zeros(count, dtype=torch.long)))


@pytest.mark.parametrize(("preset", "size"), [("icbs", 1000), ("icbs-paper", 200)])
def test_a_batch_has_as_many_samples_as_the_preset_says(preset: str, size: int) -> None:
    config = Config.of(density=0.5, preset=preset, guard="off")
    x = Samples.of(data(1500), config).batch(0).inputs
    assert len(x) == len(np.unique(x)) == size


def test_a_batch_has_no_more_samples_than_the_guard_leaves() -> None:
    samples = Samples.of(data(90), Config.of(density=0.5))
    x = samples.batch(0).inputs
    assert len(x) == len(samples.pool) == 60
    assert not np.isin(samples.guarded, samples.pool).any()


def test_batches_differ_by_round_stream_and_seed_and_repeat_themselves() -> None:
    def drawn(seed: int, number: int, stream: int = 1) -> list[float]:
        samples = Samples.of(data(300), Config.of(density=0.5, batch_size=20, seed=seed))
        return samples.batch(number, stream=stream).inputs[:, 0].tolist()

    assert drawn(0, 3) == drawn(0, 3)
    others = [drawn(0, 4), drawn(1, 3), drawn(0, 3, stream=2)]
    assert all(drawn(0, 3) != other for other in others)
