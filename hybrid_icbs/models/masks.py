"""Global masks: which weights are kept, one bit each, unpacked when someone looks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from hybrid_icbs.errors import PruningError
from hybrid_icbs.models.layers import Layer

BoolArray = npt.NDArray[np.bool_]


class Masks(Mapping[str, torch.Tensor]):
    """Boolean masks of a model's layers by parameter name, True = kept, held as bits.

    Reading `masks["fc1.weight"]` unpacks one layer into a fresh tensor shaped like its weight; writing to that tensor
    changes nothing here.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]]) -> None:
        self._shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self._bits = {name: np.full((self.size(name) + 7) // 8, 255, np.uint8) for name in self._shapes}
        self._kept = {name: self.size(name) for name in self._shapes}

    @classmethod
    def like(cls, layers: Sequence[Layer]) -> Masks:
        """Masks that keep every weight of some layers."""
        return cls({layer.name: layer.weight.shape for layer in layers})

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

    def size(self, name: str) -> int:
        """Number of weights of a layer."""
        return int(np.prod(self._shapes[name], dtype=np.int64))

    def kept(self, name: str | None = None) -> int:
        """Number of kept weights of a layer, or of all."""
        return sum(self._kept.values()) if name is None else self._kept[name]

    def density(self, name: str | None = None) -> float:
        """Share of kept weights of a layer, or of all."""
        total = sum(map(self.size, self)) if name is None else self.size(name)
        return self.kept(name) / total

    def copy(self) -> Masks:
        """Masks of their own with the same bits."""
        twin = Masks(self._shapes)
        twin._bits = {name: bits.copy() for name, bits in self._bits.items()}
        twin._kept = dict(self._kept)
        return twin

    def checksum(self) -> str:
        """SHA-256 of names, shapes and bits: equal where the masks are equal."""
        digest = hashlib.sha256()
        for name, bits in self._bits.items():
            digest.update(f"{name}{self._shapes[name]}".encode())
            digest.update(np.packbits(self.flat(name)).tobytes() if self.size(name) % 8 else bits.tobytes())
        return digest.hexdigest()


def shares(total: int, weights: Sequence[float], caps: Sequence[int]) -> list[int]:
    """Split a whole number in proportion to weights, remainders to the largest fractions (Hamilton's method).

    Args:
        total: what is to be split; at most sum(caps).
        weights: non-negative proportions [g].
        caps: the most that each part can take [g].

    Returns:
        Whole numbers [g] that add up to `total` exactly.
    """
    w, most = np.asarray(weights, np.float64), np.asarray(caps, np.int64)
    if total > most.sum():
        raise ValueError(f"{total} cannot be split into parts of at most {most.tolist()}")
    parts = np.zeros(len(w), np.int64)
    while (left := total - int(parts.sum())) > 0:
        room = np.flatnonzero(parts < most)
        # Where all that is left has no weight, room decides.
        scale = w[room] if w[room].sum() > 0 else (most - parts)[room].astype(np.float64)
        ideal = left * scale / scale.sum()
        given = np.floor(ideal).astype(np.int64)
        given[np.argsort(given - ideal, kind="stable")[: left - int(given.sum())]] += 1
        parts[room] += np.minimum(given, (most - parts)[room])
    return [int(p) for p in parts]
