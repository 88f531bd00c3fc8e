"""Tasks of transformers models: what a model predicts, and with it the loss and the form of its data."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from hybrid_icbs.data.calibration import CalibrationData, Loss, cross_entropy, next_token_loss, token_loss
from hybrid_icbs.errors import PruningError
from hybrid_icbs.models.pretrained import is_pretrained

Task: TypeAlias = Literal["causal-lm", "masked-lm", "tokens", "sequence", "image"]

# By transformers' own lists of its classes, in which one class can serve two tasks: the first here counts.
_TASKS: dict[Task, str] = {
    "sequence": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "image": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "tokens": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "masked-lm": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "causal-lm": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
}

_LOSSES: dict[Task, Loss] = {"causal-lm": next_token_loss, "masked-lm": token_loss, "tokens": token_loss}


def task_of(model: nn.Module) -> Task | None:
    """What a transformers model predicts; None where it is not known, or no transformers model."""
    if not is_pretrained(model):
        return None
    return next((found for base in type(model).__mro__ if (found := task_of_class(base.__name__))), None)


def task_of_class(name: str) -> Task | None:
    """The task of a model class of transformers by its name, such as "LlamaForCausalLM"."""
    return next((task for task, names in _classes().items() if name in names), None)


def loss_for(model: nn.Module) -> Loss:
    """The per-sample loss of a model: of a language model the mean over a sequence's own tokens, else cross entropy."""
    task = task_of(model)
    return _LOSSES.get(task, cross_entropy) if task else cross_entropy


def data_for(
    model: nn.Module, data: Any, tokenizer: Any = None, *, seq_len: int | None = None, seed: int = 0
) -> CalibrationData:
    """Calibration data as a model takes it.

    Args:
        model: the model.
        data: whatever :class:`~hybrid_icbs.data.calibration.CalibrationData` takes; for a transformers model also keyword
            dicts without labels and tensors of token ids [S, T] (causal language models), or texts (with a tokenizer).
        tokenizer: makes texts into token ids, and is saved with the result.
        seq_len: tokens of a sequence, for texts.
        seed: of the cuts of texts, and of what is masked.

    Raises:
        PruningError: data that the model cannot be given.
    """
    task = task_of(model)
    if isinstance(data, str) or _are_texts(data):
        from hybrid_icbs.data.text import text_data

        if task not in ("causal-lm", "masked-lm"):
            raise PruningError(f"texts as calibration data need a language model; this one is a {type(model).__name__}")
        if tokenizer is None:
            raise PruningError("texts as calibration data need a tokenizer: give tokenizer=, or token ids as data")
        texts = [data] if isinstance(data, str) else list(data)
        return text_data(model, texts, tokenizer, seq_len=seq_len, seed=seed)
    if task == "causal-lm" and isinstance(data, torch.Tensor) and data.dim() == 2 and not data.is_floating_point():
        data = {"input_ids": data}
    samples = CalibrationData(data, next_token=task == "causal-lm")
    if tokenizer is not None:
        samples.tokenizer = tokenizer
    return samples


def _are_texts(data: Any) -> bool:
    return isinstance(data, Sequence) and len(data) > 0 and all(isinstance(text, str) for text in data)


@functools.cache
def _classes() -> dict[Task, frozenset[str]]:
    from transformers.models.auto import modeling_auto

    found: dict[Task, frozenset[str]] = {}
    for task, mapping in _TASKS.items():
        names = getattr(modeling_auto, mapping).values()
        found[task] = frozenset(name for value in names for name in (value if isinstance(value, tuple) else (value,)))
    return found
