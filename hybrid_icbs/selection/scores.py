"""Importance scores of weights, and initial masks from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hybrid_icbs.config import Comparison, Score
from hybrid_icbs.data.calibration import Batch
from hybrid_icbs.data.forward import evaluation_mode, run_model, samples_per_pass
from hybrid_icbs.data.losses import Loss
from hybrid_icbs.gradients.passes import measure_gradients
from hybrid_icbs.models.layers import Layer
from hybrid_icbs.models.masks import Masks, shares


def initial_masks(
    scores: Sequence[torch.Tensor], layers: Sequence[Layer], density: float, comparison: Comparison
) -> Masks:
    """Keep the weights with the largest scores.

    Args:
        scores: score of each weight, shaped like the weights, by layer.
        layers: the layers.
        density: share of weights kept over all layers; the number kept is round(density * weights), exactly.
        comparison: weights whose scores are compared: all ("global"), those of a layer, of an output (a row of
            Linear's weight) or of an input (a column; for convolutions one kernel position of an input channel).

    Returns:
        Masks with exactly that number of kept weights; layers and their rows get equal shares, and remainders go to the
        largest fractions.
    """
    masks = Masks.like(layers)
    sizes = [layer.size for layer in layers]
    total = round(density * sum(sizes))
    if comparison == "global":
        return _largest_of_all(scores, layers, total)
    counts = shares(total, [density * size for size in sizes], sizes)
    for layer, score, count in zip(layers, scores, counts, strict=True):
        kept = torch.empty(layer.weight.shape, dtype=torch.bool)
        found = _largest_of_each_row(_compared(layer, score.detach().float().cpu(), comparison), count)
        _compared(layer, kept, comparison).copy_(found)
        masks.set_flat(layer.name, kept.reshape(-1).numpy())
    return masks


def _compared(layer: Layer, tensor: torch.Tensor, comparison: Comparison) -> torch.Tensor:
    """A view of a tensor shaped like a layer's weight, with the weights that are compared in one row."""
    if comparison == "layer":
        return tensor.reshape(1, -1)
    matrix = layer.kind.matrix(tensor)
    return matrix.T if comparison == "input" else matrix


def score_weights(
    model: nn.Module, layers: Sequence[Layer], kind: Score, batch: Batch, loss: Loss, seed: int
) -> Sequence[torch.Tensor]:
    """Importance scores of all weights; larger means more important.

    Args:
        model: the dense model.
        layers: the layers to score.
        kind: "magnitude" |w|; "wanda" |w| times the norm of the weight's input over the batch (Sun et al. 2023,
            arXiv 2306.11695); "gradient" |g w| with the mean gradient g; "random".
        batch: samples for "wanda" and "gradient".
        loss: per-sample loss, for "gradient".
        seed: for "random".

    Returns:
        Scores shaped like the weights, by layer, computed when they are read.
    """
    weights = [layer.weight.detach() for layer in layers]
    if kind == "magnitude":
        return _Formed(len(layers), lambda n: weights[n].abs())
    if kind == "random":
        generator = torch.Generator().manual_seed(seed)
        return [torch.rand(w.shape, generator=generator) for w in weights]
    if kind == "gradient":
        scores = measure_gradients(model, layers, batch, loss).scores(layers, [layer.weight for layer in layers])
        return _Formed(len(layers), lambda n: scores[layers[n].number])
    norms = _input_norms(model, layers, batch)
    return _Formed(len(layers), lambda n: weights[n].abs() * layers[n].kind.by_input(weights[n], norms[n]))


@dataclass(frozen=True)
class _Formed(Sequence[torch.Tensor]):
    """Tensors that are computed when they are read, and not kept."""

    size: int
    form: Callable[[int], torch.Tensor]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < self.size:
            raise IndexError(number)
        return self.form(number)


def _largest_of_all(scores: Sequence[torch.Tensor], layers: Sequence[Layer], total: int) -> Masks:
    """Keep the `total` largest scores of all layers, the first among equals, with one layer's scores in memory.

    Floats compare like their bits read as integers, once the bits of negative numbers are inverted. So two histograms,
    of the upper and of the lower 16 bits, find the smallest score that is kept.
    """
    masks = Masks.like(layers)
    upper = np.zeros(1 << 16, np.int64)
    for score in scores:
        upper += np.bincount((_bits(score) >> 16) + (1 << 15), minlength=1 << 16)
    high, left = _cut(upper, total)
    high -= 1 << 15
    lower = np.zeros(1 << 16, np.int64)
    for score in scores:
        bits = _bits(score)
        lower += np.bincount(bits[bits >> 16 == high] & 0xFFFF, minlength=1 << 16)
    low, left = _cut(lower, left)
    least = high << 16 | low
    for layer, score in zip(layers, scores, strict=True):
        bits = _bits(score)
        kept = bits > least
        if left:
            equal = np.flatnonzero(bits == least)[:left]
            kept[equal] = True
            left -= len(equal)
        masks.set_flat(layer.name, kept)
    return masks


def _cut(counts: npt.NDArray[np.int64], total: int) -> tuple[int, int]:
    """The bin of the `total`-th largest number, and how many numbers of that bin are among the largest."""
    above = np.cumsum(counts[::-1])
    place = int(np.searchsorted(above, total)) if total else 0
    bin_ = len(counts) - 1 - place
    return bin_, total - (int(above[place - 1]) if place else 0)


def _bits(score: torch.Tensor) -> npt.NDArray[np.int32]:
    values = (score.detach().float() + 0.0).cpu().reshape(-1).numpy()  # makes negative zeros positive
    bits = values.view(np.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def least_cut(masks: Masks, layers: Sequence[Layer], restore: Sequence[torch.Tensor], kept: int) -> Masks:
    """Masks that keep the `kept` weights of largest magnitude among those kept now, over all layers.

    Args:
        masks: current masks.
        layers: the layers.
        restore: value of each weight if it is kept.
        kept: number of weights to keep.
    """
    sizes = [np.abs(w.detach().float().cpu().numpy().reshape(-1)) for w in restore]
    found = np.concatenate([np.where(masks.flat(layer.name), s, -1.0) for layer, s in zip(layers, sizes, strict=True)])
    keep = np.zeros(len(found), np.bool_)
    keep[np.argsort(-found, kind="stable")[:kept]] = True
    fewer = masks.copy()
    for layer, own in zip(layers, np.split(keep, np.cumsum([layer.size for layer in layers])[:-1]), strict=True):
        fewer.set_flat(layer.name, own)
    return fewer


@torch.no_grad()
def _input_norms(model: nn.Module, layers: Sequence[Layer], batch: Batch) -> list[torch.Tensor]:
    """Euclidean norm of each input feature (channel) of each layer, over a batch."""
    squares: dict[int, torch.Tensor] = {}
    handles = []
    for layer in layers:
        feature = layer.kind.input_axis

        def note(
            module: nn.Module, args: tuple[torch.Tensor, ...], n: int = layer.number, feature: int = feature
        ) -> None:
            square = args[0].double().square().transpose(feature, -1).flatten(0, -2).sum(0)
            squares[n] = squares.get(n, torch.zeros_like(square)) + square

        handles += [module.register_forward_pre_hook(note) for module in layer.modules]
    try:
        with evaluation_mode(model):
            for part in batch.split(samples_per_pass(model, batch, batch.size)):
                run_model(model, part.inputs)
    finally:
        for handle in handles:
            handle.remove()
    return [squares[layer.number].sqrt().float() for layer in layers]


def _largest_of_each_row(matrix: torch.Tensor, count: int) -> torch.Tensor:
    """Keep `count` entries of a matrix: equal numbers of each row, its largest."""
    rows, width = matrix.shape
    if rows == 1:
        kept = torch.zeros(width, dtype=torch.bool)
        kept[matrix[0].topk(count, sorted=False).indices] = True
        return kept[None]
    counts = torch.tensor(shares(count, [1.0] * rows, [width] * rows))
    ranks = torch.from_numpy(np.argsort(np.argsort(-matrix.numpy(), axis=1, kind="stable"), axis=1))
    return ranks < counts[:, None]
