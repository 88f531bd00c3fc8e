"""Values of weights while they are pruned, and tensors in a temporary file, for models that are large for memory."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from hybrid_icbs.errors import PruningError
from hybrid_icbs.models.layers import Layer

IN_MEMORY = 64 * 2**20
"""Bytes up to which a copy of all weights in scope is kept in memory."""

_ALIGNMENT = 64


def mapped_tensors(
    shapes: Sequence[Sequence[int]], dtypes: Sequence[torch.dtype], folder: str | Path | None = None
) -> list[torch.Tensor]:
    """Tensors of zeros in a memory-mapped temporary file.

    The file has no name; it is deleted with the last of its tensors, or with the process.

    Args:
        shapes: shape of each tensor.
        dtypes: type of each tensor.
        folder: folder of the file; None for the system's folder of temporary files (TMPDIR).

    Raises:
        PruningError: the disk has too little free space.
    """
    sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in zip(shapes, dtypes, strict=True)]
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + -(-size // _ALIGNMENT) * _ALIGNMENT)
    total = max(starts[-1], _ALIGNMENT)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            _reserve(file.fileno(), total)
            memory = mmap.mmap(file.fileno(), total)
    except OSError as error:
        where = folder or tempfile.gettempdir()
        raise PruningError(
            f"{total / 2**20:.0f} MiB beside the model's weights do not fit into {where}: {error.strerror}. Make room "
            "there, or set TMPDIR to a folder on a larger disk"
        ) from error
    return [
        torch.frombuffer(memory, dtype=dtype, count=math.prod(shape), offset=start).view(tuple(shape))
        if size
        else torch.zeros(tuple(shape), dtype=dtype)
        for shape, dtype, size, start in zip(shapes, dtypes, sizes, starts, strict=False)
    ]


@torch.no_grad()
def restore_values(layers: Sequence[Layer], folder: str | Path | None = None) -> list[torch.Tensor]:
    """Copies of the layers' weights as they are now, by number: the values that pruned weights get if they return.

    They are in memory, on their weights' devices, if together they take at most 64 MiB; else in a temporary file.
    """
    weights = [layer.weight.detach() for layer in layers]
    if sum(weight.nbytes for weight in weights) <= IN_MEMORY:
        return [weight.clone() for weight in weights]
    values = mapped_tensors([weight.shape for weight in weights], [weight.dtype for weight in weights], folder)
    for value, weight in zip(values, weights, strict=True):
        value.copy_(weight)
    return values


def _reserve(file: int, size: int) -> None:
    """Allocate a file's space on the disk: a write into a hole on a full disk would kill the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
        return
    zeros = bytes(2**20)
    for start in range(0, size, len(zeros)):
        os.write(file, zeros[: size - start])
