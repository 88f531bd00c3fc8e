"""Calibration data: labelled samples drawn by index, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import TensorDataset, default_collate

from hybrid_icbs.data.batches import deals_samples, gathered, is_tensor_pair, pair, sampled
from hybrid_icbs.data.columns import Columns, columns_of, labels_apart
from hybrid_icbs.errors import PruningError


@dataclass(frozen=True)
class Batch:
    """A batch: `inputs` as the model takes them (a tensor, a tuple or a keyword dict), `targets`, and its `size`."""

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


class CalibrationData:
    """Labelled samples that can be drawn by index.

    Args:
        data: a pair of tensors (inputs [S, ...], targets [S, ...]); or a DataLoader or map-style dataset of
            (inputs, targets), from which samples are drawn by index (of a loader, those that its sampler yields); or
            an iterable of batches, which is read once and kept in memory. Instead of (inputs, targets) there may be
            keyword dicts, as transformers models take them, with the targets as "labels"; one dict of tensors is one
            batch. Sequences of different lengths are padded.
        next_token: whether token ids are the labels of samples without labels, for causal language models.

    Attributes:
        tokenizer: the tokenizer of the texts, to be saved with the model; None if unknown.

    Raises:
        PruningError: the data is none of these, or empty.
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

        The first index seeds torch's random state, so that datasets with random augmentation give the same batch again.
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


def _to(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _to(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_to(item, device) for item in value)
    return value
