"""Prune a model layer by layer, each for its own output on calibration data.

Decoder block after decoder block: the inputs of a block's layers are measured with the blocks before it pruned and the
block itself still dense. At any time one block's Gram matrices are in memory, and no copy of any weight.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import torch
from torch import nn

from hybrid_icbs.errors import PruningError
from hybrid_icbs.layerwise.allocation import Allocation, allocate, uniform
from hybrid_icbs.layerwise.grams import Group, SummedLoss, gather_grams, layer_groups, matrix_of
from hybrid_icbs.layerwise.prefix import Inputs, Prefix
from hybrid_icbs.layerwise.rows import DAMPING, RIDGE, Method, Update, prune_matrix
from hybrid_icbs.models.layers import Layer, find_layers
from hybrid_icbs.models.masks import Masks
from hybrid_icbs.models.patterns import Pattern

Objective: TypeAlias = Literal["layer", "joint"]
Scope: TypeAlias = Literal["layer", "global"]


@dataclass(frozen=True)
class LayerRecord:
    """How the pruning of a layer went.

    Attributes:
        name: the weight's name.
        density: share of its weights kept.
        error: relative error of its output on the calibration tokens, |X V^T - X W^T|^2 / |X W^T|^2.
        seconds: of search and refit.
    """

    name: str
    density: float
    error: float
    seconds: float


@dataclass(frozen=True)
class LayerwiseResult:
    """What came of pruning a model layer by layer; the model itself was changed.

    Attributes:
        masks: which weights are kept.
        records: one for each layer, in the order in which they were pruned.
        seconds: all in all.
    """

    masks: Masks
    records: list[LayerRecord]
    seconds: float


class Record(Protocol):
    """Where a run keeps what it has done, so that it can go on after a kill."""

    def plan(self) -> Allocation | None:
        """The plan on record."""

    def planned(self, plan: Allocation) -> None:
        """Keep the plan."""

    def restore(self, number: int, group: Group, masks: Masks) -> list[LayerRecord] | None:
        """Put back the weights and masks of a group that is on record; None: it is not."""

    def keep(self, number: int, group: Group, masks: Masks, records: list[LayerRecord]) -> None:
        """Keep a group that is done."""


def prune_layerwise(
    model: nn.Module,
    batches: Sequence[Inputs],
    density: float | None = None,
    *,
    method: Method = "icbs",
    objective: Objective = "layer",
    update: Update = "none",
    pattern: str | Pattern | None = None,
    scope: Scope = "layer",
    layers: Sequence[Layer] | None = None,
    damping: float = DAMPING,
    ridge: float = RIDGE,
    loss: SummedLoss | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Callable[[LayerRecord], None] | None = None,
    record: Record | None = None,
) -> LayerwiseResult:
    """Prune a model in place, layer by layer.

    Args:
        model: a transformers model, or any of Linear and Conv1D layers that takes its batches as keywords.
        batches: calibration data, each batch the model's keywords (input_ids [B, T], attention_mask [B, T]). They are
            passed through the model as they are, so their size is the micro-batch.
        density: share of weights kept over all layers in scope; a pattern says its own.
        method: "icbs", "magnitude", "wanda" or "sparsegpt".
        objective: how errors of different rows compare. "joint" weighs each row's by the mean squared gradient of its
            output, and moves density between the rows of a layer even in scope "layer"; "layer" takes them as they
            are, which compares well within a row only.
        update: "none" or "backsolve"; see :func:`hybrid_icbs.layerwise.rows.prune_matrix`.
        pattern: N:M, such as "2:4".
        scope: "layer" gives every layer the same density; "global" moves it to where the costs of the dense model
            say it is worth most.
        layers: what is pruned, of :func:`hybrid_icbs.models.layers.find_layers`; None for all layers of the model's blocks
            (no embeddings, no output head), or all there are in a model without blocks.
        damping: of Gram matrices where they are inverted, in units of their mean diagonal.
        ridge: of Gram matrices where "icbs" searches without update, in the same units.
        loss: for "joint": sum of the losses of a batch; None for next-token cross entropy.
        seed: where randomness starts; two runs with one seed on one machine agree to the bit.
        threads: of the row search; None for all processors. The result does not depend on it.
        progress: called with each layer's record.
        record: where what is done is kept, and found again; then `model` is the dense model still.

    Returns:
        Masks and records.

    Raises:
        PruningError: no density, or settings that do not go together.
        UnsupportedLayerError: a layer in scope that is no matrix.
    """
    begun = time.perf_counter()
    shape = Pattern.read(pattern) if isinstance(pattern, str) else pattern
    kept = _checked(density, shape, scope, batches)
    chosen = list(layers) if layers is not None else layers_of_blocks(model)
    for layer in chosen:
        if shape:
            shape.check(layer.name, matrix_of(layer).shape[1])
    groups = layer_groups(model, chosen, batches[0])
    plan = record.plan() if record else None
    if plan is None:
        plan = plan_counts(
            model, groups, batches, kept, method=method, objective=objective, update=update, pattern=shape, scope=scope,
            damping=damping, ridge=ridge, loss=loss, threads=threads,
        )  # fmt: skip
        if record:
            record.planned(plan)
    masks = Masks.like(chosen)
    records: list[LayerRecord] = []
    prefix = Prefix(model, batches)
    before: Group | None = None
    for number, group in enumerate(groups):
        done = record.restore(number, group, masks) if record else None
        if done is None:
            if before:
                prefix.finish(before.module, group.module)
            done = []
            for pruned in prune_group(
                model, group, batches, plan, masks, method=method, update=update, pattern=shape, damping=damping,
                ridge=ridge, seed=seed, threads=threads, prefix=prefix,
            ):  # fmt: skip
                done.append(pruned)
                if progress:
                    progress(pruned)
            if record:
                record.keep(number, group, masks, done)
        elif progress:
            for pruned in done:
                progress(pruned)
        records += done
        before = group
    return LayerwiseResult(masks, records, time.perf_counter() - begun)


def plan_counts(
    model: nn.Module,
    groups: Sequence[Group],
    batches: Sequence[Inputs],
    density: float,
    *,
    method: Method,
    objective: Objective,
    update: Update,
    pattern: Pattern | None,
    scope: Scope,
    damping: float = DAMPING,
    ridge: float = RIDGE,
    loss: SummedLoss | None = None,
    threads: int | None = None,
) -> Allocation:
    """How many weights each row will lose, found out before anything is pruned.

    Args:
        model: the dense model.
        groups: its layers, of :func:`hybrid_icbs.layerwise.grams.layer_groups`.
        batches: calibration data.
        density: share of weights kept.
        method: as for :func:`prune_layerwise`, like all that follow.
        objective: "layer" or "joint".
        update: "none" or "backsolve".
        pattern: N:M, which leaves nothing to decide.
        scope: "layer" or "global".
        damping: of Gram matrices where they are inverted.
        ridge: of Gram matrices where survivors keep their values.
        loss: for "joint".
        threads: of the row search.
    """
    if pattern or (scope == "layer" and objective == "layer"):
        return uniform([layer for group in groups for layer in group.layers], density)
    return allocate(
        model, groups, batches, density, method=method, update=update, joint=objective == "joint", within=scope,
        damping=damping, ridge=ridge, loss=loss, threads=threads,
    )  # fmt: skip


@torch.no_grad()
def prune_group(
    model: nn.Module,
    group: Group,
    batches: Sequence[Inputs],
    plan: Allocation,
    masks: Masks,
    *,
    method: Method,
    update: Update,
    pattern: Pattern | None,
    damping: float = DAMPING,
    ridge: float = RIDGE,
    seed: int = 0,
    threads: int | None = None,
    prefix: Prefix | None = None,
) -> Iterator[LayerRecord]:
    """Prune the layers of one decoder block, the blocks before it having been pruned.

    A run that was killed resumes at a block: its layers are all measured before the first is changed.

    Args:
        model: the model, changed in place.
        group: the block, of :func:`hybrid_icbs.layerwise.grams.layer_groups`.
        batches: calibration data.
        plan: weights to prune of each row, of :func:`plan_counts`.
        masks: written for each layer when it is done.
        method: as for :func:`prune_layerwise`, like all that follow.
        update: "none" or "backsolve".
        pattern: N:M.
        damping: of Gram matrices where they are inverted.
        ridge: of Gram matrices where survivors keep their values.
        seed: of the run; every layer has a stream of its own.
        threads: of the row search.
        prefix: what is remembered of the blocks before.

    Yields:
        A record as each layer is done.
    """
    grams = gather_grams(model, group, batches, prefix)
    for layer in group.layers:
        started = time.perf_counter()
        W = matrix_of(layer)
        gram = grams.pop(layer.number).mean()
        answer = prune_matrix(
            W, gram, plan[layer.number], method=method, update=update, pattern=pattern, damping=damping, ridge=ridge,
            seed=seed + layer.number, threads=threads,
        )  # fmt: skip
        rounded = answer.weights.to(W.dtype)
        error = _relative_error(W, rounded, gram)
        W.copy_(rounded)
        mask = answer.kept.T if layer.kind == "conv1d" else answer.kept
        masks.set_flat(layer.name, mask.reshape(-1).cpu().numpy())
        yield LayerRecord(layer.name, masks.density(layer.name), error, time.perf_counter() - started)


def _checked(density: float | None, pattern: Pattern | None, scope: str, batches: Sequence[Inputs]) -> float:
    if not batches:
        raise PruningError("the calibration data is empty; at least one batch is needed")
    if pattern is not None:
        if scope == "global":
            raise PruningError(f"pattern {pattern} fixes the density of every layer; it cannot go with scope='global'")
        if density is not None and abs(density - pattern.density) > 1e-9:
            raise PruningError(f"pattern {pattern} keeps {pattern.density:.4g} of the weights, not {density}")
        return pattern.density
    if density is None or not 0 < density < 1:
        raise PruningError(f"density is {density}; a share of weights to keep between 0 and 1 is needed, or a pattern")
    return density


def layers_of_blocks(model: nn.Module) -> list[Layer]:
    """The layers of a model's blocks, the elements of its outermost ModuleLists; of a model without, all layers."""
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    outermost = [n for n in lists if not any(n.startswith(other + ".") for other in lists)]
    linear = [n for n in outermost if any(hasattr(m, "weight") for m in model.get_submodule(n).modules())]
    return find_layers(model, linear or None)


def _relative_error(W: torch.Tensor, new: torch.Tensor, gram: torch.Tensor) -> float:
    def size(weights: torch.Tensor) -> float:
        return float(((weights @ gram.double()) * weights).sum())

    dense = size(W.double())
    return size(new.double() - W.double()) / dense if dense > 0 else 0.0
