"""Masks of a model: which weights are kept, one bit each, in memory and in files."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from hybrid_icbs.errors import PruningError
from hybrid_icbs.models.layers import Layer

BoolArray = npt.NDArray[np.bool_]

VERSION = "2"
"""Version of the file format: bits packed into bytes, first weight first. Version 1 was a boolean per weight."""

_MOST_DIMENSIONS = 8


class Masks(Mapping[str, torch.Tensor]):
    """Boolean masks of a model's layers by parameter name, True = kept, stored as bits.

    Reading `masks["fc1.weight"]` unpacks one layer into a new tensor shaped like its weight; writing to that tensor
    does not change the masks.

    Args:
        shapes: of the weights, by parameter name; all are kept at first.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]]) -> None:
        self._shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self._bits = {name: np.packbits(np.ones(self.size(name), np.bool_)) for name in self._shapes}
        self._kept = {name: self.size(name) for name in self._shapes}

    @classmethod
    def like(cls, layers: Sequence[Layer]) -> Masks:
        """Masks that keep all weights of some layers."""
        return cls({layer.name: layer.weight.shape for layer in layers})

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor]) -> Masks:
        """Masks from boolean tensors by parameter name."""
        masks = cls({name: tensor.shape for name, tensor in tensors.items()})
        for name, tensor in tensors.items():
            masks.set_flat(name, tensor.detach().cpu().bool().reshape(-1).numpy())
        return masks

    @classmethod
    def load(cls, path: str | Path) -> Masks:
        """Read a file of :meth:`save`, or one of the former format with a byte per weight.

        Raises:
            PruningError: the file does not exist, is damaged, or contains no masks.
        """
        try:
            with safe_open(str(path), framework="np") as file:
                return _read(cls, file, str(path))
        except (OSError, SafetensorError) as error:
            raise PruningError(f"masks {path} cannot be read: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write a .safetensors file: per layer its bits as uint8 [ceil(size / 8)], the shapes in the metadata.

        Raises:
            OSError, SafetensorError: the file cannot be written.
        """
        tensors = {name: torch.from_numpy(bits) for name, bits in self._bits.items()}
        header = {"version": VERSION, "true": "kept", "shapes": self._shapes}
        # As one entry: safetensors writes several in random order, and equal masks must give equal files.
        save_file(tensors, str(path), metadata={"masks": json.dumps(header)})

    def __getitem__(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.flat(name)).reshape(self._shapes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def flat(self, name: str) -> BoolArray:
        """A layer's mask as a flat array [size]."""
        return np.unpackbits(self._bits[name], count=self.size(name)).view(np.bool_)

    def set_flat(self, name: str, mask: BoolArray) -> None:
        """Replace a layer's mask [size]."""
        if mask.shape != (self.size(name),):
            raise PruningError(f"the mask of {name} has {mask.size} entries; the weight has {self.size(name)}")
        self._bits[name] = np.packbits(mask)
        self._kept[name] = int(np.count_nonzero(mask))

    def assign(self, name: str, index: npt.NDArray[np.int64], kept: BoolArray) -> None:
        """Set the bits of some weights of a layer: index and kept [m]."""
        mask = self.flat(name)
        mask[index] = kept
        self.set_flat(name, mask)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a layer's weight."""
        return self._shapes[name]

    def size(self, name: str) -> int:
        """Number of weights of a layer."""
        return math.prod(self._shapes[name])

    def kept(self, name: str | None = None) -> int:
        """Number of kept weights of a layer, or of all."""
        return sum(self._kept.values()) if name is None else self._kept[name]

    def density(self, name: str | None = None) -> float:
        """Share of kept weights of a layer, or of all."""
        total = sum(map(self.size, self)) if name is None else self.size(name)
        return self.kept(name) / total

    def copy(self) -> Masks:
        """An independent copy."""
        twin = Masks(self._shapes)
        twin._bits = dict(self._bits)  # arrays are replaced, never changed
        twin._kept = dict(self._kept)
        return twin

    def checksum(self) -> str:
        """SHA-256 of names, shapes and bits; equal masks have equal checksums."""
        digest = hashlib.sha256()
        for name, bits in self._bits.items():
            digest.update(f"{name}{self._shapes[name]}".encode())
            digest.update(bits.tobytes())
        return digest.hexdigest()


def load_masks(path: str | Path) -> Masks:
    """Read the masks of a run, such as runs/x/masks.safetensors. As :meth:`Masks.load`."""
    return Masks.load(path)


@torch.no_grad()
def apply_masks(model: nn.Module, masks: Mapping[str, torch.Tensor]) -> None:
    """Set the pruned weights of a model to zero, in place.

    Args:
        model: a model whose parameters have the names and shapes of the masks.
        masks: :class:`Masks`, or boolean tensors by parameter name, True = kept.

    Raises:
        PruningError: a parameter is missing or has another shape; the model is then unchanged.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    missing = [name for name in masks if name not in parameters]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise PruningError(f"the model has no parameter {missing[0]!r}{more}, for which there is a mask")
    for name in masks:
        shape = masks.shape(name) if isinstance(masks, Masks) else tuple(masks[name].shape)
        if shape != tuple(parameters[name].shape):
            raise PruningError(
                f"the mask of {name!r} has shape {list(shape)}, its weight {list(parameters[name].shape)}"
            )
    for name, mask in masks.items():
        parameter = parameters[name]
        parameter.masked_fill_(~mask.to(parameter.device, torch.bool), 0)


def _read(cls: type[Masks], file: Any, path: str) -> Masks:
    metadata, names = file.metadata() or {}, list(file.keys())
    shapes = _shapes(metadata["masks"], path) if "masks" in metadata else None
    if shapes is None:  # version 1
        for name in names:
            if file.get_slice(name).get_dtype() not in ("BOOL", "U8"):
                raise PruningError(f"{path}: tensor {name!r} is no mask; booleans are needed")
        masks = cls({name: file.get_slice(name).get_shape() for name in names})
        for name in names:
            masks.set_flat(name, file.get_tensor(name).reshape(-1) != 0)
        return masks
    if set(shapes) != set(names):
        raise PruningError(f"{path}: the shapes name other tensors than the file contains; it is damaged")
    for name, shape in shapes.items():  # before anything of that size is allocated
        found = file.get_slice(name)
        if found.get_dtype() != "U8" or found.get_shape() != [-(-math.prod(shape) // 8)]:
            raise PruningError(
                f"{path}: tensor {name!r} is {found.get_dtype()} {found.get_shape()}, not the bits of a mask of shape "
                f"{list(shape)}; the file is damaged"
            )
    masks = cls(shapes)
    for name in shapes:
        masks.set_flat(name, np.unpackbits(file.get_tensor(name), count=masks.size(name)).view(np.bool_))
    return masks


def _shapes(text: str, path: str) -> dict[str, tuple[int, ...]]:
    try:
        header = json.loads(text)
        version, shapes = header["version"], header["shapes"]
    except (ValueError, TypeError, KeyError) as error:
        raise PruningError(f"{path}: the metadata of the masks are damaged") from error
    if version != VERSION:
        raise PruningError(f"{path}: masks of format version {version!r}; this version of hybrid-icbs reads {VERSION}")
    if not isinstance(shapes, dict) or not all(_is_shape(shape) for shape in shapes.values()):
        raise PruningError(f"{path}: the shapes of the masks are damaged")
    return {name: tuple(shape) for name, shape in shapes.items()}


def _is_shape(shape: Any) -> bool:
    return (
        isinstance(shape, list)
        and 0 < len(shape) <= _MOST_DIMENSIONS
        and all(type(size) is int and size >= 0 for size in shape)
    )


def shares(total: int, weights: Sequence[float], caps: Sequence[int]) -> list[int]:
    """Split a whole number in proportion to weights; remainders go to the largest fractions (Hamilton's method).

    Args:
        total: the number to split; at most sum(caps).
        weights: non-negative proportions [g].
        caps: largest value of each part [g].

    Returns:
        Whole numbers [g] whose sum is `total`.

    Raises:
        ValueError: `total` is larger than sum(caps).
    """
    w, most = np.asarray(weights, np.float64), np.asarray(caps, np.int64)
    if total > most.sum():
        raise ValueError(f"{total} cannot be split into parts of at most {most.tolist()}")
    parts = np.zeros(len(w), np.int64)
    while (left := total - int(parts.sum())) > 0:
        room = np.flatnonzero(parts < most)
        # If all parts that can still grow have weight zero, in proportion to what they can take.
        scale = w[room] if w[room].sum() > 0 else (most - parts)[room].astype(np.float64)
        ideal = left * scale / scale.sum()
        more = np.floor(ideal).astype(np.int64)
        more[np.argsort(more - ideal, kind="stable")[: left - int(more.sum())]] += 1
        parts[room] += np.minimum(more, (most - parts)[room])
    return [int(p) for p in parts]
