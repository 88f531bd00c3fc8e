"""What the forms of a quadratic part have in common: their interface, array types and checks."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from problems.errors import ProblemError

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
Float64Array: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.integer[Any]]
StateArray: TypeAlias = npt.NDArray[np.int8]

ONE_BY_ONE = 32
"""For at most this many states, the compiled kernel is faster than products with all rows."""

FEW_STATES = 8
"""For at most this many states, summing the rows of their ones is faster than a product with all rows."""

_CHUNK_BYTES = 1 << 23  # rows are converted to float64 in pieces of this size, so that no second matrix is made


class QuadraticForm(Protocol):
    """The interface of a quadratic part Q [n, n]."""

    @property
    def n(self) -> int:
        """Number of variables."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the stored coefficients."""

    @property
    def diagonal(self) -> Float64Array:
        """The diagonal of Q that is *not* part of the problem's linear term [n]."""

    def energies(self, states: StateArray) -> Float64Array:
        """x^T Q x of each state [b], for states [b, n]."""

    def prepare_energies(self) -> None:
        """Compile what :meth:`energies` runs, or load it from numba's cache, which a first call would do."""

    def products(self, states: StateArray) -> Float64Array:
        """Q x of each state without the diagonal, half of the quadratic part of the local fields [b, n]."""

    def row(self, i: int) -> Float64Array:
        """Row i of Q, with a zero at i [n]."""

    def couplings(self, rows: IntArray, columns: IntArray) -> Float64Array:
        """Q[rows[t], columns[t]] for each t, zero where the two are the same variable [t]."""

    def dense(self) -> Float64Array:
        """Q as an array with a zero diagonal [n, n]."""

    def restricted(self, indices: IntArray) -> QuadraticForm:
        """The form of the sub-matrix Q[indices, indices]."""

    def total(self, weights: Float64Array) -> float:
        """The sum of weights[i] Q_ij weights[j] over i != j, for weights [n]."""


def energies_by_pairs(matrix: FloatArray, scales: Float64Array, states: StateArray) -> Float64Array:
    """r^T Q r with r = s * x, without the diagonal of Q, of a few states [b], by a compiled kernel.

    Args:
        matrix: Q, symmetric [n, n].
        scales: s [n].
        states: the states x [b, n].
    """
    from problems.energies import matrix_energies  # imports numba

    energies = np.empty(len(states))
    # Read-only views of all, so that the kernel is compiled for one type of array and not for two.
    matrix_energies(*(frozen(np.ascontiguousarray(array)) for array in (matrix, scales, states)), energies)
    return energies


@functools.cache
def compile_energies(dtype: np.dtype[Any]) -> None:
    """Compile :func:`energies_by_pairs` for matrices of a dtype, or load it from numba's cache."""
    energies_by_pairs(np.zeros((1, 1), dtype), np.ones(1), np.zeros((1, 1), np.int8))


def finite_floats(array: npt.NDArray[Any], name: str) -> FloatArray:
    """The array as float32 or float64, not copied if it is one.

    Raises:
        ProblemError: it is not made of finite real numbers; the message calls it `name`.
    """
    if array.dtype.kind not in "fiub":
        raise ProblemError(f"{name} has dtype {array.dtype}; real numbers are needed")
    floats: FloatArray = array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)
    # A finite sum means finite terms, found in one pass without a temporary array. Since a sum of finite terms may
    # overflow, the terms are looked at if it is not finite.
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(floats.sum())
    if suspicious and not np.isfinite(floats).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(floats))[0])
        raise ProblemError(f"{name}{list(where)} is {floats[where]}; every coefficient must be finite")
    return floats


def frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A read-only view."""
    view = array.view()
    view.flags.writeable = False
    return view


def chunks(n: int, width: int) -> Iterator[slice]:
    """Slices of n rows of `width` numbers, of a size that is converted to float64 at once."""
    step = max(1, _CHUNK_BYTES // (8 * max(1, width)))
    for start in range(0, n, step):
        yield slice(start, min(n, start + step))
