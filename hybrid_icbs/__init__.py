"""Prune neural networks by combinatorial optimisation: a trained torch model in, a pruned model out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybrid_icbs.blockwise.pruner import Pruner
    from hybrid_icbs.config import Config
    from hybrid_icbs.data.evaluation import evaluate
    from hybrid_icbs.errors import PruningError, RunFolderError, StaleBlock, UnsupportedLayerError
    from hybrid_icbs.models.masks import Masks, apply_masks, load_masks
    from hybrid_icbs.pruning import prune, resume
    from hybrid_icbs.result import PruneResult

# Torch takes seconds to import. Names are loaded when they are first used, so that `hybrid-icbs --help` needs none.
_HOMES = {
    "Config": "config",
    "Masks": "models.masks",
    "PruneResult": "result",
    "Pruner": "blockwise.pruner",
    "PruningError": "errors",
    "RunFolderError": "errors",
    "StaleBlock": "errors",
    "UnsupportedLayerError": "errors",
    "apply_masks": "models.masks",
    "evaluate": "data.evaluation",
    "load_masks": "models.masks",
    "prune": "pruning",
    "resume": "pruning",
}

__all__ = [
    "Config",
    "Masks",
    "PruneResult",
    "Pruner",
    "PruningError",
    "RunFolderError",
    "StaleBlock",
    "UnsupportedLayerError",
    "apply_masks",
    "evaluate",
    "load_masks",
    "prune",
    "resume",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hybrid_icbs' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"hybrid_icbs.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
