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
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, TensorDataset, default_collate

from hybrid_icbs.errors import PruningError
from hybrid_icbs.layers import BATCH_NORMS

Loss: TypeAlias = Callable[[Any, Any], torch.Tensor]
"""Takes a model's outputs and the targets, gives the loss of each sample [N]."""

IGNORED = -100
"""A target that does not count, as in torch.nn.functional.cross_entropy."""

EVALUATION_BATCH = 1000
"""Samples of one forward pass when a model is only evaluated: enough to keep the matrix products busy."""


@dataclass(frozen=True)
class Batch:
    """Some samples: `inputs` as the model takes them (a tensor, a tuple or a keyword dict), their targets, how many."""

    inputs: Any
    targets: Any
    size: int


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
            names); an iterable of such batches, which is read once and kept.

    Raises:
        PruningError: data that is none of these, or empty.
    """

    def __init__(self, data: Any) -> None:
        self._collate: Callable[[list[Any]], Any] = default_collate
        self._samples: Any
        self._index: npt.NDArray[np.int64] | None = None
        if isinstance(data, CalibrationData):
            self._samples, self._collate, self._index = data._samples, data._collate, data._index
        elif _is_tensor_pair(data):
            self._samples = TensorDataset(*data)
        elif isinstance(data, DataLoader) and hasattr(data.dataset, "__getitem__") and hasattr(data.dataset, "__len__"):
            self._samples = data.dataset
            if data.batch_sampler is not None and data.collate_fn is not None:
                self._collate = data.collate_fn
            self._index = _sampled(data)
        elif hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, list | tuple | Mapping):
            self._samples = data
        else:
            self._samples = TensorDataset(*_gathered(data))
        if len(self) == 0:
            raise PruningError("the calibration data is empty; at least two samples are needed")

    def __len__(self) -> int:
        return len(self._samples) if self._index is None else len(self._index)

    def take(self, index: npt.NDArray[np.int64], device: torch.device | str = "cpu") -> Batch:
        """The samples of some indices as one batch, on a device.

        Datasets that augment at random get a random state that follows from the first index: same seed, same batch.
        """
        index = index if self._index is None else self._index[index]
        if isinstance(self._samples, TensorDataset):
            picked = torch.from_numpy(np.ascontiguousarray(index))
            inputs, targets = (t[picked.to(t.device)] for t in self._samples.tensors)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(index[0]))
                inputs, targets = _pair(self._collate([self._samples[int(i)] for i in index]))
        return Batch(_to(inputs, device), _to(targets, device), len(index))

    def batches(self, index: npt.NDArray[np.int64], device: torch.device | str, size: int) -> Iterator[Batch]:
        """The samples of some indices, `size` at a time."""
        for start in range(0, len(index), size):
            yield self.take(index[start : start + size], device)


def cross_entropy(outputs: Any, targets: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each sample [N], for logits [N, C] or [N, C, ...]: the mean over a sample's own positions.

    Positions whose target is -100, torch's word for "ignore", do not count.
    """
    losses = F.cross_entropy(_logits(outputs), targets, reduction="none", ignore_index=IGNORED)
    if losses.dim() == 1:
        return losses
    counted = (targets != IGNORED).flatten(1).sum(1)
    return losses.flatten(1).sum(1) / counted.clamp(min=1)


def sample_losses(model: nn.Module, batch: Batch, loss: Loss) -> tuple[Any, torch.Tensor]:
    """Outputs of a model and the loss of each sample [N].

    Raises:
        PruningError: the loss does not come sample by sample, or is not finite.
    """
    outputs = run_model(model, batch.inputs)
    losses = loss(outputs, batch.targets)
    if losses.shape != (batch.size,):
        raise PruningError(
            f"the loss has shape {list(losses.shape)} for a batch of {batch.size} samples; it must return the loss of "
            f'each sample [{batch.size}] (in torch: reduction="none")'
        )
    return outputs, losses


def run_model(model: nn.Module, inputs: Any) -> Any:
    """Call a model on inputs: a dict as keywords, a tuple as positions, anything else as the one argument."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, list | tuple):
        return model(*inputs)
    return model(inputs)


@torch.no_grad()
def evaluate(model: nn.Module, data: Any, loss: Loss = cross_entropy, *, batch_size: int = EVALUATION_BATCH) -> Score:
    """Mean loss and accuracy of a model on data, in evaluation mode.

    Args:
        model: the model; its mode is left as it was.
        data: whatever :class:`CalibrationData` takes.
        loss: per-sample loss.
        batch_size: samples of one forward pass.
    """
    samples = CalibrationData(data)
    return score(model, samples, np.arange(len(samples)), loss, batch_size)


@torch.no_grad()
def score(
    model: nn.Module,
    data: CalibrationData,
    index: npt.NDArray[np.int64],
    loss: Loss,
    batch_size: int = EVALUATION_BATCH,
) -> Score:
    """Mean loss and accuracy on the samples of some indices."""
    total, right, classified = 0.0, 0, 0
    with evaluation_mode(model):
        for batch in data.batches(index, device_of(model), batch_size):
            outputs, losses = sample_losses(model, batch, loss)
            total += float(losses.double().sum())
            hits = _hits(_logits(outputs), batch.targets)
            if hits is not None:
                right, classified = right + int(hits.sum()), classified + hits.numel()
    return Score(total / len(index), right / classified if classified else None)


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
    """Dropout off and statistics fixed, and every module's own mode put back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def device_of(model: nn.Module) -> torch.device:
    """Where a model's inputs go: the device of its first parameter."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _logits(outputs: Any) -> Any:
    return outputs.logits if hasattr(outputs, "logits") else outputs


def _hits(logits: Any, targets: Any) -> torch.Tensor | None:
    """Which predictions are right, or None where outputs and targets are not scores and classes."""
    if not (isinstance(logits, torch.Tensor) and isinstance(targets, torch.Tensor)):
        return None
    classes = logits.dim() >= 2 and logits.shape[:1] + logits.shape[2:] == targets.shape
    return logits.argmax(1) == targets if classes and not targets.is_floating_point() else None


def _sampled(loader: DataLoader[Any]) -> npt.NDArray[np.int64] | None:
    """The samples that a loader's own sampler names; None for all."""
    if isinstance(loader.sampler, SequentialSampler | RandomSampler):
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return np.unique(np.fromiter((int(i) for i in loader.sampler), np.int64))


def _is_tensor_pair(data: Any) -> bool:
    if not (isinstance(data, list | tuple) and len(data) == 2 and all(isinstance(t, torch.Tensor) for t in data)):
        return False
    if len(data[0]) != len(data[1]):
        raise PruningError(f"data has {len(data[0])} inputs and {len(data[1])} targets; each input needs its target")
    return True


def _gathered(data: Any) -> tuple[torch.Tensor, torch.Tensor]:
    try:
        pairs = [_pair(batch) for batch in data]
    except TypeError as error:
        raise PruningError(
            f"data is a {type(data).__name__}; give a pair of tensors (inputs, targets), a DataLoader, "
            "or an iterable of (inputs, targets) batches"
        ) from error
    if not pairs:
        raise PruningError("the calibration data is empty; at least two samples are needed")
    if not all(isinstance(part, torch.Tensor) for pair in pairs for part in pair):
        raise PruningError("an iterable of batches must hold tensors; give a DataLoader for inputs of other types")
    inputs, targets = (torch.cat(list(parts)) for parts in zip(*pairs, strict=True))
    return inputs, targets


def _pair(batch: Any) -> Sequence[Any]:
    if isinstance(batch, list | tuple) and len(batch) == 2:
        return batch
    raise PruningError(f"a batch must be a pair (inputs, targets); this one is a {type(batch).__name__}")


def _to(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _to(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_to(item, device) for item in value)
    return value
