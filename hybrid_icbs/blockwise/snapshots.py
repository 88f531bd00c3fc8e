"""Snapshots of masks and weights during a run: taken, restored, and saved in the run folder.

Where survivors are refitted, a snapshot also holds the values of the kept weights, stored without the zeros between
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hybrid_icbs.blockwise.merge import write_masks
from hybrid_icbs.errors import RunFolderError
from hybrid_icbs.models.layers import Layer
from hybrid_icbs.models.masks import Masks
from hybrid_icbs.models.restore import IN_MEMORY, mapped_tensors
from hybrid_icbs.runs.tensor_files import read_tensors, write_tensors

FOLDER = "weights"
"""Subfolder of the run folder with the refitted weights of the current and of the best snapshot."""

Values = Sequence[torch.Tensor]
"""Values of the kept weights of each layer, in their order [kept]."""


Saved = tuple[int, str]
"""The round after which values were written to the run folder, and their checksum."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Masks and weights at one moment of a run.

    Attributes:
        masks: which weights are kept.
        values: values of the kept weights; None for their restore values.
        saved: file of the values in the run folder; None if they are not saved.
    """

    masks: Masks
    values: Values | None = None
    saved: Saved | None = None

    def put(self, layers: Sequence[Layer], restore: Sequence[torch.Tensor]) -> None:
        """Restore the snapshot: write it to the layers' weights."""
        if self.values is None:
            write_masks(layers, self.masks, restore)
        else:
            write_values(layers, self.masks, self.values)


@dataclass(frozen=True, eq=False)
class PresentValues(Sequence[torch.Tensor]):
    """Value of each weight if it is kept: its current value where it is kept now, else its restore value.

    Computed for one layer, shaped like its weight, when it is read.
    """

    layers: Sequence[Layer]
    masks: Masks
    restore: Sequence[torch.Tensor]

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, number: Any) -> Any:
        weight, restore = self.layers[number].weight.detach(), self.restore[number]
        kept = self.masks[self.layers[number].name].to(restore.device)
        return torch.where(kept, weight.to(restore.device), restore)


@torch.no_grad()
def kept_values(layers: Sequence[Layer], masks: Masks) -> list[torch.Tensor]:
    """Copies of the kept weights; in a temporary file if they take more than 64 MiB."""
    weights = [layer.weight.detach() for layer in layers]
    kept = [masks.kept(layer.name) for layer in layers]
    if sum(count * weight.element_size() for count, weight in zip(kept, weights, strict=True)) <= IN_MEMORY:
        return [weight[_mask(layer, masks)] for layer, weight in zip(layers, weights, strict=True)]
    values = mapped_tensors([(count,) for count in kept], [weight.dtype for weight in weights])
    for value, layer, weight in zip(values, layers, weights, strict=True):
        value.copy_(weight[_mask(layer, masks)])
    return values


@torch.no_grad()
def write_values(layers: Sequence[Layer], masks: Masks, values: Values) -> None:
    """Set the kept weights to their values and all others to zero."""
    for layer, value in zip(layers, values, strict=True):
        weight = layer.weight.detach()
        weight.zero_()
        weight[_mask(layer, masks)] = value.to(weight.device)


@torch.no_grad()
def step_values(layers: Sequence[Layer], masks: Masks, values: Values, step: Any, length: float) -> None:
    """Set the kept weights to values + length * step, computed in float64 and rounded once.

    Args:
        layers: the layers.
        masks: which weights are kept.
        values: values of the kept weights.
        step: by layer number, shaped like the weights; entries at pruned weights are ignored.
        length: step length; 1 for the full step.
    """
    for layer, value in zip(layers, values, strict=True):
        weight, mask = layer.weight.detach(), _mask(layer, masks)
        own = step[layer.number]
        moved = value.to(weight.device).double() + length * own[mask.to(own.device)].to(weight.device).double()
        weight[mask] = moved.to(weight.dtype)


def save_values(folder: Path, number: int, layers: Sequence[Layer], values: Values) -> Saved:
    """Write the values of the kept weights after a round to the run folder, atomically.

    Returns:
        Round number and checksum, for :func:`load_values`.

    Raises:
        RunFolderError: it cannot be written.
    """
    named = {layer.name: value.cpu().contiguous() for layer, value in zip(layers, values, strict=True)}
    return number, write_tensors(values_file(folder, number), named, folder)


def load_values(folder: Path, saved: Saved, layers: Sequence[Layer], masks: Masks) -> list[torch.Tensor]:
    """Read values that :func:`save_values` wrote.

    Raises:
        RunFolderError: the file is missing or damaged.
    """
    number, checksum = saved
    path, remedy = values_file(folder, number), "the run cannot go on without it"
    named = read_tensors(path, checksum, remedy)
    found = [named.get(layer.name, torch.empty(0)) for layer in layers]
    fits = all(
        value.shape == (masks.kept(layer.name),) and value.dtype == layer.weight.dtype
        for layer, value in zip(layers, found, strict=True)
    )
    if not fits:
        raise RunFolderError(f"{path} is damaged: its contents do not match the journal; {remedy}")
    return found


def drop_values(folder: Path, keep: Sequence[Saved | None]) -> None:
    """Remove all files of values from a run folder except those of `keep`."""
    named = {values_file(folder, saved[0]).name for saved in keep if saved}
    for path in (folder / FOLDER).glob("*"):
        if path.name not in named:
            path.unlink(missing_ok=True)


def values_file(folder: Path, number: int) -> Path:
    """File of the values after a round."""
    return folder / FOLDER / f"{number:06d}.safetensors"


def _mask(layer: Layer, masks: Masks) -> torch.Tensor:
    return masks[layer.name].to(layer.weight.device)
