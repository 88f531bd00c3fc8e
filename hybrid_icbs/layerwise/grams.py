"""Gram matrices of layers' inputs on calibration data, and the mean squared gradients of their outputs.

Both are sums over batches. A Gram matrix is the mean of x x^T over the tokens that reach a layer, without padding.
Layers with the same input tensor (queries, keys and values) share one matrix.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

from hybrid_icbs.data.forward import evaluation_mode
from hybrid_icbs.errors import PruningError, UnsupportedLayerError
from hybrid_icbs.gradients.hooks import recomputable
from hybrid_icbs.layerwise.cached_prefix import CachedPrefix, Inputs, Reached, keywords_of, padding_of, removed, run
from hybrid_icbs.models.layers import Layer

SummedLoss: TypeAlias = Callable[[Any, Any], torch.Tensor]
"""Takes a model's outputs and the batch, returns the sum of the losses of its tokens (or samples)."""

WIDE = 1024
"""Inputs above which a Gram matrix is stored in float32, not float64: refits are iterative there."""


@dataclass(frozen=True, eq=False)
class Group:
    """Layers that are pruned together: those of one decoder block, or one layer outside all blocks.

    Attributes:
        name: the module's name.
        module: the decoder block, or the layer's own module.
        layers: the layers in it.
    """

    name: str
    module: nn.Module
    layers: tuple[Layer, ...]


@dataclass(eq=False)
class Gram:
    """A running sum of x x^T."""

    sum: torch.Tensor
    tokens: int = 0
    source: Callable[[], Any] = field(default=lambda: None)  # a weak reference to the tensor that was added last

    def mean(self) -> torch.Tensor:
        """The Gram matrix [d, d], symmetric to the bit."""
        mean = self.sum / max(1, self.tokens)
        return (mean + mean.T) / 2


def matrix_of(layer: Layer, weight: torch.Tensor | None = None) -> torch.Tensor:
    """A view [R, d] of a layer's weight, one output per row; or of a tensor shaped like it.

    Raises:
        UnsupportedLayerError: the layer-wise objective is not implemented for this kind of layer.
    """
    if not layer.kind.by_layer:
        raise UnsupportedLayerError(
            f"layer {layer.name!r} is a {layer.kind.title}, for which the layer-wise objective is not implemented. "
            f"Leave it out with exclude=[{layer.name.removesuffix('.weight')!r}] or take objective='loss'"
        )
    return layer.kind.matrix(layer.weight.detach() if weight is None else weight)


@torch.no_grad()
def layer_groups(model: nn.Module, layers: Sequence[Layer], batch: Inputs) -> list[Group]:
    """Group layers by decoder block, in the order in which the model runs them.

    A decoder block is an element of the outermost `ModuleList` that contains a layer; a layer in no ModuleList is a
    group of its own.

    Raises:
        PruningError: the model does not run a layer.
    """
    groups: dict[str, Group] = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    for layer in layers:
        matrix_of(layer)
        name = _container(modules, layer.name.removesuffix("weight").removesuffix("."))
        before = groups[name].layers if name in groups else ()
        groups[name] = Group(name, modules[name], (*before, layer))
    called: list[str] = []
    handles = [
        group.module.register_forward_pre_hook(lambda module, args, name=name: called.append(name))
        for name, group in groups.items()
    ]
    with removed(handles):
        run(model, batch)
    unused = [name for name in groups if name not in called]
    if unused:
        raise PruningError(f"the model does not run {', '.join(unused)} on the calibration data; leave it out: exclude")
    return [groups[name] for name in dict.fromkeys(called)]


@torch.no_grad()
def gather_grams(
    model: nn.Module, group: Group, batches: Sequence[Inputs], cached: CachedPrefix | None = None
) -> dict[int, Gram]:
    """The Gram matrices of a group's layers with the model's current weights, by layer number.

    The model runs on each batch up to the end of the group.

    Args:
        model: the model.
        group: the layers.
        batches: calibration data.
        cached: outputs of the blocks before; None to run the model from its start.
    """
    cached = cached or CachedPrefix(model, batches)
    grams: dict[int, Gram] = {}
    kept: list[torch.Tensor | None] = [None]  # the tokens of the current batch that are not padding

    def note(module: nn.Module, args: tuple[torch.Tensor, ...], layer: Layer) -> None:
        x = layer.kind.rows(module, args[0])
        if layer.number not in grams:
            twin = next((gram for gram in grams.values() if gram.source() is x), None)
            if twin is not None:
                grams[layer.number] = twin
                return
            width = x.shape[-1]
            dtype = torch.float32 if width > WIDE else torch.float64
            grams[layer.number] = Gram(torch.zeros(width, width, dtype=dtype, device=x.device))
        gram = grams[layer.number]
        if gram.source() is x:
            return
        gram.source = weakref.ref(x)
        tokens = x.detach().flatten(0, -2).float()
        if kept[0] is not None and kept[0].shape == x.shape[:-1]:
            tokens = tokens[kept[0].flatten().to(x.device)]
        gram.sum += tokens.T @ tokens
        gram.tokens += len(tokens)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        raise Reached

    handles = [
        module.register_forward_pre_hook(lambda m, args, layer=layer: note(m, args, layer))
        for layer in group.layers
        for module in layer.modules
    ]
    handles.append(group.module.register_forward_hook(leave))
    with removed(handles), evaluation_mode(model):
        for number, batch in enumerate(batches):
            kept[0] = padding_of(batch)
            cached.run(number)
    for layer in group.layers:
        if layer.number not in grams:
            raise PruningError(f"no calibration token reaches layer {layer.name!r}; give more data or leave it out")
        if not torch.isfinite(grams[layer.number].sum).all():
            raise PruningError(f"the inputs of layer {layer.name!r} on the calibration data are not finite")
    return grams


def output_importances(
    model: nn.Module, layers: Sequence[Layer], batches: Sequence[Inputs], loss: SummedLoss | None = None
) -> dict[int, torch.Tensor]:
    """Mean squared gradient of the loss by each output of each layer, over tokens, by layer number: float64 [R].

    Multiplied with the Gram matrix of the layer's inputs this is the row-wise Kronecker-factored Fisher matrix (K-FAC,
    Martens and Grosse 2015, arXiv 1503.05671), by which errors of rows and layers are comparable. Gradients of weights
    are not computed.

    Args:
        model: the model.
        layers: the layers.
        batches: calibration data.
        loss: sum of the losses of a batch; None for next-token cross entropy.
    """
    squares: dict[int, torch.Tensor] = {}
    tokens: dict[int, int] = {}
    summed = loss or next_token_loss

    def note(module: nn.Module, args: Any, output: torch.Tensor, number: int) -> torch.Tensor | None:
        if not torch.is_grad_enabled():  # the first of the two passes of reentrant gradient checkpointing
            return None
        first = not output.requires_grad  # no gradient is needed before this layer
        watched = (
            output.detach().requires_grad_().clone() if first else output
        )  # not a leaf, which must not be changed in place

        def add(gradient: torch.Tensor) -> None:
            square = gradient.detach().double().square().flatten(0, -2).sum(0)
            squares[number] = squares[number] + square if number in squares else square
            tokens[number] = tokens.get(number, 0) + gradient[..., 0].numel()

        watched.register_hook(add)
        return watched if first else None

    handles = [
        module.register_forward_hook(lambda m, a, o, number=layer.number: note(m, a, o, number))
        for layer in layers
        for module in layer.modules
    ]
    with (
        removed(handles), evaluation_mode(model), _without_weight_gradients(model), recomputable(model),
        torch.enable_grad(),
    ):  # fmt: skip
        for batch in batches:
            summed(run(model, batch), batch).backward()
    return {number: square / max(1, tokens[number]) for number, square in squares.items()}


def next_token_loss(outputs: Any, batch: Inputs) -> torch.Tensor:
    """Sum of the next-token cross entropies over all tokens that are not padding."""
    inputs = keywords_of(batch)
    logits, tokens = outputs.logits[:, :-1], inputs["input_ids"][:, 1:]
    mask = inputs.get("attention_mask")
    targets = tokens if mask is None else tokens.masked_fill(mask[:, 1:] == 0, -100)
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten().to(logits.device), reduction="sum")


def _container(modules: Mapping[str, nn.Module], name: str) -> str:
    parts = name.split(".")
    for depth in range(1, len(parts)):
        if isinstance(modules[".".join(parts[:depth])], nn.ModuleList):
            return ".".join(parts[: depth + 1])
    return name


@contextmanager
def _without_weight_gradients(model: nn.Module) -> Iterator[None]:
    asked = [p for p in model.parameters() if p.requires_grad]
    for p in asked:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in asked:
            p.requires_grad_(True)
