"""N:M patterns in runs of blocks: initial masks of a pattern, and blocks of whole groups.

A group is M consecutive weights along a layer's inputs: along the rows of a Linear weight [out, in], along the columns
of a transformers Conv1D weight [in, out], and along the input channels at each kernel position of a Conv2d weight [out,
in, y, x], as semi-structured sparse kernels expect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from hybrid_icbs.models.layers import Layer
from hybrid_icbs.models.masks import Masks
from hybrid_icbs.models.patterns import Pattern
from hybrid_icbs.selection.candidates import Chosen, HoldBack

IndexArray = npt.NDArray[np.int64]


def pattern_masks(scores: Sequence[torch.Tensor], layers: Sequence[Layer], pattern: Pattern) -> Masks:
    """Masks that keep the weights of largest score in every group.

    Args:
        scores: score of each weight, shaped like the weights, by layer.
        layers: the layers.
        pattern: the pattern.

    Raises:
        PruningError: the number of inputs of a layer is not a multiple of M.
    """
    masks = Masks.like(layers)
    for layer, score in zip(layers, scores, strict=True):
        along = layer.kind.along_inputs(score.detach().float().cpu())
        pattern.check(layer.name, along.shape[-1])
        kept = torch.empty(layer.weight.shape, dtype=torch.bool)
        layer.kind.along_inputs(kept).copy_(~pattern.lowest(along))
        masks.set_flat(layer.name, kept.reshape(-1).numpy())
    return masks


def holds(masks: Mapping[str, torch.Tensor], layers: Sequence[Layer], pattern: Pattern) -> bool:
    """Whether the masks of all layers keep exactly N of every group."""
    return all(pattern.holds(layer.kind.along_inputs(masks[layer.name])) for layer in layers)


def choose_groups(
    scores: Mapping[int, torch.Tensor],
    layers: Sequence[Layer],
    masks: Masks,
    held: HoldBack,
    pattern: Pattern,
    block_size: int,
    blocks: int,
) -> list[Chosen]:
    """Choose disjoint blocks of whole groups, by the largest excess of a pruned weight's score over a kept one's.

    Args:
        scores: first-order effect of each weight on the loss, |g w0|, by layer number.
        layers: layers to choose from; a block may hold groups of several.
        masks: current masks, which hold the pattern.
        held: weights that are held back; a group with such a weight is held back as a whole.
        pattern: the pattern.
        block_size: largest number of weights in a block, n.
        blocks: number of blocks.

    Returns:
        At most `blocks` blocks; fewer if groups run short.
    """
    count = block_size // pattern.of * blocks
    gains, numbers, groups = [], [], []
    for layer in layers:
        own = _gains(layer, scores[layer.number], masks.flat(layer.name), held, pattern)
        top = np.argsort(-own, kind="stable")[: min(count, int(np.isfinite(own).sum()))]
        gains.append(own[top])
        numbers.append(np.full(len(top), layer.number, np.int32))
        groups.append(top)
    gain, number, group = np.concatenate(gains), np.concatenate(numbers), np.concatenate(groups)
    order = np.lexsort((group, number, -gain))[:count]
    number, group = number[order], group[order]
    by_number = {layer.number: layer for layer in layers}
    # Dealt in turn, so that every block gets its share of the best groups.
    parts = [slice(b, None, blocks) for b in range(min(blocks, len(group)))]
    return [_block(number[part], group[part], by_number, masks, pattern) for part in parts]


def _gains(
    layer: Layer, score: torch.Tensor, kept: npt.NDArray[np.bool_], held: HoldBack, pattern: Pattern
) -> npt.NDArray[np.float32]:
    """Largest score of a pruned weight minus the smallest of a kept one, by group; -inf for groups held back."""
    free = torch.from_numpy(held.eligible(layer.number, kept, True) | held.eligible(layer.number, kept, False))
    s, k, f = (
        layer.kind.along_inputs(tensor.reshape(layer.weight.shape)).reshape(-1, pattern.of)
        for tensor in (score.detach().float().cpu(), torch.from_numpy(kept), free)
    )
    gain = s.masked_fill(k, -torch.inf).amax(1) - s.masked_fill(~k, torch.inf).amin(1)
    return gain.masked_fill(~f.all(1), -torch.inf).numpy()


def _block(
    number: npt.NDArray[np.int32], group: IndexArray, layers: Mapping[int, Layer], masks: Masks, pattern: Pattern
) -> Chosen:
    """A block of some groups, pruned weights first."""
    index = np.empty((len(group), pattern.of), np.int64)
    kept = np.empty((len(group), pattern.of), np.bool_)
    for own in np.unique(number):
        layer, mine = layers[int(own)], number == own
        index[mine] = _members(layer, group[mine], pattern.of)
        kept[mine] = masks.flat(layer.name)[index[mine]]
    order = np.argsort(kept.reshape(-1), kind="stable")
    groups = np.repeat(np.arange(len(group)), pattern.of)[order]
    return Chosen(number[groups], index.reshape(-1)[order], int((~kept).sum()), groups=groups)


def _members(layer: Layer, groups: IndexArray, of: int) -> IndexArray:
    """Flat indices of the weights of groups [g, of]."""
    axes, shape = layer.kind.axes, layer.weight.shape
    position = groups[:, None] * of + np.arange(of)
    places = np.unravel_index(position, [shape[axis] for axis in axes])
    by_axis = [places[axes.index(axis)] for axis in range(len(shape))]
    return np.ravel_multi_index(by_axis, tuple(shape)).astype(np.int64)
