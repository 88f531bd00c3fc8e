"""Which weights enter the next blocks: contested ones, and not the same ones again and again."""

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
        parameter: number of each weight's layer, int32 [n].
        index: flat index of each weight in its layer, int64 [n].
        pruned: how many of them are pruned now; the rest is kept.
        cut: how many more are to be pruned than now.
        groups: group of each weight, where so many of each stay pruned as are now [n]; None for one group of all.
    """

    parameter: npt.NDArray[np.int32]
    index: IndexArray
    pruned: int
    cut: int = 0
    groups: IndexArray | None = None


def with_cut(chosen: Sequence[Chosen], cut: int) -> list[Chosen]:
    """Blocks that prune so many weights more than now between them, half of the kept ones of each at most."""
    dealt = []
    for b, block in enumerate(chosen):
        own = min(max(0, -(-cut // (len(chosen) - b))), (len(block.index) - block.pruned) // 2)
        cut -= own
        dealt.append(replace(block, cut=own))
    return dealt


class HoldBack:
    """Weights that may not enter a block: used lately (first in, first out), or fixed for the whole run.

    Kept and pruned weights are counted apart: of either kind at most the given share of a layer's free weights waits,
    so that candidates of both kinds are always left.

    Args:
        layers: the layers.
        share: share of a layer's free kept, and of its free pruned, weights that may wait, 0 to 1 (exclusive).
    """

    def __init__(self, layers: Sequence[Layer], share: float) -> None:
        self.share = share
        self._sizes = [layer.size for layer in layers]
        self._used: list[deque[IndexArray]] = [deque() for _ in layers]
        self.fixed: dict[int, npt.NDArray[np.uint8]] = {}
        """Bits of the weights that are fixed for the run, by layer's number."""

    def add(self, parameter: npt.NDArray[np.int32], index: IndexArray) -> None:
        """Note that a block's weights were used: layer numbers and flat indices [n]."""
        if self.share == 0:
            return
        for number in np.unique(parameter):
            queue = self._used[number]
            queue.append(index[parameter == number])
            while sum(map(len, queue)) - len(queue[0]) >= math.ceil(self.share * self._sizes[number]):
                queue.popleft()

    def fix(self, number: int, score: torch.Tensor, kept: BoolArray, pruned_share: float, kept_share: float) -> None:
        """Fix the pruned weights of least score and the kept ones of largest for the whole run, shares of each."""
        flat = score.reshape(-1).float().cpu()
        fixed = np.zeros(len(kept), np.bool_)
        for side, share in ((False, pruned_share), (True, kept_share)):
            own = np.flatnonzero(kept == side)
            count = math.floor(share * len(own))
            fixed[own[flat[torch.from_numpy(own)].topk(count, largest=side, sorted=False).indices.numpy()]] = True
        self.fixed[number] = np.packbits(fixed)

    def eligible(self, number: int, kept: BoolArray, side: bool) -> BoolArray:
        """Which kept (side True) or pruned (False) weights of a layer may enter a block [size].

        Args:
            number: the layer's number.
            kept: its mask now [size].
            side: which of the two.
        """
        free = kept if side else ~kept
        if number in self.fixed:
            free = free & ~np.unpackbits(self.fixed[number], count=len(kept)).view(np.bool_)
        queue = self._used[number]
        if not queue:
            return free.copy()
        # Newest first, so that a weight used twice counts by its last use and the oldest are let go.
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
    """Choose disjoint blocks from some layers: pruned weights of the largest score, kept ones of the smallest.

    Half of each block is pruned now and half kept; where one kind runs short the blocks get smaller, never empty as
    long as there is one weight of each kind.

    Args:
        scores: how strongly a change of each weight acts on the loss, |g w0|, by layer's number.
        layers: the layers that supply candidates; blocks mix them.
        masks: which weights are kept now.
        held: weights that wait.
        block_size: the most weights in a block, n.
        blocks: how many blocks.

    Returns:
        At most `blocks` blocks, fewer where the candidates do not suffice for more.
    """
    half = block_size // 2 * blocks
    pruned, kept = _extremes(scores, layers, masks, held, half)
    blocks = min(blocks, len(pruned[0]), len(kept[0]))
    chosen = []
    for b in range(blocks):
        # Dealt out in turn, so that every block gets its part of the most contested weights.
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
    for layer in layers:  # each layer's scores are read once, as a large model forms them when they are read
        score = scores[layer.number].detach().reshape(-1).float().cpu().numpy()
        mask = masks.flat(layer.name)
        for side in (False, True):
            top = _extreme_of(score, held.eligible(layer.number, mask, side), count, largest=not side)
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


def _extreme_of(score: npt.NDArray[np.float32], eligible: BoolArray, count: int, *, largest: bool) -> IndexArray:
    """Indices of the `count` eligible weights of largest (or smallest) score, in no order; all where there are fewer.

    A sample of the scores gives a threshold that is almost surely wide enough; only what lies beyond it is ranked,
    which is several times quicker than ranking all weights of a layer.
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
