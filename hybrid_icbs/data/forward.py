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
    """Call a model on inputs: a dict as keywords, a tuple as positions, anything else as the one argument.

    Raises:
        PruningError: the model does not take them.
    """
    with inputs_named(model, inputs):
        if isinstance(inputs, Mapping):
            return model(**inputs)
        if isinstance(inputs, list | tuple):
            return model(*inputs)
        return model(inputs)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Dropout off and statistics fixed, and every module's own mode put back afterwards.

    Language models keep no keys and values meanwhile. Layers of transformers models whose gradient checkpointing is on
    stay in training mode, the layers alone, as they would not recompute otherwise.
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
    """How many samples one pass through a model takes, so that their activations stay small beside a large model.

    Args:
        model: the model; for other than transformers models it is `most`.
        batch: samples of the kind.
        most: the largest number.
    """
    if not hasattr(model, "config"):
        return most
    large = sum(p.nbytes for p in model.parameters()) > IN_MEMORY
    held = list(batch.inputs.values()) if isinstance(batch.inputs, Mapping) else [batch.inputs]
    tensors = [value for value in held if isinstance(value, torch.Tensor) and value.dim() > 1]
    sizes = [
        value[0].numel() if value.dim() == 2 else value[0].numel() // 256  # a token stands for 256 numbers of an image
        for value in tensors
    ]
    positions = max([1, *sizes])
    return max(1, min(most, (POSITIONS_LARGE if large else POSITIONS) // positions))


def device_of(model: nn.Module) -> torch.device:
    """Where a model's inputs go: the device of its first parameter."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _drops(module: nn.Module) -> bool:
    """Whether a layer drops at random in its own forward pass, by a rate that it keeps as a number."""
    rates = (value for key, value in vars(module).items() if "drop" in key and isinstance(value, float))
    return any(rate > 0 for rate in rates)
