"""Allocation of density: how many weights each row of each layer loses.

Each row of the dense model is pruned greedily to the end, and the cost of each further weight is recorded. Where a cost
is lower than one before it, it is raised to that one, as weights are pruned in this order. A threshold on the cost
over all rows and layers then says how many weights each row loses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hybrid_icbs.layerwise.cached_prefix import CachedPrefix, Inputs
from hybrid_icbs.layerwise.grams import Group, SummedLoss, gather_grams, matrix_of, output_importances
from hybrid_icbs.layerwise.method import LayerProblem, LayerwiseSettings
from hybrid_icbs.layerwise.refit import EXACT_UP_TO, damped, inverted
from hybrid_icbs.models.layers import Layer
from hybrid_icbs.models.masks import shares
from hybrid_icbs.progress import phase

Allocation: TypeAlias = dict[int, list[int]]
"""Weights to prune in each row, by layer number."""

POINTS = 128
"""Counts of pruned weights at which a row's cost is kept: a cost per weight would take as much memory as the model."""


def uniform(layers: Sequence[Layer], density: float) -> Allocation:
    """The same density in every layer and row; totals are exact, remainders are spread evenly."""
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
    settings: LayerwiseSettings,
    loss: SummedLoss | None = None,
) -> Allocation:
    """Choose how many weights each row loses.

    Args:
        model: the dense model; it is not changed.
        groups: its layers, from :func:`hybrid_icbs.layerwise.grams.layer_groups`.
        batches: calibration data.
        settings: of the run. With scope "layer" density moves between the rows of a layer only, with "global" between
            all layers; with objective "joint" costs are weighted by the mean squared gradient of the row's output.
        loss: for "joint": sum of the losses of a batch; None for next-token cross entropy.

    Returns:
        Weights to prune in each row; their total is exact.
    """
    layers = [layer for group in groups for layer in group.layers]
    joint = settings.objective == "joint"
    importance: Mapping[int, torch.Tensor] = {}
    if joint:
        with phase("measuring output gradients"):
            importance = output_importances(model, layers, batches, loss)
    costs: dict[int, npt.NDArray[np.float32]] = {}
    cached = CachedPrefix(model, batches)
    with phase("measuring costs", len(layers), "layers") as advance:
        for before, group in zip([None, *groups[:-1]], groups, strict=True):
            if before:
                cached.finish(before.module, group.module)
            grams = gather_grams(model, group, batches, cached)
            for layer in group.layers:
                W, gram = matrix_of(layer).double(), grams.pop(layer.number).mean().double()
                own = settings.method.costs(LayerProblem(W, gram, [W.shape[1]] * len(W), settings))
                if joint:
                    own *= importance[layer.number].cpu().numpy()[:, None]
                costs[layer.number] = sampled(np.maximum.accumulate(own, axis=1))
                advance(len(costs), layer.name)
    with phase("planning the densities"):
        plan = uniform(layers, settings.share)
        totals = {number: sum(counts) for number, counts in plan.items()}
        widths = {layer.number: matrix_of(layer).shape[1] for layer in layers}
        if settings.scope == "global":
            return by_threshold(costs, widths, sum(totals.values()))
        for number, cost in costs.items():
            plan |= by_threshold({number: cost}, widths, totals[number])
        return plan


def elimination_costs(problem: LayerProblem) -> npt.NDArray[np.float64]:
    """The increase of the refitted error by each weight of a row, pruned greedily one after the other [R, d].

    For rows of more than 1,024 inputs the cost of each weight as if it were the first to be pruned, sorted.
    """
    from solvers import rows

    W, settings = problem.W, problem.settings
    inverse = inverted(damped(problem.gram, settings.damping))
    if W.shape[1] <= EXACT_UP_TO:
        counts = [W.shape[1]] * len(W)
        return rows.elimination_costs(inverse.cpu().numpy(), W.cpu().numpy(), counts, threads=settings.threads)[1]
    own = W.square() / inverse.diagonal()
    return own.sort(dim=1).values.cpu().numpy()


def sampled(costs: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """The costs of each row at up to 128 evenly spread counts, the last weight's among them [R, p]."""
    d = costs.shape[1]
    return costs[:, _counts(d) - 1].astype(np.float32)


def _counts(d: int) -> npt.NDArray[np.int64]:
    points = min(d, POINTS)
    return np.arange(1, points + 1) * d // points


def by_threshold(costs: dict[int, npt.NDArray[np.float32]], widths: dict[int, int], total: int) -> Allocation:
    """The counts at which all rows together lose `total` weights at one threshold on the cost.

    Args:
        costs: of each row at the counts of :func:`sampled`, ascending, by layer number [R, p].
        widths: weights in a row, by layer number.
        total: weights to prune.
    """

    def affordable(threshold: float) -> dict[int, npt.NDArray[np.float64]]:
        return {number: _lost(cost, widths[number], threshold) for number, cost in costs.items()}

    def enough(threshold: float) -> bool:
        return sum(float(lost.sum()) for lost in affordable(threshold).values()) >= total

    threshold = 0.0
    if not enough(threshold):  # weights of cost zero are too few: bisect the logarithm of the threshold
        positive = np.concatenate([cost[cost > 0].ravel() for cost in costs.values()])
        low, high = float(np.log(positive.min())) - 1.0, float(np.log(positive.max())) + 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if enough(float(np.exp(middle))) else (middle, high)
        threshold = float(np.exp(high))
    lost = affordable(threshold)
    ideal = np.concatenate(list(lost.values()))
    caps = np.concatenate([np.full(len(cost), widths[number]) for number, cost in costs.items()])
    parts = iter(shares(total, ideal.tolist(), caps.tolist()))
    return {number: [next(parts) for _ in counts] for number, counts in lost.items()}


def _lost(costs: npt.NDArray[np.float32], d: int, threshold: float) -> npt.NDArray[np.float64]:
    """How many weights of each row cost at most the threshold [R], interpolated between the counts of known cost."""
    counts = np.concatenate([[0], _counts(d)])
    below = (costs <= threshold).sum(axis=1)
    base = counts[below].astype(np.float64)
    if costs.shape[1] == d:
        return np.asarray(base)
    rows = np.flatnonzero(below < costs.shape[1])
    here = costs[rows, below[rows]].astype(np.float64)
    before = np.where(below[rows] > 0, costs[rows, np.maximum(below[rows] - 1, 0)], 0.0).astype(np.float64)
    share = np.clip((threshold - before) / np.maximum(here - before, 1e-300), 0.0, 1.0)
    base[rows] += share * (counts[below[rows] + 1] - counts[below[rows]])
    return np.asarray(base)
