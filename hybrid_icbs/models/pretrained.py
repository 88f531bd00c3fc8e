"""Transformers models: how they are recognised, and whether their weights can be pruned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from hybrid_icbs.errors import UnsupportedLayerError


def is_pretrained(model: nn.Module) -> bool:
    """Whether a model is a transformers model; does not import transformers."""
    return any(base.__module__.startswith("transformers.") for base in type(model).__mro__)


def check_weights(model: nn.Module) -> None:
    """Refuse a model with quantised weights.

    Raises:
        UnsupportedLayerError: the weights are quantised; the message names the method.
    """
    quantised = getattr(getattr(model, "config", None), "quantization_config", None)
    if quantised is not None or getattr(model, "is_quantized", False):
        raise UnsupportedLayerError(
            f"the model's weights are quantised ({quantisation(quantised)}); prune the model in its full precision, "
            "and quantise the result"
        )


def quantisation(settings: Any) -> str:
    """The name of a quantisation in a model's config."""
    found = settings.get("quant_method") if isinstance(settings, Mapping) else getattr(settings, "quant_method", None)
    return str(getattr(found, "value", found) or "by an unnamed method")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Suppress progress bars and messages of transformers while it loads or saves."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
