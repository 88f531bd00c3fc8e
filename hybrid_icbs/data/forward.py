"""Forward passes of a model on batches: in evaluation mode, in parts that fit beside the model in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from hybrid_icbs.data.calibration import Batch
from hybrid_icbs.data.mismatches import inputs_named
from hybrid_icbs.models.restore import IN_MEMORY

EVALUATION_BATCH = 1000
"""Samples per forward pass in evaluation: enough to keep the matrix products busy."""

POSITIONS, POSITIONS_LARGE = 2048, 128
"""Tokens per pass through a small and a large transformer: more gain little speed and take memory beside the model."""


def run_model(model: nn.Module, inputs: Any) -> Any:
    """Call a model on inputs: a dict as keywords, a tuple as positional arguments, anything else as one argument.

    Raises:
        PruningError: the model does not take the inputs.
    """
    with inputs_named(model, inputs):
        if isinstance(inputs, Mapping):
            return model(**inputs)
        if isinstance(inputs, list | tuple):
            return model(*inputs)
        return model(inputs)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode: dropout off, batch statistics fixed; all modes are restored afterwards.

    Language models do not cache keys and values meanwhile. Layers of transformers models with gradient checkpointing
    stay in training mode themselves (not their submodules), as they would not recompute otherwise.
    """
    modes = [(module, module.training) for module in model.modules()]
    config = getattr(model, "config", None)
    cached = getattr(config, "use_cache", None)
    model.eval()
    for module, _ in modes:
        if getattr(module, "gradient_checkpointing", False) and hasattr(module, "_gradient_checkpointing_func"):
            module.training = not _drops(module)
    if cached:
        config.use_cache = False  # type: ignore[union-attr]
    try:
        yield
    finally:
        if cached:
            config.use_cache = cached  # type: ignore[union-attr]
        for module, training in modes:
            module.training = training


def samples_per_pass(model: nn.Module, batch: Batch, most: int) -> int:
    """Samples per forward pass, such that activations stay small compared with a large model.

    Args:
        model: the model; for models that are not of transformers the result is `most`.
        batch: example samples.
        most: upper bound.
    """
    if not hasattr(model, "config"):
        return most
    large = sum(p.nbytes for p in model.parameters()) > IN_MEMORY
    held = list(batch.inputs.values()) if isinstance(batch.inputs, Mapping) else [batch.inputs]
    tensors = [value for value in held if isinstance(value, torch.Tensor) and value.dim() > 1]
    sizes = [
        value[0].numel() if value.dim() == 2 else value[0].numel() // 256  # 256 numbers of an image count as a token
        for value in tensors
    ]
    positions = max([1, *sizes])
    return max(1, min(most, (POSITIONS_LARGE if large else POSITIONS) // positions))


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's first parameter, to which inputs are moved."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _drops(module: nn.Module) -> bool:
    """Whether a layer has a positive dropout rate among its own attributes."""
    rates = (value for key, value in vars(module).items() if "drop" in key and isinstance(value, float))
    return any(rate > 0 for rate in rates)
