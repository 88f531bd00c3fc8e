"""Prune neural networks by combinatorial optimisation: a trained torch model in, a pruned model out."""

from hybrid_icbs.calibration import evaluate
from hybrid_icbs.config import Config
from hybrid_icbs.errors import PruningError, RunFolderError, StaleBlock, UnsupportedLayerError
from hybrid_icbs.masks import Masks
from hybrid_icbs.pruner import Pruner
from hybrid_icbs.pruning import prune
from hybrid_icbs.result import PruneResult

__all__ = [
    "Config",
    "Masks",
    "PruneResult",
    "Pruner",
    "PruningError",
    "RunFolderError",
    "StaleBlock",
    "UnsupportedLayerError",
    "evaluate",
    "prune",
]
