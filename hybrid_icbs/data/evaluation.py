"""Evaluation of a model: loss and accuracy on labelled samples, perplexity on texts, the guard's loss during a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hybrid_icbs.data.calibration import CalibrationData
from hybrid_icbs.data.forward import EVALUATION_BATCH, device_of, evaluation_mode, samples_per_pass
from hybrid_icbs.data.losses import IGNORED, TOKEN_LOSSES, Loss, logits_of, loss_for, sample_losses
from hybrid_icbs.data.model_data import data_for
from hybrid_icbs.data.perplexity import perplexity


@dataclass(frozen=True)
class Score:
    """Mean loss on some samples, and the share of correct predictions (None if the targets are not classes)."""

    loss: float
    accuracy: float | None


@torch.no_grad()
def evaluate(
    model: nn.Module, data: Any, loss: Loss | None = None, *, batch_size: int | None = None, tokenizer: Any = None
) -> Score:
    """Mean loss and accuracy of a model on data, in evaluation mode.

    Args:
        model: the model; its mode is left as it was.
        data: anything that :class:`~hybrid_icbs.data.calibration.CalibrationData` takes; for a transformers model with
            a tokenizer also texts.
        loss: per-sample loss; None for cross entropy, of a language model that of its tokens.
        batch_size: samples per forward pass; None for 1000, or fewer if they are sequences.
        tokenizer: tokenizes texts.
    """
    samples = data_for(model, data, tokenizer)
    return score(model, samples, np.arange(len(samples)), loss or loss_for(model), batch_size)


@torch.no_grad()
def score(
    model: nn.Module,
    data: CalibrationData,
    index: npt.NDArray[np.int64],
    loss: Loss,
    batch_size: int | None = None,
) -> Score:
    """Mean loss and accuracy on the samples of some indices."""
    total, right, classified = 0.0, 0, 0
    batch_size = batch_size or samples_per_pass(model, data.take(index[:1]), EVALUATION_BATCH)
    with evaluation_mode(model):
        for batch in data.batches(index, device_of(model), batch_size):
            outputs, losses = sample_losses(model, batch, loss)
            total += float(losses.double().sum())
            hits = None if loss in TOKEN_LOSSES else _hits(logits_of(outputs), batch.targets)
            if hits is not None:
                right, classified = right + int(hits.sum()), classified + hits.numel()
    return Score(total / len(index), right / classified if classified else None)


class Guard:
    """Measures the loss on held-back calibration samples, which no gradient uses.

    Args:
        model: the model under pruning.
        data: the calibration data.
        index: indices of the held-back samples [m].
        loss: per-sample loss.
    """

    def __init__(self, model: nn.Module, data: CalibrationData, index: npt.NDArray[np.int64], loss: Loss) -> None:
        self._model, self._data, self._loss = model, data, loss
        self.index = index

    def score(self) -> Score:
        """Mean loss and accuracy of the model as it is now."""
        return score(self._model, self._data, self.index, self._loss)


@dataclass(frozen=True)
class Tokens:
    """A text for perplexity: its token ids [tokens], and the tokens per window."""

    ids: torch.Tensor
    context: int


@dataclass(frozen=True)
class Evaluation:
    """Test data by name, at least one."""

    parts: dict[str, CalibrationData | Tokens]

    def score(self, model: nn.Module, loss: Loss) -> dict[str, Any]:
        """Scores of a model, as plain values.

        Args:
            model: the model.
            loss: per-sample loss, for labelled samples.

        Returns:
            {"loss", "accuracy"} of the first test data. If there are texts, also "perplexity", with {"value", "tokens",
            "context", "stride"} of each text by name; the accuracy of a text is None.
        """
        scores: dict[str, Any] = {}
        perplexities: dict[str, Any] = {}
        for name, part in self.parts.items():
            if isinstance(part, Tokens):
                found = perplexity(model, part.ids, context=part.context)
                perplexities[name] = asdict(found)
                scores = scores or {"loss": found.loss, "accuracy": None}
            else:
                scores = scores or asdict(evaluate(model, part, loss))
        return {**scores, "perplexity": perplexities} if perplexities else scores


def _hits(logits: Any, targets: Any) -> torch.Tensor | None:
    """Whether each prediction that counts is correct; None if outputs and targets are not logits and classes."""
    if not (isinstance(logits, torch.Tensor) and isinstance(targets, torch.Tensor)):
        return None
    classes = logits.dim() >= 2 and logits.shape[:1] + logits.shape[2:] == targets.shape
    if not classes or targets.is_floating_point():
        return None
    targets = targets.long()
    hits: torch.Tensor = logits.argmax(1) == targets
    return hits[targets != IGNORED]
