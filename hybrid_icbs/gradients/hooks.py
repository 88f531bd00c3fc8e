"""Hooks that record the inputs and output gradients of layers, from which per-sample gradients are formed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hybrid_icbs.errors import PruningError
from hybrid_icbs.gradients.entries import add_products
from hybrid_icbs.models.kinds import IndexArray
from hybrid_icbs.models.layers import Layer

FloatArray = npt.NDArray[np.float32]


@dataclass(eq=False)
class Call:
    """One call of a layer: its inputs and, after the backward pass, the gradient of the loss by its outputs."""

    module: nn.Module
    first: int
    inputs: torch.Tensor
    output_grad: torch.Tensor | None = None

    def add(self, layer: Layer, index: IndexArray, gradients: FloatArray) -> None:
        """Add the contribution of this call to per-sample gradients of chosen weights [n, N], in place."""
        if self.output_grad is not None:  # else the loss does not depend on this output
            own = gradients[:, self.first : self.first + len(self.inputs)]
            add_products(layer.kind.products(self.module, self.inputs, self.output_grad, index), own)


@contextmanager
def watching(
    layers: Sequence[Layer],
    calls: dict[int, list[Call]] | None,
    first: int,
    size: int,
    form: Callable[[Layer, Call], None] | None,
) -> Iterator[None]:
    """Record the calls of some layers during the passes of a micro-batch.

    Args:
        layers: the layers.
        calls: lists to which calls are appended, by layer number.
        first: index of the micro-batch's first sample in the batch.
        size: number of its samples.
        form: without `calls`, called with each call when its output gradient is known; the call is then freed.
    """
    handles = []
    for layer in layers:
        kept = None if calls is None else calls[layer.number]
        hook = _watcher(layer, kept, first, size, form)
        handles += [module.register_forward_hook(hook) for module in layer.modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _watcher(
    layer: Layer, calls: list[Call] | None, first: int, size: int, form: Callable[[Layer, Call], None] | None
) -> Any:
    def note(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
        if args[0].shape[0] != size:
            raise PruningError(
                f"layer {layer.name!r} got an input of shape {list(args[0].shape)} for a batch of {size} samples; its "
                "first axis must count the samples for per-sample gradients. Leave the layer out with exclude="
            )
        if not torch.is_grad_enabled() or (calls is None and form is None):
            return None  # with gradient checkpointing the hook runs again when the layer is recomputed
        begins = not output.requires_grad  # no gradient is needed before this layer
        if begins:
            output = output.detach().requires_grad_().clone()  # not a leaf, which must not be changed in place
        call = Call(module, first, args[0].detach())

        def keep(grad: torch.Tensor) -> None:
            call.output_grad = grad.detach()
            if calls is not None:
                calls.append(call)  # only now: of a recomputed layer the first call gets no gradient
            elif form is not None:
                form(layer, call)
                call.inputs, call.output_grad = grad.new_empty(0), None  # the graph would keep them in memory

        output.register_hook(keep)
        return output if begins else None

    return note


@contextmanager
def only_weights_require_grad(model: nn.Module, layers: Sequence[Layer]) -> Iterator[None]:
    """Compute gradients of the watched weights only, not of biases and norms."""
    before = [(p, p.requires_grad) for p in model.parameters()]
    watched = {id(layer.weight) for layer in layers}
    try:
        for p, _ in before:
            p.requires_grad_(id(p) in watched)
        with torch.enable_grad(), recomputable(model):
            yield
    finally:
        for p, flag in before:
            p.requires_grad_(flag)


@contextmanager
def recomputable(model: nn.Module) -> Iterator[None]:
    """With gradient checkpointing, compute gradients from the embeddings on: reentrant checkpointing needs that."""
    recomputed = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    if not recomputed or not callable(getattr(model, "get_input_embeddings", None)):
        yield
        return
    embeddings = model.get_input_embeddings()  # type: ignore[operator]
    handle = embeddings.register_forward_hook(lambda module, args, output: output.requires_grad_())
    try:
        yield
    finally:
        handle.remove()


def bytes_of(calls: dict[int, list[Call]]) -> int:
    """Bytes of all recorded tensors; inputs shared by several layers count once."""
    tensors = [tensor for listed in calls.values() for call in listed for tensor in (call.inputs, call.output_grad)]
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors if tensor is not None}.values())
