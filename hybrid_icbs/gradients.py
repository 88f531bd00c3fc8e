"""Per-sample gradients of chosen weights, by hooks: one forward and backward pass serves every layer.

A layer's gradient for one sample is a sum, over positions (pixels, tokens), of outer products of what came in and
the gradient of what went out. The pass keeps these two for each call of a layer, and autograd gives the mean gradient
of every weight on the way. Then, layer by layer, the gradients of the *chosen* entries are formed for each sample: one
dot product each. The full per-sample gradient of a layer, N times its weights, never exists.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from hybrid_icbs.calibration import Batch, Loss, evaluation_mode, sample_losses
from hybrid_icbs.errors import PruningError
from hybrid_icbs.layers import Layer

IndexArray = npt.NDArray[np.int64]

# Entries below which one thread is quicker than sharing the samples out, measured on layers of 40 to 512 outputs.
_PARALLEL_PRODUCTS = 1 << 22


@dataclass(eq=False)
class _Call:
    """One use of a layer in the forward pass: what came in, and (after the backward pass) d loss / d output."""

    module: nn.Module
    inputs: torch.Tensor
    output_grad: torch.Tensor | None = None


@dataclass(eq=False)
class GradientPass:
    """What one forward and backward pass over a batch of N samples left behind.

    Attributes:
        losses: loss of each sample, on the model's device [N].
        mean: mean gradient of each watched layer's weight, shaped like it, by the layer's number.
    """

    losses: torch.Tensor
    mean: dict[int, torch.Tensor]
    _calls: dict[int, list[_Call]] = field(repr=False)

    def per_sample(self, layer: Layer, index: IndexArray) -> npt.NDArray[np.float32]:
        """Gradients of chosen weights of a layer for each sample.

        Args:
            layer: the layer.
            index: flat indices into its weight [n].

        Returns:
            float32 [n, N], C-contiguous: row e is the gradient of weight index[e] by each sample's own loss.
        """
        row, column = np.divmod(index, layer.weight.shape[1]) if layer.kind != "conv2d" else (index, index)
        if layer.kind == "conv1d":
            row, column = column, row
        gradients = np.zeros((len(index), len(self.losses)), np.float32)
        for call in self._calls[layer.number]:
            if call.output_grad is None:
                continue  # an output that the loss does not depend on
            if layer.kind == "conv2d":
                assert isinstance(call.module, nn.Conv2d)
                _add_conv(call.module, call.inputs, call.output_grad, index, gradients)
            else:
                _add_linear(call.inputs, call.output_grad, row, column, gradients)
        self._check(layer, index, gradients)
        return gradients

    def _check(self, layer: Layer, index: IndexArray, gradients: npt.NDArray[np.float32]) -> None:
        """Hold the mean over samples to the gradient that autograd found, which sees every use of a weight."""
        mean = self.mean[layer.number].reshape(-1)
        expected = mean[torch.from_numpy(index).to(mean.device)].float().cpu().numpy()
        error = float(np.abs(gradients.mean(axis=1) - expected).max(initial=0.0))
        if error > (1e-3 if mean.dtype == torch.float32 else 1e-2) * float(np.abs(gradients).max(initial=0.0)) + 1e-30:
            raise PruningError(
                f"the gradients of {layer.name!r} by sample do not add up to its gradient: the weight is used outside "
                "the forward pass of its module too, where no hook sees it. Leave the layer out with exclude="
            )

    def release(self, layer: Layer) -> None:
        """Forget a layer's activations, when its per-sample gradients have been taken."""
        self._calls[layer.number] = []


def measure_gradients(model: nn.Module, layers: Sequence[Layer], batch: Batch, loss: Loss) -> GradientPass:
    """Run one forward and backward pass in evaluation mode and keep what per-sample gradients need.

    The losses are summed, not averaged, so that what flows back belongs to each sample alone.

    Args:
        model: the model; its mode, its `requires_grad` flags and its `.grad` are left as they were.
        layers: the layers to watch.
        batch: N samples; the first axis of every layer's input must count them.
        loss: per-sample loss.

    Raises:
        PruningError: a loss or gradient that is not finite, or a layer whose input does not hold one row a sample.
    """
    calls: dict[int, list[_Call]] = {layer.number: [] for layer in layers}
    with evaluation_mode(model), _only_weights_require_grad(model, layers), _watching(layers, calls, batch.size):
        _, losses = sample_losses(model, batch, loss)
        grads = torch.autograd.grad(losses.sum(), [layer.weight for layer in layers], allow_unused=True)
    losses = losses.detach()
    if not bool(torch.isfinite(losses).all()):
        bad = int((~torch.isfinite(losses)).nonzero()[0])
        raise PruningError(
            f"the loss of sample {bad} of a calibration batch is {float(losses[bad])}; it must be finite"
        )
    for layer, grad in zip(layers, grads, strict=True):
        if grad is not None and not bool(grad.sum().isfinite()):  # several times quicker than looking at each
            raise PruningError(f"the gradient of layer {layer.name!r} is not finite on a calibration batch")
    mean = {
        layer.number: torch.zeros_like(layer.weight) if grad is None else grad.div_(batch.size)
        for layer, grad in zip(layers, grads, strict=True)
    }
    return GradientPass(losses, mean, calls)


@contextmanager
def _watching(layers: Sequence[Layer], calls: dict[int, list[_Call]], size: int) -> Iterator[None]:
    handles = []
    for layer in layers:
        for module in layer.modules:
            hook = _watcher(layer, calls[layer.number], size)
            handles.append(module.register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _watcher(layer: Layer, calls: list[_Call], size: int) -> Any:
    def note(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if args[0].shape[0] != size:
            raise PruningError(
                f"layer {layer.name!r} got an input of shape {list(args[0].shape)} for a batch of {size} samples; its "
                "first axis must count the samples for gradients to be told apart. Leave the layer out with exclude="
            )
        call = _Call(module, args[0].detach())
        calls.append(call)

        def keep(grad: torch.Tensor) -> None:
            call.output_grad = grad.detach()

        output.register_hook(keep)

    return note


@contextmanager
def _only_weights_require_grad(model: nn.Module, layers: Sequence[Layer]) -> Iterator[None]:
    """Let gradients flow to the watched weights and nowhere else: no work for biases and norms."""
    before = [(p, p.requires_grad) for p in model.parameters()]
    watched = {id(layer.weight) for layer in layers}
    try:
        for p, _ in before:
            p.requires_grad_(id(p) in watched)
        with torch.enable_grad():
            yield
    finally:
        for p, flag in before:
            p.requires_grad_(flag)


def _add_linear(
    inputs: torch.Tensor,
    output_grad: torch.Tensor,
    row: IndexArray,
    column: IndexArray,
    gradients: npt.NDArray[np.float32],
) -> None:
    """Add sum_t D[s, t, row] X[s, t, column] for inputs X [N, ..., in] and output gradients D [N, ..., out]."""
    count = len(inputs)
    X, D = inputs.reshape(count, -1, inputs.shape[-1]), output_grad.reshape(count, -1, output_grad.shape[-1])
    if X.shape[1] == 1:
        _products(D[:, 0], X[:, 0], row, column, None, gradients)
    else:
        _products(D.mT, X.mT, row, column, np.zeros(len(row), np.int64), gradients)


def _add_conv(
    module: nn.Conv2d,
    inputs: torch.Tensor,
    output_grad: torch.Tensor,
    index: IndexArray,
    gradients: npt.NDArray[np.float32],
) -> None:
    """Add sum_t D[s, o, t] X[s, c, t * stride + offset(kernel position)] over output pixels t.

    Both are laid out as rows of the padded image's width, so that the sum over pixels is one dot product of
    contiguous numbers: D has zeros where the kernel hangs over a row's end, and with a stride X is split into its
    stride x stride phases.
    """
    stride_y, stride_x = module.stride
    dilation_y, dilation_x = module.dilation
    kernel_y, kernel_x = module.kernel_size
    padded = _padded(module, inputs)
    count, channels = padded.shape[:2]
    height, width = output_grad.shape[2:]
    # Sizes of a phase that hold every pixel an output row may touch.
    wide = width + (dilation_x * (kernel_x - 1)) // stride_x + 1
    high = height + (dilation_y * (kernel_y - 1)) // stride_y + 1
    room = (0, wide * stride_x - padded.shape[3], 0, high * stride_y - padded.shape[2])
    phases = F.pad(padded, room).reshape(count, channels, high, stride_y, wide, stride_x)
    X = phases.permute(0, 1, 3, 5, 2, 4).reshape(count, channels * stride_y * stride_x, high * wide)
    D = F.pad(output_grad, (0, wide - width)).reshape(count, module.out_channels, height * wide)

    out, within, y, x = np.unravel_index(index, module.weight.shape)
    y, x = y * dilation_y, x * dilation_x
    channel = within + (out // (module.out_channels // module.groups)) * module.weight.shape[1]
    column = (channel * stride_y + y % stride_y) * stride_x + x % stride_x
    shift = (y // stride_y) * wide + x // stride_x
    # The last rows of the dot products may run past the plane by less than a row, where D is zero: end D earlier.
    length = (height - 1) * wide + width
    _products(D[:, :, :length], X, out, column, shift, gradients)


def _padded(module: nn.Conv2d, inputs: torch.Tensor) -> torch.Tensor:
    if module.padding == "valid":
        return inputs
    if module.padding == "same":
        totals = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        sides = [side for total in reversed(totals) for side in (total // 2, total - total // 2)]
    else:
        sides = [side for p in reversed(cast(tuple[int, int], module.padding)) for side in (p, p)]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return F.pad(inputs, sides, mode=mode) if any(sides) else inputs


def _products(
    D: torch.Tensor,
    X: torch.Tensor,
    row: IndexArray,
    column: IndexArray,
    shift: IndexArray | None,
    gradients: npt.NDArray[np.float32],
) -> None:
    """gradients[e, s] += sum_t D[s, row[e], t] X[s, column[e], t + shift[e]]; without shift there is no axis t."""
    if D.device.type != "cpu":
        gradients += _products_torch(D.float(), X.float(), row, column, shift).cpu().numpy()
        return
    from hybrid_icbs import kernels

    operands = D.float().contiguous().numpy(), X.float().contiguous().numpy()
    order = np.lexsort((column, row)) if shift is not None else np.arange(len(row))
    out = np.zeros((len(row), len(D)), np.float32)

    def work(part: slice) -> None:
        d, x = operands[0][part], operands[1][part]
        if shift is None:
            kernels.add_outer_entries(d, x, row, column, out[:, part])
        else:
            kernels.add_dot_entries(d, x, row[order], column[order], shift[order], out[:, part])

    threads = torch.get_num_threads() if D.shape[-1] * len(row) * len(D) > _PARALLEL_PRODUCTS else 1
    parts = [slice(a, b) for a, b in _shares(len(D), threads)]
    if len(parts) == 1:
        work(parts[0])
    else:
        with ThreadPoolExecutor(len(parts)) as pool:
            list(pool.map(work, parts))
    gradients[order] += out


def _products_torch(
    D: torch.Tensor, X: torch.Tensor, row: IndexArray, column: IndexArray, shift: IndexArray | None
) -> torch.Tensor:
    """The same in plain torch operations, a sample at a time, for devices without compiled kernels [n, N]."""
    r, c = (torch.from_numpy(i).to(D.device) for i in (row, column))
    if shift is None:
        return (D[:, r] * X[:, c]).T
    steps = torch.arange(D.shape[2], device=D.device) + torch.from_numpy(shift).to(D.device)[:, None]
    return torch.stack([(d[r] * x[c].gather(1, steps)).sum(1) for d, x in zip(D, X, strict=True)], 1)


def _shares(count: int, parts: int) -> list[tuple[int, int]]:
    bounds = np.linspace(0, count, max(1, min(parts, count)) + 1).astype(int)
    return list(itertools.pairwise(bounds.tolist()))
