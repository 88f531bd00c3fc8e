"""The forms in which calibration data comes: loaders, pairs of tensors and iterables of batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset

from hybrid_icbs.data.columns import Columns, columns_of
from hybrid_icbs.errors import PruningError


def deals_samples(data: Any) -> TypeGuard[DataLoader[Any]]:
    """Whether this is a loader over a dataset whose samples can be drawn by index."""
    return (
        isinstance(data, DataLoader)
        and data.batch_sampler is not None
        and hasattr(data.dataset, "__getitem__")
        and hasattr(data.dataset, "__len__")
    )


def sampled(loader: DataLoader[Any]) -> npt.NDArray[np.int64] | None:
    """Indices of the samples that a loader's samplers yield; None for all."""
    named: Iterable[Any] = loader.sampler
    if type(loader.batch_sampler) is not BatchSampler:
        named = itertools.chain.from_iterable(loader.batch_sampler or [])
    elif isinstance(named, SequentialSampler) or _shuffles_all(named):
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return np.unique(np.fromiter((int(i) for i in named), np.int64))


def _shuffles_all(sampler: Any) -> bool:
    return (
        isinstance(sampler, RandomSampler) and not sampler.replacement and len(sampler) >= len(sampler.data_source)
    )  # fmt: skip


def is_tensor_pair(data: Any) -> bool:
    """Whether this is a pair of tensors, inputs and targets.

    Raises:
        PruningError: it is, but their numbers of samples differ.
    """
    if not (isinstance(data, list | tuple) and len(data) == 2 and all(isinstance(t, torch.Tensor) for t in data)):
        return False
    _check_sizes(data[0], data[1], "data")
    return True


def pair(batch: Any) -> Sequence[Any]:
    """A batch as (inputs, targets).

    Raises:
        PruningError: it is not a pair.
    """
    if isinstance(batch, list | tuple) and len(batch) == 2:
        return batch
    raise PruningError(
        f"a batch must be a pair (inputs, targets) or a keyword dict; this one is a {type(batch).__name__}"
    )


def gathered(data: Any) -> TensorDataset | Columns:
    """All batches of an iterable, concatenated.

    Raises:
        PruningError: it is not iterable, is empty, or has batches of different types or sample shapes.
    """
    try:
        batches = list(data)
    except TypeError as error:
        raise PruningError(
            f"data is a {type(data).__name__}; give a pair of tensors (inputs, targets), a DataLoader, "
            "or an iterable of (inputs, targets) batches or keyword dicts"
        ) from error
    if not batches:
        raise PruningError("the calibration data is empty; at least two samples are needed")
    if all(isinstance(batch, Mapping) for batch in batches):
        return columns_of(batches)
    if all(isinstance(batch, str) for batch in batches):
        raise PruningError("data is a list of texts; they need a transformers model, and tokenizer= beside it")
    pairs = [pair(batch) for batch in batches]
    if not all(isinstance(part, torch.Tensor) for both in pairs for part in both):
        raise PruningError("an iterable of batches must hold tensors; give a DataLoader for inputs of other types")
    for number, (inputs, targets) in enumerate(pairs):
        _check_sizes(inputs, targets, f"batch {number}")
        for name, part, first in (("inputs", inputs, pairs[0][0]), ("targets", targets, pairs[0][1])):
            if part.shape[1:] != first.shape[1:]:
                raise PruningError(
                    f"the {name} of batch {number} have shape {list(part.shape)}, those of the first "
                    f"{list(first.shape)}; samples must be of one shape: pad them, or give a DataLoader that does"
                )
    inputs, targets = (torch.cat(list(parts)) for parts in zip(*pairs, strict=True))
    return TensorDataset(inputs, targets)


def _check_sizes(inputs: torch.Tensor, targets: torch.Tensor, what: str) -> None:
    if not inputs.dim() or not targets.dim():
        raise PruningError(f"{what} holds a tensor without dimensions; the first one counts the samples")
    if len(inputs) != len(targets):
        raise PruningError(f"{what} has {len(inputs)} inputs and {len(targets)} targets; each input needs its target")
