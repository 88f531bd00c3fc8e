"""Per-sample gradients of chosen entries of one layer: dot products of what came in and what flowed back."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from hybrid_icbs.models.layers import Kind

IndexArray = npt.NDArray[np.int64]

# Entries below which one thread is quicker than sharing the samples out, measured on layers of 40 to 512 outputs.
_PARALLEL_PRODUCTS = 1 << 22


def add_entries(
    module: nn.Module,
    kind: Kind,
    inputs: torch.Tensor,
    output_grad: torch.Tensor,
    index: IndexArray,
    gradients: npt.NDArray[np.float32],
) -> None:
    """Add the gradients of chosen weights by one call of a layer.

    Args:
        module: the layer's module.
        kind: its kind.
        inputs: what came in [N, ...].
        output_grad: the gradient of what went out [N, ...].
        index: flat indices into the weight [n].
        gradients: the sum so far [n, N], changed in place.
    """
    if kind == "conv2d":
        assert isinstance(module, nn.Conv2d)
        _add_conv(module, inputs, output_grad, index, gradients)
        return
    weight = cast(torch.Tensor, module.weight)
    row, column = np.divmod(index, weight.shape[1])
    _add_linear(inputs, output_grad, *((column, row) if kind == "conv1d" else (row, column)), gradients)


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
    from hybrid_icbs.gradients import kernels

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
