"""Hooks that note what comes into layers and what flows back: all that per-sample gradients need."""

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
    """One use of a layer in the forward pass: what came in, and (after the backward pass) d loss / d output."""

    module: nn.Module
    first: int
    inputs: torch.Tensor
    output_grad: torch.Tensor | None = None

    def add(self, layer: Layer, index: IndexArray, gradients: FloatArray) -> None:
        """Add this call's part to per-sample gradients of chosen weights [n, N], changed in place."""
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
    """Note each call of some layers, while a micro-batch goes through the model.

    Args:
        layers: the layers.
        calls: where calls are kept, by layer's number.
        first: place of the micro-batch's first sample in the batch.
        size: its samples.
        form: without `calls`, what takes each call when its output's gradient has come; the call is then forgotten.
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
                "first axis must count the samples for gradients to be told apart. Leave the layer out with exclude="
            )
        if not torch.is_grad_enabled() or (calls is None and form is None):
            return None  # under gradient checkpointing the hook runs again when the layer is recomputed
        begins = not output.requires_grad  # without gradients of weights, gradients flow back to here at most
        if begins:
            output = output.detach().requires_grad_().clone()  # not a leaf, which nobody might change in place
        call = Call(module, first, args[0].detach())

        def keep(grad: torch.Tensor) -> None:
            call.output_grad = grad.detach()
            if calls is not None:
                calls.append(call)  # only now: a call that is forgotten and recomputed gets no gradient
            elif form is not None:
                form(layer, call)
                call.inputs, call.output_grad = grad.new_empty(0), None  # the graph would keep them to the end

        output.register_hook(keep)
        return output if begins else None

    return note


@contextmanager
def only_weights_require_grad(model: nn.Module, layers: Sequence[Layer]) -> Iterator[None]:
    """Let gradients flow to the watched weights and nowhere else: no work for biases and norms."""
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
    """Where gradient checkpointing is on, let gradients begin at the embeddings: some kinds of it need that."""
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
    """Bytes of all that was kept, what came into several layers once."""
    tensors = [tensor for listed in calls.values() for call in listed for tensor in (call.inputs, call.output_grad)]
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors if tensor is not None}.values())
