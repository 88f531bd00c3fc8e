"""The settings of a run by layer, the pruning problem of one layer, and the interface of methods that solve it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from hybrid_icbs.errors import PruningError
from hybrid_icbs.layerwise.refit import TOLERANCE, TOLERANCE_HALF, damped, refit
from hybrid_icbs.models.patterns import Pattern

Objective: TypeAlias = Literal["layer", "joint"]
Scope: TypeAlias = Literal["layer", "global"]
Update: TypeAlias = Literal["none", "backsolve"]

DAMPING = 0.01
"""Added to the diagonal of every Gram matrix that is inverted, in units of its mean (SparseGPT's value)."""

RIDGE = 0.5
"""Added likewise in a search for masks whose kept weights are not refitted, as `rho` is in a step of iCBS.

The layer's error alone rewards large cuts that cancel each other on the calibration tokens, and they do not cancel as
well on other tokens: without the ridge a mask of lower error makes a worse model. Chosen on held-out training text
(benchmarks/language_models.py --choosing).
"""


@dataclass(frozen=True)
class LayerwiseSettings:
    """Settings of a run by layer.

    Attributes:
        method: the method.
        density: share of weights kept over all layers; None with a pattern, which has its own.
        objective: how errors of different rows compare: "layer" as they are; "joint" weighted by the mean squared
            gradient of the row's output, which also makes the rows of different layers comparable.
        update: "none" keeps the values of kept weights (unless the method changes them); "backsolve" refits them.
        pattern: N:M.
        scope: "layer" gives all layers one density; "global" allocates density by the costs on the dense model.
        damping: of Gram matrices that are inverted, in units of their mean diagonal.
        ridge: of Gram matrices in "icbs" without update, in the same units.
        seed: of the run; two runs with one seed on one machine agree to the bit.
        threads: of the row search; None for all processors. They do not change the result.

    Raises:
        PruningError: no density, or settings that contradict each other.
    """

    method: LayerMethod
    density: float | None = None
    objective: Objective = "layer"
    update: Update = "none"
    pattern: Pattern | None = None
    scope: Scope = "layer"
    damping: float = DAMPING
    ridge: float = RIDGE
    seed: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        pattern, density = self.pattern, self.density
        if pattern is not None and self.scope == "global":
            raise PruningError(f"pattern {pattern} fixes the density of every layer; it cannot go with scope='global'")
        if pattern is not None and density is not None and abs(density - pattern.density) > 1e-9:
            raise PruningError(f"pattern {pattern} keeps {pattern.density:.4g} of the weights, not {density}")
        if pattern is None and (density is None or not 0 < density < 1):
            raise PruningError(f"density is {density}; give a share of weights to keep between 0 and 1, or a pattern")

    @property
    def share(self) -> float:
        """Share of weights kept, of the pattern where there is one."""
        if self.pattern is not None:
            return self.pattern.density
        assert self.density is not None  # checked above
        return self.density


@dataclass(frozen=True, eq=False)
class LayerProblem:
    """One weight matrix to prune.

    Attributes:
        W: the dense weights, one output per row, float64 [R, d].
        gram: mean of x x^T over calibration tokens, float64 [d, d]; its diagonal holds the mean squares of the inputs.
        counts: weights to prune in each row [R]. Methods that compare weights of different rows use their sum.
        settings: of the run.
        seed: of this layer.
    """

    W: torch.Tensor
    gram: torch.Tensor
    counts: Sequence[int]
    settings: LayerwiseSettings
    seed: int = 0

    @property
    def refitted(self) -> bool:
        """Whether kept weights are refitted after the method has chosen the mask."""
        return self.settings.update == "backsolve"


@dataclass(frozen=True, eq=False)
class Choice:
    """What a method prunes in a layer.

    Attributes:
        pruned: bool [R, d].
        weights: new weights, zero where pruned [R, d]; None if kept weights keep their values.
    """

    pruned: torch.Tensor
    weights: torch.Tensor | None = None


class LayerMethod(ABC):
    """A method that prunes a model layer by layer.

    Attributes:
        name: by which users select it.
    """

    name: str

    @abstractmethod
    def prune(self, problem: LayerProblem) -> Choice:
        """Choose what is pruned in a layer: `sum(problem.counts)` weights, or by the pattern in the settings."""

    def costs(self, problem: LayerProblem) -> npt.NDArray[np.float64]:
        """Cost of each further weight pruned in a row, in the order of pruning, for the allocation of density [R, d].

        By default the squared weight times the mean square of its input.
        """
        own = problem.W.square() * problem.gram.diagonal()
        return own.sort(dim=1).values.cpu().numpy()


@dataclass(frozen=True, eq=False)
class PrunedMatrix:
    """A pruned layer.

    Attributes:
        kept: mask, bool [R, d].
        weights: new weights, zero where pruned, float64 [R, d].
    """

    kept: torch.Tensor
    weights: torch.Tensor


def prune_matrix(
    W: torch.Tensor, gram: torch.Tensor, counts: Sequence[int], settings: LayerwiseSettings, *, seed: int | None = None
) -> PrunedMatrix:
    """Prune one weight matrix, and refit the kept weights if the settings say so.

    Args:
        W: the dense weights [R, d], one output per row.
        gram: mean of x x^T over calibration tokens [d, d].
        counts: weights to prune in each row [R]; a pattern overrides them.
        settings: of the run.
        seed: of the layer; None for the seed of the settings.
    """
    tolerance = TOLERANCE if W.dtype.itemsize > 2 else TOLERANCE_HALF
    pattern = settings.pattern
    if pattern:
        counts = [W.shape[1] // pattern.of * pattern.pruned] * len(W)
    W, gram = W.double(), gram.double()
    problem = LayerProblem(W, gram, counts, settings, settings.seed if seed is None else seed)
    choice = settings.method.prune(problem)
    pruned, new = choice.pruned, choice.weights
    if problem.refitted:
        new = refit(W, damped(gram, settings.damping), ~pruned, start=new, tolerance=tolerance)
    elif new is None:
        new = W.masked_fill(pruned, 0.0)
    return PrunedMatrix(~pruned, new)
