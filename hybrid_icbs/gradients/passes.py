"""Per-sample gradients of chosen weights: one forward and backward pass for all layers.

A layer's gradient for one sample is a sum over positions (pixels, tokens) of outer products of inputs and output
gradients. The pass records these two for each call of a layer; autograd gives the mean gradient of every weight.
Then the gradients of the *chosen* weights are formed layer by layer, one dot product per weight and sample. The full
per-sample gradient of a layer, N times its weights, is never in memory.

Large batches are split into micro-batches. If the recorded tensors take too much memory, as with more than about 16
million weights in scope or with long sequences, there are two passes: the first computes the mean gradients, in a
temporary file, and the second forms the gradients of the chosen weights during the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hybrid_icbs.data.calibration import Batch
from hybrid_icbs.data.forward import evaluation_mode, samples_per_pass
from hybrid_icbs.data.losses import Loss, sample_losses
from hybrid_icbs.errors import PruningError
from hybrid_icbs.gradients.hooks import Call, bytes_of, only_weights_require_grad, watching
from hybrid_icbs.models.kinds import IndexArray
from hybrid_icbs.models.layers import Layer
from hybrid_icbs.models.restore import IN_MEMORY, mapped_tensors

KEPT = 2**30
"""Bytes of recorded tensors up to which a batch of several micro-batches takes one pass."""

HALF_PRECISION_SCALE = 1024.0
"""Factor on the loss of a float16 model; without it gradients of single tokens are rounded to zero."""

FloatArray = npt.NDArray[np.float32]


class GradientPass:
    """The gradients of a batch of N samples.

    Attributes:
        losses: loss of each sample, on the model's device [N].
        mean: mean gradient of each layer's weight, shaped like it, by layer number; if they are in a file, float32 on
            the CPU.
        passes: 1, or 2 if the gradients of chosen weights need a second pass.
    """

    def __init__(
        self,
        losses: torch.Tensor,
        mean: Mapping[int, torch.Tensor],
        calls: dict[int, list[Call]],
        again: Callable[[Mapping[int, IndexArray]], dict[int, FloatArray]] | None,
        scale: float,
    ) -> None:
        self.losses, self.mean = losses, mean
        self.passes = 1 if again is None else 2
        self._calls, self._again, self._scale = calls, again, scale
        self._prepared: dict[int, tuple[IndexArray, FloatArray]] = {}

    def prepare(self, wanted: Mapping[int, IndexArray]) -> None:
        """Form the gradients of these weights, by layer number, in one second pass if a second pass is needed."""
        if self._again is not None:
            found = self._again(wanted)
            self._prepared = {number: (index, found[number]) for number, index in wanted.items()}

    def per_sample(self, layer: Layer, index: IndexArray) -> FloatArray:
        """Gradients of chosen weights of a layer for each sample.

        Args:
            layer: the layer.
            index: flat indices into its weight [n].

        Returns:
            float32 [n, N], C-contiguous: row e is the gradient of weight index[e] by each sample's own loss.

        Raises:
            PruningError: their mean is not the weight's gradient, as the weight is used outside its module.
        """
        if self._again is None:
            gradients = np.zeros((len(index), len(self.losses)), np.float32)
            for call in self._calls[layer.number]:
                call.add(layer, index, gradients)
        else:
            prepared = self._prepared.get(layer.number)
            if prepared is None or not np.array_equal(prepared[0], index):
                self.prepare({layer.number: index})
            gradients = self._prepared[layer.number][1]
        if self._scale != 1.0:
            gradients /= self._scale
        self._check(layer, index, gradients)
        return gradients

    def scores(self, layers: Sequence[Layer], restore: Sequence[torch.Tensor]) -> Mapping[int, torch.Tensor]:
        """First-order effect of each weight on the loss, |g w0|, by layer number; computed when read.

        Args:
            layers: the layers.
            restore: the value of each weight if it is kept, by layer number.
        """
        return _Scores(self.mean, restore, [layer.number for layer in layers])

    def release(self, layer: Layer) -> None:
        """Free what was recorded of a layer."""
        self._calls[layer.number] = []
        self._prepared.pop(layer.number, None)

    def _check(self, layer: Layer, index: IndexArray, gradients: FloatArray) -> None:
        """Compare the mean over samples with autograd's gradient, which covers every use of the weight."""
        mean = self.mean[layer.number].reshape(-1)
        expected = mean[torch.from_numpy(index).to(mean.device)].float().cpu().numpy()
        error = float(np.abs(gradients.mean(axis=1) - expected).max(initial=0.0))
        exact = layer.weight.dtype == torch.float32 and not torch.is_autocast_enabled(layer.weight.device.type)
        if error > (1e-3 if exact else 1e-2) * float(np.abs(gradients).max(initial=0.0)) + 1e-30:
            raise PruningError(
                f"the gradients of {layer.name!r} by sample do not add up to its gradient: the weight is also used "
                "outside the forward pass of its module, where no hook records it. Leave the layer out with exclude="
            )


def measure_gradients(
    model: nn.Module, layers: Sequence[Layer], batch: Batch, loss: Loss, *, micro_batch: int | None = None
) -> GradientPass:
    """Run forward and backward passes in evaluation mode and record what per-sample gradients need.

    The losses are summed, not averaged, so that the output gradients of a sample depend on its own loss only.

    Args:
        model: the model; its mode, its `requires_grad` flags and its `.grad` are left as they were. Its weights must
            not change before the gradients of chosen weights are taken.
        layers: the layers.
        batch: N samples; the first axis of every layer's input must count them.
        loss: per-sample loss.
        micro_batch: samples per pass; None for all, of a transformers model those of 2048 tokens (128 if it is
            large). Except for rounding it does not change the result.

    Raises:
        PruningError: a loss or gradient is not finite, or the first axis of a layer's input does not count samples.
    """
    size = min(micro_batch or samples_per_pass(model, batch, batch.size), batch.size)
    scale = scale_of(layers)
    mean = _Sums(layers)
    calls: dict[int, list[Call]] = {layer.number: [] for layer in layers}
    keeping, first = not mean.on_disk, 0
    losses = []
    with evaluation_mode(model), only_weights_require_grad(model, layers):
        for part in batch.split(size):
            with watching(layers, calls if keeping else None, first, part.size, None), mean.gathering(layers):
                own = sample_losses(model, part, loss)[1]
                losses.append(own.detach())
                _check_losses(losses[-1], first)
                if own.requires_grad:
                    (own.sum() * scale if scale != 1.0 else own.sum()).backward()
            del own  # and its graph, before the next one is built
            first += part.size
            if keeping and first == part.size < batch.size and bytes_of(calls) * (batch.size / first) > KEPT:
                keeping = False
                for listed in calls.values():
                    listed.clear()
    mean.divide(batch.size * scale)

    def again(wanted: Mapping[int, IndexArray]) -> dict[int, FloatArray]:
        return _entries(model, layers, batch.split(size), loss, scale, wanted, batch.size)

    return GradientPass(torch.cat(losses), mean, calls, None if keeping else again, scale)


def weighted_gradients(
    model: nn.Module, layers: Sequence[Layer], batch: Batch, loss: Loss, weights: torch.Tensor
) -> Mapping[int, torch.Tensor]:
    """Gradients of the layers' weights, summed over samples with a factor for each, in one forward and backward pass.

    Args:
        model: the model, in whatever mode.
        layers: the layers.
        batch: N samples.
        loss: per-sample loss.
        weights: factors of the samples, of any sign [N].

    Returns:
        By layer number, shaped like the weights; in a file if they take much memory.
    """
    scale = scale_of(layers)
    sums, first = _Sums(layers), 0
    with evaluation_mode(model), only_weights_require_grad(model, layers):
        for part in batch.split(samples_per_pass(model, batch, batch.size)):
            with sums.gathering(layers):
                own = sample_losses(model, part, loss)[1]
                if own.requires_grad:
                    (own @ weights[first : first + part.size].to(own.device, own.dtype) * scale).backward()
            del own
            first += part.size
    sums.divide(scale)
    return sums


def _entries(
    model: nn.Module,
    layers: Sequence[Layer],
    parts: Iterator[Batch],
    loss: Loss,
    scale: float,
    wanted: Mapping[int, IndexArray],
    count: int,
) -> dict[int, FloatArray]:
    """The second pass: gradients of chosen weights, formed during the backward pass."""
    watched = [layer for layer in layers if len(wanted.get(layer.number, ()))]
    found = {number: np.zeros((len(index), count), np.float32) for number, index in wanted.items()}

    def form(layer: Layer, call: Call) -> None:
        call.add(layer, wanted[layer.number], found[layer.number])

    first = 0
    with evaluation_mode(model), only_weights_require_grad(model, ()):
        for part in parts:
            with watching(watched, None, first, part.size, form):
                own = sample_losses(model, part, loss)[1]
                if own.requires_grad:
                    (own.sum() * scale).backward()
            del own
            first += part.size
    return found


def scale_of(layers: Sequence[Layer]) -> float:
    """Factor on the loss for the backward pass, by which gradients are divided afterwards."""
    return HALF_PRECISION_SCALE if any(layer.weight.dtype == torch.float16 for layer in layers) else 1.0


class _Sums(Mapping[int, torch.Tensor]):
    """Sums of the gradients of layers' weights, by number, in memory or in a file."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = {layer.number: layer for layer in layers}
        self._sums: dict[int, torch.Tensor] = {}
        self.on_disk = 4 * sum(layer.size for layer in layers) > IN_MEMORY
        if self.on_disk:
            shapes = [layer.weight.shape for layer in layers]
            sums = mapped_tensors(shapes, [torch.float32] * len(layers))
            self._sums = {layer.number: own for layer, own in zip(layers, sums, strict=True)}

    def __getitem__(self, number: int) -> torch.Tensor:
        if number not in self._sums:  # the loss does not depend on it
            self._sums[number] = torch.zeros_like(self._layers[number].weight, requires_grad=False)
        return self._sums[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    @contextmanager
    def gathering(self, layers: Sequence[Layer]) -> Iterator[None]:
        """Add up the gradients of a backward pass as they are completed; `.grad` is restored afterwards."""
        before = [layer.weight.grad for layer in layers]
        handles = []
        for layer in layers:
            layer.weight.grad = None
            take = self._taker(layer)
            handles.append(layer.weight.register_post_accumulate_grad_hook(take))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for layer, grad in zip(layers, before, strict=True):
                layer.weight.grad = grad

    def _taker(self, layer: Layer) -> Callable[[torch.Tensor], None]:
        def take(weight: torch.Tensor) -> None:
            grad, weight.grad = weight.grad, None
            assert grad is not None
            if not bool(grad.sum().isfinite()):  # several times faster than testing each
                raise PruningError(f"the gradient of layer {layer.name!r} is not finite on a calibration batch")
            if layer.number in self._sums:
                self._sums[layer.number] += grad.to(self._sums[layer.number].device, torch.float32)
            else:
                self._sums[layer.number] = grad if grad.dtype == torch.float32 else grad.float()

        return take

    def divide(self, count: float) -> None:
        """Divide the sums, in place."""
        for number in self:
            self[number].div_(count)


@dataclass(frozen=True)
class _Scores(Mapping[int, torch.Tensor]):
    mean: Mapping[int, torch.Tensor]
    if_kept: Sequence[torch.Tensor]
    numbers: Sequence[int]

    def __getitem__(self, number: int) -> torch.Tensor:
        mean = self.mean[number]
        return (mean * self.if_kept[number].to(mean.device)).abs_()

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


def _check_losses(losses: torch.Tensor, first: int) -> None:
    if not bool(torch.isfinite(losses).all()):
        bad = int((~torch.isfinite(losses)).nonzero()[0])
        raise PruningError(
            f"the loss of sample {first + bad} of a calibration batch is {float(losses[bad])}; it must be finite"
        )
