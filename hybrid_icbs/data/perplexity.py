"""Perplexity of a causal language model on a text, by the strided protocol."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from hybrid_icbs.data.calibration import Batch
from hybrid_icbs.data.forward import device_of, evaluation_mode, samples_per_pass
from hybrid_icbs.data.losses import IGNORED
from hybrid_icbs.data.text import check_vocabulary, sequence_length, token_ids
from hybrid_icbs.errors import PruningError


@dataclass(frozen=True)
class Perplexity:
    """A perplexity with the protocol of its measurement, on which its value depends.

    Attributes:
        value: exp of the mean loss of a predicted token.
        tokens: number of predicted tokens.
        context: tokens per window: those before a prediction, at most, and the predicted one.
        stride: distance between windows in tokens.
    """

    value: float
    tokens: int
    context: int
    stride: int

    @property
    def loss(self) -> float:
        """Mean loss of a predicted token."""
        return math.log(self.value)

    def __str__(self) -> str:
        strided = "" if self.stride == self.context else f", stride {self.stride}"
        return f"{self.value:.4g} (context {self.context}{strided}, {self.tokens:,} tokens)"


@torch.no_grad()
def perplexity(
    model: nn.Module,
    text: str | Sequence[str] | torch.Tensor,
    tokenizer: Any = None,
    *,
    context: int | None = None,
    stride: int | None = None,
    windows: int | None = None,
) -> Perplexity:
    """Perplexity of a causal language model.

    Windows of `context` tokens are taken from the text, each `stride` tokens after the one before. The first token of a
    window is not predicted; in a window that overlaps the one before, only the new tokens count. With stride = context,
    the default, this is the protocol of the tables in the pruning literature; a smaller stride gives predictions more
    context and a lower perplexity. Tokens after the last complete window are left out; no token is added before the
    text.

    Args:
        model: the model; its mode is left as it was.
        text: one text, several (joined by a blank line), or token ids [tokens].
        tokenizer: tokenizes texts.
        context: tokens per window; None for 512, or the model's context if that is shorter.
        stride: 1 to `context`; None for `context`.
        windows: number of windows from the start of the text; None for all.

    Raises:
        PruningError: the text is shorter than one window, or the context longer than the model's.
    """
    context = sequence_length(model, context)
    stride = context if stride is None else stride
    if not 1 <= stride <= context:
        raise PruningError(f"stride = {stride} must be 1 to {context}, the context")
    ids = _ids(text, tokenizer)
    check_vocabulary(model, ids, tokenizer)
    if len(ids) < context:
        raise PruningError(
            f"the text has {len(ids)} tokens, less than one window of {context}; give more text or a smaller context"
        )
    rows = ids.unfold(0, context, stride)[:windows]
    size = samples_per_pass(model, Batch({"input_ids": rows[:1]}, None, 1), len(rows))
    total, count = 0.0, 0
    with evaluation_mode(model):
        for start in range(0, len(rows), size):
            part = rows[start : start + size].to(device_of(model))
            logits = model(input_ids=part).logits
            labels = F.pad(part[:, 1:], (0, 1), value=IGNORED).to(logits.device)
            old = context - stride - 1  # predictions that the window before has made
            for row in range(len(part)):
                if start + row and old > 0:
                    labels[row, :old] = IGNORED
            losses = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none")
            total += float(losses.double().sum())  # 0 for ignored ones
            count += int((labels != IGNORED).sum())
    return Perplexity(math.exp(min(total / count, 700.0)), count, context, stride)


def _ids(text: str | Sequence[str] | torch.Tensor, tokenizer: Any) -> torch.Tensor:
    if isinstance(text, torch.Tensor):
        return text.flatten()
    if tokenizer is None:
        raise PruningError("perplexity of a text needs a tokenizer: give tokenizer=, or token ids")
    return token_ids([text] if isinstance(text, str) else text, tokenizer)
