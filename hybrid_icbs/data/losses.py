"""Per-sample losses: cross entropy, of classes and of tokens, and the loss of each sample of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

from hybrid_icbs.data.calibration import Batch
from hybrid_icbs.data.forward import run_model
from hybrid_icbs.data.mismatches import targets_named
from hybrid_icbs.errors import PruningError
from hybrid_icbs.models.tasks import Task, task_of

Loss: TypeAlias = Callable[[Any, Any], torch.Tensor]
"""Takes a model's outputs and the targets, returns the loss of each sample [N]."""

IGNORED = -100
"""Targets with this value do not count, as in torch.nn.functional.cross_entropy."""


def cross_entropy(outputs: Any, targets: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each sample [N], for logits [N, C] or [N, C, ...]: the mean over a sample's positions.

    Positions with target -100 do not count, as in torch.
    """
    if not targets.is_floating_point():
        targets = targets.long()  # other integer types are refused by torch
    losses = F.cross_entropy(logits_of(outputs), targets, reduction="none", ignore_index=IGNORED)
    if losses.dim() == 1:
        return losses
    counted = (targets != IGNORED).flatten(1).sum(1)
    return losses.flatten(1).sum(1) / counted.clamp(min=1)


def next_token_loss(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """Loss of a causal language model: the mean over the next-token predictions of each sequence [N].

    Args:
        outputs: the model's outputs, with logits [N, T, V].
        labels: token ids [N, T], not shifted, as in transformers; -100 where a token does not count.
    """
    following = F.pad(labels[:, 1:], (0, 1), value=IGNORED)  # shifted instead of the logits, to save a copy of them
    return token_loss(outputs, following)


def token_loss(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """Loss of a model that labels tokens, such as a masked language model: the mean over each sequence [N].

    Args:
        outputs: the model's outputs, with logits [N, T, C].
        labels: classes [N, T], -100 where a token does not count.
    """
    logits = logits_of(outputs)
    labels = labels.to(logits.device)
    # Half precision has too few digits for the log of a sum over a vocabulary.
    losses = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none", ignore_index=IGNORED)
    counted = (labels != IGNORED).sum(1)
    return losses.view(labels.shape).sum(1) / counted.clamp(min=1)


TOKEN_LOSSES = (next_token_loss, token_loss)
"""Losses of models that predict tokens, for which no accuracy is reported."""

_CLASS_LOSSES = (cross_entropy, *TOKEN_LOSSES)
_LOSSES: dict[Task, Loss] = {"causal-lm": next_token_loss, "masked-lm": token_loss, "tokens": token_loss}


def loss_for(model: nn.Module) -> Loss:
    """The default loss of a model: of a language model the mean over a sequence's tokens, else cross entropy."""
    task = task_of(model)
    return _LOSSES.get(task, cross_entropy) if task else cross_entropy


def sample_losses(model: nn.Module, batch: Batch, loss: Loss) -> tuple[Any, torch.Tensor]:
    """Outputs of a model and the loss of each sample [N].

    Raises:
        PruningError: inputs or targets do not fit the model or the loss, or the loss is not per sample.
    """
    outputs = run_model(model, batch.inputs)
    own = loss in _CLASS_LOSSES
    with targets_named(logits_of(outputs) if own else outputs, batch.targets, own=own):
        losses = loss(outputs, batch.targets)
    if not isinstance(losses, torch.Tensor):
        raise PruningError(
            f"the loss returned a {type(losses).__name__}; it must return a tensor, the loss of each sample "
            f"[{batch.size}]"
        )
    if losses.shape != (batch.size,):
        raise PruningError(
            f"the loss has shape {list(losses.shape)} for a batch of {batch.size} samples; it must return the loss of "
            f'each sample [{batch.size}] (in torch: reduction="none")'
        )
    return outputs, losses


def logits_of(outputs: Any) -> Any:
    """The logits of a transformers model's outputs; the outputs themselves where they have none."""
    return outputs.logits if hasattr(outputs, "logits") else outputs
