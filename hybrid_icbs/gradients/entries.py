"""Per-sample gradients of chosen weights of one layer, as sums of products of inputs and output gradients."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch

from hybrid_icbs.models.kinds import Products

PARALLEL_PRODUCTS = 1 << 22
"""Products from which samples are split between threads; measured on layers of 40 to 512 outputs."""


def add_products(products: Products, gradients: npt.NDArray[np.float32]) -> None:
    """Add sums of products to the gradients of n weights for N samples.

    Args:
        products: the sums.
        gradients: float32 [n, N], changed in place.
    """
    D, X, row, column, shift = products.D, products.X, products.row, products.column, products.shift
    if D.device.type != "cpu":
        gradients += products_by_torch(products).cpu().numpy()
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

    threads = torch.get_num_threads() if D.shape[-1] * len(row) * len(D) > PARALLEL_PRODUCTS else 1
    parts = [slice(a, b) for a, b in _split(len(D), threads)]
    if len(parts) == 1:
        work(parts[0])
    else:
        with ThreadPoolExecutor(len(parts)) as pool:
            list(pool.map(work, parts))
    gradients[order] += out


def products_by_torch(products: Products) -> torch.Tensor:
    """The sums in torch operations, sample by sample, for devices without compiled kernels [n, N]."""
    D, X = products.D.float(), products.X.float()
    r, c = (torch.from_numpy(i).to(D.device) for i in (products.row, products.column))
    if products.shift is None:
        return (D[:, r] * X[:, c]).T
    steps = torch.arange(D.shape[2], device=D.device) + torch.from_numpy(products.shift).to(D.device)[:, None]
    return torch.stack([(d[r] * x[c].gather(1, steps)).sum(1) for d, x in zip(D, X, strict=True)], 1)


def _split(count: int, parts: int) -> list[tuple[int, int]]:
    bounds = np.linspace(0, count, max(1, min(parts, count)) + 1).astype(int)
    return list(itertools.pairwise(bounds.tolist()))
