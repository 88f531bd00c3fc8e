"""Candidate weights for the next blocks: pruned ones of largest score, kept ones of smallest, not used recently."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from hybrid_icbs.models.layers import Layer
from hybrid_icbs.models.masks import Masks

IndexArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Chosen:
    """The weights of one block, pruned ones first.

    Attributes:
        parameter: layer number of each weight, int32 [n].
        index: flat index of each weight in its layer, int64 [n].
        pruned: number of weights that are pruned now; the others are kept.
        cut: number of weights to prune in addition.
        groups: group of each weight [n], each of which keeps its number of pruned weights; None for one group.
    """

    parameter: npt.NDArray[np.int32]
    index: IndexArray
    pruned: int
    cut: int = 0
    groups: IndexArray | None = None


def with_cut(chosen: Sequence[Chosen], cut: int) -> list[Chosen]:
    """The blocks with `cut` additional weights to prune between them, at most half of the kept ones of each."""
    dealt = []
    for b, block in enumerate(chosen):
        own = min(max(0, -(-cut // (len(chosen) - b))), (len(block.index) - block.pruned) // 2)
        cut -= own
        dealt.append(replace(block, cut=own))
    return dealt


class HoldBack:
    """Weights that may not enter a block: recently used (first in, first out), or fixed for the whole run.

    At most the given share of a layer's free kept weights, and of its free pruned weights, is held back, so that
    candidates of both kinds remain.

    Args:
        layers: the layers.
        share: share of a layer's free kept, and of its free pruned, weights to hold back at most, 0 to 1 (exclusive).
    """

    def __init__(self, layers: Sequence[Layer], share: float) -> None:
        self.share = share
        self._sizes = [layer.size for layer in layers]
        self._used: list[deque[IndexArray]] = [deque() for _ in layers]
        self.fixed: dict[int, npt.NDArray[np.uint8]] = {}
        """Packed bits of the weights that are fixed for the run, by layer number."""

    def add(self, parameter: npt.NDArray[np.int32], index: IndexArray) -> None:
        """Record the weights of a block as used: layer numbers and flat indices [n]."""
        if self.share == 0:
            return
        for number in np.unique(parameter):
            queue = self._used[number]
            queue.append(index[parameter == number])
            while sum(map(len, queue)) - len(queue[0]) >= math.ceil(self.share * self._sizes[number]):
                queue.popleft()

    def fix(self, number: int, score: torch.Tensor, kept: BoolArray, pruned_share: float, kept_share: float) -> None:
        """Fix shares of the pruned weights of smallest score and of the kept ones of largest, for the whole run."""
        flat = score.reshape(-1).float().cpu()
        fixed = np.zeros(len(kept), np.bool_)
        for side, share in ((False, pruned_share), (True, kept_share)):
            own = np.flatnonzero(kept == side)
            count = math.floor(share * len(own))
            fixed[own[flat[torch.from_numpy(own)].topk(count, largest=side, sorted=False).indices.numpy()]] = True
        self.fixed[number] = np.packbits(fixed)

    def eligible(self, number: int, kept: BoolArray, side: bool) -> BoolArray:
        """Which kept or pruned weights of a layer may enter a block [size].

        Args:
            number: the layer's number.
            kept: its current mask [size].
            side: True for kept weights, False for pruned ones.
        """
        free = kept if side else ~kept
        if number in self.fixed:
            free = free & ~np.unpackbits(self.fixed[number], count=len(kept)).view(np.bool_)
        queue = self._used[number]
        if not queue:
            return free.copy()
        # Newest first: a weight that was used twice counts by its last use, and the oldest are released.
        recent = np.concatenate([index[::-1] for index in reversed(queue)])
        recent = recent[free[recent]]
        _, first = np.unique(recent, return_index=True)
        waiting = recent[np.sort(first)][: math.floor(self.share * int(np.count_nonzero(free)))]
        free = free.copy()
        free[waiting] = False
        return free


def choose_candidates(
    scores: Mapping[int, torch.Tensor],
    layers: Sequence[Layer],
    masks: Masks,
    held: HoldBack,
    block_size: int,
    blocks: int,
) -> list[Chosen]:
    """Choose disjoint blocks: the pruned weights of largest score and the kept ones of smallest.

    Half of each block is pruned now and half kept. If one kind runs short, blocks are smaller; a block is formed as
    long as there is one weight of each kind.

    Args:
        scores: first-order effect of each weight on the loss, |g w0|, by layer number.
        layers: layers to choose from; a block may hold weights of several.
        masks: current masks.
        held: weights that are held back.
        block_size: largest number of weights in a block, n.
        blocks: number of blocks.

    Returns:
        At most `blocks` blocks; fewer if candidates run short.
    """
    half = block_size // 2 * blocks
    pruned, kept = _extremes(scores, layers, masks, held, half)
    blocks = min(blocks, len(pruned[0]), len(kept[0]))
    chosen = []
    for b in range(blocks):
        # Dealt in turn, so that every block gets its share of the best candidates.
        sides = [(numbers[b::blocks], index[b::blocks]) for numbers, index in (pruned, kept)]
        chosen.append(
            Chosen(
                np.concatenate([numbers for numbers, _ in sides]),
                np.concatenate([index for _, index in sides]),
                len(sides[0][0]),
            )
        )
    return chosen


def _extremes(
    scores: Mapping[int, torch.Tensor],
    layers: Sequence[Layer],
    masks: Masks,
    held: HoldBack,
    count: int,
) -> list[tuple[npt.NDArray[np.int32], IndexArray]]:
    """The `count` pruned weights of largest score and the `count` kept ones of smallest, each most extreme first."""
    values: tuple[list[npt.NDArray[np.float32]], ...] = ([], [])
    numbers: tuple[list[npt.NDArray[np.int32]], ...] = ([], [])
    indices: tuple[list[IndexArray], ...] = ([], [])
    for layer in layers:  # scores of large models are computed when they are read, so each is read once
        score = scores[layer.number].detach().reshape(-1).float().cpu().numpy()
        mask = masks.flat(layer.name)
        for side in (False, True):
            top = extreme_of(score, held.eligible(layer.number, mask, side), count, largest=not side)
            values[side].append(score[top])
            indices[side].append(top)
            numbers[side].append(np.full(len(top), layer.number, np.int32))
    found = []
    for side in (False, True):
        value, number = np.concatenate(values[side]), np.concatenate(numbers[side])
        index = np.concatenate(indices[side])
        order = np.lexsort((index, number, value if side else -value))[:count]
        found.append((number[order], index[order]))
    return found


def extreme_of(score: npt.NDArray[np.float32], eligible: BoolArray, count: int, *, largest: bool) -> IndexArray:
    """Indices of the `count` eligible weights of largest (or smallest) score, unordered; all if there are fewer.

    A sample of the scores gives a threshold that almost surely admits enough weights; ranking only those is several
    times faster than ranking a whole layer.
    """
    count = min(count, int(np.count_nonzero(eligible)))
    stride = min(64, len(score) // max(1, 8 * count))
    near: IndexArray | None = None
    if stride > 1:
        sample = score[::stride][eligible[::stride]]
        rank = 2 * count // stride + 16
        if rank < len(sample):
            kth = len(sample) - 1 - rank if largest else rank
            threshold = np.partition(sample, kth)[kth]
            near = np.flatnonzero(((score >= threshold) if largest else (score <= threshold)) & eligible)
    if near is None or len(near) < count:
        near = np.flatnonzero(eligible)
    if count in (0, len(near)):
        return near[:count]
    kth = len(near) - count if largest else count
    order = np.argpartition(score[near], kth)
    return near[order[kth:] if largest else order[:kth]]
