"""Pruning a model layer by layer, each layer for its own output on calibration data.

Decoder blocks are pruned in order. The inputs of a block's layers are measured when the blocks before it are pruned and
the block itself is still dense. Only one block's Gram matrices are in memory at a time, and no copy of any weight.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from hybrid_icbs.errors import PruningError
from hybrid_icbs.layerwise.allocation import Allocation, allocate, uniform
from hybrid_icbs.layerwise.cached_prefix import CachedPrefix, Inputs
from hybrid_icbs.layerwise.grams import Group, SummedLoss, gather_grams, layer_groups, matrix_of
from hybrid_icbs.layerwise.method import LayerwiseSettings, prune_matrix
from hybrid_icbs.models.layers import Layer, find_layers
from hybrid_icbs.models.masks import Masks
from hybrid_icbs.progress import phase


@dataclass(frozen=True)
class LayerRecord:
    """The record of a pruned layer.

    Attributes:
        name: the weight's name.
        density: share of its weights kept.
        error: relative error of its output on the calibration tokens, |X V^T - X W^T|^2 / |X W^T|^2; NaN where the
            method does not measure it.
        seconds: of search and refit.
    """

    name: str
    density: float
    error: float
    seconds: float


@dataclass(frozen=True)
class LayerwiseResult:
    """The result of pruning a model layer by layer, in place.

    Attributes:
        masks: which weights are kept.
        records: one for each layer, in the order of pruning.
        seconds: in total.
    """

    masks: Masks
    records: list[LayerRecord]
    seconds: float


class Record(Protocol):
    """Storage of a run's finished blocks, from which it can resume."""

    def plan(self) -> Allocation | None:
        """The stored allocation, if any."""

    def planned(self, plan: Allocation) -> None:
        """Store the allocation."""

    def restore(self, number: int, group: Group, masks: Masks) -> list[LayerRecord] | None:
        """Restore the weights and masks of a stored group; None if it is not stored."""

    def keep(self, number: int, group: Group, masks: Masks, records: list[LayerRecord]) -> None:
        """Store a finished group."""


def prune_layerwise(
    model: nn.Module,
    batches: Sequence[Inputs],
    settings: LayerwiseSettings,
    *,
    layers: Sequence[Layer] | None = None,
    loss: SummedLoss | None = None,
    record: Record | None = None,
) -> LayerwiseResult:
    """Prune a model in place, layer by layer.

    Args:
        model: a transformers model, or any other that takes its batches as keywords.
        batches: calibration data, each batch the model's keywords (input_ids [B, T], attention_mask [B, T]). Each is
            one forward pass.
        settings: of the run.
        layers: the layers to prune, from :func:`hybrid_icbs.models.layers.find_layers`; None for those in the model's
            repeated blocks (without embeddings and head), or all in a model without blocks.
        loss: for the objective "joint": sum of the losses of a batch; None for next-token cross entropy.
        record: where finished blocks are kept and read again; `model` must then be the dense model.

    Returns:
        Masks and records.

    Raises:
        PruningError: no data, or a pattern that does not fit a layer.
        UnsupportedLayerError: the layer-wise objective is not implemented for a layer in scope.
    """
    begun = time.perf_counter()
    if not batches:
        raise PruningError("the calibration data is empty; at least one batch is needed")
    chosen = list(layers) if layers is not None else find_layers(model, in_blocks=True)
    for layer in chosen:
        if settings.pattern:
            settings.pattern.check(layer.name, matrix_of(layer).shape[1])
    groups = layer_groups(model, chosen, batches[0])
    plan = record.plan() if record else None
    if plan is None:
        plan = plan_counts(model, groups, batches, settings, loss)
        if record:
            record.planned(plan)
    masks = Masks.like(chosen)
    records: list[LayerRecord] = []
    cached = CachedPrefix(model, batches)
    before: Group | None = None
    with phase("pruning", len(chosen), "layers") as advance:
        for number, group in enumerate(groups):
            done = record.restore(number, group, masks) if record else None
            if done is None:
                if before:
                    cached.finish(before.module, group.module)
                done = []
                for pruned in prune_group(model, group, batches, plan, masks, settings, cached):
                    done.append(pruned)
                    advance(len(records) + len(done), pruned.name)
                if record:
                    record.keep(number, group, masks, done)
            records += done
            before = group
    return LayerwiseResult(masks, records, time.perf_counter() - begun)


def plan_counts(
    model: nn.Module,
    groups: Sequence[Group],
    batches: Sequence[Inputs],
    settings: LayerwiseSettings,
    loss: SummedLoss | None = None,
) -> Allocation:
    """How many weights each row will lose, decided on the dense model. Arguments as for :func:`allocate`."""
    if settings.pattern or (settings.scope == "layer" and settings.objective == "layer"):
        return uniform([layer for group in groups for layer in group.layers], settings.share)
    return allocate(model, groups, batches, settings, loss)


@torch.no_grad()
def prune_group(
    model: nn.Module,
    group: Group,
    batches: Sequence[Inputs],
    plan: Allocation,
    masks: Masks,
    settings: LayerwiseSettings,
    cached: CachedPrefix | None = None,
) -> Iterator[LayerRecord]:
    """Prune the layers of one decoder block, when the blocks before it are pruned.

    All its layers are measured before the first is changed, so that a run can resume at a block.

    Args:
        model: the model, changed in place.
        group: the block.
        batches: calibration data.
        plan: weights to prune in each row, from :func:`plan_counts`.
        masks: written for each layer when it is pruned.
        settings: of the run.
        cached: outputs of the blocks before; None to run the model from its start.

    Yields:
        A record after each layer.
    """
    grams = gather_grams(model, group, batches, cached)
    for layer in group.layers:
        started = time.perf_counter()
        W = matrix_of(layer)
        gram = grams.pop(layer.number).mean()
        answer = prune_matrix(W, gram, plan[layer.number], settings, seed=settings.seed + layer.number)
        rounded = answer.weights.to(W.dtype)
        error = _relative_error(W, rounded, gram)
        W.copy_(rounded)
        kept = torch.empty(layer.weight.shape, dtype=torch.bool)
        matrix_of(layer, kept).copy_(answer.kept)
        masks.set_flat(layer.name, kept.reshape(-1).numpy())
        yield LayerRecord(layer.name, masks.density(layer.name), error, time.perf_counter() - started)


def _relative_error(W: torch.Tensor, new: torch.Tensor, gram: torch.Tensor) -> float:
    def size(weights: torch.Tensor) -> float:
        return float(((weights @ gram.double()) * weights).sum())

    dense = size(W.double())
    return size(new.double() - W.double()) / dense if dense > 0 else 0.0
