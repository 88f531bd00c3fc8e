"""Apply answers: changes of masks, and the weights that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from hybrid_icbs.models.layers import Layer
from hybrid_icbs.models.masks import Masks

IndexArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Move:
    """Changes of one layer's mask: flat indices of the weights [m], and whether each is kept afterwards [m].

    `values` [m] are the new values of kept weights; None for their restore values.
    """

    layer: int
    index: IndexArray
    kept: BoolArray
    values: torch.Tensor | None = None


def moves_of(parameter: npt.NDArray[np.int32], index: IndexArray, before: BoolArray, after: BoolArray) -> list[Move]:
    """The changes between two masks of a block, by layer.

    Args:
        parameter: layer number of each weight of the block [n].
        index: flat index of each weight [n].
        before: which weights are kept now [n].
        after: which weights the answer keeps [n].
    """
    changed = before != after
    return [
        Move(int(number), index[mine], after[mine])
        for number in np.unique(parameter[changed])
        for mine in [changed & (parameter == number)]
    ]


@torch.no_grad()
def apply(moves: Sequence[Move], layers: Sequence[Layer], masks: Masks, restore: Sequence[torch.Tensor]) -> list[Move]:
    """Apply moves to masks and weights: restored weights get their restore value, pruned ones become zero.

    Args:
        moves: the moves.
        layers: the layers, by number.
        masks: changed in place.
        restore: restore values of each layer, shaped like its weight.

    Returns:
        The moves that undo these.
    """
    back = []
    for move in moves:
        layer = layers[move.layer]
        masks.assign(layer.name, move.index, move.kept)
        where = torch.from_numpy(move.index)
        kept = torch.from_numpy(move.kept)
        values = move.values
        if values is None:
            values = restore[move.layer].reshape(-1)[where.to(restore[move.layer].device)]
        flat = layer.weight.detach().view(-1)
        where = where.to(flat.device)
        back.append(Move(move.layer, move.index, ~move.kept, flat[where]))
        # torch.where, not a product: a negative value times zero is a negative zero.
        flat[where] = torch.where(kept.to(flat.device), values.to(flat.device, flat.dtype), 0.0)
    return back


@torch.no_grad()
def write_masks(layers: Sequence[Layer], masks: Masks, restore: Sequence[torch.Tensor]) -> None:
    """Set all weights of the layers by their masks: restore value where kept, zero where pruned."""
    for layer, values in zip(layers, restore, strict=True):
        kept = masks[layer.name].to(layer.weight.device)
        layer.weight.copy_(torch.where(kept, values.to(layer.weight.device), torch.zeros_like(layer.weight)))
