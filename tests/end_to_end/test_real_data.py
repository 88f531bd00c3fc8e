"""Quality on real models and instances, where the data for measuring is at hand (HYBRID_ICBS_DATA)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

import solvers
from hybrid_icbs import evaluate, prune
from problems import instances

DATA = Path(os.environ.get("HYBRID_ICBS_DATA", Path(__file__).parents[3] / "shared" / "data"))

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no data for measuring at {DATA} (set HYBRID_ICBS_DATA)"),
]


class MLPNet(nn.Module):
    """784-40-20-10 without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = (nn.Linear(a, b, bias=False) for a, b in ((784, 40), (40, 20), (20, 10)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


def mnist(split: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    with np.load(DATA / "mnist" / f"{split}.npz") as file:
        x = torch.from_numpy(file["x"][:count]).float().div(255).sub(0.1307).div(0.3081).flatten(1)
        return x, torch.from_numpy(file["y"][:count]).long()


def test_mlpnet_keeps_its_accuracy_at_a_fiftieth_of_its_weights() -> None:
    """Global magnitude pruning, where the run starts, leaves 32 %."""
    model = MLPNet()
    model.load_state_dict(load_file(DATA / "checkpoints" / "mlpnet_mnist.safetensors"))
    settings = {"steps": 60, "block_size": 512, "batch_size": 1000, "backend": "tabu?threads=1"}
    result = prune(model, mnist("train", 30_000), density=0.02, progress=False, **settings)  # type: ignore[arg-type]
    accuracy = evaluate(result.model, mnist("test", 10_000)).accuracy
    assert accuracy is not None
    assert accuracy > 0.78


@pytest.mark.parametrize("name", ["MDG-a_9_n500_m50", "GKD-b_46_n150_m45", "SOM-b_8_n200_m80"])
def test_tabu_finds_the_best_known_diversity(name: str) -> None:
    problem = instances.read_mdplib(DATA / "mdplib" / f"{name}.txt")
    assert problem.best_known is not None
    best = problem.best_known.energy
    found = solvers.solve(problem, "tabu", seed=0, restarts=4, offspring=400).first.energy
    assert found == pytest.approx(best, rel=5e-6)  # best known values are printed to a few digits
