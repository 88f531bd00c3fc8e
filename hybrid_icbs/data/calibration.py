"""Calibration data: batches by seed, per-sample losses, and what a model scores on held-out samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset, default_collate

from hybrid_icbs.data.given import deals_samples, gathered, is_tensor_pair, pair, sampled
from hybrid_icbs.data.keywords import Columns, columns_of, labels_apart
from hybrid_icbs.data.mismatches import inputs_named, targets_named
from hybrid_icbs.errors import PruningError
from hybrid_icbs.models.layers import BATCH_NORMS
from hybrid_icbs.models.restore import IN_MEMORY

Loss: TypeAlias = Callable[[Any, Any], torch.Tensor]
"""Takes a model's outputs and the targets, gives the loss of each sample [N]."""

IGNORED = -100
"""A target that does not count, as in torch.nn.functional.cross_entropy."""

EVALUATION_BATCH = 1000
"""Samples of one forward pass when a model is only evaluated: enough to keep the matrix products busy."""

POSITIONS, POSITIONS_LARGE = 2048, 128
"""Tokens of one pass through a transformer, small or large: more gain little speed and take memory beside the model."""


@dataclass(frozen=True)
class Batch:
    """Some samples: `inputs` as the model takes them (a tensor, a tuple or a keyword dict), their targets, how many."""

    inputs: Any
    targets: Any
    size: int

    def split(self, size: int) -> Iterator[Batch]:
        """The same samples in batches of at most `size`."""
        if size >= self.size:
            yield self
            return
        for start in range(0, self.size, size):
            part = slice(start, min(start + size, self.size))
            yield Batch(self._part(self.inputs, part), self._part(self.targets, part), part.stop - part.start)

    def _part(self, value: Any, part: slice) -> Any:
        if isinstance(value, torch.Tensor):
            return value[part] if value.dim() and len(value) == self.size else value
        if isinstance(value, Mapping):
            return {key: self._part(item, part) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return tuple(self._part(item, part) for item in value)
        return value


@dataclass(frozen=True)
class Score:
    """What a model scores on some samples: mean loss, and share of right answers (None where there are no classes)."""

    loss: float
    accuracy: float | None


class CalibrationData:
    """Labelled samples that can be drawn by index.

    Args:
        data: one of: a pair of tensors (inputs [S, ...], targets [S, ...]); a DataLoader or a map-style dataset of
            (inputs, targets), from which single samples are drawn when needed (of a loader, those that its sampler
            names); an iterable of such batches, which is read once and kept. In place of (inputs, targets) there may
            be keyword dicts, as transformers models take them: their "labels" are the targets; a dict of tensors
            alone is one batch. Sequences of different lengths are padded.
        next_token: whether samples without labels are their own: the token ids, for causal language models.

    Attributes:
        tokenizer: what made the text into token ids, to be saved with the model; None where that is not known.

    Raises:
        PruningError: data that is none of these, or empty.
    """

    def __init__(self, data: Any, *, next_token: bool = False) -> None:
        self._collate: Callable[[list[Any]], Any] = default_collate
        self._samples: Any
        self._index: npt.NDArray[np.int64] | None = None
        self._next_token = next_token
        self.tokenizer: Any = None
        if isinstance(data, CalibrationData):
            self._samples, self._collate, self._index = data._samples, data._collate, data._index
            self._next_token, self.tokenizer = next_token or data._next_token, data.tokenizer
        elif isinstance(data, Mapping):
            self._samples = columns_of([data])
        elif is_tensor_pair(data):
            self._samples = TensorDataset(*data)
        elif deals_samples(data):
            self._samples, self._collate, self._index = data.dataset, data.collate_fn, sampled(data)
        elif hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, list | tuple | Mapping):
            self._samples = data
        else:
            self._samples = gathered(data)
        if len(self) == 0:
            raise PruningError("the calibration data is empty; at least two samples are needed")

    def __len__(self) -> int:
        return len(self._samples) if self._index is None else len(self._index)

    @property
    def sequences(self) -> bool:
        """Whether a sample is a sequence of tokens, a keyword dict with `input_ids`."""
        inputs = self.take(np.zeros(1, np.int64)).inputs
        return isinstance(inputs, Mapping) and "input_ids" in inputs

    def take(self, index: npt.NDArray[np.int64], device: torch.device | str = "cpu") -> Batch:
        """The samples of some indices as one batch, on a device.

        Datasets that augment at random get a random state that follows from the first index: same seed, same batch.
        """
        index = index if self._index is None else self._index[index]
        inputs: Any
        targets: Any
        if isinstance(self._samples, TensorDataset):
            picked = torch.from_numpy(np.ascontiguousarray(index))
            inputs, targets = [t[picked.to(t.device)] for t in self._samples.tensors]
        elif isinstance(self._samples, Columns):
            inputs, targets = labels_apart(self._samples.take(index), self._next_token)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(index[0]))
                inputs, targets = self._pair(self._collate([self._samples[int(i)] for i in index]))
        return Batch(_to(inputs, device), _to(targets, device), len(index))

    def _pair(self, batch: Any) -> Sequence[Any]:
        return labels_apart(batch, self._next_token) if isinstance(batch, Mapping) else pair(batch)

    def batches(self, index: npt.NDArray[np.int64], device: torch.device | str, size: int) -> Iterator[Batch]:
        """The samples of some indices, `size` at a time."""
        for start in range(0, len(index), size):
            yield self.take(index[start : start + size], device)


def cross_entropy(outputs: Any, targets: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each sample [N], for logits [N, C] or [N, C, ...]: the mean over a sample's own positions.

    Positions whose target is -100, torch's word for "ignore", do not count.
    """
    if not targets.is_floating_point():
        targets = targets.long()  # torch takes classes in no other dtype of numpy's
    losses = F.cross_entropy(_logits(outputs), targets, reduction="none", ignore_index=IGNORED)
    if losses.dim() == 1:
        return losses
    counted = (targets != IGNORED).flatten(1).sum(1)
    return losses.flatten(1).sum(1) / counted.clamp(min=1)


def next_token_loss(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """Loss of a causal language model: the mean over a sequence's own predictions of its next tokens [N].

    Args:
        outputs: the model's, with logits [N, T, V].
        labels: token ids [N, T], as transformers has them: not shifted, -100 where a token does not count.
    """
    following = F.pad(labels[:, 1:], (0, 1), value=IGNORED)  # shifted instead of the logits, which are not copied
    return token_loss(outputs, following)


def token_loss(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """Loss of a model that labels tokens, a masked language model for one: the mean over a sequence's own labels [N].

    Args:
        outputs: the model's, with logits [N, T, C].
        labels: classes [N, T], -100 where a token does not count.
    """
    logits = _logits(outputs)
    labels = labels.to(logits.device)
    # Half precision has too few digits for the log of a sum over a vocabulary.
    losses = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none", ignore_index=IGNORED)
    counted = (labels != IGNORED).sum(1)
    return losses.view(labels.shape).sum(1) / counted.clamp(min=1)


_OF_TOKENS = (next_token_loss, token_loss)
_OF_CLASSES = (cross_entropy, *_OF_TOKENS)


def sample_losses(model: nn.Module, batch: Batch, loss: Loss) -> tuple[Any, torch.Tensor]:
    """Outputs of a model and the loss of each sample [N].

    Raises:
        PruningError: inputs or targets do not fit the model or the loss, or the loss does not come sample by sample.
    """
    outputs = run_model(model, batch.inputs)
    own = loss in _OF_CLASSES
    with targets_named(_logits(outputs) if own else outputs, batch.targets, own=own):
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


@torch.no_grad()
def evaluate(
    model: nn.Module, data: Any, loss: Loss | None = None, *, batch_size: int | None = None, tokenizer: Any = None
) -> Score:
    """Mean loss and accuracy of a model on data, in evaluation mode.

    Args:
        model: the model; its mode is left as it was.
        data: whatever :class:`CalibrationData` takes; for a transformers model with a tokenizer, texts too.
        loss: per-sample loss; None for the model's own: cross entropy, of a language model that of its tokens.
        batch_size: samples of one forward pass; None for 1000, fewer where they are sequences.
        tokenizer: makes texts into token ids.
    """
    from hybrid_icbs.data.tasks import data_for, loss_for

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
            hits = None if loss in _OF_TOKENS else _hits(_logits(outputs), batch.targets)
            if hits is not None:
                right, classified = right + int(hits.sum()), classified + hits.numel()
    return Score(total / len(index), right / classified if classified else None)


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


@torch.no_grad()
def recalibrate_batch_norm(model: nn.Module, data: CalibrationData, index: npt.NDArray[np.int64]) -> None:
    """Recompute the running statistics of every batch norm as plain averages over the samples of some indices.

    Pruning changes the distribution of every activation; statistics of the dense model no longer describe it.
    """
    if len(index) < 2:
        raise PruningError(f"batch-norm statistics need two samples at least; there are {len(index)}")
    norms = [m for m in model.modules() if isinstance(m, BATCH_NORMS) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    # Torch's cumulative average weighs batches alike, so they must be of one size (or differ by one sample).
    parts = np.array_split(index, -(-len(index) // EVALUATION_BATCH))
    try:
        with evaluation_mode(model):
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # torch's word for a cumulative average
                norm.train()
            for part in parts:
                run_model(model, data.take(part, device_of(model)).inputs)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def batch_norm_statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the running statistics of every batch norm, by name."""
    norms = {name: module for name, module in model.named_modules() if isinstance(module, BATCH_NORMS)}
    return {f"{name}.{key}": value.clone() for name, norm in norms.items() for key, value in norm.named_buffers()}


@torch.no_grad()
def restore_batch_norm(model: nn.Module, statistics: dict[str, torch.Tensor]) -> None:
    """Put running statistics back."""
    for name, value in statistics.items():
        model.get_buffer(name).copy_(value)


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


def device_of(model: nn.Module) -> torch.device:
    """Where a model's inputs go: the device of its first parameter."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _drops(module: nn.Module) -> bool:
    """Whether a layer drops at random in its own forward pass, by a rate that it keeps as a number."""
    rates = (value for key, value in vars(module).items() if "drop" in key and isinstance(value, float))
    return any(rate > 0 for rate in rates)


def _logits(outputs: Any) -> Any:
    return outputs.logits if hasattr(outputs, "logits") else outputs


def _hits(logits: Any, targets: Any) -> torch.Tensor | None:
    """Which predictions that count are right, or None where outputs and targets are not scores and classes."""
    if not (isinstance(logits, torch.Tensor) and isinstance(targets, torch.Tensor)):
        return None
    classes = logits.dim() >= 2 and logits.shape[:1] + logits.shape[2:] == targets.shape
    if not classes or targets.is_floating_point():
        return None
    targets = targets.long()
    hits: torch.Tensor = logits.argmax(1) == targets
    return hits[targets != IGNORED]


def _to(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _to(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_to(item, device) for item in value)
    return value
