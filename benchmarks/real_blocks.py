"""Real pruning blocks of runs of `hybrid_icbs`: models and data from HYBRID_ICBS_DATA (see models.py)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import models
import numpy as np
import torch

from hybrid_icbs import Config, Pruner
from problems import BlockProblem


@dataclass(frozen=True)
class Recipe:
    """The first block of a run.

    Attributes:
        network: "mlpnet", "classifier" (784-512-512-10) or "resnet20".
        n: its variables.
        samples: N, the number of samples for its curvature.
        density: of the network, pruned by magnitude.
        scope: whether its candidates come from all layers or from one.
        seed: of the samples, and of the candidates.
    """

    network: str
    n: int
    samples: int
    density: float
    scope: str = "global"
    seed: int = 0

    @property
    def name(self) -> str:
        name = f"{self.network}-{self.n}-N{self.samples}-d{self.density:g}-{self.scope}"
        return f"{name}-s{self.seed}" if self.seed else name


RECIPES = [
    Recipe("mlpnet", 1024, 200, 0.1, "layer"),
    Recipe("classifier", 1024, 200, 0.1, "layer"),
    Recipe("classifier", 1024, 50, 0.1),
    Recipe("classifier", 1024, 200, 0.02),
    Recipe("classifier", 1024, 1000, 0.02),
    Recipe("resnet20", 1024, 200, 0.2),
    Recipe("classifier", 2048, 200, 0.1, "layer"),
    Recipe("classifier", 2048, 50, 0.02),
    Recipe("classifier", 2048, 200, 0.02),
    Recipe("classifier", 2048, 1000, 0.1),
    Recipe("resnet20", 2048, 1000, 0.2),
]

OTHERS = [
    Recipe("classifier", 512, 200, 0.1, "layer", 1),
    Recipe("classifier", 1024, 200, 0.1, "layer", 1),
    Recipe("classifier", 1024, 200, 0.1, "layer", 2),
    Recipe("classifier", 1024, 200, 0.05, "layer"),
    Recipe("classifier", 1024, 200, 0.2, "layer", 3),
    Recipe("classifier", 2048, 200, 0.1, "layer", 1),
    Recipe("classifier", 2048, 200, 0.05, "layer", 2),
    Recipe("classifier", 2048, 1000, 0.1, "layer", 3),
    Recipe("mlpnet", 1024, 200, 0.1, "layer", 1),
    Recipe("mlpnet", 1024, 1000, 0.2, "layer", 2),
    Recipe("mlpnet", 2048, 200, 0.1, "layer", 3),
    Recipe("resnet20", 1024, 200, 0.2, "layer", 1),
    Recipe("classifier", 512, 200, 0.05, seed=1),
    Recipe("classifier", 1024, 50, 0.05, seed=1),
    Recipe("classifier", 1024, 200, 0.05, seed=2),
    Recipe("classifier", 1024, 1000, 0.02, seed=3),
    Recipe("classifier", 2048, 50, 0.05, seed=1),
    Recipe("classifier", 2048, 200, 0.02, seed=2),
    Recipe("mlpnet", 1024, 200, 0.05, seed=4),
    Recipe("resnet20", 1024, 50, 0.3, seed=2),
]
"""Blocks that no figure of block_solvers.py is of, to hold a change of a solver against: see versions.py."""


@dataclass(frozen=True, eq=False)
class RealBlock:
    """A block in dense form (float32), and the mask that the network has now (1 = pruned) [n]."""

    name: str
    problem: BlockProblem
    mask: np.ndarray


def real_blocks(pattern: str = "", recipes: list[Recipe] = RECIPES) -> Iterator[RealBlock]:
    """The blocks of these recipes whose name contains the pattern."""
    for recipe in recipes:
        if pattern in recipe.name:
            yield made(recipe)


def made(recipe: Recipe) -> RealBlock:
    """Make one block."""
    torch.manual_seed(0)
    model = getattr(models, recipe.network)()
    data = models.cifar10("train") if recipe.network == "resnet20" else models.mnist("train")
    config = Config.of(
        density=recipe.density, block_size=recipe.n, batch_size=recipe.samples, scope=recipe.scope,
        steps=1, cut_steps=0, guard="off", seed=recipe.seed,
    )  # fmt: skip
    pruner = Pruner(model, data, config)
    (problem,) = pruner.ask(1)
    mask = np.zeros(problem.n, np.int8)
    for number in np.unique(problem.labels.parameter):
        here = problem.labels.parameter == number
        kept = pruner.masks.flat(pruner.layers[number].name)
        mask[here] = ~kept[problem.labels.index[here]]
    return RealBlock(recipe.name, problem.to_dense(np.float32), mask)
