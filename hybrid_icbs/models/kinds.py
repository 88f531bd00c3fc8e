"""Kinds of layers that can be pruned: Linear, Conv2d, transformers' Conv1D, and kinds that third parties register.

A kind says how a layer's weight is a matrix [out, in], how its inputs become rows of that matrix product, and how the
gradients of single weights follow from inputs and output gradients.
"""

from __future__ import annotations

import importlib.metadata
import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from hybrid_icbs.errors import PruningError, UnsupportedLayerError

logger = logging.getLogger(__name__)

IndexArray = npt.NDArray[np.int64]

ENTRY_POINTS = "hybrid_icbs.layer_kinds"
"""Entry-point group of third-party kinds: `name = "package.module:KIND"`, a :class:`LayerKind`."""


@dataclass(frozen=True, eq=False)
class Products:
    """Gradients of n weights for N samples, as sums of products: sum_t D[s, row, t] X[s, column, t + shift].

    Attributes:
        D: output gradients [N, O, T], or [N, O] where there is one position t.
        X: inputs [N, I, P], or [N, I].
        row: of D, for each weight [n].
        column: of X, for each weight [n].
        shift: of the positions of X, for each weight [n]; None where there is one position.
    """

    D: torch.Tensor
    X: torch.Tensor
    row: IndexArray
    column: IndexArray
    shift: IndexArray | None = None


class LayerKind(ABC):
    """How layers of one kind are pruned. Kinds have no state: one object serves all layers.

    Attributes:
        name: of the kind, unique.
        title: of its layers, in messages.
        axes: order of the weight's axes with outputs first and inputs last.
        input_axis: axis of a layer's inputs that counts features.
        by_layer: whether :meth:`rows` is implemented, which the layer-wise objective needs.
    """

    name: str
    title: str
    axes: tuple[int, ...] = (0, 1)
    input_axis: int = -1
    by_layer: bool = True

    @abstractmethod
    def matches(self, module: nn.Module) -> bool:
        """Whether a module is of this kind.

        Compare exact types: a subclass may compute something else (quantised weights, adapters), for which the
        gradients of this kind would be wrong.
        """

    @abstractmethod
    def products(
        self, module: nn.Module, inputs: torch.Tensor, output_grad: torch.Tensor, index: IndexArray
    ) -> Products:
        """Gradients of chosen weights for each sample.

        Args:
            module: the layer's module.
            inputs: inputs of one call [N, ...].
            output_grad: gradient of its outputs [N, ...].
            index: flat indices of the weights [n].
        """

    def matrix(self, tensor: torch.Tensor) -> torch.Tensor:
        """A view [out, in] of a tensor shaped like the weight."""
        return tensor.permute(self.axes)

    def along_inputs(self, tensor: torch.Tensor) -> torch.Tensor:
        """A view of a tensor shaped like the weight, with input features as its last axis."""
        return tensor.permute(self.axes)

    def rows(self, module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs as rows x [..., in], such that the layer computes x @ matrix(weight).T, apart from its bias."""
        return inputs

    def by_input(self, weight: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Values of the input features [features], shaped to multiply the weight."""
        return values[None, :] if self.axes == (0, 1) else values[:, None]


class MatrixKind(LayerKind):
    """A layer whose weight is a matrix, applied to the last axis of its inputs."""

    def products(
        self, module: nn.Module, inputs: torch.Tensor, output_grad: torch.Tensor, index: IndexArray
    ) -> Products:
        """For inputs X [N, ..., in] and output gradients D [N, ..., out]."""
        places = np.divmod(index, cast(torch.Tensor, module.weight).shape[1])
        row, column = places[self.axes[0]], places[self.axes[1]]
        count = len(inputs)
        X, D = inputs.reshape(count, -1, inputs.shape[-1]), output_grad.reshape(count, -1, output_grad.shape[-1])
        if X.shape[1] == 1:
            return Products(D[:, 0], X[:, 0], row, column)
        return Products(D.mT, X.mT, row, column, np.zeros(len(row), np.int64))


class Linear(MatrixKind):
    """torch.nn.Linear, weight [out, in]."""

    name = "linear"
    title = "Linear"

    def matches(self, module: nn.Module) -> bool:
        return type(module) is nn.Linear


class TransformersConv1D(MatrixKind):
    """Conv1D of transformers, which is a linear layer with weight [in, out]."""

    name = "conv1d"
    title = "Hugging Face's Conv1D"
    axes = (1, 0)

    def matches(self, module: nn.Module) -> bool:
        return type(module).__name__ == "Conv1D" and type(module).__module__.startswith("transformers.")


class Conv2d(LayerKind):
    """torch.nn.Conv2d, weight [out, in / groups, y, x]."""

    name = "conv2d"
    title = "Conv2d"
    axes = (0, 2, 3, 1)
    input_axis = 1
    by_layer = False

    def matches(self, module: nn.Module) -> bool:
        return type(module) is nn.Conv2d

    def matrix(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.flatten(1)

    def rows(self, module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        raise UnsupportedLayerError("the layer-wise objective is not implemented for Conv2d layers")

    def by_input(self, weight: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        outputs, within = weight.shape[:2]
        groups = len(values) // within
        return values.reshape(groups, within).repeat_interleave(outputs // groups, 0)[:, :, None, None]

    def products(
        self, module: nn.Module, inputs: torch.Tensor, output_grad: torch.Tensor, index: IndexArray
    ) -> Products:
        """Sums over output pixels t of D[s, o, t] X[s, c, t * stride + offset(kernel position)].

        D and X are both stored as rows of the padded image's width, so that the sum over pixels is one dot product of
        contiguous numbers: D has zeros where the kernel extends beyond the end of a row, and with a stride X is split
        into its stride x stride phases.
        """
        assert isinstance(module, nn.Conv2d)
        stride_y, stride_x = module.stride
        dilation_y, dilation_x = module.dilation
        kernel_y, kernel_x = module.kernel_size
        padded = _padded(module, inputs)
        count, channels = padded.shape[:2]
        height, width = output_grad.shape[2:]
        # Sizes of a phase that hold every pixel an output row may use.
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
        # The last dot products may extend beyond the plane by less than a row, where D is zero: D ends earlier.
        length = (height - 1) * wide + width
        return Products(D[:, :, :length], X, out, column, shift)


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


_kinds: dict[str, LayerKind] = {kind.name: kind for kind in (Linear(), Conv2d(), TransformersConv1D())}


def register_kind(kind: LayerKind) -> None:
    """Add a kind of layer, so that its layers are found and pruned in every model.

    Raises:
        PruningError: it is not a :class:`LayerKind`, or another kind has its name.
    """
    if not isinstance(kind, LayerKind):
        raise PruningError(f"{kind!r:.100} is not a hybrid_icbs.models.kinds.LayerKind")
    if _kinds.get(kind.name, kind) is not kind:
        raise PruningError(f"a layer kind named {kind.name!r} is registered already; choose another name")
    _kinds[kind.name] = kind


def unregister_kind(name: str) -> None:
    """Remove a kind that was registered."""
    _kinds.pop(name, None)


def kind_of(module: nn.Module) -> LayerKind | None:
    """The kind of a module; None where it cannot be pruned."""
    found = next((kind for kind in _kinds.values() if kind.matches(module)), None)
    if found is None and _load_entry_points():
        found = next((kind for kind in _kinds.values() if kind.matches(module)), None)
    return found


def titles() -> str:
    """All kinds, as a list in words."""
    *first, last = (kind.title for kind in _kinds.values())
    return f"{', '.join(first)} and {last}"


def _load_entry_points() -> bool:
    """Register the kinds of installed distributions; whether there are any."""
    points = importlib.metadata.entry_points(group=ENTRY_POINTS)
    for point in points:
        try:
            register_kind(point.load())
        except Exception as error:  # raised by a third party's package
            logger.warning("layer kind %r (%s) was not loaded: %s", point.name, point.value, error)
    return bool(points)
