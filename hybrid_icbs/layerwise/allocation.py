"""How many weights each row of each layer loses: the same everywhere, or where the density is worth least.

Every row is pruned greedily on the dense model, as far as it goes, and the price of each further weight noted. Where
a price falls, it is raised to the highest before it: a weight is not to be had without those that went before. A
threshold on the price over all rows and layers then says how many each loses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hybrid_icbs.layerwise.grams import (
    Group,
    SummedLoss,
    damped,
    gather_grams,
    inverted,
    matrix_of,
    output_importances,
)
from hybrid_icbs.layerwise.prefix import Inputs, Prefix
from hybrid_icbs.layerwise.refit import EXACT_UP_TO
from hybrid_icbs.layerwise.rows import Method, Update
from hybrid_icbs.models.layers import Layer
from hybrid_icbs.models.masks import shares

Allocation: TypeAlias = dict[int, list[int]]
"""Weights to prune of each row, by layer number."""

POINTS = 128
"""Counts of a row at which its price is remembered: a price for every weight would be another copy of the model."""


def uniform(layers: Sequence[Layer], density: float) -> Allocation:
    """The same density in every layer and every row; the totals are exact, remainders dealt out evenly."""
    sizes = [layer.size for layer in layers]
    total = sum(sizes) - round(density * sum(sizes))
    plan = {}
    for layer, count in zip(layers, shares(total, sizes, sizes), strict=True):
        rows, d = matrix_of(layer).shape
        plan[layer.number] = shares(count, [1.0] * rows, [d] * rows)
    return plan


def allocate(
    model: nn.Module,
    groups: Sequence[Group],
    batches: Sequence[Inputs],
    density: float,
    *,
    method: Method,
    update: Update,
    joint: bool,
    within: Literal["layer", "global"],
    damping: float,
    ridge: float,
    loss: SummedLoss | None = None,
    threads: int | None = None,
) -> Allocation:
    """Choose how many weights each row loses.

    Args:
        model: the dense model; it is not changed.
        groups: its layers.
        batches: calibration data.
        density: share of weights kept over all layers; met to the weight.
        method: "magnitude" prices a weight by its square, "wanda" by its square times its input's; "icbs" and
            "sparsegpt" by what pruning it costs after those before it.
        update: whether survivors make up for what is pruned, which lowers prices.
        joint: weigh the prices of each row by the mean squared gradient of its output.
        within: whether density moves between the rows of a layer only, or between all layers.
        damping: of Gram matrices where they are inverted, as for the pruning.
        ridge: of Gram matrices where survivors keep their values, as for the pruning.
        loss: for `joint`.
        threads: of the row search.

    Returns:
        Weights to prune of each row.
    """
    layers = [layer for group in groups for layer in group.layers]
    importance = output_importances(model, layers, batches, loss) if joint else {}
    refitted = update == "backsolve" or method == "sparsegpt"
    prices: dict[int, npt.NDArray[np.float32]] = {}
    prefix = Prefix(model, batches)
    for before, group in zip([None, *groups[:-1]], groups, strict=True):
        if before:
            prefix.finish(before.module, group.module)
        grams = gather_grams(model, group, batches, prefix)
        for layer in group.layers:
            W, gram = matrix_of(layer).double(), grams.pop(layer.number).mean().double()
            costs = _costs(W, gram, method, refitted, damping, ridge, threads)
            if joint:
                costs *= importance[layer.number].cpu().numpy()[:, None]
            prices[layer.number] = _sampled(np.maximum.accumulate(costs, axis=1))
    plan = uniform(layers, density)
    totals = {number: sum(counts) for number, counts in plan.items()}
    widths = {layer.number: matrix_of(layer).shape[1] for layer in layers}
    if within == "global":
        return _by_threshold(prices, widths, sum(totals.values()))
    for number, price in prices.items():
        plan |= _by_threshold({number: price}, widths, totals[number])
    return plan


def _costs(
    W: torch.Tensor,
    gram: torch.Tensor,
    method: Method,
    refitted: bool,
    damping: float,
    ridge: float,
    threads: int | None,
) -> npt.NDArray[np.float64]:
    """What each further weight of a row costs, in the order in which they go [R, d]."""
    from solvers.rows import elimination_costs, grow_rows

    rows, d = W.shape
    if method == "magnitude":
        own = W.square()
    elif method == "wanda":
        own = W.square() * gram.diagonal()
    elif not refitted:
        states, matrix = np.zeros(W.shape, np.uint8), damped(gram, ridge).cpu().numpy()
        return grow_rows(matrix, W.cpu().numpy(), states, [d] * rows, record=True, threads=threads)[2]
    else:
        inverse = inverted(damped(gram, damping))
        if d <= EXACT_UP_TO:
            return elimination_costs(inverse.cpu().numpy(), W.cpu().numpy(), [d] * rows, threads=threads)[1]
        own = W.square() / inverse.diagonal()  # what the first to go would cost: an exact elimination is out of reach
    return own.sort(dim=1).values.cpu().numpy()


def _sampled(costs: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """The prices of a row at up to 128 counts, spread evenly, the last weight's among them [R, p]."""
    d = costs.shape[1]
    return costs[:, _counts(d) - 1].astype(np.float32)


def _counts(d: int) -> npt.NDArray[np.int64]:
    points = min(d, POINTS)
    return np.arange(1, points + 1) * d // points


def _by_threshold(prices: dict[int, npt.NDArray[np.float32]], widths: dict[int, int], total: int) -> Allocation:
    """Where `total` weights are lost if each costs about the same."""

    def affordable(threshold: float) -> dict[int, npt.NDArray[np.float64]]:
        return {number: _lost(price, widths[number], threshold) for number, price in prices.items()}

    def enough(threshold: float) -> bool:
        return sum(float(lost.sum()) for lost in affordable(threshold).values()) >= total

    threshold = 0.0
    if not enough(threshold):  # what costs nothing does not suffice: bisect the logarithm of the price
        positive = np.concatenate([price[price > 0].ravel() for price in prices.values()])
        low, high = float(np.log(positive.min())) - 1.0, float(np.log(positive.max())) + 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if enough(float(np.exp(middle))) else (middle, high)
        threshold = float(np.exp(high))
    lost = affordable(threshold)
    ideal = np.concatenate(list(lost.values()))
    caps = np.concatenate([np.full(len(price), widths[number]) for number, price in prices.items()])
    dealt = iter(shares(total, ideal.tolist(), caps.tolist()))
    return {number: [next(dealt) for _ in counts] for number, counts in lost.items()}


def _lost(prices: npt.NDArray[np.float32], d: int, threshold: float) -> npt.NDArray[np.float64]:
    """How many weights of each row cost at most the threshold, between counts of known price by interpolation."""
    counts = np.concatenate([[0], _counts(d)])
    below = (prices <= threshold).sum(axis=1)
    base = counts[below].astype(np.float64)
    if prices.shape[1] == d:
        return np.asarray(base)
    rows = np.flatnonzero(below < prices.shape[1])
    here = prices[rows, below[rows]].astype(np.float64)
    before = np.where(below[rows] > 0, prices[rows, np.maximum(below[rows] - 1, 0)], 0.0).astype(np.float64)
    share = np.clip((threshold - before) / np.maximum(here - before, 1e-300), 0.0, 1.0)
    base[rows] += share * (counts[below[rows] + 1] - counts[below[rows]])
    return np.asarray(base)
