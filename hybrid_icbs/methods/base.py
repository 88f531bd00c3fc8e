"""The two interfaces of pruning methods: one layer at a time (`LayerMethod`), or the whole model (`ModelMethod`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import nn

from hybrid_icbs.config import Config
from hybrid_icbs.data.calibration import Batch
from hybrid_icbs.data.losses import Loss
from hybrid_icbs.layerwise.method import Choice, LayerMethod, LayerProblem, LayerwiseSettings
from hybrid_icbs.models.layers import Layer
from hybrid_icbs.models.masks import Masks


@dataclass(frozen=True, eq=False)
class ModelProblem:
    """A model to prune.

    Attributes:
        model: the dense model; a method may change the weights that it keeps.
        layers: the layers in scope.
        batches: calibration data.
        loss: per-sample loss.
        config: all settings: `density`, `pattern`, `seed` and so on.
    """

    model: nn.Module
    layers: Sequence[Layer]
    batches: Sequence[Batch]
    loss: Loss
    config: Config

    @property
    def kept(self) -> int:
        """Number of weights to keep over all layers."""
        return round(self.config.density * sum(layer.size for layer in self.layers))


class ModelMethod(ABC):
    """A method that prunes the whole model at once.

    Attributes:
        name: by which users select it.
    """

    name: str

    @abstractmethod
    def prune(self, problem: ModelProblem) -> Masks:
        """Choose masks that keep exactly `problem.kept` weights; pruned weights are set to zero afterwards."""


Method: TypeAlias = LayerMethod | ModelMethod

__all__ = ["Choice", "LayerMethod", "LayerProblem", "LayerwiseSettings", "Method", "ModelMethod", "ModelProblem"]
