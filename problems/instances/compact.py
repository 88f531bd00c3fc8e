"""Storage of the benchmark set in integers and powers of two, so that every machine reads the same problem.

The factor of a block is rounded to A[i, s] = factor[i, s] * 2^exponent[i], with factor in int8; the block problem is
defined by the rounded numbers. All products of the entries of two rows have the same exponent, and their sum is below
2^24, so A A^T is exact in float32 with any matrix library. NAME.npz holds, uncompressed,

    factor     int8 [n, r]         exponent   int16 [n]
    linear     float32 [n]         steps      differences of the weights' numbers, the first one from 0 [n]
    pruned     one bit a variable, 1 = the weight is pruned now [ceil(n / 8)]
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from problems.block import BlockProblem
from problems.data import Labels
from problems.errors import FileFormatError, ProblemError
from problems.formats.npz import read_npz, write_npz
from problems.forms import StateArray
from problems.storage import opened

MOST_COLUMNS = (1 << 24) // 127**2
"""Largest number of columns of a factor for which A A^T is exact in float32."""

MANY = 10_000
"""Number of variables above which the linear term is rounded to 12 bits. Of so many coefficients, some lie so close to
the middle of two float32 numbers that the processor's rounding of sums decides between them, and machines would build
different blocks."""

_MEMBERS: dict[str, tuple[tuple[str, ...], int]] = {
    "factor": (("int8",), 2),
    "exponent": (("int16",), 1),
    "linear": (("float32",), 1),
    "steps": (("uint8", "uint16", "uint32"), 1),
    "pruned": (("uint8",), 1),
}


@dataclass(frozen=True, eq=False)
class Compact:
    """The arrays of NAME.npz."""

    factor: npt.NDArray[np.int8]
    exponent: npt.NDArray[np.int16]
    linear: npt.NDArray[np.float32]
    steps: npt.NDArray[Any]
    pruned: npt.NDArray[np.uint8]

    @classmethod
    def of(
        cls,
        A: npt.NDArray[np.float64],
        linear: npt.NDArray[np.float64],
        numbers: npt.NDArray[np.int64],
        pruned: npt.NDArray[np.bool_],
    ) -> Compact:
        """Round a block.

        Args:
            A: factor [n, r].
            linear: linear coefficients [n].
            numbers: the number of each variable's weight, counted through all layers, ascending [n].
            pruned: which weights are pruned now [n].

        Raises:
            ProblemError: more than :data:`MOST_COLUMNS` columns, or numbers that do not ascend.
        """
        if A.shape[1] > MOST_COLUMNS:
            raise ProblemError(f"a factor of {A.shape[1]} columns; at most {MOST_COLUMNS} give exact products")
        steps = np.diff(numbers, prepend=0)
        if np.any(steps[1:] <= 0) or np.any(steps[:1] < 0):
            raise ProblemError("the numbers of a block's weights must ascend")
        # frexp: largest = m 2^e with 1/2 <= m < 1, so a row in units of 2^(e - 7) reaches 64 to 128.
        _, exponent = np.frexp(np.abs(A).max(axis=1, initial=0.0))
        exponent = np.where(A.any(axis=1), exponent - 7, 0)
        scaled = np.clip(np.rint(np.ldexp(A, -exponent[:, None])), -127, 127)
        smallest = np.min_scalar_type(int(steps.max(initial=0)))
        return cls(
            scaled.astype(np.int8),
            exponent.astype(np.int16),
            _few_bits(linear) if len(linear) > MANY else linear.astype(np.float32),
            steps.astype(smallest),
            np.packbits(pruned),
        )

    def write(self, file: BinaryIO) -> None:
        """Write NAME.npz; the same arrays give the same bytes."""
        write_npz(file, {name: getattr(self, name) for name in _MEMBERS})

    @classmethod
    def read(cls, path: Path) -> Compact:
        """Read NAME.npz.

        Raises:
            FileFormatError: it is not such a file, or its arrays differ in length.
        """
        with opened(path) as (file, _):
            compact = cls(**read_npz(file, path, _MEMBERS))
        n = len(compact.factor)
        sizes = {"exponent": n, "linear": n, "steps": n, "pruned": -(-n // 8)}
        for name, size in sizes.items():
            if len(getattr(compact, name)) != size:
                raise FileFormatError(f"{path}: {name}: has {len(getattr(compact, name))} entries, not {size}")
        return compact

    def mask(self) -> StateArray:
        """The state of the network's present masks: ones for the weights that are pruned now [n]."""
        return unpacked(self.pruned, len(self.factor))

    def labels(self, sizes: npt.ArrayLike) -> Labels:
        """Which weight each variable is, given the number of weights of each layer."""
        starts = np.concatenate([[0], np.cumsum(np.asarray(sizes, np.int64))])
        numbers = np.cumsum(self.steps, dtype=np.int64)
        parameter = np.searchsorted(starts, numbers, side="right") - 1
        return Labels(parameter.astype(np.int32), numbers - starts[parameter])

    def problem(self, cardinality: int, **facts: Any) -> BlockProblem:
        """The block problem in low-rank form; `facts` are keywords of :meth:`BlockProblem.low_rank`."""
        A = np.ldexp(self.factor.astype(np.float32), self.exponent[:, None].astype(np.int32))
        return BlockProblem.low_rank(A, self.linear, cardinality, **facts)


def _few_bits(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """The values rounded to 12 significant bits."""
    mantissa, exponent = np.frexp(values)
    return np.asarray(np.ldexp(np.rint(mantissa * 4096.0), exponent - 12), np.float32)


def unpacked(bits: npt.NDArray[np.uint8], n: int) -> StateArray:
    """The state [n] of packed bits [ceil(n / 8)]."""
    return np.unpackbits(bits, count=n).astype(np.int8)
