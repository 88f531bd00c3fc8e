"""Calibration data in the form that a given model takes: token ids, keyword dicts or texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from hybrid_icbs.data.calibration import CalibrationData
from hybrid_icbs.data.text import text_data
from hybrid_icbs.errors import PruningError
from hybrid_icbs.models.tasks import task_of


def data_for(
    model: nn.Module, data: Any, tokenizer: Any = None, *, seq_len: int | None = None, seed: int = 0
) -> CalibrationData:
    """Calibration data for a model.

    Args:
        model: the model.
        data: anything that `CalibrationData` takes; for causal language models also
            keyword dicts without labels and tensors of token ids [S, T]; for language models texts, with a tokenizer.
        tokenizer: tokenizes the texts; it is saved with the result.
        seq_len: tokens per sequence, for texts.
        seed: seed of the choice of sequences, and of the masked tokens.

    Raises:
        PruningError: the model cannot take the data.
    """
    task = task_of(model)
    if isinstance(data, str) or _are_texts(data):
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
