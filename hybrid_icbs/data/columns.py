"""Samples as keyword arguments of a transformers model: concatenated, padded, with labels separated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from hybrid_icbs.errors import PruningError

LABELS = ("labels", "label")
"""Names of the targets in a keyword dict."""

# Values that pad shorter sequences; torch ignores targets of -100.
_PADDING = {"labels": -100, "label": -100}


@dataclass(frozen=True)
class Columns:
    """Samples as tensors by keyword, each with one row per sample [S, ...]."""

    tensors: Mapping[str, torch.Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def take(self, index: npt.NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """Some samples."""
        picked = torch.from_numpy(np.ascontiguousarray(index))
        return {key: value[picked.to(value.device)] for key, value in self.tensors.items()}


def columns_of(batches: Sequence[Mapping[str, Any]]) -> Columns:
    """All samples of a list of keyword dicts.

    Sequences of different lengths are padded on the right, with an attention mask if the dicts have none.

    Raises:
        PruningError: the dicts differ in their keywords, are empty, or a value is not a tensor with one row per sample.
    """
    keys = tuple(batches[0])
    parts: dict[str, list[torch.Tensor]] = {key: [] for key in keys}
    for batch in batches:
        if set(batch) != set(keys):
            raise PruningError(f"batches have the keywords {', '.join(keys)}, and in another {', '.join(batch)}")
        for key in keys:
            value = torch.as_tensor(batch[key]) if isinstance(batch[key], list | np.ndarray) else batch[key]
            if not isinstance(value, torch.Tensor) or not value.dim():
                raise PruningError(
                    f"{key!r} of a batch is a {type(batch[key]).__name__}; a tensor with one row per sample is needed"
                )
            parts[key].append(value)
    for batch_parts in zip(*parts.values(), strict=True):
        counts = {len(part) for part in batch_parts}
        if len(counts) > 1:
            shapes = ", ".join(f"{key} {list(part.shape)}" for key, part in zip(keys, batch_parts, strict=True))
            raise PruningError(f"the tensors of a batch need one row per sample each, but are {shapes}")
    if not keys:
        raise PruningError("a batch of the calibration data has no keywords; a transformers model needs input_ids")
    ids = parts.get("input_ids", [])
    if len({part.shape[1:] for part in ids}) > 1 and "attention_mask" not in parts:
        parts["attention_mask"] = [torch.ones_like(part) for part in ids]
    return Columns({key: _stacked(key, values) for key, values in parts.items()})


def labels_apart(batch: Mapping[str, Any], next_token: bool) -> tuple[dict[str, Any], Any]:
    """A batch without its labels, and the labels.

    Args:
        batch: keyword arguments.
        next_token: without labels, take the token ids as labels, -100 where the attention mask is 0.

    Raises:
        PruningError: there are no labels.
    """
    inputs = {key: value for key, value in batch.items() if key not in LABELS}
    for key in LABELS:
        if key in batch:
            return inputs, batch[key]
    ids = inputs.get("input_ids")
    if not next_token or not isinstance(ids, torch.Tensor):
        raise PruningError(f"a batch with the keywords {', '.join(batch)} has no labels, which the loss needs")
    mask = inputs.get("attention_mask")
    return inputs, ids if mask is None else ids.masked_fill(mask == 0, -100)


def _stacked(key: str, parts: list[torch.Tensor]) -> torch.Tensor:
    lengths = {part.shape[1:] for part in parts}
    if len(lengths) > 1:
        if any(part.dim() != 2 for part in parts):
            raise PruningError(
                f"{key!r} has the shapes {', '.join(str(list(s)) for s in sorted(lengths))} a sample; only sequences "
                "can be padded to one length"
            )
        longest = max(part.shape[1] for part in parts)
        parts = [F.pad(part, (0, longest - part.shape[1]), value=_PADDING.get(key, 0)) for part in parts]
    return torch.cat(parts)
