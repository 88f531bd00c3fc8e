"""Messages about data that does not fit a model or its loss, with shapes, dtypes and a remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from hybrid_icbs.errors import PruningError

_REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, AttributeError)
"""Exceptions that torch raises for inputs and targets of wrong shape, dtype or type."""


@contextmanager
def inputs_named(model: nn.Module, inputs: Any) -> Iterator[None]:
    """Replace an exception of a model by a message with its inputs and a remedy.

    Raises:
        PruningError: the model raised an exception that wrong inputs cause.
    """
    with _replaced(
        lambda error: (
            f"{type(model).__name__} does not run on inputs {described(inputs)}: {_in_one_line(error)}. "
            f"{_remedy(model, inputs)}"
        )
    ):
        yield


@contextmanager
def targets_named(outputs: Any, targets: Any, *, own: bool) -> Iterator[None]:
    """Replace an exception of a loss by a message with its outputs, its targets and a remedy.

    Args:
        outputs: the model's outputs; logits for losses of this package.
        targets: the targets of the batch.
        own: whether the loss is one of this package.

    Raises:
        PruningError: the loss raised an exception that wrong outputs or targets cause.
    """

    def message(error: Exception) -> str:
        given = f"outputs {described(outputs)} and targets {described(targets)}"
        if not own:
            return f"the loss fails on {given}: {_in_one_line(error)}"
        classes = outputs.shape[1] if isinstance(outputs, torch.Tensor) and outputs.dim() > 1 else 0
        wanted = f"whole numbers from 0 to {classes - 1}" if classes else "whole numbers"
        return (
            f"cross entropy does not fit {given}: {_in_one_line(error)}. Targets must be classes, {wanted}, one for "
            "each sample or position; for regression and all else give a loss of your own (loss=, --loss)"
        )

    with _replaced(message):
        yield


@contextmanager
def _replaced(message: Callable[[Exception], str]) -> Iterator[None]:
    try:
        yield
    except PruningError:
        raise
    except _REFUSALS as error:
        if _out_of_memory(error):
            raise
        raise PruningError(message(error)) from error


def described(value: Any) -> str:
    """Shape, dtype and range of a tensor, or of each tensor of a mapping or tuple."""
    if isinstance(value, torch.Tensor):
        text = f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
        if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool or not value.numel():
            return text
        try:
            return f"{text} from {int(value.long().min())} to {int(value.long().max())}"
        except RuntimeError:  # of a sparse tensor, or one without data
            return text
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {described(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "(" + ", ".join(described(item) for item in value) + ")"
    return type(value).__name__


def _remedy(model: nn.Module, inputs: Any) -> str:
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    if isinstance(inputs, torch.Tensor) and weight is not None and inputs.dtype != weight.dtype:
        name = str(weight.dtype).removeprefix("torch.")
        return f"Its weights are {name}: if the inputs are no indices, convert them, inputs.to(torch.{name})"
    return "Give data whose inputs the model takes; the first dimension counts the samples"


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}{': ' if text else ''}{text}"
